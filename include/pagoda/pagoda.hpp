// Pagoda for C++: a std::pmr resource, an allocator for containers, owners of kmalloc'd objects and
// typed pools. All of it is inline over slab.h; the library knows nothing of C++.
//
// What throws says so (without exceptions, it aborts); the rest returns nullptr when memory is
// short, as its kernel name does.
#pragma once

#include <pagoda/slab.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <memory_resource>
#include <new>
#include <type_traits>
#include <utility>
#if defined(__cpp_rtti)
#include <typeinfo>
#endif

namespace pagoda {

namespace detail {

template <class Exception> [[noreturn]] void fail() {
#if defined(__cpp_exceptions)
    throw Exception();
#else
    std::abort();
#endif
}

// `alignment` is a power of two. kmalloc aligns to the largest power of two that divides the size,
// so a size that is a multiple of the alignment is all that it takes.
inline void *allocate(std::size_t bytes, std::size_t alignment, gfp_t flags) noexcept {
    if (bytes == 0)
        bytes = 1;
    const std::size_t size = (bytes + alignment - 1) & ~(alignment - 1);
    if (size < bytes)
        return nullptr;
    if (size <= KMALLOC_MAX_SIZE)
        return kmalloc(size, flags);
    void *block = pagoda_kvmalloc(size, alignment, flags, NUMA_NO_NODE);
    if (reinterpret_cast<std::uintptr_t>(block) % alignment == 0)
        return block;
    pagoda_kvfree(block);
    return nullptr;
}

// The address that was allocated for an object that may be seen through a base of its type.
template <class T> void *block_of(T *object) noexcept {
#if defined(__cpp_rtti)
    if constexpr (std::is_polymorphic_v<T>)
        return const_cast<void *>(dynamic_cast<const volatile void *>(object));
    else
#endif
        return const_cast<void *>(static_cast<const volatile void *>(object));
}

} // namespace detail

// For std::pmr containers. Throws std::bad_alloc. Blocks that one resource allocated may be given
// to any other of this class.
class memory_resource : public std::pmr::memory_resource {
  public:
    explicit memory_resource(gfp_t flags = GFP_KERNEL) noexcept : flags_(flags) {}
    [[nodiscard]] gfp_t flags() const noexcept { return flags_; }

  private:
    void *do_allocate(std::size_t bytes, std::size_t alignment) override {
        void *block = detail::allocate(bytes, alignment, flags_);
        if (block == nullptr)
            detail::fail<std::bad_alloc>();
        return block;
    }
    void do_deallocate(void *block, std::size_t, std::size_t) override { pagoda_kvfree(block); }
    [[nodiscard]] bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override {
#if defined(__cpp_rtti)
        return dynamic_cast<const memory_resource *>(&other) != nullptr;
#else
        return this == &other;
#endif
    }

