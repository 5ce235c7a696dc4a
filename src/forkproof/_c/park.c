/* Stopping other threads between two instructions.
 *
 * A thread that makes one native call after the other lets the GIL go inside of them, so whoever looks meets it inside,
 * at every look. It is outside only between the GIL's return and its next call: about a microsecond, which no polling
 * meets. So it is asked to stop there: by a pending call, which the interpreter makes between two instructions of
 * whichever thread has the GIL next (3.12 on; before, pending calls are the main thread's), or by a trace function that
 * takes itself out (3.11). In there the thread looks at itself: in the middle of something that the fork waits for it goes on
 * to where it can stop next, and costs nobody a turn of the processor; else it lets the GIL go and sleeps until the fork
 * is over.
 *
 * Guarantees: a thread is never stopped for longer than LIMIT, whatever becomes of the fork; one that has a trace or
 * profile function of its own is not touched (3.11); what was asked for and not met does nothing when it is met later.
 */
#include "park.h"
#include "locks.h"
#include "task.h"
#include <errno.h>
#include <time.h>

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

#define LIMIT 3.0 /* seconds */
#define MAX_PARKED 64

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t stopped, go;
    int used;                  /* the mutex, by anybody, in this process */
    int asked;                 /* how many threads are asked: the first that comes by is to stop */
    PyThreadState *whom[MAX_PARKED]; /* compared by address only */
    int (*may_stop)(PyThreadState *);
    int n;
    PyThreadState *threads[MAX_PARKED];
} p;

static void fresh(void)
{
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&p.mutex, NULL);
    pthread_cond_init(&p.stopped, &clock);
    pthread_cond_init(&p.go, &clock);
    pthread_condattr_destroy(&clock);
    p.used = p.asked = p.n = 0;
}

/* With the mutex held, as the next one. */
static int listed(PyThreadState *thread)
{
    for (int i = 0; i < p.n; i++) {
        if (p.threads[i] == thread) {
            return i + 1;
        }
    }
    return 0;
}

static void strike_out(PyThreadState *thread)
{
    int at = listed(thread);
    if (at) {
        p.threads[at - 1] = p.threads[--p.n];
    }
}

/* -> 0 when the time is up. */
static int wait_until(pthread_cond_t *condition, double end)
{
    struct timespec time = {(time_t)end, (long)((end - (double)(time_t)end) * 1e9)};
    return pthread_cond_timedwait(condition, &p.mutex, &time) != ETIMEDOUT;
}

static int is_asked(PyThreadState *thread)
{
    for (int i = 0; i < p.asked; i++) {
        if (p.whom[i] == thread) {
            return 1;
        }
    }
    return 0;
}

/* -> 0 when it is to be asked again where it, or the next one, comes next. */
static int park(PyThreadState *thread)
{
    if (p.asked && !(is_asked(thread) && p.may_stop(thread))) {
        return 0;
    }
    double end = monotonic() + LIMIT;
    pthread_mutex_lock(&p.mutex);
    int stops = p.asked && p.n < MAX_PARKED;
    if (stops) {
        p.asked = 0;
        p.threads[p.n++] = thread;
    }
    pthread_mutex_unlock(&p.mutex);
    if (!stops) {
        return 1;
    }
    PyEval_SaveThread();
    pthread_mutex_lock(&p.mutex);
    pthread_cond_signal(&p.stopped);
    while (listed(thread) && wait_until(&p.go, end)) {
    }
    strike_out(thread);
    pthread_mutex_unlock(&p.mutex);
    PyEval_RestoreThread(thread);
    return 1;
}

#if PY_AT_LEAST(3, 12)

#define REPEATS 100 /* a call that asks for itself again is made as often, at most, before the thread goes on */

static int queued; /* the queue is short, and the program's too */

static int pending_call(void *unused);

static void queue_call(PyThreadState *thread)
{
    queued = queued || _PyEval_AddPendingCall(thread->interp, pending_call, NULL, 0) == 0;
}

static int pending_call(void *unused)
{
    (void)unused;
    queued = 0;
    static const Frame *last;
    static int last_unit, repeats;
    PyThreadState *thread = PyThreadState_Get();
    const Frame *top = thread_top(thread);
    PyCodeObject *code = top == NULL || frame_is_shim(top) ? NULL : frame_code((Frame *)top);
    int unit = code == NULL ? -1 : frame_unit((Frame *)top, code);
    int same = top == last && unit == last_unit && ++repeats % REPEATS;
    last = top;
    last_unit = unit;
    if ((same && p.asked) || !park(thread)) {
        queue_call(thread);
    }
    return 0;
}

int can_be_stopped(PyThreadState *thread)
{
    (void)thread;
    return 1;
}

static void ask(PyThreadState *me, PyThreadState **threads, int n)
{
    (void)threads;
    (void)n;
    queue_call(me);
}

