#include "dma/managed.h"

#include "dma/sentence.h"

#include "hugepage/base.h"

#include <errno.h>
#include <pagoda/devres.h>
#include <pagoda/io.h>
#include <pagoda/mm.h>
#include <pagoda/slab.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

namespace pagoda::dma {

// One thing to release. Memory follows its item at once.
struct alignas(16) item {
    item *older;
    void (*release)(void *data); // NULL: memory
    void *data;
    size_t bytes;
};

struct managed {
    pthread_mutex_t lock;
    item *newest;
};

namespace {

void *memory_of(item *i) { return i + 1; }

// The device's list, made at the first use. NULL: no memory, or the device is gone; errno says.
managed *list_of(pagoda_device_state *state) {
    if (state == nullptr || state->gone.load(std::memory_order_relaxed)) {
        facts f;
        f.device = state != nullptr ? state->name : "";
        say(step::gone, ENODEV, f);
        return nullptr;
    }
    managed *list = __atomic_load_n(&state->managed, __ATOMIC_ACQUIRE);
    if (list != nullptr)
        return list;
    auto *made = static_cast<managed *>(kzalloc(sizeof(managed), GFP_KERNEL));
    if (made == nullptr) {
        fail(ENOMEM, "no memory for the device's managed resources");
        return nullptr;
    }
    pthread_mutex_init(&made->lock, nullptr);
    if (__atomic_compare_exchange_n(&state->managed, &list, made, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE))
        return made;
    kfree(made); // another thread was faster
    return list;
}

void push(managed *list, item *i) {
    pthread_mutex_lock(&list->lock);
    i->older = list->newest;
    list->newest = i;
    pthread_mutex_unlock(&list->lock);
}

// Takes the newest item for which `which` is true out of the list; NULL: none. `instead` gets its
// place where it is not NULL.
template <class F> item *take(managed *list, F which, item *instead = nullptr) {
    item *found = nullptr;
    pthread_mutex_lock(&list->lock);
    for (item **at = &list->newest; *at != nullptr; at = &(*at)->older)
        if (which(*at)) {
            found = *at;
            *at = found->older;
            if (instead != nullptr) {
                instead->older = found->older;
                *at = instead;
            }
            break;
        }
    pthread_mutex_unlock(&list->lock);
    return found;
}

item *take_memory(pagoda_device_state *state, const void *p, item *instead = nullptr) {
    managed *list = list_of(state); // not the parent's, whose lock may be held for ever
    if (list == nullptr)
        return nullptr;
    item *found = take(
        list, [p](item *i) { return i->release == nullptr && memory_of(i) == p; }, instead);
    if (found == nullptr)
        fail(EINVAL, "%p is not memory of devm_kmalloc() for this device", p);
    return found;
}

item *new_memory(size_t size, gfp_t gfp) {
    size_t bytes;
    auto *i = __builtin_add_overflow(size, sizeof(item), &bytes)
                  ? nullptr
                  : static_cast<item *>(kmalloc(bytes, gfp));
    if (i == nullptr)
        return nullptr;
    i->release = nullptr;
    i->bytes = size;
    return i;
}

} // namespace

int managed_add(pagoda_device_state *state, void (*release)(void *data), void *data) {
    managed *list = list_of(state);
    if (list == nullptr)
        return -errno;
    auto *i = static_cast<item *>(kzalloc(sizeof(item), GFP_KERNEL));
    if (i == nullptr)
        return fail(ENOMEM, "%s: no memory for one more managed resource", state->name);
    i->release = release;
    i->data = data;
    push(list, i);
    return 0;
}

bool managed_remove(pagoda_device_state *state, void (*release)(void *data), void *data) {
    managed *list = state->gone.load(std::memory_order_relaxed) ? nullptr : state->managed;
    item *found = list == nullptr ? nullptr : take(list, [=](item *each) {
        return each->release == release && each->data == data;
    });
    kfree(found);
    return found != nullptr;
}

void managed_release(pagoda_device_state *state) {
    managed *list = state->managed;
    if (list == nullptr)
        return;
    while (item *i = take(list, [](item *) { return true; })) {
        if (i->release != nullptr)
            i->release(i->data);
        kfree(i);
    }
    state->managed = nullptr;
    pthread_mutex_destroy(&list->lock);
    kfree(list);
}

} // namespace pagoda::dma

