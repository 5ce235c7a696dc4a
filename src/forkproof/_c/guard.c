/* Around a fork: look, own what is contested, fork, let go; in the child reset what was owned.
 *
 * The callback `before` runs last of all before-callbacks, so nothing can happen between its last look and the system
 * call: it holds the GIL from the one to the other, and the import lock too (PyOS_BeforeFork would else let the GIL go
 * to take it). Where a look finds something it goes the slow way: it takes every lock that another thread holds or is
 * about to take, and looks again, until whatever is seen is its own. While it owns a lock it runs no Python code at
 * all: signals are held and the collector is off, because a handler or a finalizer might wait for that very lock.
 *
 * What was owned is let go of in pthread_atfork handlers, that is inside fork() itself: in the parent before CPython can
 * run any code (it warns about threads there), in the child before PyOS_AfterFork_Child, which runs finalizers of the
 * vanished threads' locals. They are armed by `before` for one fork of one thread and do nothing for any other.
 *
 * Guarantees: never raises into the program; never waits longer than its limits; whatever fails inside turns it off and
 * leaves the fork as it would have been.
 */
#include "guard.h"
#include "buffers.h"
#include "connections.h"
#include "follow.h"
#include "heap.h"
#include "park.h"
#include "reach.h"
#include "task.h"
#include "watch.h"
#include "watchdog.h"
#include "pools.h"
#include "workers.h"
#include <pthread.h>
#include <signal.h>

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

#define MAX_OWNED 256
#define MAX_HELD 256
#define MAX_LOST 128
#define MAX_STOPPED 32
#define TAKE_LIMIT 0.05    /* seconds for one lock; under eight contenders none took longer (internals: trap 21) */
#define UNSEEN_LIMIT 0.01  /* seconds for a lock that is locked while no frame shows who has it */
#define STEPS_LIMIT 0.25   /* seconds of leading others from stop to stop until a lock is free between two of them */
#define STOP_LIMIT 0.05    /* seconds for one stop; what it takes is a processor, which a busy machine may not have for long */
#define POLL 0.0005        /* seconds between looks while an import or a native call is waited for */
#define HURRY 200          /* microseconds: the switch interval while a fork waits; at 5 ms each turn of each busy thread
                            * is 5 ms more before the forking one has the GIL back */
#define LEAD_AFTER 0.05    /* seconds after which threads that import are stopped when they come out of an import, ... */
#define LEAD_SLICE 0.005   /* ... asked for as long at a time, ... */
#define LEAD_SHARE 0.25    /* ... and for this part of the time: to be asked slows an import down, tight loops most */
#define STILL 0.01         /* seconds that threads stay parked while the others sleep in their calls */
#define MAX_UNSEEN 64
#define SEARCH_LIMIT 2000000 /* objects passed in one search of the heap at a fork, ten nanoseconds each, ... */
#define SEARCH_SHARE 200     /* ... which is not done again before this many times as long as it took */
#define DRAIN 0.0001       /* seconds with the GIL held, for native calls to come to their end */

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

/* What every fork writes to lies in one page: after a fork, the first write to a page costs a fault (in a virtual machine
 * several microseconds), and a bare fork would not have had it. What only the slow way writes to comes after. */
static struct {
    int on, policy, repair, report_all;
    double wait;
    PyObject *consider, *after_parent, *after_child, *refresh, *fault;
    PyObject *calls, *unresolved; /* the catalogue: dict of what is resolved, list of what is not */
    PyObject *locks;              /* list of its locks that are not */
    Py_ssize_t modules_resolved;
    PyObject *awaited; /* names of catalogued modules that had not been imported at the last refresh */
    PyObject *warnings, *filter; /* the module, and our item of its `filters` */
    Hook hooks[4];         /* here, because the interpreter writes to what it calls: it counts its references */
    PyObject *before_hook, *parent_hook, *child_first_hook, *child_last_hook; /* they */
    PyObject *imp, *modules;
    PyCFunction acquire_import_lock, release_import_lock; /* of _imp, called as the interpreter would */
    Py_ssize_t modules_seen;

    unsigned long turn;      /* ident of the thread between `before` and the end of its fork */
    unsigned long waiting[64];
    int n_waiting;

    Look look;
    int n_owned, n_held, n_lost;

    unsigned long armed;     /* ident of the thread whose fork is under way */
    int import_locked;
    sigset_t mask;
    int masked, collector_was_on;

    unsigned long forks;
    PyObject *seen, *left;   /* lists for the report, or NULL */
    PyObject *workers, *pools; /* the same, of threads that no fork has told of yet */
    int pools_known, pools_vain; /* how many native threads had a name at the last search; searches in vain since one had not */
    unsigned long pools_next;    /* no search before this fork */
    int pools_expected;          /* some of them are such that a child may come to wait for them */
    double waited;
    int polls, outcome, clean;
    enum { NOT_BORN, BORN_CLEAN, BORN_AT_RISK } born; /* by a watched fork, and so were those before it back to install() */
    int refresh_due;         /* observe: after this fork, where it changes nothing */
    int child_hooked;        /* the child's hooks are in their list, for this fork */
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
} g __attribute__((aligned(4096)));

/* Locks that were found to be held though no frame shows it; see look_for_unseen. */
static struct {
    PyObject *found[MAX_UNSEEN]; /* weak references */
    int n;
    double due;                  /* when to search again */
    int inherited;               /* in a child: idents of threads that are gone may have come back */
} unseen;

/* Plain Locks of which the same is so. Who has one shows in no owner: it is told by the frames of those who take it and let go of it
 * (`named`), or nobody can tell, and it was seen to come free while a fork waited. */
static struct {
    PyObject *found[MAX_NAMELESS]; /* weak references */
    char named[MAX_NAMELESS];
    int n;
} nameless;

/* Of those, the ones that this fork is to own although nobody is known to have them. Weak references: another strong one would make
 * a lock look as if somebody else had it too (reach.c). */
static struct {
    PyObject *locks[MAX_NAMELESS];
    int n;
} loose;

static PyObject *weakly(PyObject *lock)
{
    int collects = PyGC_Disable(); /* a collection runs code of the program's */
    PyObject *reference = PyWeakref_NewRef(lock, NULL);
    if (collects) {
        PyGC_Enable();
    }
    if (reference == NULL) {
        PyErr_Clear();
    }
    return reference;
}

/* Locks that the forking thread does not have, shown since it began to wait: it runs no code of the program's meanwhile. */
static struct {
    PyObject *locks[MAX_OWNED]; /* compared by address only */
    int n;
} not_mine;

/* The fork that is under way was announced by Python's hooks, but another one would not end. */
static _Thread_local int announced;

static int step_fails(void)
{
    return g.fail_at && ++g.step == g.fail_at;
}

#define HEADROOM 100 /* Python frames for code of ours, at whatever depth the program forks */

typedef struct {
    PyThreadState *thread;
    unsigned long main;
} Undisturbed;

/* Python code of ours is a part of fork(), which nothing of the program's interrupts: no signal handler runs in it (its exception
 * would be ours; it runs, and raises, when fork() has returned), no trace or profile function sees it, and it is not cut short
 * by the recursion limit. Only the main thread runs handlers, and while that is here nobody else asks who it is. */
static Undisturbed undisturbed(void)
{
    Undisturbed u = {PyThreadState_Get(), 0};
    if (*main_thread() == PyThread_get_thread_ident()) {
        u.main = *main_thread();
        *main_thread() = 0;
    }
    *recursion_room(u.thread) += HEADROOM;
    PyThreadState_EnterTracing(u.thread);
    return u;
}

static void end_undisturbed(Undisturbed u)
{
    PyThreadState_LeaveTracing(u.thread);
    *recursion_room(u.thread) -= HEADROOM;
    if (u.main) {
        *main_thread() = u.main;
        ask_for_signals(u.thread);
    }
}

static void turn_off(const char *where)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    g.on = 0;
    if (g.fault != NULL) {
        PyErr_NormalizeException(&type, &value, &traceback);
        Undisturbed u = undisturbed();
        PyObject *answer = PyObject_CallFunction(g.fault, "sO", where, value ? value : Py_None);
        if (answer == NULL) {
            PyErr_Clear();
        }
        end_undisturbed(u);
        Py_XDECREF(answer);
    }
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

