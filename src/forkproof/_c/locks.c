/* The locks themselves. Layouts that CPython keeps to itself (an RLock's owner, a buffered file's lock) are found by
 * probing objects of the running interpreter, and are not used when the probe fails. */
#include "locks.h"
#include "code.h"
#include "look.h"
#include <time.h>

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

PyTypeObject *lock_type, *rlock_type, *semaphore_type;
PyObject *foreign_locks;

/* Seconds between tries of a lock that can only be tried: its own waiters are handed it directly and leave small gaps. */
#define POLL_FOREIGN 0.00005

static PyObject *lock_locked, *lock_acquire, *lock_release, *lock_reinit;
static PyObject *rlock_acquire, *rlock_release, *rlock_reinit;
static PyObject *descriptors[16];
static LockMethod roles[16];
static int n_descriptors;
static Py_ssize_t owner_offset = -1;           /* of an RLock's owner */
static Py_ssize_t file_owner_offset = -1;      /* of a buffered file's owner; its lock pointer is the word before */
static PyTypeObject *file_types[3];
static PyObject *name_value, *name_acquire, *name_release, *name_data, *name_semlock, *name_count, *name_is_mine, *name_after_fork;

double monotonic(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void sleep_without_gil(double seconds)
{
    struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    Py_BEGIN_ALLOW_THREADS
    nanosleep(&time, NULL);
    Py_END_ALLOW_THREADS
}

LockMethod lock_method_named(const char *name)
{
    if (strcmp(name, "acquire") == 0 || strcmp(name, "acquire_lock") == 0) {
        return METHOD_ACQUIRE;
    }
    if (strcmp(name, "__enter__") == 0) {
        return METHOD_ENTER;
    }
    if (strcmp(name, "_acquire_restore") == 0) {
        return METHOD_RESTORE;
    }
    if (strcmp(name, "release") == 0 || strcmp(name, "release_lock") == 0 || strcmp(name, "__exit__") == 0 ||
        strcmp(name, "_release_save") == 0) {
        return METHOD_RELEASE;
    }
    return METHOD_NONE;
}

LockMethod lock_method(PyObject *descriptor)
{
    for (int i = 0; i < n_descriptors; i++) {
        if (descriptors[i] == descriptor) {
            return roles[i];
        }
    }
    return METHOD_NONE;
}

static int note_methods(PyTypeObject *type)
{
    static const char *const names[] = {"acquire", "acquire_lock", "__enter__", "_acquire_restore",
                                        "release", "release_lock", "__exit__",  "_release_save"};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(names); i++) {
        PyObject *found = PyObject_GetAttrString((PyObject *)type, names[i]);
        if (found == NULL) {
            PyErr_Clear();
            continue;
        }
        descriptors[n_descriptors] = found; /* kept for ever: compared by address */
        roles[n_descriptors++] = lock_method_named(names[i]);
    }
    return 0;
}

static inline unsigned long word_at(PyObject *object, Py_ssize_t offset)
{
    return *(volatile unsigned long *)((char *)object + offset);
}

/* The word that is this thread's ident while the RLock is taken, and something else when it is not. */
static int probe_rlock(void)
{
    PyObject *lock = PyObject_CallNoArgs((PyObject *)rlock_type);
    if (lock == NULL) {
        return -1;
    }
    unsigned long me = PyThread_get_thread_ident();
    PyObject *taken = PyObject_CallOneArg(rlock_acquire, lock);
    Py_ssize_t found = -1;
    for (Py_ssize_t at = (Py_ssize_t)sizeof(PyObject);
         taken != NULL && at + (Py_ssize_t)sizeof(long) <= rlock_type->tp_basicsize; at += (Py_ssize_t)sizeof(long)) {
        if (word_at(lock, at) == me) {
            found = at;
            break;
        }
    }
    PyObject *released = taken ? PyObject_CallOneArg(rlock_release, lock) : NULL;
    if (released != NULL && found >= 0 && word_at(lock, found) != me) {
        owner_offset = found;
    }
    Py_XDECREF(taken);
    Py_XDECREF(released);
    Py_DECREF(lock);
    if (owner_offset < 0) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ImportError, "forkproof cannot read who owns an RLock of this interpreter");
        }
        return -1;
    }
    return 0;
}

