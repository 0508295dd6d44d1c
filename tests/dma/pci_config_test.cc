#include "dma/pci_config.h"

#include "tests/dma/edu.h"

using namespace pagoda::dma;
using namespace pagoda::test;

using pci_config = edu;

TEST_F(pci_config, reads_and_writes_each_width) {
    EXPECT_EQ(pci_write_config_dword(pci, 0x60, 0x12345678), 0);
    uint8_t byte = 0;
    uint16_t word = 0;
    uint32_t dword = 0;
    EXPECT_EQ(pci_read_config_byte(pci, 0x61, &byte), 0);
    EXPECT_EQ(byte, 0x56);
    EXPECT_EQ(pci_read_config_word(pci, 0x62, &word), 0);
    EXPECT_EQ(word, 0x1234);
    EXPECT_EQ(pci_write_config_byte(pci, 0x60, 0xff), 0);
    EXPECT_EQ(pci_write_config_word(pci, 0x62, 0xabcd), 0);
    EXPECT_EQ(pci_read_config_dword(pci, 0x60, &dword), 0);
    EXPECT_EQ(dword, 0xabcd56ffu);
    EXPECT_EQ(pci_read_config_dword(pci, kConfigBytes - 4, &dword), 0);
}

TEST_F(pci_config, refuses_what_is_outside_or_misaligned) {
    uint32_t dword = 0;
    for (int where : {-4, 1, 2, 3, int{kConfigBytes}, int{kConfigBytes} - 2}) {
        dword = 0;
        EXPECT_EQ(pci_read_config_dword(pci, where, &dword), -EINVAL) << where;
        EXPECT_EQ(dword, UINT32_MAX) << "as a device that is gone";
        EXPECT_EQ(pci_write_config_dword(pci, where, 0), -EINVAL) << where;
    }
    EXPECT_EQ(pagoda_pci_config_read(pci, 0, 8, &dword), -EINVAL);
    EXPECT_EQ(pagoda_pci_config_read(pci, 0, 0, &dword), -EINVAL);
}

TEST_F(pci_config, the_command_register_keeps_its_other_bits) {
    uint16_t command = 0;
    EXPECT_EQ(pci_write_config_word(pci, PCI_COMMAND, PCI_COMMAND_SERR), 0);
    pci_set_master(pci);
    EXPECT_EQ(pci_enable_device(pci), 0);
    pci_read_config_word(pci, PCI_COMMAND, &command);
    EXPECT_EQ(command, PCI_COMMAND_SERR | PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
    pci_disable_device(pci);
    pci_read_config_word(pci, PCI_COMMAND, &command);
    EXPECT_EQ(command, PCI_COMMAND_SERR | PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
}

TEST_F(pci_config, finds_capabilities) {
    EXPECT_EQ(pci_find_capability(pci, PCI_CAP_ID_MSI), 0x40);
    EXPECT_EQ(pci_find_capability(pci, PCI_CAP_ID_EXP), 0x50);
    EXPECT_EQ(pci_find_capability(pci, PCI_CAP_ID_MSIX), 0);
    EXPECT_EQ(pci_find_ext_capability(pci, PCI_EXT_CAP_ID_ERR), 0x100);
    EXPECT_EQ(pci_find_ext_capability(pci, PCI_EXT_CAP_ID_DSN), 0x208);
    EXPECT_EQ(pci_find_ext_capability(pci, PCI_EXT_CAP_ID_VC), 0);
    EXPECT_EQ(pci_find_next_ext_capability(pci, 0x208, PCI_EXT_CAP_ID_DSN), 0);
    // A device without a list, and lists that run in a circle.
    pci_write_config_byte(pci, 0x51, 0x40);
    EXPECT_EQ(pci_find_capability(pci, PCI_CAP_ID_MSIX), 0);
    pci_write_config_dword(pci, 0x208, 0x10010003);
    EXPECT_EQ(pci_find_ext_capability(pci, PCI_EXT_CAP_ID_VC), 0);
    pci_write_config_word(pci, PCI_STATUS, 0);
    EXPECT_EQ(pci_find_capability(pci, PCI_CAP_ID_MSI), 0);
}
