// What is wrong in a program's use of the DMA API where the function cannot return it: one line on
// stderr, "pagoda: dma: …". Lines longer than some 600 characters are cut.
#pragma once

namespace pagoda::dma {

void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
// The same for what dma-debug found, which counts as a misuse of memory does: on_error=abort ends
// the process.
void accuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

} // namespace pagoda::dma
