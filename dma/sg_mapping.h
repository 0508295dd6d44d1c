// Scatter lists for devices (dma_map_sg). Each piece is a mapping of its own, or one of a run:
// pieces of other memory than the heap's, whole pages, that have one range of device addresses
// together. That the segments, which say what is where, lie in the same entries as the pieces needs
// no record: pieces follow each other in them, so that walking both finds the address of each piece
// again.
#pragma once

#include "dma/device.h"

#include <pagoda/dma-mapping.h>

namespace pagoda::dma {

// scatterlist::dma_flags of a piece.
inline constexpr unsigned kRunBegins = 1;  // the first of a run
inline constexpr unsigned kRunGoesOn = 2;  // a further one
inline constexpr int kRunAtMost = 1 << 16; // pieces

// Whether [address, address + bytes) crosses a multiple of boundary + 1.
constexpr bool crosses(uint64_t address, uint64_t bytes, uint64_t boundary) {
    return (address & boundary) + (bytes - 1) > boundary;
}

} // namespace pagoda::dma
