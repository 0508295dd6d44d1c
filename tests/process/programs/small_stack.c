// small_stack: threads on the smallest stack the system allows (16 KiB, thread-local storage
// included) take and give back memory of every size. Guard pages turn an overflow into SIGSEGV.
#include "../workout.h"

#include <limits.h>
#include <pthread.h>

static pthread_key_t key;

static void *work(void *argument) {
    workout((uintptr_t)argument, 400, SIZE_MAX);
    pthread_setspecific(key, malloc(100000));
    malloc_trim(0);
    free(realloc(malloc(3000000), 9000000));
    return NULL;
}

int main(void) {
    check_begin();
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    CHECK_EQ(pthread_attr_setstacksize(&attributes, 16384), 0);
    CHECK_EQ(pthread_key_create(&key, free), 0);
    for (uintptr_t i = 0; i < 20; ++i) {
        pthread_t threads[2];
        for (uintptr_t k = 0; k < 2; ++k) {
            REQUIRE(pthread_create(&threads[k], &attributes, work, (void *)(i * 2 + k)) == 0);
        }
        pthread_join(threads[0], NULL);
        pthread_join(threads[1], NULL);
    }
    return check_end();
}
