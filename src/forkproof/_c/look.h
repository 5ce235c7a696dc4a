/* One look: what every other thread holds, is acquiring, is leaving and is inside, at this instant. */
#ifndef FORKPROOF_LOOK_H
#define FORKPROOF_LOOK_H

#include "code.h"
#include "locks.h"

typedef enum { STATE_HOLDS, STATE_ACQUIRING, STATE_LEAVING, STATE_INSIDE, STATE_IMPORTING } State;

#define ENTRY_UNSEEN (-1) /* no frame shows that the lock is held, its owner does */
#define ENTRY_KEPT (-2)   /* what took the lock has returned; the frame that called it has no name for the lock */

typedef struct {
    PyThreadState *thread;
    State state;
    Kind kind;
    unsigned certain : 1;  /* frames prove it; else it is possible */
    unsigned mutex : 1;    /* acquiring: it is used as a mutex there, not as a signal */
    unsigned signal : 1;   /* acquiring: the thread has it already, so that another is to let go of it */
    unsigned innermost : 1; /* inside: the call runs no Python code, it can come to its end without the GIL */
    unsigned draining : 1; /* inside: and once it waits for the GIL again its native lock is free */
    unsigned over : 1;     /* the guard: the call has come to its end, and only the GIL is missing */
    unsigned orphan : 1;   /* the guard: if it is taken in a child, then by nobody who is there */
    PyObject *subject;     /* borrowed: the lock, the file, the semaphore; for a call the callable; for an import the lock */
    PyTypeObject *manager; /* borrowed: the class whose `with` or method took it; NULL when it was taken directly */
    int entry;             /* of the catalogue, for calls; ENTRY_... */
    /* Where it shows, for naming and stacks. */
    Frame *frame;
    PyCodeObject *code;
    int unit;              /* where the frame stands */
    int named_at;          /* unit of the instruction that enters the `with` or calls the method; -1 none */
    PyTypeObject *self;    /* type of the frame's first parameter, NULL if none */
    uint64_t thread_id;    /* the guard: of the thread, which may have ended since, once locks are tried for */
} Sighting;

/* It is used as a mutex where it is being acquired: unless the thread has it already. */
static inline void take_for_mutex(Sighting *s)
{
    s->mutex |= s->state == STATE_ACQUIRING && !s->signal;
}

/* A lock on which a vanished thread will have been waiting, as Condition.wait queues it. */
typedef struct {
    PyObject *condition, *waiter;
} Waiter;

/* A thread that others rely on, and its outermost frame that says so: by its function, or by a method in C that it calls. */
typedef struct {
    PyThreadState *thread;
    Frame *frame;
    int entry;           /* of the catalogue */
    PyObject *called_on; /* borrowed: of that method; NULL: it is the frame's function */
} AtWork;

typedef struct {
    Sighting *items;
    int n, room;
    Waiter *waiters;
    int n_waiters, room_waiters;
    int lent;     /* `waiters` is not from the heap: it is left behind when it is outgrown */
    int threads;  /* Python threads besides the forking one */
    int workers;  /* of them, those that others rely on (workers.c) */
    AtWork *at_work; /* the first of these, if there is room: not from the heap */
    int room_at_work;
    int news;     /* of those, the ones of a sort that no fork has told of yet */
    unsigned number; /* of the look, of those that were made with this */
    int failed;   /* out of memory: the look is not complete */
    /* Nothing was seen, and frames alone said so, no object that the forking thread could change since: it stays true
     * until another thread runs. */
    int firm;
    uint64_t by;            /* PyThreadState.id of the thread that looked */
    unsigned long switches; /* of the GIL from one thread to another, till then */
} Look;

/* What one thread is waiting for, by its innermost frame. */
typedef struct {
    Sighting at;       /* at.kind is KIND_NONE where that cannot be said: it may be running */
    int forever;       /* the wait has no time-out */
    uint64_t position; /* of all its frames: unchanged means that it has not moved, or has come round again */
} Standing;

int sight_init(void);
/* Looks at every thread but `self`; never lets the GIL go, runs no Python code, raises nothing. */
void look(Look *l, PyThreadState *self);
/* The same, but keeps what `l` says where no other thread can have moved since. */
void look_unless_still(Look *l, PyThreadState *self);
/* What `self`, the forking thread, holds by its own frames. */
void look_at(Look *l, PyThreadState *self);

