// What a pool with checks knows of its blocks.
#pragma once

#include "hugepage/base.h"

#include <pagoda/gfp.h>

#include <pthread.h>

namespace pagoda::dma {

class pool_checks {
  public:
    enum class state : uint8_t { unknown, free, used };

    ~pool_checks();

    state state_of(const void *block);
    // False: no memory for the record of a block that was unknown.
    bool set(void *block, state to, gfp_t gfp);
    // Calls f(context, block) for those in use; returns how many there are.
    size_t each_used(void (*f)(void *, void *), void *context);
    // In a fork child.
    void reset_lock() { pthread_mutex_init(&lock_, nullptr); }

  private:
    struct record {
        record *next;
        void *block;
        state is;
    };
    static constexpr unsigned kBucketBits = 8;
    record **find(const void *block);

    pthread_mutex_t lock_ = PTHREAD_MUTEX_INITIALIZER;
    record *first_[1u << kBucketBits] = {};
};

} // namespace pagoda::dma
