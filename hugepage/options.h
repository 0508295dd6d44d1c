// PAGODA_OPTIONS=key=value,key=value. One table holds every option's key, type, range, default and
// sentence; the parser, `pagoda options` and the man page come from it.
#pragma once

#include "hugepage/base.h"

namespace pagoda {

enum class error_policy : uint8_t { abort, report };
enum class foreign_policy : uint8_t { ignore, report, abort };
enum class thp_policy : uint8_t { automatic, never, always };
enum class dma_debug_level : uint8_t { off, on, guard };
enum class percpu_policy : uint8_t { automatic, mm_cid, cpu_id, off };

struct option_values {
    error_policy on_error = error_policy::abort;
    foreign_policy foreign = foreign_policy::ignore;
    thp_policy thp = thp_policy::automatic;
    percpu_policy percpu = percpu_policy::automatic;
    dma_debug_level dma_debug = dma_debug_level::off; // what devices begin with
    uint8_t hugetlb_shift = 0;                        // 21 or 30; 0: no hugetlb pages
    uint32_t hugetlb_pages = 0;                       // how many of them at most
    uint64_t dirty_bytes = 8u << 20; // free memory kept for reuse whatever the heap's size
    uint64_t boot_bytes = 0;         // memory set aside at start, for memblock
    uint64_t mem_bytes = 0;          // how much of it memblock manages; 0: all
    uint64_t exclude_from = 0;       // a part of it that nobody gets
    uint64_t exclude_to = 0;
    uint64_t contig_bytes = 0;       // memory set aside at start, for large buffers
    uint64_t highmem_bytes = 0;      // of the HIGHMEM zone; 0: it is empty
    uint64_t limit_bytes = 0;        // what may be committed at most; 0: no limit of ours
    uint64_t reserve_bytes = 0;      // for GFP_ATOMIC, from the start; 0: the default, when wanted
    uint64_t kmalloc_max = 4u << 20; // what kmalloc serves at most
    bool init_on_alloc = false;      // all memory handed out is zeroed
    bool exit_check = true;          // look for double frees in the caches at exit
    char exit_report[512] = {};      // file that gets one JSON line at exit; empty: none
};

enum class option_type : uint8_t { choice, size, range, boolean, hugetlb, path };

struct option_row {
    const char *key;
    option_type type;
    const char *values;   // what may be written, for people
    const char *fallback; // the default, as it would be written
    const char *sentence;
    uint16_t offset; // of the field in option_values
    uint8_t choices; // choice: how many names `values` holds, in the order of the enum
};

// The table, and how many rows it has.
extern const option_row kOptionTable[];
extern const size_t kOptionCount;

// The values in force: defaults until parse_options ran.
const option_values &options();

// mallopt and tests change single values at run time.
option_values &mutable_options();

// Reads one string (not the environment). Each unknown key or bad value is one line on stderr and
// leaves the default; returns how many there were. `quiet` suppresses the lines.
int parse_options(const char *list, bool quiet = false);

// The environment as a constructor got it, for as long as libc has not set its own pointer.
void note_environment(char **strings);

// Reads PAGODA_OPTIONS from libc's environment, else from the one noted, else from
// /proc/self/environ. Does nothing under AT_SECURE.
void read_options_from_environment();

} // namespace pagoda
