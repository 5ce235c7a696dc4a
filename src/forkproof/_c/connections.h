/* Connections that a child of a fork has inherited, and what it does with them. */
#ifndef FORKPROOF_CONNECTIONS_H
#define FORKPROOF_CONNECTIONS_H

#include "interp.h"

/* In the child, inside fork(): what it has inherited. `fork`: the number of the fork in its parent; 0 for one that is not
 * watched, and then its calls are not either. Nothing is done unless it has been asked for. */
void connections_in_child(unsigned long fork);
/* In a child whose calls may be watched: `function` runs at each _exit() of it from here on. For where no other thread runs. */
void connections_at_exit(void (*function)(void));
/* No call of this process is watched any more. */
void connections_forget(void);

/* For Python, see _native.pyi. */
PyObject *watch_connections(PyObject *module, PyObject *args);
PyObject *inherited_connections(PyObject *module, PyObject *unused);

#endif
