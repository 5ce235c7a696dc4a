/* The lines in the events file of a fork of which there is nothing to tell but that it was. */
#ifndef FORKPROOF_LINES_H
#define FORKPROOF_LINES_H

#include "interp.h"

/* (descriptor, device, inode, the end of a fork's line as bytes, what to call when half a line was written, the packages behind which
 * who asked for a fork is looked for), or None to leave all lines to Python. */
PyObject *set_lines(PyObject *module, PyObject *file);

/* With the GIL held. -> 1 when the line was written, 0 when that is left to Python, and nothing has been done. */
int tell_fork(unsigned long fork, int polls);
int tell_born(unsigned long fork);

#endif
