// Objects that devices use: pagoda_object_hold() of hugepage/provider.h. While an object is held, a
// free of it is reported and put off until the last release.
//
// malloc's free() knows nothing of it. It reads page_class of the page where the object begins, and
// that says kClassHeld there, whose word in each CPU's slot is empty and full for ever; so the
// frees of all objects that begin on this page take the slow path, which looks at the object's own
// counter. The page's class comes back with the first free that finds no held object on it.
#pragma once

#include "lib/slab.h"

namespace pagoda {

// A counter of holds: how often, whether the object was freed since the first, and by
// kfree_sensitive(), so that it is overwritten when it really goes. It is below zero for a moment
// where two threads undo what one did.
inline constexpr uint16_t kHoldMask = 16383;
inline constexpr uint16_t kOverwrite = 16384;
inline constexpr uint16_t kFreedWhileHeld = 32768;
inline constexpr uint16_t kMaxHolds = 8191;
inline constexpr uint16_t kManyHolds = kMaxHolds / 2; // it never goes up or down so far in a moment
inline bool is_below_zero(uint16_t holds) { return holds > UINT16_MAX - kManyHolds; }
inline bool is_freed(uint16_t holds) { return holds >= kFreedWhileHeld && !is_below_zero(holds); }

// 0; -ENOENT: freed already; -EOVERFLOW.
int hold_raise(std::atomic<uint16_t> &holds);
enum class hold_end : uint8_t {
    none, // there was no hold to end
    one,
    last,           // of what was freed meanwhile; the caller frees it
    last_sensitive, // and overwrites it before that
};
inline bool is_last(hold_end end) { return end >= hold_end::last; }
hold_end hold_lower(std::atomic<uint16_t> &holds);

enum class held_free : uint8_t {
    now,     // nobody holds it
    put_off, // until the last release
    again,   // it was freed already
};
held_free hold_note_free(std::atomic<uint16_t> &holds, bool overwrite = false);

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
