/* The state that a fork is wrapped in: what is owned, held back, switched off, and how all of that ends in parent and child.
 *
 * What was owned is let go of in pthread_atfork handlers, that is inside fork() itself: in the parent before CPython can
 * run any code (it warns about threads there), in the child before PyOS_AfterFork_Child, which runs finalizers of the
 * vanished threads' locals. They are armed by `before` for one fork of one thread and do nothing for any other.
 */
#include "forking.h"
#include "connections.h"
#include "watchdog.h"
#include "workers.h"
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

Forking g;
ThisFork *this_fork;
static _Thread_local ThisFork of_main_thread;

/* The main thread's own variables lie beside the C library's description of that thread, to which every fork of it writes, and stay
 * there when it has ended, and in the child of another thread's fork. (So they do where the C library has room for them there, for
 * which setup.py asks it: else, and elsewhere, it is a page of its own that is written to, as good as any.) Once, and by a pointer:
 * what is found out here is not asked for again. */
__attribute__((noinline)) void place_this_fork(void)
{
    static ThisFork of_nobody;
    this_fork = &of_nobody;
#ifdef __linux__
    if (syscall(SYS_gettid) == getpid()) {
        this_fork = &of_main_thread;
    }
#endif
}

_Thread_local int announced;

int step_fails(void)
{
    return g.fail_at && ++g.step == g.fail_at;
}

#define HEADROOM 100 /* Python frames for code of ours, at whatever depth the program forks */

/* Python code of ours is a part of fork(), which nothing of the program's interrupts: no signal handler runs in it (its exception
 * would be ours; it runs, and raises, when fork() has returned), no trace or profile function sees it, and it is not cut short
 * by the recursion limit. Only the main thread runs handlers, and while that is here nobody else asks who it is. */
Undisturbed undisturbed(void)
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

void end_undisturbed(Undisturbed u)
{
    PyThreadState_LeaveTracing(u.thread);
    *recursion_room(u.thread) -= HEADROOM;
    if (u.main) {
        *main_thread() = u.main;
        ask_for_signals(u.thread);
    }
}

void turn_off(const char *where)
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

uint32_t random_bits(void)
{
    g.random ^= g.random << 13;
    g.random ^= g.random >> 17;
    g.random ^= g.random << 5;
    return g.random;
}

int call_python(PyObject *function, PyObject *argument, const char *where)
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

int lock_imports(void)
{
#if PY_AT_LEAST(3, 12)
    PyObject *answer = g.acquire_import_lock(g.imp, NULL);
    if (answer == NULL) {
        PyErr_Clear();
        return -1;
    }
    Py_DECREF(answer);
#else
    _PyImport_AcquireLock(); /* it returns no None, whose references are counted in a page that a fork does not write to */
#endif
    this_fork->import_locked = 1;
    return 0;
}

void unlock_imports(void)
{
    if (!this_fork->import_locked) {
        return;
    }
    this_fork->import_locked = 0;
#if PY_AT_LEAST(3, 12)
    PyObject *answer = g.release_import_lock(g.imp, NULL);
    if (answer == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(answer);
#else
    _PyImport_ReleaseLock();
#endif
}

void hold_signals(void)
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

void release_signals(void)
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

void let_go(void)
{
    while (g.n_owned) {
        Owned *o = &g.owned[--g.n_owned];
        give_back(o->object, o->kind);
        Py_DECREF(o->object);
    }
}

/* Ends the fork in the parent, or the attempt at one. */
void disarm(void)
{
    let_go();
    let_run(NULL);
    unlock_imports();
    this_fork->armed = 0;
    this_fork->turn = 0;
    release_signals();
}

void in_parent(void)
{
    if (announced) {
        announced = 0; /* its page is not written to for nothing */
    }
    if (this_fork->armed && this_fork->armed == PyThread_get_thread_ident()) {
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

void in_child(void)
{
    int watched = this_fork->armed && this_fork->armed == PyThread_get_thread_ident();
    g.born = watched && this_fork->clean && g.born != BORN_AT_RISK ? BORN_CLEAN : BORN_AT_RISK;
    g.look.firm = 0; /* the threads that it is about are gone */
    connections_in_child(watched && g.on ? this_fork->forks : 0);
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
    if (g.look.workers && this_fork->child_hooked) {
        keep_workers(&g.look);
    }
    g.pools_known = g.pools_vain = 0;
    g.pools_next = 0;
    unlock_imports();
    this_fork->armed = 0;
    this_fork->turn = 0;
    g.n_waiting = 0;
    g.in_child = this_fork->child_hooked;
    unseen.inherited |= g.look.threads > 0;
    release_signals();
}

#endif
