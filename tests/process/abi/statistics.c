// What the process says of its heap agrees with what the program knows: mallinfo, mallinfo2,
// malloc_info and malloc_stats count live bytes; malloc_trim gives memory back; a mallopt
// parameter acts or is refused.
#include "../workout.h"

enum { kBlocks = 20000, kBlockSize = 1000 };

static void *blocks[kBlocks];

// The number after `key`, itself after the last `tag`: totals come after the single heaps.
static size_t number_after(const char *text, const char *tag, const char *key) {
    const char *last = NULL;
    for (const char *at = text; (at = strstr(at, tag)) != NULL; ++at) {
        last = at;
    }
    const char *value = last == NULL ? NULL : strstr(last, key);
    return value == NULL ? 0 : strtoull(value + strcspn(value, "0123456789"), NULL, 10);
}

static size_t live_by_malloc_info(void) {
    static char text[1 << 20];
    memset(text, 0, sizeof text);
    FILE *stream = fmemopen(text, sizeof text - 1, "w");
    REQUIRE(stream != NULL);
    CHECK_EQ(malloc_info(0, stream), 0);
    fclose(stream);
    CHECK(strncmp(text, "<malloc version=\"", 17) == 0);
    CHECK(strstr(text, "</malloc>") != NULL);
    size_t used = number_after(text, "<total type=\"used\"", "size=");
    if (used != 0) {
        return used;
    }
    // glibc says what it has of the system and what of that is free; mapped blocks come on top.
    return number_after(text, "<system type=\"current\"", "size=") +
           number_after(text, "<total type=\"mmap\"", "size=") -
           number_after(text, "<total type=\"fast\"", "size=") -
           number_after(text, "<total type=\"rest\"", "size=");
}

static size_t live_by_malloc_stats(void) {
    static char text[1 << 16];
    char path[] = "/tmp/statistics-XXXXXX";
    int file = mkstemp(path);
    int saved = dup(2);
    REQUIRE(file >= 0 && saved >= 0);
    unlink(path);
    dup2(file, 2);
    malloc_stats();
    fflush(stderr);
    dup2(saved, 2);
    ssize_t length = pread(file, text, sizeof text - 1, 0);
    CHECK(length > 0);
    close(file);
    close(saved);
    return number_after(text, "in use", "in use");
}

static size_t live_by_mallinfo2(void) {
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
static size_t live_by_mallinfo(void) {
    struct mallinfo info = mallinfo();
    return (size_t)(unsigned)info.uordblks + (size_t)(unsigned)info.hblkhd;
}
#pragma GCC diagnostic pop

static void agrees(size_t (*live)(void), size_t count, size_t size) {
    size_t before = live();
    for (size_t i = 0; i < count; ++i) {
        blocks[i] = malloc(size);
        REQUIRE(blocks[i] != NULL);
        memset(blocks[i], 1, size);
    }
    size_t with = live();
    for (size_t i = 0; i < count; ++i) {
        free(blocks[i]);
    }
    size_t after = live();
    // Size classes waste an eighth at most; what the statistics call themselves allocate is small.
    CHECK_AT_LEAST(with, before + count * size);
    CHECK_AT_LEAST(before + count * size * 9 / 8 + 200000, with);
    CHECK_AT_LEAST(before + 200000, after);
}

static void counts_agree(void) {
    size_t (*const all[])(void) = {live_by_mallinfo2, live_by_mallinfo, live_by_malloc_info,
                                   live_by_malloc_stats};
    for (size_t k = 0; k < sizeof all / sizeof *all; ++k) {
        all[k](); // its buffers, once
        agrees(all[k], kBlocks, kBlockSize);
        agrees(all[k], 100, 50000);
        agrees(all[k], 10, 5 << 20);
    }
}

static void malloc_info_refuses_what_it_does_not_know(void) { CHECK(malloc_info(1, stderr) != 0); }

static size_t resident(void) { return (size_t)status_kilobytes("VmRSS:") * 1024; }

static void trim_gives_back(void) {
    malloc_trim(0);
    size_t before = resident();
    enum { kCount = 60000 };
    unsigned char **many = malloc(kCount * sizeof *many);
    REQUIRE(many != NULL);
    for (int i = 0; i < kCount; ++i) {
        many[i] = malloc(1000);
        REQUIRE(many[i] != NULL);
        memset(many[i], 1, 1000);
    }
    CHECK(resident() > before + 50000000);
    for (int i = 0; i < kCount; ++i) {
        free(many[i]);
    }
    free(many);
    malloc_trim(0);
    CHECK(resident() < before + (6 << 20));
    workout(5, 1000, SIZE_MAX);
}

static void perturb_acts_or_is_refused(void) {
    int accepted = mallopt(M_PERTURB, 0x55);
    CHECK(accepted == 0 || accepted == 1);
    if (accepted == 1) {
        unsigned char *block = malloc(1000);
        CHECK(on_glibc() || all_bytes_are(block, 1000, 0xaa)); // glibc's tcache forgets
        free(block);
        block = malloc(200000);
        CHECK(all_bytes_are(block, 200000, 0xaa));
        free(block);
        block = calloc(1, 1000);
        CHECK(all_bytes_are(block, 1000, 0));
        free(block);
        CHECK_EQ(mallopt(M_PERTURB, 0), 1);
    }
}

// Early in the process: blocks freed and taken again would justify keeping more.
static void trim_threshold_acts_or_is_refused(void) {
    CHECK(on_glibc() || mallopt(M_TRIM_THRESHOLD, -1) == 0); // a size: none is negative
    CHECK_EQ(mallopt(M_TRIM_THRESHOLD, 0), 1);
    {
        // Nothing is to be kept: what is freed leaves at once.
        size_t before = resident();
        for (int i = 0; i < 400; ++i) {
            blocks[i] = malloc(100000);
            memset(blocks[i], 1, 100000);
        }
        for (int i = 400; i-- > 0;) {
            free(blocks[i]);
        }
        CHECK(resident() < before + (6 << 20));
        CHECK_EQ(mallopt(M_TRIM_THRESHOLD, 8 << 20), 1);
    }
}

static void other_parameters(void) {
    // Meaningless without arenas, bins and an mmap threshold: whoever sets them must be told.
    static const int meaningless[] = {M_MXFAST, M_ARENA_MAX, M_ARENA_TEST, M_MMAP_MAX};
    for (size_t i = 0; i < sizeof meaningless / sizeof *meaningless; ++i) {
        CHECK_EQ(mallopt(meaningless[i], 64), on_glibc() ? 1 : 0);
    }
    // Nor do these act here; glibc answers 1 to everything, also to what does not exist.
    static const int others[] = {M_MMAP_THRESHOLD, M_TOP_PAD, M_CHECK_ACTION, 12345, -12345};
    for (size_t i = 0; i < sizeof others / sizeof *others; ++i) {
        int accepted = mallopt(others[i], 1 << 20);
        CHECK(accepted == 0 || on_glibc());
    }
    workout(6, 1000, SIZE_MAX);
}

int main(void) {
    check_begin();
    trim_threshold_acts_or_is_refused();
    counts_agree();
    malloc_info_refuses_what_it_does_not_know();
    trim_gives_back();
    perturb_acts_or_is_refused();
    other_parameters();
    return check_end();
}