int locks_init(void)
{
    PyObject *thread = PyImport_ImportModule("_thread");
    PyObject *io = PyImport_ImportModule("_io");
    if (thread == NULL || io == NULL) {
        return -1;
    }
    PyObject *sample = PyObject_CallMethod(thread, "allocate_lock", NULL);
    PyObject *rtype = PyObject_GetAttrString(thread, "RLock");
    if (sample == NULL || rtype == NULL || !PyType_Check(rtype)) {
        return -1;
    }
    lock_type = (PyTypeObject *)Py_NewRef(Py_TYPE(sample));
    rlock_type = (PyTypeObject *)rtype;
    lock_locked = PyObject_GetAttrString((PyObject *)lock_type, "locked");
    lock_acquire = PyObject_GetAttrString((PyObject *)lock_type, "acquire");
    lock_release = PyObject_GetAttrString((PyObject *)lock_type, "release");
    lock_reinit = PyObject_GetAttrString((PyObject *)lock_type, "_at_fork_reinit");
    rlock_acquire = PyObject_GetAttrString((PyObject *)rlock_type, "acquire");
    rlock_release = PyObject_GetAttrString((PyObject *)rlock_type, "release");
    rlock_reinit = PyObject_GetAttrString((PyObject *)rlock_type, "_at_fork_reinit");
    name_value = PyUnicode_InternFromString("_value");
    name_acquire = PyUnicode_InternFromString("acquire");
    name_release = PyUnicode_InternFromString("release");
    name_data = PyUnicode_InternFromString("data");
    name_semlock = PyUnicode_InternFromString("_semlock");
    name_count = PyUnicode_InternFromString("_count");
    name_is_mine = PyUnicode_InternFromString("_is_mine");
    name_after_fork = PyUnicode_InternFromString("_after_fork");
    foreign_locks = PyDict_New();
    static const char *const files[] = {"BufferedReader", "BufferedWriter", "BufferedRandom"};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(files); i++) {
        file_types[i] = (PyTypeObject *)PyObject_GetAttrString(io, files[i]);
    }
    if (PyErr_Occurred() || foreign_locks == NULL) {
        return -1;
    }
    note_methods(lock_type);
    note_methods(rlock_type);
    Py_DECREF(sample);
    Py_DECREF(thread);
    Py_DECREF(io);
    return probe_rlock();
}

static Kind kind_of_type(PyTypeObject *type)
{
    if (type == lock_type) {
        return KIND_LOCK;
    }
    if (type == rlock_type) {
        return KIND_RLOCK;
    }
    if (semaphore_type != NULL && PyType_IsSubtype(type, semaphore_type)) {
        return KIND_SEMAPHORE;
    }
    for (size_t i = 0; file_owner_offset >= 0 && i < Py_ARRAY_LENGTH(file_types); i++) {
        if (PyType_IsSubtype(type, file_types[i])) {
            return KIND_BUFFERED;
        }
    }
    return KIND_NONE;
}

static Shape shape_of_type(PyTypeObject *type)
{
    PyObject *order = type->tp_mro;
    for (Py_ssize_t i = 0; order != NULL && i < PyTuple_GET_SIZE(order); i++) {
        const char *name = ((PyTypeObject *)PyTuple_GET_ITEM(order, i))->tp_name;
        if (strcmp(name, "_GeneratorContextManagerBase") == 0) {
            return SHAPE_GENERATOR;
        }
        if (strcmp(name, "_BaseExitStack") == 0) {
            return SHAPE_EXIT_STACK;
        }
    }
    return SHAPE_PLAIN;
}

#define KNOWN_TYPES 256
static TypeInfo known_types[KNOWN_TYPES];

void forget_types(void)
{
    memset(known_types, 0, sizeof(known_types));
}