static uint32_t random_bits(void)
{
    g.random ^= g.random << 13;
    g.random ^= g.random >> 17;
    g.random ^= g.random << 5;
    return g.random;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The state that a fork is wrapped in
 */

static int lock_imports(void)
{
    PyObject *answer = g.acquire_import_lock(g.imp, NULL);
    if (answer == NULL) {
        PyErr_Clear();
        return -1;
    }
    Py_DECREF(answer);
    g.import_locked = 1;
    return 0;
}

static void unlock_imports(void)
{
    if (!g.import_locked) {
        return;
    }
    g.import_locked = 0;
    PyObject *answer = g.release_import_lock(g.imp, NULL);
    if (answer == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(answer);
}

static void hold_signals(void)
{
    if (g.masked) {
        return;
    }
    sigset_t all;
    sigfillset(&all);
    static const int never[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(never); i++) {
        sigdelset(&all, never[i]);
    }
    pthread_sigmask(SIG_BLOCK, &all, &g.mask);
    g.collector_was_on = PyGC_Disable();
    g.masked = 1;
}

static void release_signals(void)
{
    if (!g.masked) {
        return;
    }
    g.masked = 0;
    if (g.collector_was_on) {
        PyGC_Enable();
    }
    pthread_sigmask(SIG_SETMASK, &g.mask, NULL);
}

static void let_go(void)
{
    while (g.n_owned) {
        Owned *o = &g.owned[--g.n_owned];
        give_back(o->object, o->kind);
        Py_DECREF(o->object);
    }
}

/* Ends the fork in the parent, or the attempt at one. */
static void disarm(void)
{
    let_go();
    let_run(NULL);
    unlock_imports();
    g.armed = 0;
    g.turn = 0;
    release_signals();
}

static void in_parent(void)
{
    if (announced) {
        announced = 0; /* its page is not written to for nothing */
    }
    if (g.armed && g.armed == PyThread_get_thread_ident()) {
        disarm();
    }
}

/* In a child that C code has forked, with or without the GIL: reads only. */
static int other_threads(void)
{
    int n = 0;
    PyInterpreterState *interpreter = PyInterpreterState_Main();
    PyThreadState *ts = interpreter == NULL ? NULL : PyInterpreterState_ThreadHead(interpreter);
    for (; ts != NULL && n < 10000; ts = PyThreadState_Next(ts)) {
        n += (unsigned long)ts->thread_id != PyThread_get_thread_ident();
    }
    return n;
}

static void in_child(void)
{
    int watched = g.armed && g.armed == PyThread_get_thread_ident();
    g.born = watched && g.clean && g.born != BORN_AT_RISK ? BORN_CLEAN : BORN_AT_RISK;
    g.look.firm = 0; /* the threads that it is about are gone */
    connections_in_child(watched && g.on ? g.forks : 0);
    if (!watched) {
        g.unseen = g.on && !announced ? other_threads() : 0;
        announced = 0;
        return;
    }
    g.unseen = 0;
    for (int i = 0; i < g.n_owned; i++) {
        reset(g.owned[i].object, g.owned[i].kind);
        /* the reference stays: dropping it could run a finalizer here */
    }
    g.n_owned = 0;
    forget_parked();
    watchdog_in_child(g.repair && g.policy == POLICY_WAIT);
    if (g.repair && g.policy == POLICY_WAIT) {
        reset_warnings();
        for (int i = 0; i < g.look.n; i++) {
            if (g.look.items[i].orphan) {
                reset(g.look.items[i].subject, g.look.items[i].kind);
            }
        }
    }
    if (g.look.workers && g.child_hooked) {
        keep_workers(&g.look);
    }
    g.pools_known = g.pools_vain = 0;
    g.pools_next = 0;
    unlock_imports();
    g.armed = 0;
    g.turn = 0;
    g.n_waiting = 0;
    g.in_child = g.child_hooked;
    unseen.inherited |= g.look.threads > 0;
    release_signals();
}

/* ---------------------------------------------------------------------------------------------------------------------
 * What matters in a look
 */

static int is_exempt(const Sighting *s)
{
    if (g.exempt == NULL || PyDict_GET_SIZE(g.exempt) == 0) {
        return 0;
    }
    int found = 0;
    PyObject *key = PyLong_FromVoidPtr(s->subject);
    found = key != NULL && PyDict_Contains(g.exempt, key) == 1;
    Py_XDECREF(key);
    if (!found) {
        key = PyLong_FromUnsignedLong((unsigned long)s->thread->thread_id);
        PyObject *tuple = key != NULL ? PyTuple_Pack(1, key) : NULL;
        found = tuple != NULL && PyDict_Contains(g.exempt, tuple) == 1;
        Py_XDECREF(tuple);
        Py_XDECREF(key);
    }
    PyErr_Clear();
    return found;
}

static int is_held(PyObject *object)
{
    for (int i = 0; i < g.n_held; i++) {
        if (g.held[i] == object) {
            return 1;
        }
    }
    return 0;
}

static void add_held(PyObject *object)
{
    if (!is_held(object) && g.n_held < MAX_HELD) {
        g.held[g.n_held++] = object;
    }
}

static int is_owned(PyObject *object)
{
    for (int i = 0; i < g.n_owned; i++) {
        if (g.owned[i].object == object) {
            return 1;
        }
    }
    return 0;
}

/* Locks that the forking thread has: by its frames, and by other libraries' before-callbacks that are some lock's own
 * `acquire` (concurrent.futures registers one), which no frame shows. */
static void find_held(PyThreadState *me)
{
    static Look mine;
    g.n_held = 0;
    mine.n = mine.n_waiters = 0;
    look_at(&mine, me);
    for (int i = 0; i < mine.n; i++) {
        if (mine.items[i].state == STATE_HOLDS || mine.items[i].state == STATE_LEAVING) {
            add_held(mine.items[i].subject);
        }
    }
    for (int i = 0; i < g.look.n; i++) {
        const Sighting *s = &g.look.items[i];
        if (s->kind == KIND_LOCK && (s->state == STATE_ACQUIRING || !s->certain) && is_locked(s->subject) &&
            has_taken(me, s->subject)) {
            add_held(s->subject);
        }
    }
    PyObject *callbacks = PyInterpreterState_Get()->before_forkers;
    for (Py_ssize_t i = 0; callbacks != NULL && i < PyList_GET_SIZE(callbacks); i++) {
        PyObject *callback = PyList_GET_ITEM(callbacks, i);
        if (PyCFunction_Check(callback) && PyCFunction_GET_SELF(callback) != NULL &&
            lock_method_named(((PyCFunctionObject *)callback)->m_ml->ml_name) == METHOD_ACQUIRE) {
            add_held(PyCFunction_GET_SELF(callback));
            continue;
        }
        PyObject *locks[MAX_NAMELESS];
        for (int n = locks_taken_by(callback, locks, MAX_NAMELESS); n-- > 0;) {
            add_held(locks[n]);
        }
    }
}

static int is_not_mine(PyObject *lock)
{
    for (int i = 0; i < not_mine.n; i++) {
        if (not_mine.locks[i] == lock) {
            return 1;
        }
    }
    return 0;
}

static void note_not_mine(PyObject *lock)
{
    if (not_mine.n < MAX_OWNED && !is_held(lock) && !is_not_mine(lock)) {
        not_mine.locks[not_mine.n++] = lock;
    }
}

/* A Lock does not say who has it. But one that is free, or that another has, is not the forking thread's, and cannot become
 * so before the fork is over. */
static void learn_whose(void)
{
    for (int i = 0; i < g.look.n; i++) {
        const Sighting *s = &g.look.items[i];
        int has = s->certain && (s->state == STATE_HOLDS || s->state == STATE_LEAVING);
        if (s->kind == KIND_LOCK && (has || !is_locked(s->subject))) {
            note_not_mine(s->subject);
        }
    }
}

/* Marks, in the last look, what the child is to reset. The wait could not clear it, a thread that will be gone has it or may
 * have got it before the system call (it needs no GIL for that), and the forking thread has it not: taken, it is orphaned.
 * What is only being acquired, and not as a mutex, is a signal, and left alone. */
static void find_orphans(void)
{
    unsigned long me = PyThread_get_thread_ident();
    learn_whose();
    for (int i = 0; i < g.look.n; i++) {
        Sighting *s = &g.look.items[i];
        int has = s->state == STATE_HOLDS || s->state == STATE_LEAVING;
        if (is_held(s->subject) || !(has || (s->state == STATE_ACQUIRING && s->mutex))) {
            continue;
        }
        s->orphan = (s->kind == KIND_RLOCK && rlock_owner(s->subject) != me) ||
                    (s->kind == KIND_BUFFERED && buffered_owner(s->subject) != me) ||
                    (s->kind == KIND_LOCK && ((has && s->certain) || is_not_mine(s->subject)));
    }
}

static int is_catalogued(PyObject *lock)
{
    PyObject *id = PyDict_GET_SIZE(foreign_locks) ? PyLong_FromVoidPtr(lock) : NULL;
    int found = id != NULL && PyDict_Contains(foreign_locks, id) == 1;
    Py_XDECREF(id);
    PyErr_Clear();
    return found;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * What no frame shows
 *
 * An RLock names its owner, so that another thread has it is certain however it was taken. Those that frames do not explain
 * are searched for now and then, and once found looked at before every fork. A plain Lock names nobody, and most of those that
 * are locked and that no frame explains are signals. It is a hazard, a possible one, where a thread's frames say that it has
 * taken some lock and will let go of it, and lead to this one. Of the others a fork that may wait does so for a moment: one that
 * comes free is its own then, whatever it is for, and one that does not is left alone.
 */

typedef struct {
    PyThreadState *me;
    PyObject *found[MAX_UNSEEN]; /* borrowed */
    int n;
    Nameless nameless;
} Search;

static PyThreadState *thread_with(unsigned long ident, PyThreadState *me)
{
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(me));
    while (ts != NULL && (ts == me || (unsigned long)ts->thread_id != ident)) {
        ts = PyThreadState_Next(ts);
    }
    return ts;
}

/* -> whether another thread has it and no frame shows it. One that has ended with its lock held leaves this process no better
 * off than the child. */
static int add_owner(PyObject *rlock, PyThreadState *me)
{
    unsigned long owner = rlock_owner(rlock);
    PyThreadState *thread = owner == 0 ? NULL : thread_with(owner, me);
    return thread != NULL && sight_unseen(&g.look, thread, rlock, !unseen.inherited);
}

/* Whether it is locked and nothing in the look tells why. */
static int is_nameless(PyObject *lock, PyThreadState *me)
{
    Sighting s = {.thread = me, .kind = KIND_LOCK, .subject = lock};
    return is_locked(lock) && !is_owned(lock) && !is_explained(&g.look, lock) && !is_catalogued(lock) && !is_exempt(&s);
}

static int visit_lock(void *context, PyObject *lock, Kind kind)
{
    Search *s = context;
    if (kind == KIND_RLOCK && add_owner(lock, s->me)) {
        s->found[s->n++] = lock;
    }
    else if (kind == KIND_LOCK && s->nameless.n < MAX_NAMELESS && is_nameless(lock, s->me)) {
        s->nameless.locks[s->nameless.n++] = lock;
    }
    return s->n == MAX_UNSEEN;
}

static void remember_nameless(PyObject *lock, int named)
{
    int at = 0;
    while (at < nameless.n && referent(nameless.found[at]) != lock) {
        at++;
    }
    if (at == MAX_NAMELESS) {
        return;
    }
    if (at == nameless.n) {
        PyObject *reference = weakly(lock);
        if (reference == NULL) {
            return;
        }
        nameless.found[nameless.n] = reference;
        nameless.named[nameless.n++] = 0;
    }
    nameless.named[at] |= (char)named;
}

static Lost *find_lost(uint64_t thread, PyObject *subject);

static void add_loose(PyObject *lock)
{
    const Lost *entry = find_lost(0, lock);
    for (int i = 0; i < loose.n; i++) {
        if (referent(loose.locks[i]) == lock) {
            return;
        }
    }
    if (g.policy == POLICY_WAIT && loose.n < MAX_NAMELESS && !(entry != NULL && entry->failures)) {
        PyObject *reference = weakly(lock);
        if (reference != NULL) {
            loose.locks[loose.n++] = reference;
        }
    }
}

static void drop_loose(void)
{
    while (loose.n) {
        PyObject *reference = loose.locks[--loose.n], *lock = referent(reference);
        if (lock != NULL && is_owned(lock)) {
            remember_nameless(lock, 0);
        }
        Py_DECREF(reference);
    }
}

/* Who may have the locks, of which nothing in the look tells. */
static void look_for_nameless(PyThreadState *me, Nameless *found)
{
    int n = keep_reachable(found->locks, found->n, me);
    if (n) {
        find_held(me);
    }
    found->n = found->n_others = 0;
    for (int i = 0; i < n; i++) {
        if (!is_held(found->locks[i])) {
            found->locks[found->n++] = found->locks[i];
        }
    }
    if (found->n) {
        sight_nameless(&g.look, me, found);
    }
    for (int i = 0; i < found->n; i++) {
        if (found->of[i] == MINE) {
            add_held(found->locks[i]);
        }
        else if (found->of[i] == OTHERS) {
            remember_nameless(found->locks[i], 1);
        }
        else {
            add_loose(found->locks[i]);
        }
    }
    for (int i = 0; i < found->n_others; i++) {
        remember_nameless(found->others[i], 1);
    }
}

static void search_for_unseen(PyThreadState *me, size_t limit)
{
    double start = limit && g.look.threads ? monotonic() : 0;
    if (start < unseen.due || start == 0) {
        return;
    }
    Search s = {.me = me};
    heap_locks(visit_lock, &s, limit);
    look_for_nameless(me, &s.nameless);
    unseen.due = monotonic() + SEARCH_SHARE * (monotonic() - start);
    int collects = PyGC_Disable(); /* a collection runs code of the program's */
    for (int i = 0; i < s.n && unseen.n < MAX_UNSEEN; i++) {
        PyObject *reference = PyWeakref_NewRef(s.found[i], NULL);
        if (reference == NULL) {
            PyErr_Clear();
            continue;
        }
        unseen.found[unseen.n++] = reference;
    }
    if (collects) {
        PyGC_Enable();
    }
}

/* Completes the look that has just been done. `limit`: of a search of the heap, if one is due; 0 for none. */
static void look_for_unseen(PyThreadState *me, size_t limit)
{
    int kept = 0, seen = g.look.n;
    for (int i = 0; i < unseen.n; i++) {
        PyObject *rlock = referent(unseen.found[i]);
        if (rlock == NULL) {
            Py_CLEAR(unseen.found[i]);
            continue;
        }
        unseen.found[kept++] = unseen.found[i];
        add_owner(rlock, me);
    }
    if (unseen.n != kept) { /* what is not written to costs no copy of its page after the fork before */
        unseen.n = kept;
    }
    Nameless remembered = {.n = 0};
    kept = 0;
    for (int i = 0; i < nameless.n; i++) {
        PyObject *lock = referent(nameless.found[i]);
        if (lock == NULL) {
            Py_CLEAR(nameless.found[i]);
            continue;
        }
        nameless.named[kept] = nameless.named[i];
        nameless.found[kept++] = nameless.found[i];
        if (is_nameless(lock, me)) {
            remembered.locks[remembered.n++] = lock;
        }
        for (int k = 0; nameless.named[i] && k < g.look.n; k++) {
            Sighting *s = &g.look.items[k];
            s->mutex |= s->subject == lock && s->state == STATE_ACQUIRING; /* it is no signal */
        }
    }
    if (nameless.n != kept) {
        nameless.n = kept;
    }
    look_for_nameless(me, &remembered);
    search_for_unseen(me, limit);
    if (g.look.n > seen) {
        drop_unreachable(&g.look, me);
    }
}

static int queued_to_fork(unsigned long ident)
{
    for (int i = 0; i < g.n_waiting; i++) {
        if (g.waiting[i] == ident) {
            return 1;
        }
    }
    return 0;
}

/* Threads that wait for what the forking thread has will not move until the fork is over; neither will those that wait
 * for them. What such a thread holds is as good as held by the forking thread. -> whether the thread is one. */
static int is_stuck(PyThreadState *thread)
{
    if (queued_to_fork((unsigned long)thread->thread_id)) {
        return 1;
    }
    for (int i = 0; i < g.look.n; i++) {
        const Sighting *s = &g.look.items[i];
        if (s->thread == thread && s->state == STATE_ACQUIRING) {
            if (is_held(s->subject) ||
                (s->kind == KIND_RLOCK && rlock_owner(s->subject) == PyThread_get_thread_ident())) {
                return 1;
            }
            for (int k = 0; k < g.look.n; k++) {
                const Sighting *other = &g.look.items[k];
                if (other->subject == s->subject && other->thread != thread && other->certain &&
                    (other->state == STATE_HOLDS || other->state == STATE_LEAVING)) {
                    /* one step is enough for each look: chains resolve as their ends are given up */
                    for (int m = 0; m < g.look.n; m++) {
                        const Sighting *third = &g.look.items[m];
                        if (third->thread == other->thread && third->state == STATE_ACQUIRING &&
                            is_held(third->subject)) {
                            return 1;
                        }
                    }
                }
            }
        }
        if (s->thread == thread && s->state == STATE_IMPORTING && !s->certain && s->subject != NULL) {
            static PyObject *owner_name;
            if (owner_name == NULL) {
                owner_name = PyUnicode_InternFromString("owner");
            }
            PyObject *owner = PyDict_CheckExact(s->subject) ? NULL : plain_attribute(s->subject, owner_name);
            if (owner != NULL && PyLong_CheckExact(owner) &&
                PyLong_AsUnsignedLong(owner) == PyThread_get_thread_ident()) {
                return 1;
            }
            PyErr_Clear();
        }
    }
    return 0;
}

typedef enum { MATTERS_NOT, MATTERS_OWN, MATTERS_WAIT } Matters;

static Matters matters(const Sighting *s)
{
    if (is_exempt(s)) {
        return MATTERS_NOT;
    }
    switch (s->kind) {
    case KIND_IMPORT:
        return MATTERS_WAIT;
    case KIND_CALL:
        return MATTERS_WAIT;
    case KIND_SEMAPHORE:
        return semaphore_value(s->subject) == 0 ? MATTERS_WAIT : MATTERS_NOT;
    default:
        break;
    }
    if (is_owned(s->subject) || is_held(s->subject)) {
        return MATTERS_NOT;
    }
    if (s->kind == KIND_RLOCK && rlock_owner(s->subject) == PyThread_get_thread_ident()) {
        return MATTERS_NOT;
    }
    if (s->state == STATE_ACQUIRING && !s->mutex) {
        return MATTERS_NOT;
    }
    return MATTERS_OWN;
}

static Lost *find_lost(uint64_t thread, PyObject *subject)
{
    for (int i = 0; i < g.n_lost; i++) {
        if (g.lost[i].thread == thread && g.lost[i].subject == subject) {
            return &g.lost[i];
        }
    }
    return NULL;
}

static Lost *note(uint64_t thread, PyObject *subject)
{
    Lost *entry = find_lost(thread, subject);
    if (entry == NULL) {
        int at = g.n_lost;
        if (at == MAX_LOST) {
            at = 0;
            for (int i = 1; i < MAX_LOST; i++) {
                if (g.lost[i].fork < g.lost[at].fork) {
                    at = i;
                }
            }
        }
        else {
            g.n_lost++;
        }
        entry = &g.lost[at];
        *entry = (Lost){.thread = thread, .subject = subject};
    }
    return entry;
}

/* `thread`: who was waited for, or NULL for a lock whose holder no frame shows. */
static void give_up(Lost *entry, PyThreadState *thread)
{
    if (entry->fork != g.forks) {
        entry->failures++;
    }
    entry->fork = g.forks;
    entry->position = thread == NULL ? 0 : position_of(thread);
    entry->ran = thread == NULL ? -1 : processor_time((unsigned long)thread->native_thread_id);
}

/* A thread in a loop comes back to where it stood; one that really has not moved has not run either. */
static int has_moved(const Lost *entry, PyThreadState *thread)
{
    return entry->position != position_of(thread) || entry->ran != processor_time((unsigned long)thread->native_thread_id);
}

/* How long this hazard is worth waiting for at this fork, in seconds. Nothing for a thread that has not moved since a
 * wait for it was in vain; half as long after each such wait for one that has. */
static double patience(const Sighting *s)
{
    if (is_stuck(s->thread)) {
        return 0;
    }
    const Lost *entry = find_lost(s->thread->id, s->subject);
    if (entry == NULL || entry->failures == 0) {
        return g.wait;
    }
    if (!has_moved(entry, s->thread)) {
        return 0;
    }
    return g.wait / (double)(1 << Py_MIN(entry->failures, 10));
}

static PyThreadState *visible_holder(PyObject *subject)
{
    for (int i = 0; i < g.look.n; i++) {
        const Sighting *s = &g.look.items[i];
        if (s->subject == subject && (s->state == STATE_HOLDS || s->state == STATE_LEAVING)) {
            return s->thread;
        }
    }
    return NULL;
}

static int given_up(const Sighting *s)
{
    const Lost *entry = find_lost(s->thread->id, s->subject);
    if (entry != NULL && entry->fork == g.forks) {
        return 1;
    }
    if (s->state == STATE_ACQUIRING && s->kind == KIND_LOCK) {
        entry = find_lost(0, s->subject);
        /* Remembered from earlier forks for as long as it looks the same: locked, and nobody seen to have it. */
        return entry != NULL && entry->failures && !visible_holder(s->subject) && is_locked(s->subject);
    }
    return 0;
}

/* A native call that waits for the GIL, which we hold: it is over, or it wants to run Python code in its middle. */
static int is_back(const Sighting *s)
{
    return s->kind == KIND_CALL && s->innermost && waits_for_gil((unsigned long)s->thread->native_thread_id);
}

/* It may sleep for something that only a thread which is stopped can give it. */
static int is_asleep(const Sighting *s)
{
    Blocked blocked;
    return blocked_in((unsigned long)s->thread->native_thread_id, &blocked) == 1 &&
           !(blocked.futex && is_gil(the_gil(), blocked.arguments[0]));
}

/* One that is over but for the GIL holds nothing any more; and a thread that is parked stands between two instructions. */
static int is_over(const Sighting *s, int back)
{
    return (back && s->draining) || (s->kind == KIND_CALL && s->innermost && is_parked(s->thread));
}

/* The innermost frame of the library whose lock somebody has; NULL where the thread is not inside it. */
static Frame *frame_of_library(PyThreadState *thread, PyObject *marker)
{
    int through_c;
    for (Frame *f = thread_top(thread); f != NULL; f = frame_outer(f, &through_c)) {
        PyCodeObject *code = frame_is_shim(f) ? NULL : frame_code(f);
        if (code != NULL && PyUnicode_Find(code->co_filename, marker, 0, PY_SSIZE_T_MAX, 1) >= 0) {
            return f;
        }
    }
    return NULL;
}

/* The innermost frame that runs code of a program's. */
static Frame *first_frame(PyThreadState *thread)
{
    int through_c;
    Frame *f = thread_top(thread);
    while (f != NULL && (frame_is_shim(f) || frame_code(f) == NULL)) {
        f = frame_outer(f, &through_c);
    }
    return f;
}

/* A catalogued lock is held in code without frames: that somebody has it shows by trying, who by where threads stand. */
static void add_foreign_holders(Look *part, PyThreadState *me)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(foreign_locks, &position, &key, &value)) {
        PyObject *lock = PyTuple_GET_ITEM(value, 0), *marker = PyTuple_GET_ITEM(value, 1);
        if (is_owned(lock)) {
            continue;
        }
        Kind kind = kind_of(lock);
        if (take(lock, kind, 0)) {
            give_back(lock, kind);
            continue;
        }
        unsigned long owner = kind == KIND_RLOCK ? rlock_owner(lock) : 0;
        PyThreadState *ts = PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(me));
        for (; ts != NULL; ts = PyThreadState_Next(ts)) {
            Frame *f = ts == me ? NULL : owner ? ((unsigned long)ts->thread_id == owner ? first_frame(ts) : NULL)
                                               : frame_of_library(ts, marker);
            if (f != NULL && part->n < part->room) {
                PyCodeObject *code = frame_code(f);
                part->items[part->n++] = (Sighting){
                    .thread = ts, .state = STATE_HOLDS, .kind = kind, .certain = owner != 0, .subject = lock,
                    .frame = f, .code = code, .unit = frame_unit(f, code), .named_at = -1,
                };
            }
        }
    }
}

