// The tests' own ground: does a child of in_child() say truly whether its expectations held?
#include "tests/contents.h"
#include "tests/unit.h"

#include <fcntl.h>
#include <stdexcept>
#include <vector>

namespace pagoda::test {
namespace {

// The exit status of a process in which body, which reports failures on purpose, decides.
template <class F> int status_of(F body) {
    child_end end = in_child([&] {
        dup2(open("/dev/null", O_WRONLY), 1); // gtest's account of them
        _exit(body());
    });
    return WIFEXITED(end.status) ? WEXITSTATUS(end.status) : -1;
}

TEST(in_child, succeeds_where_nothing_failed) {
    EXPECT_TRUE(succeeded(in_child([] { EXPECT_EQ(1, 1); })));
}

TEST(in_child, fails_with_a_failed_expectation) {
    EXPECT_EQ(status_of([] { return succeeded(in_child([] { EXPECT_EQ(1, 2); })) ? 3 : 4; }), 4);
    EXPECT_EQ(status_of([] { return succeeded(in_child([] { FAIL(); })) ? 3 : 4; }), 4);
}

TEST(in_child, is_not_blamed_for_what_failed_before) {
    EXPECT_EQ(status_of([] {
                  ADD_FAILURE();
                  return succeeded(in_child([] {})) ? 3 : 4;
              }),
              3);
    EXPECT_EQ(status_of([] {
                  ADD_FAILURE();
                  return succeeded(in_child([] { ADD_FAILURE(); })) ? 3 : 4;
              }),
              4);
}

TEST(in_child, does_not_let_an_exception_out) {
    EXPECT_EQ(in_child([] { throw std::runtime_error("lost"); }).status, 2 << 8);
}

TEST(in_child, tells_how_it_ended_and_what_was_said) {
    child_end end = in_child([] {
        fputs("one\ntwo\n", stderr);
        raise(SIGKILL);
    });
    EXPECT_EQ(end.signal(), SIGKILL);
    EXPECT_EQ(end.lines(), 2u);
    EXPECT_TRUE(end.said("two"));
    EXPECT_EQ(in_child([] { pause(); }, 1).signal(), SIGALRM);
}

TEST(contents, every_changed_byte_is_seen) {
    for (size_t size : {1u, 7u, 8u, 9u, 64u, 1001u}) {
        std::vector<char> block(size);
        EXPECT_TRUE(all_zero(block.data(), size));
        fill(block.data(), size, 42);
        EXPECT_TRUE(intact(block.data(), size, 42));
        for (char &byte : block) {
            byte = static_cast<char>(byte ^ 1);
            EXPECT_FALSE(intact(block.data(), size, 42));
            byte = static_cast<char>(byte ^ 1);
        }
        EXPECT_FALSE(all_zero(block.data(), size));
    }
}

} // namespace
} // namespace pagoda::test
