#include "dma/call_site.h"

#include "tests/unit.h"

#include <dlfcn.h>

namespace pagoda::dma {
namespace {

int local; // in this program's file

TEST(CallSite, NamesAFunctionOfALibrary) {
    auto *at = static_cast<const char *>(dlsym(RTLD_DEFAULT, "getpid")) + 1;
    std::string text = call_site(at).text();
    char address[32];
    snprintf(address, sizeof address, "%p", static_cast<const void *>(at));
    EXPECT_EQ(text.find(address), 0u) << text;
    EXPECT_NE(text.find("getpid+0x1 in lib"), std::string::npos) << text;
}

TEST(CallSite, NamesThePlaceInAFileWithoutNames) {
    std::string text = call_site(&local).text();
    EXPECT_NE(text.find("dma_call_site_test+0x"), std::string::npos) << text;
}

TEST(CallSite, IsTheAddressAloneWhereThereIsNoFile) {
    EXPECT_STREQ(call_site(reinterpret_cast<void *>(16)).text(), "0x10");
}

} // namespace
} // namespace pagoda::dma