/* What is at risk as the look stands, for the report. */
static PyObject *at_risk(void)
{
    Look part = {.threads = g.look.threads, .room = g.look.n + 64};
    part.items = PyMem_RawMalloc(sizeof(Sighting) * (size_t)part.room);
    if (part.items == NULL) {
        return PyErr_NoMemory();
    }
    for (int i = 0; i < g.look.n; i++) {
        const Sighting *s = &g.look.items[i];
        if (matters(s) == MATTERS_NOT || s->over || is_over(s, is_back(s))) {
            continue;
        }
        if (s->state == STATE_ACQUIRING && visible_holder(s->subject)) {
            continue; /* its holder is the one to name */
        }
        if (s->state == STATE_ACQUIRING && !s->orphan && find_lost(0, s->subject) != NULL && given_up(s)) {
            continue; /* nobody is seen to have it: most likely the forking thread itself, by a hook */
        }
        part.items[part.n++] = *s;
    }
    if (PyDict_GET_SIZE(foreign_locks)) {
        add_foreign_holders(&part, PyThreadState_Get());
    }
    PyObject *list = look_as_list(&part);
    PyMem_RawFree(part.items);
    return list;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The slow way
 */

static int own(PyObject *object, Kind kind, double seconds)
{
    if (g.n_owned == MAX_OWNED) {
        return 0;
    }
    Py_INCREF(object);
    if (!take(object, kind, seconds)) {
        Py_DECREF(object);
        return 0;
    }
    g.owned[g.n_owned++] = (Owned){object, kind};
    note_not_mine(object);
    return 1;
}

static int call_python(PyObject *function, PyObject *argument, const char *where);

/* Experiments (lab/intervene.py) wait for some hazards and not for others, and have to be asked about each that comes. */
static int unjudged(void)
{
    for (int i = 0; g.judged != NULL && i < g.look.n; i++) {
        const Sighting *s = &g.look.items[i];
        PyObject *key = matters(s) == MATTERS_NOT ? NULL : PyLong_FromVoidPtr(s->subject);
        int known = key == NULL || PyDict_Contains(g.judged, key) != 0;
        Py_XDECREF(key);
        if (!known) {
            return 1;
        }
    }
    return 0;
}

static int judge(void)
{
    PyObject *list = look_as_list(&g.look);
    int status = list == NULL ? -1 : call_python(g.consider, list, "consider");
    Py_XDECREF(list);
    PyErr_Clear();
    not_mine.n = 0; /* Python code has run in this thread: a signal handler too, perhaps */
    return status;
}

/* Of a thread that has come between two instructions: whether it is in the middle of nothing that matters. The native call in
 * which its innermost frame seems to stand is over. */
static int may_stop(PyThreadState *thread)
{
    static Look its;
    its.n = its.n_waiters = 0;
    look_at(&its, thread);
    for (int i = 0; i < its.n; i++) {
        const Sighting *s = &its.items[i];
        if (!(s->kind == KIND_CALL && s->innermost) && !is_held(s->subject) && !is_exempt(s) &&
            (s->state != STATE_ACQUIRING || s->mutex) &&
            (s->kind != KIND_SEMAPHORE || semaphore_value(s->subject) == 0)) {
            return 0;
        }
    }
    return 1;
}

/* Lets one of the threads that wait for the GIL run until it may be stopped, and stops it there. -> 0 if there is none. */
static int stop_another(PyThreadState *me)
{
    PyThreadState *back[MAX_STOPPED];
    int n = 0;
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(me));
    for (; ts != NULL && n < MAX_STOPPED; ts = PyThreadState_Next(ts)) {
        if (ts != me && !is_parked(ts) && waits_for_gil((unsigned long)ts->native_thread_id)) {
            back[n++] = ts;
        }
    }
    if (n) {
        stop_one(me, back, n, may_stop, POLL, STOP_LIMIT);
    }
    return n > 0;
}

