#include "hugepage/limits.h"

#include "hugepage/options.h"
#include "hugepage/report.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"

#include <string.h>
#include <sys/resource.h>

namespace pagoda {
namespace {

constexpr size_t kPath = 512;
constexpr uint64_t kLeastKept = uint64_t{1} << 20;

// The number that a file begins with; kNoLimit where there is no such file, or no number ("max").
uint64_t read_number(const char *path) {
    char text[32];
    if (sys::read_file(path, text, sizeof text) <= 0 || text[0] < '0' || text[0] > '9')
        return kNoLimit;
    uint64_t n = 0;
    for (const char *c = text; *c >= '0' && *c <= '9'; c++)
        n = n * 10 + static_cast<uint64_t>(*c - '0');
    return n;
}

// The lowest limit of one group and its ancestors. In a container the path may be the host's, of
// which only the mount point itself is to be seen here.
uint64_t lowest_limit(const char *mount, const char *hierarchy, const char *group, size_t length,
                      const char *file) {
    static char storage[kPath + 1]; // not on a small stack; asked once, by one thread
    uint64_t lowest = kNoLimit;
    for (;;) {
        while (length > 0 && group[length - 1] == '/')
            length--;
        text path(storage, kPath); // one that is cut ends with the byte behind
        path << mount << hierarchy;
        for (size_t i = 0; i < length; i++)
            path << group[i];
        path << file << '\0';
        lowest = min_of(lowest, read_number(path.data()));
        if (length == 0)
            return lowest;
        while (length > 0 && group[length - 1] != '/')
            length--;
    }
}

} // namespace

uint64_t cgroup_limit(const char *cgroups, const char *mount) {
    uint64_t lowest = kNoLimit;
    // Lines of ID:CONTROLLERS:PATH; version 2 has one, without controllers.
    for (const char *line = cgroups; *line != 0;) {
        const char *end = strchr(line, '\n');
        end = end != nullptr ? end : line + strlen(line);
        const char *controllers = strchr(line, ':');
        const char *group = controllers != nullptr ? strchr(controllers + 1, ':') : nullptr;
        if (group != nullptr && group < end) {
            size_t length = static_cast<size_t>(end - group - 1);
            if (group == controllers + 1)
                lowest = min_of(lowest, lowest_limit(mount, "", group + 1, length, "/memory.max"));
            else if (strncmp(controllers, ":memory:", 8) == 0)
                lowest = min_of(lowest, lowest_limit(mount, "/memory", group + 1, length,
                                                     "/memory.limit_in_bytes"));
        }
        line = *end == 0 ? end : end + 1;
    }
    return lowest;
}

memory_limits read_memory_limits() {
    memory_limits limits;
    limits.addresses = min_of(sys::resource_limit(RLIMIT_AS), sys::resource_limit(RLIMIT_DATA));
    limits.commit_counts = read_number("/proc/sys/vm/overcommit_memory") == 2;
    static char cgroups[1024]; // as above
    if (sys::read_file("/proc/self/cgroup", cgroups, sizeof cgroups) > 0)
        limits.memory = cgroup_limit(cgroups, "/sys/fs/cgroup");
    return limits;
}

// The zone's part: what it may keep.

void zone::set_limits(const memory_limits &limits) {
    limit_ = min_of(limits.addresses, limits.memory);
    // What is kept here is then kept from every other process.
    bonus_cap_ = limits.commit_counts ? 0 : kDirtyCap;
    tight_.store(limits.addresses != kNoLimit || limits.commit_counts, std::memory_order_relaxed);
}

// An eighth of what the limit leaves.
uint64_t zone::limit_bound(uint64_t wanted) const {
    if (PAGODA_LIKELY(limit_ == kNoLimit))
        return kNoLimit;
    uint64_t live = live_bytes() + wanted;
    return max_of(kLeastKept, (limit_ - min_of(limit_, live)) / 8);
}

// limit=SIZE. The zone's part of what counts changes under its lock only, and vmalloc's grows under
// it, so that the sum is right wherever a decision is made.

uint64_t zone::committed_locked() const {
    uint64_t clean = buddy_.free_pages() - buddy_.dirty_pages() + buddy_.isolated_clean_pages();
    return ((present_ - clean) << kPageShift) + areas_.load(std::memory_order_relaxed);
}

uint64_t zone::committed() {
    lock_guard g(lock_);
    return committed_locked();
}

bool zone::within_limit(uint64_t pages) const {
    uint64_t limit = options().limit_bytes;
    return PAGODA_LIKELY(limit == 0) || committed_locked() + (pages << kPageShift) <= limit;
}

// Gives back what is kept free until `bytes` more fit; or all of it, that of the caches too.
void zone::give_back_for(uint64_t bytes, bool all) {
    if (all)
        reclaim();
    if (!may_give_back())
        return;
    give_back_excess(bytes, all);
    uint64_t sum = committed() + bytes;
    if (sum <= options().limit_bytes)
        return;
    // What devices reach, last.
    uint64_t excess = all ? ~uint64_t{0} : sum - options().limit_bytes;
    auto kept = static_cast<uint64_t>(vmalloc_dirty_.load(std::memory_order_relaxed));
    if (purge_held_areas_ != nullptr)
        purge_held_areas_(kept - min_of(kept, excess));
    kept = buddy_.purgeable_pages(true) << kPageShift;
    if (let_go(kept - min_of(kept, excess), true))
        give_back_excess(bytes, all);
}

void zone::give_back_excess(uint64_t bytes, bool all) {
    lock_guard g(purge_lock_);
    uint64_t limit = options().limit_bytes;
    for (int step = 0; step < 2; step++) {
        uint64_t sum = committed() + bytes;
        uint64_t excess = sum > limit ? sum - limit : 0;
        if (excess == 0)
            return;
        if (step == 0) {
            uint64_t pages = buddy_.purgeable_pages(true) << kPageShift;
            purge_dirty(all ? 0 : pages - min_of(pages, excess), false, true);
        } else if (purge_areas_ != nullptr) {
            auto kept = static_cast<uint64_t>(vmalloc_dirty_.load(std::memory_order_relaxed));
            purge_areas_(kept - min_of(kept, excess));
        }
    }
}

bool zone::charge(uint64_t bytes) {
    for (int attempt = 0; attempt < 3; attempt++) {
        lock_.lock();
        bool room = within_limit((bytes + kPageSize - 1) >> kPageShift);
        if (room)
            areas_.fetch_add(bytes, std::memory_order_relaxed);
        lock_.unlock();
        if (room)
            return true;
        if (attempt < 2)
            give_back_for(bytes, attempt > 0);
    }
    return false;
}

void zone::pay_under_limit(uint64_t bytes) {
    uint64_t bound = limit_bound(bytes);
    uint64_t areas = static_cast<uint64_t>(vmalloc_dirty_.load(std::memory_order_relaxed));
    uint64_t pages = buddy_.purgeable_pages() << kPageShift;
    if (areas + pages <= bound)
        return;
    if (pages > bound / 2)
        purge(bound / 4);
    if (areas > bound / 2 && purge_areas_ != nullptr)
        purge_areas_(bound / 4);
}

} // namespace pagoda
