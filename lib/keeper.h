// What a store (lib/store.cc) and its keeper (tools/keep.cc) say to each other: one message each
// way over a SOCK_SEQPACKET socket, with the object's file where there is one.
#pragma once

#include "hugepage/base.h"

#include <pagoda/cold.h>

namespace pagoda {

enum class keeper_request : uint32_t {
    hello, // are you there
    keep,  // with a file: hold it under this key, in place of another one
    find,  // the file of this key is the answer's
    drop,  // forget this key
};

struct keeper_message {
    keeper_request request;
    int32_t result; // of the answer: 0 or -errno
    uint64_t size;  // of the object, in bytes
    char key[PAGODA_STORE_KEY_MAX];
};
static_assert(sizeof(keeper_message) == 256);

// `fd`: passed along; -1: none. False: nobody listens any more.
bool keeper_send(int socket, const keeper_message &message, int fd);
// *fd: -1 where none came, and with any error. 0; -EMFILE when a file came that could not be taken,
// -EPIPE when nobody speaks any more, -EPROTO for what is no message, or has several files.
int keeper_receive(int socket, keeper_message *message, int *fd);

} // namespace pagoda
