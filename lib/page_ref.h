// References to pages: get_page, put_page and the counts that pagoda/mm.h shows.
#pragma once

#include "lib/pages.h"

namespace pagoda {

// Drops `count` references to the page, or to the compound page that it belongs to; with the last
// one it is free.
void page_refs_put(const ::page *p, uint32_t count, const char *operation);

} // namespace pagoda
