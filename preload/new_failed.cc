// For the shared library, which does not link the C++ library: whoever can catch has it loaded.
#include "preload/new_failed.h"

#include "hugepage/report.h"
#include "hugepage/sys.h"

#include <dlfcn.h>

extern "C" {
// std::__throw_bad_alloc() and std::get_new_handler(), where the program's C++ library is loaded.
void _ZSt17__throw_bad_allocv() __attribute__((weak));
std::new_handler _ZSt15get_new_handlerv() __attribute__((weak));
}

namespace {

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

} // namespace

void *new_failed(size_t size, size_t align) {
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
void *new_failed_nothrow(size_t size, size_t align) noexcept {
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
