#include "lib/slab.h"

#include "hugepage/meta.h"
#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/device_pages.h"

namespace pagoda {

namespace {
constexpr unsigned kBitmaps = kDebug ? 3 : 2;

size_t record_size(const class_info &info) {
    return sizeof(slab) + kBitmaps * 8 * ((info.objects + 63u) / 64u);
}
} // namespace

slab *slab_create(unsigned cls, const class_info &info, gfp_t gfp, bool populate,
                  uint64_t device_mask) {
    static_assert(sizeof(slab) + kBitmaps * 8 * (32768 / 8 / 64) <= kMetaMax);
    slab *s = static_cast<slab *>(meta_alloc(record_size(info), gfp));
    if (s == nullptr && gfpflags_allow_blocking(gfp)) {
        zone_normal().squeeze(kPageSize);
        s = static_cast<slab *>(meta_alloc(record_size(info), gfp));
    }
    if (s == nullptr)
        return nullptr;
    page_state state = {};
    uint32_t first = pages_take(info.pages, info.start_order, device_mask, gfp, &state);
    if (first == kNoPage) {
        meta_free(s, record_size(info));
        return nullptr;
    }
    if (populate && !state.backed)
        sys::populate(reinterpret_cast<uintptr_t>(page_address(first)),
                      size_t{info.pages} << kPageShift);
    s->first = first;
    s->objects = info.objects;
    s->cls = static_cast<uint8_t>(cls);
    s->words = static_cast<uint8_t>((info.objects + 63u) / 64u);
    for (uint32_t i = 0; i < info.objects; i++)
        s->free_map()[i / 64] |= uint64_t{1} << (i % 64);
    page_at(first).npages = info.pages;
    for (uint32_t i = 0; i < (info.aligned ? 1u : info.pages); i++)
        page_at(first + i).slab = s;
    // Published with the first object: whoever frees one got it from here.
    __builtin_memset(g_pagemap.page_class + first, static_cast<int>(cls), info.pages);
    return s;
}

void slab_destroy(slab *s, const class_info &info) {
    PAGODA_INVARIANT(s->in_use == 0);
    for (uint32_t i = 0; i < (info.aligned ? 1u : info.pages); i++)
        page_at(s->first + i).slab = nullptr;
    pages_give(s->first, info.pages, GFP_KERNEL);
    meta_free(s, record_size(info));
}

unsigned slab_lists::list_for(const slab *s) {
    return s->in_use == 0 ? 0 : 1 + min_of(kOccupancies - 1, s->in_use * kOccupancies / s->objects);
}

void slab_lists::add(slab *s) {
    s->list = 0;
    update(s);
}

void slab_lists::update(slab *s) {
    unsigned list = s->in_use == s->objects ? 0 : list_for(s) + 1;
    if (list == s->list)
        return;
    if (s->list != 0)
        remove(s);
    if (list != 0) {
        slab *&head = heads_[list - 1];
        s->next = head;
        s->prev = nullptr;
        if (head != nullptr)
            head->prev = s;
        head = s;
        s->list = static_cast<uint8_t>(list);
    }
}

void slab_lists::remove(slab *s) {
    if (s->next != nullptr)
        s->next->prev = s->prev;
    if (s->prev != nullptr)
        s->prev->next = s->next;
    else
        heads_[s->list - 1] = s->next;
    s->list = 0;
}

slab *slab_lists::fullest() const {
    for (unsigned list = kOccupancies + 1; list-- > 0;)
        if (heads_[list] != nullptr)
            return heads_[list];
    return nullptr;
}

uint32_t slab_take(slab *s, const class_info &info, void **out, uint32_t want) {
    char *base = static_cast<char *>(page_address(s->first));
    uint64_t *map = s->free_map();
    uint32_t got = 0;
    for (uint32_t w = 0; w < s->words && got < want; w++) {
        uint64_t bits = map[w];
        while (bits != 0 && got < want) {
            uint32_t object = w * 64 + static_cast<uint32_t>(__builtin_ctzll(bits));
            bits &= bits - 1;
            out[got++] = base + size_t{object} * info.size;
        }
        map[w] = bits;
    }
    s->in_use = static_cast<uint16_t>(s->in_use + got);
    return got;
}

} // namespace pagoda
