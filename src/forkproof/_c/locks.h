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
    /* What only a thread that stands still is asked about: */
    KIND_CONDITION,  /* a notification, by what Condition.wait is called on */
    KIND_THREAD,     /* the end of another thread */
    KIND_QUEUE,      /* an item of a queue written in C */
    KIND_POLL,       /* something that it looks for now and then; the subject is whose loop that is */
} Kind;

/* -> 0 or -1 with an exception set: also when a probe shows that a struct is not as expected. */
int locks_init(void);

/* How the instances of a class hold locks, by what contextlib calls the class or one it derives from. */
typedef enum { SHAPE_PLAIN, SHAPE_GENERATOR, SHAPE_EXIT_STACK } Shape;

typedef struct {
    PyTypeObject *type;
    unsigned int version; /* tp_version_tag: changes when the class does, and is never given twice */
    Kind kind;            /* KIND_NONE: ask kind_of() about the instance */
    Shape shape;
} TypeInfo;

const TypeInfo *type_info(PyTypeObject *type);
void forget_types(void); /* after something was learnt that changes the answers */

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

/* A lock of multiprocessing lies in memory that processes share, and whoever has it gives it back, in whatever process that is; but how
 * often *this* process has taken it is counted in the object, of which a child has a copy. In a child where a vanished thread is still counted,
 * the release() after the first acquire() gives nothing back, and every process waits for ever. multiprocessing's own children set the
 * count to 0 (SemLock._after_fork); others do not run that. -> how many of `registry`, the WeakValueDictionary of
 * multiprocessing.util, count another thread than this; with `forget` these count nobody afterwards. Runs no Python code. */
int counted_for_others(PyObject *registry, int forget);

/* Roles of the built-in lock methods, by the method descriptor. */
typedef enum { METHOD_NONE, METHOD_ACQUIRE, METHOD_ENTER, METHOD_RESTORE, METHOD_RELEASE } LockMethod;
LockMethod lock_method(PyObject *descriptor);
LockMethod lock_method_named(const char *name);

extern PyTypeObject *lock_type, *rlock_type, *semaphore_type;
extern PyObject *foreign_locks; /* dict id -> (object, what the path of its library's files contains, path) */

PyObject *probe_buffered(PyObject *module, PyObject *file);
double monotonic(void);
void sleep_without_gil(double seconds);

#endif
