// The boot stage: memory set aside in the zone, which memblock divides until it is closed. One
// thread at a time, as in the kernel. See pagoda/memblock.h.
#pragma once

#include "hugepage/base.h"

#include <pagoda/memblock.h>

namespace pagoda {

// Sets aside what the options boot and contig ask for. Once, when the process starts.
void boot_start();

// p lies in memory that was set aside, and is not the heap's again.
bool memblock_has(const void *p);

} // namespace pagoda
