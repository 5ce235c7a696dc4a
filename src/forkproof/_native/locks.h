/* What counts as a lock, who has it, and how it is taken, given back and reset. */
#ifndef FORKPROOF_LOCKS_H
#define FORKPROOF_LOCKS_H

#include "interp.h"

typedef enum {
    KIND_LOCK,       /* _thread.lock */
    KIND_RLOCK,      /* _thread.RLock */
    KIND_BUFFERED,   /* the lock inside a BufferedReader, BufferedWriter or BufferedRandom */
    KIND_FOREIGN,    /* a catalogued object with acquire() and release() */
    KIND_SEMAPHORE,  /* a permit of a threading.Semaphore */
    KIND_CALL,       /* a catalogued call, whose lock is out of reach */
    KIND_IMPORT,     /* a module lock, or the import machinery */
    KIND_NONE,
} Kind;

/* -> 0 or -1 with an exception set: also when a probe shows that a struct is not as expected. */
int locks_init(void);

/* KIND_LOCK, KIND_RLOCK, KIND_BUFFERED, KIND_FOREIGN, KIND_SEMAPHORE or KIND_NONE. */
Kind kind_of(PyObject *object);

int is_locked(PyObject *lock);                /* KIND_LOCK, and KIND_RLOCK by its owner; never lets the GIL go */
unsigned long rlock_owner(PyObject *rlock);   /* ident of the owning thread, 0 for none */
unsigned long buffered_owner(PyObject *file); /* the same for a buffered file */
int semaphore_value(PyObject *semaphore);     /* permits left; -1 unknown */

/* Takes within `seconds`, letting the GIL go; 1 taken, 0 not. Runs no Python code. */
int take(PyObject *object, Kind kind, double seconds);
void give_back(PyObject *object, Kind kind);
/* In the child, for what the forking thread had taken or a vanished thread had held. */
void reset(PyObject *object, Kind kind);

/* Roles of the built-in lock methods, by the method descriptor. */
typedef enum { METHOD_NONE, METHOD_ACQUIRE, METHOD_ENTER, METHOD_RESTORE, METHOD_RELEASE } LockMethod;
LockMethod lock_method(PyObject *descriptor);
LockMethod lock_method_named(const char *name);

extern PyTypeObject *lock_type, *rlock_type, *semaphore_type;
extern PyObject *foreign_locks; /* set of objects by identity: dict id -> object */

PyObject *probe_buffered(PyObject *module, PyObject *file);
double monotonic(void);
void sleep_without_gil(double seconds);

#endif
