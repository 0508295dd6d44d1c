// Fault-tolerant copies, <pagoda/uaccess.h>: the calling process's memory, and other processes'.
#pragma once

#include "hugepage/base.h"

#include <pagoda/uaccess.h>

namespace pagoda {

// Which way a checked copy goes.
enum class copy_direction : uint8_t { from_user, to_user };

// Bytes copied between `mine`, which is valid, and `user`, which may be anything.
size_t copy_checked(void *mine, uintptr_t user, size_t n, copy_direction direction);

} // namespace pagoda
