/* The watch in a child of a fork at risk, and the record of that fork. */
#ifndef FORKPROOF_WATCH_H
#define FORKPROOF_WATCH_H

#include "look.h"

int watch_init(PyObject *module);
/* Whether this process is watched; then a process that it forks needs its hooks. */
int watch_is_on(void);
/* In the child: whether the process that forked had a watch. What it was born with, its children have too. */
int watch_inherited(void);
/* At the end of the child's callbacks: the watch that was started is ready. -> whether there is one. */
int watch_settle(void);

#endif
