// This library's own text and data, which a first call would fault in page by page.
#pragma once

#include "hugepage/base.h"

namespace pagoda {

// Maps all of it, by the program headers of whatever object this is linked into. A segment above 16
// MiB is left alone: in a static program it is the program's. Takes the dynamic linker's lock.
// Returns bytes.
size_t populate_own_image();

} // namespace pagoda
