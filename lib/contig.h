// The contiguous area: a region of pages over memory that was set aside. See pagoda/memblock.h.
#pragma once

#include "hugepage/base.h"

#include <pagoda/memblock.h>
