#include "lib/store.h"

#include "hugepage/sys.h"
#include "lib/heap.h"
#include "lib/kernel_api.h"

#include <errno.h>
#include <new>
#include <poll.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace pagoda {
namespace {

constexpr timeval kPatience = {10, 0}; // with a keeper that does not answer

void disconnect(pagoda_store *s) {
    if (s->socket >= 0)
        close(s->socket);
    s->socket = -1;
    s->keeper = 0;
    s->all_kept = false;
}

// Sends a request and waits for its answer. 0, the keeper's error, or -EPIPE: it is gone.
int ask(pagoda_store *s, keeper_message *message, int *fd) {
    int answered = -EPIPE;
    int passed = *fd;
    *fd = -1;
    if (s->socket >= 0 && keeper_send(s->socket, *message, passed))
        answered = keeper_receive(s->socket, message, fd);
    if (answered == 0)
        return message->result;
    disconnect(s);
    return answered;
}

keeper_message request_for(keeper_request request, const char *key, uint64_t size) {
    keeper_message m = {};
    m.request = request;
    m.size = size;
    memcpy(m.key, key, strlen(key)); // shorter than the field, as callers see to
    return m;
}

bool connect_to_keeper(pagoda_store *s) {
    disconnect(s);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
    s->socket = fd;
    ucred peer = {};
    socklen_t length = sizeof peer;
    int none = -1;
    keeper_message hello = request_for(keeper_request::hello, "", 0);
    if (connect(fd, reinterpret_cast<const sockaddr *>(&s->address), sizeof s->address) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 ||
        ask(s, &hello, &none) != 0) {
        disconnect(s);
        return false;
    }
    s->keeper = peer.pid;
    return true;
}

// `pagoda keep` returns when its socket is there and a process of its own listens.
void start_keeper(const pagoda_store *s) {
    char keep[] = "keep";
    char background[] = "--background";
    char *argv[] = {const_cast<char *>(s->command), keep, background,
                    const_cast<char *>(s->address.sun_path), nullptr};
    pid_t pid;
    if (posix_spawnp(&pid, s->command, nullptr, nullptr, argv, environ) != 0)
        return;
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
}

bool find_keeper(pagoda_store *s) {
    if (connect_to_keeper(s))
        return true;
    if (s->command == nullptr)
        return false;
    start_keeper(s);
    return connect_to_keeper(s);
}

// Hands an object over. 0 or -errno, and then the store is local.
int hand_over(pagoda_store *s, const store_object *o) {
    int fd = o->area->region->fd;
    keeper_message m =
        request_for(keeper_request::keep, o->key, uint64_t{o->area->pages} << kPageShift);
    int r = ask(s, &m, &fd);
    if (fd >= 0)
        close(fd);
    if (r != 0)
        s->all_kept = false;
    return r;
}

store_object **link_of(pagoda_store *s, const char *key) {
    store_object **link = &s->objects;
    while (*link != nullptr && strcmp((*link)->key, key) != 0)
        link = &(*link)->next;
    return link;
}

// The keeper's object, or NULL where it has none; *r says why.
memfd_region *ask_for_region(pagoda_store *s, const char *key, uint32_t pages, int *r) {
    int fd = -1;
    keeper_message m = request_for(keeper_request::find, key, 0);
    *r = s->socket >= 0 ? ask(s, &m, &fd) : -ENOENT;
    memfd_region *region = nullptr;
    if (*r == 0)
        *r = fd < 0                                    ? -EPROTO
             : m.size != uint64_t{pages} << kPageShift ? -EEXIST
                                                       : region_import(fd, 0, pages, &region);
    if (fd >= 0)
        close(fd);
    return region;
}

// The object in a region, which goes with it; NULL when memory is short.
store_object *make_object(pagoda_store *s, memfd_region *region, const char *key) {
    auto *o =
        static_cast<store_object *>(heap_alloc(sizeof(store_object), GFP_KERNEL | __GFP_ZERO));
    if (o != nullptr)
        o->area = vmap_region(region, PAGE_KERNEL);
    if (o == nullptr || o->area == nullptr) {
        heap_free(o, GFP_KERNEL);
        region_put(region, 1);
        return nullptr;
    }
    region->home = o->area->start;
    memcpy(o->key, key, strlen(key));
    o->next = s->objects;
    s->objects = o;
    return o;
}

void unmap_object(store_object *o) {
    memfd_region *region = o->area->region;
    vmap_destroy(vmap_take(reinterpret_cast<const void *>(o->area->start), true, 0));
    region_put(region, 1);
    heap_free(o, GFP_KERNEL);
}

} // namespace
} // namespace pagoda