const TypeInfo *type_info(PyTypeObject *type)
{
    TypeInfo *known = &known_types[((uintptr_t)type >> 4 ^ (uintptr_t)type >> 12) & (KNOWN_TYPES - 1)];
    if (known->type != type || known->version != type->tp_version_tag || known->version == 0) {
        *known = (TypeInfo){type, type->tp_version_tag, kind_of_type(type), shape_of_type(type)};
    }
    return known;
}

Kind kind_of(PyObject *object)
{
    Kind kind = type_info(Py_TYPE(object))->kind;
    if (kind == KIND_NONE && PyDict_GET_SIZE(foreign_locks)) {
        PyObject *id = PyLong_FromVoidPtr(object);
        int found = id != NULL && PyDict_Contains(foreign_locks, id) == 1;
        Py_XDECREF(id);
        PyErr_Clear();
        return found ? KIND_FOREIGN : KIND_NONE;
    }
    return kind;
}

unsigned long rlock_owner(PyObject *rlock)
{
    return word_at(rlock, owner_offset);
}

unsigned long buffered_owner(PyObject *file)
{
    return word_at(file, file_owner_offset);
}

int is_locked(PyObject *lock)
{
    if (Py_IS_TYPE(lock, rlock_type)) {
        return rlock_owner(lock) != 0;
    }
    PyObject *answer = PyObject_CallOneArg(lock_locked, lock);
    if (answer == NULL) {
        PyErr_Clear();
        return 0;
    }
    int locked = answer == Py_True;
    Py_DECREF(answer);
    return locked;
}

int semaphore_value(PyObject *semaphore)
{
    PyObject *value = plain_attribute(semaphore, name_value);
    if (value == NULL || !PyLong_CheckExact(value)) {
        return -1;
    }
    int overflow;
    long number = PyLong_AsLongAndOverflow(value, &overflow);
    return overflow || number < 0 ? -1 : (int)Py_MIN(number, INT_MAX);
}

static PyThread_type_lock *file_lock(PyObject *file)
{
    return (PyThread_type_lock *)((char *)file + file_owner_offset - (Py_ssize_t)sizeof(void *));
}

static int truth(PyObject *answer)
{
    if (answer == NULL) {
        PyErr_Clear();
        return 0;
    }
    int yes = answer == Py_True;
    Py_DECREF(answer);
    return yes;
}

int take(PyObject *object, Kind kind, double seconds)
{
    switch (kind) {
    case KIND_LOCK:
    case KIND_RLOCK: {
        PyObject *timeout = PyFloat_FromDouble(seconds > 0 ? seconds : 0);
        if (timeout == NULL) {
            PyErr_Clear();
            return 0;
        }
        PyObject *arguments[] = {object, Py_True, timeout};
        int taken = truth(PyObject_Vectorcall(kind == KIND_LOCK ? lock_acquire : rlock_acquire, arguments, 3, NULL));
        Py_DECREF(timeout);
        return taken;
    }
    case KIND_BUFFERED: {
        PyThread_type_lock lock = *file_lock(object);
        PyLockStatus status;
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(lock, (PY_TIMEOUT_T)(seconds * 1e6), 0);
        Py_END_ALLOW_THREADS
        if (status != PY_LOCK_ACQUIRED) {
            return 0;
        }
        *(volatile unsigned long *)((char *)object + file_owner_offset) = PyThread_get_thread_ident();
        return 1;
    }
    case KIND_FOREIGN: {
        double end = monotonic() + seconds;
        for (;;) {
            PyObject *arguments[] = {object, Py_False};
            if (truth(PyObject_VectorcallMethod(name_acquire, arguments, 2, NULL))) {
                return 1;
            }
            if (monotonic() >= end) {
                return 0;
            }
            sleep_without_gil(POLL_FOREIGN);
        }
    }
    default:
        return 0;
    }
}

