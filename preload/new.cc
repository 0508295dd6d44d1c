// The replaceable operators new and delete. They throw std::bad_alloc, and honour the new handler,
// without linking libstdc++: whoever can catch has it loaded.
#include "preload/malloc.h"

#include "hugepage/base.h"
#include "hugepage/report.h"
#include "hugepage/sys.h"

#include <dlfcn.h>
#include <errno.h>
#include <new>

extern "C" {
// std::__throw_bad_alloc() and std::get_new_handler(), where the program's C++ library is loaded.
void _ZSt17__throw_bad_allocv() __attribute__((weak));
std::new_handler _ZSt15get_new_handlerv() __attribute__((weak));
}

namespace {

using pagoda::is_power_of_two;

// For a C++ library that came by dlopen into a local scope.
void *from_cxx_library(const char *symbol) {
    for (const char *name : {"libstdc++.so.6", "libc++.so.1", "libc++abi.so.1"})
        if (void *lib = dlopen(name, RTLD_NOLOAD | RTLD_LAZY))
            if (void *f = dlsym(lib, symbol))
                return f;
    return nullptr;
}

std::new_handler current_new_handler() {
    auto get = _ZSt15get_new_handlerv;
    if (get == nullptr)
        get = reinterpret_cast<decltype(get)>(from_cxx_library("_ZSt15get_new_handlerv"));
    return get != nullptr ? get() : nullptr;
}

[[noreturn]] void throw_bad_alloc() {
    auto raise = _ZSt17__throw_bad_allocv;
    if (raise == nullptr)
        raise = reinterpret_cast<decltype(raise)>(from_cxx_library("_ZSt17__throw_bad_allocv"));
    if (raise != nullptr)
        raise();
    pagoda::text_buffer<128> t;
    t << "operator new is out of memory and there is no C++ library to throw std::bad_alloc";
    pagoda::warn(t);
    pagoda::sys::abort_process();
}

void *try_new(size_t size, size_t align) {
    return align <= __STDCPP_DEFAULT_NEW_ALIGNMENT__ ? malloc(size)
           : is_power_of_two(align)                  ? memalign(align, size)
                                                     : nullptr;
}

// [new.delete.single]: try, call the handler, try again; without a handler throw.
PAGODA_COLD void *new_failed(size_t size, size_t align) {
    for (;;) {
        std::new_handler handler = current_new_handler();
        if (handler == nullptr)
            throw_bad_alloc();
        handler();
        if (void *p = try_new(size, align))
            return p;
    }
}

// The handler may throw, and nothing here can catch: the C++ library's own nothrow operator calls
// our throwing one and catches.
PAGODA_COLD void *new_failed_nothrow(size_t size, size_t align) {
    if (current_new_handler() == nullptr)
        return nullptr;
    if (align <= __STDCPP_DEFAULT_NEW_ALIGNMENT__) {
        using plain = void *(*)(size_t, const std::nothrow_t &);
        if (auto f = reinterpret_cast<plain>(from_cxx_library("_ZnwmRKSt9nothrow_t")))
            return f(size, std::nothrow_t{});
    } else {
        using over = void *(*)(size_t, std::align_val_t, const std::nothrow_t &);
        // It never calls the throwing operator, but has the handler's loop and catch itself.
        if (auto f = reinterpret_cast<over>(from_cxx_library("_ZnwmSt11align_val_tRKSt9nothrow_t")))
            return f(size, static_cast<std::align_val_t>(align), std::nothrow_t{});
    }
    return nullptr;
}

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
