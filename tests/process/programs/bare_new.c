// bare_new: a C program without any C++ library calls operator new for more than there can be:
// nobody could throw, so the process must end with a word.
#include "../check.h"

#include <stdint.h>

int main(void) {
    check_begin();
    void *(*operator_new)(size_t) = NULL;
    void *address = dlsym(RTLD_DEFAULT, "_Znwm");
    REQUIRE(address != NULL);
    memcpy(&operator_new, &address, sizeof address);
    free(operator_new(100));
    puts("served");
    fflush(stdout);
    operator_new(PTRDIFF_MAX);
    puts("came back");
    return check_end();
}
