#include "dma/tally.h"

#include <pagoda/slab.h>

#include <pthread.h>

namespace pagoda::dma {

namespace {

std::atomic<uint64_t> lines_taken{1}; // a bit for each; the shared one is nobody's
pthread_key_t line_key;
pthread_once_t line_once = PTHREAD_ONCE_INIT;
bool have_key;
constinit thread_local bool asked; // for a line, once

} // namespace

constinit thread_local unsigned tally::mine = tally::kShared;

tally *tally::create() { return static_cast<tally *>(kzalloc(sizeof(tally), GFP_KERNEL)); }

void tally::destroy(tally *t) { kfree(t); }

// A thread that ends; what it still counts goes to the shared line.
void tally::give_line(void *) {
    unsigned line = mine;
    mine = kShared;
    lines_taken.fetch_and(~(uint64_t{1} << line), std::memory_order_release);
}

void tally::take_line() {
    asked = true; // whatever comes in between uses the shared one
    pthread_once(&line_once, [] { have_key = pthread_key_create(&line_key, give_line) == 0; });
    uint64_t taken = lines_taken.load(std::memory_order_relaxed);
    while (have_key && taken != ~uint64_t{0}) {
        auto line = static_cast<unsigned>(__builtin_ctzll(~taken));
        if (!lines_taken.compare_exchange_weak(taken, taken | uint64_t{1} << line,
                                               std::memory_order_acquire,
                                               std::memory_order_relaxed))
            continue;
        if (pthread_setspecific(line_key, &line_key) == 0)
            mine = line;
        else
            lines_taken.fetch_and(~(uint64_t{1} << line), std::memory_order_release);
        break;
    }
}

void tally::add_shared(int64_t n) {
    if (!asked)
        take_line();
    lines_[mine].count.fetch_add(n, std::memory_order_relaxed);
}

int64_t tally::sum() const {
    int64_t n = 0;
    for (const row &l : lines_)
        n += l.count.load(std::memory_order_relaxed);
    return n;
}

} // namespace pagoda::dma
