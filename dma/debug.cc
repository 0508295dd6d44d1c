#include "dma/debug.h"

#include "dma/complain.h"
#include "dma/debug_guard.h"
#include "dma/debug_table.h"
#include "dma/mapping.h"
#include "dma/mutex.h"
#include "hugepage/base.h"
#include "hugepage/provider.h"

#include <pagoda/slab.h>

#include <errno.h>
#include <stdlib.h>

// How many devices dma_mapping_error() has to tell of what it was asked. A program that is not
// position independent has its own copy of this, which is then the only one.
PAGODA_EXPORT int pagoda_dma_debugged;
int pagoda_dma_debugged = 0;

namespace pagoda::dma {

namespace {

pthread_mutex_t g_tables_lock = PTHREAD_MUTEX_INITIALIZER;
debug_table *g_tables; // of the process's devices

unsigned long long number(uint64_t address) { return address; }

uint64_t sum_of(const debug_record &r) {
    uint64_t sum = 0xcbf29ce484222325;
    const auto *memory = static_cast<const uint8_t *>(r.memory);
    if (memory != nullptr)
        r.owners.each_of_device(0, r.use.bytes, [&](size_t from, size_t bytes) {
            for (size_t i = from; i < from + bytes; i++)
                sum = (sum ^ memory[i]) * 0x100000001b3;
        });
    return sum;
}

// Before the processor's turn, or the end: what it did before. Told: nothing more is said.
void check_contents(const pagoda_device_state &s, const debug_record &r, const void *now) {
    size_t at = r.use.bytes;
    if (r.use.dir == DMA_TO_DEVICE) {
        if (r.memory != nullptr && sum_of(r) != r.sum)
            at = 0;
    } else if (r.guard != nullptr) {
        at = guard_written(*r.guard);
    }
    if (at == r.use.bytes)
        return;
    call_site made(r.use.caller), found(now);
    if (r.use.dir == DMA_TO_DEVICE)
        accuse("%s: the %zu bytes at %p (%#llx, %s, mapped from %s) were written by the processor "
               "while they were the device's: found from %s",
               s.name, r.use.bytes, r.memory, number(r.use.address), name_of(r.use.dir),
               made.text(), found.text());
    else
        accuse("%s: byte %zu of the %zu at %p (%#llx, %s, mapped from %s) was written by the "
               "processor while they were the device's: found from %s",
               s.name, at, r.use.bytes, r.memory, number(r.use.address), name_of(r.use.dir),
               made.text(), found.text());
}

void check_overlap(const pagoda_device_state &s, debug_table &table, const debug_record &made) {
    uint64_t first = made.by_memory.first, last = made.by_memory.last;
    interval *i = table.memory.find(first, last);
    for (; i != nullptr; i = interval_tree::next(i, first, last)) {
        const debug_record &r = debug_record::of_memory(i);
        if (&r == &made || (r.use.dir == DMA_TO_DEVICE && made.use.dir == DMA_TO_DEVICE))
            continue;
        call_site now(made.use.caller), before(r.use.caller);
        accuse("%s: the %zu bytes at %p are mapped %s from %s, and %zu of %p are already, %s "
               "from %s",
               s.name, made.use.bytes, made.memory, name_of(made.use.dir), now.text(), r.use.bytes,
               r.memory, name_of(r.use.dir), before.text());
        return;
    }
}

// What differs between how something was made and how it is undone. True: something does.
bool check_undo(const pagoda_device_state &s, const debug_record &r, const debug_use &undo) {
    bool function = r.use.by != undo.by, size = r.use.bytes != undo.bytes,
         direction = r.use.dir != undo.dir;
    if (!function && !size && !direction)
        return false;
    call_site made(r.use.caller), now(undo.caller);
    accuse("%s: %#llx was made by %s (%zu bytes, %s) from %s and is undone by %s (%zu bytes, %s) "
           "from %s: another%s%s%s",
           s.name, number(undo.address), maker_of(r.use.by), r.use.bytes, name_of(r.use.dir),
           made.text(), undoer_of(undo.by), undo.bytes, name_of(undo.dir), now.text(),
           function ? " function" : "", size ? " size" : "", direction ? " direction" : "");
    return true;
}

void say_unknown(const pagoda_device_state &s, const debug_table &table, const debug_use &undo) {
    call_site now(undo.caller);
    const debug_past *past = table.find_past(undo.address);
    if (past == nullptr) {
        accuse("%s: %#llx (%zu bytes) is undone by %s from %s and is not mapped", s.name,
               number(undo.address), undo.bytes, undoer_of(undo.by), now.text());
        return;
    }
    call_site made(past->made), undone(past->undone);
    accuse("%s: %#llx (%zu bytes) is undone by %s from %s and is not mapped any more: it was from "
           "%s to %s",
           s.name, number(undo.address), undo.bytes, undoer_of(undo.by), now.text(), made.text(),
           undone.text());
}

bool is_streaming(made_by by) { return by <= made_by::list; }

debug_record *make_record(const pagoda_device_state &s, const void *p, const debug_use &use) {
    auto *r = static_cast<debug_record *>(kzalloc(sizeof(debug_record), GFP_KERNEL | __GFP_NOWARN));
    if (r == nullptr) {
        fail(ENOMEM, "%s: no memory for dma-debug's record of %zu bytes", s.name, use.bytes);
        return nullptr;
    }
    r->use = use;
    r->owners.begin(use.bytes);
    r->memory = p;
    r->asked = use.by >= made_by::list;
    return r;
}

void add_record(pagoda_device_state &s, debug_record *r) {
    bool streaming = r->memory != nullptr && is_streaming(r->use.by);
    if (streaming && r->use.dir == DMA_TO_DEVICE)
        r->sum = sum_of(*r);
    {
        locked hold(s.debug->lock);
        s.debug->add(r);
        if (streaming)
            check_overlap(s, *s.debug, *r);
    }
    if (r->guard != nullptr)
        guard_begin(*r->guard,
                    {s.name, r->guard->memory, r->use.bytes, name_of(r->use.dir), r->use.caller});
}

void free_record(debug_record *r) {
    r->owners.end();
    kfree(r);
}

bool is_on_stack(const void *p) {
    auto at = reinterpret_cast<uintptr_t>(p);
    pthread_attr_t attributes;
    void *low = nullptr;
    size_t bytes = 0;
    if (at < reinterpret_cast<uintptr_t>(__builtin_frame_address(0)) || pagoda_virt_addr_valid(p) ||
        pthread_getattr_np(pthread_self(), &attributes) != 0)
        return false;
    pthread_attr_getstack(&attributes, &low, &bytes);
    pthread_attr_destroy(&attributes);
    return at - reinterpret_cast<uintptr_t>(low) < bytes;
}

// No misuse here, where it is copied; once.
void note_stack(pagoda_device_state &s, const debug_record &r) {
    bool *told = &s.debug->stack_told;
    if (__atomic_load_n(told, __ATOMIC_RELAXED) || !is_on_stack(r.memory) ||
        __atomic_exchange_n(told, true, __ATOMIC_RELAXED))
        return;
    call_site made(r.use.caller);
    complain("%s: the %zu bytes at %p, mapped from %s, are on the stack: a kernel maps none of it, "
             "and what is mapped must stay in its function until it is undone",
             s.name, r.use.bytes, r.memory, made.text());
}

// Of the process, at its end or its device's.
unsigned tell_left(const debug_table &table) {
    unsigned told = 0;
    interval *i = table.addresses.find(0, UINT64_MAX);
    for (; i != nullptr; i = interval_tree::next(i, 0, UINT64_MAX), told++) {
        const debug_record &r = debug_record::of_address(i);
        call_site made(r.use.caller);
        if (is_streaming(r.use.by))
            complain("%s: the %zu bytes at %p (%#llx, %s, mapped by %s from %s) are still mapped",
                     table.name, r.use.bytes, r.memory, number(r.use.address), name_of(r.use.dir),
                     maker_of(r.use.by), made.text());
        else
            complain("%s: the %zu bytes at %p (%#llx, %s from %s) were not freed", table.name,
                     r.use.bytes, r.memory, number(r.use.address), maker_of(r.use.by), made.text());
    }
    return told;
}

// After everything of the program's. With several devices all are told before anything ends.
__attribute__((destructor(101))) void tell_at_exit() {
    unsigned told = 0;
    {
        locked hold(g_tables_lock);
        for (debug_table *t = g_tables; t != nullptr; t = t->next) {
            locked one(t->lock);
            told += t->in->dead() ? 0 : tell_left(*t);
        }
    }
    if (told != 0)
        pagoda_misuse_told();
}

// The parent's tables, whose locks others may have had, are not looked at any more.
void forget_in_child() {
    pthread_mutex_init(&g_tables_lock, nullptr);
    g_tables = nullptr;
    pagoda_dma_debugged = 0;
}

int begin(pagoda_device_state &s, int level) {
    static bool watched;
    auto *table = static_cast<debug_table *>(kvzalloc(sizeof(debug_table), GFP_KERNEL));
    if (table == nullptr)
        return fail(ENOMEM, "%s: no memory for dma-debug", s.name);
    pthread_mutex_init(&table->lock, nullptr);
    table->name = s.name;
    table->in = s.space;
    table->guards = level == PAGODA_DMA_DEBUG_GUARD;
    locked hold(g_tables_lock);
    if (!watched && pthread_atfork(nullptr, nullptr, forget_in_child) != 0) {
        kvfree(table);
        return fail(ENOMEM, "%s: no memory for dma-debug", s.name);
    }
    watched = true;
    table->next = g_tables;
    g_tables = table;
    __atomic_fetch_add(&pagoda_dma_debugged, 1, __ATOMIC_RELAXED);
    s.debug = table;
    s.direct = false;
    return 0;
}

void end(pagoda_device_state &s, bool tell) {
    debug_table *table = s.debug;
    if (table == nullptr)
        return;
    s.debug = nullptr;
    if (s.space->dead()) { // a fork parent's: nothing is lost here
        kvfree(table);
        return;
    }
    {
        locked hold(g_tables_lock);
        for (debug_table **link = &g_tables; *link != nullptr; link = &(*link)->next)
            if (*link == table) {
                *link = table->next;
                __atomic_fetch_sub(&pagoda_dma_debugged, 1, __ATOMIC_RELAXED);
                break;
            }
    }
    unsigned told = tell ? tell_left(*table) : 0;
    while (interval *i = table->addresses.any()) {
        debug_record &r = debug_record::of_address(i);
        table->remove(&r);
        if (r.guard != nullptr) {
            guard_open(*r.guard);
            guard_abandon(r.guard);
        }
        free_record(&r);
    }
    kvfree(table);
    if (told != 0)
        pagoda_misuse_told();
}

} // namespace

dma_addr_t debug_map(pagoda_device_state &s, void *p, const debug_use &use,
                     dma_addr_t (*map)(pagoda_device_state &, void *, size_t, dma_data_direction)) {
    debug_record *r = make_record(s, p, use);
    if (r == nullptr)
        return DMA_MAPPING_ERROR;
    guarded *guard = s.debug->guards && check_usable(s) == 0
                         ? guard_copy(p, use.bytes, use.dir, &r->owners)
                         : nullptr;
    dma_addr_t address =
        guard != nullptr ? map(s, guard->copy, use.bytes, use.dir) : DMA_MAPPING_ERROR;
    if (address == DMA_MAPPING_ERROR) { // as it is without the guard
        if (guard != nullptr) {
            guard->dir = DMA_TO_DEVICE; // nothing comes back
            guard_end(guard);
        }
        guard = nullptr;
        address = map(s, p, use.bytes, use.dir);
    }
    if (address == DMA_MAPPING_ERROR) {
        free_record(r);
        return address;
    }
    r->use.address = address;
    r->guard = guard;
    note_stack(s, *r);
    add_record(s, r);
    return address;
}

bool debug_made(pagoda_device_state &s, const void *p, const debug_use &use) {
    debug_record *r = make_record(s, p, use);
    if (r != nullptr)
        add_record(s, r);
    return r != nullptr;
}

void debug_undo(pagoda_device_state &s, const debug_use &use, bool copy_back,
                void (*undo)(pagoda_device_state &, uint64_t, size_t, bool)) {
    debug_record *r;
    {
        locked hold(s.debug->lock);
        r = s.debug->find(use);
        if (r == nullptr) {
            say_unknown(s, *s.debug, use);
            return;
        }
        if (!is_streaming(r->use.by)) {
            check_undo(s, *r, use);
            return;
        }
        s.debug->remove(r);
        s.debug->note_past({use.address, r->use.caller, use.caller});
    }
    check_undo(s, *r, use);
    if (!r->asked) {
        call_site made(r->use.caller), now(use.caller);
        accuse("%s: dma_mapping_error() was never asked of %#llx (%zu bytes), mapped by %s from "
               "%s and undone from %s",
               s.name, number(use.address), r->use.bytes, maker_of(r->use.by), made.text(),
               now.text());
    }
    if ((r->guard == nullptr || !guard_open(*r->guard)) && !r->told)
        check_contents(s, *r, use.caller);
    if (undo != nullptr)
        undo(s, use.address, r->use.bytes, copy_back && r->use.dir != DMA_TO_DEVICE);
    if (r->guard != nullptr)
        guard_end(r->guard);
    free_record(r);
}

bool debug_free(pagoda_device_state &s, const debug_use &use, bool freed) {
    locked hold(s.debug->lock);
    debug_record *r = s.debug->find(use);
    if (freed) {
        if (r != nullptr && !is_streaming(r->use.by)) {
            check_undo(s, *r, use);
            s.debug->remove(r);
            s.debug->note_past({use.address, r->use.caller, use.caller});
            free_record(r);
        }
        return true;
    }
    if (r == nullptr && s.debug->find_past(use.address) == nullptr)
        return false;
    if (r != nullptr)
        return check_undo(s, *r, use);
    say_unknown(s, *s.debug, use);
    return true;
}

void debug_asked(pagoda_device_state &s, uint64_t address) {
    locked hold(s.debug->lock);
    interval *i = s.debug->addresses.find(address, address);
    for (; i != nullptr; i = interval_tree::next(i, address, address)) {
        debug_record &r = debug_record::of_address(i);
        if (r.use.address == address && !r.asked) {
            r.asked = true;
            return;
        }
    }
}

unsigned debug_list_length(pagoda_device_state &s, const debug_use &first) {
    locked hold(s.debug->lock);
    const debug_record *r = s.debug->find(first);
    if (r == nullptr) {
        say_unknown(s, *s.debug, first);
        return 0;
    }
    if (r->use.pieces == 0 || r->use.pieces == first.pieces)
        return first.pieces;
    call_site made(r->use.caller), now(first.caller);
    accuse("%s: a list of %u pieces at %#llx, mapped from %s, is undone with %u from %s", s.name,
           r->use.pieces, number(first.address), made.text(), first.pieces, now.text());
    return r->use.pieces;
}

void debug_synced(pagoda_device_state &s, const debug_use &part, bool for_device) {
    locked hold(s.debug->lock);
    debug_record *r = s.debug->best(part);
    if (r == nullptr || !is_streaming(r->use.by))
        return; // pages of dma_alloc_pages(); what is nothing at all is reported anyway
    call_site now(part.caller), made(r->use.caller);
    bool inside = r->contains(part);
    if (!inside)
        accuse("%s: %zu bytes at %#llx are synchronised from %s, beyond the mapping of %zu at "
               "%#llx from %s",
               s.name, part.bytes, number(part.address), now.text(), r->use.bytes,
               number(r->use.address), made.text());
    if (r->use.dir != part.dir && r->use.dir != DMA_BIDIRECTIONAL)
        accuse("%s: %#llx is synchronised %s from %s and was mapped %s, from %s", s.name,
               number(part.address), name_of(part.dir), now.text(), name_of(r->use.dir),
               made.text());
    uint64_t from = max_of(part.address, r->use.address) - r->use.address;
    uint64_t to = min_of(part.address + part.bytes, r->use.address + r->use.bytes) - r->use.address;
    if (r->guard != nullptr && !for_device && guard_pause(*r->guard))
        r->told = true;
    if (!for_device && !r->told)
        check_contents(s, *r, part.caller);
    bool sums = r->use.dir == DMA_TO_DEVICE;
    if (for_device) {
        if (r->guard != nullptr)
            guard_to_device(*r->guard, from, to - from);
        r->owners.give_to_device(from, to);
        if (r->guard != nullptr)
            guard_close(*r->guard);
    } else {
        if (r->guard != nullptr)
            guard_to_processor(*r->guard, from, to - from);
        if (r->guard != nullptr || sums)
            r->owners.give_to_processor(from, to);
    }
    if (sums)
        r->sum = sum_of(*r);
}

bool debug_guards(const pagoda_device_state &s) { return s.debug != nullptr && s.debug->guards; }

void debug_begin(pagoda_device_state &s) {
    int level = pagoda_dma_debug_option();
    if (level != PAGODA_DMA_DEBUG_OFF && begin(s, level) != 0)
        complain("%s", pagoda_device_error());
}

void debug_forget(pagoda_device_state &s) { end(s, true); }

} // namespace pagoda::dma

using namespace pagoda::dma;

PAGODA_EXPORT int pagoda_dma_debug(device *dev, pagoda_dma_debug_level level) {
    pagoda_device_state &s = *dev->state;
    if (level > PAGODA_DMA_DEBUG_GUARD)
        return -EINVAL;
    if (check_usable(s) != 0)
        return -ENODEV;
    pagoda_dma_debug_level now = s.debug == nullptr ? PAGODA_DMA_DEBUG_OFF
                                 : s.debug->guards  ? PAGODA_DMA_DEBUG_GUARD
                                                    : PAGODA_DMA_DEBUG_ON;
    if (now == level)
        return 0;
    if (live_mappings(s) != 0)
        return fail(EBUSY, "%s: dma-debug begins and ends while nothing is mapped", s.name);
    end(s, false);
    return level == PAGODA_DMA_DEBUG_OFF ? 0 : begin(s, level);
}

PAGODA_EXPORT void pagoda_dma_mapping_asked(device *dev, dma_addr_t address) {
    pagoda_device_state &s = *dev->state;
    if (s.debug != nullptr && address != DMA_MAPPING_ERROR && !s.space->dead())
        debug_asked(s, address);
}
