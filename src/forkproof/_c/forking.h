/* What the files that make up the guard share: the fork that is under way.
 *
 * guard.c has the hooks; forking.c the state that a fork is wrapped in, and undoes; matters.c says which of the sightings are worth a
 * wait; unseen.c finds locks that no frame shows; settle.c owns and waits; refresh.c follows the catalogue.
 */
#ifndef FORKPROOF_FORKING_H
#define FORKPROOF_FORKING_H

#include "guard.h"
#include "park.h"
#include "task.h"
#include <pthread.h>
#include <signal.h>

#pragma GCC visibility push(hidden) /* calls go there at once */

#define MAX_OWNED 256
#define MAX_HELD 256
#define MAX_LOST 128
#define POLL 0.0005        /* seconds between looks while an import or a native call is waited for */
#define MAX_UNSEEN 64

enum { POLICY_OBSERVE, POLICY_WAIT };
enum { OUTCOME_CLEAR, OUTCOME_OBSERVED, OUTCOME_WAITED, OUTCOME_GAVE_UP };

typedef struct {
    PyObject *object; /* strong */
    Kind kind;
} Owned;

/* A hazard that a wait did not see go. */
typedef struct {
    uint64_t thread;     /* PyThreadState.id; 0: a lock whose holder no frame shows */
    PyObject *subject;   /* compared by address only */
    uint64_t position;   /* of the thread then */
    int64_t ran;         /* nanoseconds that it had run by then; -1 unknown */
    int failures;
    unsigned long fork;  /* the last fork at which it was given up */
    unsigned long hoped; /* the last fork at which it was waited for */
    int tried;           /* attempts to take it at this fork */
} Lost;

/* An at-fork callback: what `os.register_at_fork` is given, and never freed. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyCFunction function;
    const char *name;
} Hook;

/* What every fork writes to. After a fork the first write to a page costs a fault (in a virtual machine several microseconds), which
 * a bare fork would not have had: so this lies, where that can be had, in a page that every fork writes to anyway (forking.c). */
typedef struct {
    Hook hooks[4];           /* the interpreter writes to what it calls: it counts its references */
    unsigned long turn;      /* ident of the thread between `before` and the end of its fork */
    unsigned long armed;     /* ident of the thread whose fork is under way */
    unsigned long forks;
    double waited;
    int polls, outcome, clean;
    int import_locked;
    int n_held;
    int refresh_due;         /* observe: after this fork, where it changes nothing */
    int child_hooked;        /* the child's hooks are in their list, for this fork */
} ThisFork;
extern ThisFork *this_fork;

/* What a fork at which nothing is at risk only reads. */
typedef struct {
    int on, policy, repair, report_all, watch_idle;
    double wait;
    PyObject *consider, *after_parent, *after_child, *refresh, *fault;
    PyObject *calls, *unresolved; /* the catalogue: dict of what is resolved, list of what is not */
    PyObject *locks;              /* list of its locks that are not */
    Py_ssize_t modules_resolved;
    PyObject *awaited; /* names of catalogued modules that had not been imported at the last refresh */
    PyObject *warnings, *filter; /* the module, and our item of its `filters` */
    PyObject *before_hook, *parent_hook, *child_first_hook, *child_last_hook; /* in this_fork */
    PyObject *imp, *modules;
    PyCFunction acquire_import_lock, release_import_lock; /* of _imp, called as the interpreter would; from 3.12 on */
    Py_ssize_t modules_seen;

    unsigned long waiting[64];
    int n_waiting;

    Look look;
    int n_owned, n_lost;

    sigset_t mask;
    int masked, collector_was_on;

    PyObject *seen, *left;   /* lists for the report, or NULL */
    PyObject *workers, *pools; /* the same, of threads that no fork has told of yet */
    int pools_known, pools_vain; /* how many native threads had a name at the last search; searches in vain since one had not */
    unsigned long pools_next;    /* no search before this fork */
    int pools_expected;          /* some of them are such that a child may come to wait for them */
    enum { NOT_BORN, BORN_CLEAN, BORN_AT_RISK } born; /* by a watched fork, and so were those before it back to install() */
    int in_child;            /* set in the child handler if they are, cleared by the last of them */
    int unseen;              /* other Python threads of the parent, where this process was forked without Python's hooks */
    uint32_t random;
    PyObject *exempt;        /* dict id -> None, of locks and of thread idents */
    PyObject *judged;        /* experiments: dict of the ids that `consider` has let stand; NULL: it is asked once a fork */

    int fail_at, step;       /* tests: pretend that the step fails */

    Waiter first_waiters[128];
    Owned owned[MAX_OWNED];
    PyObject *held[MAX_HELD]; /* what the forking thread has itself, or can never come because of it */
    Lost lost[MAX_LOST];
} Forking;
extern Forking g;

