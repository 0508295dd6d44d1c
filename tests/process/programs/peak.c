// peak LIBRARY PROGRAM [ARGUMENT]...: the peak RSS of PROGRAM with LIBRARY preloaded (if not ""),
// in KiB. ru_maxrss carries over what the process had before exec: so this one is static and small.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 3) {
        return 2;
    }
    if (argv[1][0] != 0) {
        setenv("LD_PRELOAD", argv[1], 1);
    }
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    pid_t child = vfork();
    if (child == 0) {
        dup2(null, 1);
        // Libraries lie at the same places each time: these decide what the kernel maps around a
        // fault.
        personality(ADDR_NO_RANDOMIZE);
        execv(argv[2], argv + 2);
        _exit(127);
    }
    int status = -1;
    struct rusage usage;
    if (wait4(child, &status, 0, &usage) != child || status != 0) {
        return 1;
    }
    printf("%ld\n", usage.ru_maxrss);
    return 0;
}
