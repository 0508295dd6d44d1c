// realloc keeps what was there, from every regime to every other; calloc gives zeros, whatever
// lay there before.
#include "../workout.h"

static const size_t kSizes[] = {1,       16,     24,      100,           1000,    4096,
                                8192,    32768,  32769,   65536,         100000,  262144,
                                262145,  600000, 1 << 20, (1 << 20) + 1, 2 << 20, (2 << 20) + 1,
                                3 << 20, 5 << 20};
enum { kSizeCount = sizeof kSizes / sizeof *kSizes };

static void write_words(unsigned char *block, size_t size, uint32_t seed) {
    for (size_t i = 0; i + 4 <= size; i += 4) {
        uint32_t word = seed + (uint32_t)i * 2654435761u;
        memcpy(block + i, &word, 4);
    }
}

static bool words_are(const unsigned char *block, size_t size, uint32_t seed) {
    for (size_t i = 0; i + 4 <= size; i += 4) {
        uint32_t word = seed + (uint32_t)i * 2654435761u;
        if (memcmp(block + i, &word, 4) != 0) {
            return false;
        }
    }
    return true;
}

static void every_move(void) {
    for (uint32_t from = 0; from < kSizeCount; ++from) {
        for (uint32_t to = 0; to < kSizeCount; ++to) {
            unsigned char *block = malloc(kSizes[from]);
            REQUIRE(block != NULL);
            write_words(block, kSizes[from], from * 100 + to);
            block = realloc(block, kSizes[to]);
            REQUIRE(block != NULL);
            CHECK_EQ((uintptr_t)block % 16, 0);
            size_t kept = kSizes[from] < kSizes[to] ? kSizes[from] : kSizes[to];
            CHECK(words_are(block, kept, from * 100 + to));
            // The new part is ours too.
            memset(block + kept, 1, kSizes[to] - kept);
            free(block);
        }
    }
}

// A vector that grows beside another one, so that neither always grows in place.
static void long_growth(void) {
    unsigned char *vectors[2] = {NULL, NULL};
    size_t size = 0;
    for (size_t next = 16; next < (size_t)40 << 20; next += next / 3) {
        for (uint32_t k = 0; k < 2; ++k) {
            vectors[k] = realloc(vectors[k], next);
            REQUIRE(vectors[k] != NULL);
            CHECK(k == 0 || vectors[0] + next <= vectors[1] || vectors[1] + next <= vectors[0]);
            CHECK(words_are(vectors[k], size, k));
            write_words(vectors[k], next, k);
        }
        size = next;
    }
    while (size > 16) {
        size_t less = size / 3;
        for (uint32_t k = 0; k < 2; ++k) {
            vectors[k] = realloc(vectors[k], less);
            REQUIRE(vectors[k] != NULL);
            CHECK(words_are(vectors[k], less, k));
        }
        size = less;
    }
    free(vectors[0]);
    free(vectors[1]);
}

static void calloc_after_dirty_use(size_t size, bool trim) {
    enum { kCount = 24 };
    unsigned char *blocks[kCount];
    int count = size > (1 << 20) ? 6 : kCount;
    for (int round = 0; round < 2; ++round) {
        for (int i = 0; i < count; ++i) {
            blocks[i] = malloc(size);
            REQUIRE(blocks[i] != NULL);
            memset(blocks[i], 0xff, malloc_usable_size(blocks[i]));
        }
        for (int i = 0; i < count; ++i) {
            free(blocks[i]);
        }
        if (trim) {
            malloc_trim(0);
        }
        for (int i = 0; i < count; ++i) {
            blocks[i] = i % 2 == 0 ? calloc(1, size) : calloc(size, 1);
            REQUIRE(blocks[i] != NULL);
            CHECK(all_bytes_are(blocks[i], size, 0));
            memset(blocks[i], 0xff, size);
        }
        for (int i = 0; i < count; ++i) {
            free(blocks[i]);
        }
    }
}

int main(void) {
    check_begin();
    every_move();
    long_growth();
    for (int i = 0; i < kSizeCount; ++i) {
        calloc_after_dirty_use(kSizes[i], false);
        calloc_after_dirty_use(kSizes[i], true);
    }
    return check_end();
}