using namespace pagoda;

PAGODA_EXPORT pagoda_store *pagoda_store_open(const char *socket, const char *keeper) {
    size_t length = strlen(socket);
    size_t command = keeper != nullptr ? strlen(keeper) + 1 : 0;
    if (length == 0 || length >= sizeof sockaddr_un{}.sun_path || !kernel_api_enter(GFP_KERNEL))
        return nullptr;
    void *room = heap_alloc(sizeof(pagoda_store) + command, GFP_KERNEL);
    if (room == nullptr)
        return nullptr;
    auto *s = new (room) pagoda_store;
    s->address.sun_family = AF_UNIX;
    memcpy(s->address.sun_path, socket, length);
    if (keeper != nullptr)
        s->command = static_cast<char *>(memcpy(static_cast<void *>(s + 1), keeper, command));
    s->all_kept = find_keeper(s);
    return s;
}

PAGODA_EXPORT void pagoda_store_close(pagoda_store *s) {
    if (s == nullptr)
        return;
    while (store_object *o = s->objects) {
        s->objects = o->next;
        unmap_object(o);
    }
    disconnect(s);
    heap_free(s, GFP_KERNEL);
}

PAGODA_EXPORT void *pagoda_store_get(pagoda_store *s, const char *key, size_t size, bool *found) {
    size_t length = strlen(key);
    *found = false;
    if (length == 0 || length >= PAGODA_STORE_KEY_MAX || size == 0 ||
        size > UINT32_MAX * kPageSize / 2)
        return nullptr;
    uint32_t pages = static_cast<uint32_t>(align_up(size, sys::page_size()) >> kPageShift);
    lock_guard hold(s->lock);
    store_object *o = *link_of(s, key);
    *found = o != nullptr;
    if (o != nullptr)
        return o->area->pages == pages ? reinterpret_cast<void *>(o->area->start) : nullptr;
    int r;
    memfd_region *region = ask_for_region(s, key, pages, &r);
    *found = region != nullptr;
    if (region == nullptr && r != -ENOENT && r != -EPIPE)
        return nullptr; // there is one, and it cannot be had: not a new one in its place
    // More than the machine has would end somebody before it failed.
    if (region == nullptr && size <= sys::total_memory())
        region = region_create("pagoda-store", pages, true, GFP_KERNEL);
    o = region != nullptr ? make_object(s, region, key) : nullptr;
    if (o == nullptr)
        return nullptr;
    if (!*found && s->socket >= 0)
        hand_over(s, o);
    return reinterpret_cast<void *>(o->area->start);
}

PAGODA_EXPORT int pagoda_store_drop(pagoda_store *s, const char *key) {
    lock_guard hold(s->lock);
    store_object **link = link_of(s, key);
    store_object *o = *link;
    if (o == nullptr)
        return -ENOENT;
    *link = o->next;
    unmap_object(o);
    if (s->socket >= 0) {
        int none = -1;
        keeper_message m = request_for(keeper_request::drop, key, 0);
        ask(s, &m, &none);
    }
    return 0;
}

PAGODA_EXPORT pid_t pagoda_store_keeper(pagoda_store *s) {
    lock_guard hold(s->lock);
    pollfd end = {s->socket, POLLIN, 0};
    // It says nothing unasked: whatever there is to read is its end.
    if (s->socket >= 0 && poll(&end, 1, 0) > 0)
        disconnect(s);
    return s->all_kept ? s->keeper : 0;
}

PAGODA_EXPORT int pagoda_store_renew(pagoda_store *s) {
    lock_guard hold(s->lock);
    if (!find_keeper(s))
        return -ECONNREFUSED;
    s->all_kept = true;
    int result = 0;
    for (const store_object *o = s->objects; o != nullptr && s->socket >= 0; o = o->next) {
        int r = hand_over(s, o);
        result = result != 0 ? result : r;
    }
    return result;
}
