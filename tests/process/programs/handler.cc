// handler: a new_handler that frees what the program can spare is called when, and only when,
// memory is short, and the operator then succeeds. The caller has set a limit.
#include <new>
#include <vector>

#include "../workout.h"

namespace {

std::vector<void *> spare;
int handler_calls;

void give_up_something() {
    ++handler_calls;
    if (spare.empty()) {
        std::set_new_handler(nullptr);
        return;
    }
    free(spare.back());
    spare.pop_back();
}

} // namespace

int main() {
    check_begin();
    const size_t piece = 8 << 20;
    spare.reserve(1000);
    std::vector<void *> kept;
    kept.reserve(100);
    while (void *block = malloc(piece)) {
        spare.push_back(block);
    }
    CHECK(spare.size() > 10);
    const size_t pieces = spare.size();
    std::set_new_handler(give_up_something);
    for (size_t i = 0; i + 2 < pieces; ++i) {
        kept.push_back(::operator new(piece - 4096));
        CHECK(kept.back() != nullptr);
    }
    CHECK(handler_calls > 0);
    // Nothing is left to give up: now, and only now, it fails.
    bool failed = false;
    try {
        while (true) {
            kept.push_back(::operator new(piece));
        }
    } catch (const std::bad_alloc &) {
        failed = true;
    }
    CHECK(failed);
    CHECK(spare.empty());
    for (void *block : kept) {
        ::operator delete(block);
    }
    workout(1, 1000, 1 << 20);
    return check_end();
}
