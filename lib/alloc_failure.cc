#include "lib/alloc_failure.h"

#include "hugepage/report.h"
#include "hugepage/sys.h"
#include "lib/gfp_words.h"

#include <errno.h>

namespace pagoda {

std::atomic<uint64_t> g_alloc_failure{0};

namespace {

constexpr uint64_t kMostBytes = ~uint64_t{0} >> __GFP_BITS_SHIFT;

std::atomic<bool> said_nofail{false};
std::atomic<uint64_t> window_start{0}; // ms + 1; 0: none yet
std::atomic<uint32_t> in_window{0};
std::atomic<uint32_t> dropped{0};

bool allowed_now() {
    uint64_t now = sys::now_ms() + 1;
    uint64_t start = window_start.load();
    if ((start == 0 || now - start >= kAllocFailureWindowMs) &&
        window_start.compare_exchange_strong(start, now))
        in_window.store(0);
    return in_window.fetch_add(1) < kAllocFailureBurst;
}

bool is_impossible(gfp_t gfp) { return (gfp & __GFP_NOFAIL) != 0 && !gfpflags_allow_blocking(gfp); }

void write(gfp_t gfp, uint64_t bytes) {
    if (!is_impossible(gfp) && !allowed_now()) {
        dropped.fetch_add(1);
        return;
    }
    uint64_t pages = (bytes >> kPageShift) + (bytes % kPageSize != 0);
    text_buffer<400> line;
    line << program_invocation_short_name << ": page allocation failure: order:" << order_of(pages)
         << ", " << bytes << " bytes, mode:";
    describe_gfp(line, gfp);
    if (is_impossible(gfp))
        line << ": __GFP_NOFAIL needs __GFP_DIRECT_RECLAIM";
    if (uint32_t n = dropped.exchange(0))
        line << " (" << n << " more were not reported)";
    warn(line);
}

} // namespace

void note_alloc_failure(gfp_t gfp, uint64_t bytes) {
    if (is_impossible(gfp)) {
        if (said_nofail.exchange(true))
            return;
    } else if ((gfp & __GFP_NOWARN) != 0) {
        return;
    }
    if (gfpflags_allow_blocking(gfp)) {
        write(gfp, bytes);
        return;
    }
    uint64_t none = 0;
    uint64_t entry = min_of(bytes, kMostBytes) << __GFP_BITS_SHIFT | (gfp & __GFP_BITS_MASK);
    if (!g_alloc_failure.compare_exchange_strong(none, entry))
        dropped.fetch_add(1);
}

void write_alloc_failure() {
    if (uint64_t entry = g_alloc_failure.exchange(0))
        write(static_cast<gfp_t>(entry & __GFP_BITS_MASK), entry >> __GFP_BITS_SHIFT);
}

} // namespace pagoda