/* With the GIL: whoever has something to do comes to wait for it. */
static void nap(void)
{
    struct timespec pause = {0, (long)(DRAIN * 1e9)};
    nanosleep(&pause, NULL);
}

/* A lock that compiled code takes again as soon as it has let go of it, without a pause in which who waits could have it:
 * its holder is stopped between two calls. */
static int own_between(PyThreadState *me, PyObject *lock, Kind kind, double seconds)
{
    double end = monotonic() + seconds;
    int naps = 0;
    do {
        if (own(lock, kind, 0)) {
            return 1;
        }
        if (stop_another(me)) {
            continue;
        }
        if (++naps % 20) {
            nap();
        }
        else {
            sleep_without_gil(POLL);
        }
    } while (monotonic() < end);
    return 0;
}

/* A thread that holds one lock that is needed and waits for another that is ours will let go of neither before it has it.
 * -> whether one was given back to it. */
static int give_way(PyThreadState *holder)
{
    int given = 0;
    for (int i = 0; i < g.look.n; i++) {
        const Sighting *s = &g.look.items[i];
        for (int k = 0; s->thread == holder && s->state == STATE_ACQUIRING && k < g.n_owned; k++) {
            if (g.owned[k].object == s->subject) {
                Owned o = g.owned[k];
                g.owned[k] = g.owned[--g.n_owned];
                give_back(o.object, o.kind);
                Py_DECREF(o.object);
                given = 1;
                break;
            }
        }
    }
    return given;
}

/* Whether a thread that has another lock of those needed waits for this one: it is to have it first. */
static int is_promised(PyObject *lock, PyObject **need, int n)
{
    for (int i = 0; i < n; i++) {
        PyThreadState *holder = need[i] == lock ? NULL : visible_holder(need[i]);
        for (int k = 0; holder != NULL && k < g.look.n; k++) {
            const Sighting *s = &g.look.items[k];
            if (s->thread == holder && s->state == STATE_ACQUIRING && s->subject == lock) {
                return 1;
            }
        }
    }
    return 0;
}

/* Whether one of the threads that are seen to acquire the lock may have got it, and not have come so far as to say so. One that
 * sleeps for anything but the GIL has not. */
static int may_be_in_transit(PyObject *lock)
{
    for (int i = 0; i < g.look.n; i++) {
        const Sighting *s = &g.look.items[i];
        Blocked blocked;
        if (s->subject == lock && s->state == STATE_ACQUIRING) {
            int known = blocked_in((unsigned long)s->thread->native_thread_id, &blocked);
            if (known == 0 || (known == 1 && (!blocked.futex || is_gil(the_gil(), blocked.arguments[0])))) {
                return 1;
            }
        }
    }
    return 0;
}

/* An RLock that compiled code took before names no owner while a thread comes back with it, and who waits for it there is not
 * seen and gets it without the GIL: free or not, it is to be ours. Not one that could not be had before. */
static int may_be_taken_unseen(PyObject *rlock, PyThreadState *me)
{
    if (rlock == NULL || rlock_owner(rlock) != 0) {
        return 0;
    }
    Sighting s = {.thread = me, .state = STATE_HOLDS, .kind = KIND_RLOCK, .subject = rlock};
    const Lost *entry = find_lost(0, rlock);
    return matters(&s) != MATTERS_NOT && (entry == NULL || !entry->failures);
}

