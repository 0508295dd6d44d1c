// Scatter-gather lists on the processor's side: see pagoda/scatterlist.h.
#pragma once

#include <pagoda/scatterlist.h>
