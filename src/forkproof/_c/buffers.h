/* Files with data in their buffers at a fork, which parent and child may both write. */
#ifndef FORKPROOF_BUFFERS_H
#define FORKPROOF_BUFFERS_H

#include "interp.h"

/* After a fork, in the parent and first of all in the child: whether anything of it is to be told to Python. -> what to call
 * buffers_callback() with; NULL, without an exception, where there is nothing to say or it was not asked for. */
PyObject *buffers_at_fork(unsigned long fork, int in_child);
PyObject *buffers_callback(void);
void buffers_answer(PyObject *answer); /* what it returned: how many files it goes on to know */
int buffers_watched(void);

/* For Python, see _native.pyi. */
PyObject *watch_buffers(PyObject *module, PyObject *args);
PyObject *buffer_state(PyObject *module, PyObject *file);
PyObject *lead_exit(PyObject *module, PyObject *unused);
PyObject *count_writer(PyObject *module, PyObject *args);

#endif