/* Looks until everything that matters is owned or given up. Returns with the import lock taken and the last look done. */
static void settle(PyThreadState *me)
{
    double start = monotonic();
    int gave_up = 0, drains = 0, steps = 0;
    double led = 0; /* since when others are led from stop to stop */
    double led_imports = 0, asking = 0; /* the same of those that import, and for how long they were asked */
    double still = 0; /* since when all that is waited for is calls that sleep */
    PyObject *need[MAX_OWNED];
    Kind kinds[MAX_OWNED];
    char hurry[MAX_OWNED]; /* its time is up, and this its only try */
    PyThreadState *stop[MAX_STOPPED], *inside[MAX_STOPPED], *importing[MAX_STOPPED];

    unsigned long usual = *switch_interval();
    hold_signals();
    not_mine.n = 0;
    if (usual > HURRY) {
        *switch_interval() = HURRY;
    }
    for (;;) {
        double elapsed = monotonic() - start;
        int n = 0, pending = 0, calls = 0, back = 0, asleep = 0, unstoppable = 0, imports = 0;
        look(&g.look, me);
        look_for_unseen(me, 0);
        learn_whose();
        g.polls++;
        if (g.look.failed) {
            break;
        }
        if (elapsed < g.wait && unjudged()) {
            unlock_imports();
            let_go(); /* Python code runs only where nothing is owned, and nobody stopped */
            let_run(NULL);
            if (judge() < 0) {
                break;
            }
            continue;
        }
        for (int i = 0; i < g.look.n; i++) {
            const Sighting *s = &g.look.items[i];
            Matters m = matters(s);
            if (m == MATTERS_NOT || given_up(s)) {
                continue;
            }
            int waits = is_back(s);
            if (is_over(s, waits)) {
                g.look.items[i].over = 1; /* and stays so while the GIL is ours; asked again it may be awake, to ask for the GIL */
                continue;
            }
            double limit = patience(s);
            Lost *entry = find_lost(s->thread->id, s->subject);
            int tried = entry != NULL ? entry->tried : 0;
            int forgive = m == MATTERS_OWN && limit > 0 && !tried && elapsed < 2 * g.wait + 0.25;
            if (elapsed >= limit && !forgive) {
                give_up(note(s->thread->id, s->subject), s->thread);
                gave_up = 1;
                continue;
            }
            if (entry != NULL) {
                entry->hoped = g.forks;
            }
            if (m == MATTERS_WAIT) {
                pending++;
                if (waits && back < MAX_STOPPED) {
                    stop[back++] = s->thread;
                }
                if (s->kind == KIND_IMPORT && imports < MAX_STOPPED) {
                    importing[imports++] = s->thread;
                }
                if (s->kind == KIND_CALL && s->innermost) {
                    inside[calls % MAX_STOPPED] = s->thread;
                    calls++;
                    asleep += !waits && is_asleep(s);
                    unstoppable |= !can_be_stopped(s->thread);
                }
                continue;
            }
            int known = 0;
            for (int k = 0; k < n; k++) {
                known |= need[k] == s->subject;
            }
            if (!known && n < MAX_OWNED) {
                need[n] = s->subject;
                hurry[n] = elapsed >= limit;
                kinds[n++] = s->kind;
            }
        }
        PyObject *key, *value;
        Py_ssize_t position = 0;
        while (PyDict_Next(foreign_locks, &position, &key, &value)) {
            value = PyTuple_GET_ITEM(value, 0);
            Lost *entry = find_lost(0, value);
            if (!is_owned(value) && n < MAX_OWNED && !(entry != NULL && entry->fork == g.forks)) {
                if (elapsed >= g.wait) {
                    give_up(note(0, value), NULL);
                    gave_up = 1;
                    continue;
                }
                int known = 0;
                for (int k = 0; k < n; k++) {
                    known |= need[k] == value;
                }
                if (!known) {
                    need[n] = value;
                    hurry[n] = 0;
                    kinds[n++] = kind_of(value);
                }
            }
        }
        for (int i = 0; i < unseen.n && n < MAX_OWNED; i++) {
            PyObject *rlock = referent(unseen.found[i]);
            int known = 0;
            for (int k = 0; k < n; k++) {
                known |= need[k] == rlock;
            }
            if (known || !may_be_taken_unseen(rlock, me)) {
                continue;
            }
            if (elapsed >= g.wait) {
                give_up(note(0, rlock), NULL);
                gave_up = 1;
                continue;
            }
            need[n] = rlock;
            hurry[n] = 0;
            kinds[n++] = KIND_RLOCK;
        }
        for (int i = 0; i < loose.n && n < MAX_OWNED; i++) {
            PyObject *lock = referent(loose.locks[i]);
            const Lost *entry = lock == NULL ? NULL : find_lost(0, lock);
            int known = lock == NULL || is_owned(lock) || is_held(lock) || (entry != NULL && entry->fork == g.forks);
            for (int k = 0; k < n; k++) {
                known |= need[k] == lock;
            }
            if (!known && elapsed < g.wait) {
                need[n] = lock;
                hurry[n] = 0;
                kinds[n++] = KIND_LOCK;
            }
        }
        if (!pending && n == 0) {
            if (g.import_locked) {
                break; /* the last look: everything it saw is ours, or given up */
            }
            if (lock_imports() < 0) {
                break;
            }
            continue; /* to take it may have let the GIL go */
        }
        unlock_imports(); /* never kept while others are to move: an import needs it at every step */
        if (asleep < pending) {
            still = 0;
        }
        else if (still == 0) {
            still = monotonic();
        }
        if (pending) {
            let_go(); /* such a thread may need what we own */
            if (back) {
                stop_one(me, stop, back, may_stop, POLL, STOP_LIMIT); /* it comes out of its call, and stays there */
            }
            else if (still != 0 && monotonic() - still > STILL) {
                /* The call may wait for what a parked thread has (a transaction, the other end of a pipe): all go on for a
                 * while, and come out in another order. */
                still = 0;
                let_run(NULL);
                sleep_without_gil((double)(random_bits() % 5000) * 1e-6);
            }
            else if (calls == pending && drains < 20) {
                /* The GIL is ours: such calls come to their end within their own time and then wait for it. */
                drains++;
                nap();
            }
            else if (unstoppable) {
                drains = 0; /* it has to be met between two calls by chance */
                let_run(NULL);
                sleep_without_gil((double)(random_bits() % 5000) * 1e-6);
            }
            else if (calls == pending) {
                /* The GIL is for others meanwhile, but whoever comes out of his call stops. */
                drains = 0;
                stop_one(me, inside, Py_MIN(calls, MAX_STOPPED), may_stop, POLL, POLL);
            }
            else if (imports && elapsed > LEAD_AFTER && asking < LEAD_SHARE * (elapsed - LEAD_AFTER)) {
                /* One import may follow on another for ever: each thread is stopped when it is out of one. */
                double now = monotonic();
                led_imports = led_imports != 0 ? led_imports : now;
                drains = 0;
                stop_one(me, importing, imports, may_stop, LEAD_SLICE, LEAD_SLICE);
                asking += monotonic() - now;
            }
            else {
                drains = 0;
                if (led_imports == 0 || monotonic() - led_imports > STEPS_LIMIT) {
                    led_imports = 0;
                    let_run(NULL); /* Python code that is waited for may need a thread that is parked */
                }
                sleep_without_gil(POLL);
            }
            continue;
        }
        for (int i = 0; i < n; i++) {
            Py_INCREF(need[i]);
        }
        int taken = 0, failed = 1;
        for (int i = 0; i < n; i++) {
            int k = i + (int)(random_bits() % (uint32_t)(n - i));
            PyObject *object = need[k];
            Kind kind = kinds[k];
            int last_try = hurry[k];
            need[k] = need[i];
            kinds[k] = kinds[i];
            hurry[k] = hurry[i];
            need[i] = object;
            PyThreadState *holder = visible_holder(object);
            if (!last_try && is_promised(object, need, n)) {
                continue;
            }
            failed = 0;
            if (!last_try && holder != NULL && give_way(holder)) {
                break; /* and look again: it goes on now */
            }
            if (holder != NULL && is_parked(holder)) {
                let_run(holder); /* it took this one without being seen to */
                break;
            }
            if (taken && !last_try) {
                if (own(object, kind, 0)) {
                    continue;
                }
                break; /* look again before waiting: its holder may need what has just become ours */
            }
            int tried = 0;
            for (int j = 0; j < g.look.n; j++) {
                Lost *entry = g.look.items[j].subject == object ? find_lost(g.look.items[j].thread->id, object) : NULL;
                tried = entry != NULL && entry->tried > tried ? entry->tried : tried;
            }
            int catalogued = is_catalogued(object);
            int unseen = kind == KIND_LOCK && is_locked(object) && holder == NULL && !catalogued && !is_not_mine(object) &&
                         !may_be_in_transit(object);
            if (tried % 2 && !unseen && !catalogued && !last_try) {
                /* It was free, and we too slow: with every thread stopped that comes by, it stays free. */
                double now = monotonic();
                if (own(object, kind, 0)) {
                    taken = 1;
                    led = 0;
                    continue;
                }
                led = led != 0 ? led : now;
                if (now - led < STEPS_LIMIT) {
                    if (!stop_another(me)) {
                        if (++steps % 20) {
                            nap();
                        }
                        else {
                            sleep_without_gil(POLL);
                        }
                    }
                    break;
                }
                led = 0;
                failed = 1;
            }
            else {
                double limit = unseen ? UNSEEN_LIMIT : Py_MIN(TAKE_LIMIT, Py_MAX(g.wait, 0.002));
                if (catalogued ? own_between(me, object, kind, limit) : own(object, kind, limit)) {
                    taken = 1;
                    continue;
                }
                failed = 1;
            }
            for (int j = 0; j < g.look.n; j++) {
                if (g.look.items[j].subject == object) {
                    note(g.look.items[j].thread->id, object)->tried++;
                }
            }
            if (unseen) {
                Lost *entry = note(0, object);
                if (++entry->tried >= 2) {
                    give_up(entry, NULL);
                }
            }
            break;
        }
        for (int i = 0; i < n; i++) {
            Py_DECREF(need[i]);
        }
        if (failed) {
            /* Its holder may be waiting for one that we have: give all back and come again in another order. */
            let_go();
            let_run(NULL);
            sleep_without_gil((double)(random_bits() % 2000) * 1e-6);
        }
    }
    if (!g.import_locked) {
        lock_imports();
    }
    for (int i = 0; i < g.n_lost; i++) {
        if (g.lost[i].hoped == g.forks && g.lost[i].fork != g.forks) {
            g.lost[i].failures = 0; /* it came: the next time it is worth the whole wait again */
        }
    }
    if (*switch_interval() == HURRY) {
        *switch_interval() = usual;
    }
    for (int i = 0; i < g.n_lost; i++) {
        g.lost[i].tried = 0;
    }
    g.waited = monotonic() - start;
    g.outcome = gave_up ? OUTCOME_GAVE_UP : OUTCOME_WAITED;
}

/* One fork at a time; a second forking thread waits here, unless the first takes unreasonably long. */
static int take_turn(unsigned long ident)
{
    if (g.turn == 0) {
        g.turn = ident;
        return 1;
    }
    if (g.n_waiting == (int)Py_ARRAY_LENGTH(g.waiting)) {
        return 0;
    }
    double end = monotonic() + 2 * g.wait + 1;
    g.waiting[g.n_waiting++] = ident;
    while (g.turn != 0 && monotonic() < end) {
        sleep_without_gil(POLL);
    }
    for (int i = 0; i < g.n_waiting; i++) {
        if (g.waiting[i] == ident) {
            g.waiting[i] = g.waiting[--g.n_waiting];
            break;
        }
    }
    if (g.turn != 0) {
        return 0;
    }
    g.turn = ident;
    return 1;
}

static void take_out(PyObject *list, PyObject *hook)
{
    for (Py_ssize_t i = list == NULL ? 0 : PyList_GET_SIZE(list); i-- > 0;) {
        if (PyList_GET_ITEM(list, i) == hook && PyList_SetSlice(list, i, i + 1, NULL) < 0) {
            PyErr_Clear();
        }
    }
}

/* Others may have registered theirs since: to be first or last is to be made so at each fork. */
static void keep(PyObject *list, PyObject *hook, int wanted, int first)
{
    Py_ssize_t n = list == NULL ? 0 : PyList_GET_SIZE(list);
    if (list == NULL || (wanted && n > 0 && PyList_GET_ITEM(list, first ? 0 : n - 1) == hook)) {
        return;
    }
    take_out(list, hook);
    if (wanted && PyList_Insert(list, first ? 0 : PyList_GET_SIZE(list), hook) < 0) {
        PyErr_Clear();
    }
}

/* The hooks that run after the fork are in the interpreter's lists only when they will have something to say or to mend:
 * most forks do without, and no page is written to for them. Nothing runs between this and the fork that could register more. */
static void keep_hooks(PyInterpreterState *interpreter, int parent, int child)
{
    keep(interpreter->after_forkers_parent, g.parent_hook, parent, 0);
    keep(interpreter->after_forkers_child, g.child_first_hook, child, 1);
    keep(interpreter->after_forkers_child, g.child_last_hook, child, 0);
    g.child_hooked = child;
}

static int anything_matters(void)
{
    for (int i = 0; i < g.look.n; i++) {
        if (matters(&g.look.items[i]) != MATTERS_NOT) {
            return 1;
        }
    }
    return g.look.failed ||
           (g.look.threads &&
            (PyDict_GET_SIZE(foreign_locks) || ((unseen.n || loose.n) && g.policy == POLICY_WAIT)));
}

static int call_python(PyObject *function, PyObject *argument, const char *where)
{
    if (function == NULL) {
        return 0;
    }
    Undisturbed u = undisturbed();
    PyObject *answer = step_fails() ? PyErr_NoMemory()
                       : argument   ? PyObject_CallOneArg(function, argument)
                                    : PyObject_CallNoArgs(function);
    end_undisturbed(u);
    if (answer == NULL) {
        turn_off(where);
        return -1;
    }
    if (PyExceptionInstance_Check(answer)) {
        /* A warning that -W error made an exception: shown as CPython shows its own from here. */
        PyErr_SetObject((PyObject *)Py_TYPE(answer), answer);
        PyErr_WriteUnraisable(function);
    }
    Py_DECREF(answer);
    return 0;
}

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
static PyObject *follow(PyObject *path)
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

/* The catalogued functions of libraries that have been imported since the last refresh, found without running Python code:
 * between the program's call of fork() and the look no other thread is to get a turn that it would not have had. What is
 * not found so (types that their module hides) waits for the refresh after the fork. */
