// What happens around the heap in a process's life: start, fork, a second copy of this library,
// exit.
#include "preload/malloc.h"

#include "hugepage/options.h"
#include "hugepage/report.h"
#include "hugepage/sys.h"
#include "lib/alloc_failure.h"
#include "lib/drain.h"
#include "lib/heap.h"
#include "lib/memblock.h"
#include "lib/thread.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>

using namespace pagoda;

// Several copies in one process.

// One copy of Pagoda: preloaded, linked in, or dlopened. Pointers that the copy in front does not
// know are offered to the others.
struct pagoda_copy {
    pagoda_copy *next;
    bool (*owns)(const void *p);
    void (*free)(void *p);
};

namespace {

pagoda_copy self = {nullptr, heap_owns, [](void *p) { heap_free(p, GFP_KERNEL); }};
pagoda_copy *first_copy = &self; // the list is the first copy's

bool free_by_other_copy(void *p) {
    for (pagoda_copy *c = first_copy; c != nullptr;
         c = __atomic_load_n(&c->next, __ATOMIC_ACQUIRE)) {
        if (c != &self && c->owns(p)) {
            c->free(p);
            return true;
        }
    }
    return false;
}

} // namespace

// Adds a copy to the first one's list and returns its head. Called by other copies of this library.
PAGODA_EXPORT pagoda_copy *pagoda_join(pagoda_copy *other) {
    if (first_copy != &self || other == &self)
        return first_copy;
    other->next = __atomic_load_n(&self.next, __ATOMIC_RELAXED);
    __atomic_store_n(&self.next, other, __ATOMIC_RELEASE);
    return &self;
}

namespace {

// Asked of the program's scope: this library's own may hold itself alone, and what a bare name
// means here may be the other copy's. dlopen by name: the linker of a fully static program, which
// has no other copies, warns of it.
void join_first_copy() {
    auto open = reinterpret_cast<decltype(&dlopen)>(dlsym(RTLD_DEFAULT, "dlopen"));
    void *program = open != nullptr ? open(nullptr, RTLD_LAZY) : nullptr;
    if (program == nullptr)
        return;
    auto join = reinterpret_cast<decltype(&pagoda_join)>(dlsym(program, "pagoda_join"));
    if (join != nullptr)
        first_copy = join(&self);
}

// Start, fork, exit.

int own_pid = 0; // asked early: at exit a sandbox may forbid the call

const char *program_name() {
    return program_invocation_short_name != nullptr ? program_invocation_short_name : "";
}

void write_exit_report(const char *path) {
    static char storage[1024]; // not on a small stack; written once, by one thread
    heap_stats s = heap_get_stats();
    text t(storage, sizeof storage);
    t << "{\"pid\":" << own_pid << ",\"program\":\"";
    for (const char *c = program_name(); *c != 0; c++)
        t << (*c == '"' || *c == '\\' || *c < 32 ? '?' : *c);
    t << "\",\"served\":" << s.served << ",\"live_objects\":" << s.live_objects
      << ",\"live_bytes\":" << s.live_bytes << ",\"cached_objects\":" << s.cached_objects
      << ",\"cached_bytes\":" << s.cached_bytes << ",\"committed\":" << s.committed
      << ",\"peak_committed\":" << s.peak_committed << ",\"free_bytes\":" << s.free_pages
      << ",\"dirty_bytes\":" << s.dirty_bytes << ",\"purged_bytes\":" << s.purged_bytes
      << ",\"misuses\":" << misuse_count() << "}\n";
    int r = sys::append_file(path, t.data(), t.size());
    if (r != 0) {
        text_buffer<300> w;
        w << "exit_report: cannot write " << path << ": error " << -r;
        warn(w);
    }
}

#if defined(__GLIBC__)
// What glibc's pthread_atfork calls. The caller is linked into each library behind everything else,
// where no other code runs and the kernel would map 64 KiB for it.
extern "C" int __register_atfork(void (*prepare)(), void (*parent)(), void (*child)(),
                                 void *dso); // NOLINT(bugprone-reserved-identifier)
extern "C" void *__dso_handle;               // NOLINT(bugprone-reserved-identifier)
int register_atfork(void (*prepare)(), void (*parent)(), void (*child)()) {
    return __register_atfork(prepare, parent, child, &__dso_handle);
}
#else
constexpr auto register_atfork = pthread_atfork;
#endif

// Before the constructors of everything else (linked with -z initfirst): fork handlers that others
// register must find the heap open, so they have to come between ours.
#if defined(__GLIBC__)
__attribute__((constructor(101))) void process_start(int, char **, char **environment) {
    note_environment(environment);
#else
__attribute__((constructor(101))) void process_start() {
#endif
    heap_init();
    if (PAGODA_UNLIKELY(options().boot_bytes != 0 || options().contig_bytes != 0))
        boot_start();
    own_pid = sys::pid();
    heap_set_foreign_free(free_by_other_copy);
    join_first_copy();
    // From here, not from the first malloc: that may come under libc's own lock of this list.
    register_atfork(
        heap_before_fork, [] { heap_after_fork(false); },
        [] {
            heap_after_fork(true);
            own_pid = sys::pid();
        });
}

__attribute__((destructor)) void process_exit() {
    if (!heap_ready())
        return;
    write_alloc_failure();
    if (options().exit_check) {
        slow_path scope;
        if (!scope.nested())
            caches_audit();
    }
    if (options().exit_report[0] != 0)
        write_exit_report(options().exit_report);
}

} // namespace
