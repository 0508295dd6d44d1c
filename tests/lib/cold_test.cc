#include "lib/cold.h"

#include "hugepage/sys.h"
#include "tests/unit.h"

#include <errno.h>

namespace pagoda {
namespace {

class ColdTest : public ::testing::Test {
  protected:
    ColdTest() {
        base_ = static_cast<char *>(
            mmap(nullptr, 16 * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        memset(base_, 'c', 16 * page_);
    }
    ~ColdTest() override { munmap(base_, 16 * page_); }
    const size_t page_ = sys::page_size();
    char *base_;
};

TEST_F(ColdTest, ContentStays) {
    EXPECT_EQ(pagoda_cold(base_, 16 * page_), 0);
    EXPECT_EQ(pagoda_pageout(base_, 16 * page_), 0);
    for (size_t i = 0; i < 16 * page_; i++)
        ASSERT_EQ(base_[i], 'c');
}

// Whether the system lets a page go is its own affair; those that are inside in part stay.
TEST_F(ColdTest, PagesInsideInPartStay) {
    FILE *file = tmpfile();
    ASSERT_EQ(ftruncate(fileno(file), static_cast<off_t>(4 * page_)), 0);
    char *map =
        static_cast<char *>(mmap(nullptr, 4 * page_, PROT_READ, MAP_PRIVATE, fileno(file), 0));
    auto present = [&](size_t page) { // in this process's page tables
        uint64_t entry = 0;
        FILE *f = fopen("/proc/self/pagemap", "r");
        fseek(f, static_cast<long>((reinterpret_cast<uintptr_t>(map) / page_ + page) * 8),
              SEEK_SET);
        EXPECT_EQ(fread(&entry, 8, 1, f), 1u);
        fclose(f);
        return entry >> 63 != 0;
    };
    int sum = 0;
    for (size_t i = 0; i < 4; i++)
        sum += *static_cast<volatile char *>(map + i * page_);
    EXPECT_EQ(sum, 0);
    EXPECT_EQ(pagoda_pageout(map + 1, 2 * page_ - 1), 0); // the second page alone
    EXPECT_TRUE(present(0));
    EXPECT_TRUE(present(2));
    munmap(map, 4 * page_);
    fclose(file);
}

TEST_F(ColdTest, BadRangesAreErrors) {
    EXPECT_EQ(pagoda_cold(base_ + 1, page_), 0); // no whole page
    EXPECT_EQ(pagoda_cold(base_, 0), 0);
    munmap(base_ + 8 * page_, page_);
    EXPECT_EQ(pagoda_cold(base_, 16 * page_), -ENOMEM);
    EXPECT_EQ(pagoda_pageout(base_, 16 * page_), -ENOMEM);
    ASSERT_EQ(mlock(base_, page_), 0);
    EXPECT_EQ(pagoda_pageout(base_, page_), -EINVAL);
    EXPECT_EQ(pagoda_cold(base_, page_), -EINVAL);
}

} // namespace
} // namespace pagoda
