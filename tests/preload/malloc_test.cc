// The whole face of malloc, against a table of what the program holds. This program's own malloc is
// Pagoda's.
#include "lib/heap.h"
#include "lib/size_class.h"
#include "tests/contents.h"
#include "tests/unit.h"

#include <pagoda/shrinker.h>

#include <errno.h>
#include <malloc.h>
#include <new>
#include <vector>

extern "C" {
void cfree(void *);
void free_sized(void *, size_t);
void free_aligned_sized(void *, size_t, size_t);
void *reallocf(void *, size_t);
}

namespace pagoda::test {
namespace {

struct block {
    void *p;
    size_t size;
    size_t align;
    uint64_t tag;
    bool zeroed;
};

size_t any_size(random_numbers &random) {
    return 1 + random.skewed(random.one_in(2000) ? 21 : random.one_in(50) ? 16 : 10);
}

// Through pointers that the compiler cannot see through: it may leave out calls whose result it
// knows, and warns of blocks that another family gives back.
struct family {
    void *(*volatile alloc)(size_t) = malloc;
    void *(*volatile zeroed)(size_t, size_t) = calloc;
    void *(*volatile aligned)(size_t, size_t) = memalign;
    void *(*volatile c17)(size_t, size_t) = aligned_alloc;
    int (*volatile posix)(void **, size_t, size_t) = posix_memalign;
    void *(*volatile page)(size_t) = valloc;
    void *(*volatile pages)(size_t) = pvalloc;
    void *(*volatile resize)(void *, size_t) = realloc;
    void *(*volatile resize_array)(void *, size_t, size_t) = reallocarray;
    void *(*volatile resize_or_free)(void *, size_t) = reallocf;
    void *(*volatile create)(size_t) = operator new;
    void *(*volatile create_aligned)(size_t, std::align_val_t) = operator new;
    void (*volatile give)(void *) = free;
    void (*volatile give_old)(void *) = cfree;
    void (*volatile give_sized)(void *, size_t) = free_sized;
    void (*volatile give_aligned)(void *, size_t, size_t) = free_aligned_sized;
    void (*volatile destroy)(void *) = operator delete;
};
const family f;

block take(random_numbers &random) {
    block b = {nullptr, any_size(random), 16, 0, false};
    size_t power = size_t{8} << random.below(10);
    switch (random.below(16)) {
    case 0:
    case 1:
    case 2:
        b.zeroed = true;
        if (random.one_in(2)) {
            b.p = f.zeroed(1, b.size);
        } else {
            size_t each = 1 + random.below(40);
            b.size = align_up(b.size, 8) / each * each + each;
            b.p = f.zeroed(b.size / each, each);
        }
        return b;
    case 3:
        b.align = power;
        b.p = f.aligned(power, b.size);
        return b;
    case 4:
        b.align = power;
        b.p = f.c17(power, b.size);
        return b;
    case 5:
        b.align = power;
        if (f.posix(&b.p, power, b.size) != 0)
            b.p = nullptr;
        return b;
    case 6:
        b.align = kPageSize;
        b.p = random.one_in(2) ? f.page(b.size) : f.pages(b.size);
        return b;
    case 7:
        b.p = random.one_in(2) ? f.resize(nullptr, b.size) : f.resize_array(nullptr, b.size, 1);
        return b;
    case 8:
        b.align = power;
        b.p = f.create_aligned(b.size, static_cast<std::align_val_t>(power));
        return b;
    case 9:
        b.p = f.create(b.size);
        return b;
    default:
        b.p = f.alloc(b.size);
        return b;
    }
}

void give(random_numbers &random, const block &b) {
    switch (random.below(12)) {
    case 0:
        f.give_old(b.p);
        return;
    case 1:
        f.give_sized(b.p, b.size);
        return;
    case 2:
        f.give_aligned(b.p, b.align, b.size);
        return;
    case 3:
        f.destroy(b.p);
        return;
    case 4:
        ASSERT_EQ(f.resize(b.p, 0), nullptr);
        return;
    default:
        f.give(b.p);
    }
}

void *resize(random_numbers &random, void *p, size_t size) {
    switch (random.below(8)) {
    case 0:
        return f.resize_array(p, 1, size);
    case 1:
        return f.resize_or_free(p, size);
    default:
        return f.resize(p, size);
    }
}

TEST(malloc_face, behaves_like_a_table_of_blocks) {
    random_numbers random(4);
    std::vector<block> table(2048);
    uint64_t before = heap_get_stats().live_objects;
    auto mark = [&](block &b) {
        b.tag = random.next();
        fill(b.p, b.size, b.tag);
    };
    for (uint64_t op = operations(); op-- > 0;) {
        block &b = table[random.below(table.size())];
        if (b.p == nullptr) {
            b = take(random);
            ASSERT_NE(b.p, nullptr);
            ASSERT_EQ(reinterpret_cast<uintptr_t>(b.p) % max_of(b.align, size_t{16}), 0u);
            ASSERT_GE(malloc_usable_size(b.p), b.size);
            ASSERT_TRUE(!b.zeroed || all_zero(b.p, b.size));
            if (random.one_in(8)) // all that it says may be used
                b.size = malloc_usable_size(b.p);
            mark(b);
            continue;
        }
        ASSERT_TRUE(intact(b.p, b.size, b.tag));
        if (random.one_in(4)) {
            size_t size = any_size(random);
            b.p = resize(random, b.p, size);
            ASSERT_NE(b.p, nullptr);
            ASSERT_TRUE(intact(b.p, min_of(size, b.size), b.tag));
            b.size = size;
            b.align = 16;
            mark(b);
        } else {
            give(random, b);
            b.p = nullptr;
        }
    }
    for (block &b : table)
        if (b.p != nullptr) {
            ASSERT_TRUE(intact(b.p, b.size, b.tag));
            f.give(b.p);
        }
    EXPECT_EQ(heap_get_stats().live_objects, before);
}

// malloc would fail: what a shrinker can free is freed first, and nobody says anything.
TEST(malloc_and_shrinkers, malloc_realloc_and_memalign_call_them) {
    child_end end = in_child([] {
        static void *kept[256];
        static unsigned held = 0;
        struct shrinker *s = shrinker_alloc(0, "malloc_test");
        ASSERT_NE(s, nullptr);
        s->count_objects = [](struct shrinker *, struct shrink_control *) {
            return static_cast<unsigned long>(held);
        };
        s->scan_objects = [](struct shrinker *, struct shrink_control *sc) {
            unsigned long n = 0;
            for (; n < sc->nr_to_scan && held > 0; n++)
                free(kept[--held]);
            return n;
        };
        char *p = static_cast<char *>(f.alloc(1000));
        limit(RLIMIT_AS, process_figure("VmSize") + (size_t{32} << 20));
        while (held < 256 && (kept[held] = f.alloc(300000)) != nullptr)
            held++;
        ASSERT_LT(held, 256u);
        s->batch = 4;
        shrinker_register(s);
        for (int round = 0; round < 3; round++) {
            unsigned before = held;
            void *q = round == 0   ? f.alloc(size_t{2} << 20)
                      : round == 1 ? f.resize(p, size_t{4} << 20)
                                   : f.aligned(size_t{1} << 16, size_t{2} << 20);
            EXPECT_NE(q, nullptr) << round;
            EXPECT_LT(held, before) << round;
        }
        errno = 0;
        EXPECT_EQ(f.alloc(size_t{1} << 30), nullptr);
        EXPECT_EQ(errno, ENOMEM);
        EXPECT_EQ(held, 0u) << "it failed before everything was tried";
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.errors, "");
}

} // namespace
} // namespace pagoda::test
