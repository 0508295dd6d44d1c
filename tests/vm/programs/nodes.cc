// The device is bound to vfio-pci, and the nodes of the mode that the argument names are there.
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <string>
#include <unistd.h>

namespace fs = std::filesystem;

namespace {

const fs::path kDevice = "/sys/bus/pci/devices/0000:00:04.0";

int failures = 0;

void expect(bool holds, const std::string &what) {
    std::printf("%s: %s\n", holds ? "yes" : "NO", what.c_str());
    failures += !holds;
}

std::string link_name(const char *name) {
    std::error_code error;
    return fs::read_symlink(kDevice / name, error).filename();
}

void expect_node(const std::string &path) {
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    expect(fd >= 0, path + " opens");
    if (fd >= 0)
        close(fd);
}

} // namespace

int main(int argc, char **argv) {
    const std::string mode = argc > 1 ? argv[1] : "";
    expect(link_name("driver") == "vfio-pci", "edu is bound to vfio-pci");
    const std::string group = link_name("iommu_group");
    expect(!group.empty(), "it has a group");
    std::error_code error;
    if (mode == "type1") {
        expect_node("/dev/vfio/vfio");
        expect_node("/dev/vfio/" + group);
    } else if (mode == "iommufd") {
        expect_node("/dev/iommu");
        fs::directory_iterator nodes(kDevice / "vfio-dev", error);
        expect(!error && nodes != fs::directory_iterator(), "it has a node of its own");
        if (!error && nodes != fs::directory_iterator())
            expect_node("/dev/vfio/devices/" + nodes->path().filename().string());
    } else if (mode == "noiommu") {
        expect_node("/dev/vfio/vfio");
        expect_node("/dev/vfio/noiommu-" + group);
        expect(!fs::exists("/dev/vfio/" + group, error), "there is no group with an IOMMU");
    } else {
        expect(false, "'" + mode + "' is a mode");
    }
    return failures != 0;
}
