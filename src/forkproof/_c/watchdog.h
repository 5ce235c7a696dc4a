/* faulthandler's watchdog (dump_traceback_later), which no child has. */
#ifndef FORKPROOF_WATCHDOG_H
#define FORKPROOF_WATCHDOG_H

#include "interp.h"

/* A native thread that the interpreter may have started sleeps at that address until a time limit. */
void watchdog_seen(uintptr_t futex);

/* In the child, inside a fork() with the GIL held: let go of the lock that the watchdog had, if `mend`. */
void watchdog_in_child(int mend);

/* Whether that was done in this process. */
int watchdog_is_reset(void);
PyObject *watchdog_was_reset(PyObject *module, PyObject *unused);

#endif