static void resolve_awaited(void)
{
    if (g.unresolved == NULL || g.calls == NULL || PyDict_GET_SIZE(g.modules) == g.modules_resolved) {
        return;
    }
    g.modules_resolved = PyDict_GET_SIZE(g.modules);
    resolve_locks();
    int found = 0;
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
        if (object != NULL && PyTuple_GET_ITEM(entry, 2) != Py_None) {
            object = PyType_Check(object) ? _PyType_Lookup((PyTypeObject *)object, PyTuple_GET_ITEM(entry, 2)) : NULL;
        }
        if (object != NULL && PyDict_SetItem(g.calls, object, PyTuple_GET_ITEM(entry, 3)) == 0) {
            found = 1;
        }
    }
    if (found) {
        g.look.firm = 0;
        if (set_calls(g.calls) < 0) {
            PyErr_Clear();
        }
    }
    PyErr_Clear();
}

/* Whether a library of the catalogue has been imported since, or another filter stands before ours. */
static int refresh_is_due(void)
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

static void follow_foreign(void)
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

static void forget_report(void)
{
    Py_CLEAR(g.seen);
    Py_CLEAR(g.left);
    Py_CLEAR(g.workers);
    Py_CLEAR(g.pools);
}

/* Threads that others rely on, and native ones, of which no fork has told yet. They hold nothing and are not waited for.
 *
 * A Python thread that is just beginning or ending looks like a native one, and one that nobody can name may never change: after
 * each search that found nothing new, twice as many forks go by before the next. */
static void find_news(PyThreadState *me)
{
    int native = native_threads(g.look.threads + 1);
    int search = native > g.pools_known && g.forks >= g.pools_next;
    if (!g.look.news && !search) {
        return;
    }
    int collector = PyGC_Disable(); /* no finalizer now: it might let the GIL go */
    if (g.look.news) {
        g.workers = list_of_workers(me, 0);
        g.look.news = 0; /* the look may serve the next fork as well */
    }
    if (search) {
        int named = 0;
        PyObject *found = list_of_native_threads();
        for (Py_ssize_t i = 0; found != NULL && i < PyList_GET_SIZE(found); i++) {
            named += PyList_GET_SIZE(PyTuple_GET_ITEM(PyList_GET_ITEM(found, i), 2)) > 0;
        }
        if (named > g.pools_known) {
            g.pools = Py_NewRef(found);
            g.pools_vain = 0;
        }
        else {
            g.pools_vain = Py_MIN(g.pools_vain + 1, 10);
        }
        g.pools_known = named;
        g.pools_next = g.forks + (1ul << g.pools_vain);
        Py_XDECREF(found);
    }
    PyErr_Clear();
    if (collector) {
        PyGC_Enable();
    }
}

static int something_to_say(void)
{
    return g.seen != NULL || g.left != NULL || g.workers != NULL || g.pools != NULL;
}

/* Python code has a turn again in a process that C code has forked. */
static void tell_unseen(void)
{
    PyObject *argument = Py_BuildValue("(iO)", 3, Py_None);
    if (argument == NULL) {
        turn_off("child");
        return;
    }
    if (g.after_child != NULL) {
        call_python(g.after_child, argument, "after_in_child");
    }
    Py_DECREF(argument);
}

/* How many of multiprocessing's locks count threads that a child does not have; in the child, with `forget`, none do any more. */
static int counts_others(int forget)
{
    static PyObject *util_name, *registry_name;
    if (util_name == NULL) {
        util_name = PyUnicode_InternFromString("multiprocessing.util");
        registry_name = PyUnicode_InternFromString("_afterfork_registry");
    }
    PyObject *util = PyDict_GetItemWithError(g.modules, util_name);
    PyObject *registry = util == NULL || !PyModule_Check(util) ? NULL : plain_attribute(util, registry_name);
    int n = registry == NULL ? 0 : counted_for_others(registry, forget);
    PyErr_Clear();
    return n;
}

static PyObject *before(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    if (g.on && g.unseen) {
        tell_unseen();
    }
    if (!g.on) {
        Py_RETURN_NONE;
    }
    PyThreadState *me = PyThreadState_Get();
    unsigned long ident = PyThread_get_thread_ident();
    if (g.turn == ident && g.armed == ident) {
        disarm(); /* a fork that never came */
    }
    if (!take_turn(ident)) {
        announced = 1;
        Py_RETURN_NONE;
    }
    g.forks++;
    g.polls = 0;
    g.waited = 0;
    g.outcome = OUTCOME_CLEAR;
    g.clean = 1;
    g.n_held = 0;
    forget_report();

    PyInterpreterState *interpreter = PyThreadState_GetInterpreter(me);
    PyThreadState *head = PyInterpreterState_ThreadHead(interpreter);
    if (head == me && PyThreadState_Next(head) == NULL) {
        g.look.n = g.look.n_waiters = g.look.threads = g.look.workers = g.look.news = 0;
        find_news(me);
        int tell = g.report_all || g.pools != NULL || buffers_watched();
        keep_hooks(interpreter, tell, tell || g.pools_expected || watch_is_on());
        g.armed = ident;
        Py_RETURN_NONE;
    }
    if (g.policy != POLICY_OBSERVE && refresh_is_due() && call_python(g.refresh, NULL, "refresh") < 0) {
        g.turn = 0;
        Py_RETURN_NONE;
    }
    follow_foreign();
    if (g.policy == POLICY_OBSERVE) {
        /* PyOS_BeforeFork would take the import lock after us and wait for it while others move on; taken here, the look
         * is of the instant at which the fork happens. No Python code from here to there. */
        if (lock_imports() < 0) {
            g.turn = 0;
            Py_RETURN_NONE;
        }
        resolve_awaited();
        look_unless_still(&g.look, me);
        look_for_unseen(me, SEARCH_LIMIT);
        g.polls = 1;
        if (anything_matters()) {
            find_held(me);
            g.left = at_risk();
            g.outcome = OUTCOME_OBSERVED;
        }
    }
    else {
        for (int i = 0;; i++) {
            if (lock_imports() < 0) {
                g.turn = 0;
                Py_RETURN_NONE;
            }
            look_unless_still(&g.look, me);
            look_for_unseen(me, SEARCH_LIMIT);
            if (i == 3 || anything_matters() || !refresh_is_due()) {
                break;
            }
            /* To take the import lock may have let the GIL go: an import that ended then may be in the catalogue, and at work. */
            unlock_imports();
            if (call_python(g.refresh, NULL, "refresh") < 0) {
                g.turn = 0;
                Py_RETURN_NONE;
            }
        }
        g.polls = 1;
        if (anything_matters()) {
            find_held(me);
        }
        if (anything_matters()) {
            g.seen = step_fails() ? PyErr_NoMemory() : at_risk();
            if (g.seen == NULL) {
                turn_off("look");
            }
            unlock_imports();
            if (g.seen == NULL || call_python(g.consider, g.seen, "consider") < 0) {
                g.turn = 0;
                Py_RETURN_NONE;
            }
            find_held(me);
            settle(me);
            for (int i = 0; i < 3 && refresh_is_due(); i++) {
                /* What was imported while we waited may be in the catalogue, and at work already. */
                double waited = g.waited;
                let_go();
                let_run(NULL);
                unlock_imports();
                release_signals();
                if (call_python(g.refresh, NULL, "refresh") < 0) {
                    g.turn = 0;
                    Py_RETURN_NONE;
                }
                settle(me);
                g.waited += waited;
            }
            find_orphans();
            g.left = at_risk();
        }
        else if (g.look.n) {
            not_mine.n = 0;
            find_orphans();
        }
    }
    PyErr_Clear();
    drop_loose();
    g.clean = g.left == NULL || PyList_GET_SIZE(g.left) == 0;
    find_news(me);
    int tell = something_to_say() || g.report_all || buffers_watched();
    int mend = g.look.workers || (g.policy == POLICY_WAIT && g.repair && (g.look.n || g.look.n_waiters || counts_others(0)));
    g.refresh_due = g.policy == POLICY_OBSERVE && refresh_is_due(); /* once asked, it is not due any more */
    keep_hooks(interpreter, g.on && (tell || g.refresh_due),
               g.on && (tell || mend || g.pools_expected || watch_is_on()));
    g.armed = ident;
    Py_RETURN_NONE;
}

static PyObject *report(void)
{
    return Py_BuildValue("(kOOdiiOOO)", g.forks, g.seen ? g.seen : Py_None, g.left ? g.left : Py_None, g.waited, g.polls,
                         g.outcome, g.clean ? Py_True : Py_False, g.workers ? g.workers : Py_None,
                         g.pools ? g.pools : Py_None);
}

/* What files have in their buffers is in both processes now. */
static void note_buffers(int in_child)
{
    PyObject *argument = g.on ? buffers_at_fork(g.forks, in_child) : NULL;
    if (argument == NULL) {
        return;
    }
    Undisturbed u = undisturbed();
    PyObject *answer = PyObject_Call(buffers_callback(), argument, NULL);
    end_undisturbed(u);
    Py_DECREF(argument);
    if (answer == NULL) {
        turn_off("note_buffers");
        return;
    }
    buffers_answer(answer);
    Py_DECREF(answer);
}

static PyObject *after_parent(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    in_parent(); /* for a fork that came to nothing before it reached the system call */
    note_buffers(0);
    if (g.on && g.refresh_due) {
        g.refresh_due = 0;
        call_python(g.refresh, NULL, "refresh");
    }
    if (g.on && (something_to_say() || g.report_all) && g.after_parent != NULL) {
        PyObject *argument = report();
        forget_report();
        if (argument == NULL) {
            turn_off("report");
        }
        else {
            call_python(g.after_parent, argument, "after_in_parent");
            Py_DECREF(argument);
        }
    }
    Py_RETURN_NONE;
}

/* A Condition still lists the waiters of threads that are gone; notify() would wake one of those instead of a living
 * one. The permits that such threads had of a semaphore come back to nobody else. */
static void mend_queues(void)
{
    static PyObject *waiters_name, *value_name, *remove_name;
    if (waiters_name == NULL) {
        waiters_name = PyUnicode_InternFromString("_waiters");
        value_name = PyUnicode_InternFromString("_value");
        remove_name = PyUnicode_InternFromString("remove");
    }
    /* The newest thread is seen first and waits last in the queue: from the back, each is found at its front. */
    for (int i = g.look.n_waiters; i-- > 0;) {
        PyObject *queue = plain_attribute(g.look.waiters[i].condition, waiters_name);
        if (queue == NULL || strcmp(Py_TYPE(queue)->tp_name, "collections.deque") != 0) {
            continue;
        }
        PyObject *answer = PyObject_CallMethodOneArg(queue, remove_name, g.look.waiters[i].waiter);
        if (answer == NULL) {
            PyErr_Clear(); /* it was notified, and had not gone on yet */
        }
        Py_XDECREF(answer);
    }
    for (int i = 0; i < g.look.n; i++) {
        const Sighting *s = &g.look.items[i];
        int value = s->kind == KIND_SEMAPHORE ? semaphore_value(s->subject) : -1;
        if (value >= 0) {
            PyObject *more = PyLong_FromLong((long)value + 1);
            if (more == NULL || PyObject_GenericSetAttr(s->subject, value_name, more) < 0) {
                PyErr_Clear();
            }
            Py_XDECREF(more);
        }
    }
    g.look.n_waiters = 0;
    counts_others(1);
}