    gfp_t flags_;
};

// For the containers of std. Has no state: the flags are part of the type. Throws std::bad_alloc.
template <class T, gfp_t Flags = GFP_KERNEL> class allocator {
  public:
    using value_type = T;
    using is_always_equal = std::true_type;
    using propagate_on_container_move_assignment = std::true_type;
    template <class U> struct rebind { using other = allocator<U, Flags>; };

    constexpr allocator() noexcept = default;
    template <class U> constexpr allocator(const allocator<U, Flags> &) noexcept {}

    [[nodiscard]] T *allocate(std::size_t n) {
        if (n > std::numeric_limits<std::size_t>::max() / sizeof(T))
            detail::fail<std::bad_array_new_length>();
        void *block = detail::allocate(n * sizeof(T), alignof(T), Flags);
        if (block == nullptr)
            detail::fail<std::bad_alloc>();
        return static_cast<T *>(block);
    }
    void deallocate(T *block, std::size_t) noexcept { pagoda_kvfree(block); }

    template <class U>
    friend constexpr bool operator==(const allocator &, const allocator<U, Flags> &) noexcept {
        return true;
    }
};

// Ends an object's life and frees it. An object may be given through a base of its type where that
// has virtual functions; otherwise by its own address only.
struct kfree_deleter {
    template <class T> void operator()(T *object) const noexcept {
        void *block = detail::block_of(object);
        if constexpr (!std::is_trivially_destructible_v<T>)
            std::destroy_at(object);
        pagoda_kfree(block);
    }
    void operator()(void *block) const noexcept { pagoda_kfree(block); }
};

template <class T> using unique_ptr = std::unique_ptr<T, kfree_deleter>;

// The names in parentheses are macros in C.

// A T in kmalloc'd memory. A constructor's exception frees the memory again.
template <class T, class... Arguments>
[[nodiscard]] unique_ptr<T>(kmalloc_obj)(gfp_t flags = GFP_KERNEL, Arguments &&...arguments) {
    static_assert(sizeof(T) <= KMALLOC_MAX_SIZE);
    std::unique_ptr<void, kfree_deleter> block(kmalloc(sizeof(T), flags));
    if (!block)
        return nullptr;
    T *object = ::new (block.get()) T(std::forward<Arguments>(arguments)...);
    static_cast<void>(block.release());
    return unique_ptr<T>(object);
}

// n elements, all bytes zero.
template <class T>
requires std::is_trivially_default_constructible_v<T> && std::is_trivially_destructible_v<T>
[[nodiscard]] std::unique_ptr<T[], kfree_deleter>(kzalloc_objs)(std::size_t n,
                                                                gfp_t flags = GFP_KERNEL) {
    return std::unique_ptr<T[], kfree_deleter>(static_cast<T *>(kcalloc(n, sizeof(T), flags)));
}

// A kmem_cache of objects of one type: a typed pool, usable from every thread. Move-only; ends with
// kmem_cache_destroy, which reports objects that are still in use and leaks the cache.
template <class T> class cache {
  public:
    // Throws std::bad_alloc when the cache cannot be made. `flags` are SLAB_*.
    explicit cache(const char *name, slab_flags_t flags = 0)
        : cache_(__kmem_cache_create(name, sizeof(T), alignof(T), flags, nullptr)) {
        if (cache_ == nullptr)
            detail::fail<std::bad_alloc>();
    }
    cache(cache &&other) noexcept : cache_(std::exchange(other.cache_, nullptr)) {}
    cache &operator=(cache &&other) noexcept {
        if (this != &other) {
            kmem_cache_destroy(cache_);
            cache_ = std::exchange(other.cache_, nullptr);
        }
        return *this;
    }
    ~cache() { kmem_cache_destroy(cache_); }

    // The one of its type, made on first use and never destroyed. Throws as the constructor.
    [[nodiscard]] static cache &shared() {
        alignas(cache) static unsigned char storage[sizeof(cache)];
        [[maybe_unused]] static const cache *const made = ::new (storage) cache(shared_name());
        return *std::launder(reinterpret_cast<cache *>(storage));
    }

    // Memory for one object, and its way back.
    [[nodiscard]] void *alloc(gfp_t flags = GFP_KERNEL) noexcept {
        return pagoda_kmem_cache_alloc(cache_, flags);
    }
    void free(void *object) noexcept { pagoda_kmem_cache_free(cache_, object); }

    // An object. Throws std::bad_alloc, and what the constructor throws.
    template <class... Arguments> [[nodiscard]] T *construct(Arguments &&...arguments) {
        T *object = try_construct(GFP_KERNEL, std::forward<Arguments>(arguments)...);
        if (object == nullptr)
            detail::fail<std::bad_alloc>();
        return object;
    }
    // The same with other flags; nullptr when memory is short.
    template <class... Arguments>
    [[nodiscard]] T *try_construct(gfp_t flags, Arguments &&...arguments) noexcept(
        std::is_nothrow_constructible_v<T, Arguments...>) {
        void *block = alloc(flags);
        if (block == nullptr)
            return nullptr;
        if constexpr (std::is_nothrow_constructible_v<T, Arguments...>) {
            return ::new (block) T(std::forward<Arguments>(arguments)...);
        } else {
            guard owner{this, block};
            T *object = ::new (block) T(std::forward<Arguments>(arguments)...);
            owner.block = nullptr;
            return object;
        }
    }
    void destroy(T *object) noexcept {
        if (object == nullptr)
            return;
        std::destroy_at(object);
        free(object);
    }

    // An object that ends with its owner, which must not outlive the cache; moving that is allowed.
    struct deleter {
        ::kmem_cache *from;
        void operator()(T *object) const noexcept {
            std::destroy_at(object);
            pagoda_kmem_cache_free(from, object);
        }
    };
    using pointer = std::unique_ptr<T, deleter>;
    template <class... Arguments> [[nodiscard]] pointer make(Arguments &&...arguments) {
        return pointer(construct(std::forward<Arguments>(arguments)...), deleter{cache_});
    }

    // For kmem_cache_alloc_bulk and the other names of slab.h.
    [[nodiscard]] ::kmem_cache *native_handle() const noexcept { return cache_; }

  private:
    struct guard {
        cache *from;
        void *block;
        ~guard() {
            if (block != nullptr)
                from->free(block);
        }
    };

    static const char *shared_name() noexcept {
#if defined(__cpp_rtti)
        return typeid(T).name();
#else
        return "pagoda::cache";
#endif
    }

    ::kmem_cache *cache_;
};

} // namespace pagoda
