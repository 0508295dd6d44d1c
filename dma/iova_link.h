// Mapping in two steps (dma_iova_*): a window of addresses, and pieces of memory linked into it.
#pragma once

#include "dma/device.h"

#include <pagoda/dma-mapping.h>
