/* Calls of this process to functions of the C library, led to replacements. */
#ifndef FORKPROOF_INTERPOSE_H
#define FORKPROOF_INTERPOSE_H

#include <stddef.h>

typedef struct {
    const char *name;
    void *replacement;
    void **original; /* set by interpose_init; NULL where the C library has no such function */
} Replaced;

/* Finds the originals. -> 0, or -1 where calls cannot be replaced on this system. */
int interpose_init(const Replaced *table, size_t n);

/* Leads the calls of all libraries that are loaded now. To be called where no other thread runs: in a child inside fork().
 * Takes no lock and allocates nothing. -> how many places were written; -1 if it could not be done. */
int interpose(const Replaced *table, size_t n);

#endif
