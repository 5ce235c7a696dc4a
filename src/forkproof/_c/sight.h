/* What the files that make up a look share: a thread that is looked at, a place in it, and what is seen there.
 *
 * look.c goes through threads and frames; calls.c and stack.c read the call that a frame is in; managers.c goes from an object to
 * the locks that it took; effects.c says whether calls further in have let go of one; halves.c sees those that one function
 * takes and another lets go of; known.c knows the catalogue; sight.c keeps what is found.
 */
#ifndef FORKPROOF_SIGHT_H
#define FORKPROOF_SIGHT_H

#include "look.h"

#pragma GCC visibility push(hidden) /* calls go there at once */

#define MAX_NESTING 6
#define MAX_STEPS 200
#define MAX_LET_GO 16
#define MAX_ARGUMENTS 4 /* of a call, those that are looked at for a lock that it passes on */
#define MOST_IN_ONE 1024 /* locks in one that is made of several: all the futures that somebody waits for */

extern PyObject *name_enter, *name_exit, *name_aenter, *name_aexit, *name_gen, *name_exit_callbacks, *name_owner, *name_buffer, *name_func,
    *name_file, *name_release, *name_args, *name_lock, *name_next, *name_init, *name_function, *name_acquire_lock, *name_name,
    *name_call, *name_del, *name_new, *name_getattr;
extern PyObject *module_locks; /* importlib._bootstrap._module_locks */
extern PyObject *warnings_lock; /* what takes the lock of `warnings`, from 3.14 on; else NULL */
extern PyTypeObject *text_type;

/* Catalogued callables, by address: open addressing, never more than half full. */
typedef struct {
    PyObject *callable;
    int entry, resource, gil_outside; /* `entry` of RESOURCE_WORKER: among the workers */
    int host; /* HOST_* */
    int streams; /* of RESOURCE_CONSUMES: references of its own; else a set of standard streams, and STREAM_KEPT */
} Known;

/* What waits for other threads without a lock that a frame shows: methods of thread handles and of queues in C; and functions
 * with which code looks now and then whether something has come about. */
typedef struct {
    PyObject *method;
    int kind, timeout; /* which of the arguments is the time-out; -1: it always has one */
} WaitingMethod;

typedef struct {
    Look *look;
    PyThreadState *thread;
    int first;                      /* index of this thread's first sighting */
    Frame *inner;                   /* the frame further in than the one that is looked at; NULL for the innermost */
    /* Conditions whose wait() stands in frames further in, and has let go; the locks behind them are looked up only when
     * somebody asks. An idle look writes nothing to the program's objects, not even reference counts: after a fork each
     * page written to costs a fault. */
    PyObject *waiting[MAX_LET_GO];
    int n_waiting;
    PyObject *let_go[MAX_LET_GO];
    int n_let_go;
    /* Locks that a Python __exit__ or release() further in was found to let go of, or to have let go of already. */
    struct {
        PyObject *lock;
        int where;                  /* HELD, LET_GO, or both: it cannot be told */
    } judged[MAX_LET_GO];
    int n_judged;
    Frame *exiting;                 /* the frame of that __exit__, while what it leaves is looked up */
    PyObject *left, *entered;       /* the manager that an __exit__, or an __enter__, further in was found to be of */
    PyObject *returned;             /* semaphore whose release(), further in, has given the permit back already */
    const Known *works_in;          /* the method in C, if it is in one, by which others rely on the thread, and ... */
    PyObject *works_on;             /* ... the object whose method it is */
    int importing;
    int wide;                       /* calls of whatever the frame can name are read, not only those of its first parameter */
    int sure;                       /* of acquires only those count whose answer does not: they cannot have failed */
    int steps;                      /* of resolving managers in one frame, against pathological objects */
} Thread;

typedef struct {
    Frame *frame;
    PyCodeObject *code;
    const CodeInfo *info;
    int unit, named_at;
    PyTypeObject *manager;
    Frame *inner; /* of the Python function that is being called where this frame stands, if one is */
    int unsure; /* seen through an object that another thread may share: at most possible */
} Place;

typedef struct {
    PyObject *callable, *self;
    int arguments; /* slot of the first argument after self */
    int n_arguments;
    PyObject *keywords;
    PyObject *given; /* a tuple of arguments that come before them; NULL none */
} Call;

/* Of whom the locks are that a function takes or lets go of: its frame, or what its parameter and its globals would be. */
typedef struct {
    Frame *frame;
    PyObject *first, *globals, *closure;
    PyObject *given; /* the argument that is the parameter `given_at`; NULL none */
    int given_at;
} Variables;

/* A function in Python and its first parameter, NULL where that is not known; and one argument more that matters. */
typedef struct {
    PyObject *function, *first, *given;
    int given_at;
} Target;

