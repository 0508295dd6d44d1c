#include "lib/keeper.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

namespace pagoda {
namespace {

// A message and room for one descriptor.
struct packet {
    iovec data;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr header;

    packet(void *message, size_t size) : data{message, size}, control{}, header{} {
        header.msg_iov = &data;
        header.msg_iovlen = 1;
    }
};

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
    const cmsghdr *rights = CMSG_FIRSTHDR(&p.header);
    if (n > 0 && rights != nullptr && rights->cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(rights), sizeof *fd);
    if (n <= 0)
        return -EPIPE;
    if ((p.header.msg_flags & MSG_CTRUNC) != 0)
        return -EMFILE;
    message->key[sizeof message->key - 1] = 0;
    return n == sizeof *message ? 0 : -EPROTO;
}

} // namespace pagoda