/* Where a thread stands, in all its frames: unchanged means that it has not moved, or has come round again. */
uint64_t position_of(PyThreadState *thread);
/* What `thread` waits for. Overwrites `l`; as `look` otherwise. */
void stand(Look *l, PyThreadState *thread, Standing *standing);
/* What waits in C: dict callable -> (kind, position of the time-out among the arguments; -1: it always has one). */
int set_waits(PyObject *waits);

/* The catalogue: dict callable -> (entry, resource, only host names, GIL retaken outside, streams) as set from Python. */
#define STREAM_KEPT 8 /* the function has a reference of its own to the file that it is called on */
enum { RESOURCE_PROCESS, RESOURCE_OBJECT, RESOURCE_STREAM, RESOURCE_CONSUMES, RESOURCE_WORKER };
enum { HOST_ANY, HOST_FIRST, HOST_IN_ADDRESS }; /* where a call has to be given a name to look it up */
int set_calls(PyObject *calls);

/* Whether the thread is in a futex wait on the GIL, as /proc says; 0 where that cannot be known. */
int waits_for_gil(unsigned long native_id);

/* How many slots of the value stack, from the lowest, are in use whatever the instruction at hand does. `c_below`: the frame
 * calls no other frame directly, and `inner` is the next one further in, if there is one. */
int live_slots(Frame *frame, PyCodeObject *code, int c_below, Frame *inner);

/* Whether it runs that method of its first argument's class. */
int runs_method(Frame *frame, PyCodeObject *code, PyObject *name);

/* The slot of `f(*arguments)`, while f is being called, up to 3.13; else -1. What is in it is there, with a reference, if it is
 * a tuple. A list may have been freed: CALL_FUNCTION_EX makes a tuple of it and forgets it, but not its slot (Python/ceval.c,
 * v3.11.7, Python/bytecodes.c, v3.12.1 and v3.13.0). */
int perhaps_stale_slot(Frame *frame, PyCodeObject *code);
/* What the C function that the frame calls has a reference of its own to, and on what it was called (only to be compared: it
 * may have returned); NULL where that is not known. `inner`: the frame that it calls in turn, if there is one. */
typedef struct {
    PyObject *self;
    struct {
        PyObject *object;
        int times;
    } kept[10];
    int n_kept;
} CInside;
CInside what_is_inside(Frame *frame, PyCodeObject *code, Frame *inner);

/* Adds that `thread` has `rlock`, unless the look has seen that already or it is a module lock's own. `frame` of the sighting
 * is where the thread stands. -> whether it was added. */
int sight_unseen(Look *l, PyThreadState *thread, PyObject *rlock, int certain);
#define MAX_NAMELESS 32
typedef enum { NOBODYS, MINE, OTHERS } Whose;
typedef struct {
    PyObject *locks[MAX_NAMELESS]; /* that are locked, and that nothing in the look explains */
    Whose of[MAX_NAMELESS];        /* to be filled in, as frames tell */
    int n;
    PyObject *others[MAX_NAMELESS]; /* locks that are kept beside one of those, and will be taken in the same way */
    int n_others;
} Nameless;
/* Adds those of other threads to the look. */
void sight_nameless(Look *l, PyThreadState *self, Nameless *nameless);
/* Whether a frame of the thread has taken the lock by calls that it can name, wherever it is to let go of it. */
int has_taken(PyThreadState *thread, PyObject *lock);
/* Locks that the function, or method, has when it returns, and had not when it was called. -> how many. */
int locks_taken_by(PyObject *callable, PyObject **locks, int room);
/* Whether the look explains why the lock is locked; also if somebody is about to take it, or waits for it as for a signal. */
int is_explained(const Look *l, PyObject *lock);
/* Borrowed from a weak reference, NULL when it is gone; safe for as long as the GIL is held. */
PyObject *referent(PyObject *reference);

/* A copy for Python: list of tuples, see _native.pyi. */
PyObject *look_as_list(const Look *l);
PyObject *stack_of(PyThreadState *thread);

#endif
