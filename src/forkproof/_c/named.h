/* The process that each process of a launched program names to Yama. */
#ifndef FORKPROOF_NAMED_H
#define FORKPROOF_NAMED_H

#include "interp.h"

PyObject *name_reader(PyObject *module, PyObject *args); /* its process id, and when it was started */

#endif
