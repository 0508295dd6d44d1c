#include "hugepage/report.h"

#include "hugepage/options.h"
#include "hugepage/sys.h"

#include <atomic>

namespace pagoda {

text &text::operator<<(char c) {
    if (len_ < cap_)
        buf_[len_++] = c;
    return *this;
}

text &text::operator<<(const char *s) {
    for (; *s != 0; s++)
        *this << *s;
    return *this;
}

text &text::operator<<(uint64_t v) {
    char digits[20];
    int n = 0;
    do
        digits[n++] = static_cast<char>('0' + v % 10);
    while ((v /= 10) != 0);
    while (n > 0)
        *this << digits[--n];
    return *this;
}

text &text::operator<<(int v) {
    if (v < 0)
        *this << '-';
    return *this << static_cast<uint64_t>(v < 0 ? -static_cast<int64_t>(v) : v);
}

text &text::operator<<(const void *p) {
    uintptr_t v = reinterpret_cast<uintptr_t>(p);
    *this << "0x";
    bool started = false;
    for (int shift = 60; shift >= 0; shift -= 4) {
        unsigned digit = (v >> shift) & 15;
        started = started || digit != 0 || shift == 0;
        if (started)
            *this << "0123456789abcdef"[digit];
    }
    return *this;
}

const char *text_line::whole(size_t *size) const {
    __builtin_memcpy(storage_, "pagoda: ", kLead);
    storage_[kLead + this->size()] = '\n';
    *size = kLead + this->size() + 1;
    return storage_;
}

void warn(const text_line &line) {
    size_t size = 0;
    const char *all = line.whole(&size);
    sys::write_stderr(all, size);
}

static std::atomic<uint64_t> misuses{0};

void harmless_misuse(const text_line &line) {
    misuses.fetch_add(1, std::memory_order_relaxed);
    warn(line);
}

void misuse(const text_line &line) {
    warn(line);
    misuse_told();
}

void misuse_told() {
    misuses.fetch_add(1, std::memory_order_relaxed);
    if (options().on_error == error_policy::abort)
        sys::abort_process();
}

uint64_t misuse_count() { return misuses.load(std::memory_order_relaxed); }

void invariant_failed(const char *what, const char *file, int line) {
    text_buffer<400> t;
    t << "internal invariant broken: " << what << " at " << file << ":" << line;
    warn(t);
    sys::abort_process();
}

} // namespace pagoda
