// Giving memory back to the kernel: pages leave the buddy ("isolated"), the calls are made without
// the zone's lock, and then the pages come back. A free that found too much kept does not wait for
// the lock to say how that ended: it leaves a note in the pageblock for the lock's next holder.
#pragma once

#include "hugepage/base.h"

namespace pagoda {

enum class purge_end : uint8_t {
    none,   // under way, or the pageblock is not isolated
    clean,  // its pages are free and read as zero
    kept,   // its pages are free and hold what they held: the kernel refused
    absent, // it is unmapped
};

} // namespace pagoda
