// The NVMe example over the played kernel, whose device is a file: a thread plays the controller.
#include "tests/dma/fake_vfio.h"
#include "tests/unit.h"

#include <atomic>
#include <pagoda/pci.h>
#include <thread>

extern "C" {
#include "examples/nvme/nvme.h"
}

using namespace pagoda::test;

namespace {

constexpr unsigned kCap = 0x00, kCc = 0x14, kCsts = 0x1c, kAsq = 0x28, kAcq = 0x30, kTail = 0x1000;
constexpr unsigned kDepth = 16, kIdentify = 6;

class controller {
  public:
    explicit controller(fake_vfio &kernel) : kernel_(kernel) {
        int fd = open((kernel.root + "/dev/device/" + kEdu).c_str(), O_RDWR);
        bar_ = static_cast<char *>(
            mmap(nullptr, kBarBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
        config_ = static_cast<char *>(
            mmap(nullptr, kConfigBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, kConfigAt));
        close(fd);
        at<uint64_t>(kCap) = 3 << 24 | 63; // commands take two seconds at most
        thread_ = std::thread([this] { run(); });
    }
    ~controller() {
        stop_ = true;
        thread_.join();
        munmap(bar_, kBarBytes);
        munmap(config_, kConfigBytes);
    }
    controller(const controller &) = delete;
    controller &operator=(const controller &) = delete;

    template <class T> volatile T &at(unsigned where) {
        return *reinterpret_cast<volatile T *>(bar_ + where);
    }
    bool is_master() const { return (config_[PCI_COMMAND] & PCI_COMMAND_MASTER) != 0; }

    std::atomic<bool> answers = true; // does commands
    std::atomic<bool> obeys = true;   // can be turned off

  private:
    void run() {
        for (unsigned head = 0; !stop_; usleep(100)) {
            bool on = (at<uint32_t>(kCc) & 1) != 0;
            if (on && (at<uint32_t>(kCsts) & 1) == 0)
                head = 0;
            if (on || obeys)
                at<uint32_t>(kCsts) = on;
            for (; on && head != at<uint32_t>(kTail); head++) // no test has as many as kDepth
                if (answers)
                    answer(head);
        }
    }
    void answer(unsigned n) {
        char *command = memory(at<uint64_t>(kAsq)) + size_t{n} * 64;
        char *done = memory(at<uint64_t>(kAcq)) + size_t{n} * 16;
        uint64_t buffer = 0;
        memcpy(&buffer, command + 24, 8);
        if (command[0] == kIdentify && command[40] == 0) { // the namespace, else the controller
            uint64_t blocks = 1000;
            memcpy(memory(buffer), &blocks, 8);
            memory(buffer)[130] = 9;
        }
        memcpy(done + 12, command + 2, 2);
        __atomic_store_n(reinterpret_cast<uint16_t *>(done + 14), uint16_t{1}, __ATOMIC_RELEASE);
    }
    char *memory(uint64_t address) {
        auto found = std::prev(kernel_.mapped.upper_bound(address));
        return reinterpret_cast<char *>(found->second.at + (address - found->first));
    }

    fake_vfio &kernel_;
    char *bar_, *config_;
    std::atomic<bool> stop_ = false;
    std::thread thread_;
};

struct nvme_test : ::testing::Test {
    fake_vfio kernel;
    controller drive{kernel};
    struct nvme *nvme = nvme_open(kEdu, PAGODA_IOMMU_TYPE1);
    void SetUp() override { ASSERT_NE(nvme, nullptr) << strerror(errno); }
    void TearDown() override {
        if (nvme != nullptr)
            nvme_close(nvme);
    }
};

} // namespace

TEST_F(nvme_test, a_drive_that_answers) {
    EXPECT_EQ(nvme_get_info(nvme)->blocks, 1000u);
    EXPECT_EQ(nvme_get_info(nvme)->block_bytes, 512u);
    struct nvme_queue *q = nvme_queue_create(nvme, kDepth, false);
    ASSERT_NE(q, nullptr);
    nvme_queue_destroy(q);
    EXPECT_EQ(drive.at<uint32_t>(kCc) & 1, 1u);
}

TEST_F(nvme_test, one_that_does_not_is_turned_off_before_its_memory_is_freed) {
    drive.answers = false;
    EXPECT_EQ(nvme_queue_create(nvme, kDepth, false), nullptr);
    EXPECT_EQ(drive.at<uint32_t>(kCc) & 1, 0u);
    EXPECT_TRUE(drive.is_master());
    drive.answers = true;
    uint32_t tail = drive.at<uint32_t>(kTail);
    EXPECT_EQ(nvme_queue_create(nvme, kDepth, false), nullptr);
    EXPECT_EQ(drive.at<uint32_t>(kTail), tail) << "it is asked for nothing any more";
}

TEST_F(nvme_test, one_that_cannot_be_turned_off_reaches_no_memory) {
    drive.answers = drive.obeys = false;
    EXPECT_EQ(nvme_queue_create(nvme, kDepth, false), nullptr);
    EXPECT_FALSE(drive.is_master());
    drive.obeys = true; // closing it need not wait
}
