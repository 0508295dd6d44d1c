#include "hugepage/options.h"

#include "tests/unit.h"

#include <set>

namespace pagoda {
namespace {

using test::in_child;
using test::succeeded;

class OptionsTest : public ::testing::Test {
  protected:
    void SetUp() override { mutable_options() = option_values{}; }
    void TearDown() override { mutable_options() = option_values{}; }
};

bool are_defaults() {
    option_values d;
    const option_values &o = options();
    return o.on_error == d.on_error && o.foreign == d.foreign && o.thp == d.thp &&
           o.percpu == d.percpu && o.dma_debug == d.dma_debug &&
           o.hugetlb_shift == d.hugetlb_shift && o.hugetlb_pages == d.hugetlb_pages &&
           o.dirty_bytes == d.dirty_bytes && o.boot_bytes == d.boot_bytes &&
           o.mem_bytes == d.mem_bytes && o.exclude_from == d.exclude_from &&
           o.exclude_to == d.exclude_to && o.contig_bytes == d.contig_bytes &&
           o.highmem_bytes == d.highmem_bytes && o.limit_bytes == d.limit_bytes &&
           o.reserve_bytes == d.reserve_bytes && o.kmalloc_max == d.kmalloc_max &&
           o.init_on_alloc == d.init_on_alloc && o.exit_check == d.exit_check &&
           strcmp(o.exit_report, d.exit_report) == 0;
}

int parse(const std::string &list) { return parse_options(list.c_str(), true); }

TEST_F(OptionsTest, NothingIsTheDefault) {
    EXPECT_EQ(parse(""), 0);
    EXPECT_EQ(parse(",,,"), 0);
    EXPECT_TRUE(are_defaults());
}

TEST_F(OptionsTest, EveryKeyChangesItsValue) {
    const std::pair<const char *, bool (*)(const option_values &)> changes[] = {
        {"on_error=report", [](auto &o) { return o.on_error == error_policy::report; }},
        {"foreign=report", [](auto &o) { return o.foreign == foreign_policy::report; }},
        {"foreign=abort", [](auto &o) { return o.foreign == foreign_policy::abort; }},
        {"thp=never", [](auto &o) { return o.thp == thp_policy::never; }},
        {"thp=always", [](auto &o) { return o.thp == thp_policy::always; }},
        {"hugetlb=2M:64", [](auto &o) { return o.hugetlb_shift == 21 && o.hugetlb_pages == 64; }},
        {"hugetlb=1G:1", [](auto &o) { return o.hugetlb_shift == 30 && o.hugetlb_pages == 1; }},
        {"limit=3G", [](auto &o) { return o.limit_bytes == uint64_t{3} << 30; }},
        {"reserve=10M", [](auto &o) { return o.reserve_bytes == 10 << 20; }},
        {"dirty=64K", [](auto &o) { return o.dirty_bytes == 64 << 10; }},
        {"dirty=3m", [](auto &o) { return o.dirty_bytes == 3 << 20; }},
        {"dirty=1G", [](auto &o) { return o.dirty_bytes == 1 << 30; }},
        {"dirty=1T", [](auto &o) { return o.dirty_bytes == uint64_t{1} << 40; }},
        {"dirty=70000", [](auto &o) { return o.dirty_bytes == 70000; }},
        {"boot=128M", [](auto &o) { return o.boot_bytes == 128 << 20; }},
        {"mem=126M", [](auto &o) { return o.mem_bytes == 126 << 20; }},
        {"memexclude=14M-16M",
         [](auto &o) { return o.exclude_from == 14 << 20 && o.exclude_to == 16 << 20; }},
        {"memexclude=0-4096", [](auto &o) { return o.exclude_from == 0 && o.exclude_to == 4096; }},
        {"contig=64M", [](auto &o) { return o.contig_bytes == 64 << 20; }},
        {"highmem=4G", [](auto &o) { return o.highmem_bytes == uint64_t{4} << 30; }},
        {"percpu=mm_cid", [](auto &o) { return o.percpu == percpu_policy::mm_cid; }},
        {"percpu=cpu_id", [](auto &o) { return o.percpu == percpu_policy::cpu_id; }},
        {"percpu=off", [](auto &o) { return o.percpu == percpu_policy::off; }},
        {"kmalloc_max=128K", [](auto &o) { return o.kmalloc_max == 128 << 10; }},
        {"dma_debug=on", [](auto &o) { return o.dma_debug == dma_debug_level::on; }},
        {"dma_debug=guard", [](auto &o) { return o.dma_debug == dma_debug_level::guard; }},
        {"init_on_alloc=1", [](auto &o) { return o.init_on_alloc; }},
        {"exit_check=0", [](auto &o) { return !o.exit_check; }},
        {"exit_report=/a/b c", [](auto &o) { return strcmp(o.exit_report, "/a/b c") == 0; }},
    };
    std::set<std::string> seen;
    for (auto &[text, changed] : changes) {
        mutable_options() = option_values{};
        EXPECT_FALSE(changed(options())) << text;
        EXPECT_EQ(parse(text), 0) << text;
        EXPECT_TRUE(changed(options())) << text;
        EXPECT_FALSE(are_defaults()) << text;
        seen.insert(std::string(text, strchr(text, '=')));
    }
    for (size_t i = 0; i < kOptionCount; i++)
        EXPECT_EQ(seen.count(kOptionTable[i].key), 1u) << kOptionTable[i].key;
}

TEST_F(OptionsTest, TheTableStatesTheDefaults) {
    for (size_t i = 0; i < kOptionCount; i++) {
        const option_row &row = kOptionTable[i];
        EXPECT_GT(strlen(row.sentence), 10u) << row.key;
        EXPECT_GT(strlen(row.values), 0u) << row.key;
        if (*row.fallback == 0)
            continue;
        EXPECT_EQ(parse(std::string(row.key) + "=" + row.fallback), 0) << row.key;
        EXPECT_TRUE(are_defaults()) << row.key;
    }
}

TEST_F(OptionsTest, EveryNamedChoiceIsUnderstood) {
    for (size_t i = 0; i < kOptionCount; i++) {
        const option_row &row = kOptionTable[i];
        if (row.type != option_type::choice)
            continue;
        std::string names = row.values;
        int count = 0;
        for (size_t at = 0; at <= names.size(); count++) {
            size_t stop = std::min(names.find('|', at), names.size());
            EXPECT_EQ(parse(std::string(row.key) + "=" + names.substr(at, stop - at)), 0);
            at = stop + 1;
        }
        EXPECT_EQ(count, row.choices) << row.key;
    }
}

TEST_F(OptionsTest, BadValuesLeaveTheDefault) {
    for (const char *bad : {
             "on_error",
             "on_error=",
             "on_error=abor",
             "on_error=abort2",
             "on_error=ABORT",
             "on_error=abort|report",
             "foreign=yes",
             "thp=1",
             "percpu=on",
             "exit_check=2",
             "exit_check=",
             "exit_check=true",
             "dirty=",
             "dirty=K",
             "dirty=-1M",
             "dirty=0",
             "dirty=63K",
             "dirty=2T",
             "dirty=1X",
             "dirty=1MB",
             "dirty=1 M",
             "dirty=18446744073709551616",
             "dirty=99999999999999T",
             "boot=1K",
             "memexclude=16M",
             "memexclude=16M-14M",
             "memexclude=1M-1M",
             "memexclude=-1M",
             "memexclude=1M-",
             "memexclude=1M-2M-3M",
             "hugetlb=2M",
             "hugetlb=2M:",
             "hugetlb=2M:0",
             "hugetlb=4M:1",
             "hugetlb=2M:1x",
             "hugetlb=2M:1048577",
             "hugetlb=:1",
             "exit_report=",
             "exit_report",
             "no_such_key=1",
             "no_such_key",
             "=1",
             " dirty=1M",
         }) {
        EXPECT_EQ(parse(bad), 1) << bad;
        EXPECT_TRUE(are_defaults()) << bad;
    }
}

TEST_F(OptionsTest, ABadValueDoesNotStopTheRest) {
    EXPECT_EQ(parse("dirty=1,thp=never,what=3,,exit_check=0,"), 2);
    EXPECT_EQ(options().dirty_bytes, option_values{}.dirty_bytes);
    EXPECT_EQ(options().thp, thp_policy::never);
    EXPECT_FALSE(options().exit_check);
}

TEST_F(OptionsTest, TheLastValueHolds) {
    EXPECT_EQ(parse("dirty=1M,dirty=2M"), 0);
    EXPECT_EQ(options().dirty_bytes, 2u << 20);
}

TEST_F(OptionsTest, PathsUpToTheirFieldAreTaken) {
    std::string fits(sizeof option_values{}.exit_report - 1, 'p');
    EXPECT_EQ(parse("exit_report=" + fits + "p"), 1);
    EXPECT_TRUE(are_defaults());
    EXPECT_EQ(parse("exit_report=" + fits), 0);
    EXPECT_EQ(options().exit_report, fits);
    EXPECT_EQ(parse("exit_report=x=y"), 0);
    EXPECT_STREQ(options().exit_report, "x=y");
}

TEST_F(OptionsTest, EachMistakeIsOneLine) {
    auto end = in_child([] { EXPECT_EQ(parse_options("dirty=1,thp=never,colour=red"), 2); });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 2u) << end.errors;
    EXPECT_TRUE(end.said("pagoda: PAGODA_OPTIONS: dirty=1 is not valid")) << end.errors;
    EXPECT_TRUE(end.said("'colour'")) << end.errors;
}

TEST_F(OptionsTest, QuietSaysNothing) {
    auto end = in_child([] { EXPECT_EQ(parse_options("dirty=1,colour=red", true), 2); });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.errors, "");
}

