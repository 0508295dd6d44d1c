#include "hugepage/options.h"

#include "hugepage/report.h"
#include "hugepage/sys.h"

#include <elf.h>
#include <string.h>
#include <unistd.h>

namespace pagoda {

#define FIELD(f) static_cast<uint16_t>(offsetof(option_values, f))
const option_row kOptionTable[] = {
    {"on_error", option_type::choice, "abort|report", "abort",
     "What follows the report of a double or invalid free, or of dma_debug: SIGABRT, or nothing (a "
     "pointer is left alone).",
     FIELD(on_error), 2},
    {"foreign", option_type::choice, "ignore|report|abort", "ignore",
     "free() of memory that is not Pagoda's: warn once and ignore it, report each one, or report "
     "and abort.",
     FIELD(foreign), 3},
    {"thp", option_type::choice, "auto|never|always", "auto",
     "Transparent huge pages: for whole pageblocks once the heap passes 8 MiB, never, or from the "
     "first byte.",
     FIELD(thp), 3},
    {"hugetlb", option_type::hugetlb, "2M:COUNT|1G:COUNT", "",
     "Back zones with up to COUNT pages of the hugetlb pool before anything else.",
     FIELD(hugetlb_shift), 0},
    {"dirty", option_type::size, "SIZE (64K..1T; K M G T)", "8M",
     "Free memory kept for reuse, at least; an eighth of the live heap is kept where that is more.",
     FIELD(dirty_bytes), 0},
    {"highmem", option_type::size, "SIZE (64K..1T; K M G T)", "",
     "Make the HIGHMEM zone real: up to so much memory in pages that only kmap() maps.",
     FIELD(highmem_bytes), 0},
    {"limit", option_type::size, "SIZE (64K..1T; K M G T)", "",
     "Memory in use or kept free at most, the reserve included: what would pass it fails.",
     FIELD(limit_bytes), 0},
    {"reserve", option_type::size, "SIZE (64K..1T; K M G T)", "",
     "Memory for GFP_ATOMIC, in whole 2 MiB, from the start; without it, 2 MiB from the first use "
     "of the kernel's names.",
     FIELD(reserve_bytes), 0},
    {"percpu", option_type::choice, "auto|mm_cid|cpu_id|off", "auto",
     "Index of the per-CPU caches; off: a cache per thread, as where the kernel has no rseq.",
     FIELD(percpu), 4},
    {"boot", option_type::size, "SIZE (64K..1T; K M G T)", "",
     "Memory set aside at start for the boot allocator, memblock; nothing else uses it.",
     FIELD(boot_bytes), 0},
    {"mem", option_type::size, "SIZE (64K..1T; K M G T)", "",
     "How much of it memblock manages; the rest is left to the program.", FIELD(mem_bytes), 0},
    {"memexclude", option_type::range, "FROM-TO (K M G T)", "",
     "A part of it, counted from its start, that neither memblock nor the heap ever gets.",
     FIELD(exclude_from), 0},
    {"contig", option_type::size, "SIZE (64K..1T; K M G T)", "",
     "Memory set aside at start for large contiguous buffers.", FIELD(contig_bytes), 0},
    {"kmalloc_max", option_type::size, "SIZE (64K..1T; K M G T)", "4M",
     "The largest size that kmalloc serves, at most 4 MiB; kvmalloc serves more.",
     FIELD(kmalloc_max), 0},
    {"dma_debug", option_type::choice, "off|on|guard", "off",
     "Report misuse of DMA mappings, of every device: with records of them (on), and with the "
     "pages "
     "of buffers closed to the processor while they are a device's (guard).",
     FIELD(dma_debug), 3},
    {"init_on_alloc", option_type::boolean, "0|1", "0",
     "Zero all memory that is handed out, asked for or not. Every allocation is slower.",
     FIELD(init_on_alloc), 0},
    {"exit_check", option_type::boolean, "0|1", "1",
     "Look for double frees in the caches when the process exits.", FIELD(exit_check), 0},
    {"exit_report", option_type::path, "FILE", "",
     "Append one line of JSON with the process's allocation counts to FILE at exit.",
     FIELD(exit_report), 0},
};
const size_t kOptionCount = sizeof kOptionTable / sizeof kOptionTable[0];

static option_values values;

const option_values &options() { return values; }
option_values &mutable_options() { return values; }

namespace {

struct span {
    const char *at;
    size_t len;
    bool is(const char *s) const { return strlen(s) == len && memcmp(at, s, len) == 0; }
};

text &operator<<(text &t, span s) {
    for (size_t i = 0; i < s.len; i++)
        t << s.at[i];
    return t;
}

// The next piece of `rest` up to `stop`; moves `rest` past it.
span cut(span &rest, char stop) {
    size_t n = 0;
    while (n < rest.len && rest.at[n] != stop)
        n++;
    span piece = {rest.at, n};
    size_t used = n < rest.len ? n + 1 : n;
    rest = {rest.at + used, rest.len - used};
    return piece;
}

bool parse_number(span &s, uint64_t &out) {
    uint64_t v = 0;
    size_t n = 0;
    for (; n < s.len && s.at[n] >= '0' && s.at[n] <= '9'; n++)
        if (__builtin_mul_overflow(v, 10u, &v) ||
            __builtin_add_overflow(v, static_cast<unsigned>(s.at[n] - '0'), &v))
            return false;
    out = v;
    s = {s.at + n, s.len - n};
    return n > 0;
}

bool parse_bytes(span s, uint64_t &out) {
    uint64_t v = 0;
    if (!parse_number(s, v) || s.len > 1)
        return false;
    unsigned shift = 0;
    if (s.len == 1) {
        const char *units = "KMGT";
        const char *u = static_cast<const char *>(memchr(units, s.at[0] & ~32, 4));
        if (u == nullptr)
            return false;
        shift = 10 * static_cast<unsigned>(u - units + 1);
    }
    if (shift != 0 && v >> (64 - shift) != 0)
        return false;
    out = v << shift;
    return out <= (1ull << 40);
}

bool parse_size(span s, uint64_t &out) { return parse_bytes(s, out) && out >= (64u << 10); }

bool parse_hugetlb(span s, option_values &v) {
    span size = cut(s, ':');
    uint64_t count = 0;
    if (!(size.is("2M") || size.is("1G")) || !parse_number(s, count) || s.len != 0 || count == 0 ||
        count > 1u << 20)
        return false;
    v.hugetlb_shift = size.is("2M") ? 21 : 30;
    v.hugetlb_pages = static_cast<uint32_t>(count);
    return true;
}

bool parse_value(const option_row &row, span s) {
    char *field = reinterpret_cast<char *>(&values) + row.offset;
    switch (row.type) {
    case option_type::choice: {
        span names = {row.values, strlen(row.values)};
        for (uint8_t i = 0; i < row.choices; i++) {
            span name = cut(names, '|');
            if (name.len == s.len && memcmp(name.at, s.at, s.len) == 0) {
                *field = static_cast<char>(i);
                return true;
            }
        }
        return false;
    }
    case option_type::boolean:
        if (!s.is("0") && !s.is("1"))
            return false;
        *field = s.is("1");
        return true;
    case option_type::size: {
        uint64_t v = 0;
        if (!parse_size(s, v))
            return false;
        memcpy(field, &v, sizeof v);
        return true;
    }
    case option_type::range: {
        uint64_t ends[2] = {};
        span from = cut(s, '-');
        if (!parse_bytes(from, ends[0]) || !parse_bytes(s, ends[1]) || ends[0] >= ends[1])
            return false;
        memcpy(field, ends, sizeof ends);
        return true;
    }
    case option_type::hugetlb:
        return parse_hugetlb(s, values);
    case option_type::path:
        if (s.len == 0 || s.len >= sizeof values.exit_report)
            return false;
        memcpy(field, s.at, s.len);
        field[s.len] = 0;
        return true;
    }
    return false;
}

// True when the pair was understood; otherwise says what was wrong with it.
bool parse_pair(span pair, bool quiet) {
    span value = pair;
    span key = cut(value, '=');
    text_buffer<400> line;
    for (const option_row &row : kOptionTable) {
        if (!key.is(row.key))
            continue;
        if (key.len < pair.len && parse_value(row, value))
            return true;
        line << "PAGODA_OPTIONS: " << row.key << "=" << value << " is not valid: write " << row.key
             << "=" << row.values << "; the default holds";
        if (!quiet)
            warn(line);
        return false;
    }
    line << "PAGODA_OPTIONS: there is no option '" << key << "'; `pagoda options` lists them";
    if (!quiet)
        warn(line);
    return false;
}

} // namespace

int parse_options(const char *list, bool quiet) {
    int bad = 0;
    span rest = {list, strlen(list)};
    while (rest.len > 0) {
        span pair = cut(rest, ',');
        if (pair.len > 0 && !parse_pair(pair, quiet))
            bad++;
    }
    return bad;
}

static char **started_with = nullptr;

void note_environment(char **strings) { started_with = strings; }

void read_options_from_environment() {
    static constexpr char kName[] = "PAGODA_OPTIONS=";
    constexpr size_t kLen = sizeof kName - 1;
    if (sys::auxv(AT_SECURE) != 0)
        return;
    // libc's own name of it: a program may have something else that is called environ.
    char **strings = __environ != nullptr ? __environ : started_with;
    if (strings != nullptr) {
        for (char **e = strings; *e != nullptr; e++)
            if (strncmp(*e, kName, kLen) == 0)
                parse_options(*e + kLen);
        return;
    }
    // Called before libc or a constructor had it: the kernel's copy serves. Not on a small thread
    // stack.
    static char buf[32768];
    long n = sys::read_file("/proc/self/environ", buf, sizeof buf);
    for (long i = 0; i < n; i += static_cast<long>(strlen(buf + i)) + 1)
        if (strncmp(buf + i, kName, kLen) == 0)
            parse_options(buf + i + kLen);
}

} // namespace pagoda
