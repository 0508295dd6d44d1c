#include "bench/runner/launch.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <system_error>

namespace pagoda::bench {

namespace {

using clock = std::chrono::steady_clock;

constexpr int kReport = 3; // the descriptor that the launcher writes to

class descriptor {
  public:
    explicit descriptor(int fd) : fd_(fd) {
        if (fd < 0)
            throw std::system_error(errno, std::generic_category(), "descriptor");
    }
    descriptor(const descriptor &) = delete;
    descriptor &operator=(const descriptor &) = delete;
    ~descriptor() { close(fd_); }
    int get() const { return fd_; }

    std::string contents() const {
        std::string text;
        char piece[65536];
        for (off_t at = 0;;) {
            const ssize_t got = pread(fd_, piece, sizeof piece, at);
            if (got <= 0)
                return text;
            text.append(piece, static_cast<std::size_t>(got));
            at += got;
        }
    }

  private:
    int fd_;
};

descriptor memory_file(const char *name) { return descriptor(memfd_create(name, MFD_CLOEXEC)); }

// The runner's own environment without its LD_PRELOAD, then the additions.
std::vector<std::string> environment_with(const std::vector<std::string> &additions) {
    std::vector<std::string> made;
    for (char **each = environ; *each != nullptr; ++each) {
        const std::string variable = *each;
        const std::string key = variable.substr(0, variable.find('=') + 1);
        bool replaced = key == "LD_PRELOAD=";
        for (const std::string &one : additions)
            replaced = replaced || one.starts_with(key);
        if (!replaced)
            made.push_back(variable);
    }
    made.insert(made.end(), additions.begin(), additions.end());
    return made;
}

std::vector<char *> pointers(std::vector<std::string> &strings) {
    std::vector<char *> made;
    made.reserve(strings.size() + 1);
    for (std::string &each : strings)
        made.push_back(each.data());
    made.push_back(nullptr);
    return made;
}

// A child in a process group of its own, so that all it has started can be ended with it.
class child {
  public:
    child(std::vector<std::string> argv, std::vector<std::string> environment, int out, int error,
          int report) {
        posix_spawn_file_actions_t files;
        posix_spawn_file_actions_init(&files);
        posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
        posix_spawn_file_actions_adddup2(&files, error, STDERR_FILENO);
        if (report >= 0)
            posix_spawn_file_actions_adddup2(&files, report, kReport);
        posix_spawnattr_t attributes;
        posix_spawnattr_init(&attributes);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
        const int failed = posix_spawnp(&pid_, argv[0].c_str(), &files, &attributes,
                                        pointers(argv).data(), pointers(environment).data());
        posix_spawnattr_destroy(&attributes);
        posix_spawn_file_actions_destroy(&files);
        if (failed != 0)
            throw std::system_error(failed, std::generic_category(), argv[0]);
    }
    child(const child &) = delete;
    child &operator=(const child &) = delete;
    ~child() {
        if (!reaped_)
            end();
    }

    // False if the deadline passed first.
    bool wait_until(clock::time_point deadline) {
        const descriptor self(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
        pollfd ended{self.get(), POLLIN, 0};
        for (;;) {
            const auto left =
                std::chrono::duration_cast<std::chrono::milliseconds>(deadline - clock::now());
            if (left.count() <= 0)
                return false;
            const int ready = poll(&ended, 1, static_cast<int>(left.count()));
            if (ready > 0)
                break;
            if (ready < 0 && errno != EINTR)
                return false;
        }
        reap();
        return true;
    }

    void end() {
        kill(-pid_, SIGKILL);
        reap();
    }

    bool succeeded() const { return WIFEXITED(status_) && WEXITSTATUS(status_) == 0; }

  private:
    void reap() {
        while (waitpid(pid_, &status_, 0) < 0 && errno == EINTR) {
        }
        reaped_ = true;
    }

    pid_t pid_ = -1;
    int status_ = 0;
    bool reaped_ = false;
};

void read_report(const std::string &line, sample &into) {
    long long wall_ns = 0;
    long long user_us = 0;
    long long system_us = 0;
    if (std::sscanf(line.c_str(), "%lld %lld %lld %lf %lf %lf %d %d", &wall_ns, &user_us,
                    &system_us, &into.rss, &into.minor_faults, &into.major_faults,
                    &into.exit_status, &into.signal) != 8) {
        into.problem = "was not reported on by the launcher";
        return;
    }
    into.wall = static_cast<double>(wall_ns) / 1e9;
    into.cpu = static_cast<double>(user_us + system_us) / 1e6;
    if (into.signal != 0) {
        into.problem = std::string("was ended by signal ") + strsignal(into.signal);
    } else if (into.exit_status != 0) {
        into.problem = "exited with status " + std::to_string(into.exit_status);
    }
}

std::string last_line(const std::string &text) {
    const std::size_t end = text.find_last_not_of('\n');
    if (end == std::string::npos)
        return {};
    const std::size_t start = text.find_last_of('\n', end);
    return text.substr(start == std::string::npos ? 0 : start + 1,
                       end - (start == std::string::npos ? -1 : start));
}

} // namespace

sample launch(const program &what, const peer &under, std::chrono::seconds timeout) {
    std::vector<std::string> argv = what.argv;
    argv.insert(argv.begin(), own_folder() + "/pagoda-bench-launcher");
    std::vector<std::string> additions = what.environment;
    additions.insert(additions.end(), under.environment.begin(), under.environment.end());
    additions.push_back("LD_PRELOAD=" + under.library);

    const descriptor output = memory_file("output");
    const descriptor error = memory_file("error");
    const descriptor report = memory_file("report");
    const descriptor driver_output = memory_file("driver");
    const auto deadline = clock::now() + timeout;

    sample made;
    child program_run(argv, environment_with(additions), output.get(), error.get(), report.get());
    if (!what.driver.empty()) {
        child driver(what.driver, environment_with({}), driver_output.get(), error.get(), -1);
        if (!driver.wait_until(deadline)) {
            driver.end();
            made.problem = "kept its driver waiting too long";
        } else if (!driver.succeeded()) {
            made.problem = "made its driver fail";
        }
    }
    if (!made.problem.empty()) {
        program_run.end();
    } else if (!program_run.wait_until(deadline)) {
        program_run.end();
        made.problem = "ran longer than " + std::to_string(timeout.count()) + " s";
    } else {
        read_report(report.contents(), made);
    }
    made.output = (what.driver.empty() ? output : driver_output).contents();
    if (!made.problem.empty()) {
        const std::string said = last_line(error.contents());
        if (!said.empty())
            made.problem += " (" + said + ")";
    }
    return made;
}

} // namespace pagoda::bench
