// refused_calls WHAT: from some moment on the kernel refuses what the allocator asks for.
//   growth   mmap, mprotect and mremap: ENOMEM. malloc ends in NULL with ENOMEM, loses
//            nothing, and serves again what is freed.
//   advice   madvise: EINVAL, as on a kernel that knows none of it. Zeros must still be zeros.
#include "../workout.h"
#include "filter.h"

#include <pthread.h>

struct node {
    struct node *next;
    size_t size;
};

static struct node *fill(size_t size, size_t *count) {
    struct node *list = NULL;
    for (*count = 0; *count < 10000000; ++*count) {
        errno = 0;
        struct node *node = malloc(size);
        if (node == NULL) {
            CHECK_EQ(errno, ENOMEM);
            break;
        }
        memset(node, 0x33, size);
        node->next = list;
        node->size = size;
        list = node;
    }
    return list;
}

static void empty(struct node *list) {
    while (list != NULL) {
        struct node *next = list->next;
        CHECK(all_bytes_are((unsigned char *)(list + 1), list->size - sizeof *list, 0x33));
        free(list);
        list = next;
    }
}

static int growth_refused(void) {
    if (on_glibc()) {
        return 77; // it lives from brk, whose refusal a filter cannot imitate
    }
    // Something to live from.
    static void *blocks[3000];
    for (int i = 0; i < 3000; ++i) {
        blocks[i] = malloc((size_t)(i % 100) * 100 + 16);
    }
    for (int i = 0; i < 3000; ++i) {
        free(blocks[i]);
    }
    static const int calls[] = {SYS_mmap, SYS_mprotect, SYS_mremap};
    install_filter(calls, 3, SECCOMP_RET_ERRNO | ENOMEM, SECCOMP_RET_ALLOW);
    static const size_t sizes[] = {48, 1000, 20000, 100};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
        size_t first = 0, again = 0;
        struct node *list = fill(sizes[i], &first);
        errno = 0;
        CHECK(malloc((size_t)1 << 40) == NULL);
        CHECK_EQ(errno, ENOMEM);
        struct node *grown = list == NULL ? NULL : realloc(list, (size_t)3 << 30);
        CHECK(grown == NULL);
        empty(list);
        list = fill(sizes[i], &again);
        CHECK(again >= first - first / 8);
        empty(list);
    }
    return check_end();
}

static void *work(void *argument) {
    workout((uintptr_t)argument, 2000, SIZE_MAX);
    return NULL;
}

static void advice_refused(void) {
    static const int calls[] = {SYS_madvise};
    install_filter(calls, 1, SECCOMP_RET_ERRNO | EINVAL, SECCOMP_RET_ALLOW);
    for (uintptr_t round = 0; round < 3; ++round) {
        static void *blocks[2000];
        for (int i = 0; i < 2000; ++i) {
            size_t size = (size_t)i * 50 + 16;
            blocks[i] = calloc(1, size);
            CHECK(blocks[i] != NULL && all_bytes_are(blocks[i], size, 0));
            memset(blocks[i], 0xff, size);
        }
        for (int i = 0; i < 2000; ++i) {
            free(blocks[i]);
        }
        malloc_trim(0);
        pthread_t threads[2];
        for (uintptr_t i = 0; i < 2; ++i) {
            REQUIRE(pthread_create(&threads[i], NULL, work, (void *)(round * 2 + i)) == 0);
        }
        pthread_join(threads[0], NULL);
        pthread_join(threads[1], NULL);
    }
}

int main(int argc, char **argv) {
    check_begin();
    REQUIRE(argc == 2);
    if (strcmp(argv[1], "growth") == 0) {
        return growth_refused();
    }
    workout(1, 1000, SIZE_MAX);
    advice_refused();
    return check_end();
}
