#include "dma/sg_mapping.h"

#include "dma/complain.h"
#include "dma/debug.h"
#include "dma/ledger.h"
#include "dma/mapping.h"
#include "hugepage/base.h"
#include "hugepage/provider.h"

#include <errno.h>

namespace pagoda::dma {

namespace {

struct request {
    pagoda_device_state &s;
    dma_data_direction dir;
    unsigned long attrs;
    const void *caller;
    const scatterlist *sgl;
    int nents;
    uint64_t boundary = s.boundary; // the same for the whole list
};

// What dma-debug notes of a piece.
debug_use use_of(const request &r, uint64_t address, const scatterlist *sg) {
    return {address,       sg->length, r.dir,
            made_by::list, r.caller,   sg == r.sgl ? static_cast<unsigned>(r.nents) : 0};
}

uint64_t map_single(const request &r, scatterlist *sg) {
    return r.s.debug != nullptr ? map_debugged(r.s, sg_virt(sg), use_of(r, 0, sg))
                                : pagoda_dma_map(&r.s.dev, sg_virt(sg), sg->length, r.dir, r.attrs);
}

void unmap_single(const request &r, uint64_t address, const scatterlist *sg, unsigned long attrs) {
    if (r.s.debug != nullptr)
        unmap_debugged(r.s, use_of(r, address, sg), attrs);
    else
        pagoda_dma_unmap(&r.s.dev, address, sg->length, r.dir, attrs);
}

uint64_t map_copy(const request &r, scatterlist *sg) {
    return r.s.debug != nullptr ? debug_map(r.s, sg_virt(sg), use_of(r, 0, sg), map_by_copy)
                                : map_by_copy(r.s, sg_virt(sg), sg->length, r.dir);
}

// Puts pieces together to segments, in the list's first entries.
class segments {
  public:
    segments(const request &r, scatterlist *sgl)
        : most_(r.s.max_segment), boundary_(r.boundary), first_(sgl) {}

    void add(uint64_t address, unsigned bytes) {
        if (count_ != 0 && last_->dma_address + last_->dma_length == address &&
            uint64_t{last_->dma_length} + bytes <= most_ &&
            !crosses(last_->dma_address, uint64_t{last_->dma_length} + bytes, boundary_)) {
            last_->dma_length += bytes;
            return;
        }
        last_ = count_++ == 0 ? first_ : sg_next(last_);
        last_->dma_address = address;
        last_->dma_length = bytes;
    }
    // The entry behind the last one says so.
    void end() {
        if (scatterlist *next = count_ == 0 ? first_ : sg_next(last_)) {
            next->dma_address = DMA_MAPPING_ERROR;
            next->dma_length = 0;
        }
    }
    int count() const { return count_; }

  private:
    uint64_t most_, boundary_;
    scatterlist *first_;
    scatterlist *last_ = nullptr;
    int count_ = 0;
};

// Walks the addresses that the segments give to the pieces.
class addresses {
  public:
    explicit addresses(scatterlist *sgl) : segment_(sgl) {}

    // That of the next piece; false: the segments hold no such piece.
    bool next(unsigned bytes, uint64_t *address) {
        if (segment_ != nullptr && used_ == segment_->dma_length && used_ != 0) {
            segment_ = sg_next(segment_);
            used_ = 0;
        }
        if (segment_ == nullptr || bytes == 0 || bytes > segment_->dma_length - used_)
            return false;
        *address = segment_->dma_address + used_;
        used_ += bytes;
        return true;
    }

