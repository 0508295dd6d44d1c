// Objects that devices use: pagoda_object_hold() of hugepage/provider.h. While an object is held, a
// free of it is reported and put off until the last release.
//
// malloc's free() knows nothing of it. It reads page_class of the page where the object begins, and
// that says kClassHeld there, whose word in each CPU's slot is empty and full for ever; so the
// frees of all objects that begin on this page take the slow path, which looks at the object's own
// counter. The page's class comes back with the first free that finds no held object on it.
#pragma once

#include "lib/hold_count.h"
#include "lib/slab.h"

namespace pagoda {

// Before an object of a slab or a run is freed. True: it must not be now, and that was reported.
bool hold_puts_off(const void *p, bool overwrite = false);
inline bool hold_puts_off_free(const void *p) {
    return PAGODA_UNLIKELY(marked_class(p) == kClassHeld) && hold_puts_off(p);
}
// Before any object is overwritten and freed: what a device uses is so at its last release.
bool hold_puts_off_sensitive(const void *p);

// Before a slab without objects in use goes.
void hold_forget_slab(slab *s);

// The devices are the parent's. What was freed while it was held there is lost in the child.
void holds_after_fork_in_child();

} // namespace pagoda