/* What vanished workers had in their variables, for those who mend and explain: before anyone else's callback may use it. */
static void hand_over_workers(void)
{
    PyObject *list = kept_workers();
    PyObject *argument = list == NULL ? NULL : Py_BuildValue("(iN)", 2, list);
    if (argument == NULL) {
        turn_off("child");
        return;
    }
    if (PyList_GET_SIZE(list) && g.on && g.after_child != NULL) {
        call_python(g.after_child, argument, "after_in_child");
    }
    Py_DECREF(argument);
}

static PyObject *child_first(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    if (g.on && g.in_child && g.repair && g.policy == POLICY_WAIT) {
        mend_queues();
    }
    if (g.in_child && g.look.workers) {
        hand_over_workers();
    }
    if (g.in_child) {
        note_buffers(1);
    }
    int left_behind = watch_inherited() || (g.left != NULL && PyList_GET_SIZE(g.left)) || g.look.workers ||
                      g.pools != NULL || g.pools_expected;
    g.pools_expected = 0;
    if (g.on && g.in_child && left_behind && g.after_child != NULL) {
        PyObject *argument = Py_BuildValue("(iN)", 0, report());
        if (argument == NULL) {
            turn_off("child");
        }
        else {
            call_python(g.after_child, argument, "after_in_child");
            Py_DECREF(argument);
        }
    }
    Py_RETURN_NONE;
}

static PyObject *child_last(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    int ours = g.in_child, watched = watch_settle();
    if (g.on && g.unseen) {
        tell_unseen();
    }
    g.in_child = 0;
    g.look.n = 0;
    if (g.on && ours && (watched || something_to_say() || g.report_all) && g.after_child != NULL) {
        PyObject *argument = Py_BuildValue("(iN)", 1, report());
        forget_report();
        if (argument == NULL) {
            turn_off("child");
        }
        else {
            call_python(g.after_child, argument, "after_in_child");
            Py_DECREF(argument);
        }
    }
    Py_RETURN_NONE;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * For Python
 */

static PyObject *call_hook(PyObject *hook, PyObject *const *args, size_t n, PyObject *names)
{
    (void)args;
    (void)n;
    (void)names;
    return ((Hook *)hook)->function(NULL, NULL);
}

static PyObject *name_of_hook(PyObject *hook, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(((Hook *)hook)->name);
}

static PyGetSetDef hook_attributes[] = {{"__name__", name_of_hook, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};

static PyTypeObject hook_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "forkproof._native.hook",
    .tp_basicsize = sizeof(Hook),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_vectorcall_offset = offsetof(Hook, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_getset = hook_attributes,
};

static const Hook new_hooks[] = {
    {PyObject_HEAD_INIT(&hook_type) call_hook, before, "forkproof_before"},
    {PyObject_HEAD_INIT(&hook_type) call_hook, after_parent, "forkproof_after_in_parent"},
    {PyObject_HEAD_INIT(&hook_type) call_hook, child_first, "forkproof_first_in_child"},
    {PyObject_HEAD_INIT(&hook_type) call_hook, child_last, "forkproof_last_in_child"},
};

static PyObject *install(PyObject *module, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"policy", "repair", "wait", "report_all", "refresh", "consider", "after_parent",
                            "after_child", "fault", "warnings", "filter", NULL};
    int policy, repair, report_all;
    double wait;
    PyObject *refresh, *consider, *parent, *child, *fault, *warnings, *filter;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "ipdpOOOOOOO", names, &policy, &repair, &wait, &report_all,
                                     &refresh, &consider, &parent, &child, &fault, &warnings, &filter)) {
        return NULL;
    }
    PyInterpreterState *interpreter = PyInterpreterState_Get();
    take_out(interpreter->before_forkers, g.before_hook);
    take_out(interpreter->after_forkers_parent, g.parent_hook);
    take_out(interpreter->after_forkers_child, g.child_first_hook);
    take_out(interpreter->after_forkers_child, g.child_last_hook);

    PyObject *posix = PyImport_ImportModule("posix");
    PyObject *reg = posix ? PyObject_GetAttrString(posix, "register_at_fork") : NULL;
    Py_XDECREF(posix);
    PyObject *none = PyTuple_New(0);
    PyObject *hooks = Py_BuildValue("{sOsOsO}", "before", g.before_hook, "after_in_parent", g.parent_hook,
                                    "after_in_child", g.child_last_hook);
    PyObject *answer = reg && none && hooks ? PyObject_Call(reg, none, hooks) : NULL;
    Py_XDECREF(reg);
    Py_XDECREF(none);
    Py_XDECREF(hooks);
    if (answer == NULL) {
        return NULL;
    }
    Py_DECREF(answer);
    /* `before` runs in reverse order of registration: the first of the list is the last to run. */
    take_out(interpreter->before_forkers, g.before_hook);
    if (PyList_Insert(interpreter->before_forkers, 0, g.before_hook) < 0) {
        return NULL;
    }
    g.policy = policy;
    g.repair = repair;
    g.wait = wait;
    g.report_all = report_all;
    Py_XSETREF(g.refresh, Py_NewRef(refresh));
    Py_XSETREF(g.consider, Py_NewRef(consider));
    Py_XSETREF(g.after_parent, Py_NewRef(parent));
    Py_XSETREF(g.after_child, Py_NewRef(child));
    Py_XSETREF(g.fault, Py_NewRef(fault));
    Py_XSETREF(g.warnings, Py_NewRef(warnings));
    Py_XSETREF(g.filter, Py_NewRef(filter));
    g.modules_seen = -1;
    g.n_lost = 0;
    g.on = 1;
    Py_RETURN_NONE;
}

static PyObject *uninstall(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    /* A fork under way in another thread still ends as it must: what is armed is disarmed inside fork() itself. */
    PyInterpreterState *interpreter = PyInterpreterState_Get();
    g.on = 0;
    take_out(interpreter->before_forkers, g.before_hook);
    take_out(interpreter->after_forkers_parent, g.parent_hook);
    take_out(interpreter->after_forkers_child, g.child_first_hook);
    take_out(interpreter->after_forkers_child, g.child_last_hook);
    Py_RETURN_NONE;
}

static PyObject *look_now(PyObject *module, PyObject *unused)
{
    static Look l;
    (void)module;
    (void)unused;
    look(&l, PyThreadState_Get());
    if (l.failed) {
        return PyErr_NoMemory();
    }
    return look_as_list(&l);
}

static PyObject *assess(PyObject *module, PyObject *args)
{
    int search = 1;
    (void)module;
    if (!PyArg_ParseTuple(args, "|p", &search)) {
        return NULL;
    }
    PyThreadState *me = PyThreadState_Get();
    if (g.turn != 0) {
        return PyList_New(0); /* asked from inside a fork of another thread: its look is in use */
    }
    follow_foreign();
    look(&g.look, me);
    if (search) {
        unseen.due = 0;
    }
    look_for_unseen(me, search ? SIZE_MAX : SEARCH_LIMIT);
    find_held(me);
    return at_risk();
}

static PyObject *workers_now(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return list_of_workers(PyThreadState_Get(), 1);
}

static PyObject *native_threads_now(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return list_of_native_threads();
}

static PyObject *expect_pools(PyObject *module, PyObject *there)
{
    (void)module;
    g.pools_expected = there == Py_True;
    Py_RETURN_NONE;
}

static PyObject *waiters(PyObject *module, PyObject *unused)
{
    static Look l;
    (void)module;
    (void)unused;
    look(&l, PyThreadState_Get());
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < l.n_waiters; i++) {
        PyObject *item = PyTuple_Pack(2, l.waiters[i].condition, l.waiters[i].waiter);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *set_catalogue(PyObject *module, PyObject *args)
{
    PyObject *calls, *unresolved, *locks, *awaited;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!O!O!", &PyDict_Type, &calls, &PyList_Type, &unresolved, &PyList_Type, &locks,
                          &PyTuple_Type, &awaited)) {
        return NULL;
    }
    Py_XSETREF(g.locks, Py_NewRef(locks));
    Py_XSETREF(g.calls, Py_NewRef(calls));
    Py_XSETREF(g.unresolved, Py_NewRef(unresolved));
    Py_XSETREF(g.awaited, Py_NewRef(awaited));
    g.modules_resolved = -1;
    g.look.firm = 0;
    if (set_calls(calls) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *set_semaphore(PyObject *module, PyObject *type)
{
    (void)module;
    if (!PyType_Check(type)) {
        PyErr_SetString(PyExc_TypeError, "a class is needed");
        return NULL;
    }
    Py_XSETREF(semaphore_type, (PyTypeObject *)Py_NewRef(type));
    forget_types();
    g.look.firm = 0;
    Py_RETURN_NONE;
}

static PyObject *add_foreign(PyObject *module, PyObject *args)
{
    PyObject *object, *marker, *path;
    (void)module;
    if (!PyArg_ParseTuple(args, "OUO!", &object, &marker, &PyTuple_Type, &path)) {
        return NULL;
    }
    PyObject *id = PyLong_FromVoidPtr(object);
    if (id == NULL || PyDict_SetItem(foreign_locks, id, args) < 0) {
        Py_XDECREF(id);
        return NULL;
    }
    Py_DECREF(id);
    g.look.firm = 0;
    Py_RETURN_NONE;
}

static PyObject *drop_foreign(PyObject *module, PyObject *lock)
{
    (void)module;
    PyObject *id = PyLong_FromVoidPtr(lock);
    if (id == NULL || (PyDict_DelItem(foreign_locks, id) < 0 && !PyErr_ExceptionMatches(PyExc_KeyError))) {
        Py_XDECREF(id);
        return NULL;
    }
    PyErr_Clear();
    Py_DECREF(id);
    Py_RETURN_NONE;
}

static PyObject *set_judged(PyObject *module, PyObject *judged)
{
    if (!PyDict_CheckExact(judged)) {
        PyErr_SetString(PyExc_TypeError, "set_judged needs a dict");
        return NULL;
    }
    Py_XSETREF(g.judged, Py_NewRef(judged));
    Py_RETURN_NONE;
}

static PyObject *set_exempt(PyObject *module, PyObject *exempt)
{
    (void)module;
    if (!PyDict_CheckExact(exempt)) {
        PyErr_SetString(PyExc_TypeError, "a dict is needed");
        return NULL;
    }
    Py_XSETREF(g.exempt, Py_NewRef(exempt));
    Py_RETURN_NONE;
}

/* Stands for the message in a warnings filter: hides a blanket warning about a fork that nothing was at risk at. `warnings`
 * asks anew at each warning, so one filter can decide every time; in C, because it is asked at every fork. */
typedef struct {
    PyObject_HEAD
    PyObject *contains; /* tuple of texts */
    int in_child;       /* it is issued there, and the fork that counts is the one that made this process */
} ForkWarning;

static PyObject *fork_warning_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *contains;
    int in_child;
    if (!PyArg_ParseTuple(args, "O!p", &PyTuple_Type, &contains, &in_child)) {
        return NULL;
    }
    ForkWarning *self = (ForkWarning *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->contains = Py_NewRef(contains);
        self->in_child = in_child;
    }
    return (PyObject *)self;
}

