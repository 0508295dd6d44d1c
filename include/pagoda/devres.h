/* Managed resources: what goes with a device when it is closed, in the reverse order of its making,
 * so that a driver needs no ladder of clean-up. Any thread may use these functions; the device must
 * not be closed meanwhile.
 *
 * Source: Documentation/driver-api/driver-model/devres.rst and include/linux/device/devres.h of the
 * kernel.
 */
#ifndef PAGODA_DEVRES_H
#define PAGODA_DEVRES_H

#include <pagoda/device.h>
#include <pagoda/gfp.h>
#include <pagoda/ioport.h>

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef __iomem
#define __iomem
#endif

/* Errors in the shape of pointers: the last page of addresses, which nothing has. */
#define PAGODA_MAX_ERRNO 4095
static inline void *ERR_PTR(long error) { return (void *)error; }
static inline long PTR_ERR(const void *p) { return (long)p; }
static inline bool IS_ERR(const void *p) {
    return (unsigned long)p >= (unsigned long)-PAGODA_MAX_ERRNO;
}
static inline bool IS_ERR_OR_NULL(const void *p) { return p == NULL || IS_ERR(p); }

/* `size` bytes that are freed with the device; aligned to 16 bytes, or more as the allocator likes.
 * NULL: no memory, or the device is gone. Blocks or not as `gfp` says, which may have __GFP_ZERO.
 */
void *pagoda_devm_kmalloc(struct device *dev, size_t size, gfp_t gfp)
    __attribute__((alloc_size(2), warn_unused_result));
/* Changes the size; contents as krealloc has it. It keeps its place in the order of release, and on
 * failure (NULL) all that it was. p is NULL (a new one) or of devm_kmalloc for this device;
 * anything else gives NULL with EINVAL. */
void *pagoda_devm_krealloc(struct device *dev, void *p, size_t size, gfp_t gfp)
    __attribute__((alloc_size(3), warn_unused_result));
/* Frees one before its time. NULL is ignored. What is not of devm_kmalloc for this device is left
 * alone: EINVAL in errno, a sentence in pagoda_device_error(). */
void pagoda_devm_kfree(struct device *dev, const void *p);
char *pagoda_devm_kstrdup(struct device *dev, const char *text, gfp_t gfp)
    __attribute__((warn_unused_result));
void *pagoda_devm_kmemdup(struct device *dev, const void *from, size_t size, gfp_t gfp)
    __attribute__((alloc_size(3), warn_unused_result));

/* Text as printf() makes it. NULL: no memory, or the format cannot be followed. */
char *pagoda_devm_kasprintf(struct device *dev, gfp_t gfp, const char *format, ...)
    __attribute__((format(printf, 3, 4), warn_unused_result));
char *pagoda_devm_kvasprintf(struct device *dev, gfp_t gfp, const char *format, va_list arguments)
    __attribute__((format(printf, 3, 0), warn_unused_result));
/* 2^order pages that are freed with the device; their address, or 0. Flags as for devm_kmalloc. */
unsigned long pagoda_devm_get_free_pages(struct device *dev, gfp_t gfp, unsigned int order);
/* Frees them before; what is not of devm_get_free_pages for this device is left alone: EINVAL. */
void pagoda_devm_free_pages(struct device *dev, unsigned long address);

/* Calls action(data) when the device is closed. 0; -ENOMEM; -ENODEV: the device is gone. */
int pagoda_devm_add_action(struct device *dev, void (*action)(void *data), void *data);
/* Forgets the last such action that was added with these two, or (`run`) calls it now. -ENOENT:
 * there is none. */
int pagoda_devm_remove_action(struct device *dev, void (*action)(void *data), void *data, bool run);

/* request_mem_region() that ends with the device, at the latest with devm_release_mem_region(). */
struct resource *pagoda_devm_request_mem_region(struct device *dev, resource_size_t start,
                                                resource_size_t n, const char *name);
void pagoda_devm_release_mem_region(struct device *dev, resource_size_t start, resource_size_t n);

/* ioremap() of a resource of this device after claiming it; both end with the device. An error
 * pointer, never NULL: -EINVAL not memory, -EBUSY claimed already, and what ioremap() says. */
void *pagoda_devm_ioremap_resource(struct device *dev, const struct resource *res, bool combine);
/* ioremap() or ioremap_wc() that ends with the device; NULL as they do. */
void *pagoda_devm_ioremap(struct device *dev, resource_size_t phys, resource_size_t size,
                          bool combine);
/* Ends a mapping of the two before its time. */
void pagoda_devm_iounmap(struct device *dev, void *addr);

/* The kernel's names of the functions above. */

