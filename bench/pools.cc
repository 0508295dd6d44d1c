// Typed pools: pagoda::cache against boost::singleton_pool and
// std::pmr::synchronized_pool_resource, which threads may share as well, and boost::pool, which
// they may not. The repetitions of all cases are interleaved at random; --help lists what Google
// Benchmark takes.

#include <benchmark/benchmark.h>
#if defined(HAVE_BOOST_POOL)
#include <boost/pool/pool.hpp>
#include <boost/pool/singleton_pool.hpp>
#endif
#include <pagoda/pagoda.hpp>

#include <cstdlib>
#include <memory_resource>
#include <vector>

#include "bench/workloads/workload.h"

namespace {

struct object {
    std::uint64_t words[8];
};

struct pagoda_cache {
    static void *take() { return pagoda::cache<object>::shared().alloc(); }
    static void give(void *p) { pagoda::cache<object>::shared().free(p); }
};

std::pmr::synchronized_pool_resource pmr_pool;

struct pmr_synchronized {
    static void *take() { return pmr_pool.allocate(sizeof(object), alignof(object)); }
    static void give(void *p) { pmr_pool.deallocate(p, sizeof(object), alignof(object)); }
};

#if defined(HAVE_BOOST_POOL)
struct tag;
using singleton = boost::singleton_pool<tag, sizeof(object)>;

struct boost_singleton_pool {
    static void *take() { return singleton::malloc(); }
    static void give(void *p) { singleton::free(p); }
};

boost::pool<> unshared_pool(sizeof(object));

struct boost_pool {
    static void *take() { return unshared_pool.malloc(); }
    static void give(void *p) { unshared_pool.free(p); }
};
#endif

// Every object is written and read, as an object is.
template <class Pool> void *make(std::uint64_t mark) {
    void *p = Pool::take();
    if (p == nullptr)
        std::abort();
    static_cast<object *>(p)->words[0] = mark;
    return p;
}

template <class Pool> void end(void *p, std::uint64_t mark) {
    if (static_cast<object *>(p)->words[0] != mark)
        std::abort();
    Pool::give(p);
}

template <class Pool> void pair(benchmark::State &state) {
    for (std::uint64_t i = 0; auto unused : state) {
        static_cast<void>(unused);
        ++i;
        end<Pool>(make<Pool>(i), i);
    }
    state.SetItemsProcessed(state.iterations());
}

template <class Pool> void batch(benchmark::State &state) {
    std::vector<void *> held(static_cast<std::size_t>(state.range(0)));
    for (auto unused : state) {
        static_cast<void>(unused);
        for (std::size_t i = 0; i < held.size(); ++i)
            held[i] = make<Pool>(i);
        for (std::size_t i = 0; i < held.size(); ++i)
            end<Pool>(held[i], i);
    }
    state.SetItemsProcessed(state.iterations() * state.range(0));
}

template <class Pool> void replace(benchmark::State &state) {
    pagoda::bench::random_source random(static_cast<std::uint64_t>(state.thread_index()) + 1);
    std::vector<void *> live(static_cast<std::size_t>(state.range(0)));
    for (std::size_t i = 0; i < live.size(); ++i)
        live[i] = make<Pool>(i);
    for (auto unused : state) {
        static_cast<void>(unused);
        const std::size_t i = random.between(0, live.size() - 1);
        end<Pool>(live[i], i);
        live[i] = make<Pool>(i);
    }
    for (std::size_t i = 0; i < live.size(); ++i)
        end<Pool>(live[i], i);
    state.SetItemsProcessed(state.iterations());
}

// Shared pools with one thread and with two at once.
#define SHARED_POOL(pool)                                                                          \
    BENCHMARK(pair<pool>)->Threads(1)->Threads(2);                                                 \
    BENCHMARK(batch<pool>)->Arg(1000)->Threads(1)->Threads(2);                                     \
    BENCHMARK(replace<pool>)->Arg(10000)->Threads(1)->Threads(2)

SHARED_POOL(pagoda_cache);
SHARED_POOL(pmr_synchronized);
#if defined(HAVE_BOOST_POOL)
SHARED_POOL(boost_singleton_pool);
BENCHMARK(pair<boost_pool>);
BENCHMARK(batch<boost_pool>)->Arg(1000);
BENCHMARK(replace<boost_pool>)->Arg(10000);
#endif

} // namespace

int main(int argc, char **argv) {
    // What is given on the command line comes later, and wins.
    char interleaved[] = "--benchmark_enable_random_interleaving=true";
    char repetitions[] = "--benchmark_repetitions=9";
    char medians[] = "--benchmark_report_aggregates_only=true";
    std::vector<char *> arguments = {argv[0], interleaved, repetitions, medians};
    arguments.insert(arguments.end(), argv + 1, argv + argc);
    int count = static_cast<int>(arguments.size());
    benchmark::Initialize(&count, arguments.data());
    if (benchmark::ReportUnrecognizedArguments(count, arguments.data()))
        return 2;
    benchmark::RunSpecifiedBenchmarks();
}
