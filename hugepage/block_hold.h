// The zone's part in holding memory for devices: pagoda_block_hold() of hugepage/provider.h. A held
// pageblock is populated and stays so. Where its memory is wanted back, only wholly free ones are
// asked for, after all others, and without locks: the library above may have to wait for its own.
// The functions are zone's; what a hold is to a pageblock says buddy::pin().
#pragma once

#include "hugepage/base.h"

namespace pagoda {

// Touches memory for writing: all of it holds some then. False: it cannot be had.
bool populate_memory(uintptr_t at, size_t bytes);

} // namespace pagoda
