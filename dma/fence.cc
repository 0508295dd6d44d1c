#include "dma/fence.h"

#include "dma/call_site.h"
#include "dma/complain.h"
#include "dma/interval_tree.h"
#include "dma/mutex.h"
#include "dma/os.h"
#include "hugepage/base.h"

#include <pagoda/slab.h>

#include <atomic>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

namespace pagoda::dma {

// `changing` is one thread's, which alone may change the protection or anything else.
enum class fence_state : int { unused, closed, changing, paused, open };

struct fence {
    std::atomic<fence_state> state;
    std::atomic<uintptr_t> from, to;
    std::atomic<uint32_t> returns; // of threads that found it open
    bool may_read;
    bool touched;
    owned_buffer what;
    interval pages; // in g_fences
    fence *next_unused;
};

namespace {

constexpr size_t kChunk = 256;
constexpr size_t kChunks = 256;
constexpr uint32_t kReturnsAtMost = 1000;

// Fences stay where they are for good, for a handler looks at all of them without a lock.
std::atomic<fence *> g_chunks[kChunks];
std::atomic<size_t> g_chunks_made;
pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER; // of the rest, and of changes but the handler's
fence *g_unused;
interval_tree g_fences;     // those in use
std::atomic<size_t> g_made; // how many
std::atomic<uint64_t> g_removed;
constinit thread_local uint64_t t_removed = 0; // as of the last look for a fence in vain
struct sigaction g_former;
std::atomic<bool> g_former_had_its_turn; // with SA_RESETHAND it has one
bool g_listening;

// A handler that touched what this thread is changing would wait for the thread it interrupts.
class no_signals {
  public:
    no_signals() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~no_signals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    no_signals(const no_signals &) = delete;
    no_signals &operator=(const no_signals &) = delete;