using namespace pagoda::dma;

PAGODA_EXPORT void *pagoda_devm_kmalloc(device *dev, size_t size, gfp_t gfp) {
    managed *list = list_of(dev->state);
    item *i = list == nullptr ? nullptr : new_memory(size, gfp);
    if (i == nullptr)
        return nullptr;
    push(list, i);
    return memory_of(i);
}

PAGODA_EXPORT void *pagoda_devm_krealloc(device *dev, void *p, size_t size, gfp_t gfp) {
    if (p == nullptr)
        return pagoda_devm_kmalloc(dev, size, gfp);
    item *made = new_memory(size, gfp);
    if (made == nullptr)
        return nullptr;
    // What was managed after the old one may use it: so the new one is released when it would be.
    item *old = take_memory(dev->state, p, made);
    if (old == nullptr) {
        kfree(made);
        return nullptr;
    }
    memcpy(memory_of(made), p, pagoda::min_of(old->bytes, size));
    kfree(old);
    return memory_of(made);
}

PAGODA_EXPORT void pagoda_devm_kfree(device *dev, const void *p) {
    if (p != nullptr)
        kfree(take_memory(dev->state, p));
}

PAGODA_EXPORT void *pagoda_devm_kmemdup(device *dev, const void *from, size_t size, gfp_t gfp) {
    void *copy = pagoda_devm_kmalloc(dev, size, gfp);
    if (copy != nullptr)
        memcpy(copy, from, size);
    return copy;
}

PAGODA_EXPORT char *pagoda_devm_kstrdup(device *dev, const char *text, gfp_t gfp) {
    if (text == nullptr)
        return nullptr;
    return static_cast<char *>(pagoda_devm_kmemdup(dev, text, strlen(text) + 1, gfp));
}

PAGODA_EXPORT char *pagoda_devm_kvasprintf(device *dev, gfp_t gfp, const char *format,
                                           va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(nullptr, 0, format, again);
    va_end(again);
    auto bytes = static_cast<size_t>(length) + 1;
    auto *text = length < 0 ? nullptr : static_cast<char *>(pagoda_devm_kmalloc(dev, bytes, gfp));
    if (text != nullptr)
        vsnprintf(text, bytes, format, arguments);
    return text;
}

PAGODA_EXPORT char *pagoda_devm_kasprintf(device *dev, gfp_t gfp, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = pagoda_devm_kvasprintf(dev, gfp, format, arguments);
    va_end(arguments);
    return text;
}

PAGODA_EXPORT int pagoda_devm_add_action(device *dev, void (*action)(void *), void *data) {
    return managed_add(dev->state, action, data);
}

PAGODA_EXPORT int pagoda_devm_remove_action(device *dev, void (*action)(void *), void *data,
                                            bool run) {
    if (!managed_remove(dev->state, action, data))
        return fail(ENOENT, "%s has no such action", dev->name);
    if (run)
        action(data);
    return 0;
}

