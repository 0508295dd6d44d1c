// init_handler: a signal interrupts the very first call, in the middle of the initialisation, and
// its handler allocates. The signal is SIGPIPE: the complaint about a wrong option, for which the
// caller of this program cares, goes to a pipe that nobody reads.
#include "../workout.h"

#include <fcntl.h>
#include <signal.h>

static volatile sig_atomic_t handled;

static void handler(int signal) {
    (void)signal;
    free(malloc(100)); // NOLINT(bugprone-signal-handler): may fail, but must return
    ++handled;
}

static void first_call(int argc, char **argv, char **environment) {
    (void)argc, (void)argv, (void)environment;
    int ends[2];
    int kept = dup(2);
    REQUIRE(kept >= 0 && pipe(ends) == 0);
    close(ends[0]);
    signal(SIGPIPE, handler);
    dup2(ends[1], 2);
    alarm(30); // a deadlock
    void *block = malloc(1000);
    dup2(kept, 2);
    REQUIRE(block != NULL);
    free(block);
    close(kept);
    close(ends[1]);
}

__attribute__((section(".preinit_array"), used)) static void (*const preinit)(int, char **,
                                                                              char **) = first_call;

int main(void) {
    if (handled == 0) {
        puts("no signal came");
        return 1;
    }
    workout(1, 1000, SIZE_MAX);
    return check_end();
}
