// For the archive: the linker takes this only into programs that use the operators, and those have
// the C++ library behind it.
#include "preload/new_failed.h"

void *new_failed(size_t size, size_t align) {
    for (;;) {
        std::new_handler handler = std::get_new_handler();
        if (handler == nullptr)
            throw std::bad_alloc();
        handler();
        if (void *p = try_new(size, align))
            return p;
    }
}

void *new_failed_nothrow(size_t size, size_t align) noexcept {
    try {
        return new_failed(size, align);
    } catch (...) {
        return nullptr;
    }
}
