// Where in the program something was called, in words that outlive its random addresses:
// "0x55e7d3a01234 (main+0x34 in nvme)".
#pragma once

#include <stddef.h>

namespace pagoda::dma {

class call_site {
  public:
    explicit call_site(const void *at);
    const char *text() const { return text_; }

  private:
    char text_[112];
};

} // namespace pagoda::dma
