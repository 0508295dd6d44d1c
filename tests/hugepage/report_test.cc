#include "hugepage/report.h"

#include "hugepage/options.h"
#include "tests/unit.h"

#include <limits.h>
#include <thread>
#include <vector>

namespace pagoda {
namespace {

using test::in_child;
using test::succeeded;

template <class T> std::string written(T value) {
    text_buffer<64> t;
    t << value;
    return {t.data(), t.size()};
}

TEST(ReportTest, WritesNumbers) {
    EXPECT_EQ(written(uint64_t{0}), "0");
    EXPECT_EQ(written(uint64_t{10}), "10");
    EXPECT_EQ(written(UINT64_MAX), "18446744073709551615");
    EXPECT_EQ(written(UINT32_MAX), "4294967295");
    EXPECT_EQ(written(-1), "-1");
    EXPECT_EQ(written(INT_MIN), "-2147483648");
    EXPECT_EQ(written(INT_MAX), "2147483647");
}

TEST(ReportTest, WritesPointers) {
    EXPECT_EQ(written(reinterpret_cast<const void *>(uintptr_t{0})), "0x0");
    EXPECT_EQ(written(reinterpret_cast<const void *>(uintptr_t{0x10})), "0x10");
    EXPECT_EQ(written(reinterpret_cast<const void *>(uintptr_t{0xdeadbeef01})), "0xdeadbeef01");
    EXPECT_EQ(written(reinterpret_cast<const void *>(UINTPTR_MAX)), "0xffffffffffffffff");
}

TEST(ReportTest, JoinsPieces) {
    text_buffer<64> t;
    t << "free of " << reinterpret_cast<const void *>(uintptr_t{0x1000}) << ',' << 7 << " times";
    EXPECT_EQ(std::string(t.data(), t.size()), "free of 0x1000,7 times");
}

TEST(ReportTest, CutsWhatDoesNotFit) {
    char room[10];
    memset(room, '#', sizeof room);
    text t(room, 8);
    t << "abcdef" << uint64_t{12345} << "more";
    EXPECT_EQ(t.size(), 8u);
    EXPECT_EQ(std::string(room, sizeof room), "abcdef12##");
}

TEST(ReportTest, WarnsInOneLine) {
    auto end = in_child([] {
        text_buffer<64> t;
        t << "something is odd";
        warn(t);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.errors, "pagoda: something is odd\n");
}

TEST(ReportTest, AnOverlongWarningStillEndsItsLine) {
    auto end = in_child([] {
        text_buffer<64> t;
        for (int i = 0; i < 4096; i++)
            t << 'x';
        warn(t);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.errors, "pagoda: " + std::string(64, 'x') + '\n');
}

TEST(ReportTest, LinesOfThreadsDoNotMix) {
    auto end = in_child([] {
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; i++)
            threads.emplace_back([i] {
                text_buffer<256> t;
                for (int n = 0; n < 100; n++)
                    t << static_cast<char>('a' + i);
                for (int n = 0; n < 50; n++)
                    warn(t);
            });
        for (auto &t : threads)
            t.join();
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 200u);
    for (size_t at = 0; at < end.errors.size();) {
        size_t stop = end.errors.find('\n', at);
        ASSERT_NE(stop, std::string::npos);
        std::string line = end.errors.substr(at, stop - at);
        ASSERT_EQ(line, "pagoda: " + std::string(100, line.back()));
        at = stop + 1;
    }
}

TEST(ReportTest, MisuseAborts) {
    auto end = in_child([] {
        text_buffer<64> t;
        t << "double free";
        misuse(t);
    });
    EXPECT_EQ(end.signal(), SIGABRT);
    EXPECT_EQ(end.errors, "pagoda: double free\n");
}

TEST(ReportTest, MisuseIsCountedWhereItOnlyReports) {
    auto end = in_child([] {
        mutable_options().on_error = error_policy::report;
        text_buffer<64> t;
        t << "double free";
        EXPECT_EQ(misuse_count(), 0u);
        misuse(t);
        misuse(t);
        EXPECT_EQ(misuse_count(), 2u);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.errors, "pagoda: double free\npagoda: double free\n");
}

TEST(ReportTest, AWarningIsNoMisuse) {
    auto end = in_child([] {
        text_buffer<64> t;
        t << "odd";
        warn(t);
        EXPECT_EQ(misuse_count(), 0u);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST(ReportTest, ABrokenInvariantEndsTheProcess) {
    auto end = in_child([] {
        mutable_options().on_error = error_policy::report; // speaks of the program's errors only
        invariant_failed("a == b", "file.cc", 12);
    });
    EXPECT_EQ(end.signal(), SIGABRT);
    EXPECT_EQ(end.errors, "pagoda: internal invariant broken: a == b at file.cc:12\n");
}

} // namespace
} // namespace pagoda
