// The kernel's vmalloc names over the areas of lib/vmalloc.h. The functions are those of
// pagoda/vmalloc.h.
#pragma once

#include <pagoda/vmalloc.h>
