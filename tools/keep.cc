// pagoda keep: holds the objects of stores (<pagoda/cold.h>) while programs come and go.
#include "lib/keeper.h"
#include "tools/command.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <map>
#include <poll.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace pagoda {
namespace {

struct held_file {
    int fd;
    uint64_t size;
};
using objects = std::map<std::string, held_file>;

void forget(objects &held, const std::string &key) {
    auto one = held.find(key);
    if (one == held.end())
        return;
    close(one->second.fd);
    held.erase(one);
}

int answer_to(const keeper_message &request, int fd, objects &held, keeper_message &answer,
              int *answer_fd) {
    std::string key = request.key;
    switch (request.request) {
    case keeper_request::hello:
        return 0;
    case keeper_request::keep: {
        struct stat status;
        if (fd < 0 || key.empty() || fstat(fd, &status) != 0 ||
            static_cast<uint64_t>(status.st_size) < request.size)
            return -EINVAL;
        int mine = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (mine < 0)
            return -errno;
        forget(held, key);
        held[key] = {mine, request.size};
        return 0;
    }
    case keeper_request::find: {
        auto one = held.find(key);
        if (one == held.end())
            return -ENOENT;
        *answer_fd = one->second.fd;
        answer.size = one->second.size;
        return 0;
    }
    case keeper_request::drop:
        forget(held, key);
        return 0;
    }
    return -ENOSYS;
}

// One request. False: the client is gone, or speaks something else.
bool serve(int client, objects &held) {
    keeper_message request = {};
    int fd = -1;
    int r = keeper_receive(client, &request, &fd);
    keeper_message answer = request;
    int answer_fd = -1;
    if (r == 0)
        r = answer.result = answer_to(request, fd, held, answer, &answer_fd);
    else if (r == -EMFILE)
        answer.result = r;
    else
        answer.result = -EPROTO;
    if (fd >= 0)
        close(fd);
    return answer.result != -EPROTO && keeper_send(client, answer, answer_fd);
}

sockaddr_un address_of(const std::string &path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path)
        throw command_error(kUsageError, "'" + path + "' is too long for the name of a socket");
    memcpy(address.sun_path, path.data(), path.size());
    return address;
}

bool somebody_listens(const sockaddr_un &address) {
    int probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    bool there = connect(probe, reinterpret_cast<const sockaddr *>(&address), sizeof address) == 0;
    close(probe);
    return there;
}

// One keeper for each socket: it holds this lock as long as it lives. Without it, whoever has it
// may not listen yet; false then means that by now it does.
bool lock_for_life(const std::string &path, const sockaddr_un &address) {
    int fd = open((path + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        throw command_error(kNotFound, "cannot make '" + path + ".lock': " + strerror(errno));
    for (int patience = 200; flock(fd, LOCK_EX | LOCK_NB) != 0; patience--) {
        if (somebody_listens(address))
            return false;
        if (patience == 0)
            throw command_error(kNotFound, "another keeper has '" + path + "' and does not answer");
        usleep(10000);
    }
    return true;
}

// Takes the place of a socket that a killed keeper left.
int listen_on(const std::string &path, const sockaddr_un &address) {
    struct stat status;
    if (lstat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode))
        unlink(path.c_str());
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, reinterpret_cast<const sockaddr *>(&address), sizeof address) != 0 ||
        listen(fd, 64) != 0)
        throw command_error(kNotFound, "cannot listen on '" + path + "': " + strerror(errno));
    return fd;
}

// Goes on in a child. The parent ends when the child says that it listens, or as it ends. Returns
// where to say so: a socket knows by whom it listens, so the child must do it.
int go_to_the_background() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        throw command_error(kNotFound, std::string("cannot make a pipe: ") + strerror(errno));
    pid_t pid = fork();
    if (pid < 0)
        throw command_error(kNotFound, std::string("cannot fork: ") + strerror(errno));
    if (pid > 0) {
        close(ends[1]);
        char byte;
        if (read(ends[0], &byte, 1) == 1)
            _exit(0);
        int status = 0;
        waitpid(pid, &status, 0);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : kNotFound);
    }
    close(ends[0]);
    setsid();
    return ends[1];
}

// From here on nobody waits, and nobody's terminal is held open.
void say_listening(int to) {
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd : {0, 1, 2})
        dup2(null, fd);
    if (write(to, "", 1) != 1)
        _exit(kNotFound);
    close(to);
}

} // namespace

void keep(const keep_request &request) {
    rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max; // one for each object
        setrlimit(RLIMIT_NOFILE, &files);
    }
    umask(0077); // the socket is its owner's alone
    int starter = request.background ? go_to_the_background() : -1;
    sockaddr_un address = address_of(request.socket);
    if (!lock_for_life(request.socket, address)) {
        if (request.background)
            return; // there is a keeper, which is what was wanted
        throw command_error(kUsageError, "another keeper listens on '" + request.socket + "'");
    }
    int listener = listen_on(request.socket, address);
    if (request.background)
        say_listening(starter);
    objects held;
    std::vector<pollfd> waiting = {{listener, POLLIN, 0}};
    bool anybody = false;
    // With the last client and the last object goes the keeper.
    while (!anybody || waiting.size() > 1 || !held.empty()) {
        if (poll(waiting.data(), waiting.size(), -1) < 0)
            continue;
        for (size_t i = waiting.size(); i-- > 1;) {
            if (waiting[i].revents == 0)
                continue;
            if (serve(waiting[i].fd, held)) {
                anybody = true; // who only looks whether there is a keeper does not count
                continue;
            }
            close(waiting[i].fd);
            waiting.erase(waiting.begin() + static_cast<ptrdiff_t>(i));
        }
        if (waiting[0].revents == 0)
            continue;
        int client = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
        if (client >= 0)
            waiting.push_back({client, POLLIN, 0});
    }
    unlink(request.socket.c_str());
}

} // namespace pagoda
