// own_names: a program that uses names for itself which ISO C leaves to it and libc has too.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char environ[64] = "a place, not a list of strings";

int main(void) {
    char *copy = malloc(sizeof environ);
    if (copy == NULL) {
        return 1;
    }
    memcpy(copy, environ, sizeof environ);
    int same = strcmp(copy, "a place, not a list of strings") == 0;
    free(copy);
    return same ? 0 : 1;
}
