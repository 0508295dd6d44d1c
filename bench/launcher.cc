// Starts one program, waits for it, and writes what it cost as one line on descriptor 3.
// Linked statically and kept tiny: ru_maxrss carries the RSS of the address space that called exec
// over into the program, so whoever calls exec must be smaller than anything worth measuring. Being
// static it has no loader, so the LD_PRELOAD that it passes on does not act on itself.

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

namespace {

constexpr int kReport = 3;

long long now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

long long to_us(const timeval &t) { return t.tv_sec * 1000000LL + t.tv_usec; }

} // namespace

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    // A runner that was interrupted must not leave programs behind.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    fcntl(kReport, F_SETFD, FD_CLOEXEC);

    const long long start = now_ns();
    const pid_t child = vfork();
    if (child < 0)
        return 2;
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execvp(argv[1], argv + 1);
        _exit(127);
    }
    int status = 0;
    rusage usage;
    if (wait4(child, &status, 0, &usage) != child)
        return 2;
    const long long wall = now_ns() - start;

    char line[256];
    snprintf(line, sizeof line, "%lld %lld %lld %ld %ld %ld %d %d\n", wall, to_us(usage.ru_utime),
             to_us(usage.ru_stime), usage.ru_maxrss, usage.ru_minflt, usage.ru_majflt,
             WIFEXITED(status) ? WEXITSTATUS(status) : -1,
             WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    return write(kReport, line, strlen(line)) < 0 ? 2 : 0;
}
