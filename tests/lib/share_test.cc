#include "lib/share.h"

#include "hugepage/sys.h"
#include "hugepage/zone.h"
#include "lib/heap.h"
#include "lib/thread.h"
#include "tests/unit.h"

#include <pagoda/vmap.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

namespace pagoda {
namespace {

using test::in_child;
using test::succeeded;

constexpr size_t kSize = 8 * kPageSize;

class ShareTest : public ::testing::Test {
  protected:
    ShareTest() : region_(static_cast<char *>(pagoda_share_alloc(kSize - 100, GFP_KERNEL))) {}
    ~ShareTest() override {
        sys::inject_failures(0, 0);
        pagoda_share_free(region_);
    }
    char *region_;
};

void send_descriptor(int socket, int fd, uint64_t offset) {
    iovec data = {&offset, sizeof offset};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    ASSERT_EQ(sendmsg(socket, &message, 0), ssize_t{sizeof offset});
}

int receive_descriptor(int socket, uint64_t *offset) {
    iovec data = {offset, sizeof *offset};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != sizeof *offset)
        return -1;
    int fd = -1;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

TEST_F(ShareTest, IsZeroedPagesWithAGuard) {
    ASSERT_NE(region_, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(region_) % kPageSize, 0u);
    for (size_t i = 0; i < kSize; i++)
        ASSERT_EQ(region_[i], 0);
    region_[kSize - 1] = 1;
    EXPECT_EQ(in_child([&] { *static_cast<volatile char *>(region_ + kSize); }).signal(), SIGSEGV);
}

// Two processes that share nothing but a socket: the child is made before the region is.
TEST_F(ShareTest, AnotherProcessMapsItByDescriptorAndSeesWrites) {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
    pid_t child = fork();
    if (child == 0) {
        close(ends[1]);
        uint64_t offset = 0;
        int fd = receive_descriptor(ends[0], &offset);
        char *mine = static_cast<char *>(pagoda_share_import(fd, offset, 2 * kPageSize));
        if (mine == nullptr || strcmp(mine, "from the parent") != 0)
            _exit(1);
        close(fd);
        strcpy(mine + kPageSize, "from the child");
        if (write(ends[0], "", 1) != 1)
            _exit(2);
        char byte;
        ssize_t n = read(ends[0], &byte, 1); // the parent has written again
        _exit(n == 1 && strcmp(mine, "again") == 0 ? 0 : 3);
    }
    close(ends[0]);
    char *late = static_cast<char *>(pagoda_share_alloc(kSize, GFP_KERNEL));
    strcpy(late + 4 * kPageSize, "from the parent");
    uint64_t offset = 0;
    int fd = pagoda_share_export(late + 4 * kPageSize, 2 * kPageSize, &offset);
    ASSERT_GE(fd, 3);
    EXPECT_EQ(offset, 4 * kPageSize);
    EXPECT_NE(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    send_descriptor(ends[1], fd, offset);
    close(fd);
    char byte;
    ASSERT_EQ(read(ends[1], &byte, 1), 1);
    EXPECT_STREQ(late + 5 * kPageSize, "from the child");
    strcpy(late + 4 * kPageSize, "again");
    ASSERT_EQ(write(ends[1], "", 1), 1);
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    close(ends[1]);
    pagoda_share_free(late);
}

TEST_F(ShareTest, RemapShowsItAtAChosenAddress) {
    char *mine = static_cast<char *>(
        mmap(nullptr, 4 * kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_EQ(pagoda_share_remap(mine + kPageSize, region_ + 3 * kPageSize, 2 * kPageSize,
                                 PROT_READ | PROT_WRITE),
              0);
    mine[kPageSize] = 'a';
    region_[4 * kPageSize] = 'b';
    EXPECT_EQ(region_[3 * kPageSize], 'a');
    EXPECT_EQ(mine[2 * kPageSize], 'b');
    EXPECT_EQ(in_child([&] { *static_cast<volatile char *>(mine); }).signal(), SIGSEGV);
    EXPECT_EQ(pagoda_share_remap(mine + 1, region_, kPageSize, PROT_READ), -EINVAL);
    EXPECT_EQ(pagoda_share_remap(mine, region_ + 1, kPageSize, PROT_READ), -EINVAL);
    EXPECT_EQ(pagoda_share_remap(mine, region_, 5, PROT_READ), -EINVAL);
    EXPECT_EQ(pagoda_share_remap(mine, region_, 0, PROT_READ), -EINVAL);
    void *heap = heap_alloc_aligned(kPageSize, kPageSize, GFP_KERNEL);
    EXPECT_EQ(pagoda_share_remap(heap, region_, kPageSize, PROT_READ), -EINVAL);
    heap_free(heap, GFP_KERNEL);
    // Nor what Pagoda has behind the first page: tables, areas, other regions' homes.
    char *tables = reinterpret_cast<char *>(g_space.page_class.base()) - 2 * kPageSize;
    EXPECT_EQ(pagoda_share_remap(tables, region_, 4 * kPageSize, PROT_READ), -EINVAL);
    char *area = static_cast<char *>(heap_alloc(4 << 20, GFP_KERNEL));
    EXPECT_EQ(pagoda_share_remap(area + kPageSize, region_, kPageSize, PROT_READ), -EINVAL);
    heap_free(area, GFP_KERNEL);
    char *other = static_cast<char *>(pagoda_share_alloc(kPageSize, GFP_KERNEL));
    for (long pages : {-1, 0, 1}) // the last one has its guard
        EXPECT_EQ(pagoda_share_remap(other + pages * static_cast<long>(kPageSize), region_,
                                     2 * kPageSize, PROT_READ),
                  -EINVAL);
    pagoda_share_free(other);
    sys::inject_failures(0, 1);
    EXPECT_EQ(pagoda_share_remap(mine, region_, kPageSize, PROT_READ), -ENOMEM);
    munmap(mine, 4 * kPageSize);
}

TEST_F(ShareTest, PrivateMemoryIsRefusedAloud) {
    auto end = in_child([] {
        void *heap = heap_alloc_aligned(kPageSize, kPageSize, GFP_KERNEL);
        uint64_t offset;
        EXPECT_EQ(pagoda_share_export(heap, kPageSize, &offset), -EINVAL);
        EXPECT_EQ(pagoda_share_page(heap), nullptr);
        void *at = mmap(nullptr, kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        EXPECT_EQ(pagoda_share_remap(at, heap, kPageSize, PROT_READ), -EINVAL);
        pagoda_share_free(heap);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("pagoda_share_export: 0x")) << end.errors;
    EXPECT_TRUE(end.said("private memory")) << end.errors;
    EXPECT_EQ(end.lines(), 4u) << end.errors;
}

TEST_F(ShareTest, ExportsOnlyWhatLiesInOnePiece) {
    struct ::page *swapped[2] = {pagoda_share_page(region_ + kPageSize),
                                 pagoda_share_page(region_)};
    char *p = static_cast<char *>(vmap(swapped, 2, VM_MAP, PAGE_KERNEL));
    uint64_t offset = 1;
    int fd = pagoda_share_export(p + 10, kPageSize - 10, &offset);
    EXPECT_GE(fd, 3);
    EXPECT_EQ(offset, kPageSize + 10);
    close(fd);
    auto end = in_child([&] {
        EXPECT_EQ(pagoda_share_export(p, 2 * kPageSize, &offset), -EINVAL);
        EXPECT_EQ(pagoda_share_export(region_, kSize + 1, &offset), -EINVAL);
        EXPECT_EQ(pagoda_share_export(region_, ~size_t{0}, &offset), -EINVAL);
        EXPECT_EQ(pagoda_share_export(region_, 0, &offset), -EINVAL);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_TRUE(end.said("not in one piece")) << end.errors;
    vunmap(p);
}

TEST_F(ShareTest, ForkSharesIt) {
    region_[0] = 'p';
    auto end = in_child([this] {
        EXPECT_EQ(region_[0], 'p');
        region_[1] = 'c';
        pagoda_share_free(region_); // ends the child's mapping only
        char *own = static_cast<char *>(pagoda_share_alloc(kPageSize, GFP_KERNEL));
        EXPECT_NE(own, nullptr);
        pagoda_share_free(own);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(region_[1], 'c');
}

TEST_F(ShareTest, RefusedSizesFlagsAndMemoryGiveNull) {
    EXPECT_EQ(pagoda_share_alloc(0, GFP_KERNEL), nullptr);
    EXPECT_EQ(pagoda_share_alloc(~size_t{0}, GFP_KERNEL | __GFP_NOWARN), nullptr);
    EXPECT_EQ(pagoda_share_alloc(size_t{1} << 41, GFP_KERNEL | __GFP_NOWARN), nullptr);
    EXPECT_EQ(pagoda_share_alloc(kSize, GFP_ATOMIC), nullptr);
    EXPECT_EQ(pagoda_share_import(-1, 0, kPageSize), nullptr);
    EXPECT_EQ(pagoda_share_import(0, 0, 0), nullptr);
    for (int succeed = 0; succeed < 3; succeed++) { // memory, addresses, the mapping
        sys::inject_failures(succeed, 1000);
        EXPECT_EQ(pagoda_share_alloc(kSize, GFP_KERNEL | __GFP_NOWARN | __GFP_NORETRY), nullptr);
    }
    sys::inject_failures(0, 0);
    slow_path interrupted;
    EXPECT_EQ(pagoda_share_alloc(kSize, GFP_KERNEL), nullptr);
    pagoda_share_free(nullptr);
}

} // namespace
} // namespace pagoda
