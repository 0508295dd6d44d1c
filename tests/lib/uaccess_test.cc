#include "lib/uaccess.h"

#include "hugepage/sys.h"
#include "tests/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <string>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <vector>

namespace pagoda {
namespace {

using test::in_child;
using test::random_numbers;
using test::succeeded;

// From now on these calls fail with `error` in this process.
void refuse(const std::vector<int> &calls, int error) {
    std::vector<sock_filter> program;
    program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
    for (int nr : calls) {
        program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(nr), 0, 1));
        program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | unsigned(error)));
    }
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    sock_fprog filter = {static_cast<unsigned short>(program.size()), program.data()};
    ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
}

// Four pages: two that can be written, one that can be read only, one that is not there.
class UaccessTest : public ::testing::Test {
  protected:
    UaccessTest() {
        base_ = static_cast<char *>(
            mmap(nullptr, 4 * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        for (size_t i = 0; i < 3 * page_; i++)
            base_[i] = static_cast<char>(1 + i % 251);
        mprotect(base_ + 2 * page_, page_, PROT_READ);
        mprotect(base_ + 3 * page_, page_, PROT_NONE);
        buffer_.resize(4 * page_);
    }
    ~UaccessTest() override { munmap(base_, 4 * page_); }

    // Every copy that begins and ends anywhere agrees with what is known of the four pages.
    void check_random_copies(int count) {
        random_numbers random(7);
        for (int i = 0; i < count; i++) {
            size_t from = random.below(4 * page_);
            size_t n = random.below(4 * page_ - from + 1);
            size_t good = from >= 3 * page_ ? 0 : std::min(n, 3 * page_ - from);
            buffer_.assign(buffer_.size(), 'x');
            ASSERT_EQ(copy_from_user(buffer_.data(), base_ + from, n), n - good) << from;
            ASSERT_EQ(memcmp(buffer_.data(), base_ + from, good), 0);
            for (size_t at = good; at < buffer_.size(); at++)
                ASSERT_EQ(buffer_[at], at < n ? 0 : 'x') << at;

            good = from >= 2 * page_ ? 0 : std::min(n, 2 * page_ - from);
            for (size_t at = 0; at < n; at++)
                buffer_[at] = static_cast<char>(random.next());
            std::string before(base_, 3 * page_);
            ASSERT_EQ(copy_to_user(base_ + from, buffer_.data(), n), n - good) << from;
            before.replace(std::min(from, before.size()), good, buffer_.data(), good);
            ASSERT_EQ(memcmp(base_, before.data(), before.size()), 0);
        }
    }

    const size_t page_ = sys::page_size();
    char *base_;
    std::vector<char> buffer_;
};

TEST_F(UaccessTest, CopiesUpToTheFirstBadAddress) { check_random_copies(300); }

TEST_F(UaccessTest, BadPointersReturnAllOfTheCount) {
    errno = 77;
    for (uintptr_t bad : {uintptr_t{0}, uintptr_t{1}, ~uintptr_t{0} - 100, uintptr_t{1} << 60}) {
        void *p = reinterpret_cast<void *>(bad);
        memset(buffer_.data(), 'x', 100);
        EXPECT_EQ(copy_from_user(buffer_.data(), p, 64), 64u);
        EXPECT_EQ(buffer_[63], 0);
        EXPECT_EQ(buffer_[64], 'x');
        EXPECT_EQ(copy_to_user(p, buffer_.data(), 64), 64u);
        EXPECT_EQ(clear_user(p, 64), 64u);
        EXPECT_EQ(copy_from_user(buffer_.data(), p, 0), 0u);
        EXPECT_EQ(copy_from_kernel_nofault(buffer_.data(), p, 8), -EFAULT);
        EXPECT_EQ(copy_to_kernel_nofault(p, buffer_.data(), 8), -EFAULT);
    }
    EXPECT_EQ(errno, 77);
    EXPECT_EQ(copy_from_kernel_nofault(buffer_.data(), base_, 8), 0);
    EXPECT_EQ(clear_user(base_, ~0ul >> 1), (~0ul >> 1) - 2 * page_);
}

TEST_F(UaccessTest, FileBehindItsEndIsBadNotABusError) {
    FILE *file = tmpfile();
    ASSERT_EQ(ftruncate(fileno(file), 10), 0);
    char *map = static_cast<char *>(
        mmap(nullptr, 2 * page_, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0));
    EXPECT_EQ(copy_from_user(buffer_.data(), map, 2 * page_), page_);
    EXPECT_EQ(copy_to_user(map, buffer_.data(), 2 * page_), page_);
    munmap(map, 2 * page_);
    fclose(file);
}

TEST_F(UaccessTest, ClearsUpToTheFirstBadAddress) {
    EXPECT_EQ(clear_user(base_ + 100, 2 * page_), 100u); // the last 100 can only be read
    EXPECT_EQ(base_[99], 100);
    for (size_t i = 100; i < 2 * page_; i++)
        ASSERT_EQ(base_[i], 0) << i;
    EXPECT_NE(base_[2 * page_], 0);
}

TEST_F(UaccessTest, StringsEndAtTheirNul) {
    char *end = base_ + 2 * page_; // strings up to the end of what can be written
    char to[1024];
    memset(base_, 'a', 2 * page_);
    end[-1] = 0;
    EXPECT_EQ(strncpy_from_user(to, end - 6, sizeof to), 5);
    EXPECT_STREQ(to, "aaaaa");
    EXPECT_EQ(strncpy_from_user(to, end - 600, sizeof to), 599);
    EXPECT_EQ(strlen(to), 599u);
    EXPECT_EQ(strncpy_from_user(to, end - 600, 599), 599); // no NUL among them
    EXPECT_EQ(strncpy_from_user(to, end - 6, 0), 0);
    EXPECT_EQ(strncpy_from_user(to, end - 6, -1), 0);
    EXPECT_EQ(strncpy_from_user(to, nullptr, 10), -EFAULT);
    EXPECT_EQ(strnlen_user(end - 6, 100), 6);
    EXPECT_EQ(strnlen_user(end - 600, 10000), 600);
    EXPECT_EQ(strnlen_user(end - 600, 599), 600);
    EXPECT_EQ(strnlen_user(end - 600, 5), 6);
    EXPECT_EQ(strnlen_user(nullptr, 5), 0);
    memset(base_, 'a', 2 * page_);
    mprotect(end, page_, PROT_NONE);
    EXPECT_EQ(strncpy_from_user(to, end - 600, sizeof to), -EFAULT);
    EXPECT_EQ(strnlen_user(end - 600, 10000), 0);
}

TEST_F(UaccessTest, StructuresOfOtherVersions) {
    uint32_t v[3] = {7, 8, 0};
    uint32_t to[3] = {9, 9, 9};
    EXPECT_EQ(copy_struct_from_user(to, 8, v, 12), 0); // newer, but its new field is unset
    EXPECT_EQ(to[1], 8u);
    EXPECT_EQ(to[2], 9u);
    EXPECT_EQ(copy_struct_from_user(to, 4, v, 12), -E2BIG);
    EXPECT_EQ(copy_struct_from_user(to, 12, v, 4), 0); // older
    EXPECT_EQ(to[0], 7u);
    EXPECT_EQ(to[1], 0u);
    EXPECT_EQ(copy_struct_from_user(to, 12, nullptr, 12), -EFAULT);
    EXPECT_EQ(copy_struct_from_user(to, 4, base_ + 3 * page_ - 4, 8), -EFAULT);
}

TEST_F(UaccessTest, SingleValues) {
    const int32_t stored = -5;
    int64_t wide = 1;
    EXPECT_EQ(get_user(wide, &stored), 0);
    EXPECT_EQ(wide, -5);
    const char *const pointer = "abc";
    const char *got = nullptr;
    EXPECT_EQ(get_user(got, &pointer), 0);
    EXPECT_EQ(got, pointer);
    EXPECT_EQ(get_user(wide, static_cast<int16_t *>(nullptr)), -EFAULT);
    EXPECT_EQ(wide, 0);
    uint8_t small = 0;
    EXPECT_EQ(put_user(wide + 0x1ff, &small), 0);
    EXPECT_EQ(small, 0xff);
    EXPECT_EQ(put_user(1, reinterpret_cast<int *>(base_ + 2 * page_)), -EFAULT);
}

TEST_F(UaccessTest, RangesThatWrapAreNotOk) {
    EXPECT_TRUE(access_ok(base_, page_));
    EXPECT_TRUE(access_ok(nullptr, 0));
    EXPECT_FALSE(access_ok(base_, ~0ul));
    EXPECT_FALSE(access_ok(reinterpret_cast<void *>(~uintptr_t{0}), 1));
}

TEST_F(UaccessTest, PipeServesWhereTheCallIsRefused) {
    for (int error : {EPERM, ENOSYS}) {
        auto end = in_child([&] {
            refuse({SYS_process_vm_readv, SYS_process_vm_writev}, error);
            check_random_copies(100);
            EXPECT_EQ(clear_user(base_ + 100, 2 * page_), 100u);
            int fd = dup(0); // nothing stays open
            EXPECT_LT(fd, 10);
            EXPECT_EQ(pagoda_copy_from_process(getpid(), buffer_.data(), base_, 8), -error);
        });
        EXPECT_TRUE(succeeded(end)) << error;
    }
}

TEST_F(UaccessTest, NothingIsCopiedWhereAllIsRefused) {
    auto end = in_child([&] {
        refuse({SYS_process_vm_readv, SYS_process_vm_writev, SYS_pipe2}, EPERM);
        EXPECT_EQ(copy_from_user(buffer_.data(), base_, 64), 64u);
        EXPECT_EQ(copy_to_user(base_, buffer_.data(), 64), 64u);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(UaccessTest, OtherProcesses) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        close(ends[1]);
        char byte;
        ssize_t ignored = read(ends[0], &byte, 1); // until the parent is done
        _exit(base_[0] == 'Q' ? 0 : static_cast<int>(ignored) + 1);
    }
    close(ends[0]);
    memset(base_, 'p', 8); // the child has its own copy
    EXPECT_EQ(pagoda_copy_from_process(child, buffer_.data(), base_, 8), 8);
    EXPECT_EQ(buffer_[0], 1);
    ssize_t most = static_cast<ssize_t>(3 * page_);
    EXPECT_EQ(pagoda_copy_from_process(child, buffer_.data(), base_, 4 * page_), most);
    EXPECT_EQ(pagoda_copy_from_process(child, buffer_.data(), base_ + 3 * page_, 8), -EFAULT);
    EXPECT_EQ(pagoda_copy_to_process(child, base_, "Q", 1), 1);
    EXPECT_EQ(pagoda_copy_to_process(child, base_ + 2 * page_, "Q", 1), -EFAULT);
    EXPECT_EQ(pagoda_copy_from_process(child, buffer_.data(), base_, 0), 0);
    close(ends[1]);
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(pagoda_copy_from_process(child, buffer_.data(), base_, 8), -ESRCH);
}

} // namespace
} // namespace pagoda
