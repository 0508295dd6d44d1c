// What waits for a grace period carries one of these: two words, as the kernel's rcu_head.
#pragma once

namespace pagoda {

struct rcu_item {
    rcu_item *next;
    void (*done)(rcu_item *item);
};

} // namespace pagoda