/* Locks that were found to be held though no frame shows it; see look_for_unseen. */
typedef struct {
    PyObject *found[MAX_UNSEEN]; /* weak references */
    int n;
    double ended, took;          /* the last search, in seconds */
    int vain;                    /* searches in a row that found nothing, */
    uint64_t newest;             /* and the id of the newest thread then */
    int inherited;               /* in a child: idents of threads that are gone may have come back */
} Unseen;
extern Unseen unseen;

/* Plain Locks of which the same is so. Who has one shows in no owner: it is told by the frames of those who take it and let go of it
 * (`named`), or nobody can tell, and it was seen to come free while a fork waited. */
typedef struct {
    PyObject *found[MAX_NAMELESS]; /* weak references */
    char named[MAX_NAMELESS];
    int n;
} NamelessFound;
extern NamelessFound nameless;

/* Of those, the ones that this fork is to own although nobody is known to have them. Weak references: another strong one would make
 * a lock look as if somebody else had it too (reach.c). */
typedef struct {
    PyObject *locks[MAX_NAMELESS];
    int n;
} Loose;
extern Loose loose;

/* Locks that the forking thread does not have, shown since it began to wait: it runs no code of the program's meanwhile. */
typedef struct {
    PyObject *locks[MAX_OWNED]; /* compared by address only */
    int n;
} NotMine;
extern NotMine not_mine;

/* The fork that is under way was announced by Python's hooks, but another one would not end. */
extern _Thread_local int announced;

typedef enum { MATTERS_NOT, MATTERS_OWN, MATTERS_WAIT } Matters;

typedef struct {
    PyThreadState *thread;
    unsigned long main;
} Undisturbed;

/* forking.c: the state that a fork is wrapped in */
void place_this_fork(void);
int step_fails(void);
Undisturbed undisturbed(void);
void end_undisturbed(Undisturbed u);
void turn_off(const char *where);
uint32_t random_bits(void);
int call_python(PyObject *function, PyObject *argument, const char *where);
int lock_imports(void);
void unlock_imports(void);
void hold_signals(void);
void release_signals(void);
void let_go(void);
void disarm(void);
void in_parent(void);
void in_child(void);

/* matters.c: what of a look matters at this fork */
int is_exempt(const Sighting *s);
int is_held(PyObject *object);
void add_held(PyObject *object);
int is_owned(PyObject *object);
void find_held(PyThreadState *me);
int is_not_mine(PyObject *lock);
void note_not_mine(PyObject *lock);
void learn_whose(void);
void find_orphans(void);
int is_catalogued(PyObject *lock);
Matters matters(const Sighting *s);
Lost *find_lost(uint64_t thread, PyObject *subject);
Lost *note(uint64_t thread, PyObject *subject);
void give_up(Lost *entry, PyThreadState *thread);
double patience(const Sighting *s);
PyThreadState *visible_holder(PyObject *subject);
int given_up(const Sighting *s);
int is_back(const Sighting *s);
int is_asleep(const Sighting *s);
int is_over(const Sighting *s, int back);
PyObject *at_risk(void);

/* unseen.c: what no frame shows */
void drop_loose(void);
void look_for_unseen(PyThreadState *me, size_t limit);

/* settle.c: the slow way */
int own(PyObject *object, Kind kind, double seconds);
void settle(PyThreadState *me);

/* refresh.c: what the catalogue names */
PyObject *follow(PyObject *path);
void resolve_awaited(void);
int refresh_is_due(void);
void follow_foreign(void);

#pragma GCC visibility pop

#endif
