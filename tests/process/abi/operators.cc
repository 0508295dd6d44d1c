// The twenty replaceable operators: each gives and takes blocks of the one heap; new_handler is
// honoured; failure is std::bad_alloc, or nullptr where nothrow was asked for.
#include <malloc.h>

#include <cstdint>
#include <initializer_list>
#include <new>

#include "../check.h"

namespace {

const size_t kSizes[] = {0, 1, 24, 1000, 30000, 70000, 2 << 20};
const auto kAlignments = {16, 64, 4096, 65536, 4 << 20};
volatile size_t impossible = PTRDIFF_MAX;
volatile size_t volatile_odd = 48;

bool usable(void *block, size_t size, size_t alignment) {
    if (block == nullptr || reinterpret_cast<uintptr_t>(block) % alignment != 0) {
        return false;
    }
    memset(block, 1, size);
    return malloc_usable_size(block) >= size;
}

void plain_forms(size_t size) {
    void *blocks[12];
    for (int i = 0; i < 12; i += 4) {
        blocks[i] = ::operator new(size);
        blocks[i + 1] = ::operator new[](size);
        blocks[i + 2] = ::operator new(size, std::nothrow);
        blocks[i + 3] = ::operator new[](size, std::nothrow);
    }
    for (void *block : blocks) {
        CHECK(usable(block, size, 16));
    }
    ::operator delete(blocks[0]);
    ::operator delete[](blocks[1]);
    ::operator delete(blocks[2], std::nothrow);
    ::operator delete[](blocks[3], std::nothrow);
    ::operator delete(blocks[4], size);
    ::operator delete[](blocks[5], size);
    // Whatever form it came from, it is a block of the one heap.
    free(blocks[6]);
    ::operator delete(blocks[7]);
    ::operator delete[](realloc(blocks[8], size + 50));
    ::operator delete(malloc(size));
    for (int i = 9; i < 12; ++i) {
        free(blocks[i]);
    }
}

void aligned_forms(size_t size, size_t bytes) {
    const auto alignment = static_cast<std::align_val_t>(bytes);
    void *blocks[8];
    for (int i = 0; i < 8; i += 4) {
        blocks[i] = ::operator new(size, alignment);
        blocks[i + 1] = ::operator new[](size, alignment);
        blocks[i + 2] = ::operator new(size, alignment, std::nothrow);
        blocks[i + 3] = ::operator new[](size, alignment, std::nothrow);
    }
    for (void *block : blocks) {
        CHECK(usable(block, size, bytes));
    }
    ::operator delete(blocks[0], alignment);
    ::operator delete[](blocks[1], alignment);
    ::operator delete(blocks[2], alignment, std::nothrow);
    ::operator delete[](blocks[3], alignment, std::nothrow);
    ::operator delete(blocks[4], size, alignment);
    ::operator delete[](blocks[5], size, alignment);
    free(blocks[6]);
    free(blocks[7]);
}

void deleting_null() {
    const auto alignment = static_cast<std::align_val_t>(64);
    void *null = nullptr;
    ::operator delete(null);
    ::operator delete[](null);
    ::operator delete(null, std::nothrow);
    ::operator delete[](null, std::nothrow);
    ::operator delete (null, size_t{8});
    ::operator delete[](null, size_t{8});
    ::operator delete(null, alignment);
    ::operator delete[](null, alignment);
    ::operator delete(null, alignment, std::nothrow);
    ::operator delete[](null, alignment, std::nothrow);
    ::operator delete (null, size_t{8}, alignment);
    ::operator delete[](null, size_t{8}, alignment);
}

template <typename Call> bool throws_bad_alloc(Call call) {
    try {
        call();
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

void failure() {
    const auto alignment = static_cast<std::align_val_t>(4096);
    CHECK(throws_bad_alloc([] { return ::operator new(impossible); }));
    CHECK(throws_bad_alloc([] { return ::operator new[](impossible); }));
    CHECK(throws_bad_alloc([=] { return ::operator new(impossible, alignment); }));
    CHECK(throws_bad_alloc([=] { return ::operator new[](impossible, alignment); }));
    const auto odd = static_cast<std::align_val_t>(volatile_odd); // no alignment at all
    CHECK(on_glibc() || throws_bad_alloc([=] { return ::operator new(100, odd); }));
    CHECK(on_glibc() || ::operator new(100, odd, std::nothrow) == nullptr);
    CHECK(::operator new(impossible, std::nothrow) == nullptr);
    CHECK(::operator new[](impossible, std::nothrow) == nullptr);
    CHECK(::operator new(impossible, alignment, std::nothrow) == nullptr);
    CHECK(::operator new[](impossible, alignment, std::nothrow) == nullptr);
    // Kept in a variable: a compiler may leave out a new expression that nobody looks at.
    char *volatile block = nullptr;
    CHECK(throws_bad_alloc([&] { block = new char[impossible]; }));
    CHECK(block == nullptr);
}

int handler_calls;
struct private_error {};

void counting_handler() {
    if (++handler_calls == 3) {
        std::set_new_handler(nullptr);
    }
}

void handlers() {
    const auto alignment = static_cast<std::align_val_t>(4096);
    using new_function = void *(*)();
    const new_function throwing[] = {
        [] { return ::operator new(impossible); }, [] { return ::operator new[](impossible); },
        [] { return ::operator new(impossible, static_cast<std::align_val_t>(4096)); },
        [] { return ::operator new[](impossible, static_cast<std::align_val_t>(4096)); }};
    for (const new_function call : throwing) {
        // Called until it gives up.
        handler_calls = 0;
        std::set_new_handler(counting_handler);
        CHECK(throws_bad_alloc(call));
        CHECK_EQ(handler_calls, 3);
        // Its own exception passes through.
        std::set_new_handler([] { throw private_error(); });
        bool passed = false;
        try {
            call();
        } catch (const private_error &) {
            passed = true;
        }
        CHECK(passed);
    }
    // nothrow forms ask the handler too, and swallow what it throws.
    std::set_new_handler(counting_handler);
    handler_calls = 0;
    CHECK(::operator new(impossible, std::nothrow) == nullptr);
    CHECK_EQ(handler_calls, 3);
    std::set_new_handler([] { throw std::bad_alloc(); });
    CHECK(::operator new(impossible, std::nothrow) == nullptr);
    CHECK(::operator new[](impossible, std::nothrow) == nullptr);
    CHECK(::operator new(impossible, alignment, std::nothrow) == nullptr);
    CHECK(::operator new[](impossible, alignment, std::nothrow) == nullptr);
    std::set_new_handler(nullptr);
}

} // namespace

int main() {
    check_begin();
    for (const size_t size : kSizes) {
        plain_forms(size);
        for (const int alignment : kAlignments) {
            aligned_forms(size, static_cast<size_t>(alignment));
        }
    }
    deleting_null();
    failure();
    handlers();
    return check_end();
}
