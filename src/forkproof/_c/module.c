/* The extension module: refuses to import where it does not know the interpreter. */
#include "guard.h"
#include "park.h"
#include "reach.h"
#include "watch.h"

#ifdef FORKPROOF_UNKNOWN_INTERPRETER

static int execute(PyObject *module)
{
    (void)module;
#ifdef Py_GIL_DISABLED
    PyErr_SetString(PyExc_ImportError, "free-threaded build: other threads do not stand still at a fork");
#else
    PyErr_Format(PyExc_ImportError, "forkproof reads the frames of CPython 3.11 to 3.15, not of %s", PY_VERSION);
#endif
    return -1;
}

static PyMethodDef *methods = NULL;

#else

static int execute(PyObject *module)
{
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "forkproof watches the main interpreter only");
        return -1;
    }
    return code_init() < 0 || locks_init() < 0 || sight_init() < 0 || reach_init() < 0 || park_init() < 0 || guard_init(module) < 0 ||
                   watch_init(module) < 0
               ? -1
               : 0;
}

#define methods guard_methods

#endif

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED}, /* else the attempt to import it would give the whole process a GIL, for good */
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "forkproof._native", .m_size = 0, .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
    definition.m_methods = methods;
    return PyModuleDef_Init(&definition);
}
