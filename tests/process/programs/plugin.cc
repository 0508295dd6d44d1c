// A C++ library that a C program loads into a scope of its own, as Python loads its extensions:
// there libstdc++ is not in the global scope where an operator new might look for bad_alloc.
#include <cstddef>
#include <cstdint>
#include <new>

extern "C" __attribute__((visibility("default"))) int catches_bad_alloc(size_t size) {
    try {
        // Used, so that no compiler leaves it out.
        return ::operator new(size) == reinterpret_cast<void *>(intptr_t{1}) ? 2 : 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}
