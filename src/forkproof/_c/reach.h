/* Whether a child can come by an object at all. */
#ifndef FORKPROOF_REACH_H
#define FORKPROOF_REACH_H

#include "look.h"

int reach_init(void);
/* Takes out of `l` what only the threads that the child will not have can come by. */
void drop_unreachable(Look *l, PyThreadState *self);

#endif
