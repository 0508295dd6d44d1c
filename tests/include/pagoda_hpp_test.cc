#include <pagoda/pagoda.hpp>

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

namespace {

struct counted {
    explicit counted(int v) : value(v) {
        if (v < 0)
            throw std::invalid_argument("negative");
        ++alive;
    }
    counted(const counted &) = delete;
    counted &operator=(const counted &) = delete;
    virtual ~counted() { --alive; }
    int value;
    static inline int alive = 0;
};

struct prefix {
    virtual ~prefix() = default;
    long words[3] = {};
};
struct both : prefix, counted {
    explicit both(int v) : counted(v) {}
};

struct alignas(256) line {
    char bytes[256];
};

struct point {
    point() = default;
    point(int a, int b) : x(a), y(b) {}
    int x, y;
};

bool aligned(const void *p, std::size_t to) {
    return reinterpret_cast<std::uintptr_t>(p) % to == 0;
}

// More than any machine has. The compiler must not know: it warns.
std::size_t too_much() {
    const volatile std::size_t bytes = std::numeric_limits<std::size_t>::max() / 4;
    return bytes;
}

TEST(MemoryResource, ServesEverySizeAndAlignment) {
    pagoda::memory_resource resource;
    for (std::size_t alignment = 1; alignment <= 64 * 1024; alignment *= 2)
        for (std::size_t size : {0UL, 1UL, 7UL, 24UL, 100UL, 4097UL, 70000UL, 5UL << 20}) {
            void *block = resource.allocate(size, alignment);
            ASSERT_NE(block, nullptr);
            EXPECT_TRUE(aligned(block, alignment)) << size << " " << alignment;
            std::memset(block, 0x5a, size);
            resource.deallocate(block, size, alignment);
        }
}

TEST(MemoryResource, ContainersLiveInIt) {
    pagoda::memory_resource resource;
    std::pmr::map<std::pmr::string, std::pmr::vector<int>> map(&resource);
    for (int i = 0; i < 1000; ++i) {
        auto &list = map[std::pmr::string("a key that is longer than a short string ") +
                         std::pmr::string(std::to_string(i % 100))];
        list.push_back(i);
    }
    ASSERT_EQ(map.size(), 100U);
    for (const auto &[key, list] : map) {
        EXPECT_EQ(list.size(), 10U);
        EXPECT_EQ(list.get_allocator().resource(), &resource);
    }
}

TEST(MemoryResource, OneMayFreeWhatAnotherAllocated) {
    pagoda::memory_resource first;
    pagoda::memory_resource second(GFP_NOWAIT);
    EXPECT_TRUE(first.is_equal(second));
    EXPECT_FALSE(first.is_equal(*std::pmr::new_delete_resource()));
    EXPECT_EQ(second.flags(), GFP_NOWAIT);
    second.deallocate(first.allocate(100), 100);
    // Equal resources let a container move instead of copying.
    std::pmr::vector<int> from({1, 2, 3}, &first);
    const int *data = from.data();
    std::pmr::vector<int> to(&second);
    to = std::move(from);
    EXPECT_EQ(to.data(), data);
}

TEST(MemoryResource, ThrowsWhereMemoryIsShort) {
    pagoda::memory_resource resource(GFP_KERNEL | __GFP_NOWARN);
    EXPECT_THROW(static_cast<void>(resource.allocate(too_much())), std::bad_alloc);
    EXPECT_THROW(static_cast<void>(resource.allocate(4 * too_much() + 3, 64)), std::bad_alloc);
}

TEST(MemoryResource, ZeroesWhereItsFlagsSaySo) {
    pagoda::memory_resource dirty;
    pagoda::memory_resource zeroed(GFP_KERNEL | __GFP_ZERO);
    for (std::size_t size : {16UL, 512UL, 9000UL}) {
        void *block = dirty.allocate(size);
        std::memset(block, 0xff, size);
        dirty.deallocate(block, size);
        auto *bytes = static_cast<unsigned char *>(zeroed.allocate(size));
        EXPECT_EQ(std::accumulate(bytes, bytes + size, 0UL), 0UL);
        zeroed.deallocate(bytes, size);
    }
}

TEST(Allocator, IsWhatContainersAskFor) {
    using chars = pagoda::allocator<char>;
    using traits = std::allocator_traits<chars>;
    static_assert(std::is_empty_v<chars>);
    static_assert(traits::is_always_equal::value);
    static_assert(std::is_same_v<traits::rebind_alloc<int>, pagoda::allocator<int>>);
    static_assert(std::is_nothrow_copy_constructible_v<chars>);
    EXPECT_EQ(chars(), pagoda::allocator<int>());

    std::vector<int, pagoda::allocator<int>> vector;
    std::deque<int, pagoda::allocator<int>> deque;
    std::list<int, pagoda::allocator<int>> list;
    std::set<int, std::less<>, pagoda::allocator<int>> set;
    std::unordered_map<int, int, std::hash<int>, std::equal_to<>,
                       pagoda::allocator<std::pair<const int, int>>>
        map;
    std::basic_string<char, std::char_traits<char>, chars> string;
    for (int i = 0; i < 10000; ++i) {
        vector.push_back(i);
        deque.push_front(i);
        list.push_back(i);
        set.insert(i % 100);
        map[i] = i;
        string += static_cast<char>('a' + i % 26);
    }
    EXPECT_EQ(std::accumulate(vector.begin(), vector.end(), 0), 49995000);
    EXPECT_EQ(std::accumulate(deque.begin(), deque.end(), 0), 49995000);
    EXPECT_EQ(std::accumulate(list.begin(), list.end(), 0), 49995000);
    EXPECT_EQ(set.size(), 100U);
    EXPECT_EQ(map.size(), 10000U);
    EXPECT_EQ(string.substr(25, 3), "zab");
    auto moved = std::move(vector);
    auto shared = std::allocate_shared<counted>(pagoda::allocator<counted>(), 3);
    EXPECT_EQ(shared->value + moved.back(), 10002);
}

TEST(Allocator, AlignsWhatIsAlignedBeyondMalloc) {
    std::vector<line, pagoda::allocator<line>> lines;
    for (int i = 0; i < 100; ++i) {
        lines.emplace_back();
        EXPECT_TRUE(aligned(lines.data(), alignof(line)));
    }
    std::list<line, pagoda::allocator<line>> list(10);
    for (const line &l : list)
        EXPECT_TRUE(aligned(&l, alignof(line)));
}

TEST(Allocator, LargeArraysAreServedToo) {
    pagoda::allocator<std::uint64_t> large;
    const std::size_t n = (24UL << 20) / sizeof(std::uint64_t);
    std::uint64_t *words = large.allocate(n);
    words[0] = words[n - 1] = 1;
    EXPECT_EQ(words[0] + words[n - 1], 2U);
    large.deallocate(words, n);
}

TEST(Allocator, ThrowsWhereMemoryIsShortOrTheSizeOverflows) {
    pagoda::allocator<std::uint64_t, GFP_KERNEL | __GFP_NOWARN> allocator;
    EXPECT_THROW(static_cast<void>(allocator.allocate(too_much() / 8)), std::bad_alloc);
    EXPECT_THROW(static_cast<void>(allocator.allocate(too_much())), std::bad_array_new_length);
}

TEST(KmallocObj, OwnsWhatItMakes) {
    {
        pagoda::unique_ptr<counted> one = pagoda::kmalloc_obj<counted>(GFP_KERNEL, 5);
        ASSERT_NE(one, nullptr);
        EXPECT_EQ(one->value, 5);
        EXPECT_EQ(counted::alive, 1);
        EXPECT_GE(ksize(one.get()), sizeof(counted));
    }
    EXPECT_EQ(counted::alive, 0);
    auto large = pagoda::kmalloc_obj<line>();
    EXPECT_TRUE(aligned(large.get(), alignof(line)));
    auto aggregate = pagoda::kmalloc_obj<point>(GFP_KERNEL, 1, 2);
    EXPECT_EQ(aggregate->x + aggregate->y, 3);
}

TEST(KmallocObj, FreesWhereTheConstructorThrows) {
    EXPECT_THROW(static_cast<void>(pagoda::kmalloc_obj<counted>(GFP_KERNEL, -1)),
                 std::invalid_argument);
    EXPECT_EQ(counted::alive, 0);
}

TEST(KmallocObj, MayBeOwnedThroughASecondBase) {
    {
        pagoda::unique_ptr<counted> base = pagoda::kmalloc_obj<both>(GFP_KERNEL, 6);
        EXPECT_NE(static_cast<void *>(base.get()), dynamic_cast<void *>(base.get()));
    }
    EXPECT_EQ(counted::alive, 0);
}

TEST(KmallocObj, ArraysAreZeroAndMayBeEmpty) {
    auto many = pagoda::kzalloc_objs<point>(1000);
    ASSERT_NE(many, nullptr);
    for (int i = 0; i < 1000; ++i)
        EXPECT_EQ(many[i].x | many[i].y, 0);
    EXPECT_NE(pagoda::kzalloc_objs<point>(0), nullptr);
    EXPECT_EQ(pagoda::kzalloc_objs<point>(too_much(), GFP_KERNEL | __GFP_NOWARN), nullptr);
}

TEST(KfreeDeleter, OwnsWhatCallsReturn) {
    std::unique_ptr<char, pagoda::kfree_deleter> copy(kstrdup("a copy", GFP_KERNEL));
    EXPECT_STREQ(copy.get(), "a copy");
    std::unique_ptr<void, pagoda::kfree_deleter> bytes(kmalloc(100, GFP_KERNEL));
    EXPECT_NE(bytes, nullptr);
}

TEST(Cache, ConstructsAndDestroys) {
    pagoda::cache<counted> cache("counted");
    EXPECT_EQ(kmem_cache_size(cache.native_handle()), sizeof(counted));
    std::vector<counted *> objects;
    for (int i = 0; i < 1000; ++i)
        objects.push_back(cache.construct(i));
    EXPECT_EQ(counted::alive, 1000);
    for (int i = 0; i < 1000; ++i) {
        EXPECT_EQ(objects[static_cast<std::size_t>(i)]->value, i);
        cache.destroy(objects[static_cast<std::size_t>(i)]);
    }
    EXPECT_EQ(counted::alive, 0);
    cache.destroy(nullptr);
}

TEST(Cache, GivesTheMemoryBackWhenAConstructorThrows) {
    pagoda::cache<counted> cache("counted", SLAB_NO_MERGE);
    for (int i = 0; i < 10000; ++i)
        EXPECT_THROW(static_cast<void>(cache.construct(-1)), std::invalid_argument);
    EXPECT_THROW(static_cast<void>(cache.try_construct(GFP_ATOMIC, -1)), std::invalid_argument);
    EXPECT_EQ(counted::alive, 0);
    EXPECT_EQ(kmem_cache_shrink(cache.native_handle()), 0);
}

TEST(Cache, AlignsAndTakesFlags) {
    pagoda::cache<line> lines("line", SLAB_HWCACHE_ALIGN);
    std::set<void *> held;
    for (int i = 0; i < 100; ++i) {
        void *object = lines.alloc(GFP_KERNEL | __GFP_ZERO);
        ASSERT_NE(object, nullptr);
        EXPECT_TRUE(aligned(object, alignof(line)));
        EXPECT_EQ(static_cast<line *>(object)->bytes[255], 0);
        EXPECT_TRUE(held.insert(object).second);
        std::memset(object, 0xff, sizeof(line));
    }
    for (void *object : held)
        lines.free(object);
    line *zeroed = lines.try_construct(GFP_KERNEL);
    ASSERT_NE(zeroed, nullptr);
    lines.destroy(zeroed);
}

TEST(Cache, MovesAndIsNeverCopied) {
    static_assert(!std::is_copy_constructible_v<pagoda::cache<point>>);
    static_assert(std::is_nothrow_move_constructible_v<pagoda::cache<point>>);
    pagoda::cache<point> first("first");
    point *object = first.construct(1, 2);
    pagoda::cache<point> second(std::move(first));
    EXPECT_EQ(first.native_handle(), nullptr); // NOLINT(bugprone-use-after-move): what is shown
    EXPECT_EQ(object->x + object->y, 3);
    second.destroy(object);
    pagoda::cache<point> third("third");
    third = std::move(second);
    third.destroy(third.construct());
    auto &same = third;
    third = std::move(same);
    EXPECT_NE(third.native_handle(), nullptr);
}

TEST(Cache, OwnersEndBeforeIt) {
    pagoda::cache<counted> cache("counted");
    {
        auto one = cache.make(1);
        auto two = cache.make(2);
        two = std::move(one);
        EXPECT_EQ(counted::alive, 1);
        EXPECT_EQ(two->value, 1);
        pagoda::cache<counted> elsewhere(std::move(cache));
        two.reset();
        EXPECT_EQ(counted::alive, 0);
        cache = std::move(elsewhere);
    }
    EXPECT_EQ(counted::alive, 0);
}

TEST(Cache, ANameThatIsRefusedThrows) {
    EXPECT_THROW(pagoda::cache<point>(""), std::bad_alloc);
    EXPECT_THROW(pagoda::cache<point>("two words"), std::bad_alloc);
}

TEST(Cache, OneIsSharedByAllOfItsType) {
    auto &shared = pagoda::cache<point>::shared();
    EXPECT_EQ(&shared, &pagoda::cache<point>::shared());
    EXPECT_NE(static_cast<void *>(&shared), static_cast<void *>(&pagoda::cache<line>::shared()));
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([t] {
            std::array<point *, 64> held{};
            for (int i = 0; i < 50000; ++i) {
                point *&slot = held[static_cast<std::size_t>(i * 7) % held.size()];
                if (slot != nullptr && slot->x != t)
                    std::abort();
                pagoda::cache<point>::shared().destroy(slot);
                slot = pagoda::cache<point>::shared().construct(t, i);
            }
            for (point *object : held)
                pagoda::cache<point>::shared().destroy(object);
        });
    for (std::thread &thread : threads)
        thread.join();
}

} // namespace
