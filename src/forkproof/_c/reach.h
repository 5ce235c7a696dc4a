/* Whether a child can come by an object at all. */
#ifndef FORKPROOF_REACH_H
#define FORKPROOF_REACH_H

#include "look.h"

int reach_init(void);
/* threading's own dict of ident -> Thread, borrowed; NULL where nobody has imported that. */
PyObject *active_threads(void);
/* Of locks: those that a child can come by, to the front. -> how many. */
int keep_reachable(PyObject **locks, int n, PyThreadState *self);
/* Takes out of `l` what only the threads that the child will not have can come by. */
void drop_unreachable(Look *l, PyThreadState *self);

#endif
