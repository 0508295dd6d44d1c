#include "dma/claim.h"

#include "hugepage/base.h"

#include <errno.h>
#include <pagoda/slab.h>

namespace pagoda::dma {
namespace {

struct claim {
    resource range; // first: what the program has
    claim *next;
    const bus *owner;
};

pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER;
claim *g_claims;

// A new claim, or NULL: errno and the sentence say why.
resource *add(bus &b, int bar, uint64_t start, uint64_t bytes, const char *name) {
    auto *made = static_cast<claim *>(kzalloc(sizeof(claim), GFP_KERNEL));
    if (made == nullptr) {
        fail(ENOMEM, "no memory for a claim");
        return nullptr;
    }
    made->range = {start, start + bytes - 1, name, b.pci.resource[bar].flags, &b.pci.resource[bar]};
    made->owner = &b;
    facts f;
    f.at = start;
    f.bytes = bytes;
    pthread_mutex_lock(&g_lock);
    const claim *other = g_claims;
    while (other != nullptr && (other->range.end < start || other->range.start > made->range.end))
        other = other->next;
    if (other == nullptr) {
        made->next = g_claims;
        g_claims = made;
    } else {
        f.driver = other->range.name != nullptr ? other->range.name : "another driver";
    }
    pthread_mutex_unlock(&g_lock);
    if (other == nullptr)
        return &made->range;
    kfree(made);
    say(step::claim, EBUSY, f);
    return nullptr;
}

template <class F> int end(F which) {
    int ended = 0;
    pthread_mutex_lock(&g_lock);
    for (claim **at = &g_claims; *at != nullptr;) {
        claim *c = *at;
        if (!which(*c)) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        kfree(c);
        ended++;
    }
    pthread_mutex_unlock(&g_lock);
    return ended;
}

int release(uint64_t start, uint64_t bytes) {
    return end([=](const claim &c) {
        return bytes != 0 && c.range.start == start && c.range.end == start + bytes - 1;
    });
}

bool has(const pci_dev *pdev, int bar) {
    return bar >= 0 && bar < PCI_ROM_RESOURCE && pdev->resource[bar].flags != 0;
}

} // namespace

void claims_end(const bus *b) {
    end([b](const claim &c) { return c.owner == b; });
}

void claims_forget() {
    pthread_mutex_init(&g_lock, nullptr); // another thread of the parent may have held it
    g_claims = nullptr;
}

} // namespace pagoda::dma

using namespace pagoda::dma;

PAGODA_EXPORT resource *pagoda_request_mem_region(resource_size_t start, resource_size_t n,
                                                  const char *name) {
    int bar = -1;
    if (bus *b = bus_at(start, n, &bar))
        return add(*b, bar, start, n, name);
    facts f;
    f.at = start;
    f.bytes = n;
    say(step::address, ENXIO, f);
    return nullptr;
}

PAGODA_EXPORT void pagoda_release_mem_region(resource_size_t start, resource_size_t n) {
    if (release(start, n) != 0)
        return;
    facts f;
    f.at = start;
    f.bytes = n;
    say(step::claim, EINVAL, f);
}

PAGODA_EXPORT void pagoda_pci_release_region(pci_dev *pdev, int bar) {
    for (int i = 0; i < PCI_ROM_RESOURCE; i++)
        if ((bar == -1 || bar == i) && has(pdev, i))
            release(pdev->resource[i].start, resource_size(&pdev->resource[i]));
}

PAGODA_EXPORT int pagoda_pci_request_region(pci_dev *pdev, int bar, const char *name) {
    bus *b = bus_of(pdev);
    if (b == nullptr)
        return -ENODEV;
    if (bar < -1 || bar >= PCI_ROM_RESOURCE) {
        facts f = facts_of(*b);
        f.number = bar;
        return say(step::bar_map, ENXIO, f);
    }
    for (int i = 0; i < PCI_ROM_RESOURCE; i++) {
        if ((bar != -1 && bar != i) || !has(pdev, i))
            continue;
        const resource &r = pdev->resource[i];
        if (add(*b, i, r.start, resource_size(&r), name) != nullptr)
            continue;
        int error = -errno;
        for (int j = 0; j < i && bar == -1; j++) // those before it were ours
            pagoda_pci_release_region(pdev, j);
        return error;
    }
    return 0;
}
