#include "dma/call_site.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

namespace pagoda::dma {

namespace {

unsigned long distance(const void *from, const void *to) {
    return reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from);
}

} // namespace

// A program's own functions have names here where it was linked with -rdynamic; offsets in its file
// are what addr2line takes.
call_site::call_site(const void *at) {
    Dl_info found = {};
    if (dladdr(at, &found) == 0 || found.dli_fname == nullptr) {
        snprintf(text_, sizeof text_, "%p", at);
        return;
    }
    const char *slash = strrchr(found.dli_fname, '/');
    const char *file = slash != nullptr ? slash + 1 : found.dli_fname;
    if (found.dli_sname != nullptr)
        snprintf(text_, sizeof text_, "%p (%.40s+%#lx in %.32s)", at, found.dli_sname,
                 distance(found.dli_saddr, at), file);
    else
        snprintf(text_, sizeof text_, "%p (%.48s+%#lx)", at, file, distance(found.dli_fbase, at));
}

} // namespace pagoda::dma