/* A thread that is parked is in the middle of its pending calls. The next one, and a child, could else make none. */
static void asked_enough(PyThreadState *me)
{
#if PY_AT_LEAST(3, 13)
    me->interp->ceval.pending.handling_thread = NULL;
#else
    me->interp->ceval.pending.busy = 0;
#endif
}

#else

static void trace(PyThreadState *thread, Py_tracefunc function)
{
    thread->c_tracefunc = function;
    thread->cframe->use_tracing = function != NULL ? 255 : 0;
}

static int stop_here(PyObject *unused, PyFrameObject *frame, int what, PyObject *argument)
{
    (void)unused;
    (void)argument;
    /* A frame that is left has its stack freed already; one where an exception is raised, or that goes on with what it delegates
     * to, does not tell what it has there. */
    int begins = what == PyTrace_CALL && _Py_OPARG(*frame->f_frame->prev_instr) < 2; /* RESUME of no `yield from`, no `await` */
    if (!begins && what != PyTrace_LINE) {
        return 0;
    }
    PyThreadState *thread = PyThreadState_Get();
    thread->c_tracefunc = NULL; /* the interpreter works use_tracing out anew when we return */
    if (!park(thread)) {
        thread->c_tracefunc = stop_here;
    }
    return 0;
}

int can_be_stopped(PyThreadState *thread)
{
    return (thread->c_tracefunc == NULL || thread->c_tracefunc == stop_here) && thread->c_profilefunc == NULL &&
           !thread->tracing;
}

static void ask(PyThreadState *me, PyThreadState **threads, int n)
{
    (void)me;
    for (int i = 0; i < n; i++) {
        if (can_be_stopped(threads[i])) {
            trace(threads[i], stop_here);
        }
    }
}

static void asked_enough(PyThreadState *me)
{
    for (PyThreadState *ts = PyInterpreterState_ThreadHead(me->interp); ts != NULL; ts = PyThreadState_Next(ts)) {
        if (ts->c_tracefunc == stop_here) {
            trace(ts, NULL);
        }
    }
}

#endif

/* On a busy machine a thread stands in the queue for a processor for many milliseconds: what it has had of one tells whether
 * it has come by, and no clock does. One that sleeps, and not for the GIL, has. */
static int may_yet_come(const struct _gil_runtime_state *gil, unsigned long id, int64_t ran, int64_t chance)
{
    int64_t since = processor_time(id) - ran;
    Blocked blocked;
    return ran >= 0 && since >= 0 && since < chance &&
           (blocked_in(id, &blocked) != 1 || (blocked.futex && is_gil(gil, blocked.arguments[0])));
}

void stop_one(PyThreadState *me, PyThreadState **threads, int n, int (*may_stop)(PyThreadState *), double chance, double limit)
{
    unsigned long ids[MAX_PARKED];
    int64_t ran[MAX_PARKED];
    double end = monotonic() + limit;
    const struct _gil_runtime_state *gil = the_gil();
    n = n < MAX_PARKED ? n : MAX_PARKED;
    for (int i = 0; i < n; i++) {
        ids[i] = (unsigned long)threads[i]->native_thread_id; /* they may end while the GIL is not ours */
        ran[i] = processor_time(ids[i]);
    }
    p.used = 1;
    pthread_mutex_lock(&p.mutex);
    p.asked = p.n < MAX_PARKED ? n : 0;
    memcpy(p.whom, threads, sizeof(p.whom[0]) * (size_t)n);
    p.may_stop = may_stop;
    pthread_mutex_unlock(&p.mutex);
    ask(me, threads, n);
    PyEval_SaveThread();
    pthread_mutex_lock(&p.mutex);
    for (int waits = 1; p.asked && waits;) {
        double now = monotonic();
        wait_until(&p.stopped, Py_MIN(end, now + chance));
        waits = 0;
        for (int i = 0; now < end && i < n; i++) {
            waits |= may_yet_come(gil, ids[i], ran[i], (int64_t)(chance * 1e9));
        }
    }
    p.asked = 0;
    pthread_mutex_unlock(&p.mutex);
    PyEval_RestoreThread(me);
    asked_enough(me);
}

int is_parked(PyThreadState *thread)
{
    if (!p.used) {
        return 0;
    }
    pthread_mutex_lock(&p.mutex);
    int found = listed(thread) != 0;
    pthread_mutex_unlock(&p.mutex);
    return found;
}

void let_run(PyThreadState *thread)
{
    if (!p.used) {
        return; /* at most forks: to lock the mutex would cost a copy of the page that it is in */
    }
    pthread_mutex_lock(&p.mutex);
    if (thread != NULL) {
        strike_out(thread);
    }
    else {
        p.asked = p.n = 0;
    }
    pthread_cond_broadcast(&p.go);
    pthread_mutex_unlock(&p.mutex);
}

void forget_parked(void)
{
    if (p.used) {
        fresh();
    }
}

int park_init(void)
{
    fresh();
    return 0;
}

#endif
