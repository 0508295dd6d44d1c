#include "dma/iova_link.h"

#include "dma/complain.h"
#include "dma/ledger.h"
#include "dma/mapping.h"
#include "hugepage/provider.h"

#include <errno.h>

using namespace pagoda;
using namespace pagoda::dma;

namespace {

// What of an address lies inside its page.
uint64_t in_page(const pagoda_device_state &s, uint64_t at) {
    return at & (s.space->back_end().granule - 1);
}

} // namespace

PAGODA_EXPORT bool pagoda_dma_iova_try_alloc(device *dev, dma_iova_state *state, phys_addr_t at,
                                             size_t bytes) {
    pagoda_device_state &s = *dev->state;
    *state = {};
    if (bytes == 0 || bytes > SIZE_MAX / 2 || s.mode == PAGODA_DMA_BOUNCE ||
        !s.space->translates() || check_usable(s) != 0)
        return false;
    uint64_t address;
    if (s.space->reserve_addresses(align_up(bytes + in_page(s, at), s.space->back_end().granule),
                                   s.mask, &address) != 0)
        return false;
    *state = {address + in_page(s, at), bytes};
    return true;
}

PAGODA_EXPORT int pagoda_dma_iova_link(device *dev, dma_iova_state *state, phys_addr_t at,
                                       size_t offset, size_t bytes, dma_data_direction dir,
                                       unsigned long) {
    pagoda_device_state &s = *dev->state;
    int access = access_of(dir);
    uint64_t address = state->addr + offset;
    if (check_usable(s) != 0)
        return -ENODEV;
    if (access == 0 || bytes == 0 || offset > state->__size || bytes > state->__size - offset ||
        in_page(s, address) != in_page(s, at) || (offset != 0 && in_page(s, at) != 0))
        return fail(EIO, "%s: %zu bytes at offset %zu do not fit into the window of %zu", s.name,
                    bytes, offset, dma_iova_size(state));
    forget_sentence();
    auto *p = reinterpret_cast<void *>(at);
    int hold = pagoda_object_hold(p, bytes);
    if (hold != 0 && hold != -EFAULT)
        return explain_hold(s, hold, p, bytes);
    int error = s.space->map_at(address, p, bytes, access);
    if (error == 0) {
        error = ledger_add({s.space, address, p, bytes, entry_kind::piece, hold == 0}, true);
        if (error == 0)
            return 0;
        if (int kept = s.space->unmap_at(address, bytes); kept != 0)
            stays_mapped(s.name, address, bytes, kept, hold == 0 ? p : nullptr);
    }
    if (hold == 0)
        pagoda_object_release(p);
    return explain(s, error, bytes);
}

PAGODA_EXPORT void pagoda_dma_iova_unlink(device *dev, dma_iova_state *state, size_t offset,
                                          size_t bytes, dma_data_direction, unsigned long) {
    pagoda_device_state &s = *dev->state;
    if (s.space->dead())
        return;
    if (offset > state->__size || bytes > state->__size - offset) {
        complain("%s: %zu bytes at offset %zu are unlinked from a window of %zu", s.name, bytes,
                 offset, dma_iova_size(state));
        return;
    }
    for (size_t done = 0; done < bytes;) {
        uint64_t address = state->addr + offset + done;
        ledger_entry entry;
        if (!ledger_find(s.space, address, &entry) || entry.kind != entry_kind::piece ||
            entry.bytes > bytes - done || !ledger_remove(entry)) {
            complain("%s: no piece of at most %zu bytes is linked at %#llx", s.name, bytes - done,
                     static_cast<unsigned long long>(address));
            return;
        }
        if (int error = s.space->unmap_at(address, entry.bytes); error != 0) {
            stays_mapped(s.name, address, entry.bytes, error);
            ledger_put_back(entry);
        } else if (entry.held) {
            pagoda_object_release(entry.memory);
        }
        done += entry.bytes;
    }
}

PAGODA_EXPORT void pagoda_dma_iova_free(device *dev, dma_iova_state *state) {
    pagoda_device_state &s = *dev->state;
    if (state->__size == 0 || s.space->dead())
        return;
    uint64_t before = in_page(s, state->addr);
    uint64_t first = state->addr - before;
    uint64_t length = align_up(state->__size + before, s.space->back_end().granule);
    if (s.space->is_empty(first, length))
        s.space->free_addresses(first, length);
    else
        complain("%s: the window at %#llx is freed with something linked in it, and stays", s.name,
                 static_cast<unsigned long long>(state->addr));
    *state = {};
}
