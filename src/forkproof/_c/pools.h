/* Threads of this process that Python does not know, and the libraries that they run in. */
#ifndef FORKPROOF_POOLS_H
#define FORKPROOF_POOLS_H

#include "interp.h"

/* How many threads there are besides `python` ones; 0 where the system does not tell. */
int native_threads(int python);

/* List of (thread id, name, [paths of libraries, that of the innermost call first]) of each; an empty list of libraries
 * where the thread was running or the system forbids looking. NULL with an exception set. */
PyObject *list_of_native_threads(void);

/* The same list of libraries for one thread of this process that is blocked. */
PyObject *libraries_of_thread(PyObject *module, PyObject *native_id);

#endif
