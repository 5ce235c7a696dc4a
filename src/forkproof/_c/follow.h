/* A program that replaces itself by exec. */
#ifndef FORKPROOF_FOLLOW_H
#define FORKPROOF_FOLLOW_H

#include "interp.h"

extern PyObject *follow_exec(PyObject *module, PyObject *function);
extern PyObject *environment(PyObject *module, PyObject *unused);

#endif
