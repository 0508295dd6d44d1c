// secure: says whether the kernel calls this start secure (set-uid, file capabilities) and uses
// the heap. Linked with the archive: ld.so would not preload a path into such a program.
#include "../workout.h"

#include <sys/auxv.h>

int main(void) {
    workout(1, 1000, SIZE_MAX);
    CHECK(!on_glibc());
    printf("secure %lu\n", getauxval(AT_SECURE));
    return check_end();
}
