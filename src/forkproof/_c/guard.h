/* The hooks around a fork. */
#ifndef FORKPROOF_GUARD_H
#define FORKPROOF_GUARD_H

#include "look.h"

int guard_init(PyObject *module);
extern PyMethodDef guard_methods[];

#endif
