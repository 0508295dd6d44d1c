// Copies to and from device memory; the accessors themselves are in <pagoda/io.h>.
#pragma once

#include <pagoda/io.h>
