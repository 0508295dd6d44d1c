#include "lib/keeper.h"

#include "hugepage/sys.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

namespace pagoda {
namespace {

// A message and room for one descriptor. That is rounded up: two may come.
struct packet {
    iovec data;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr header;

    packet(void *message, size_t size) : data{message, size}, control{}, header{} {
        header.msg_iov = &data;
        header.msg_iovlen = 1;
    }
};

// The descriptor that came with a message; -1: none. `ok` false, or more than one: they are closed.
int take_descriptor(msghdr &header, bool *ok) {
    const cmsghdr *rights = CMSG_FIRSTHDR(&header);
    if (rights == nullptr || rights->cmsg_type != SCM_RIGHTS)
        return -1;
    int fds[2] = {-1, -1};
    size_t bytes = min_of(rights->cmsg_len - CMSG_LEN(0), sizeof fds);
    memcpy(fds, CMSG_DATA(rights), bytes);
    *ok = *ok && fds[1] < 0;
    if (*ok)
        return fds[0];
    for (int fd : fds)
        if (fd >= 0)
            sys::close(fd);
    return -1;
}

} // namespace

bool keeper_send(int socket, const keeper_message &message, int fd) {
    packet p(const_cast<keeper_message *>(&message), sizeof message);
    if (fd >= 0) {
        p.header.msg_control = p.control;
        p.header.msg_controllen = sizeof p.control;
        cmsghdr *rights = CMSG_FIRSTHDR(&p.header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    }
    ssize_t n;
    do
        n = sendmsg(socket, &p.header, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n == sizeof message;
}

int keeper_receive(int socket, keeper_message *message, int *fd) {
    packet p(message, sizeof *message);
    p.header.msg_control = p.control;
    p.header.msg_controllen = sizeof p.control;
    *fd = -1;
    ssize_t n;
    do
        n = recvmsg(socket, &p.header, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -EPIPE;
    bool all_there = (p.header.msg_flags & MSG_CTRUNC) == 0;
    bool ok = all_there && n == sizeof *message;
    *fd = take_descriptor(p.header, &ok);
    if (n == 0)
        return -EPIPE;
    message->key[sizeof message->key - 1] = 0;
    return ok ? 0 : all_there ? -EPROTO : -EMFILE;
}

} // namespace pagoda