static inline void *devm_kmalloc(struct device *dev, size_t size, gfp_t gfp) {
    return pagoda_devm_kmalloc(dev, size, gfp);
}
static inline void *devm_kzalloc(struct device *dev, size_t size, gfp_t gfp) {
    return pagoda_devm_kmalloc(dev, size, gfp | __GFP_ZERO);
}
static inline void *devm_kmalloc_array(struct device *dev, size_t n, size_t size, gfp_t gfp) {
    size_t bytes;
    return __builtin_mul_overflow(n, size, &bytes) ? NULL : pagoda_devm_kmalloc(dev, bytes, gfp);
}
static inline void *devm_kcalloc(struct device *dev, size_t n, size_t size, gfp_t gfp) {
    return devm_kmalloc_array(dev, n, size, gfp | __GFP_ZERO);
}
static inline void *devm_krealloc(struct device *dev, void *p, size_t size, gfp_t gfp) {
    return pagoda_devm_krealloc(dev, p, size, gfp);
}
static inline void *devm_krealloc_array(struct device *dev, void *p, size_t n, size_t size,
                                        gfp_t gfp) {
    size_t bytes;
    return __builtin_mul_overflow(n, size, &bytes) ? NULL
                                                   : pagoda_devm_krealloc(dev, p, bytes, gfp);
}
static inline void *devm_kmemdup_array(struct device *dev, const void *from, size_t n, size_t size,
                                       gfp_t gfp) {
    size_t bytes;
    return __builtin_mul_overflow(n, size, &bytes) ? NULL
                                                   : pagoda_devm_kmemdup(dev, from, bytes, gfp);
}
#define devm_kasprintf pagoda_devm_kasprintf
#define devm_kvasprintf pagoda_devm_kvasprintf
static inline unsigned long devm_get_free_pages(struct device *dev, gfp_t gfp, unsigned int order) {
    return pagoda_devm_get_free_pages(dev, gfp, order);
}
static inline void devm_free_pages(struct device *dev, unsigned long address) {
    pagoda_devm_free_pages(dev, address);
}
static inline struct resource *devm_request_mem_region(struct device *dev, resource_size_t start,
                                                       resource_size_t n, const char *name) {
    return pagoda_devm_request_mem_region(dev, start, n, name);
}
static inline void devm_release_mem_region(struct device *dev, resource_size_t start,
                                           resource_size_t n) {
    pagoda_devm_release_mem_region(dev, start, n);
}
static inline void devm_kfree(struct device *dev, const void *p) { pagoda_devm_kfree(dev, p); }
static inline char *devm_kstrdup(struct device *dev, const char *text, gfp_t gfp) {
    return pagoda_devm_kstrdup(dev, text, gfp);
}
static inline void *devm_kmemdup(struct device *dev, const void *from, size_t size, gfp_t gfp) {
    return pagoda_devm_kmemdup(dev, from, size, gfp);
}
static inline int devm_add_action(struct device *dev, void (*action)(void *), void *data) {
    return pagoda_devm_add_action(dev, action, data);
}
/* The same, and where it cannot be added the action is run at once. */
static inline int devm_add_action_or_reset(struct device *dev, void (*action)(void *), void *data) {
    int error = pagoda_devm_add_action(dev, action, data);
    if (error != 0)
        action(data);
    return error;
}
static inline void devm_remove_action(struct device *dev, void (*action)(void *), void *data) {
    (void)pagoda_devm_remove_action(dev, action, data, false);
}
static inline void devm_release_action(struct device *dev, void (*action)(void *), void *data) {
    (void)pagoda_devm_remove_action(dev, action, data, true);
}
static inline void __iomem *devm_ioremap_resource(struct device *dev, const struct resource *res) {
    return pagoda_devm_ioremap_resource(dev, res, false);
}
static inline void __iomem *devm_ioremap_resource_wc(struct device *dev,
                                                     const struct resource *res) {
    return pagoda_devm_ioremap_resource(dev, res, true);
}
static inline void __iomem *devm_ioremap(struct device *dev, resource_size_t phys,
                                         resource_size_t size) {
    return pagoda_devm_ioremap(dev, phys, size, false);
}
static inline void __iomem *devm_ioremap_uc(struct device *dev, resource_size_t phys,
                                            resource_size_t size) {
    return pagoda_devm_ioremap(dev, phys, size, false);
}
static inline void __iomem *devm_ioremap_wc(struct device *dev, resource_size_t phys,
                                            resource_size_t size) {
    return pagoda_devm_ioremap(dev, phys, size, true);
}
static inline void devm_iounmap(struct device *dev, void __iomem *addr) {
    pagoda_devm_iounmap(dev, addr);
}

#ifdef __cplusplus
}
#endif

#endif
