// A workout for whatever malloc the process has: random sizes from every regime (small objects,
// page runs, large areas), every entry point, contents checked. Used wherever a test asks "does
// the allocator still work here?".
#pragma once

#include <malloc.h>
#include <stdint.h>
#include <sys/mman.h>

#include "check.h"

enum { kWorkoutSlots = 64 };

struct workout_block {
    unsigned char *at;
    size_t size;
    unsigned char tag;
};

static inline uint64_t workout_random(uint64_t *state) {
    *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
    return *state >> 33;
}

// Mostly small, now and then a page run, seldom a large area.
static inline size_t workout_size(uint64_t *state, size_t limit) {
    uint64_t regime = workout_random(state) % 100;
    size_t most = regime < 70 ? 1024 : regime < 85 ? 32768 : regime < 96 ? 1 << 20 : 4 << 20;
    return 1 + workout_random(state) % (most < limit ? most : limit);
}

// Small blocks whole, big ones at both ends and once in 512 bytes: every page is touched.
static inline size_t workout_stride(size_t size) { return size <= 4096 ? 1 : 512; }

static inline void workout_fill(const struct workout_block *block) {
    for (size_t i = 0; i < block->size; i += workout_stride(block->size)) {
        block->at[i] = (unsigned char)(block->tag + i / 512);
    }
    block->at[block->size - 1] = block->tag;
}

static inline bool workout_intact(const struct workout_block *block, size_t upto) {
    for (size_t i = 0; i < upto; i += workout_stride(block->size)) {
        if (i != block->size - 1 && block->at[i] != (unsigned char)(block->tag + i / 512)) {
            return false;
        }
    }
    return upto < block->size || block->at[block->size - 1] == block->tag;
}

static inline bool all_bytes_are(const unsigned char *at, size_t size, unsigned char value) {
    return size == 0 || (at[0] == value && memcmp(at, at + 1, size - 1) == 0);
}

static inline void workout_take(struct workout_block *block, uint64_t *state, size_t limit) {
    block->size = workout_size(state, limit);
    block->tag = (unsigned char)workout_random(state);
    switch (workout_random(state) % 4) {
    case 0:
        block->at = (unsigned char *)calloc(1, block->size);
        CHECK(block->at == NULL || all_bytes_are(block->at, block->size, 0));
        break;
    case 1: {
        size_t alignment = (size_t)16 << workout_random(state) % 9;
        block->at = (unsigned char *)memalign(alignment, block->size);
        CHECK_EQ((uintptr_t)block->at % alignment, 0);
        break;
    }
    default:
        block->at = (unsigned char *)malloc(block->size);
    }
    CHECK(block->at != NULL);
    if (block->at != NULL) {
        CHECK_EQ((uintptr_t)block->at % 16, 0);
        CHECK(malloc_usable_size(block->at) >= block->size);
        workout_fill(block);
    }
}

static inline void workout_resize(struct workout_block *block, uint64_t *state, size_t limit) {
    struct workout_block old = *block;
    block->size = workout_size(state, limit);
    block->at = (unsigned char *)realloc(old.at, block->size);
    CHECK(block->at != NULL);
    if (block->at == NULL) {
        free(old.at);
        return;
    }
    old.at = block->at;
    // Where the block shrank its last byte is gone, and the other ones stay.
    CHECK(workout_intact(&old, block->size < old.size ? block->size : old.size));
    workout_fill(block);
}

// No block is larger than `limit`; all are freed at the end. The array is mapped, not on the
// stack, so that threads with the smallest stack can do it too.
static inline void workout(uint64_t seed, unsigned operations, size_t limit) {
    size_t bytes = kWorkoutSlots * sizeof(struct workout_block);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    struct workout_block *blocks = (struct workout_block *)memory;
    uint64_t state = seed * 2 + 1;
    for (unsigned i = 0; i < operations; ++i) {
        struct workout_block *block = &blocks[workout_random(&state) % kWorkoutSlots];
        if (block->at == NULL) {
            workout_take(block, &state, limit);
            continue;
        }
        CHECK(workout_intact(block, block->size));
        if (workout_random(&state) % 3 == 0) {
            workout_resize(block, &state, limit);
        } else {
            free(block->at);
            block->at = NULL;
        }
    }
    for (unsigned i = 0; i < kWorkoutSlots; ++i) {
        CHECK(blocks[i].at == NULL || workout_intact(&blocks[i], blocks[i].size));
        free(blocks[i].at);
    }
    munmap(memory, bytes);
}