  private:
    scatterlist *segment_;
    unsigned used_ = 0;
};

// Whole pages that are not the heap's.
bool may_run(const pagoda_device_state &s, scatterlist *sg) {
    void *p = sg_virt(sg);
    uintptr_t ends = reinterpret_cast<uintptr_t>(p) | sg->length;
    if (p == nullptr || sg->length == 0 || (ends & (s.space->back_end().granule - 1)) != 0 ||
        pagoda_virt_addr_valid(p))
        return false;
    int hold = pagoda_object_hold(p, sg->length);
    if (hold == 0)
        pagoda_object_release(p);
    return hold == -EFAULT;
}

// Where a piece goes that comes at `offset` of a range, without crossing a boundary for nothing.
// The range is aligned to its size, rounded up to a power of two.
uint64_t place(uint64_t offset, unsigned bytes, uint64_t boundary) {
    return bytes - 1 <= boundary && crosses(offset, bytes, boundary)
               ? align_up(offset, boundary + 1)
               : offset;
}

struct run {
    int pieces;
    uint64_t bytes; // of addresses
};

// The run that begins here; no pieces: none that is worth it.
run find_run(const request &r, scatterlist *sg, int left) {
    run found = {};
    uint64_t memory = 0;
    // Under the guard each piece is a copy.
    if (!r.s.space->translates() || r.s.mode == PAGODA_DMA_BOUNCE || debug_guards(r.s))
        return {};
    for (; sg != nullptr && found.pieces < min_of(left, kRunAtMost) && may_run(r.s, sg);
         sg = sg_next(sg)) {
        found.bytes = place(found.bytes, sg->length, r.boundary) + sg->length;
        memory += sg->length;
        found.pieces++;
    }
    return found.pieces > 1 && memory > kBounceAtMost ? found : run{};
}

bool unmap_piece(const request &r, uint64_t address, unsigned bytes) {
    int error = r.s.space->unmap_at(address, bytes);
    if (error != 0)
        stays_mapped(r.s.name, address, bytes, error);
    return error == 0;
}

// 0, or -errno with nothing mapped.
int map_run(const request &r, scatterlist *sg, const run &of, segments &out) {
    uint64_t base;
    int error =
        count_mappings(r.s, 0) ? r.s.space->reserve_addresses(of.bytes, r.s.mask, &base) : -ENOMEM;
    if (error != 0)
        return error;
    uint64_t offset = 0;
    int done = 0, recorded = 0;
    for (scatterlist *at = sg; done < of.pieces && error == 0; at = sg_next(at)) {
        offset = place(offset, at->length, r.boundary);
        error = r.s.space->map_at(base + offset, sg_virt(at), at->length, access_of(r.dir));
        done += error == 0;
        if (error == 0 && r.s.debug != nullptr) {
            error = debug_made(r.s, sg_virt(at), use_of(r, base + offset, at)) ? 0 : -ENOMEM;
            recorded += error == 0;
        }
        offset += at->length;
    }
    if (error == 0)
        error = ledger_add({r.s.space, base, sg_virt(sg), of.bytes, entry_kind::run, false}, true);
    offset = 0;
    if (error != 0) {
        bool free = true;
        for (; done > 0; done--, sg = sg_next(sg)) {
            offset = place(offset, sg->length, r.boundary);
            if (recorded-- > 0)
                debug_undo(r.s, use_of(r, base + offset, sg), false, nullptr);
            free &= unmap_piece(r, base + offset, sg->length);
            offset += sg->length;
        }
        if (free)
            r.s.space->free_addresses(base, of.bytes);
        return error;
    }
    count_mappings(r.s, 1);
    for (int i = 0; i < of.pieces; i++, sg = sg_next(sg)) {
        offset = place(offset, sg->length, r.boundary);
        sg->dma_flags = i == 0 ? kRunBegins : kRunGoesOn;
        out.add(base + offset, sg->length);
        offset += sg->length;
    }
    return 0;
}

// A piece by itself. What crosses a boundary where it lies is copied to where it does not.
uint64_t map_piece(const request &r, scatterlist *sg) {
    uint64_t boundary = r.boundary;
    uint64_t at = map_single(r, sg);
    if (at == DMA_MAPPING_ERROR || !crosses(at, sg->length, boundary) || sg->length - 1 > boundary)
        return at;
    unmap_single(r, at, sg, DMA_ATTR_SKIP_CPU_SYNC);
    at = map_copy(r, sg);
    if (at != DMA_MAPPING_ERROR && !crosses(at, sg->length, boundary))
        return at;
    if (at != DMA_MAPPING_ERROR)
        unmap_single(r, at, sg, DMA_ATTR_SKIP_CPU_SYNC);
    fail(EIO,
         "%s: a piece of %u bytes crosses a boundary of %#llx, and cannot be copied to where it "
         "does not",
         r.s.name, sg->length, static_cast<unsigned long long>(boundary));
    return DMA_MAPPING_ERROR;
}

// A run that is being undone, piece by piece. Its addresses are given back when none is left.
class ending_run {
  public:
    explicit ending_run(const request &r) : r_(r) {}

    void begin(uint64_t address) {
        known_ = ledger_find(r_.s.space, address, &entry_) && entry_.kind == entry_kind::run &&
                 ledger_remove(entry_);
        is_open_ = true;
        if (!known_)
            complain("%s: a list with %#llx is unmapped and is not mapped", r_.s.name,
                     static_cast<unsigned long long>(address));
    }
    bool is_open() const { return is_open_; }
    void piece(uint64_t address, unsigned bytes) {
        if (known_)
            unmap_piece(r_, address, bytes);
    }
    void end() {
        if (is_open_ && known_ && r_.s.space->is_empty(entry_.address, entry_.bytes)) {
            r_.s.space->free_addresses(entry_.address, entry_.bytes);
            count_mappings(r_.s, -1);
        } else if (is_open_ && known_) {
            ledger_put_back(entry_);
        }
        is_open_ = false;
    }