static void fork_warning_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(((ForkWarning *)self)->contains);
    type->tp_free(self);
    Py_DECREF(type);
}

/* CPython 3.12 warns in the parent while it still has the import lock that it took for the fork (Modules/posixmodule.c
 * os_fork_impl(); not so from 3.13 on), and a warning that is shown imports `linecache`, whose `tokenize` imports `re`. A
 * thread that was inside one of those imports waits for the import lock, and the parent for the thread: for ever. So they are
 * imported with the lock let go, which is had again before anything goes on. */
static int import_what_warnings_show_with(void)
{
#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030D0000
    PyObject *modules = PyImport_GetModuleDict();
    if (PyDict_GetItemString(modules, "linecache") != NULL && PyDict_GetItemString(modules, "tokenize") != NULL) {
        return 0;
    }
    int levels = 0;
    PyObject *answer;
    while ((answer = g.release_import_lock(g.imp, NULL)) != NULL) {
        Py_DECREF(answer);
        levels++;
    }
    PyErr_Clear(); /* no longer this thread's */
    if (levels == 0) {
        return 0;
    }
    Py_XDECREF(PyImport_ImportModule("linecache"));
    if (PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear(); /* who shows the warning meets it again, and says so */
    }
    PyObject *interrupt = PyErr_GetRaisedException();
    while (levels-- > 0) {
        Py_XDECREF(g.acquire_import_lock(g.imp, NULL));
    }
    PyErr_SetRaisedException(interrupt);
    return interrupt == NULL ? 0 : -1;
#else
    return 0;
#endif
}

static PyObject *match(PyObject *object, PyObject *text)
{
    ForkWarning *self = (ForkWarning *)object;
    int meant = PyUnicode_Check(text);
    for (Py_ssize_t i = 0; meant && i < PyTuple_GET_SIZE(self->contains); i++) {
        meant = PyUnicode_Contains(text, PyTuple_GET_ITEM(self->contains, i)) == 1;
    }
    PyErr_Clear();
    int hidden = meant && g.on && (self->in_child ? g.born == BORN_CLEAN : g.clean);
    if (meant && !hidden && !self->in_child && import_what_warnings_show_with() < 0) {
        return NULL;
    }
    return PyBool_FromLong(hidden);
}

/* Whoever copies the filters to another process (joblib) takes them for regular expressions. What is hidden is decided by the
 * forks of this process, so in another one nothing is. */
static PyObject *pattern(PyObject *self, void *unused)
{
    (void)self;
    (void)unused;
    return PyUnicode_FromString("(?!)");
}

static PyGetSetDef fork_warning_attributes[] = {{"pattern", pattern, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyMethodDef fork_warning_methods[] = {{"match", match, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static PyType_Slot fork_warning_slots[] = {
    {Py_tp_methods, fork_warning_methods},
    {Py_tp_getset, fork_warning_attributes},
    {Py_tp_new, fork_warning_new},
    {Py_tp_dealloc, fork_warning_dealloc},
    {0, NULL},
};
static PyType_Spec fork_warning = {
    .name = "forkproof._native.ForkWarning", .basicsize = sizeof(ForkWarning), .flags = Py_TPFLAGS_DEFAULT,
    .slots = fork_warning_slots,
};

static PyObject *enter_warnings(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyBool_FromLong(try_warnings());
}

static PyObject *leave_warnings(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    give_back_warnings();
    Py_RETURN_NONE;
}

static PyObject *last_clean(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyBool_FromLong(g.on && g.clean);
}

static PyObject *unseen_threads(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    int threads = g.unseen;
    g.unseen = 0;
    return PyLong_FromLong(threads);
}

static PyObject *forks(PyObject *module, PyObject *args)
{
    (void)module;
    if (!PyArg_ParseTuple(args, "|k", &g.forks)) {
        return NULL;
    }
    return PyLong_FromUnsignedLong(g.forks);
}

static PyObject *fail_at(PyObject *module, PyObject *number)
{
    (void)module;
    g.fail_at = (int)PyLong_AsLong(number);
    g.step = 0;
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *expression(PyObject *module, PyObject *args)
{
    PyCodeObject *code;
    int offset;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!i", &PyCode_Type, &code, &offset)) {
        return NULL;
    }
    PyObject *text = expression_text(code, offset / 2);
    if (text == NULL) {
        Py_RETURN_NONE;
    }
    return text;
}

/* What others run in a child, in order. */
static PyObject *child_callbacks(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *list = PyInterpreterState_Get()->after_forkers_child;
    PyObject *copy = PyList_New(0);
    for (Py_ssize_t i = 0; copy != NULL && list != NULL && i < PyList_GET_SIZE(list); i++) {
        PyObject *callback = PyList_GET_ITEM(list, i);
        if (callback != g.child_first_hook && callback != g.child_last_hook && PyList_Append(copy, callback) < 0) {
            Py_CLEAR(copy);
        }
    }
    return copy;
}

static PyObject *code_units(PyObject *module, PyObject *code)
{
    (void)module;
    if (!PyCode_Check(code)) {
        PyErr_SetString(PyExc_TypeError, "a code object is needed");
        return NULL;
    }
    const CodeInfo *info = code_info((PyCodeObject *)code);
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < info->n_units; i++) {
        const Unit *u = &info->units[i];
        int slot = u->with ? info->regions[u->with].slot : -1;
        PyObject *item = Py_BuildValue("(iii)", u->back ? -2 : u->depth, slot, (int)u->pending);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

PyMethodDef guard_methods[] = {
    {"install", (PyCFunction)(void (*)(void))install, METH_VARARGS | METH_KEYWORDS, NULL},
    {"uninstall", uninstall, METH_NOARGS, NULL},
    {"look", look_now, METH_NOARGS, NULL},
    {"assess", assess, METH_VARARGS, NULL},
    {"waiters", waiters, METH_NOARGS, NULL},
    {"set_calls", set_catalogue, METH_VARARGS, NULL},
    {"set_workers", set_workers, METH_O, NULL},
    {"workers", workers_now, METH_NOARGS, NULL},
    {"variables_of", variables_of, METH_VARARGS, NULL},
    {"users_of", users_of, METH_O, NULL},
    {"expect_pools", expect_pools, METH_O, NULL},
    {"watchdog_was_reset", watchdog_was_reset, METH_NOARGS, NULL},
    {"native_threads", native_threads_now, METH_NOARGS, NULL},
    {"libraries_of_thread", libraries_of_thread, METH_O, NULL},
    {"set_semaphore", set_semaphore, METH_O, NULL},
    {"add_foreign", add_foreign, METH_VARARGS, NULL},
    {"drop_foreign", drop_foreign, METH_O, NULL},
    {"set_exempt", set_exempt, METH_O, NULL},
    {"set_judged", set_judged, METH_O, NULL},
    {"last_clean", last_clean, METH_NOARGS, NULL},
    {"enter_warnings", enter_warnings, METH_NOARGS, NULL},
    {"leave_warnings", leave_warnings, METH_NOARGS, NULL},
    {"probe_buffered", probe_buffered, METH_O, NULL},
    {"expression", expression, METH_VARARGS, NULL},
    {"child_callbacks", child_callbacks, METH_NOARGS, NULL},
    {"code_units", code_units, METH_O, NULL},
    {"forks", forks, METH_VARARGS, NULL},
    {"unseen", unseen_threads, METH_NOARGS, NULL},
    {"follow_exec", follow_exec, METH_O, NULL},
    {"watch_connections", watch_connections, METH_VARARGS, NULL},
    {"inherited_connections", inherited_connections, METH_NOARGS, NULL},
    {"watch_buffers", watch_buffers, METH_VARARGS, NULL},
    {"buffer_state", buffer_state, METH_O, NULL},
    {"lead_exit", lead_exit, METH_NOARGS, NULL},
    {"count_writer", count_writer, METH_VARARGS, NULL},
    {"environment", environment, METH_NOARGS, NULL},
    {"fail_at", fail_at, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

/* The C function behind a built-in function of a module that takes no arguments. */
static PyCFunction without_arguments(PyObject *module, const char *name)
{
    PyObject *function = PyObject_GetAttrString(module, name);
    PyCFunction found = NULL;
    if (function != NULL && PyCFunction_Check(function) && PyCFunction_GET_FLAGS(function) == METH_NOARGS) {
        found = PyCFunction_GET_FUNCTION(function);
    }
    else if (function != NULL) {
        PyErr_Format(PyExc_ImportError, "_imp.%s is not the interpreter's own", name);
    }
    Py_XDECREF(function);
    return found;
}

int guard_init(PyObject *module)
{
    static int registered;
    PyObject *type = PyType_FromSpec(&fork_warning);
    int added = type == NULL ? -1 : PyModule_AddObjectRef(module, "ForkWarning", type);
    Py_XDECREF(type);
    if (added < 0) {
        return -1;
    }
    PyObject *imp = PyImport_ImportModule("_imp");
    if (imp == NULL) {
        return -1;
    }
    g.imp = imp;
    g.acquire_import_lock = without_arguments(imp, "acquire_lock");
    g.release_import_lock = without_arguments(imp, "release_lock");
    g.modules = Py_XNewRef(PySys_GetObject("modules"));
    if (g.acquire_import_lock == NULL || g.release_import_lock == NULL) {
        return -1;
    }
    if (g.modules == NULL || !PyDict_CheckExact(g.modules)) {
        PyErr_SetString(PyExc_ImportError, "sys.modules is not a dict");
        return -1;
    }
    if (g.before_hook == NULL) {
        if (PyType_Ready(&hook_type) < 0) {
            return -1;
        }
        memcpy(g.hooks, new_hooks, sizeof(new_hooks));
        PyObject **names[] = {&g.before_hook, &g.parent_hook, &g.child_first_hook, &g.child_last_hook};
        for (size_t i = 0; i < Py_ARRAY_LENGTH(names); i++) {
            *names[i] = (PyObject *)&g.hooks[i];
        }
    }
    g.random = (uint32_t)(monotonic() * 1e9) | 1;
    g.look.waiters = g.first_waiters;
    g.look.room_waiters = (int)Py_ARRAY_LENGTH(g.first_waiters);
    g.look.lent = 1;
    static AtWork at_work[256];
    g.look.at_work = at_work;
    g.look.room_at_work = (int)Py_ARRAY_LENGTH(at_work);
    if (!registered) {
        registered = 1;
        if (pthread_atfork(NULL, in_parent, in_child) != 0) {
            PyErr_SetString(PyExc_ImportError, "pthread_atfork failed");
            return -1;
        }
    }
    return 0;
}

#endif
