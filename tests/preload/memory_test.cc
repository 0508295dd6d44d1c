// Every entry of the family where there is no memory: NULL or an error, errno, and nothing lost.
#include "hugepage/sys.h"
#include "lib/heap.h"
#include "tests/contents.h"
#include "tests/unit.h"

#include <errno.h>
#include <malloc.h>
#include <new>

extern "C" {
void *reallocf(void *, size_t);
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void *__libc_valloc(size_t);
void *__libc_pvalloc(size_t);
}

namespace pagoda::test {
namespace {

struct entry {
    const char *name;
    void *(*call)(size_t size);
};

bool errno_was_touched = false;

// Its error is what it returns; errno is to stay.
void *by_posix_memalign(size_t size) {
    void *p = nullptr;
    errno = 4711;
    int error = posix_memalign(&p, 64, size);
    errno_was_touched = errno_was_touched || errno != 4711;
    errno = error;
    return p;
}

const entry kEntries[] = {
    {"malloc", [](size_t size) { return malloc(size); }},
    {"calloc", [](size_t size) { return calloc(1, size); }},
    {"realloc", [](size_t size) { return realloc(nullptr, size); }},
    {"reallocarray", [](size_t size) { return reallocarray(nullptr, 1, size); }},
    {"reallocf", [](size_t size) { return reallocf(nullptr, size); }},
    {"memalign", [](size_t size) { return memalign(32, size); }},
    {"aligned_alloc", [](size_t size) { return aligned_alloc(4096, size); }},
    {"posix_memalign", by_posix_memalign},
    {"valloc", [](size_t size) { return valloc(size); }},
    {"pvalloc", [](size_t size) { return pvalloc(size); }},
    {"__libc_malloc", [](size_t size) { return __libc_malloc(size); }},
    {"__libc_calloc", [](size_t size) { return __libc_calloc(1, size); }},
    {"__libc_realloc", [](size_t size) { return __libc_realloc(nullptr, size); }},
    {"__libc_memalign", [](size_t size) { return __libc_memalign(64, size); }},
    {"__libc_valloc", [](size_t size) { return __libc_valloc(size); }},
    {"__libc_pvalloc", [](size_t size) { return __libc_pvalloc(size); }},
    {"nothrow new", [](size_t size) { return operator new(size, std::nothrow); }},
    {"nothrow aligned new",
     [](size_t size) { return operator new (size, std::align_val_t{256}, std::nothrow); }},
};
constexpr size_t kSizes[] = {1, 100, 3000, 20000, 50000, 200000, 500000, 3 << 20};
constexpr int kEntryCount = sizeof kEntries / sizeof kEntries[0];
constexpr int kSizeCount = sizeof kSizes / sizeof kSizes[0];

struct hoard {
    hoard *next;
    size_t size;
};

// Until every entry refuses every size.
hoard *take_everything() {
    hoard *all = nullptr;
    for (bool any = true; any;) {
        any = false;
        for (int s = kSizeCount; s-- > 0;)
            for (const entry &e : kEntries)
                while (auto *h = static_cast<hoard *>(e.call(kSizes[s]))) {
                    *h = {all, max_of(kSizes[s], sizeof(hoard))};
                    all = h;
                    fill(h + 1, h->size - sizeof *h, h->size);
                    any = true;
                }
    }
    return all;
}

// gtest itself lives from this malloc, so failures are kept and said when memory is there again.
TEST(out_of_memory, every_entry_says_so_and_serves_again) {
    EXPECT_TRUE(succeeded(in_child([] {
        static void *got[kEntryCount][kSizeCount];
        static int error[kEntryCount][kSizeCount];
        void *volatile kept = malloc(5000); // the compiler thinks it gone after realloc
        fill(kept, 5000, 9);
        heap_stats before = heap_get_stats();

        sys::inject_failures(0, 1 << 30);
        hoard *all = take_everything();
        for (int e = 0; e < kEntryCount; e++)
            for (int s = 0; s < kSizeCount; s++) {
                errno = 0;
                got[e][s] = kEntries[e].call(kSizes[s]);
                error[e][s] = errno;
            }
        errno = 0;
        void *grown = realloc(kept, 1 << 20);
        int grown_error = errno;
        bool stayed = intact(kept, 5000, 9);
        bool contents = true;
        while (all != nullptr) {
            hoard *next = all->next;
            contents = contents && intact(all + 1, all->size - sizeof *all, all->size);
            free(all);
            all = next;
        }
        bool again = true; // of what was just freed
        for (const entry &e : kEntries)
            if (void *p = e.call(3000))
                free(p);
            else
                again = false;
        sys::inject_failures(0, 0);

        EXPECT_FALSE(errno_was_touched);
        EXPECT_EQ(grown, nullptr);
        EXPECT_EQ(grown_error, ENOMEM);
        EXPECT_TRUE(stayed);
        EXPECT_TRUE(contents);
        EXPECT_TRUE(again);
        for (int e = 0; e < kEntryCount; e++)
            for (int s = 0; s < kSizeCount; s++) {
                EXPECT_EQ(got[e][s], nullptr) << kEntries[e].name << " " << kSizes[s];
                EXPECT_EQ(error[e][s], ENOMEM) << kEntries[e].name << " " << kSizes[s];
            }
        EXPECT_EQ(heap_get_stats().live_objects, before.live_objects);
        for (const entry &e : kEntries)
            for (size_t size : kSizes) {
                void *p = e.call(size);
                ASSERT_NE(p, nullptr) << e.name << " " << size;
                fill(p, size, size);
                EXPECT_TRUE(intact(p, size, size));
                free(p);
            }
        free(kept);
    })));
}

TEST(out_of_memory, reallocf_frees_what_it_cannot_resize) {
    EXPECT_TRUE(succeeded(in_child([] {
        void *p = malloc(3 << 20);
        uint64_t before = heap_get_stats().live_objects;
        sys::inject_failures(0, 1 << 30);
        errno = 0;
        void *q = reallocf(p, size_t{1} << 30);
        int error = errno;
        sys::inject_failures(0, 0);
        EXPECT_EQ(q, nullptr);
        EXPECT_EQ(error, ENOMEM);
        EXPECT_EQ(heap_get_stats().live_objects, before - 1);
    })));
}

TEST(out_of_memory, shrinking_needs_none) {
    EXPECT_TRUE(succeeded(in_child([] {
        void *blocks[] = {malloc(3 << 20), malloc(600000), malloc(30000)};
        for (void *p : blocks)
            fill(p, 30000, 5);
        sys::inject_failures(0, 1 << 30);
        hoard *all = take_everything();
        void *shrunk[3];
        for (int i = 0; i < 3; i++)
            shrunk[i] = realloc(blocks[i], 100 - 16 * static_cast<size_t>(i));
        while (all != nullptr) {
            hoard *next = all->next;
            free(all);
            all = next;
        }
        sys::inject_failures(0, 0);
        for (void *p : shrunk) {
            ASSERT_NE(p, nullptr);
            EXPECT_TRUE(intact(p, 64, 5));
            free(p);
        }
    })));
}

} // namespace
} // namespace pagoda::test
