/* What the catalogue names, as libraries are imported and replace their locks: found again at a fork, without running Python code
 * between the program's call of fork() and the look.
 */
#include "forking.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

/* CPython's own warning at a fork asks the filters in order; ours decides only if nothing stands before it. */
static int filter_is_first(void)
{
    static PyObject *filters_name;
    if (g.filter == NULL || g.filter == Py_None) {
        return 1;
    }
    if (filters_name == NULL) {
        filters_name = PyUnicode_InternFromString("filters");
    }
    PyObject *filters = plain_attribute(g.warnings, filters_name);
    return filters == NULL || !PyList_CheckExact(filters) ||
           (PyList_GET_SIZE(filters) && PyList_GET_ITEM(filters, 0) == g.filter);
}

/* Whether another thread is still in the middle of it: what it is to have may not be there yet. */
static int is_half_imported(PyObject *library)
{
    static PyObject *spec_name, *initializing_name;
    if (spec_name == NULL) {
        spec_name = PyUnicode_InternFromString("__spec__");
        initializing_name = PyUnicode_InternFromString("_initializing");
    }
    PyObject *spec = PyModule_Check(library) ? PyDict_GetItemWithError(PyModule_GetDict(library), spec_name) : NULL;
    return spec != NULL && plain_attribute(spec, initializing_name) == Py_True;
}

/* A library may replace its lock. What the catalogue's path leads to now; no Python code runs. New reference or NULL. */
PyObject *follow(PyObject *path)
{
    PyObject *at = Py_XNewRef(PyDict_GetItemWithError(g.modules, PyTuple_GET_ITEM(path, 0)));
    for (Py_ssize_t i = 1; at != NULL && i < PyTuple_GET_SIZE(path); i++) {
        PyObject *name = PyTuple_GET_ITEM(path, i), *descriptor = _PyType_Lookup(Py_TYPE(at), name);
        PyObject *next = NULL;
        if (PyModule_Check(at)) {
            next = Py_XNewRef(PyDict_GetItemWithError(PyModule_GetDict(at), name));
        }
        else if (descriptor != NULL &&
                 (Py_IS_TYPE(descriptor, &PyGetSetDescr_Type) || Py_IS_TYPE(descriptor, &PyMemberDescr_Type))) {
            next = Py_TYPE(descriptor)->tp_descr_get(descriptor, at, (PyObject *)Py_TYPE(at));
        }
        else {
            next = Py_XNewRef(plain_attribute(at, name));
        }
        Py_SETREF(at, next);
    }
    PyErr_Clear();
    return at;
}

/* The locks of such libraries. */
static void resolve_locks(void)
{
    for (Py_ssize_t i = g.locks == NULL ? 0 : PyList_GET_SIZE(g.locks); i-- > 0;) {
        PyObject *marker, *path;
        PyObject *entry = PyList_GET_ITEM(g.locks, i); /* (marker, path) */
        if (!PyArg_ParseTuple(entry, "UO!", &marker, &PyTuple_Type, &path)) {
            PyErr_Clear();
            continue;
        }
        PyObject *library = PyDict_GetItemWithError(g.modules, PyTuple_GET_ITEM(path, 0));
        if (library == NULL) {
            continue;
        }
        if (is_half_imported(library)) {
            g.modules_resolved = -1; /* again at the next fork */
        }
        PyObject *lock = follow(path);
        PyObject *known = lock == NULL ? NULL : Py_BuildValue("(OOO)", lock, marker, path);
        PyObject *id = lock == NULL ? NULL : PyLong_FromVoidPtr(lock);
        if (known != NULL && id != NULL && PyDict_SetItem(foreign_locks, id, known) == 0 &&
            PyList_SetSlice(g.locks, i, i + 1, NULL) == 0) {
            g.look.firm = 0;
        }
        PyErr_Clear();
        Py_XDECREF(id);
        Py_XDECREF(known);
        Py_XDECREF(lock);
    }
}

/* A C type that its module does not expose (`zlib.Compress`), as catalogue._hidden_type() finds it; NULL, without an error, where
 * there is none. `kinds` is filled at the first call: all types that derive from object alone. No Python code runs: the list is
 * made by a method in C, with the collector off. New reference. */
