// The replaceable operators new and delete.
#include "preload/new_failed.h"

namespace {

inline void *new_or_throw(size_t size, size_t align) {
    void *p = try_new(size, align);
    return PAGODA_LIKELY(p != nullptr) ? p : new_failed(size, align);
}

inline void *new_or_null(size_t size, size_t align) {
    void *p = try_new(size, align);
    return PAGODA_LIKELY(p != nullptr) ? p : new_failed_nothrow(size, align);
}

constexpr size_t kDefault = __STDCPP_DEFAULT_NEW_ALIGNMENT__;

} // namespace

#define VISIBLE __attribute__((visibility("default")))
#define AL static_cast<size_t>(align)

VISIBLE void *operator new(size_t size) { return new_or_throw(size, kDefault); }
VISIBLE void *operator new[](size_t size) { return new_or_throw(size, kDefault); }
VISIBLE void *operator new(size_t size, const std::nothrow_t &) noexcept {
    return new_or_null(size, kDefault);
}
VISIBLE void *operator new[](size_t size, const std::nothrow_t &) noexcept {
    return new_or_null(size, kDefault);
}
VISIBLE void *operator new(size_t size, std::align_val_t align) { return new_or_throw(size, AL); }
VISIBLE void *operator new[](size_t size, std::align_val_t align) { return new_or_throw(size, AL); }
VISIBLE void *operator new(size_t size, std::align_val_t align, const std::nothrow_t &) noexcept {
    return new_or_null(size, AL);
}
VISIBLE void *operator new[](size_t size, std::align_val_t align, const std::nothrow_t &) noexcept {
    return new_or_null(size, AL);
}

VISIBLE void operator delete(void *p) noexcept { free(p); }
VISIBLE void operator delete[](void *p) noexcept { free(p); }
VISIBLE void operator delete(void *p, const std::nothrow_t &) noexcept { free(p); }
VISIBLE void operator delete[](void *p, const std::nothrow_t &) noexcept { free(p); }
VISIBLE void operator delete(void *p, size_t) noexcept { free(p); }
VISIBLE void operator delete[](void *p, size_t) noexcept { free(p); }
VISIBLE void operator delete(void *p, std::align_val_t) noexcept { free(p); }
VISIBLE void operator delete[](void *p, std::align_val_t) noexcept { free(p); }
VISIBLE void operator delete(void *p, std::align_val_t, const std::nothrow_t &) noexcept {
    free(p);
}
VISIBLE void operator delete[](void *p, std::align_val_t, const std::nothrow_t &) noexcept {
    free(p);
}
VISIBLE void operator delete(void *p, size_t, std::align_val_t) noexcept { free(p); }
VISIBLE void operator delete[](void *p, size_t, std::align_val_t) noexcept { free(p); }
