#include "dma/os.h"

#include "tests/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <set>
#include <sys/mman.h>

using namespace pagoda::dma;
using namespace pagoda::test;

namespace {

struct os_test : ::testing::Test {
    char root[32] = "/tmp/pagoda-os-XXXXXX";
    std::string path(const char *name) { return std::string(root) + name; }
    void SetUp() override {
        ASSERT_NE(mkdtemp(root), nullptr);
        os::play(root, nullptr);
    }
    void TearDown() override {
        os::play("", nullptr);
        for (const char *name : {"/text", "/link", "/.hidden"})
            unlink(path(name).c_str());
        rmdir(root);
    }
    void put(const char *name, const char *text) {
        FILE *f = fopen(path(name).c_str(), "w");
        fputs(text, f);
        fclose(f);
    }
};

long no_ioctls(int, unsigned long request, uintptr_t argument) {
    return static_cast<long>(request + argument);
}

} // namespace

TEST_F(os_test, paths_are_below_the_root) {
    put("/text", "0x1234\n");
    int fd = os::open("/text", O_RDONLY);
    ASSERT_GE(fd, 0);
    EXPECT_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    int copy = os::duplicate(fd);
    EXPECT_EQ(fcntl(copy, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    os::close(copy);
    os::close(fd);
    os::close(-1);
    EXPECT_EQ(os::open("/absent", O_RDONLY), -ENOENT);
    EXPECT_EQ(os::duplicate(-1), -EBADF);
}

TEST_F(os_test, texts_and_numbers) {
    char text[32];
    put("/text", "0x1234\n");
    EXPECT_EQ(os::read_text("/text", text, sizeof text), 6);
    EXPECT_STREQ(text, "0x1234");
    EXPECT_EQ(os::read_text("/text", text, 4), 3);
    EXPECT_STREQ(text, "0x1");
    EXPECT_EQ(os::read_number("/text", 7), 0x1234u);
    EXPECT_EQ(os::read_number("/absent", 7), 7u);
    put("/text", "-1\n");
    EXPECT_EQ(static_cast<int>(os::read_number("/text", 7)), -1);
    put("/text", "none\n");
    EXPECT_EQ(os::read_number("/text", 7), 7u);
    EXPECT_EQ(os::read_text("/absent", text, sizeof text), -ENOENT);
    EXPECT_EQ(os::read_text("/", text, sizeof text), -EISDIR);
}

TEST_F(os_test, links_and_folders) {
    char name[32];
    ASSERT_EQ(symlink("../../drivers/vfio-pci", path("/link").c_str()), 0);
    EXPECT_EQ(os::link_name("/link", name, sizeof name), 0);
    EXPECT_STREQ(name, "vfio-pci");
    EXPECT_EQ(os::link_name("/absent", name, sizeof name), -ENOENT);
    put("/text", "");
    put("/.hidden", "");
    std::set<std::string> seen;
    auto see = [](void *data, const char *entry) {
        static_cast<std::set<std::string> *>(data)->insert(entry);
        return true;
    };
    EXPECT_EQ(os::each_entry("/", see, &seen), 0);
    EXPECT_EQ(seen, (std::set<std::string>{"link", "text"}));
    EXPECT_EQ(os::each_entry("/absent", see, &seen), -ENOENT);
    int calls = 0;
    os::each_entry(
        "/", [](void *data, const char *) { return ++*static_cast<int *>(data) < 1; }, &calls);
    EXPECT_EQ(calls, 1);
}

TEST_F(os_test, reads_writes_and_maps_at_offsets) {
    put("/text", std::string(8192, 'a').c_str());
    int fd = os::open("/text", O_RDWR);
    char four[4] = "xyz";
    EXPECT_EQ(os::write_at(fd, four, 4, 4096), 0);
    EXPECT_EQ(os::read_at(fd, four, 4, 8190), -EIO); // past the end
    EXPECT_EQ(os::read_at(-1, four, 4, 0), -EBADF);
    EXPECT_EQ(os::write_at(-1, four, 4, 0), -EBADF);
    int error = 0;
    auto *page = static_cast<char *>(os::map(fd, 4096, 4096, &error));
    ASSERT_NE(page, nullptr);
    EXPECT_STREQ(page, "xyz");
    page[0] = 'q';
    EXPECT_EQ(os::read_at(fd, four, 4, 4096), 0);
    EXPECT_STREQ(four, "qyz");
    // A child of fork has it not.
    child_end end = in_child([page] { *static_cast<volatile char *>(page) = 1; });
    EXPECT_EQ(end.signal(), SIGSEGV);
    os::unmap(page, 4096);
    EXPECT_EQ(os::map(fd, 1, 4096, &error), nullptr);
    EXPECT_EQ(error, -EINVAL);
    os::close(fd);
}

TEST_F(os_test, ioctls_can_be_answered_by_a_test) {
    EXPECT_EQ(os::ioctl(-1, 7, 8), -EBADF);
    os::play(root, no_ioctls);
    EXPECT_EQ(os::ioctl(-1, 7, 8), 15);
}

TEST(os, eventfds_count) {
    int fd = os::make_eventfd();
    uint64_t count = 2;
    EXPECT_EQ(read(fd, &count, sizeof count), -1);
    EXPECT_EQ(errno, EAGAIN);
    EXPECT_EQ(write(fd, &count, sizeof count), 8);
    EXPECT_EQ(write(fd, &count, sizeof count), 8);
    EXPECT_EQ(read(fd, &count, sizeof count), 8);
    EXPECT_EQ(count, 4u);
    os::close(fd);
}

TEST(os, pages_are_protected) {
    EXPECT_TRUE(succeeded(in_child([] {
        void *p = mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        EXPECT_TRUE(os::protect(p, 4096, PROT_READ | PROT_WRITE));
        memset(p, 1, 4096);
        EXPECT_FALSE(os::protect(static_cast<char *>(p) + 1, 4096, PROT_NONE));
    })));
}

TEST(os, limits_and_figures) {
    EXPECT_TRUE(succeeded(in_child([] {
        limit(RLIMIT_MEMLOCK, 65536);
        EXPECT_EQ(os::memlock_limit(), 65536u);
    })));
    // Two moments of a process that runs differ a little.
    EXPECT_NEAR(static_cast<double>(os::status_figure("VmSize")),
                static_cast<double>(process_figure("VmSize")), 64 << 20);
    EXPECT_EQ(os::status_figure("VmNothing"), 0u);
    EXPECT_TRUE(succeeded(in_child([] {
        void *p = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        uint64_t before = os::status_figure("VmLck");
        ASSERT_EQ(mlock(p, 4096), 0);
        EXPECT_EQ(os::status_figure("VmLck"), before + 4096);
    })));
}