static PyObject *hidden_type(PyObject *module, PyObject *name, PyObject **kinds)
{
    if (*kinds == NULL) {
        int collects = PyGC_Disable();
        *kinds = PyObject_CallMethod((PyObject *)&PyType_Type, "__subclasses__", "O", &PyBaseObject_Type);
        if (collects) {
            PyGC_Enable();
        }
    }
    const char *in = PyUnicode_AsUTF8(module), *called = PyUnicode_AsUTF8(name);
    if (*kinds == NULL || !PyList_Check(*kinds) || in == NULL || called == NULL) {
        PyErr_Clear();
        return NULL;
    }
    size_t length = strlen(in);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(*kinds); i++) {
        const char *full = ((PyTypeObject *)PyList_GET_ITEM(*kinds, i))->tp_name; /* of a class in Python: no module */
        if (strncmp(full, in, length) == 0 && full[length] == '.' && strcmp(full + length + 1, called) == 0) {
            return Py_NewRef(PyList_GET_ITEM(*kinds, i));
        }
    }
    return NULL;
}

/* The catalogued functions of libraries that have been imported since the last refresh, found without running Python code:
 * between the program's call of fork() and the look no other thread is to get a turn that it would not have had. */
void resolve_awaited(void)
{
    if (g.unresolved == NULL || g.calls == NULL || PyDict_GET_SIZE(g.modules) == g.modules_resolved) {
        return;
    }
    g.modules_resolved = PyDict_GET_SIZE(g.modules);
    resolve_locks();
    int found = 0;
    PyObject *kinds = NULL;
    for (Py_ssize_t i = PyList_GET_SIZE(g.unresolved); i-- > 0;) {
        PyObject *entry = PyList_GET_ITEM(g.unresolved, i); /* (module, name, method or None, facts) */
        PyObject *library = PyDict_GetItemWithError(g.modules, PyTuple_GET_ITEM(entry, 0));
        if (library == NULL || !PyModule_Check(library)) {
            continue;
        }
        if (is_half_imported(library)) {
            g.modules_resolved = -1; /* again at the next fork */
        }
        PyObject *object = PyDict_GetItemWithError(PyModule_GetDict(library), PyTuple_GET_ITEM(entry, 1));
        PyObject *hidden = NULL;
        if (PyTuple_GET_ITEM(entry, 2) != Py_None) {
            if (object == NULL) {
                object = hidden = hidden_type(PyTuple_GET_ITEM(entry, 0), PyTuple_GET_ITEM(entry, 1), &kinds);
            }
            object = object != NULL && PyType_Check(object)
                         ? _PyType_Lookup((PyTypeObject *)object, PyTuple_GET_ITEM(entry, 2))
                         : NULL;
        }
        if (object != NULL && PyDict_SetItem(g.calls, object, PyTuple_GET_ITEM(entry, 3)) == 0) {
            found = 1;
        }
        Py_XDECREF(hidden);
    }
    Py_XDECREF(kinds);
    if (found) {
        g.look.firm = 0;
        if (set_calls(g.calls) < 0) {
            PyErr_Clear();
        }
    }
    PyErr_Clear();
}

/* Whether a library of the catalogue has been imported since, or another filter stands before ours. */
int refresh_is_due(void)
{
    if (!filter_is_first()) {
        return 1;
    }
    if (PyDict_GET_SIZE(g.modules) == g.modules_seen || g.awaited == NULL) {
        return 0;
    }
    g.modules_seen = PyDict_GET_SIZE(g.modules);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(g.awaited); i++) {
        PyObject *library = PyDict_GetItemWithError(g.modules, PyTuple_GET_ITEM(g.awaited, i));
        if (library != NULL && is_half_imported(library)) {
            g.modules_seen = -1; /* ask again: when it is done their number will be the same */
        }
        else if (library != NULL) {
            return 1;
        }
    }
    PyErr_Clear();
    return 0;
}

void follow_foreign(void)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(foreign_locks, &position, &key, &value)) {
        PyObject *now = follow(PyTuple_GET_ITEM(value, 2));
        if (now == NULL || now == PyTuple_GET_ITEM(value, 0)) {
            Py_XDECREF(now);
            continue;
        }
        PyObject *entry = PyTuple_Pack(3, now, PyTuple_GET_ITEM(value, 1), PyTuple_GET_ITEM(value, 2));
        PyObject *id = PyLong_FromVoidPtr(now);
        int moved = entry != NULL && id != NULL && PyDict_SetItem(foreign_locks, id, entry) == 0 &&
                    PyDict_DelItem(foreign_locks, key) == 0;
        Py_XDECREF(entry);
        Py_XDECREF(id);
        Py_DECREF(now);
        PyErr_Clear();
        g.look.firm = 0;
        if (!moved) {
            return; /* out of memory: at the next fork again */
        }
        position = 0; /* the dict has changed */
    }
}

#endif
