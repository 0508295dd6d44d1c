// dma_alloc_noncontiguous: memory that is one piece for the device, described by a table.
#pragma once

#include <pagoda/dma-mapping.h>