static void call_quietly(PyObject *method, PyObject *object)
{
    PyObject *answer = PyObject_CallOneArg(method, object);
    if (answer == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(answer);
}

static void release_foreign(PyObject *object)
{
    PyObject *answer = PyObject_VectorcallMethod(name_release, &object, 1, NULL);
    if (answer == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(answer);
}

void give_back(PyObject *object, Kind kind)
{
    switch (kind) {
    case KIND_LOCK:
        call_quietly(lock_release, object);
        break;
    case KIND_RLOCK:
        call_quietly(rlock_release, object);
        break;
    case KIND_BUFFERED:
        *(volatile unsigned long *)((char *)object + file_owner_offset) = 0;
        PyThread_release_lock(*file_lock(object));
        break;
    case KIND_FOREIGN:
        release_foreign(object);
        break;
    default:
        break;
    }
}

void reset(PyObject *object, Kind kind)
{
    switch (kind) {
    case KIND_LOCK:
        call_quietly(lock_reinit, object);
        break;
    case KIND_RLOCK:
        call_quietly(rlock_reinit, object);
        break;
    case KIND_BUFFERED: {
        /* The old one may have vanished threads in its queue; it is left alone, a few bytes. */
        PyThread_type_lock fresh = PyThread_allocate_lock();
        if (fresh != NULL) {
            *file_lock(object) = fresh;
            *(volatile unsigned long *)((char *)object + file_owner_offset) = 0;
        }
        break;
    }
    case KIND_FOREIGN:
        release_foreign(object);
        break;
    default:
        break;
    }
}

static int call_count(PyObject *semlock, PyObject *method)
{
    PyObject *answer = PyObject_CallMethodNoArgs(semlock, method);
    long number = answer == NULL ? -1 : PyLong_Check(answer) ? PyLong_AsLong(answer) : 0;
    Py_XDECREF(answer);
    PyErr_Clear();
    return (int)number;
}

int counted_for_others(PyObject *registry, int forget)
{
    PyObject *data = plain_attribute(registry, name_data), *key, *value;
    Py_ssize_t position = 0;
    int n = 0;
    while (data != NULL && PyDict_CheckExact(data) && PyDict_Next(data, &position, &key, &value)) {
        PyObject *lock = referent(value), *semlock = lock == NULL ? NULL : plain_attribute(lock, name_semlock);
        if (semlock != NULL && strcmp(Py_TYPE(semlock)->tp_name, "_multiprocessing.SemLock") == 0 &&
            call_count(semlock, name_count) > 0 && !call_count(semlock, name_is_mine)) {
            n++;
            if (forget) {
                call_count(semlock, name_after_fork);
            }
        }
    }
    return n;
}

/* Called from the raw write() of a buffered file of ours, that is with its lock held by this thread, and again
 * outside. The struct is `buffered` of Modules/_io/bufferedio.c: ... PyThread_type_lock lock; unsigned long owner; ... */
PyObject *probe_buffered(PyObject *module, PyObject *file)
{
    static Py_ssize_t candidate = -1;
    static void *pointer;
    unsigned long me = PyThread_get_thread_ident();
    (void)module;
    if (!Py_IS_TYPE(file, file_types[1])) {
        Py_RETURN_FALSE;
    }
    Py_ssize_t size = file_types[1]->tp_basicsize;
    for (Py_ssize_t at = (Py_ssize_t)sizeof(PyObject) + (Py_ssize_t)sizeof(void *);
         at + (Py_ssize_t)sizeof(long) <= size; at += (Py_ssize_t)sizeof(long)) {
        if (word_at(file, at) == me) {
            candidate = at;
            pointer = *(void **)((char *)file + at - (Py_ssize_t)sizeof(void *));
            Py_RETURN_NONE;
        }
    }
    if (candidate >= 0 && word_at(file, candidate) == 0 && (uintptr_t)pointer > 65536 &&
        pointer == *(void **)((char *)file + candidate - (Py_ssize_t)sizeof(void *))) {
        if (PyThread_acquire_lock_timed(pointer, 0, 0) == PY_LOCK_ACQUIRED) {
            PyThread_release_lock(pointer);
            file_owner_offset = candidate;
            forget_types();
            Py_RETURN_TRUE;
        }
    }
    Py_RETURN_FALSE;
}

#endif
