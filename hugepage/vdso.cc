#include "hugepage/vdso.h"

#include "hugepage/sys.h"

#include <elf.h>
#include <string.h>

namespace pagoda {
namespace {

// Entries of the symbol table, which ELF says only by the way of its hash tables.
uint32_t count_symbols(const uint32_t *hash, const uint32_t *gnu_hash) {
    if (hash != nullptr)
        return hash[1]; // one chain link per symbol
    if (gnu_hash == nullptr)
        return 0;
    uint32_t buckets = gnu_hash[0];
    uint32_t first = gnu_hash[1];
    const uint32_t *bucket = gnu_hash + 4 + 2 * gnu_hash[2]; // behind a filter of 64-bit words
    const uint32_t *chain = bucket + buckets;
    uint32_t last = 0;
    for (uint32_t i = 0; i < buckets; i++)
        last = max_of(last, bucket[i]);
    if (last < first)
        return first;
    while ((chain[last - first] & 1) == 0) // the lowest bit ends a chain
        last++;
    return last + 1;
}

} // namespace

void *vdso_symbol(const char *name) {
    uintptr_t base = sys::auxv(AT_SYSINFO_EHDR);
    if (base == 0)
        return nullptr;
    const auto *header = reinterpret_cast<const Elf64_Ehdr *>(base);
    const auto *segments = reinterpret_cast<const Elf64_Phdr *>(base + header->e_phoff);
    const Elf64_Dyn *dynamic = nullptr;
    uintptr_t shift = 0; // from the addresses in the file to those in memory
    bool loaded = false;
    for (unsigned i = 0; i < header->e_phnum; i++) {
        const Elf64_Phdr &s = segments[i];
        if (s.p_type == PT_LOAD && !loaded) {
            shift = base + s.p_offset - s.p_vaddr;
            loaded = true;
        } else if (s.p_type == PT_DYNAMIC) {
            dynamic = reinterpret_cast<const Elf64_Dyn *>(base + s.p_offset);
        }
    }
    if (dynamic == nullptr || !loaded)
        return nullptr;
    const char *strings = nullptr;
    const Elf64_Sym *symbols = nullptr;
    const uint32_t *hash = nullptr;
    const uint32_t *gnu_hash = nullptr;
    for (; dynamic->d_tag != DT_NULL; dynamic++) {
        uintptr_t at = dynamic->d_un.d_ptr + shift;
        switch (dynamic->d_tag) {
        case DT_STRTAB:
            strings = reinterpret_cast<const char *>(at);
            break;
        case DT_SYMTAB:
            symbols = reinterpret_cast<const Elf64_Sym *>(at);
            break;
        case DT_HASH:
            hash = reinterpret_cast<const uint32_t *>(at);
            break;
        case DT_GNU_HASH:
            gnu_hash = reinterpret_cast<const uint32_t *>(at);
            break;
        default:
            break;
        }
    }
    if (strings == nullptr || symbols == nullptr)
        return nullptr;
    uint32_t count = count_symbols(hash, gnu_hash);
    for (uint32_t i = 0; i < count; i++)
        if (symbols[i].st_shndx != SHN_UNDEF && strcmp(strings + symbols[i].st_name, name) == 0)
            return reinterpret_cast<void *>(symbols[i].st_value + shift);
    return nullptr;
}

} // namespace pagoda
