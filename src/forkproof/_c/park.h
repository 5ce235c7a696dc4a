/* Stopping other threads between two instructions, for as long as a fork needs them there. */
#ifndef FORKPROOF_PARK_H
#define FORKPROOF_PARK_H

#include "interp.h"

int park_init(void);

/* Lets the GIL go until one of `threads` has had it and stopped where it came between two instructions and `may_stop` said that
 * it may, or each of `threads` has run for `chance` seconds without, or `limit` seconds are gone; and takes it back. `may_stop` is asked in the thread that would, with the GIL; it runs no Python code. */
void stop_one(PyThreadState *me, PyThreadState **threads, int n, int (*may_stop)(PyThreadState *), double chance, double limit);

/* Not one with a trace or profile function of its own, on 3.11. */
int can_be_stopped(PyThreadState *thread);

int is_parked(PyThreadState *thread);

void let_run(PyThreadState *thread); /* one of them, or all: NULL */
void forget_parked(void);            /* in the child there are none */

#endif
