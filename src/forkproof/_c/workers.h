/* Threads that others rely on, by the catalogued function that they run. */
#ifndef FORKPROOF_WORKERS_H
#define FORKPROOF_WORKERS_H

#include "look.h"

/* What the catalogue calls the function that `code` is, from 1; 0 where it does not know it. Asked once for each code. */
int worker_of(PyCodeObject *code);

/* Whether it is of a sort that no fork has told of yet. */
int worker_is_news(const AtWork *at);

/* List of (entry, ident, native id, code, offset, {local: object}, stack) of the threads that are news, which they are then
 * no more; with `all` set, of every worker, and nothing changes. NULL with an exception set. */
PyObject *list_of_workers(PyThreadState *self, int all);

/* In the child, inside fork(), while the vanished threads' frames are still there: keeps the variables alive of those that `l`
 * has at work. The frames are those that the parent has seen: up to 3.12 a thread state leads to its frames by the thread's stack,
 * and that may be another's by now, as a library's own handler (gRPC's) starts threads before this one. */
void keep_workers(const Look *l);
/* List of (entry, ident, native id, {local: object}) of what was kept; nothing is kept any more. */
PyObject *kept_workers(void);

/* For Python, see _native.pyi. */
PyObject *variables_of(PyObject *module, PyObject *args);
PyObject *users_of(PyObject *module, PyObject *thing);

/* (dict: qualified name -> tuple of (end of the file name without ".py", entry), list: of each entry, whether it is told for each
 * user) from Python. */
PyObject *set_workers(PyObject *module, PyObject *args);

#endif
