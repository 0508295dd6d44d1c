// What the tests of zones share: a process of its own for each, and pages of its zone.
#pragma once

#include "hugepage/address_space.h"
#include "hugepage/options.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "tests/unit.h"

namespace pagoda::test {

// The zones belong to the process. It starts without THP, which counts on nothing the machine may
// lack.
template <class F> void in_fresh_zone(F body) {
    EXPECT_TRUE(succeeded(in_child([&] {
        mutable_options().thp = thp_policy::never;
        ASSERT_TRUE(address_space_init(kPageSize));
        ASSERT_TRUE(zones_init());
        body(zone_normal());
        sys::inject_failures(0, 0);
        EXPECT_TRUE(zone_normal().consistent());
    })));
}

inline uint32_t get_pages(uint32_t count, gfp_t gfp = GFP_KERNEL, unsigned align = 0) {
    page_state state;
    return zone_normal().alloc(count, align, gfp, &state);
}

inline void fill_pages(uint32_t first, uint32_t count, int with) {
    memset(page_address(first), with, size_t{count} << kPageShift);
}

} // namespace pagoda::test