  private:
    sigset_t before_;
};

// Under the lock.
template <class F> void each_fence_in(uintptr_t at, uint64_t bytes, F f) {
    interval *i = g_fences.find(at, at + bytes - 1);
    for (; i != nullptr; i = interval_tree::next(i, at, at + bytes - 1))
        f(*reinterpret_cast<fence *>(reinterpret_cast<char *>(i) - offsetof(fence, pages)));
}

template <class F> void each_fence(F f) {
    for (size_t chunk = 0; chunk < g_chunks_made.load(std::memory_order_acquire); chunk++)
        for (size_t i = 0; i < kChunk; i++)
            f(g_chunks[chunk].load(std::memory_order_relaxed)[i]);
}

bool has(const fence &f, uintptr_t at) {
    return f.from.load(std::memory_order_acquire) <= at &&
           at < f.to.load(std::memory_order_acquire);
}

bool protect(const fence &f, bool closed) {
    uintptr_t from = f.from.load(std::memory_order_relaxed);
    int access = !closed ? PROT_READ | PROT_WRITE : f.may_read ? PROT_READ : PROT_NONE;
    return os::protect(reinterpret_cast<void *>(from), f.to.load(std::memory_order_relaxed) - from,
                       access);
}

#if defined(__x86_64__)
constexpr greg_t kWriteFault = 2; // of the page fault's error code
const void *instruction_of(const ucontext_t &c) {
    return reinterpret_cast<const void *>(c.uc_mcontext.gregs[REG_RIP]);
}
const char *done_by(const ucontext_t &c) {
    return (c.uc_mcontext.gregs[REG_ERR] & kWriteFault) != 0 ? "writes" : "reads";
}
#else
const void *instruction_of(const ucontext_t &c) {
    return reinterpret_cast<const void *>(c.uc_mcontext.pc);
}
const char *done_by(const ucontext_t &) { return "touches"; }
#endif

void report(const fence &f, uintptr_t at, const ucontext_t &context) {
    const owned_buffer &b = f.what;
    call_site made(b.caller), touched(instruction_of(context));
    accuse("%s: the processor %s %p, byte %zu of the %zu at %p that are the device's (%s, mapped "
           "from %s), by the instruction at %s",
           b.device, done_by(context), reinterpret_cast<void *>(at),
           at - reinterpret_cast<uintptr_t>(b.memory), b.bytes, b.memory, b.direction, made.text(),
           touched.text());
}

// Whether the instruction is to be tried again.
bool meet(fence &f, uintptr_t at, const ucontext_t &context) {
    fence_state state = f.state.load();
    if ((state != fence_state::closed && state != fence_state::open) ||
        !f.state.compare_exchange_strong(state, fence_state::changing)) {
        sched_yield();
        return true;
    }
    if (!has(f, at)) { // its place is another's by now
        f.state.store(state);
        return true;
    }
    bool again = true;
    if (state == fence_state::closed) {
        report(f, at, context);
        f.touched = true;
    } else { // Somebody has opened it since. Not for ever: the program may close pages, too.
        again = f.returns.fetch_add(1, std::memory_order_relaxed) < kReturnsAtMost;
    }
    again = again && protect(f, false);
    f.state.store(fence_state::open);
    return again;
}

// A thread that touched a page may come here when the fence has gone: one more try for each time
// that fences went, since this thread last asked, costs others' faults nothing but a moment.
bool may_be_late() {
    uint64_t removed = g_removed.load();
    bool again = removed != t_removed;
    t_removed = removed;
    return again;
}

bool is_ours(uintptr_t at, const ucontext_t &context) {
    fence *met = nullptr;
    each_fence([&](fence &f) {
        if (has(f, at) && f.state.load() != fence_state::unused)
            met = &f;
    });
    return met != nullptr ? meet(*met, at, context) : may_be_late();
}

void pass_on(int number, siginfo_t *info, void *context) {
    bool sent = info->si_code <= 0; // no instruction comes again by itself
    if (g_former.sa_handler == SIG_IGN && sent)
        return;
    bool handled = g_former.sa_handler != SIG_DFL && g_former.sa_handler != SIG_IGN;
    if (handled && (g_former.sa_flags & SA_RESETHAND) != 0)
        handled = !g_former_had_its_turn.exchange(true);
    if (!handled) {
        signal(number, SIG_DFL);
        if (sent)
            raise(number);
    } else if ((g_former.sa_flags & SA_SIGINFO) != 0) {
        g_former.sa_sigaction(number, info, context);
    } else {
        g_former.sa_handler(number);
    }
}

void on_fault(int number, siginfo_t *info, void *context) {
    int kept = errno;
    bool ours = false;
    if (info->si_code == SEGV_ACCERR) {
        no_signals quiet;
        ours = is_ours(reinterpret_cast<uintptr_t>(info->si_addr),
                       *static_cast<const ucontext_t *>(context));
    }
    errno = kept;
    if (!ours)
        pass_on(number, info, context);
}

// The parent's devices do not reach the child's memory, nor will anybody end these fences.
void open_in_child() {
    pthread_mutex_init(&g_lock, nullptr);
    each_fence([](const fence &f) {
        if (f.state.load(std::memory_order_relaxed) != fence_state::unused)
            protect(f, false);
    });
    g_chunks_made.store(0, std::memory_order_relaxed);
    g_made.store(0, std::memory_order_relaxed);
    g_fences = {};
    g_unused = nullptr;
}

// Under the lock.
bool listen() {
    if (g_listening)
        return true;
    if (pthread_atfork(nullptr, nullptr, open_in_child) != 0 ||
        sigaction(SIGSEGV, nullptr, &g_former) != 0)
        return false;
    struct sigaction ours = {};
    ours.sa_sigaction = on_fault;
    ours.sa_mask = g_former.sa_mask;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | (g_former.sa_flags & (SA_NODEFER | SA_RESTART));
    g_listening = sigaction(SIGSEGV, &ours, nullptr) == 0;
    return g_listening;
}

void make_room() {
    auto *made = static_cast<fence *>(kvzalloc(kChunk * sizeof(fence), GFP_KERNEL | __GFP_NOWARN));
    if (made == nullptr)
        return;
    locked hold(g_lock);
    size_t chunk = g_chunks_made.load(std::memory_order_relaxed);
    if (chunk == kChunks) {
        kvfree(made);
        return;
    }
    for (size_t i = 0; i < kChunk; i++) {
        made[i].next_unused = g_unused;
        g_unused = &made[i];
    }
    g_chunks[chunk].store(made, std::memory_order_relaxed);
    g_chunks_made.store(chunk + 1, std::memory_order_release);
}

bool is_full() {
    locked hold(g_lock);
    return g_unused == nullptr;
}

// The lock, without signals.
class changes {
    no_signals quiet_;
    locked lock_{g_lock};
};

// Waits until nobody reports a touch, and keeps everybody from it. What it was before.
fence_state take(fence &f) {
    for (;;) {
        fence_state state = f.state.load();
        if (state != fence_state::changing &&
            f.state.compare_exchange_strong(state, fence_state::changing))
            return state;
        sched_yield();
    }
}

void open(fence &f) {
    if (take(f) == fence_state::closed)
        protect(f, false);
    f.state.store(fence_state::open);
}

// What is taken.
void close(fence &f) {
    bool closed = protect(f, true);
    if (!closed)
        protect(f, false);
    f.state.store(closed ? fence_state::closed : fence_state::open);
}

} // namespace

fence *fence_make(const owned_buffer &what, bool may_read) {
    auto at = reinterpret_cast<uintptr_t>(what.memory);
    uintptr_t from = align_up(at, kPageSize), to = align_down(at + what.bytes, kPageSize);
    // The zone grows by extending the mapping of its last page, access included.
    if ((to & (kPageblockSize - 1)) == 0)
        to -= kPageSize;
    if (from >= to || to > at + what.bytes)
        return nullptr;
    if (is_full())
        make_room();
    changes alone;
    fence *f = g_unused;
    if (f == nullptr || !listen())
        return nullptr;
    take(*f);
    // Who misses what was here before knows that it was removed.
    f->from.store(from, std::memory_order_release);
    f->to.store(to, std::memory_order_release);
    f->returns.store(0, std::memory_order_relaxed);
    f->may_read = may_read;
    f->touched = false;
    f->what = what;
    if (!protect(*f, true)) { // too many mappings, or pages of the hugetlb pool
        protect(*f, false);
        g_removed.fetch_add(1);
        f->state.store(fence_state::unused);
        return nullptr;
    }
    f->state.store(fence_state::closed);
    g_unused = f->next_unused;
    f->pages.first = from;
    f->pages.last = to - 1;
    g_fences.insert(&f->pages);
    g_made.fetch_add(1, std::memory_order_relaxed);
    return f;
}

bool fence_open(fence *f) {
    changes alone;
    open(*f);
    return f->touched;
}

void fence_close(fence *f) {
    changes alone;
    take(*f);
    f->returns.store(0, std::memory_order_relaxed);
    close(*f);
}

void fence_remove(fence *f) {
    changes alone;
    if (take(*f) == fence_state::closed)
        protect(*f, false);
    g_removed.fetch_add(1);
    f->state.store(fence_state::unused);
    g_fences.remove(&f->pages);
    f->next_unused = g_unused;
    g_unused = f;
    g_made.fetch_sub(1, std::memory_order_relaxed);
}

void fences_open(const void *p, size_t bytes, bool to_write) {
    if (g_made.load(std::memory_order_relaxed) == 0)
        return;
    changes alone;
    each_fence_in(reinterpret_cast<uintptr_t>(p), bytes, [=](fence &f) {
        if (to_write || !f.may_read)
            open(f);
    });
}

fences_paused::fences_paused(uintptr_t at, uint64_t bytes)
    : at_(at), bytes_(bytes), any_(g_made.load(std::memory_order_relaxed) != 0) {
    if (!any_)
        return;
    no_signals quiet;
    pthread_mutex_lock(&g_lock);
    each_fence_in(at_, bytes_, [](fence &f) {
        fence_state state = take(f);
        if (state == fence_state::closed) {
            protect(f, false);
            state = fence_state::paused;
        }
        f.state.store(state);
    });
}

fences_paused::~fences_paused() {
    if (!any_)
        return;
    no_signals quiet;
    each_fence_in(at_, bytes_, [](fence &f) {
        fence_state state = take(f);
        if (state == fence_state::paused)
            close(f);
        else
            f.state.store(state);
    });
    pthread_mutex_unlock(&g_lock);
}

} // namespace pagoda::dma
