#include "hugepage/sys.h"

#include "tests/unit.h"

#include <chrono>
#include <errno.h>
#include <fcntl.h>
#include <fstream>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <thread>
#include <time.h>

namespace pagoda {
namespace {

using test::in_child;
using test::limit;
using test::resident;
using test::succeeded;

uintptr_t hole(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EXPECT_NE(p, MAP_FAILED);
    munmap(p, bytes);
    return reinterpret_cast<uintptr_t>(p);
}

bool mapped(uintptr_t at) { return msync(reinterpret_cast<void *>(at), kPageSize, MS_ASYNC) == 0; }

volatile char &byte(uintptr_t at) { return *reinterpret_cast<volatile char *>(at); }

class SysMemoryTest : public ::testing::Test {
  protected:
    void TearDown() override {
        sys::inject_failures(0, 0);
        munmap(reinterpret_cast<void *>(at_), 16 * page_);
    }
    size_t page_ = sys::page_size();
    uintptr_t at_ = hole(16 * page_);
};

TEST(SysTest, FailureIsASmallNegative) {
    EXPECT_TRUE(sys::failed(-1));
    EXPECT_TRUE(sys::failed(-4095));
    EXPECT_FALSE(sys::failed(-4096));
    EXPECT_FALSE(sys::failed(0));
    EXPECT_FALSE(sys::failed(0x7f0000000000));
}

TEST_F(SysMemoryTest, MapsZeroedPagesWhereNothingIs) {
    ASSERT_EQ(sys::map_at(at_, 2 * page_), 0);
    EXPECT_EQ(byte(at_), 0);
    byte(at_ + 2 * page_ - 1) = 5;
    EXPECT_FALSE(mapped(at_ + 2 * page_));
}

TEST_F(SysMemoryTest, NeverMapsOverOthers) {
    ASSERT_EQ(sys::map_at(at_ + page_, page_), 0);
    byte(at_ + page_) = 5;
    EXPECT_EQ(sys::map_at(at_, 3 * page_), -EEXIST);
    EXPECT_EQ(sys::map_at(at_ + page_, page_), -EEXIST);
    EXPECT_EQ(sys::reserve_at(at_, 3 * page_), -EEXIST);
    EXPECT_EQ(byte(at_ + page_), 5);
    EXPECT_FALSE(mapped(at_));
}

TEST_F(SysMemoryTest, ReportsTheLimit) {
    auto end = in_child([this] {
        limit(RLIMIT_AS, test::process_figure("VmSize"));
        errno = 77;
        EXPECT_EQ(sys::map_at(at_, 16 * page_), -ENOMEM);
        EXPECT_EQ(errno, 77); // raw calls leave it alone
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(SysMemoryTest, AReservationIsInaccessible) {
    ASSERT_EQ(sys::reserve_at(at_, page_), 0);
    EXPECT_TRUE(mapped(at_));
    EXPECT_EQ(in_child([this] { byte(at_) = 1; }).signal(), SIGSEGV);
}

TEST_F(SysMemoryTest, ExtendsInPlace) {
    ASSERT_EQ(sys::map_at(at_, page_), 0);
    byte(at_) = 5;
    ASSERT_EQ(sys::extend(at_ + page_, 2 * page_), 0);
    EXPECT_EQ(byte(at_), 5);
    EXPECT_EQ(byte(at_ + 3 * page_ - 1), 0);
    EXPECT_FALSE(mapped(at_ + 3 * page_));
    ASSERT_EQ(sys::map_at(at_ + 4 * page_, page_), 0);
    EXPECT_LT(sys::extend(at_ + 3 * page_, 2 * page_), 0); // somebody is there
    EXPECT_FALSE(mapped(at_ + 3 * page_));
    EXPECT_LT(sys::extend(at_ + 8 * page_, page_), 0); // nothing to extend
}

TEST_F(SysMemoryTest, MovesPagesOntoOthers) {
    ASSERT_EQ(sys::map_at(at_, 2 * page_), 0);
    ASSERT_EQ(sys::reserve_at(at_ + 8 * page_, 4 * page_), 0);
    byte(at_) = 5;
    byte(at_ + page_) = 6;
    ASSERT_EQ(sys::move_pages(at_, 2 * page_, at_ + 8 * page_, 4 * page_), 0);
    EXPECT_FALSE(mapped(at_));
    EXPECT_EQ(byte(at_ + 8 * page_), 5);
    EXPECT_EQ(byte(at_ + 9 * page_), 6);
    EXPECT_EQ(byte(at_ + 12 * page_ - 1), 0);
    EXPECT_LT(sys::move_pages(at_, page_, at_ + 8 * page_, page_), 0); // nothing there any more
    EXPECT_EQ(byte(at_ + 8 * page_), 5);
}

TEST_F(SysMemoryTest, UnmapsAndRefusesNonsense) {
    ASSERT_EQ(sys::map_at(at_, page_), 0);
    EXPECT_EQ(sys::unmap(at_ + 1, page_), -EINVAL);
    EXPECT_TRUE(mapped(at_));
    EXPECT_EQ(sys::unmap(at_, page_), 0);
    EXPECT_FALSE(mapped(at_));
}

TEST_F(SysMemoryTest, DiscardedPagesReadAsZero) {
    ASSERT_EQ(sys::map_at(at_, 2 * page_), 0);
    byte(at_) = 5;
    byte(at_ + page_) = 6;
    EXPECT_EQ(sys::discard(at_, page_), 0);
    EXPECT_FALSE(resident(reinterpret_cast<void *>(at_)));
    EXPECT_EQ(byte(at_), 0);
    EXPECT_EQ(byte(at_ + page_), 6);
}

TEST_F(SysMemoryTest, LockedMemoryIsNotDiscarded) {
    ASSERT_EQ(sys::map_at(at_, page_), 0);
    byte(at_) = 5;
    if (mlock(reinterpret_cast<void *>(at_), page_) != 0)
        GTEST_SKIP() << "this process may not lock memory";
    EXPECT_EQ(sys::discard(at_, page_), -EINVAL);
    EXPECT_EQ(byte(at_), 5);
}

TEST_F(SysMemoryTest, PopulatesWithoutChangingAnything) {
    ASSERT_EQ(sys::map_at(at_, 4 * page_), 0);
    byte(at_) = 5;
    int r = sys::populate(at_, 4 * page_);
    if (r == -EINVAL)
        GTEST_SKIP() << "this kernel cannot";
    ASSERT_EQ(r, 0);
    for (size_t i = 0; i < 4; i++)
        EXPECT_TRUE(resident(reinterpret_cast<void *>(at_ + i * page_)));
    EXPECT_EQ(byte(at_), 5);
    EXPECT_EQ(byte(at_ + page_), 0);
    EXPECT_LT(sys::populate(at_ + 4 * page_, page_), 0); // nothing mapped
}

TEST_F(SysMemoryTest, PopulatesForReading) {
    ASSERT_EQ(sys::map_at(at_, 4 * page_), 0);
    byte(at_) = 5;
    int r = sys::populate_read(at_, 4 * page_);
    if (r == -EINVAL)
        GTEST_SKIP() << "this kernel cannot";
    EXPECT_EQ(r, 0);
    EXPECT_EQ(byte(at_), 5);
    EXPECT_LT(sys::populate_read(at_ + 4 * page_, page_), 0); // nothing mapped
}

TEST_F(SysMemoryTest, HintsAndNamesNeverFail) {
    errno = 77;
    sys::hint_huge(at_, page_, true); // nothing mapped
    sys::name_range(at_, page_, "pagoda test");
    EXPECT_EQ(errno, 77);
    ASSERT_EQ(sys::map_at(at_, page_), 0);
    byte(at_) = 5;
    sys::hint_huge(at_, page_, true);
    sys::hint_huge(at_, page_, false);
    sys::name_range(at_, page_, "pagoda test");
    EXPECT_EQ(byte(at_), 5);
}

TEST_F(SysMemoryTest, AHugetlbPoolThatIsTooSmallFails) {
    uintptr_t at = hole(size_t{4} << 30);
    at = align_up(at, size_t{1} << 30);
    // 2 GiB in pages of 1 GiB: on most machines there is no such pool at all.
    auto end = in_child([at] {
        int r = sys::map_hugetlb_at(at, size_t{2} << 30, 30);
        EXPECT_LE(r, 0);
        EXPECT_EQ(mapped(at), r == 0);
        if (r == 0) {
            EXPECT_EQ(sys::unmap(at, size_t{2} << 30), 0);
        }
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(SysMemoryTest, InjectedFailuresComeInTheirTurn) {
    sys::inject_failures(1, 2);
    EXPECT_EQ(sys::map_at(at_, page_), 0);
    EXPECT_EQ(sys::map_at(at_ + page_, page_), -ENOMEM);
    EXPECT_EQ(sys::extend(at_ + page_, page_), -ENOMEM);
    EXPECT_FALSE(mapped(at_ + page_));
    EXPECT_EQ(sys::extend(at_ + page_, page_), 0);
}

TEST_F(SysMemoryTest, EveryCallThatTakesMemoryCanBeMadeToFail) {
    ASSERT_EQ(sys::map_at(at_, page_), 0);
    byte(at_) = 5;
    sys::inject_failures(0, 1000);
    EXPECT_EQ(sys::map_at(at_ + page_, page_), -ENOMEM);
    EXPECT_EQ(sys::map_hugetlb_at(at_ + page_, page_, 21), -ENOMEM);
    EXPECT_EQ(sys::reserve_at(at_ + page_, page_), -ENOMEM);
    EXPECT_EQ(sys::extend(at_ + page_, page_), -ENOMEM);
    EXPECT_EQ(sys::move_pages(at_, page_, at_ + page_, page_), -ENOMEM);
    EXPECT_EQ(byte(at_), 5);
    EXPECT_EQ(sys::discard(at_, page_), 0); // gives memory back: never injected
    EXPECT_EQ(sys::unmap(at_, page_), 0);
    sys::inject_failures(0, 0);
    EXPECT_EQ(sys::map_at(at_, page_), 0);
}

TEST(SysTest, AWaitForAnOldValueReturns) {
    std::atomic<uint32_t> word{1};
    sys::futex_wait(word, 0);
    sys::futex_wake(word, 1); // nobody there
    EXPECT_EQ(word.load(), 1u);
}

TEST(SysTest, AWaitEndsByItself) {
    std::atomic<uint32_t> word{0};
    uint64_t began = sys::now_ms();
    for (uint64_t now = began; now < began + 30; now = sys::now_ms())
        sys::futex_wait_for(word, 0, 10);
    sys::futex_wait_for(word, 1, 1'000'000'000); // another value: returns at once
    EXPECT_EQ(word.load(), 0u);
}

TEST(SysTest, AWakeEndsAWait) {
    std::atomic<uint32_t> word{0};
    std::thread waiter([&] {
        while (word.load() == 0)
            sys::futex_wait(word, 0);
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    word = 1;
    sys::futex_wake(word, 1);
    waiter.join();
    EXPECT_EQ(word.load(), 1u);
}

TEST(SysTest, DescribesTheMachine) {
    EXPECT_EQ(sys::page_size(), static_cast<size_t>(sysconf(_SC_PAGESIZE)));
    EXPECT_GE(sys::cpu_slots(), static_cast<uint32_t>(sysconf(_SC_NPROCESSORS_CONF)));
    EXPECT_LE(sys::cpu_slots(), 8192u);
    EXPECT_EQ(sys::auxv(AT_PAGESZ), getauxval(AT_PAGESZ));
}

TEST(SysTest, CpuListsEndWithTheLastCpu) {
    auto cpus = [](const char *list) {
        return sys::cpus_in_list(list, static_cast<long>(strlen(list)));
    };
    EXPECT_EQ(cpus("0\n"), 1u);
    EXPECT_EQ(cpus("0-3\n"), 4u);
    EXPECT_EQ(cpus("0-3,8-11,32"), 33u);
    EXPECT_EQ(sys::cpus_in_list("", 0), 0u);
    EXPECT_EQ(sys::cpus_in_list("", -2), 0u);
}

TEST(SysTest, AFilterIsSeen) {
    auto end = in_child([] {
        sock_filter allow[] = {{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}};
        sock_fprog program = {1, allow};
        ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        ASSERT_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
        EXPECT_FALSE(sys::unfiltered());
    });
    EXPECT_TRUE(succeeded(end));
    // Not to be seen is taken for filtered.
    EXPECT_TRUE(succeeded(in_child([] {
        limit(RLIMIT_NOFILE, 0);
        EXPECT_FALSE(sys::unfiltered());
    })));
    std::ifstream status("/proc/self/status");
    std::string text((std::istreambuf_iterator<char>(status)), {});
    EXPECT_EQ(sys::unfiltered(), text.find("Seccomp:\t0\n") != std::string::npos);
}

TEST(SysTest, RandomBitsAreNotTheCanary) {
    uint64_t raw = 0;
    memcpy(&raw, reinterpret_cast<const void *>(getauxval(AT_RANDOM)), sizeof raw);
    EXPECT_NE(sys::random_bits(), raw);
    EXPECT_NE(sys::random_bits(), 0u);
}

uint64_t exact_ms() {
    timespec t = {};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1000 + static_cast<uint64_t>(t.tv_nsec) / 1000000;
}

TEST(SysTest, TimeIsMonotonic) {
    uint64_t before = exact_ms();
    uint64_t first = sys::now_ms();
    EXPECT_LE(first, exact_ms());
    EXPECT_GE(first + 1000, before);                // it moves by ticks
    for (uint64_t now = first; now < first + 20;) { // and it does move
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        ASSERT_GE(sys::now_ms(), now);
        now = sys::now_ms();
    }
}

TEST(SysTest, PidIsThisProcess) {
    EXPECT_EQ(sys::pid(), getpid());
    EXPECT_TRUE(succeeded(in_child([parent = getpid()] {
        EXPECT_EQ(sys::pid(), getpid());
        EXPECT_NE(sys::pid(), parent);
    })));
}

TEST(SysTest, TheRseqFenceAlsoWorksAfterFork) {
    bool here = sys::rseq_fence();
    EXPECT_TRUE(succeeded(in_child([here] { EXPECT_EQ(sys::rseq_fence(), here); })));
    EXPECT_EQ(sys::rseq_fence(), here);
}

class SysFileTest : public ::testing::Test {
  protected:
    void SetUp() override {
        path_ = ::testing::TempDir() + "pagoda_sys_test." + std::to_string(getpid());
        unlink(path_.c_str());
    }
    void TearDown() override { unlink(path_.c_str()); }
    std::string path_;
};

TEST_F(SysFileTest, AppendsAndReads) {
    EXPECT_EQ(sys::append_file(path_.c_str(), "one\n", 4), 0);
    EXPECT_EQ(sys::append_file(path_.c_str(), "two\n", 4), 0);
    char buf[64];
    EXPECT_EQ(sys::read_file(path_.c_str(), buf, sizeof buf), 8);
    EXPECT_STREQ(buf, "one\ntwo\n");
    char small[5];
    EXPECT_EQ(sys::read_file(path_.c_str(), small, sizeof small), 4);
    EXPECT_STREQ(small, "one\n");
}

TEST_F(SysFileTest, ReportsWhatCannotBeOpened) {
    char buf[8];
    errno = 77;
    EXPECT_EQ(sys::read_file(path_.c_str(), buf, sizeof buf), -ENOENT);
    EXPECT_EQ(sys::append_file("/", "x", 1), -EISDIR);
    EXPECT_EQ(sys::append_file((path_ + "/no").c_str(), "x", 1), -ENOENT);
    EXPECT_EQ(errno, 77);
}

TEST_F(SysFileTest, ReportsAFullDisk) {
    if (access("/dev/full", W_OK) != 0)
        GTEST_SKIP() << "no /dev/full";
    EXPECT_EQ(sys::append_file("/dev/full", "x", 1), -ENOSPC);
}

TEST_F(SysFileTest, ReadsThePagemap) {
    uint64_t entries[2] = {};
    auto *p = static_cast<char *>(mmap(nullptr, 2 * sys::page_size(), PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    p[0] = 1;
    EXPECT_EQ(sys::read_pagemap(reinterpret_cast<uintptr_t>(p), 2, entries), 0);
    EXPECT_EQ(entries[0] >> 63, 1u); // present
    EXPECT_EQ(entries[1] >> 63, 0u);
    munmap(p, 2 * sys::page_size());
    EXPECT_LT(sys::read_pagemap(~uintptr_t{0}, 1, entries), 0); // no user's address
}

TEST(SysTest, WritesToStderr) {
    auto end = in_child([] { sys::write_stderr("some text", 4); });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.errors, "some");
}

TEST(SysTest, AbortsWhateverIsInstalled) {
    EXPECT_EQ(in_child([] { sys::abort_process(); }).signal(), SIGABRT);
    EXPECT_EQ(in_child([] {
                  signal(SIGABRT, SIG_IGN);
                  sys::abort_process();
              }).signal(),
              SIGABRT);
    EXPECT_EQ(in_child([] {
                  sigset_t set;
                  sigfillset(&set);
                  sigprocmask(SIG_BLOCK, &set, nullptr);
                  sys::abort_process();
              }).signal(),
              SIGABRT);
    auto end = in_child([] {
        signal(SIGABRT, [](int) { sys::write_stderr("handler", 7); });
        sys::abort_process();
    });
    EXPECT_EQ(end.signal(), SIGABRT);
    EXPECT_EQ(end.errors, "handler");
}

} // namespace
} // namespace pagoda
