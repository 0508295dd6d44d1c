#include "dma/spaces.h"

#include "dma/software.h"
#include "hugepage/options.h"
#include "hugepage/provider.h"
#include "hugepage/zone.h"
#include "tests/dma/devices.h"
#include "tests/dma/heap_memory.h"

#include <pagoda/slab.h>

#include <errno.h>
#include <map>
#include <thread>
#include <vector>

namespace pagoda::test {
namespace {

constexpr int kBoth = dma::kDeviceReads | dma::kDeviceWrites;

TEST(spaces, what_is_provided_is_reachable_from_every_space) {
    heap_blocks heap(1);
    uint64_t address = 0;
    EXPECT_EQ(dma::spaces_provide(heap.at, heap.bytes(), 32, &address), -ENODEV);
    EXPECT_STREQ(dma::spaces_reason(), "no device is open");
    device_ptr one = software();
    device_ptr two = software();
    foreign_pages m(2048);
    uint64_t range = 0;
    ASSERT_EQ(space_of(two).map_range(m.at, m.bytes, 0xffffff, kBoth, &range), 0);
    ASSERT_EQ(dma::spaces_provide(heap.at, heap.bytes(), 24, &address), 0);
    uint64_t there[3];
    EXPECT_TRUE(space_of(one).find(heap.at, 1, 0xffffff, &there[0]));
    EXPECT_TRUE(space_of(two).find(heap.at, 1, 0xffffff, &there[1]));
    EXPECT_NE(there[0], there[1]) << "other things are mapped in the second";
    EXPECT_EQ(address, std::max(there[0], there[1]));

    device_ptr later = software();
    EXPECT_TRUE(space_of(later).find(heap.at, 1, 0xffffff, &there[2]));
    char byte = 'd';
    EXPECT_EQ(pagoda_software_dma_write(later.get(), there[2], &byte, 1), 0);
    EXPECT_EQ(heap.at[0], 'd');
    two.reset();
    dma::spaces_withdraw(heap.at, heap.bytes());
    EXPECT_FALSE(space_of(one).find(heap.at, 1, UINT64_MAX, &there[0]));
    EXPECT_EQ(pagoda_software_dma_write(later.get(), there[2], &byte, 1), -EFAULT);
    EXPECT_EQ(space_of(one).counters().mapped_bytes, 0u);
}

TEST(spaces, what_one_space_refuses_is_in_none) {
    device_ptr one = software();
    device_ptr two = software();
    heap_blocks heap(1);
    uint64_t address = 0;
    for (device_ptr *refuses : {&one, &two}) {
        pagoda_software_fail_maps(refuses->get(), 0, 1, -ENOMEM);
        EXPECT_EQ(dma::spaces_provide(heap.at, heap.bytes(), 32, &address), -ENOMEM);
        EXPECT_STREQ(dma::spaces_reason(), "the IOMMU refused to map the memory");
        EXPECT_EQ(space_of(one).counters().mapped_bytes, 0u);
        EXPECT_EQ(space_of(two).counters().mapped_bytes, 0u);
    }
    EXPECT_EQ(dma::spaces_provide(heap.at, heap.bytes(), 20, &address), -ENOSPC);
    device_ptr physical = software({.no_iommu = true});
    EXPECT_EQ(dma::spaces_provide(heap.at, heap.bytes(), 24, &address), -ERANGE);
    EXPECT_STREQ(dma::spaces_reason(),
                 "without an IOMMU, the hugetlb pool has no memory at such low physical addresses");
    dma::spaces_withdraw(heap.at, heap.bytes()); // nothing is there
}

// Memory that one space still maps must not be anything else's.
TEST(spaces, what_one_space_does_not_let_go_of_is_said_to_be_reached) {
    child_end end = in_child([] {
        device_ptr one = software();
        device_ptr two = software();
        heap_blocks heap(2);
        uint64_t address = 0;
        ASSERT_EQ(dma::spaces_provide(heap.block(0), kPageblockSize, 32, &address), 0);
        pagoda_software_fail_unmaps(one.get(), 0, 1, -EIO);
        EXPECT_FALSE(dma::spaces_withdraw(heap.block(0), kPageblockSize));
        EXPECT_EQ(space_of(one).counters().mapped_bytes, kPageblockSize);
        EXPECT_EQ(space_of(two).counters().mapped_bytes, 0u);
        pagoda_software_fail_unmaps(two.get(), 0, 1, -EIO); // the newest is the first
        pagoda_software_fail_maps(one.get(), 0, 1, -ENOMEM);
        EXPECT_EQ(dma::spaces_provide(heap.block(1), kPageblockSize, 32, &address), -EBUSY);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 2u) << end.errors;
    EXPECT_TRUE(end.said("stays mapped")) << end.errors;
}

TEST(spaces, a_new_space_has_all_that_is_provided_or_is_not_made) {
    device_ptr one = software();
    heap_blocks heap(2);
    uint64_t address = 0;
    ASSERT_EQ(dma::spaces_provide(heap.block(0), kPageblockSize, 64, &address), 0);
    ASSERT_EQ(dma::spaces_provide(heap.block(1), kPageblockSize, 32, &address), 0);
    software_options o{.entry_limit = 1};
    EXPECT_EQ(o.make(), nullptr);
    EXPECT_EQ(errno, ENOSPC);
    dma::spaces_withdraw(heap.block(1), kPageblockSize);
    device_ptr two = software(o);
    EXPECT_TRUE(space_of(two).find(heap.block(0), 1, UINT64_MAX, &address));
    dma::spaces_withdraw(heap.block(0), kPageblockSize);
}

// The allocator knows one address of what is provided, and compares masks with that.
TEST(spaces, a_new_space_has_it_no_higher_than_the_allocator_knows) {
    uint64_t first = 0;
    uint64_t last = UINT32_MAX;
    device_ptr narrow = software({.window_first = &first, .window_last = &last, .windows = 1});
    heap_blocks heap(1);
    uint64_t address = 0;
    ASSERT_EQ(dma::spaces_provide(heap.at, heap.bytes(), 64, &address), 0);
    uint64_t known = address + heap.bytes() - 1;
    ASSERT_LE(known, last);
    device_ptr wide = software();
    ASSERT_TRUE(space_of(wide).find(heap.at, heap.bytes(), UINT64_MAX, &address));
    EXPECT_EQ(log2_floor(address + heap.bytes() - 1), log2_floor(known));
    dma::spaces_withdraw(heap.at, heap.bytes());
}

// An IOMMU in which a signal handler frees memory while it unmaps.
struct interrupted : dma::iommu {
    explicit interrupted(dma::iommu *inner) : dma::iommu(*inner), rest(inner), ours(*inner->ops) {
        ours.map = [](dma::iommu &i, uint64_t iova, uintptr_t at, uint64_t bytes, int access) {
            dma::iommu &r = *static_cast<interrupted &>(i).rest;
            return r.ops->map(r, iova, at, bytes, access);
        };
        ours.unmap = [](dma::iommu &i, uint64_t iova, uint64_t bytes) {
            auto &self = static_cast<interrupted &>(i);
            self.frees.reset();
            return self.rest->ops->unmap(*self.rest, iova, bytes);
        };
        ours.windows = [](dma::iommu &i, dma::iova_window *out, int capacity) {
            dma::iommu &r = *static_cast<interrupted &>(i).rest;
            return r.ops->windows(r, out, capacity);
        };
        ours.close = [](dma::iommu &i) {
            dma::iommu &r = *static_cast<interrupted &>(i).rest;
            r.ops->close(r);
        };
        ops = &ours;
    }
    dma::iommu *rest;
    dma::iommu_ops ours;
    std::unique_ptr<heap_blocks> frees;
};

TEST(spaces, a_free_in_a_handler_waits_for_no_lock_of_ours) {
    child_end end = in_child(
        [] {
            int error = 0;
            interrupted i(dma::software_iommu_create({}, &error));
            dma::space *s = dma::space::create(&i, &error);
            ASSERT_NE(s, nullptr);
            ASSERT_EQ(dma::spaces_add(s), 0);
            heap_blocks heap(1);
            i.frees = std::make_unique<heap_blocks>(4);
            ASSERT_EQ(s->reach(heap.at, heap.bytes(), UINT64_MAX), 0);
            ASSERT_EQ(s->reach(i.frees->at, i.frees->bytes(), UINT64_MAX), 0);
            mutable_options().dirty_bytes = 1 << 20;
            EXPECT_TRUE(dma::spaces_release(heap.at, heap.bytes()));
            EXPECT_EQ(i.frees, nullptr);
            EXPECT_EQ(s->counters().mapped_bytes, 4 * kPageblockSize) << "nobody was asked for it";
            __free_page(alloc_page(GFP_KERNEL));
            { heap_blocks next(1); } // the next free that may block
            EXPECT_LT(s->counters().mapped_bytes, 4 * kPageblockSize);
        },
        20);
    EXPECT_TRUE(succeeded(end));
}

TEST(spaces, a_release_unmaps_in_all_spaces) {
    device_ptr one = software();
    device_ptr two = software();
    heap_blocks heap(2);
    uint64_t address = 0;
    ASSERT_EQ(space_of(one).reach(heap.at, heap.bytes(), UINT64_MAX), 0);
    ASSERT_EQ(space_of(two).reach(heap.block(1), 1, UINT64_MAX), 0);
    EXPECT_TRUE(dma::spaces_release(heap.block(1), kPageblockSize));
    EXPECT_FALSE(space_of(one).find(heap.block(1), 1, UINT64_MAX, &address));
    EXPECT_FALSE(space_of(two).find(heap.block(1), 1, UINT64_MAX, &address));
    EXPECT_TRUE(space_of(one).find(heap.block(0), 1, UINT64_MAX, &address));
    char byte = 0;
    EXPECT_EQ(pagoda_software_dma_read(one.get(), address + kPageblockSize, &byte, 1), -EFAULT);
    EXPECT_TRUE(dma::spaces_release(heap.at, heap.bytes()));
    EXPECT_EQ(space_of(one).counters().mapped_bytes, 0u);
}

TEST(spaces, in_a_child_of_fork_nothing_is_held_or_provided) {
    device_ptr d = software();
    heap_blocks heap(2);
    uint64_t address = 0;
    ASSERT_EQ(space_of(d).reach(heap.at, 1, UINT64_MAX), 0);
    EXPECT_TRUE(succeeded(in_child([&] {
        EXPECT_TRUE(dma::spaces_release(heap.at, kPageblockSize));
        EXPECT_EQ(dma::spaces_provide(heap.block(1), kPageblockSize, 32, &address), -ENODEV);
        EXPECT_STREQ(dma::spaces_reason(), "devices do not survive a fork in the child");
        EXPECT_EQ(space_of(d).reach(heap.at, 1, UINT64_MAX), -ENODEV);
        EXPECT_FALSE(space_of(d).find(heap.at, 1, UINT64_MAX, &address));
        device_ptr own = software();
        EXPECT_EQ(space_of(own).reach(heap.at, 1, UINT64_MAX), 0);
    })));
    EXPECT_TRUE(space_of(d).find(heap.at, 1, UINT64_MAX, &address));
    EXPECT_TRUE(dma::spaces_release(heap.at, kPageblockSize));
}

TEST(spaces, what_the_allocator_gives_back_is_reachable_no_more) {
    device_ptr d = software();
    dma::space &s = space_of(d);
    constexpr size_t kBlocks = 4;
    uint64_t address = 0;
    {
        heap_blocks heap(kBlocks);
        memset(heap.at, 'h', heap.bytes());
        ASSERT_EQ(s.reach(heap.at, heap.bytes(), UINT64_MAX), 0);
        ASSERT_TRUE(s.find(heap.at, heap.bytes(), UINT64_MAX, &address));
        zone_normal().purge(0);
        EXPECT_EQ(s.counters().mapped_bytes, heap.bytes()) << "it is in use";
    }
    EXPECT_EQ(s.counters().mapped_bytes, kBlocks * kPageblockSize) << "until it is wanted back";
    zone_normal().purge(0);
    EXPECT_EQ(s.counters().mapped_bytes, 0u);
    char byte = 'd';
    for (size_t i = 0; i < kBlocks; i++)
        EXPECT_EQ(pagoda_software_dma_write(d.get(), address + i * kPageblockSize, &byte, 1),
                  -EFAULT);
}

// A map that failed leaves no hold behind: the memory is given back without anybody being asked.
TEST(spaces, a_hold_ends_where_the_map_failed_unless_another_space_has_it) {
    device_ptr one = software();
    device_ptr two = software();
    heap_blocks heap(1);
    auto held = [&] {
        return zone_normal().is_held(static_cast<uint32_t>(page_to_pfn(heap.first)), 1);
    };
    pagoda_software_fail_maps(one.get(), 0, 1, -ENOMEM);
    EXPECT_EQ(space_of(one).reach(heap.at, 1, UINT64_MAX), -ENOMEM);
    EXPECT_FALSE(held());
    ASSERT_EQ(space_of(two).reach(heap.at, 1, UINT64_MAX), 0);
    pagoda_software_fail_maps(one.get(), 0, 1, -ENOMEM);
    EXPECT_EQ(space_of(one).reach(heap.at, 1, UINT64_MAX), -ENOMEM);
    EXPECT_TRUE(held());
}

// Threads map what they allocate, have the device write it, and free it, while everything that is
// free is given back again and again: no write is lost, and none reaches what is another's by now.
TEST(spaces, memory_comes_and_goes_under_the_device) {
    device_ptr d = software();
    dma::space &s = space_of(d);
    std::vector<std::thread> threads;
    std::atomic<uint64_t> wrong{0};
    std::atomic<int> running{3};
    for (uint64_t t = 0; t < 3; t++)
        threads.emplace_back([&, t] {
            random_numbers random(t + 1);
            std::vector<char> pattern(100'000, static_cast<char>('a' + t));
            for (int i = 0; i < 400; i++) {
                size_t bytes = 1 + random.skewed(21);
                auto *p = static_cast<char *>(kvmalloc(bytes, GFP_KERNEL));
                if (p == nullptr)
                    continue;
                size_t written = min_of(bytes, pattern.size());
                size_t from = random.below(bytes - written + 1);
                uint64_t address = 0;
                memset(p, '.', bytes);
                wrong += pagoda_object_hold(p, bytes) != 0;
                wrong += s.reach(p, bytes, UINT64_MAX) != 0;
                wrong += !s.find(p, bytes, UINT64_MAX, &address);
                wrong += pagoda_software_dma_write(d.get(), address + from, pattern.data(),
                                                   written) != 0;
                for (size_t at = 0; at < bytes; at++)
                    wrong += p[at] != (at - from < written ? pattern[0] : '.');
                pagoda_object_release(p);
                kvfree(p);
            }
            running--;
        });
    while (running > 0)
        zone_normal().purge(0);
    for (std::thread &t : threads)
        t.join();
    EXPECT_EQ(wrong, 0u);
    EXPECT_EQ(faults(d), 0u);
}

// Everything a space does, at random, beside a model that knows what is mapped where.
class random_space {
  public:
    explicit random_space(uint64_t seed) : random_(seed) { memset(heap_.at, 'h', heap_.bytes()); }
    ~random_space() {
        for (size_t i = 0; i < kChunks; i++)
            if (chunk_at_[i] != 0)
                dma::spaces_withdraw(chunks_.block(i), kPageblockSize);
        EXPECT_TRUE(dma::spaces_release(heap_.at, heap_.bytes()));
    }
    random_space(const random_space &) = delete;
    random_space &operator=(const random_space &) = delete;

    void step() {
        switch (random_.below(8)) {
        case 0:
            map_range();
            break;
        case 1:
            unmap_range();
            break;
        case 2:
            reach();
            break;
        case 3:
            release();
            break;
        case 4:
            change_chunk();
            break;
        case 5:
            look_up();
            break;
        default:
            find();
            break;
        }
    }
    uint64_t mapped() const {
        uint64_t sum = 0;
        for (auto &[first, r] : ranges_)
            sum += r.last - first + 1;
        for (size_t i = 0; i < kBlocks; i++)
            sum += granule_[i] ? kPageblockSize : 0;
        for (uint64_t at : chunk_at_)
            sum += at != 0 ? kPageblockSize : 0;
        return sum;
    }
    dma::space &space() { return space_of(device_); }

  private:
    static constexpr size_t kBlocks = 8, kChunks = 4, kForeign = 64, kMostRanges = 200;
    struct range {
        uint64_t last; // whole pages
        uint64_t address;
        size_t bytes;
        char *memory;
    };

    void map_range() {
        if (ranges_.size() == kMostRanges)
            return;
        size_t from = random_.below(foreign_.bytes);
        size_t bytes = 1 + random_.below(foreign_.bytes - from);
        uint64_t mask = (uint64_t{1} << (20 + random_.below(45))) - 1;
        uint64_t address = 0;
        int error = space().map_range(foreign_.at + from, bytes, mask, kBoth, &address);
        if (error != 0) {
            ASSERT_EQ(error, -ENOSPC);
            ASSERT_LT(mask, uint64_t{1} << 26) << "there is room above";
            return;
        }
        uint64_t first = align_down(address, kPageSize);
        uint64_t last = align_up(address + bytes, kPageSize) - 1;
        ASSERT_LE(address + bytes - 1, mask);
        ASSERT_TRUE(last < 0xfee00000 || first >= 0xfef00000);
        auto after = ranges_.upper_bound(last);
        ASSERT_TRUE(after == ranges_.begin() || std::prev(after)->second.last < first);
        for (uint64_t chunk : chunk_at_)
            ASSERT_TRUE(chunk == 0 || last < chunk || first >= chunk + kPageblockSize);
        ranges_[first] = {last, address, bytes, foreign_.at + from};
    }
    void unmap_range() {
        if (ranges_.empty())
            return;
        auto r = ranges_.lower_bound(random_.next() % (ranges_.rbegin()->first + 1));
        uint64_t pages = (r->second.last + 1 - r->first) >> kPageShift;
        ASSERT_EQ(space().unmap_range(r->second.address, r->second.bytes + (pages << kPageShift)),
                  -EINVAL);
        ASSERT_EQ(space().unmap_range(r->second.address, r->second.bytes), 0);
        ranges_.erase(r);
    }
    bool all(size_t from, size_t bytes) const {
        for (size_t i = from >> kPageblockShift; i <= (from + bytes - 1) >> kPageblockShift; i++)
            if (!granule_[i])
                return false;
        return true;
    }
    void reach() {
        size_t from = random_.below(heap_.bytes());
        size_t bytes = 1 + random_.below(min_of<size_t>(heap_.bytes() - from, 5 << 20));
        if (random_.one_in(4)) {
            pagoda_software_fail_maps(device_.get(), 0, 1, -ENOMEM);
            int error = space().reach(heap_.at + from, bytes, UINT64_MAX);
            pagoda_software_fail_maps(device_.get(), 0, 0, 0);
            ASSERT_EQ(error, all(from, bytes) ? 0 : -ENOMEM);
            return;
        }
        ASSERT_EQ(space().reach(heap_.at + from, bytes, UINT64_MAX), 0);
        for (size_t i = from >> kPageblockShift; i <= (from + bytes - 1) >> kPageblockShift; i++)
            granule_[i] = true;
    }
    void release() {
        size_t i = random_.below(kBlocks);
        ASSERT_TRUE(dma::spaces_release(heap_.block(i), kPageblockSize));
        granule_[i] = false;
    }
    void find() {
        size_t from = random_.below(heap_.bytes());
        size_t bytes = 1 + random_.below(min_of<size_t>(heap_.bytes() - from, 3 << 20));
        uint64_t address = 0;
        bool found = space().find(heap_.at + from, bytes, UINT64_MAX, &address);
        ASSERT_EQ(found, all(from, bytes));
        if (!found)
            return;
        ASSERT_TRUE(base_ == 0 || address - from == base_) << "linear, and always the same";
        base_ = address - from;
        ASSERT_EQ(space().virtual_address(address + bytes - 1), heap_.at + from + bytes - 1);
        char byte = 0;
        ASSERT_EQ(pagoda_software_dma_read(device_.get(), address + bytes - 1, &byte, 1), 0);
        ASSERT_EQ(byte, 'h');
    }
    void change_chunk() {
        size_t i = random_.below(kChunks);
        if (chunk_at_[i] != 0) {
            dma::spaces_withdraw(chunks_.block(i), kPageblockSize);
            chunk_at_[i] = 0;
            return;
        }
        unsigned bits = 24 + static_cast<unsigned>(random_.below(10));
        uint64_t address = 0;
        int error = dma::spaces_provide(chunks_.block(i), kPageblockSize, bits, &address);
        if (error != 0) {
            ASSERT_EQ(error, -ENOSPC);
            ASSERT_LT(bits, 30u);
            return;
        }
        ASSERT_LE(address + kPageblockSize, uint64_t{1} << bits);
        chunk_at_[i] = address;
    }
    void look_up() {
        size_t i = random_.below(kChunks);
        size_t inside = random_.below(kPageblockSize);
        uint64_t address = 0;
        ASSERT_EQ(space().find(chunks_.block(i) + inside, 1, UINT64_MAX, &address),
                  chunk_at_[i] != 0);
        ASSERT_TRUE(chunk_at_[i] == 0 || address == chunk_at_[i] + inside);
        if (ranges_.empty())
            return;
        uint64_t wanted = random_.below(ranges_.rbegin()->first + 4096);
        auto r = ranges_.upper_bound(wanted);
        r = r == ranges_.begin() ? r : std::prev(r);
        if (random_.one_in(2))
            wanted = r->second.address + random_.below(r->second.bytes);
        if (wanted >= r->first && wanted <= r->second.last) {
            ASSERT_EQ(space().virtual_address(wanted),
                      r->second.memory + static_cast<int64_t>(wanted - r->second.address));
        }
    }

    random_numbers random_;
    device_ptr device_ = software();
    heap_blocks heap_{kBlocks};
    heap_blocks chunks_{kChunks};
    foreign_pages foreign_{kForeign};
    std::map<uint64_t, range> ranges_;
    bool granule_[kBlocks] = {};
    uint64_t chunk_at_[kChunks] = {};
    uint64_t base_ = 0;
};

TEST(spaces, random_operations_agree_with_a_model) {
    random_space s(1);
    for (uint64_t i = kDebug ? operations() / 10 : operations(); i > 0; i--) {
        s.step();
        if (::testing::Test::HasFatalFailure())
            return;
        if (i % 1000 == 0) {
            ASSERT_EQ(s.space().counters().mapped_bytes, s.mapped());
        }
    }
}

// Four threads map, unmap and find; the granules are taken back meanwhile. A device that translates
// an address between find() and the release of its granule is what the allocator's holds on objects
// prevent; here each thread has a block that nobody takes back.
TEST(spaces, threads_do_not_disturb_each_other) {
    device_ptr d = software();
    dma::space &s = space_of(d);
    constexpr size_t kThreads = 4;
    heap_blocks heap(kThreads + 2);
    foreign_pages m(kThreads * 16);
    std::vector<std::thread> threads;
    std::atomic<uint64_t> wrong{0};
    for (size_t t = 0; t < kThreads; t++)
        threads.emplace_back([&, t] {
            random_numbers random(t + 1);
            char byte = static_cast<char>('a' + t);
            for (int i = 0; i < 20'000; i++) {
                uint64_t address = 0;
                char *own = heap.block(t) + random.below(kPageblockSize);
                wrong += s.reach(own, 1, UINT64_MAX) != 0 ||
                         !s.find(own, 1, UINT64_MAX, &address) ||
                         pagoda_software_dma_write(d.get(), address, &byte, 1) != 0 || *own != byte;
                char *shared = heap.block(kThreads) + random.below(2 * kPageblockSize);
                // Taken back before reach() has looked: -EFAULT.
                int error = s.reach(shared, 1, UINT64_MAX);
                wrong += error != 0 && error != -EFAULT;
                if (random.one_in(16))
                    dma::spaces_release(heap.block(kThreads + random.below(2)), kPageblockSize);
                char *foreign = m.at + t * 16 * kPageSize + random.below(15 * kPageSize);
                wrong += s.map_range(foreign, 5000, UINT64_MAX, kBoth, &address) != 0 ||
                         s.virtual_address(address + 100) != foreign + 100 ||
                         pagoda_software_dma_write(d.get(), address, &byte, 1) != 0 ||
                         *foreign != byte || s.unmap_range(address, 5000) != 0;
            }
        });
    for (std::thread &t : threads)
        t.join();
    EXPECT_EQ(wrong, 0u);
    EXPECT_TRUE(dma::spaces_release(heap.at, heap.bytes()));
    EXPECT_EQ(s.counters().mapped_bytes, 0u);
}

} // namespace
} // namespace pagoda::test
