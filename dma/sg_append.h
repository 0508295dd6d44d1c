// Tables that grow call by call: see struct sg_append_table of pagoda/scatterlist.h.
#pragma once

#include <pagoda/scatterlist.h>
