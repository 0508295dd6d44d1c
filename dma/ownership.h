// Which bytes of a streaming mapping the processor has, and which the device, as
// dma_sync_*_for_cpu and dma_sync_*_for_device say of any parts of it, in any order.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace pagoda::dma {

// Starts at zero, and with begin(); all is the device's.
class ownership {
  public:
    void begin(size_t bytes) { bytes_ = bytes; }
    // The bits, which are otherwise made when a part changes hands. False: no memory; what cannot
    // be told apart is the processor's then, so that nobody is accused for nothing.
    bool reserve();
    void end();

    void give_to_processor(size_t from, size_t to);
    void give_to_device(size_t from, size_t to);
    bool is_all_device() const { return processors_ == 0; }

    // Each run of bytes of one owner in [from, to): f(its offset, how many).
    template <class F> void each_of_device(size_t from, size_t to, F f) const {
        each(false, from, to, f);
    }
    template <class F> void each_of_processor(size_t from, size_t to, F f) const {
        each(true, from, to, f);
    }

  private:
    void give(bool processor, size_t from, size_t to);
    // The first byte of that owner in [from, to); `to`: none.
    size_t next(bool processor, size_t from, size_t to) const;
    template <class F> void each(bool processor, size_t from, size_t to, F f) const {
        for (from = next(processor, from, to); from < to; from = next(processor, from, to)) {
            size_t end = next(!processor, from, to);
            f(from, end - from);
            from = end;
        }
    }

    size_t bytes_;
    size_t processors_; // bytes
    uint64_t *bits_;    // set: the processor's. NULL: all have one owner
};

} // namespace pagoda::dma
