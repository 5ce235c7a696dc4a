/* The catalogue, as a look asks for it: what is known of a callable, found by its address.
 */
#include "sight.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

#define MAX_WAITS 16
static WaitingMethod waits[MAX_WAITS];
static int n_waits;

static Known *known;
static size_t known_mask;

static inline size_t hash_pointer(const void *pointer)
{
    return ((uintptr_t)pointer >> 4) * (uintptr_t)11400714819323198485ull >> 20;
}

const Known *known_call(PyObject *callable)
{
    if (known == NULL || callable == NULL) {
        return NULL;
    }
    for (size_t at = hash_pointer(callable) & known_mask;; at = (at + 1) & known_mask) {
        if (known[at].callable == callable) {
            return &known[at];
        }
        if (known[at].callable == NULL) {
            return NULL;
        }
    }
}

/* An instance that is called itself, of a type in C: by its type's `__call__`. */
const Known *known_instance(PyObject *callable)
{
    static PyObject *name;
    PyTypeObject *type = Py_TYPE(callable);
    if (type->tp_call == NULL || type == &PyFunction_Type || type == &PyMethod_Type || type == &PyType_Type ||
        type == &PyCFunction_Type || type == &PyMethodDescr_Type || type == &PyWrapperDescr_Type) {
        return NULL;
    }
    if (name == NULL) {
        name = PyUnicode_InternFromString("__call__");
    }
    return name == NULL ? NULL : known_call(_PyType_Lookup(type, name));
}

/* Of a bound method in C, what its class has: not always what the name leads to, where a subclass calls super().execute(). */
PyObject *descriptor_of(PyCFunctionObject *bound, PyTypeObject *type)
{
    /* Interned, as the type's own: the interpreter's cache of look-ups keeps each string that it is asked with. */
    PyObject *name = PyUnicode_InternFromString(bound->m_ml->ml_name), *found = name ? _PyType_Lookup(type, name) : NULL;
    if (found != NULL && !Py_IS_TYPE(found, &PyMethodDescr_Type)) {
        for (Py_ssize_t i = 0; type->tp_mro != NULL && i < PyTuple_GET_SIZE(type->tp_mro); i++) {
            PyTypeObject *base = (PyTypeObject *)PyTuple_GET_ITEM(type->tp_mro, i);
            PyObject *own = base->tp_dict == NULL ? NULL : PyDict_GetItemWithError(base->tp_dict, name);
            if (own != NULL && Py_IS_TYPE(own, &PyMethodDescr_Type) &&
                ((PyMethodDescrObject *)own)->d_method == bound->m_ml) {
                found = own;
                break;
            }
        }
    }
    PyErr_Clear();
    Py_XDECREF(name);
    return found;
}

/* A bound method whose function is no Python code: Cython's. */
const Known *known_method(PyObject *callable)
{
    return PyMethod_Check(callable) ? known_call(PyMethod_GET_FUNCTION(callable)) : NULL;
}

int set_calls(PyObject *calls)
{
    static PyObject *kept;
    size_t size = 16;
    while (size < 2 * (size_t)PyDict_GET_SIZE(calls) + 2) {
        size *= 2;
    }
    Known *fresh = PyMem_RawCalloc(size, sizeof(Known));
    if (fresh == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(calls, &position, &key, &value)) {
        Known entry = {.callable = key};
        if (!PyArg_ParseTuple(value, "iiipi", &entry.entry, &entry.resource, &entry.host, &entry.gil_outside,
                              &entry.streams)) {
            PyMem_RawFree(fresh);
            return -1;
        }
        size_t at = hash_pointer(key) & (size - 1);
        while (fresh[at].callable != NULL) {
            at = (at + 1) & (size - 1);
        }
        fresh[at] = entry;
    }
    Known *old = known;
    known = fresh;
    known_mask = size - 1;
    PyMem_RawFree(old);
    Py_XDECREF(kept);
    kept = Py_NewRef(calls);
    return 0;
}

const WaitingMethod *known_wait(PyObject *callable)
{
    for (int i = 0; i < n_waits; i++) {
        if (waits[i].method == callable) {
            return &waits[i];
        }
    }
    return NULL;
}

int set_waits(PyObject *methods)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;
    n_waits = 0;
    while (PyDict_Next(methods, &position, &key, &value) && n_waits < MAX_WAITS) {
        if (!PyArg_ParseTuple(value, "ii", &waits[n_waits].kind, &waits[n_waits].timeout)) {
            return -1;
        }
        waits[n_waits++].method = Py_NewRef(key); /* for ever: compared by address */
    }
    return 0;
}

#endif
