#include "hugepage/vdso.h"

#include "hugepage/sys.h"
#include "tests/unit.h"

#include <elf.h>
#include <sys/auxv.h>
#include <time.h>

namespace pagoda {
namespace {

#if defined(__x86_64__)
constexpr char kClock[] = "__vdso_clock_gettime";
#else
constexpr char kClock[] = "__kernel_clock_gettime";
#endif

TEST(VdsoTest, HasAClockThatAgreesWithLibc) {
    if (getauxval(AT_SYSINFO_EHDR) == 0)
        GTEST_SKIP() << "no vDSO here";
    auto read = reinterpret_cast<int (*)(clockid_t, timespec *)>(vdso_symbol(kClock));
    ASSERT_NE(read, nullptr);
    timespec before = {};
    timespec ours = {};
    timespec after = {};
    clock_gettime(CLOCK_MONOTONIC, &before);
    EXPECT_EQ(read(CLOCK_MONOTONIC, &ours), 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    auto ns = [](const timespec &t) { return t.tv_sec * 1'000'000'000 + t.tv_nsec; };
    EXPECT_LE(ns(before), ns(ours));
    EXPECT_LE(ns(ours), ns(after));
}

TEST(VdsoTest, HasNothingElse) {
    EXPECT_EQ(vdso_symbol("pagoda_has_no_such_function"), nullptr);
    EXPECT_EQ(vdso_symbol(""), nullptr);
}

} // namespace
} // namespace pagoda
