# Two sets of flags: pagoda_flags for everything in the tree, pagoda_core_flags for what goes into
# the library, which runs inside any process and may therefore need nothing but libc.

add_library(pagoda_flags INTERFACE)
target_compile_features(pagoda_flags INTERFACE cxx_std_20)
target_compile_options(
    pagoda_flags
    INTERFACE -Wall
              -Wextra
              -Wshadow
              -Wundef
              -Wvla
              -Wformat=2
              $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor>
              $<$<COMPILE_LANGUAGE:CXX>:-Woverloaded-virtual>)
# PAGODA_DEBUG also changes inline code in headers, so users of the core must agree on it.
target_compile_definitions(pagoda_flags INTERFACE $<$<CONFIG:Debug>:PAGODA_DEBUG=1>)
target_compile_definitions(pagoda_flags INTERFACE $<$<CONFIG:Coverage>:PAGODA_COVERAGE=1>)
target_compile_options(pagoda_flags INTERFACE $<$<CONFIG:Coverage>:--coverage>
                                              $<$<CONFIG:Coverage>:-fprofile-update=atomic>)
target_link_options(pagoda_flags INTERFACE $<$<CONFIG:Coverage>:--coverage>)

add_library(pagoda_core_flags INTERFACE)
target_link_libraries(pagoda_core_flags INTERFACE pagoda_flags)
target_compile_options(
    pagoda_core_flags
    INTERFACE -fPIC
              -fvisibility=hidden
              -fvisibility-inlines-hidden
              -fno-exceptions
              -fno-rtti
              -fno-threadsafe-statics
              -fno-semantic-interposition
              # dlopen and LD_AUDIT load into the small static TLS surplus; a lazily allocated TLS
              # block would call malloc from inside malloc.
              -ftls-model=initial-exec
              # Otherwise the compiler turns our malloc + memset into a call of calloc, and so on.
              -fno-builtin-malloc
              -fno-builtin-calloc
              -fno-builtin-realloc
              -fno-builtin-free)
# Every entry runs on a signal stack of 8 KiB: no single frame may take much of it. Of the build that
# users run; others keep more on the stack.
target_compile_options(
    pagoda_core_flags
    INTERFACE "$<$<AND:$<CONFIG:Release>,$<CXX_COMPILER_ID:GNU>>:-Wframe-larger-than=512>")
# A trap needs no UBSan runtime, which would allocate.
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    # These two need RTTI.
    set(ubsan_trap -fsanitize=undefined -fno-sanitize=function,vptr -fsanitize-trap=undefined)
else()
    set(ubsan_trap -fsanitize=undefined -fsanitize-undefined-trap-on-error)
endif()
target_compile_options(pagoda_core_flags INTERFACE "$<$<CONFIG:Debug>:${ubsan_trap}>")

set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g -DNDEBUG")
set(CMAKE_C_FLAGS_RELEASE "-O2 -g -DNDEBUG")
set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g")
set(CMAKE_C_FLAGS_DEBUG "-O1 -g")
set(CMAKE_CXX_FLAGS_COVERAGE "-O0 -g")
set(CMAKE_C_FLAGS_COVERAGE "-O0 -g")
