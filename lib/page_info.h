// What pages there are, for programs: counts by zone, and where pages lie in the machine. The
// functions are those of pagoda/mm.h.
#pragma once

#include <pagoda/mm.h>
