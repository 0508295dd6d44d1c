// The store of <pagoda/cold.h>: objects in memfds of their own, which a keeper holds as well.
#pragma once

#include "hugepage/lock.h"
#include "lib/keeper.h"
#include "lib/memfd.h"
#include "lib/vmap.h"

#include <sys/un.h>

namespace pagoda {

struct store_object {
    store_object *next;
    vmap_area *area; // its region goes with it
    char key[PAGODA_STORE_KEY_MAX];
};

} // namespace pagoda

struct pagoda_store {
    pagoda::mutex lock{pagoda::lock_rank::store};
    pagoda::store_object *objects = nullptr;
    int socket = -1; // to the keeper
    pid_t keeper = 0;
    bool all_kept = false; // the keeper has taken every object
    sockaddr_un address = {};
    const char *command = nullptr; // that starts a keeper, behind this record
};
