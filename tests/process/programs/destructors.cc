// Frees and allocations at the end of things: pthread-key destructors (in every one of their
// rounds), thread_local and static objects, atexit, library destructors. Threads end while others
// begin, so that what an ended thread frees late meets a live heap.
#include "../workout.h"

#include <pthread.h>

#include <string>
#include <thread>
#include <vector>

namespace {

pthread_key_t key;

struct owner {
    std::vector<char *> blocks;
    owner() { take(); }
    owner(const owner &) = delete;
    owner &operator=(const owner &) = delete;
    ~owner() {
        for (char *block : blocks) {
            free(block);
        }
        workout(blocks.size(), 200, SIZE_MAX);
    }
    void take() {
        for (const size_t size : {10u, 1000u, 40000u, 500000u, 3000000u}) {
            char *block = static_cast<char *>(malloc(size));
            CHECK(block != nullptr);
            block[0] = block[size - 1] = 1;
            blocks.push_back(block);
        }
    }
};

owner static_owner;
thread_local owner local_owner;

// Sets its key again until the last round but one: the block of the last round is freed when
// all thread_local objects, and whatever the allocator keeps for the thread, are gone.
void key_destructor(void *value) {
    auto *rounds = static_cast<size_t *>(value);
    const size_t left = *rounds;
    free(value);
    workout(left, 200, SIZE_MAX);
    if (left > 1) {
        auto *next = static_cast<size_t *>(malloc(sizeof(size_t) * 1000));
        *next = left - 1;
        pthread_setspecific(key, next);
    }
}

void thread_body() {
    local_owner.take();
    auto *rounds = static_cast<size_t *>(malloc(sizeof(size_t)));
    *rounds = PTHREAD_DESTRUCTOR_ITERATIONS;
    CHECK_EQ(pthread_setspecific(key, rounds), 0);
}

void at_exit_function() {
    free(realloc(malloc(100), 200000));
    workout(3, 500, SIZE_MAX);
}

__attribute__((destructor)) void at_unload() {
    workout(4, 500, SIZE_MAX);
    // After main has returned only the status can tell.
    if (check_end() != 0) {
        _exit(1);
    }
}

} // namespace

int main() {
    check_begin();
    CHECK_EQ(pthread_key_create(&key, key_destructor), 0);
    CHECK_EQ(atexit(at_exit_function), 0);
    for (int round = 0; round < 10; ++round) {
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; ++i) {
            threads.emplace_back(thread_body);
        }
        for (std::thread &thread : threads) {
            thread.join();
        }
    }
    static_owner.take();
    local_owner.take();
    return check_end();
}
