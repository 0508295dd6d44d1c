// Page fragments: pieces of a block that its references count. The functions are those of
// pagoda/mm.h.
#pragma once

#include <pagoda/mm.h>