TEST_F(OptionsTest, AnOverlongMistakeIsCutToOneLine) {
    auto end = in_child([] {
        EXPECT_EQ(parse_options(("thp=" + std::string(5000, 'x')).c_str()), 1);
        EXPECT_EQ(parse_options(std::string(5000, 'y').c_str()), 1);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.lines(), 2u);
    EXPECT_LT(end.errors.size(), 2000u);
}

TEST_F(OptionsTest, TheEnvironmentIsRead) {
    auto end = in_child([] {
        setenv("PAGODA_OPTIONS", "dirty=1M,thp=never", 1);
        setenv("PAGODA_OPTIONS_OLD", "dirty=2M", 1);
        read_options_from_environment();
        EXPECT_EQ(options().dirty_bytes, 1u << 20);
        EXPECT_EQ(options().thp, thp_policy::never);
    });
    EXPECT_TRUE(succeeded(end));
    EXPECT_EQ(end.errors, "");
}

TEST_F(OptionsTest, AnEmptyEnvironmentIsTheDefault) {
    auto end = in_child([] {
        clearenv();
        static char *nothing[] = {nullptr};
        environ = nothing;
        read_options_from_environment();
        EXPECT_TRUE(are_defaults());
    });
    EXPECT_TRUE(succeeded(end));
}

// What a constructor that runs before libc's own finds: `environ` is not set yet.
TEST_F(OptionsTest, TheKernelsCopyServesWhereLibcHasNone) {
    static constexpr char kMark[] = "PAGODA_OPTIONS=dirty=5M";
    const char *set = getenv("PAGODA_OPTIONS");
    if (set == nullptr || strcmp(set, "dirty=5M") != 0) {
        auto end = in_child([] {
            char mark[sizeof kMark];
            memcpy(mark, kMark, sizeof kMark);
            char first[] = "FIRST=1";
            char *env[] = {first, mark, nullptr};
            char name[] = "options_test";
            char only[] = "--gtest_filter=OptionsTest.TheKernelsCopyServesWhereLibcHasNone";
            char *args[] = {name, only, nullptr};
            execve("/proc/self/exe", args, env);
            FAIL() << "execve failed";
        });
        EXPECT_TRUE(succeeded(end));
        return;
    }
    char **kept = environ;
    environ = nullptr;
    read_options_from_environment();
    environ = kept;
    EXPECT_EQ(options().dirty_bytes, 5u << 20);
}

} // namespace
} // namespace pagoda
