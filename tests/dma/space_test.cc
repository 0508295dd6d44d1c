#include "dma/space.h"

#include "dma/software.h"
#include "tests/dma/devices.h"
#include "tests/dma/heap_memory.h"

#include <pagoda/vmalloc.h>

#include <errno.h>
#include <vector>

namespace pagoda::test {
namespace {

using dma::kDeviceReads;
using dma::kDeviceWrites;
constexpr int kBoth = kDeviceReads | kDeviceWrites;

TEST(space, heap_memory_is_mapped_by_granules_and_then_arithmetic) {
    device_ptr d = software();
    dma::space &s = space_of(d);
    constexpr size_t kBuffers = 10'000;
    auto *area = static_cast<char *>(vmalloc(kBuffers * 4096));
    ASSERT_NE(area, nullptr);
    uint64_t first = 0;
    uint64_t address = 0;
    EXPECT_FALSE(s.find(area, 4096, UINT64_MAX, &address));
    for (size_t i = 0; i < kBuffers; i++) {
        ASSERT_EQ(s.reach(area + i * 4096, 4096, UINT64_MAX), 0);
        ASSERT_TRUE(s.find(area + i * 4096, 4096, UINT64_MAX, &address));
        first = i == 0 ? address : first;
        ASSERT_EQ(address, first + i * 4096) << "in one piece";
        ASSERT_EQ(s.virtual_address(address + 5), area + i * 4096 + 5);
    }
    EXPECT_LE(s.counters().map_calls, 21u);
    EXPECT_GE(s.counters().mapped_bytes, kBuffers * 4096);
    ASSERT_TRUE(s.find(area, kBuffers * 4096, UINT64_MAX, &address)) << "a buffer over them all";
    EXPECT_EQ(address, first);
    memset(area, 'c', kBuffers * 4096);
    std::vector<char> buffer(3 << 20, 'd');
    EXPECT_EQ(pagoda_software_dma_write(d.get(), address + 1000, buffer.data(), buffer.size()), 0);
    EXPECT_EQ(area[999], 'c');
    EXPECT_EQ(memcmp(area + 1000, buffer.data(), buffer.size()), 0);
    EXPECT_EQ(area[1000 + buffer.size()], 'c');
    d.reset();
    vfree(area);
}

TEST(space, only_memory_of_the_heap_within_the_mask_is_reached) {
    device_ptr d = software();
    dma::space &s = space_of(d);
    heap_blocks heap(2);
    foreign_pages other(1);
    uint64_t address = 0;
    EXPECT_EQ(s.reach(other.at, 1, UINT64_MAX), -EFAULT);
    EXPECT_EQ(s.reach(heap.at, 0, UINT64_MAX), -EFAULT);
    EXPECT_EQ(s.reach(heap.at, SIZE_MAX, UINT64_MAX), -EFAULT);
    EXPECT_EQ(s.reach(heap.at, 1, UINT32_MAX), -ERANGE) << "the linear window is above 4 GiB";
    EXPECT_EQ(s.counters().map_calls, 0u);
    ASSERT_EQ(s.reach(heap.at + 100, 3 << 20, UINT64_MAX), 0);
    ASSERT_TRUE(s.find(heap.at + 100, 3 << 20, UINT64_MAX, &address));
    EXPECT_FALSE(s.find(heap.at + 100, 3 << 20, address + (3 << 20) - 2, &address));
    EXPECT_TRUE(s.find(heap.at + 100, 3 << 20, address + (3 << 20) - 1, &address));
    EXPECT_FALSE(s.find(heap.at + 100, 3 << 20, 100, &address));
    EXPECT_FALSE(s.find(other.at, 1, UINT64_MAX, &address));
    EXPECT_EQ(s.virtual_address(0xfee00000), nullptr);
}

// Three granules, and an error at each of their maps in turn.
TEST(space, a_map_that_fails_leaves_nothing_half_done) {
    for (int error : {-ENOMEM, -ENOSPC, -EINVAL})
        for (unsigned at = 0; at < 3; at++) {
            device_ptr d = software();
            dma::space &s = space_of(d);
            heap_blocks heap(3);
            uint64_t address = 0;
            pagoda_software_fail_maps(d.get(), at, 1, error);
            EXPECT_EQ(s.reach(heap.at, heap.bytes(), UINT64_MAX), error);
            EXPECT_FALSE(s.find(heap.at, heap.bytes(), UINT64_MAX, &address));
            EXPECT_FALSE(s.find(heap.block(at), 1, UINT64_MAX, &address));
            EXPECT_EQ(s.counters().mapped_bytes, at * kPageblockSize);
            EXPECT_EQ(s.reach(heap.at, heap.bytes(), UINT64_MAX), 0);
            EXPECT_TRUE(s.find(heap.at, heap.bytes(), UINT64_MAX, &address));

            pagoda_software_fail_maps(d.get(), 0, 2, error);
            foreign_pages other(1);
            EXPECT_EQ(s.map_range(other.at, 1, UINT64_MAX, kBoth, &address), error);
            heap_blocks chunk(1);
            EXPECT_EQ(s.map_chunk(chunk.at, chunk.bytes(), 32, &address), error);
            EXPECT_FALSE(s.find(chunk.at, 1, UINT64_MAX, &address));
            EXPECT_EQ(s.map_chunk(chunk.at, chunk.bytes(), 24, &address), 0);
            uint64_t again = 0;
            EXPECT_EQ(s.map_range(other.at, 1, 0x1fff, kBoth, &again), 0) << "no address is lost";
            s.unmap_chunk(chunk.at, chunk.bytes());
        }
}

TEST(space, ranges_end_as_they_began_or_not_at_all) {
    device_ptr d = software();
    dma::space &s = space_of(d);
    foreign_pages m(4);
    uint64_t address = 0;
    ASSERT_EQ(s.map_range(m.at + 5000, 8000, 0xffffff, kBoth, &address), 0);
    EXPECT_LT(address, 0x1000000u);
    EXPECT_EQ(address & 0xfff, 5000u & 0xfff);
    EXPECT_EQ(s.counters().mapped_bytes, 12288u) << "whole pages around it";
    EXPECT_FALSE(s.is_empty(address + 7999, 1));
    EXPECT_TRUE(s.is_empty(address - 5000 % 4096 + 12288, 1));
    EXPECT_EQ(s.virtual_address(address + 7999), m.at + 12999);
    EXPECT_EQ(s.unmap_range(address, 4000), -EINVAL);
    EXPECT_EQ(s.unmap_range(address, 13000), -EINVAL);
    EXPECT_EQ(s.unmap_range(address + 4096, 4000), -EINVAL);
    EXPECT_EQ(s.unmap_range(address, 0), -EINVAL);
    EXPECT_EQ(s.unmap_at(address, 8000), -EINVAL) << "it is no piece";
    EXPECT_EQ(s.unmap_range(address, 8000), 0);
    EXPECT_EQ(s.unmap_range(address, 8000), -EINVAL);
    EXPECT_TRUE(s.is_empty(address, 8000));
    EXPECT_EQ(s.counters().mapped_bytes, 0u);
    EXPECT_EQ(s.map_range(m.at, 0, UINT64_MAX, kBoth, &address), -EINVAL);
    EXPECT_EQ(s.map_range(m.at, SIZE_MAX, UINT64_MAX, kBoth, &address), -EINVAL);
    EXPECT_EQ(s.map_range(m.at, 1, 0xfff, kBoth, &address), -ENOSPC);
    EXPECT_EQ(s.map_range(m.at, size_t{1} << 40, UINT64_MAX, kBoth, &address), -ENOSPC);
}

TEST(space, what_the_back_end_does_not_unmap_stays) {
    device_ptr d = software();
    dma::space &s = space_of(d);
    foreign_pages m(4);
    heap_blocks heap(2);
    uint64_t address = 0;
    uint64_t other = 0;
    ASSERT_EQ(s.map_range(m.at, m.bytes, UINT64_MAX, kBoth, &address), 0);
    pagoda_software_fail_unmaps(d.get(), 0, 1, -EIO);
    EXPECT_EQ(s.unmap_range(address, m.bytes), -EIO);
    EXPECT_EQ(s.virtual_address(address), m.at);
    EXPECT_EQ(s.counters().mapped_bytes, m.bytes);
    ASSERT_EQ(s.map_range(m.at, m.bytes, UINT64_MAX, kBoth, &other), 0);
    EXPECT_NE(other, address) << "its addresses are not given to another one";
    EXPECT_EQ(s.unmap_range(other, m.bytes), 0);
    EXPECT_EQ(s.unmap_range(address, m.bytes), 0) << "another time";
    EXPECT_EQ(s.counters().mapped_bytes, 0u);

    ASSERT_EQ(s.reach(heap.at, heap.bytes(), UINT64_MAX), 0);
    pagoda_software_fail_unmaps(d.get(), 1, 1, -EIO);
    EXPECT_EQ(s.map_chunk(heap.at, heap.bytes(), 32, &address), -EBUSY);
    EXPECT_EQ(s.counters().mapped_bytes, kPageblockSize);
    EXPECT_EQ(s.map_chunk(heap.at, heap.bytes(), 32, &address), 0);
    EXPECT_EQ(s.counters().mapped_bytes, heap.bytes());
    s.unmap_chunk(heap.at, heap.bytes());
}

TEST(space, chunks_lie_low_aligned_and_stay) {
    device_ptr d = software();
    dma::space &s = space_of(d);
    heap_blocks heap(4);
    uint64_t address = 0;
    EXPECT_EQ(s.map_chunk(heap.at, heap.bytes(), 22, &address), -ENOSPC);
    EXPECT_EQ(s.map_chunk(heap.at + 1, kPageblockSize, 32, &address), -EINVAL);
    EXPECT_EQ(s.map_chunk(heap.at, 0, 32, &address), -EINVAL);
    ASSERT_EQ(s.reach(heap.at, 1, UINT64_MAX), 0) << "mapped before the chunk takes it";
    ASSERT_EQ(s.map_chunk(heap.at, 3 * kPageblockSize, 24, &address), 0);
    EXPECT_EQ(address % (4 * kPageblockSize), 0u);
    EXPECT_LT(address + 3 * kPageblockSize, (1u << 24) + 1);
    EXPECT_EQ(s.counters().mapped_bytes, 3 * kPageblockSize);
    uint64_t found = 0;
    EXPECT_TRUE(s.find(heap.at + 100, 5 << 20, (1u << 24) - 1, &found));
    EXPECT_EQ(found, address + 100);
    EXPECT_EQ(s.virtual_address(address + (3 << 20)), heap.at + (3 << 20));
    EXPECT_EQ(s.reach(heap.at, 1, UINT32_MAX), 0);
    EXPECT_FALSE(s.find(heap.at + (5 << 20), 2 << 20, UINT64_MAX, &found)) << "beyond its end";
    EXPECT_FALSE(dma::spaces_release(heap.at, kPageblockSize));
    EXPECT_TRUE(s.find(heap.at, 1, UINT64_MAX, &found));
    s.unmap_chunk(heap.at, kPageblockSize); // no such chunk
    EXPECT_TRUE(s.find(heap.at, 1, UINT64_MAX, &found));
    s.unmap_chunk(heap.at, 3 * kPageblockSize);
    EXPECT_FALSE(s.find(heap.at, 1, UINT64_MAX, &found));
    EXPECT_EQ(s.virtual_address(address), nullptr);
    EXPECT_EQ(s.counters().mapped_bytes, 0u);
}

TEST(space, without_translation_a_chunk_is_where_its_memory_is) {
    device_ptr d = software({.no_iommu = true, .physical_bits = 34});
    dma::space &s = space_of(d);
    heap_blocks heap(8);
    uint64_t address = 0;
    ASSERT_EQ(s.map_chunk(heap.at, kPageblockSize, 34, &address), 0);
    EXPECT_EQ(address,
              s.back_end().ops->physical(s.back_end(), reinterpret_cast<uintptr_t>(heap.at)));
    uint64_t found = 0;
    EXPECT_TRUE(s.find(heap.at + 5, 100, UINT64_MAX, &found));
    EXPECT_EQ(found, address + 5);
    EXPECT_EQ(s.virtual_address(found), heap.at + 5);
    EXPECT_EQ(s.reach(heap.block(1), 1, UINT64_MAX), -ERANGE);
    EXPECT_EQ(s.map_chunk(heap.block(1), 7 * kPageblockSize, 34, &address), -ERANGE)
        << "its frames do not follow each other";
    EXPECT_EQ(s.map_chunk(heap.block(1), kPageblockSize, 21, &address), -ERANGE);
    EXPECT_EQ(s.reserve_addresses(4096, UINT64_MAX, &address), -ERANGE);
    s.unmap_chunk(heap.at, kPageblockSize);
    EXPECT_FALSE(s.find(heap.at, 1, UINT64_MAX, &found));
}

TEST(space, pieces_are_put_together_at_reserved_addresses) {
    device_ptr d = software();
    dma::space &s = space_of(d);
    foreign_pages m(8);
    uint64_t address = 0;
    ASSERT_EQ(s.reserve_addresses(16384, UINT64_MAX, &address), 0);
    EXPECT_EQ(s.virtual_address(address), nullptr);
    ASSERT_EQ(s.map_at(address, m.at + 20480, 4096, kBoth), 0);
    ASSERT_EQ(s.map_at(address + 4096, m.at, 8192, kDeviceReads), 0);
    EXPECT_EQ(s.map_at(address + 8192, m.at, 4096, kBoth), -EEXIST);
    EXPECT_EQ(s.map_at(address + 12288, m.at + 1, 4096, kBoth), -EINVAL) << "not as far in";
    EXPECT_EQ(s.map_at(address + 12288, m.at, 0, kBoth), -EINVAL);
    memset(m.at, '1', 8192);
    memset(m.at + 20480, '0', 4096);
    char got[12288];
    EXPECT_EQ(pagoda_software_dma_read(d.get(), address, got, sizeof got), 0);
    for (size_t i = 0; i < sizeof got; i++)
        ASSERT_EQ(got[i], i < 4096 ? '0' : '1');
    EXPECT_EQ(s.unmap_at(address, 12288), -EINVAL) << "two pieces";
    EXPECT_EQ(s.unmap_range(address, 4096), -EINVAL);
    EXPECT_EQ(s.unmap_at(address + 4096, 8192), 0);
    EXPECT_EQ(s.unmap_at(address, 4096), 0);
    s.free_addresses(address, 16384);
    EXPECT_EQ(s.reserve_addresses(0, UINT64_MAX, &address), -EINVAL);
    EXPECT_EQ(s.reserve_addresses(UINT64_MAX, UINT64_MAX, &address), -EINVAL);
}

TEST(space, a_narrow_iommu_keeps_room_for_everything) {
    uint64_t first = 0;
    uint64_t last = (64u << 20) - 1;
    device_ptr d = software({.window_first = &first, .window_last = &last, .windows = 1});
    dma::space &s = space_of(d);
    foreign_pages m(1);
    heap_blocks heap(1);
    uint64_t address = 0;
    EXPECT_EQ(s.map_chunk(heap.at, heap.bytes(), 24, &address), 0);
    EXPECT_EQ(s.map_range(m.at, 4096, UINT64_MAX, kBoth, &address), 0);
    EXPECT_LE(address, last);
    s.unmap_chunk(heap.at, heap.bytes());
    int reached = s.reach(heap.at, 1, UINT64_MAX); // where it lies in the zone decides
    EXPECT_TRUE(reached == 0 || reached == -ERANGE);
    EXPECT_EQ(s.find(heap.at, 1, UINT64_MAX, &address), reached == 0);
}

TEST(space, no_window_is_no_space) {
    uint64_t first = 100;
    uint64_t last = 4000;
    software_options o{.window_first = &first, .window_last = &last, .windows = 1};
    EXPECT_EQ(o.make(), nullptr);
    EXPECT_EQ(errno, ENOSPC);
}

// Windows that shrink when a further device is attached.
struct shrinking : dma::iommu {
    explicit shrinking(dma::iommu *inner) : dma::iommu(*inner), rest(inner) {
        ours = *inner->ops;
        ours.map = [](dma::iommu &i, uint64_t iova, uintptr_t at, uint64_t bytes, int access) {
            dma::iommu &r = *static_cast<shrinking &>(i).rest;
            return r.ops->map(r, iova, at, bytes, access);
        };
        ours.unmap = [](dma::iommu &i, uint64_t iova, uint64_t bytes) {
            dma::iommu &r = *static_cast<shrinking &>(i).rest;
            return r.ops->unmap(r, iova, bytes);
        };
        ours.windows = [](dma::iommu &i, dma::iova_window *out, int capacity) {
            auto &self = static_cast<shrinking &>(i);
            for (size_t k = 0; k < self.now.size() && k < static_cast<size_t>(capacity); k++)
                out[k] = self.now[k];
            return static_cast<int>(self.now.size());
        };
        ours.close = [](dma::iommu &i) {
            dma::iommu &r = *static_cast<shrinking &>(i).rest;
            r.ops->close(r);
        };
        ops = &ours;
    }
    dma::iommu *rest;
    dma::iommu_ops ours;
    std::vector<dma::iova_window> now = {{0, (uint64_t{1} << 39) - 1}};
};

TEST(space, windows_that_shrink_are_refused_where_something_is_mapped) {
    uint64_t first = 0;
    uint64_t last = (uint64_t{1} << 39) - 1;
    int error = 0;
    dma::iommu *inner = dma::software_iommu_create(
        {nullptr, 0, false, 0, 0, 0, 0, &first, &last, 1, nullptr}, &error);
    ASSERT_NE(inner, nullptr);
    shrinking i(inner);
    dma::space *s = dma::space::create(&i, &error);
    ASSERT_NE(s, nullptr);
    foreign_pages m(1);
    heap_blocks heap(1);
    uint64_t range = 0;
    ASSERT_EQ(s->map_range(m.at, 4096, 0xffffffff, kBoth, &range), 0);
    ASSERT_EQ(s->reach(heap.at, 1, UINT64_MAX), 0);
    uint64_t linear = 0;
    ASSERT_TRUE(s->find(heap.at, 1, UINT64_MAX, &linear));

    i.now = {{0, range - 1}, {range + 4096, last}};
    EXPECT_EQ(s->refresh_windows(), -EADDRINUSE);
    i.now = {{0, linear - 1}, {linear + 4096, last}};
    EXPECT_EQ(s->refresh_windows(), -EADDRINUSE);
    dma::iova_window seen[4];
    EXPECT_EQ(s->windows(seen, 4), 1) << "as before";
    EXPECT_EQ(s->unmap_range(range, 4096), 0);
    uint64_t unused = align_down(linear, kPageblockSize) + 64 * kPageblockSize;
    i.now = {{0, unused - 1}, {unused + 4096, last}};
    EXPECT_EQ(s->refresh_windows(), 0);
    char *beyond = heap.at + (unused - linear);
    EXPECT_EQ(s->reach(beyond, 1, UINT64_MAX), -ERANGE) << "the hole has come into its granule";
    i.now = {{0, 0xfedfffff}, {0xfef00000, last}};
    EXPECT_EQ(s->refresh_windows(), 0);
    EXPECT_EQ(s->windows(seen, 4), 2);
    for (int n = 0; n < 5000; n++) {
        ASSERT_EQ(s->map_range(m.at, 4096, 0xffffffff, kBoth, &range), 0);
        ASSERT_TRUE(range + 4095 < 0xfee00000 || range >= 0xfef00000);
    }
    dma::space::destroy(s);
}

} // namespace
} // namespace pagoda::test