namespace {

void end_mapping(void *addr) { pagoda_iounmap(addr); }

// `order` stands in the lowest bits of the address.
void end_pages(void *tagged) {
    auto at = reinterpret_cast<uintptr_t>(tagged);
    free_pages(at & PAGE_MASK, static_cast<unsigned>(at & ~PAGE_MASK));
}

// By its range: the claim itself may have been ended by other means.
struct managed_claim {
    resource_size_t start, bytes;
};

void end_claim(void *of) {
    auto *c = static_cast<managed_claim *>(of);
    pagoda_release_mem_region(c->start, c->bytes);
    kfree(c);
}

// NULL: errno says why.
resource *claim(device *dev, resource_size_t start, resource_size_t bytes, const char *name) {
    auto *c = static_cast<managed_claim *>(kmalloc(sizeof(managed_claim), GFP_KERNEL));
    if (c == nullptr) {
        fail(ENOMEM, "%s: no memory for the record of a claim", dev->name);
        return nullptr;
    }
    *c = {start, bytes};
    resource *claimed = pagoda_request_mem_region(start, bytes, name);
    if (claimed != nullptr && managed_add(dev->state, end_claim, c) == 0)
        return claimed;
    int error = errno;
    if (claimed != nullptr)
        pagoda_release_mem_region(start, bytes);
    kfree(c);
    errno = error;
    return nullptr;
}

bool unclaim(device *dev, resource_size_t start, resource_size_t bytes) {
    managed *list = list_of(dev->state);
    item *found = list == nullptr ? nullptr : take(list, [=](item *i) {
        auto *c = static_cast<managed_claim *>(i->data);
        return i->release == end_claim && c->start == start && c->bytes == bytes;
    });
    if (found == nullptr)
        return false;
    end_claim(found->data);
    kfree(found);
    return true;
}

} // namespace

PAGODA_EXPORT void *pagoda_devm_ioremap(device *dev, resource_size_t phys, resource_size_t size,
                                        bool combine) {
    void *at = combine ? pagoda_ioremap_wc(phys, size) : pagoda_ioremap(phys, size);
    if (at == nullptr || managed_add(dev->state, end_mapping, at) == 0)
        return at;
    int error = errno;
    pagoda_iounmap(at);
    errno = error;
    return nullptr;
}

PAGODA_EXPORT void pagoda_devm_iounmap(device *dev, void *addr) {
    pagoda_devm_remove_action(dev, end_mapping, addr, true);
}

PAGODA_EXPORT void *pagoda_devm_ioremap_resource(device *dev, const resource *res, bool combine) {
    if (res == nullptr || resource_type(res) != IORESOURCE_MEM)
        return ERR_PTR(fail(EINVAL, "%s: the resource is not device memory", dev->name));
    if (claim(dev, res->start, resource_size(res), dev->name) == nullptr)
        return ERR_PTR(-errno);
    void *at = pagoda_devm_ioremap(dev, res->start, resource_size(res), combine);
    if (at != nullptr)
        return at;
    int error = errno;
    unclaim(dev, res->start, resource_size(res));
    return ERR_PTR(-error);
}

PAGODA_EXPORT unsigned long pagoda_devm_get_free_pages(device *dev, gfp_t gfp, unsigned int order) {
    unsigned long at = order <= MAX_PAGE_ORDER ? __get_free_pages(gfp, order) : 0;
    if (at == 0 || managed_add(dev->state, end_pages, reinterpret_cast<void *>(at | order)) == 0)
        return at;
    free_pages(at, order);
    return 0;
}

PAGODA_EXPORT void pagoda_devm_free_pages(device *dev, unsigned long address) {
    for (unsigned long order = 0; order <= MAX_PAGE_ORDER; order++) {
        auto *tagged = reinterpret_cast<void *>(address | order);
        if (address % PAGE_SIZE == 0 && managed_remove(dev->state, end_pages, tagged)) {
            end_pages(tagged);
            return;
        }
    }
    fail(EINVAL, "%#lx is no block of devm_get_free_pages() for this device", address);
}

PAGODA_EXPORT resource *pagoda_devm_request_mem_region(device *dev, resource_size_t start,
                                                       resource_size_t n, const char *name) {
    return claim(dev, start, n, name);
}

PAGODA_EXPORT void pagoda_devm_release_mem_region(device *dev, resource_size_t start,
                                                  resource_size_t n) {
    if (!unclaim(dev, start, n))
        fail(EINVAL, "%s: the claim of %#llx is none of devm_request_mem_region()", dev->name,
             static_cast<unsigned long long>(start));
}
