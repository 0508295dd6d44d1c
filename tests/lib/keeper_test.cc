#include "lib/keeper.h"

#include "tests/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

namespace pagoda {
namespace {

class KeeperTest : public ::testing::Test {
  protected:
    KeeperTest() { EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends_), 0); }
    ~KeeperTest() override {
        close(ends_[0]);
        if (ends_[1] >= 0)
            close(ends_[1]);
    }
    int ends_[2];
    keeper_message message_ = {keeper_request::keep, -5, 77, "a key"};
    keeper_message got_ = {};
    int fd_ = 0;
};

TEST_F(KeeperTest, MessagesArriveAsSent) {
    EXPECT_TRUE(keeper_send(ends_[0], message_, -1));
    EXPECT_EQ(keeper_receive(ends_[1], &got_, &fd_), 0);
    EXPECT_EQ(memcmp(&got_, &message_, sizeof got_), 0);
    EXPECT_EQ(fd_, -1);
}

TEST_F(KeeperTest, FilesComeAlong) {
    int null = open("/dev/null", O_RDONLY);
    EXPECT_TRUE(keeper_send(ends_[0], message_, null));
    EXPECT_EQ(keeper_receive(ends_[1], &got_, &fd_), 0);
    ASSERT_GE(fd_, 0);
    EXPECT_NE(fcntl(fd_, F_GETFD) & FD_CLOEXEC, 0);
    struct stat a;
    struct stat b;
    fstat(null, &a);
    fstat(fd_, &b);
    EXPECT_EQ(a.st_rdev, b.st_rdev);
    close(fd_);
    close(null);
}

// The room that one descriptor needs, rounded up, is room for two.
TEST_F(KeeperTest, OneFileAtMost) {
    int files[2] = {open("/dev/null", O_RDONLY), open("/dev/null", O_RDONLY)};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof files)] = {};
    iovec data = {&message_, sizeof message_};
    msghdr header = {};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr *rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof files);
    memcpy(CMSG_DATA(rights), files, sizeof files);
    ASSERT_EQ(sendmsg(ends_[0], &header, 0), static_cast<ssize_t>(sizeof message_));
    int before = dup(files[0]); // the lowest number that is free
    close(before);
    EXPECT_EQ(keeper_receive(ends_[1], &got_, &fd_), -EPROTO);
    EXPECT_EQ(fd_, -1);
    int after = dup(files[0]);
    EXPECT_EQ(after, before) << "both that came are closed";
    close(after);
    // A file with what is no message goes as well.
    data.iov_len = 3;
    header.msg_controllen = rights->cmsg_len = CMSG_LEN(sizeof files[0]);
    ASSERT_EQ(sendmsg(ends_[0], &header, 0), 3);
    EXPECT_EQ(keeper_receive(ends_[1], &got_, &fd_), -EPROTO);
    EXPECT_EQ(fd_, -1);
    after = dup(files[0]);
    EXPECT_EQ(after, before);
    for (int fd : {after, files[0], files[1]})
        close(fd);
}

TEST_F(KeeperTest, KeysAlwaysEnd) {
    memset(message_.key, 'k', sizeof message_.key);
    EXPECT_TRUE(keeper_send(ends_[0], message_, -1));
    EXPECT_EQ(keeper_receive(ends_[1], &got_, &fd_), 0);
    EXPECT_EQ(strlen(got_.key), sizeof got_.key - 1);
}

TEST_F(KeeperTest, OddMessagesAndSilenceAreErrors) {
    EXPECT_EQ(write(ends_[0], "odd", 3), 3);
    EXPECT_EQ(keeper_receive(ends_[1], &got_, &fd_), -EPROTO);
    auto end = test::in_child([this] {
        int null = open("/dev/null", O_RDONLY);
        test::limit(RLIMIT_NOFILE, static_cast<uint64_t>(null) + 1);
        EXPECT_TRUE(keeper_send(ends_[0], message_, null));
        EXPECT_EQ(keeper_receive(ends_[1], &got_, &fd_), -EMFILE);
        EXPECT_EQ(fd_, -1);
    });
    EXPECT_TRUE(test::succeeded(end));
    close(ends_[1]);
    ends_[1] = -1;
    EXPECT_FALSE(keeper_send(ends_[0], message_, -1)); // and no SIGPIPE
    EXPECT_EQ(keeper_receive(ends_[0], &got_, &fd_), -EPIPE);
}

} // namespace
} // namespace pagoda
