// Every address space there is, and what the allocator asks of all of them together: the provider
// table of hugepage/provider.h.
#pragma once

#include "dma/space.h"

#include <pthread.h>

namespace pagoda::dma {

// What is mapped of which granule, in all spaces, and the list of spaces. Held by locked_noio.
// Nothing is allocated or freed under it: that may have memory given back, which comes here.
extern pthread_mutex_t g_granules_lock;
extern pthread_cond_t g_granule_changed; // one is no longer being mapped

// Adds a space, and maps there what the device zones have already. The first one registers this
// library with the allocator. 0; what mapping says; -EBUSY: another library is registered.
int spaces_add(space *s);
void spaces_remove(space *s);
// Whether a space other than `s` has the granule. The caller has the lock.
bool spaces_have_granule(const space *s, const void *at);

// The provider's functions.
int spaces_provide(void *at, size_t bytes, unsigned bits, uint64_t *address);
bool spaces_withdraw(void *at, size_t bytes);
bool spaces_release(void *at, size_t bytes);
const char *spaces_reason();

} // namespace pagoda::dma
