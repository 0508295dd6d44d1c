#include "lib/uaccess.h"

#include "hugepage/sys.h"

#include <string.h>

namespace pagoda {
namespace {

const char kZeros[kPageSize] = {};

// At most to the end of the OS page: no call copies a part of such a piece.
size_t piece_at(uintptr_t user, size_t n) {
    size_t page = sys::page_size();
    return min_of(n, page - user % page);
}

// The system's call, over and over: by its manual it copies whole pieces or nothing, in fact it
// stops at the bad page. Bytes copied, or -errno for none at all.
long copy_by_process(int process, uintptr_t mine, uintptr_t user, size_t n, bool to_user) {
    size_t done = 0;
    while (done < n) {
        size_t piece = n - done;
        long r = sys::copy_process(process, mine + done, user + done, piece, to_user);
        if (r == -EFAULT) {
            piece = piece_at(user + done, piece);
            r = sys::copy_process(process, mine + done, user + done, piece, to_user);
        }
        if (r <= 0)
            return done != 0 ? static_cast<long>(done) : r;
        done += static_cast<size_t>(r);
    }
    return static_cast<long>(done);
}

// Through a pipe, where the call above is refused: write and read check addresses as well.
size_t copy_by_pipe(uintptr_t mine, uintptr_t user, size_t n, bool to_user) {
    int ends[2];
    if (sys::pipe(ends) != 0)
        return 0;
    uintptr_t from = to_user ? mine : user;
    uintptr_t to = to_user ? user : mine;
    size_t done = 0;
    while (done < n) {
        // Not more than the 4096 bytes that a pipe takes as one.
        size_t piece = min_of(piece_at(user + done, n - done), kPageSize);
        long r = sys::write(ends[1], from + done, piece);
        if (r == static_cast<long>(piece))
            r = sys::read(ends[0], to + done, piece);
        if (r != static_cast<long>(piece))
            break;
        done += piece;
    }
    sys::close(ends[0]);
    sys::close(ends[1]);
    return done;
}

} // namespace

size_t copy_checked(void *mine, uintptr_t user, size_t n, copy_direction direction) {
    bool to_user = direction == copy_direction::to_user;
    uintptr_t own = reinterpret_cast<uintptr_t>(mine);
    if (n == 0)
        return 0;
    long r = copy_by_process(sys::pid(), own, user, n, to_user);
    if (r == -EPERM || r == -ENOSYS || r == -EACCES)
        return copy_by_pipe(own, user, n, to_user);
    return r > 0 ? static_cast<size_t>(r) : 0;
}

} // namespace pagoda

using namespace pagoda;

namespace {
size_t read_user(void *to, const void *from, size_t n) {
    return copy_checked(to, reinterpret_cast<uintptr_t>(from), n, copy_direction::from_user);
}
size_t write_user(void *to, const void *from, size_t n) {
    return copy_checked(const_cast<void *>(from), reinterpret_cast<uintptr_t>(to), n,
                        copy_direction::to_user);
}
} // namespace

PAGODA_EXPORT unsigned long pagoda_copy_from_user(void *to, const void *from, unsigned long n) {
    size_t done = read_user(to, from, n);
    if (done < n) // nobody gets to see what the buffer held before
        memset(static_cast<char *>(to) + done, 0, n - done);
    return n - done;
}

PAGODA_EXPORT unsigned long pagoda_copy_to_user(void *to, const void *from, unsigned long n) {
    return n - write_user(to, from, n);
}

PAGODA_EXPORT unsigned long pagoda_clear_user(void *to, unsigned long n) {
    char *at = static_cast<char *>(to);
    while (n > 0) {
        size_t piece = min_of(size_t{n}, sizeof kZeros);
        size_t done = write_user(at, kZeros, piece);
        n -= done;
        at += done;
        if (done < piece)
            break;
    }
    return n;
}

PAGODA_EXPORT long pagoda_strncpy_from_user(char *to, const char *from, long count) {
    constexpr size_t kPiece = 256; // strings are short
    size_t most = count > 0 ? static_cast<size_t>(count) : 0;
    size_t have = 0;
    while (have < most) {
        size_t piece = min_of(most - have, kPiece);
        size_t done = read_user(to + have, from + have, piece);
        if (const void *end = memchr(to + have, 0, done))
            return static_cast<const char *>(end) - to;
        have += done;
        if (done < piece)
            return -EFAULT;
    }
    return static_cast<long>(have);
}

PAGODA_EXPORT long pagoda_strnlen_user(const char *string, long count) {
    char piece[256];
    long have = 0;
    while (have < count) {
        long most = min_of(count - have, static_cast<long>(sizeof piece));
        long length = pagoda_strncpy_from_user(piece, string + have, most);
        if (length < 0)
            return 0;
        if (length < most)
            return have + length + 1;
        have += most;
    }
    return have + 1;
}

PAGODA_EXPORT int pagoda_copy_struct_from_user(void *to, size_t ksize, const void *from,
                                               size_t usize) {
    const char *user = static_cast<const char *>(from);
    size_t common = min_of(ksize, usize);
    char piece[256];
    for (size_t at = common; at < usize;) {
        size_t n = min_of(usize - at, sizeof piece);
        if (read_user(piece, user + at, n) != n)
            return -EFAULT;
        for (size_t i = 0; i < n; i++)
            if (piece[i] != 0)
                return -E2BIG;
        at += n;
    }
    if (read_user(to, user, common) != common)
        return -EFAULT;
    if (ksize > common)
        memset(static_cast<char *>(to) + common, 0, ksize - common);
    return 0;
}

PAGODA_EXPORT ssize_t pagoda_copy_from_process(pid_t process, void *to, const void *from,
                                               size_t n) {
    return copy_by_process(process, reinterpret_cast<uintptr_t>(to),
                           reinterpret_cast<uintptr_t>(from), n, false);
}

PAGODA_EXPORT ssize_t pagoda_copy_to_process(pid_t process, void *to, const void *from, size_t n) {
    return copy_by_process(process, reinterpret_cast<uintptr_t>(from),
                           reinterpret_cast<uintptr_t>(to), n, true);
}