  private:
    const request &r_;
    ledger_entry entry_ = {};
    bool is_open_ = false;
    bool known_ = false;
};

void unmap(const request &r, scatterlist *sgl, int nents) {
    addresses walk(sgl);
    ending_run run(r);
    scatterlist *sg = sgl;
    for (int i = 0; i < nents && sg != nullptr; i++, sg = sg_next(sg)) {
        uint64_t at;
        if (!walk.next(sg->length, &at)) {
            complain("%s: a list of %d pieces is unmapped and is not mapped so, from piece %d on",
                     r.s.name, nents, i);
            break;
        }
        if (sg->dma_flags != kRunGoesOn)
            run.end();
        if (sg->dma_flags != 0 && r.s.debug != nullptr)
            debug_undo(r.s, use_of(r, at, sg), false, nullptr);
        if (sg->dma_flags == kRunBegins)
            run.begin(at);
        if (run.is_open())
            run.piece(at, sg->length);
        else
            unmap_single(r, at, sg, r.attrs);
    }
    run.end();
    sgl->dma_length = 0; // so that a second time is noticed
}

int map(const request &r, scatterlist *sgl, int nents) {
    segments out(r, sgl);
    scatterlist *sg = sgl;
    int done = 0;
    int no_run_before = 0; // the pieces of a run that could not be mapped go one by one
    while (done < nents && sg != nullptr) {
        run of = done >= no_run_before ? find_run(r, sg, nents - done) : run{};
        if (of.pieces != 0) {
            if (map_run(r, sg, of, out) == 0) {
                done += of.pieces;
                for (int i = 0; i < of.pieces; i++)
                    sg = sg_next(sg);
                continue;
            }
            no_run_before = done + of.pieces;
        }
        uint64_t at = map_piece(r, sg);
        if (at == DMA_MAPPING_ERROR)
            break;
        sg->dma_flags = 0;
        out.add(at, sg->length);
        done++;
        sg = sg_next(sg);
    }
    out.end();
    if (done == nents)
        return out.count();
    int error = sg == nullptr
                    ? fail(EINVAL, "%s: the list ends before its %d pieces do", r.s.name, nents)
                    : -errno;
    if (done != 0)
        unmap({r.s, r.dir, r.attrs | DMA_ATTR_SKIP_CPU_SYNC, r.caller, sgl, nents}, sgl, done);
    errno = -error;
    return error;
}

// What dma_map_sgtable() may return.
int list_error(int error) {
    switch (error) {
    case -EINVAL:
    case -ENOENT: // an object that was freed
    case -ERANGE: // one that ends before its piece
    case -EFAULT:
        return -EINVAL;
    case -ENOMEM:
    case -ENOSPC:
        return -ENOMEM;
    default:
        return -EIO;
    }
}

} // namespace

} // namespace pagoda::dma

using namespace pagoda::dma;

PAGODA_EXPORT int pagoda_dma_map_sg(device *dev, scatterlist *sgl, int nents,
                                    dma_data_direction dir, unsigned long attrs) {
    pagoda_device_state &s = *dev->state;
    if (sgl == nullptr || nents <= 0 || access_of(dir) == 0)
        return fail(EINVAL, "%s: no list, no pieces or no direction to map", s.name);
    int segments = map({s, dir, attrs, __builtin_return_address(0), sgl, nents}, sgl, nents);
    return segments < 0 ? list_error(segments) : segments;
}

PAGODA_EXPORT void pagoda_dma_unmap_sg(device *dev, scatterlist *sgl, int nents,
                                       dma_data_direction dir, unsigned long attrs) {
    pagoda_device_state &s = *dev->state;
    const void *caller = __builtin_return_address(0);
    if (nents <= 0 || s.space->dead())
        return;
    if (access_of(dir) == 0) {
        complain("%s: a list of %d pieces is unmapped without a direction: nothing is done", s.name,
                 nents);
        return;
    }
    if (s.debug != nullptr)
        nents = static_cast<int>(debug_list_length(
            s, use_of({s, dir, attrs, caller, sgl, nents}, sgl->dma_address, sgl)));
    if (nents > 0)
        unmap({s, dir, attrs, caller, sgl, nents}, sgl, nents);
}

PAGODA_EXPORT void pagoda_dma_sync_sg(device *dev, scatterlist *sgl, int nents,
                                      dma_data_direction dir, bool for_device) {
    addresses walk(sgl);
    scatterlist *sg = sgl;
    for (int i = 0; i < nents && sg != nullptr; i++, sg = sg_next(sg)) {
        uint64_t at;
        if (!walk.next(sg->length, &at)) {
            complain("%s: a list of %d pieces is synchronised and is not mapped so", dev->name,
                     nents);
            return;
        }
        if (sg->dma_flags != 0 && dev->state->debug == nullptr) // pages of a run are not copied
            continue;
        sync_mapping(*dev->state, at, sg->length, dir, for_device, __builtin_return_address(0));
    }
}