typedef struct {
    Thread *thread;
    const Place *place;
    State state;
    CallRole want;
    int nesting, found;
    int certain;
    Frame *exiting;     /* of the __exit__ that lets go of what is found */
    PyObject *object, *function; /* whose method it is, and what that runs */
    int in_each;        /* it is one of several, which the code goes through */
    PyObject **collect; /* instead of sighting: locks, for Condition.wait */
    uint8_t *each;      /* of those, which are one of several; NULL where nobody asks */
    int *n_collect, room;
    int permits;        /* collect semaphores too */
} Resolve;

/* known.c: what is known of a callable, or NULL */
const Known *known_call(PyObject *callable);
const Known *known_instance(PyObject *callable);
const Known *known_method(PyObject *callable);
PyObject *descriptor_of(PyCFunctionObject *bound, PyTypeObject *type);
const WaitingMethod *known_wait(PyObject *callable);

/* sight.c: what is seen */
Sighting *add_sighting(Look *l);
void add_waiter(Look *l, PyObject *condition, PyObject *waiter);
PyObject *first_local(const Frame *frame);
PyTypeObject *self_type(const Place *p);
Sighting *sight(Thread *t, const Place *p, State state, Kind kind, PyObject *subject, int certain);
int judgement(const Thread *t, PyObject *lock);
void sight_lock(Thread *t, const Place *p, State state, PyObject *lock, Kind kind, int certain);

/* managers.c: from an object that was entered to the locks it took */
void sight_permit(Thread *t, const Place *p, State state, PyObject *semaphore, int certain);
PyObject *lock_behind(PyObject *object, PyObject *method, LockMethod *role);
PyObject *function_behind(PyObject *object, PyCodeObject *code, PyObject *method);
void resolve_method(Resolve *r, PyObject *object, PyObject *method);
void sight_delegate(Thread *t, const Place *p, State state, int nesting);
void sight_iterator(Thread *t, const Place *p, State state, PyObject *object, int nesting);
void sight_generator(Thread *t, const Place *p, State state, PyObject *generator, int nesting);
void sight_kept_generators(Thread *t, const Place *p, State state, PyObject *object, int nesting);
void sight_manager(Thread *t, const Place *p, State state, PyObject *manager, int nesting);

/* effects.c: whether what is being left has been let go of already */
PyObject *value_of(const Expression *e, PyCodeObject *code, const Variables *v);
Variables variables_of_function(Target called);
Target target_of(PyObject *object, PyObject *method);
int effect_of_function(Thread *t, Target called, PyObject *lock, int begins, int nesting);
int effect_of_named(Thread *t, const NamedCall *call, PyCodeObject *code, const Variables *v, PyObject *lock, int begins, int nesting);
int held_in(Thread *t, Variables v, PyCodeObject *code, PyObject *lock, int begins, int unit, int nesting, int *at_unit);
int effect_of_call(Thread *t, PyObject *object, PyObject *method, PyObject *lock, int begins, int nesting);
Frame *inner_of(Thread *t, Frame *frame, int *through_c);
int held_at(Thread *t, Frame *frame, PyObject *lock, int begins, int nesting);
void judge(Thread *t, Frame *frame, PyObject *lock);
void sight_leaving(Thread *t, const Place *p, PyObject *manager, Frame *exiting);
int has_let_go(Thread *t, PyObject *lock);
void sight_method(Thread *t, const Place *p, State state, PyObject *method, int nesting);
void sight_callback(Thread *t, const Place *p, State state, PyObject *callback, int nesting);
void resolve_exit_stack(Thread *t, const Place *p, State state, PyObject *callbacks, int nesting);
int is_stacked(PyObject *stack, PyObject *what);

/* stack.c: what the value stack says of the call that a frame is in */
PyObject *manager_of(PyObject *slot);
int is_exit_of(PyObject *slot, PyObject *manager);
int runs_exit_of(Frame *frame, PyObject *manager);
int lowest_of_call(const Unit *u);
int call_of(const Place *p, int base, Call *c);
int call_result(const Place *p, int base, PyObject **result);
int call_answered(const Place *p, int base);

/* calls.c: what a call holds, takes, or lets go of */
void sight_next(Thread *t, const Place *p, PyObject *iterator, int kept);
PyObject *keywords_before(const Place *p, int base);
int locks_behind(Thread *t, PyObject *object, PyObject **locks, int room);
int releases(Thread *t, const Place *p, PyObject *lock);
int has_it_already(Thread *t, const Place *p, int base, PyObject *lock);
void sight_call(Thread *t, Place *p, int base, Call *c, int nesting);

/* halves.c: locks that one function takes and another lets go of */
void decide_what_is_kept(CodeInfo *info, PyCodeObject *code, Frame *frame, unsigned look);
void sight_kept(Thread *t, const Place *p, int base);

/* look.c: frames and threads */
void sight_frame_locks(Thread *t, Place *p, State state, int nesting);
void sight_method_of_manager(Thread *t, const Place *p, int base);
void look_at_thread(Look *l, PyThreadState *ts);

#pragma GCC visibility pop

#endif
