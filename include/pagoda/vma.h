/* Where a program wants to have memory of a driver's a second time: what dma_mmap_coherent() and
 * its like fill. The kernel's record of that name describes an address range of some process; this
 * one describes a range of this process, and has only the fields that a driver's mmap() reads.
 *
 * Source: include/linux/mm_types.h and include/linux/mm.h of the kernel. */
#ifndef PAGODA_VMA_H
#define PAGODA_VMA_H

#ifdef __cplusplus
extern "C" {
#endif

/* Rights of the range, as in the kernel. Others have no effect. */
#define VM_READ 0x1UL
#define VM_WRITE 0x2UL
#define VM_SHARED 0x8UL

/* A range of whole pages. With vm_start 0 the library finds a place for it, vm_end is its length,
 * and both are set once it is mapped. Else it replaces whatever the caller has mapped there. */
struct vm_area_struct {
    unsigned long vm_start; /* its first byte's address */
    unsigned long vm_end;   /* the one behind its last byte */
    unsigned long vm_pgoff; /* pages at the beginning of the memory that it leaves out */
    unsigned long vm_flags; /* VM_READ, VM_WRITE: at least one of them */
};

/* How many pages of 4 KiB there are in the range. */
static inline unsigned long vma_pages(const struct vm_area_struct *vma) {
    return (vma->vm_end - vma->vm_start) >> 12;
}

#ifdef __cplusplus
}
#endif

#endif
