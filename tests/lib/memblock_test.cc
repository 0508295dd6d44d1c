#include "tests/unit.h"

#include "hugepage/options.h"
#include "hugepage/page.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/memblock.h"

#include <errno.h>
#include <vector>

namespace pagoda::test {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// The stage opens and closes once in a process, so each test has one of its own.
#define TEST_IN_CHILD(name)                                                                        \
    void name();                                                                                   \
    TEST(memblock, name) { EXPECT_TRUE(succeeded(in_child(name))); }                               \
    void name()

phys_addr_t start() { return memblock_start_of_DRAM(); }

TEST_IN_CHILD(is_empty_until_memory_is_set_aside) {
    EXPECT_EQ(memblock_phys_mem_size(), 0u);
    EXPECT_EQ(memblock_start_of_DRAM(), 0u);
    EXPECT_EQ(memblock_end_of_DRAM(), 0u);
    EXPECT_EQ(memblock_alloc(16, 16), nullptr);
    EXPECT_EQ(pagoda_boot_reserve(0), -EINVAL);
    EXPECT_EQ(memblock_add(4096, 4096), -EINVAL) << "not set aside";
    EXPECT_EQ(pagoda_boot_reserve(1), 0);
    EXPECT_EQ(memblock_phys_mem_size(), kPageblockSize);
    EXPECT_EQ(memblock_end_of_DRAM() - start(), kPageblockSize);
    EXPECT_EQ(start() % kPageblockSize, 0u);
    size_t left = 1;
    EXPECT_EQ(pagoda_boot_unmanaged(&left), nullptr);
    EXPECT_EQ(left, 0u);
    EXPECT_EQ(memblock_remove(start() + kPageSize, kPageSize), 0);
    EXPECT_EQ(memblock_phys_mem_size(), kPageblockSize - kPageSize);
    EXPECT_EQ(memblock_add(start() + kPageSize, kPageSize), 0) << "what was removed";
}

TEST_IN_CHILD(that_cannot_be_had_is_refused) {
    ASSERT_TRUE(heap_init());
    EXPECT_EQ(pagoda_boot_reserve(~size_t{0}), -ENOMEM);
    sys::inject_failures(0, 1 << 30);
    EXPECT_EQ(pagoda_boot_reserve(256 * kMiB), -ENOMEM);
    sys::inject_failures(0, 0);
    EXPECT_EQ(memblock_phys_mem_size(), 0u);
}

// Rows 65 and 82: one piece, in no figure of the heap, and no allocation ever falls into it.
TEST_IN_CHILD(what_was_set_aside_is_nobody_elses) {
    heap_free(heap_alloc(100, GFP_KERNEL), GFP_KERNEL);
    heap_stats before = heap_get_stats();
    uint64_t live = zone_normal().live_bytes();
    ASSERT_EQ(pagoda_boot_reserve(256 * kMiB), 0);
    heap_stats after = heap_get_stats();
    EXPECT_EQ(after.live_bytes, before.live_bytes);
    EXPECT_LT(after.committed, before.committed + 256 * kMiB);
    EXPECT_LT(after.peak_committed, before.peak_committed + 256 * kMiB);
    EXPECT_EQ(zone_normal().live_bytes(), live);
    EXPECT_EQ(memblock_end_of_DRAM() - start(), 256 * kMiB) << "contiguous";
    char *from = static_cast<char *>(pagoda_memblock_virt(start()));
    EXPECT_EQ(pagoda_memblock_phys(from), start());

    char *piece = static_cast<char *>(memblock_alloc(kMiB, 4096));
    memset(piece, 7, kMiB);
    random_numbers random(1);
    std::vector<char *> got;
    for (uint64_t total = 0; total < 128 * kMiB;) {
        size_t bytes = 1 + random.skewed(20);
        char *p = static_cast<char *>(heap_alloc(bytes, GFP_KERNEL));
        ASSERT_TRUE(p != nullptr && (p + bytes <= from || p >= from + 256 * kMiB));
        total += bytes;
        got.push_back(p);
    }
    heap_trim(0);
    for (char *p : got)
        heap_free(p, GFP_KERNEL);
    heap_trim(0);
    for (size_t i = 0; i < kMiB; i++)
        ASSERT_EQ(piece[i], 7) << "purges leave it alone";
}

TEST_IN_CHILD(allocates_from_the_top) {
    ASSERT_NE(heap_alloc(100, GFP_KERNEL), nullptr);
    ASSERT_EQ(pagoda_boot_reserve(8 * kMiB), 0);
    ASSERT_NE(start(), 0u) << "page 0 would never be handed out";
    uint64_t end = memblock_end_of_DRAM();
    EXPECT_EQ(memblock_phys_alloc(100, 64), end - 128);
    EXPECT_EQ(memblock_phys_alloc(4096, 4096), end - 8192);
    EXPECT_EQ(memblock_phys_alloc(28, 4), end - 28) << "first fit from the top";
    EXPECT_EQ(memblock_phys_alloc(1, 0) % 64, 0u);
    EXPECT_EQ(memblock_phys_alloc(0, 64), 0u);
    EXPECT_EQ(memblock_phys_alloc(8, 24), 0u);
    EXPECT_EQ(memblock_phys_alloc(8 * kMiB, 64), 0u);
    EXPECT_EQ(memblock_phys_alloc(~uint64_t{0}, 64), 0u);
    EXPECT_EQ(memblock_phys_alloc_range(100, 64, start(), start() + 4096), start() + 4096 - 128);
    EXPECT_EQ(memblock_phys_alloc_range(8192, 64, start(), start() + 4096), 0u) << "a condition";
    EXPECT_FALSE(memblock_bottom_up());
    memblock_set_bottom_up(true);
    EXPECT_EQ(memblock_phys_alloc_try_nid(100, 64, 3), start());
    EXPECT_EQ(memblock_phys_alloc(kMiB, kMiB), start() + kMiB);
}

TEST_IN_CHILD(clears_what_it_hands_out_unless_told_not_to) {
    ASSERT_EQ(pagoda_boot_reserve(2 * kMiB), 0);
    char *old = static_cast<char *>(memblock_alloc_raw(4096, 4096));
    memset(old, 9, 4096);
    memblock_free(old, 4096);
    EXPECT_EQ(memblock_alloc_raw(4096, 4096), old);
    EXPECT_EQ(old[100], 9);
    memblock_free(old, 4096);
    EXPECT_EQ(memblock_alloc(4096, 4096), old);
    for (int i = 0; i < 4096; i++)
        ASSERT_EQ(old[i], 0);
    memblock_free(nullptr, 100);
    EXPECT_EQ(memblock_reserved_size(), 4096u);
}

TEST_IN_CHILD(takes_a_lower_bound_as_a_wish_and_a_limit_as_a_limit) {
    ASSERT_EQ(pagoda_boot_reserve(4 * kMiB), 0);
    uint64_t middle = start() + 2 * kMiB;
    auto address = [](void *p) { return p != nullptr ? pagoda_memblock_phys(p) : 0; };
    EXPECT_EQ(address(memblock_alloc_from(4096, 64, middle)), start() + 4 * kMiB - 4096);
    EXPECT_EQ(address(memblock_alloc_from(2 * kMiB, 4096, middle)), start() + 2 * kMiB - 4096)
        << "no room above";
    EXPECT_EQ(address(memblock_alloc_try_nid_raw(64, 64, middle, middle + 64, 0)),
              start() + 2 * kMiB - 4096 - 64)
        << "taken: below, then";
    EXPECT_EQ(memblock_get_current_limit(), MEMBLOCK_ALLOC_ANYWHERE);
    memblock_set_current_limit(start() + kMiB);
    EXPECT_EQ(address(memblock_alloc(64, 64)), start() + kMiB - 64);
    EXPECT_EQ(address(memblock_alloc_node(64, 64, 1)), start() + kMiB - 128);
    EXPECT_EQ(address(memblock_alloc_try_nid(64, 64, 0, start() + 8192, 0)), start() + 8192 - 64);
    EXPECT_EQ(memblock_alloc(2 * kMiB, 64), nullptr);
    EXPECT_NE(memblock_phys_alloc_range(64, 64, 0, MEMBLOCK_ALLOC_ANYWHERE), 0u);
    memblock_set_current_limit(0x1000); // the low bound is the current limit's business too
    EXPECT_EQ(memblock_alloc_low(64, 64), nullptr);
    memblock_set_current_limit(MEMBLOCK_ALLOC_ANYWHERE);
    EXPECT_NE(memblock_alloc_low(64, 64), nullptr) << "the zone starts at 0";
}

TEST_IN_CHILD(answers_questions_about_ranges) {
    ASSERT_EQ(pagoda_boot_reserve(4 * kMiB), 0);
    uint64_t a = start();
    EXPECT_EQ(memblock_remove(a + kMiB, kMiB), 0);
    EXPECT_EQ(memblock_reserve(a + 3 * kMiB, 4096), 0);
    EXPECT_EQ(memblock_mark_nomap(a + 3 * kMiB + 8192, 4096), 0);
    EXPECT_TRUE(memblock_is_memory(a));
    EXPECT_FALSE(memblock_is_memory(a + kMiB));
    EXPECT_TRUE(memblock_is_region_memory(a, kMiB));
    EXPECT_FALSE(memblock_is_region_memory(a, kMiB + 1));
    EXPECT_TRUE(memblock_is_reserved(a + 3 * kMiB));
    EXPECT_FALSE(memblock_is_reserved(a + 3 * kMiB + 4096));
    EXPECT_TRUE(memblock_is_region_reserved(a, 3 * kMiB + 1));
    EXPECT_FALSE(memblock_is_region_reserved(a, 3 * kMiB));
    EXPECT_TRUE(memblock_is_memory(a + 3 * kMiB + 8192));
    EXPECT_FALSE(memblock_is_map_memory(a + 3 * kMiB + 8192));
    EXPECT_EQ(memblock_phys_mem_size(), 3 * kMiB);
    EXPECT_EQ(memblock_reserved_size(), 4096u);
    EXPECT_EQ(pagoda_memblock_bytes(PAGODA_MEMBLOCK_FREE), 3 * kMiB - 8192);
    EXPECT_TRUE(pagoda_memblock_covers(PAGODA_MEMBLOCK_FREE, a, kMiB));
    EXPECT_FALSE(pagoda_memblock_covers(PAGODA_MEMBLOCK_FREE, a, kMiB + 1));
    EXPECT_TRUE(pagoda_memblock_overlaps(PAGODA_MEMBLOCK_FREE, a, 4 * kMiB));
    EXPECT_FALSE(pagoda_memblock_overlaps(PAGODA_MEMBLOCK_FREE, a + kMiB, kMiB));

    struct seen {
        uint64_t from, to;
        bool operator==(const seen &) const = default;
    };
    std::vector<seen> memory, reserved, free;
    uint64_t i = 0;
    phys_addr_t from = 0;
    phys_addr_t to = 0;
    int nid = -5;
    for_each_mem_range(i, &from, &to) memory.push_back({from - a, to - a});
    for_each_reserved_mem_range(i, &from, &to) reserved.push_back({from - a, to - a});
    for_each_free_mem_range(i, NUMA_NO_NODE, MEMBLOCK_NONE, &from, &to, &nid)
        free.push_back({from - a, to - a});
    uint64_t x = 3 * kMiB;
    EXPECT_EQ(memory,
              (std::vector<seen>{
                  {0, kMiB}, {2 * kMiB, x + 8192}, {x + 8192, x + 12288}, {x + 12288, 4 * kMiB}}));
    EXPECT_EQ(reserved, (std::vector<seen>{{x, x + 4096}}));
    EXPECT_EQ(free, (std::vector<seen>{
                        {0, kMiB}, {2 * kMiB, x}, {x + 4096, x + 8192}, {x + 12288, 4 * kMiB}}));
    EXPECT_EQ(nid, 0);
    EXPECT_EQ(memblock_clear_nomap(a, 4 * kMiB), 0);
    memblock_enforce_memory_limit(2 * kMiB);
    EXPECT_EQ(memblock_phys_mem_size(), 2 * kMiB);
    EXPECT_EQ(memblock_end_of_DRAM(), a + x);
}

// Against a map of units, with more ranges than the arrays begin with.
TEST_IN_CHILD(agrees_with_a_model) {
    constexpr uint64_t kUnits = 1024;
    constexpr uint64_t kUnit = 4096;
    ASSERT_NE(heap_alloc(100, GFP_KERNEL), nullptr);
    ASSERT_EQ(pagoda_boot_reserve(kUnits * kUnit), 0);
    uint64_t base = start();
    ASSERT_NE(base, 0u) << "page 0 would never be handed out";
    std::vector<bool> memory(kUnits, true);
    std::vector<bool> reserved(kUnits);
    random_numbers random(77);
    auto usable = [&](uint64_t unit) { return memory[unit] && !reserved[unit]; };
    size_t most = 0;
    for (int i = 0; i < 20000; i++) {
        uint64_t at = random.below(kUnits);
        uint64_t count = 1 + random.below(std::min<uint64_t>(kUnits - at, 4));
        auto set = [&](std::vector<bool> &map, bool value) {
            for (uint64_t n = at; n < at + count; n++)
                map[n] = value;
        };
        switch (random.below(8)) {
        case 0:
            ASSERT_EQ(memblock_remove(base + at * kUnit, count * kUnit), 0);
            set(memory, false);
            break;
        case 1:
        case 2:
            ASSERT_EQ(memblock_add(base + at * kUnit, count * kUnit), 0);
            set(memory, true);
            break;
        case 3:
            ASSERT_EQ(memblock_reserve(base + at * kUnit, count * kUnit), 0);
            set(reserved, true);
            break;
        case 4:
        case 5:
            ASSERT_EQ(memblock_phys_free(base + at * kUnit, count * kUnit), 0);
            set(reserved, false);
            break;
        default: {
            bool up = random.one_in(2);
            memblock_set_bottom_up(up);
            uint64_t align = uint64_t{1} << random.below(3); // units; the base is aligned to more
            uint64_t expected = 0;
            for (uint64_t n = 0; n + count <= kUnits; n += align) {
                bool fits = true;
                for (uint64_t k = n; fits && k < n + count; k++)
                    fits = usable(k);
                if (fits && (!up || expected == 0))
                    expected = base + n * kUnit;
            }
            uint64_t got = memblock_phys_alloc(count * kUnit, align * kUnit);
            ASSERT_EQ(got, expected) << "operation " << i;
            at = (got - base) / kUnit;
            if (got != 0)
                set(reserved, true);
        }
        }
        uint64_t free = 0;
        size_t runs = 0;
        for (uint64_t n = 0; n < kUnits; n++) {
            free += usable(n);
            runs += reserved[n] && (n == 0 || !reserved[n - 1]);
        }
        most = std::max(most, runs);
        ASSERT_EQ(pagoda_memblock_bytes(PAGODA_MEMBLOCK_FREE), free * kUnit);
    }
    EXPECT_GT(most, 128u) << "an array doubled";
}

// Row 70: what the page allocator gets is what was set aside without what is in use.
TEST_IN_CHILD(free_all_hands_the_remainder_over) {
    ASSERT_EQ(pagoda_boot_reserve(64 * kMiB), 0);
    uint64_t base = start();
    char *kept = static_cast<char *>(memblock_alloc(10000, 64));
    memset(kept, 5, 10000);
    ASSERT_EQ(memblock_reserve(base + kMiB, kMiB), 0);
    char *old = static_cast<char *>(memblock_alloc(4096, 4096));
    memset(old, 6, 4096);
    memblock_free(old, 4096);
    zone_stats before = zone_normal().stats();
    EXPECT_EQ(before.set_aside, 64 * kMiB / kPageSize);
    size_t given = pagoda_memblock_free_all();
    zone_stats after = zone_normal().stats();
    EXPECT_EQ(given, 64 * kMiB - 3 * kPageSize - kMiB) << "10000 bytes touch three pages";
    EXPECT_EQ(after.free - before.free, given / kPageSize);
    EXPECT_EQ(after.set_aside, before.set_aside - given / kPageSize);
    EXPECT_EQ(after.present, before.present);
    EXPECT_TRUE(zone_normal().consistent());
    EXPECT_EQ(pagoda_memblock_free_all(), 0u) << "once";

    // The heap has it now: all of it, and nothing else of the area.
    std::vector<bool> seen(64 * kMiB / kPageSize);
    size_t inside = 0;
    for (page_state state; inside < given / kPageSize;) {
        ASSERT_GT(zone_normal().stats().free, zone_normal().stats().reserved) << "before it grows";
        uint32_t page = zone_normal().alloc(1, 0, GFP_KERNEL, &state);
        ASSERT_NE(page, kNoPage);
        uint64_t address = uint64_t{page} << kPageShift;
        if (address < base || address >= base + 64 * kMiB)
            continue;
        inside++;
        ASSERT_FALSE(seen[(address - base) / kPageSize]);
        seen[(address - base) / kPageSize] = true;
        ASSERT_TRUE(address < base + kMiB || address >= base + 2 * kMiB) << "reserved";
        const char *bytes = static_cast<char *>(page_address(page));
        for (size_t i = 0; state.zeroed && i < kPageSize; i += 64)
            ASSERT_EQ(bytes[i], 0);
    }
    for (size_t i = 0; i < 10000; i++)
        ASSERT_EQ(kept[i], 5);
}

// Row 83: the stage is over.
TEST(memblock, closed_refuses_everything_with_a_message) {
    child_end end = in_child([] {
        ASSERT_EQ(pagoda_boot_reserve(4 * kMiB), 0);
        uint64_t base = start();
        memblock_free_all();
        EXPECT_EQ(memblock_alloc(100, 64), nullptr);
        EXPECT_EQ(memblock_phys_alloc(100, 64), 0u);
        EXPECT_EQ(pagoda_boot_reserve(4 * kMiB), -EBUSY);
        EXPECT_EQ(memblock_add(base, kPageSize), -EBUSY);
        EXPECT_EQ(memblock_remove(base, kPageSize), -EBUSY);
        EXPECT_EQ(memblock_reserve(base, kPageSize), -EBUSY);
        EXPECT_EQ(memblock_phys_free(base, kPageSize), -EBUSY);
        EXPECT_EQ(memblock_mark_nomap(base, kPageSize), -EBUSY);
        memblock_enforce_memory_limit(0);
        EXPECT_TRUE(memblock_is_region_memory(base, 4 * kMiB));
        EXPECT_FALSE(memblock_is_region_reserved(base, 4 * kMiB));
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("memblock_alloc of 100 bytes after memblock_free_all")) << end.errors;
    EXPECT_TRUE(end.said("memblock_phys_alloc of 100 bytes after memblock_free_all"));
    EXPECT_EQ(end.lines(), 2u) << end.errors;
}

TEST_IN_CHILD(reserved_pages_can_be_freed_late) {
    ASSERT_EQ(pagoda_boot_reserve(4 * kMiB), 0);
    uint64_t base = start();
    ASSERT_EQ(memblock_reserve(base, kMiB), 0);
    EXPECT_EQ(pagoda_memblock_free_late(base, 4096), -EINVAL) << "too early";
    memblock_free_all();
    uint64_t free = zone_normal().stats().free;
    memblock_free_late(base, kMiB);
    EXPECT_EQ(zone_normal().stats().free, free + kMiB / kPageSize);
    EXPECT_EQ(pagoda_memblock_free_late(base, 4096), -EINVAL) << "twice";
    EXPECT_EQ(pagoda_memblock_free_late(base + 2 * kMiB, 4096), -EINVAL) << "never reserved";
    EXPECT_TRUE(zone_normal().consistent());
}

void ask_for_too_much() {
    ASSERT_EQ(pagoda_boot_reserve(2 * kMiB), 0);
    EXPECT_NE(memblock_alloc_or_panic(4096, 64), nullptr);
    static_cast<void>(memblock_alloc_or_panic(2 * kMiB, 64));
}

TEST(memblock, or_panic_names_its_caller) {
    child_end end = in_child(ask_for_too_much);
    EXPECT_EQ(end.signal(), SIGABRT);
    EXPECT_TRUE(end.said("ask_for_too_much: there are no 2097152 bytes for the boot stage"))
        << end.errors;
}

// Row 85: of a pool of 128 MiB, mem=126M leaves 2 MiB untouched.
TEST_IN_CHILD(mem_leaves_the_rest_to_the_program) {
    ASSERT_EQ(parse_options("boot=128M,mem=126M"), 0);
    ASSERT_TRUE(heap_init());
    boot_start();
    EXPECT_EQ(memblock_phys_mem_size(), 126 * kMiB);
    size_t left = 0;
    char *mine = static_cast<char *>(pagoda_boot_unmanaged(&left));
    ASSERT_EQ(left, 2 * kMiB);
    EXPECT_EQ(pagoda_memblock_phys(mine), start() + 126 * kMiB);
    memset(mine, 3, left);
    while (memblock_alloc_raw(kMiB, kMiB) != nullptr) {
    }
    EXPECT_EQ(memblock_phys_free(start(), 126 * kMiB), 0);
    EXPECT_EQ(pagoda_memblock_free_all(), 126 * kMiB);
    page_state state;
    for (int block = 0; block < 63; block++)
        EXPECT_NE(zone_normal().alloc(kPageblockPages, 9, GFP_KERNEL, &state), kNoPage);
    heap_trim(0);
    for (size_t i = 0; i < left; i++)
        ASSERT_EQ(mine[i], 3);
    EXPECT_EQ(zone_normal().stats().set_aside, 2 * kMiB / kPageSize);
}

// Row 88, by address: nobody ever gets what is excluded.
TEST_IN_CHILD(memexclude_makes_a_hole) {
    ASSERT_EQ(parse_options("boot=16M,memexclude=14M-15M"), 0);
    ASSERT_TRUE(heap_init());
    boot_start();
    uint64_t base = start();
    EXPECT_EQ(memblock_phys_mem_size(), 15 * kMiB);
    EXPECT_FALSE(pagoda_memblock_overlaps(PAGODA_MEMBLOCK_MEMORY, base + 14 * kMiB, kMiB));
    for (uint64_t at; (at = memblock_phys_alloc(4096, 4096)) != 0;)
        ASSERT_TRUE(at < base + 14 * kMiB || at >= base + 15 * kMiB);
    EXPECT_EQ(memblock_phys_free(base, 16 * kMiB), 0);
    EXPECT_EQ(pagoda_memblock_free_all(), 15 * kMiB);
    page_state state;
    while (zone_normal().stats().free > zone_normal().stats().reserved) {
        uint32_t page = zone_normal().alloc(1, 0, GFP_KERNEL, &state);
        uint64_t address = uint64_t{page} << kPageShift;
        ASSERT_TRUE(address < base + 14 * kMiB || address >= base + 15 * kMiB);
    }
}

TEST(memblock, options_that_cannot_be_met_are_said) {
    child_end end = in_child([] {
        ASSERT_EQ(parse_options("boot=1T,contig=1T"), 0);
        ASSERT_TRUE(heap_init());
        sys::inject_failures(0, 1 << 30);
        boot_start();
        sys::inject_failures(0, 0);
        EXPECT_EQ(memblock_phys_mem_size(), 0u);
        EXPECT_EQ(pagoda_contig_avail(), 0u);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("boot=1099511627776: there is not so much memory")) << end.errors;
    EXPECT_TRUE(end.said("contig=1099511627776: there is not so much memory")) << end.errors;
}

} // namespace
} // namespace pagoda::test
