// dlopen_library PATH: the library is loaded late, into a process that runs on glibc's malloc;
// both heaps work side by side, in old threads and new ones, and after dlclose.
#include "../workout.h"

#include <pthread.h>
#include <sys/wait.h>

static void *(*library_malloc)(size_t);
static void (*library_free)(void *);
static void *(*library_realloc)(void *, size_t);

static void find(void *library, const char *name, void *function) {
    void *address = dlsym(library, name);
    REQUIRE(address != NULL);
    memcpy(function, &address, sizeof address);
}

static void *use_both(void *argument) {
    (void)argument;
    for (size_t size = 1; size < (size_t)8 << 20; size += size / 5 + 1) {
        unsigned char *theirs = library_malloc(size);
        unsigned char *own = malloc(size);
        REQUIRE(theirs != NULL && own != NULL);
        memset(theirs, 1, size);
        memset(own, 2, size);
        theirs = library_realloc(theirs, size * 2);
        CHECK(theirs != NULL && all_bytes_are(theirs, size, 1));
        CHECK(all_bytes_are(own, size, 2));
        library_free(theirs);
        free(own);
    }
    return NULL;
}

static void *wait_then_use(void *gate) {
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return use_both(NULL);
}

int main(int argc, char **argv) {
    REQUIRE(argc == 2);
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&gate);
    pthread_t old_thread, new_thread;
    CHECK_EQ(pthread_create(&old_thread, NULL, wait_then_use, &gate), 0);

    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    find(library, "malloc", &library_malloc);
    find(library, "free", &library_free);
    find(library, "realloc", &library_realloc);
    use_both(NULL);
    pthread_mutex_unlock(&gate);
    CHECK_EQ(pthread_create(&new_thread, NULL, use_both, NULL), 0);
    pthread_join(old_thread, NULL);
    pthread_join(new_thread, NULL);

    // Code of the library may be on any thread's rseq or destructor list: it must stay mapped.
    void *kept = library_malloc(1000);
    dlclose(library);
    use_both(NULL);
    library_free(kept);
    pid_t child = fork();
    if (child == 0) {
        use_both(NULL);
        exit(check_end());
    }
    int status = -1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    return check_end();
}
