// What is wrong in a program's use of the DMA API where the function cannot return it: one line on
// stderr, "pagoda: dma: …".
#pragma once

namespace pagoda::dma {

void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

} // namespace pagoda::dma
