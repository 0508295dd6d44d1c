// Every entry point of the library on a stack of 8 KiB with inaccessible pages around it, each
// scenario in a process of its own: the first use of the heap happens on that stack, too.
#include "hugepage/provider.h"

#include <pagoda/cold.h>
#include <pagoda/genalloc.h>
#include <pagoda/highmem.h>
#include <pagoda/memblock.h>
#include <pagoda/mempool.h>
#include <pagoda/mm.h>
#include <pagoda/pagoda.h>
#include <pagoda/percpu.h>
#include <pagoda/share.h>
#include <pagoda/shrinker.h>
#include <pagoda/slab.h>
#include <pagoda/uaccess.h>
#include <pagoda/vmalloc.h>
#include <pagoda/vmap.h>

#include <fcntl.h>
#include <initializer_list>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

namespace {

constexpr size_t kStack = 8192;
constexpr gfp_t kFlags = GFP_KERNEL;

void need(bool fine) {
    if (!fine)
        _exit(3);
}
template <class T> T *have(T *p) {
    need(p != nullptr);
    return p;
}

void malloc_family() {
    free(have(malloc(100)));
    free(have(malloc(100000)));
    free(have(malloc(8 << 20)));
    void *p = have(calloc(10, 1000));
    p = have(realloc(p, 100000));
    p = have(realloc(p, 8 << 20));
    p = have(realloc(p, 16 << 20));
    free(p);
    free(have(aligned_alloc(4096, 8192)));
    need(posix_memalign(&p, 1 << 22, 100) == 0);
    need(malloc_usable_size(p) >= 100);
    free(p);
    for (size_t size = 1; size < 300000; size += 1 + size / 2) { // slow paths of every class
        void *many[300];
        for (void *&q : many)
            q = have(malloc(size));
        for (void *q : many)
            free(q);
    }
    malloc_trim(0);
    struct mallinfo2 info = mallinfo2();
    need(info.uordblks < SIZE_MAX);
}

void objects() {
    pagoda_kfree(have(pagoda_kmalloc(100, kFlags)));
    pagoda_kfree(have(pagoda_kmalloc_plain(100, kFlags)));
    pagoda_kfree(have(pagoda_kmalloc_node(3 << 20, kFlags | __GFP_ZERO, 0)));
    pagoda_kfree_nolock(pagoda_kmalloc_nolock(64, __GFP_ZERO, NUMA_NO_NODE));
    pagoda_kfree_sensitive(have(pagoda_kmalloc(1000, GFP_ATOMIC)));
    void *p = have(pagoda_krealloc(nullptr, 100, 1, kFlags, NUMA_NO_NODE));
    p = have(pagoda_krealloc(p, 70000, 1, kFlags, NUMA_NO_NODE));
    need(pagoda_ksize(p) == pagoda_kmalloc_size_roundup(70000));
    p = have(pagoda_kvrealloc(p, 9 << 20, 1, kFlags, NUMA_NO_NODE));
    pagoda_kvfree(p);
    pagoda_kvfree_sensitive(have(pagoda_kvmalloc(6 << 20, 1, kFlags, NUMA_NO_NODE)), 100);
    need(pagoda_kmalloc(SIZE_MAX / 2, kFlags) == nullptr); // with its warning
    pagoda_kfree(have(pagoda_kstrdup("abc", kFlags)));
    pagoda_kfree(have(pagoda_kstrndup("abc", 2, kFlags)));
    pagoda_kfree(have(pagoda_kmemdup("abc", 4, kFlags)));
    pagoda_kvfree(have(pagoda_kvmemdup("abc", 4, kFlags)));
    pagoda_kfree(have(pagoda_kmemdup_nul("abc", 3, kFlags)));
    pagoda_mem_dump_obj(p);
    p = have(pagoda_kmalloc(64, kFlags));
    need(pagoda_kmem_dump_obj(p));
    pagoda_kfree(p);
}

void formatted() {
    struct local {
        static char *print(const char *format, ...) {
            va_list arguments;
            va_start(arguments, format);
            char *s = pagoda_kvasprintf(kFlags, format, arguments);
            va_end(arguments);
            return s;
        }
    };
    pagoda_kfree(have(pagoda_kasprintf(kFlags, "%s %d", "abc", 42)));
    pagoda_kfree(have(local::print("%d", 42)));
}

void caches() {
    struct kmem_cache *c = have(pagoda_kmem_cache_create("plain", 64, nullptr, SLAB_NO_MERGE));
    struct kmem_cache *debug = have(pagoda_kmem_cache_create(
        "debug", 64, nullptr, SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER));
    struct kmem_cache *typed =
        have(pagoda_kmem_cache_create("typed", 64, nullptr, SLAB_TYPESAFE_BY_RCU));
    for (struct kmem_cache *each : {c, debug, typed}) {
        void *objects[200];
        need(pagoda_kmem_cache_alloc_bulk(each, kFlags, 200, objects) == 200);
        pagoda_kmem_cache_free_bulk(each, 200, objects);
        pagoda_kmem_cache_free(each, have(pagoda_kmem_cache_alloc(each, kFlags)));
        pagoda_kmem_cache_free(each, have(pagoda_kmem_cache_alloc_node(each, kFlags, 0)));
        struct slab_sheaf *sheaf = have(pagoda_kmem_cache_prefill_sheaf(each, kFlags, 10));
        pagoda_kmem_cache_free(each, have(pagoda_kmem_cache_alloc_from_sheaf(each, 0, sheaf)));
        need(pagoda_kmem_cache_refill_sheaf(each, kFlags, &sheaf, 300) == 0);
        need(pagoda_kmem_cache_sheaf_size(sheaf) >= 300);
        pagoda_kmem_cache_return_sheaf(each, kFlags, sheaf);
        pagoda_kmem_cache_shrink(each);
        need(pagoda_kmem_cache_size(each) == 64);
    }
    have(pagoda_kmem_cache_alloc(debug, kFlags));     // and leaks it
    for (struct kmem_cache *each : {c, debug, typed}) // debug with its report
        pagoda_kmem_cache_destroy(each);
    kmem_buckets *b = have(pagoda_kmem_buckets_create("b", 0, 0, 0, nullptr));
    pagoda_kfree(have(pagoda_kmem_buckets_alloc(b, 100, kFlags)));
}

void grace_periods() {
    struct node {
        long value;
        struct rcu_head rcu;
    };
    int section = pagoda_rcu_read_lock();
    auto *n = static_cast<node *>(have(pagoda_kmalloc(sizeof(node), kFlags)));
    pagoda_kfree_rcu(n, &n->rcu);
    pagoda_kfree_rcu_mightsleep(have(pagoda_kmalloc(64, kFlags)));
    pagoda_rcu_read_unlock(section);
    pagoda_kvfree_rcu_barrier();
    pagoda_synchronize_rcu();
    need(!pagoda_rcu_set_ops(nullptr));
}

void groups_and_heaps() {
    pagoda_group *g = have(pagoda_group_create("g", 1 << 20));
    struct kmem_cache *later = have(pagoda_kmem_cache_create("later", 64, nullptr, SLAB_ACCOUNT));
    void *uncharged = have(pagoda_kmem_cache_alloc(later, kFlags));
    need(pagoda_group_enter(g) == nullptr);
    need(pagoda_kmem_cache_charge(uncharged, kFlags) && pagoda_group_usage(g) != 0);
    pagoda_kmem_cache_free(later, uncharged);
    pagoda_kmem_cache_destroy(later);
    void *p = have(pagoda_kmalloc(100, kFlags | __GFP_ACCOUNT));
    void *run = have(pagoda_kmalloc(100000, kFlags | __GFP_ACCOUNT));
    need(pagoda_group_usage(g) != 0 && pagoda_group_peak(g) != 0);
    need(pagoda_group_limit(g) == 1 << 20 && pagoda_group_failures(g) == 0);
    pagoda_kfree(p);
    pagoda_kfree(run);
    pagoda_group_set_limit(g, 0);
    pagoda_group_enter(nullptr);
    pagoda_group_destroy(g);
    pagoda_heap *h = have(pagoda_heap_create("h"));
    pagoda_heap_free(have(pagoda_heap_alloc(h, 100, kFlags)));
    have(pagoda_heap_alloc(h, 1 << 20, kFlags));
    pagoda_heap_walk(
        h, [](void *, size_t, void *) {}, nullptr);
    pagoda_heap_destroy(h);
    pagoda_set_failure_hook([](size_t, gfp_t, void *) { return true; }, nullptr);
    need(pagoda_kmalloc(64, kFlags) == nullptr); // with its report
    pagoda_set_failure_hook(nullptr, nullptr);
    have(pagoda_version());
}

void pages() {
    need(pagoda_layout_fill() != nullptr);
    struct page *page = have(pagoda_alloc_pages(kFlags | __GFP_COMP, 3));
    need(pagoda_compound_head(page) == page && pagoda_compound_order(page) == 3);
    pagoda_get_page(page);
    need(pagoda_page_ref_count(page) == 2);
    pagoda_put_page(page);
    need(pagoda_page_ref_add_return(page, 1) == 2);
    need(pagoda_page_ref_replace(page, 2, 1));
    pagoda_free_block(page, 3);
    page = have(pagoda_alloc_pages_node(0, kFlags, 1));
    pagoda_split_page(page, 1);
    pagoda_free_block(page, 0);
    unsigned long at = pagoda_get_free_pages(kFlags, 10);
    need(at != 0 && pagoda_virt_addr_valid(reinterpret_cast<void *>(at)));
    need(pagoda_phys_contiguous(reinterpret_cast<void *>(at), 4096) != 0);
    pagoda_free_pages(at, 10);
    pagoda_free_pages_exact(have(pagoda_alloc_pages_exact(NUMA_NO_NODE, 20000, kFlags)), 20000);
    struct page *bulk[8] = {};
    need(pagoda_alloc_pages_bulk(NUMA_NO_NODE, kFlags, 8, bulk) == 8);
    for (struct page *each : bulk)
        pagoda_free_block(each, 0);
    if (struct page *each = pagoda_alloc_pages_nolock(0, NUMA_NO_NODE, 0))
        pagoda_free_pages_nolock(each, 0);
    page = have(pagoda_alloc_contig_pages(2000, kFlags, NUMA_NO_NODE, nullptr));
    pagoda_free_contig_range(page_to_pfn(page), 2000);
    struct page_frag_cache frags = {};
    pagoda_page_frag_free(have(pagoda_page_frag_alloc(&frags, 100, kFlags, ~0u)));
    page = virt_to_page(have(pagoda_page_frag_alloc(&frags, 100, kFlags, ~0u)));
    pagoda_page_frag_cache_drain(&frags);
    pagoda_page_frag_drop(pagoda_compound_head(page), 1);
    need(pagoda_nr_free_pages() + pagoda_totalram_pages() != 0);
    struct pagoda_sysinfo info;
    pagoda_si_meminfo(&info);
    struct pagoda_zone_info zone;
    need(pagoda_zoneinfo(0, &zone));
    pagoda_free_block(have(pagoda_alloc_pages(kFlags, 2)), 1); // with its report
}

void areas() {
    void *p = have(pagoda_vmalloc(100000, kFlags, NUMA_NO_NODE));
    p = have(pagoda_vrealloc(p, 5 << 20, 1, kFlags, NUMA_NO_NODE));
    have(pagoda_vmalloc_to_page(p));
    need(pagoda_vmalloc_to_pfn(p) != 0 && pagoda_vmalloc_nr_pages() != 0);
    pagoda_vfree(p);
    pagoda_vfree_atomic(have(pagoda_vmalloc_huge(4 << 20, kFlags, NUMA_NO_NODE)));
    pagoda_vfree(reinterpret_cast<void *>(4096)); // with its warning
}

void shared() {
    void *region = have(pagoda_share_alloc(8192, kFlags));
    struct page *two[2] = {have(pagoda_share_page(region)),
                           have(pagoda_share_page(static_cast<char *>(region) + 4096))};
    void *map = have(pagoda_vmap(two, 2, VM_MAP, PAGE_KERNEL));
    have(pagoda_vmap_to_page(map));
    pagoda_vunmap(map);
    pagoda_vm_unmap_ram(have(pagoda_vmap(two, 2, VM_MAP, PAGE_KERNEL)), 2);
    uint64_t offset = 0;
    int fd = pagoda_share_export(region, 8192, &offset);
    need(fd >= 0);
    pagoda_share_free(have(pagoda_share_import(fd, offset, 8192)));
    void *elsewhere = mmap(nullptr, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(pagoda_share_remap(elsewhere, region, 8192, PROT_READ) == 0);
    pagoda_share_free(region);
}

void high_memory() {
    struct page *page = have(pagoda_alloc_pages(GFP_HIGHUSER, 0));
    need(!pagoda_page_highmem(page)); // without the option
    pagoda_highmem_address(page);
    have(pagoda_kmap(page));
    pagoda_kunmap(page);
    pagoda_kunmap_local(have(pagoda_kmap_local_page(page)));
    need(pagoda_nr_free_highpages() <= pagoda_totalhigh_pages() + 1);
    pagoda_free_block(page, 0);
}

void user_copies() {
    char to[64];
    char from[64] = "from";
    const char *bad = reinterpret_cast<const char *>(16);
    need(pagoda_copy_from_user(to, from, 64) == 0);
    need(pagoda_copy_from_user(to, bad, 64) == 64);
    need(pagoda_copy_to_user(to, from, 64) == 0);
    need(pagoda_strncpy_from_user(to, from, 64) == 4);
    need(pagoda_strnlen_user(from, 64) == 5);
    need(pagoda_copy_struct_from_user(to, 64, from, 32) == 0);
    need(pagoda_clear_user(to, 64) == 0);
    need(pagoda_copy_from_process(getpid(), to, from, 8) == 8);
    need(pagoda_copy_to_process(getpid(), to, from, 8) == 8);
}

void pools() {
    struct kmem_cache *c = have(pagoda_kmem_cache_create("pool", 64, nullptr, 0));
    struct mempool *pool = have(pagoda_mempool_create(4, mempool_alloc_slab, mempool_free_slab, c,
                                                      64, kFlags, NUMA_NO_NODE));
    pagoda_mempool_free(have(pagoda_mempool_alloc(pool, kFlags)), pool);
    pagoda_mempool_free(have(pagoda_mempool_alloc_preallocated(pool)), pool);
    need(pagoda_mempool_resize(pool, 8) == 0);
    pagoda_mempool_destroy(pool);
    struct mempool own;
    memset(&own, 0, sizeof own);
    need(pagoda_mempool_init(&own, 2, mempool_kmalloc, mempool_kfree,
                             reinterpret_cast<void *>(size_t{64}), 64, kFlags, NUMA_NO_NODE) == 0);
    pagoda_mempool_exit(&own);
    pagoda_kmem_cache_destroy(c);
}

void address_pools() {
    struct gen_pool *pool = have(pagoda_gen_pool_create(6, NUMA_NO_NODE));
    need(pagoda_gen_pool_add_owner(pool, 1 << 20, 1 << 20, 1 << 20, NUMA_NO_NODE, nullptr) == 0);
    genpool_algo_t algorithms[] = {pagoda_gen_pool_first_fit, pagoda_gen_pool_best_fit,
                                   pagoda_gen_pool_first_fit_order_align};
    for (genpool_algo_t algorithm : algorithms) {
        pagoda_gen_pool_set_algo(pool, algorithm, nullptr);
        unsigned long at = pagoda_gen_pool_alloc_owner(pool, 1000, nullptr);
        need(at != 0);
        need(pagoda_gen_pool_virt_to_phys(pool, at) == at);
        pagoda_gen_pool_free_owner(pool, at, 1000, nullptr);
    }
    struct genpool_data_align align = {256};
    struct genpool_data_fixed fixed = {4096};
    unsigned long a = pagoda_gen_pool_alloc_algo_owner(pool, 100, pagoda_gen_pool_first_fit_align,
                                                       &align, nullptr);
    unsigned long f =
        pagoda_gen_pool_alloc_algo_owner(pool, 100, pagoda_gen_pool_fixed_alloc, &fixed, nullptr);
    need(a != 0 && f != 0);
    pagoda_gen_pool_free_owner(pool, a, 100, nullptr);
    pagoda_gen_pool_free_owner(pool, f, 100, nullptr);
    need(pagoda_gen_pool_avail(pool) == pagoda_gen_pool_size(pool));
    need(pagoda_gen_pool_has_addr(pool, 1 << 20, 64));
    pagoda_gen_pool_for_each_chunk(
        pool, [](struct gen_pool *, struct gen_pool_chunk *, void *) {}, nullptr);
    pagoda_gen_pool_destroy(pool);
    void *memory = have(malloc(1 << 20));
    struct pagoda_region *region = have(pagoda_region_create(memory, 1 << 20, 64));
    pagoda_region_free(region, have(pagoda_region_alloc(region, 1000, 64)));
    need(pagoda_region_largest(region) <= pagoda_region_avail(region));
    pagoda_region_destroy(region);
    free(memory);
}

void per_cpu_memory() {
    void *p = have(pagoda_alloc_percpu(8, 8, kFlags));
    need(pagoda_cpu_number() < pagoda_cpu_count());
    pagoda_this_cpu_write(p, 8, 5);
    pagoda_this_cpu_add(p, 8, 1);
    pagoda_this_cpu_and(p, 8, 7);
    pagoda_this_cpu_or(p, 8, 8);
    pagoda_this_cpu_exchange(p, 8, 3);
    pagoda_this_cpu_compare_exchange(p, 8, 3, 4);
    need(pagoda_this_cpu_read(p, 8) <= 8);
    pagoda_free_percpu(p);
}

void boot_stage() {
    need(pagoda_boot_reserve(16 << 20) == 0);
    void *p = have(pagoda_memblock_alloc(1000, 64, 0, 0, true));
    phys_addr_t at = pagoda_memblock_phys(p);
    need(pagoda_memblock_virt(at) == p);
    need(pagoda_memblock_phys_free(at, 1000) == 0);
    have(pagoda_memblock_alloc_or_panic(1000, 64, "test"));
    need(pagoda_memblock_phys_alloc(1000, 64, 0, 0) != 0);
    phys_addr_t start = pagoda_memblock_start();
    need(pagoda_memblock_end() - start == 16 << 20);
    need(pagoda_memblock_bytes(PAGODA_MEMBLOCK_MEMORY) == 16 << 20);
    need(pagoda_memblock_reserve(start, 4096) == 0);
    need(pagoda_memblock_remove(start + 8192, 4096) == 0);
    need(pagoda_memblock_add(start + 8192, 4096, 0, MEMBLOCK_NONE) == 0);
    need(pagoda_memblock_mark(start, 4096, MEMBLOCK_NOMAP, true) == 0);
    need(!pagoda_memblock_is_map_memory(start));
    need(pagoda_memblock_covers(PAGODA_MEMBLOCK_RESERVED, start, 1));
    need(pagoda_memblock_overlaps(PAGODA_MEMBLOCK_RESERVED, start, 4096));
    uint64_t i = 0;
    phys_addr_t from = 0;
    phys_addr_t to = 0;
    need(pagoda_memblock_next(PAGODA_MEMBLOCK_MEMORY, &i, &from, &to, nullptr));
    pagoda_memblock_set_current_limit(pagoda_memblock_current_limit());
    pagoda_memblock_set_bottom_up(pagoda_memblock_bottom_up());
    pagoda_memblock_enforce_memory_limit(15 << 20);
    pagoda_memblock_free_all();
    pagoda_memblock_free_late(start, 4096);
    size_t bytes = 0;
    pagoda_boot_unmanaged(&bytes);
    need(pagoda_contig_reserve(16 << 20) == 0);
    pagoda_contig_free(have(pagoda_contig_alloc(1 << 20, 4096)));
    need(pagoda_contig_largest() <= pagoda_contig_avail());
}

void scopes_and_shrinkers() {
    unsigned opened = pagoda_memalloc_save(PAGODA_SCOPE_NOIO);
    pagoda_kfree(have(pagoda_kmalloc(64, kFlags)));
    pagoda_memalloc_restore(opened);
    pagoda_atomic_begin();
    pagoda_kfree(pagoda_kmalloc(64, kFlags));
    pagoda_atomic_end();
    struct shrinker *s = have(pagoda_shrinker_alloc(0, "s-%d", 1));
    s->count_objects = [](struct shrinker *, struct shrink_control *) { return 0ul; };
    s->scan_objects = [](struct shrinker *, struct shrink_control *) { return SHRINK_STOP; };
    pagoda_shrinker_register(s);
    pagoda_kfree(have(pagoda_kmalloc(4 << 20, kFlags | __GFP_NORETRY)));
    pagoda_shrinker_free(s);
    struct notifier_block block = {};
    block.notifier_call = [](struct notifier_block *, unsigned long, void *) { return 0; };
    pagoda_register_oom_notifier(&block);
    pagoda_unregister_oom_notifier(&block);
}

void cold_memory() {
    void *p = have(malloc(1 << 20));
    pagoda_cold(p, 1 << 20);
    pagoda_pageout(p, 1 << 20);
    free(p);
    char socket[] = "/tmp/pagoda-stack-XXXXXX";
    need(mkdtemp(socket) != nullptr && rmdir(socket) == 0);
    struct pagoda_store *store = have(pagoda_store_open(socket, nullptr)); // local
    bool found = true;
    have(pagoda_store_get(store, "key", 8192, &found));
    need(!found && pagoda_store_keeper(store) == 0);
    need(pagoda_store_renew(store) != 0);
    need(pagoda_store_drop(store, "key") == 0);
    pagoda_store_close(store);
}

// The seam to the DMA library, with a table that says yes to everything.
void devices() {
    static const pagoda_dma_provider kProvider = {
        [](void *at, size_t, unsigned, uint64_t *address) {
            *address = reinterpret_cast<uintptr_t>(at) & 0xffffffff;
            return 0;
        },
        [](void *, size_t) { return true; },
        [](void *, size_t) { return true; },
        [] { return ""; },
    };
    need(pagoda_dma_register(&kProvider) == 0);
    need(pagoda_dma_debug_option() == 0);
    pagoda_misuse_told(); // with on_error=report
    void *p = have(malloc(4096));
    void *start;
    size_t bytes;
    need(pagoda_block_hold(p, &start, &bytes) == 0);
    need(pagoda_object_hold(p, 4096) == 0);
    free(p); // put off
    pagoda_object_release(p);
    pagoda_block_release(start);
    malloc_trim(0);
    void *pages = have(pagoda_device_pages_alloc(3, 0, UINT64_MAX, kFlags));
    pagoda_device_pages_free(pages, 3);
    malloc_trim(0);
}

struct scenario {
    const char *name;
    void (*run)();
} const scenarios[] = {
    {"malloc_family", malloc_family},
    {"objects", objects},
    {"formatted", formatted},
    {"caches", caches},
    {"grace_periods", grace_periods},
    {"groups_and_heaps", groups_and_heaps},
    {"pages", pages},
    {"areas", areas},
    {"shared", shared},
    {"high_memory", high_memory},
    {"user_copies", user_copies},
    {"pools", pools},
    {"address_pools", address_pools},
    {"per_cpu_memory", per_cpu_memory},
    {"boot_stage", boot_stage},
    {"scopes_and_shrinkers", scopes_and_shrinkers},
    {"cold_memory", cold_memory},
    {"devices", devices},
};

void too_deep() {
    volatile char eats[3 * kStack];
    for (size_t i = 0; i < sizeof eats; i += 512)
        eats[i] = 1;
}

ucontext_t back;
ucontext_t there;
void (*body)();
void start() { body(); }

// How a child ends that runs fn on a small stack.
int on_small_stack(void (*fn)()) {
    pid_t pid = fork();
    if (pid == 0) {
        char *at = static_cast<char *>(mmap(nullptr, kStack + 2 * 65536, PROT_NONE,
                                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (at == MAP_FAILED || mprotect(at + 65536, kStack, PROT_READ | PROT_WRITE) != 0)
            _exit(4);
        getcontext(&there);
        there.uc_stack.ss_sp = at + 65536;
        there.uc_stack.ss_size = kStack;
        there.uc_link = &back;
        body = fn;
        makecontext(&there, start, 0);
        swapcontext(&back, &there);
        _exit(0);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return status;
}

} // namespace

int main() {
    int wrong = 0;
    int deep = on_small_stack(too_deep);
    if (!WIFSIGNALED(deep)) {
        printf("a stack that is used up is not noticed\n");
        wrong++;
    }
    for (const scenario &s : scenarios) {
        int status = on_small_stack(s.run);
        if (status != 0) {
            printf("%s: %s %d\n", s.name, WIFSIGNALED(status) ? "signal" : "status",
                   WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
            wrong++;
        }
    }
    return wrong;
}
