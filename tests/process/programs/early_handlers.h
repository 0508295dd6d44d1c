// What fork_handlers uses of the library early_handlers.
#pragma once

#include <pthread.h>

#include "../check.h"

extern pthread_mutex_t early_lock;
// The status of a process whose handlers have run.
int early_end(void);
