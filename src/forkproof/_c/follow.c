/* The one moment at which `forkproof run` may mark the environment: just before a program replaces itself.
 *
 * os.exec* tell the audit hooks what they are about to do, and nobody else can see the environment between that and the
 * system call. A hook of C costs every other audited event one comparison, where one of Python would cost a call. It can
 * never be removed, so it is added once, and only by `forkproof run`.
 */
#include "follow.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

#ifdef __APPLE__ /* where a bundle has no `environ` of its own */
#include <crt_externs.h>
#define environ (*_NSGetEnviron())
#else
extern char **environ;
#endif

static PyObject *about_to_exec; /* called with the event's (path, arguments, environment or None) */

static int audit(const char *event, PyObject *arguments, void *unused)
{
    (void)unused;
    if (strcmp(event, "os.exec") != 0 || about_to_exec == NULL ||
        PyInterpreterState_Get() != PyInterpreterState_Main()) {
        return 0;
    }
    PyObject *answer = PyObject_Call(about_to_exec, arguments, NULL);
    if (answer == NULL) {
        return -1; /* only what is not Forkproof's own to decide: an interrupt, an exit */
    }
    Py_DECREF(answer);
    return 0;
}

PyObject *follow_exec(PyObject *module, PyObject *function)
{
    static int added;
    (void)module;
    Py_XSETREF(about_to_exec, Py_NewRef(function));
    if (!added) {
        if (PySys_AddAuditHook(audit, NULL) < 0) {
            return NULL;
        }
        added = 1;
    }
    Py_RETURN_NONE;
}

/* What exec hands on where it is given no environment; os.environ may differ from it. */
PyObject *environment(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *result = PyDict_New();
    for (char **entry = environ; result != NULL && entry != NULL && *entry != NULL; entry++) {
        const char *equals = strchr(*entry, '=');
        if (equals == NULL) {
            continue;
        }
        PyObject *name = PyBytes_FromStringAndSize(*entry, equals - *entry);
        PyObject *value = PyBytes_FromString(equals + 1);
        if (name == NULL || value == NULL || PyDict_SetDefault(result, name, value) == NULL) {
            Py_CLEAR(result);
        }
        Py_XDECREF(name);
        Py_XDECREF(value);
    }
    return result;
}

#endif
