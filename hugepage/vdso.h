// Functions that the kernel maps into every process. libc's wrappers of them may be replaced by a
// program's own (a faked clock, which may allocate under a lock); these may not.
#pragma once

namespace pagoda {

// Address of a function of the vDSO; NULL where there is no vDSO or it has no such function.
void *vdso_symbol(const char *name);

} // namespace pagoda
