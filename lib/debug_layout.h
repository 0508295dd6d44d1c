// What SLAB_RED_ZONE, SLAB_POISON and SLAB_STORE_USER put around and into the objects of a cache.
// Such caches have no sheaves: every object passes here on its way out and back.
//
//   | left red zone | object | right red zone (8 bytes and more) | last allocation | last free |
#pragma once

#include "lib/kmem_cache.h"

namespace pagoda {

inline constexpr slab_flags_t kDebugFlags = SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER;

// Sets t.lead and returns the bytes of a slot, to be rounded up to the alignment.
uint32_t debug_layout(cache_traits &t);

// A slot of a fresh slab becomes a free object's.
void debug_init_object(const kmem_cache &c, char *slot);
// On its way out: checks that nobody wrote into it while it was free.
void debug_note_alloc(const kmem_cache &c, char *slot, const void *caller);
// On its way back: checks the red zones, marks it free and remembers who freed it.
void debug_note_free(const kmem_cache &c, char *slot, const void *caller);
// Who allocated and freed it last; nothing without SLAB_STORE_USER.
void debug_show_users(text &t, const kmem_cache &c, const char *slot);

} // namespace pagoda
