// own_names: a program that uses names for itself which libc has too: one that ISO C leaves to it,
// and a function that it puts its own in the place of, as libraries that fake the time do.
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

char place[64] __asm__("environ") = "a place, not a list of strings";

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int clock_calls;

// Allocates, and makes the allocator give back, under a lock.
int clock_gettime(clockid_t clock, struct timespec *time) {
    pthread_mutex_lock(&lock);
    ++clock_calls;
    char *block = malloc(4 << 20);
    if (block != NULL) {
        memset(block, 1, 4 << 20);
    }
    free(block);
    malloc_trim(0);
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    pthread_mutex_unlock(&lock);
    return result;
}

int main(void) {
    alarm(30); // a deadlock
    char *copy = malloc(sizeof place);
    if (copy == NULL) {
        return 1;
    }
    memcpy(copy, place, sizeof place);
    int same = strcmp(copy, "a place, not a list of strings") == 0;
    free(copy);
    struct timespec now;
    int told = clock_gettime(CLOCK_MONOTONIC, &now) == 0 && clock_calls == 1;
    return same && told ? 0 : 1;
}
