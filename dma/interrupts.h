// A device's interrupts, each an eventfd.
#pragma once

namespace pagoda::dma {

class interrupts {
  public:
    void begin(); // none
    // From `least` to `most` of the first kind of `flags` (PCI_IRQ_*) that has as many. How many,
    // or -errno: -ENOSPC, -EBUSY: there are some.
    int enable(int device, unsigned least, unsigned most, unsigned flags);
    void disable(int device);
    int eventfd(unsigned number) const { return number < count_ ? eventfds_[number] : -1; }
    int unmask(int device);
    int trigger(int device, unsigned number);
    // The eventfds for a request to give the device back, and for errors; made at the first call.
    int removal(int device);
    int error(int device);
    // All of it ends; in a fork child (forget), without telling the device.
    void end(int device);
    void forget();

  private:
    int one(int device, unsigned index, int *fd);

    unsigned index_;
    unsigned count_;
    bool automasked_;
    int *eventfds_;
    int removal_, error_;
};

} // namespace pagoda::dma
