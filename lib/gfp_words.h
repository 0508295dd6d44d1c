// gfp_t in the words of gfp.h, for reports.
#pragma once

#include "hugepage/report.h"

#include <pagoda/gfp.h>

namespace pagoda {

// "0xcc0(GFP_KERNEL)", "0x2dc0(GFP_KERNEL|__GFP_ZERO|__GFP_NOWARN)": the largest names that fit,
// then single bits; 0x0(0).
void describe_gfp(text &out, gfp_t gfp);

} // namespace pagoda
