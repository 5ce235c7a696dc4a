/* The watch: a thread in a child of a fork at risk that sleeps, and every now and then looks where the others stand.
 *
 * It is a bare pthread with a thread state and no threading.Thread: nothing in the program can see it by Python's means,
 * and it takes no lock of the program's. Each look holds the GIL from beginning to end and runs no Python code; only when a
 * thread has waited for the same thing for `hang_after` seconds is Python asked (forkproof/watch.py) what that means, and again
 * after twice, four times as long: what could not be told at first may have become clear.
 *
 * Two clocks are kept for each thread. *since*: it has been seen waiting for the same object at every look; a wait with a
 * time-out that is taken up again counts. *still*: it has not run at all, by its own processor clock; that is what makes
 * "nothing here can ever wake it" a proof.
 *
 * Guarantees: the fork in the child ends only when the watch is ready (usually at once, after a second without it), so
 * that no thread state is made while the interpreter may be ending; signals are never delivered to it; at the end of the interpreter it goes as a daemon
 * thread does; it does not survive a fork, and is stopped by `watch_stop`.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "watch.h"
#include "task.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

#define STACK_SIZE (1 << 20)
#define MOST_THREADS 4096

/* What one thread waits for. */
typedef struct {
    uint64_t thread;    /* PyThreadState.id */
    Kind kind;          /* KIND_NONE: not known; then `position` and the processor clock say whether it has moved */
    PyObject *subject;  /* compared by address only */
    uint64_t position;
    double since, still;
    double due;         /* seconds of `since` at which Python is asked (again): hang_after, and twice as many each time */
    int64_t ran;        /* processor time of the thread, in nanoseconds; -1 unknown */
    int looks;
    unsigned seen : 1, missed : 1, reported : 1;
} Wait;

typedef struct {
    PyInterpreterState *interpreter;
    PyThreadState *state;
    PyObject *judge;
    PyObject *locks;    /* list of locks that vanished threads held; one that is seen free is taken out */
    double hang_after, every;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    sem_t ready;
    int stop;
    int asked_closed;   /* all threads stand still, and that was said */
    Wait *waits;
    int n, room;
} Watch;

static Watch *current;  /* changed with the GIL held only */
static int inherited;

static int is_finalizing(void)
{
#if PY_AT_LEAST(3, 13)
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

/* ---------------------------------------------------------------------------------------------------------------------
 * What the system says of a thread
 */

typedef struct {
    uintptr_t address;
    unsigned int expected; /* the value of the word while which the thread sleeps */
    int forever;
} Futex;

/* -> 1 when the thread sleeps on a futex, 0 when it does not, -1 where that cannot be known. */
static int sleeps_on(unsigned long native_id, Futex *futex)
{
#if defined(__x86_64__) || defined(__aarch64__) /* whose mutexes the next function knows */
    Blocked blocked;
    int known = blocked_in(native_id, &blocked);
    const unsigned long *a = blocked.arguments;
    unsigned long operation = a[1] & 0x7f;
    if (known != 1 || !blocked.futex || (operation != 0 && operation != 9)) { /* FUTEX_WAIT, FUTEX_WAIT_BITSET */
        return known < 0 ? -1 : 0;
    }
    *futex = (Futex){a[0], (unsigned int)a[2], a[3] == 0};
    return 1;
#else
    (void)native_id;
    (void)futex;
    return -1;
#endif
}

/* -> None, or (for ever, thread id of the owner as a glibc mutex at that address would have it, 0 where it is not one; the
 * address). */
static PyObject *futex_of(PyObject *module, PyObject *argument)
{
    (void)module;
    unsigned long native_id = PyLong_AsUnsignedLong(argument);
    Futex futex;
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (sleeps_on(native_id, &futex) != 1) {
        Py_RETURN_NONE;
    }
    int owner = 0;
#ifdef __linux__
    /* pthread_mutex_t: int __lock; unsigned __count; int __owner; unsigned __nusers; int __kind. Read by way of the system,
     * which answers with an error for memory that is not there. A waiter has made __lock 2 and waits while it is. */
    int words[5] = {0};
    struct iovec to = {words, sizeof(words)}, from = {(void *)futex.address, sizeof(words)};
    if (futex.expected == 2 && process_vm_readv(getpid(), &to, 1, &from, 1, 0) == (ssize_t)sizeof(words) &&
        words[0] == 2 && words[3] > 0 && (words[4] & 0x7f) < 4) {
        owner = words[2];
    }
#endif
    return Py_BuildValue("(OiK)", futex.forever ? Py_True : Py_False, owner, (unsigned long long)futex.address);
}

/* Threads of this process; 0 where that cannot be known. */
static PyObject *count_threads(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    char text[1024];
    long threads = 0;
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (fd >= 0) {
        close(fd);
    }
    if (size > 0) {
        text[size] = '\0';
        const char *rest = strrchr(text, ')'); /* the name may have any character in it */
        if (rest == NULL ||
            sscanf(rest, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld", &threads) != 1) {
            threads = 0;
        }
    }
    return PyLong_FromLong(threads);
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Whether a lock is taken
 */

/* A thread that has waited for a lock gets it without the GIL, and says so (`locked()`, the owner of an RLock) only when it
 * has the GIL again. If it vanished in between, the lock says for ever that it is free. Up to 3.13 a lock is a semaphore
 * of the system's, and that knows; the pointer to it is the first word of both objects, which is probed. From 3.14 on
 * locked() tells of both. */
static int is_semaphore[2]; /* Lock, RLock */
static PyObject *rlock_locked;

#if defined(__GLIBC__) && !PY_AT_LEAST(3, 14)
static int semaphore_of(PyObject *lock, int *value)
{
    uintptr_t pointer = *(uintptr_t *)(lock + 1);
    return pointer > 65536 && pointer % _Alignof(sem_t) == 0 && sem_getvalue((sem_t *)pointer, value) == 0;
}
#endif

/* The address at which a thread sleeps that waits for this Lock or RLock, in compiled code too; 0 where that is not known.
 * glibc's semaphore begins with the word that it sleeps on (nptl/sem_waitcommon.c, little-endian 64-bit). */
static PyObject *address_of_lock(PyObject *module, PyObject *lock)
{
    (void)module;
    uintptr_t address = 0;
#if defined(__GLIBC__) && !PY_AT_LEAST(3, 14)
    int value;
    if ((Py_IS_TYPE(lock, lock_type) || Py_IS_TYPE(lock, rlock_type)) && is_semaphore[Py_IS_TYPE(lock, rlock_type)] &&
        semaphore_of(lock, &value)) {
        address = *(uintptr_t *)(lock + 1);
    }
#endif
    return PyLong_FromUnsignedLongLong(address);
}

static int is_taken(PyObject *lock)
{
    int recursive = Py_IS_TYPE(lock, rlock_type);
#if defined(__GLIBC__) && !PY_AT_LEAST(3, 14)
    int value;
    if (is_semaphore[recursive] && semaphore_of(lock, &value)) {
        return value <= 0;
    }
#endif
    if (recursive && rlock_locked != NULL) {
        PyObject *answer = PyObject_CallOneArg(rlock_locked, lock);
        int taken = answer == Py_True;
        PyErr_Clear();
        Py_XDECREF(answer);
        return taken;
    }
    return is_locked(lock);
}

static void probe_semaphores(void)
{
#if defined(__GLIBC__) && !PY_AT_LEAST(3, 14)
    PyObject *thread = PyImport_ImportModule("_thread");
    static const char *const makers[] = {"allocate_lock", "RLock"};
    for (int i = 0; i < 2 && thread != NULL; i++) {
        PyObject *lock = PyObject_CallMethod(thread, makers[i], NULL);
        int before = -1, during = -1, after = -1;
        if (lock != NULL && semaphore_of(lock, &before) && before == 1) {
            Kind kind = i ? KIND_RLOCK : KIND_LOCK;
            if (take(lock, kind, 0)) {
                semaphore_of(lock, &during);
                give_back(lock, kind);
                semaphore_of(lock, &after);
            }
        }
        is_semaphore[i] = before == 1 && during == 0 && after == 1;
        Py_XDECREF(lock);
    }
    Py_XDECREF(thread);
    PyErr_Clear();
#else
    rlock_locked = PyObject_GetAttrString((PyObject *)rlock_type, "locked");
    PyErr_Clear();
#endif
}

/* ---------------------------------------------------------------------------------------------------------------------
 * One look
 */

static Wait *wait_of(Watch *w, uint64_t thread)
{
    for (int i = 0; i < w->n; i++) {
        if (w->waits[i].thread == thread) {
            return &w->waits[i];
        }
    }
    if (w->n == w->room) {
        int room = w->room ? 2 * w->room : 64;
        Wait *grown = room > MOST_THREADS ? NULL : PyMem_RawRealloc(w->waits, sizeof(Wait) * (size_t)room);
        if (grown == NULL) {
            return NULL;
        }
        w->waits = grown;
        w->room = room;
    }
    w->waits[w->n] = (Wait){.thread = thread, .kind = KIND_NONE, .ran = -1};
    return &w->waits[w->n++];
}

static void tell_gone(PyObject *gone, const Wait *e)
{
    PyObject *id = e->reported ? PyLong_FromUnsignedLongLong(e->thread) : NULL;
    if (id != NULL && PyList_Append(gone, id) < 0) {
        PyErr_Clear();
    }
    Py_XDECREF(id);
}

/* -> whether this wait has lasted long enough to be asked about: once, or as long again as when it was asked about last. */
static int note(Watch *w, const Standing *s, double now, PyObject *gone, int *all_still)
{
    Wait *e = wait_of(w, s->at.thread->id);
    unsigned long native_id = (unsigned long)s->at.thread->native_thread_id;
    if (e == NULL) {
        *all_still = 0;
        return 0;
    }
    int64_t time = processor_time(native_id);
    int moved = time < 0 || time != e->ran;
    Kind kind = s->at.kind;
    int same = e->looks && e->kind == kind &&
               (kind == KIND_NONE ? !moved && e->position == s->position : e->subject == s->at.subject);
    e->seen = 1;
    if (!same && e->kind != KIND_NONE && e->looks >= 2 && !e->missed) {
        /* Between two tries of a wait with a time-out, perhaps. */
        e->missed = 1;
        e->ran = time;
        e->still = now;
        *all_still = 0;
        return 0;
    }
    if (!same) {
        tell_gone(gone, e);
        *e = (Wait){.thread = e->thread, .kind = kind, .subject = s->at.subject, .position = s->position, .since = now,
                    .still = now, .ran = time, .looks = 1, .seen = 1};
        *all_still = 0;
        return 0;
    }
    e->looks++;
    e->missed = 0;
    if (moved) {
        e->ran = time;
        e->still = now;
    }
    if (kind == KIND_NONE || !s->forever || now - e->still < w->hang_after) {
        *all_still = 0;
    }
    if (now - e->since < Py_MAX(e->due, w->hang_after)) {
        return 0;
    }
    e->due = 2 * (now - e->since);
    Blocked blocked;
    return kind != KIND_NONE || blocked_in(native_id, &blocked) == 1;
}

static PyObject *describe(const Wait *e, const Standing *s, double now)
{
    Sighting item = s->at;
    Look one = {.items = &item, .n = 1};
    unsigned long owner = 0;
    switch (item.kind) {
    case KIND_LOCK:
    case KIND_FOREIGN:
        owner = item.kind == KIND_FOREIGN || is_taken(item.subject);
        break;
    case KIND_RLOCK:
        owner = rlock_owner(item.subject);
        if (owner == 0) {
            owner = is_taken(item.subject);
        }
        break;
    case KIND_BUFFERED:
        owner = buffered_owner(item.subject);
        break;
    default:
        break;
    }
    if (item.subject == NULL) {
        item.subject = Py_None;
    }
    if (item.code == NULL) {
        return NULL;
    }
    PyObject *list = look_as_list(&one);
    if (list == NULL || PyList_GET_SIZE(list) != 1) {
        Py_XDECREF(list);
        return NULL;
    }
    PyObject *result = Py_BuildValue("(KddOkO)", (unsigned long long)e->thread, now - e->since, now - e->still,
                                     s->forever ? Py_True : Py_False, owner, PyList_GET_ITEM(list, 0));
    Py_DECREF(list);
    return result;
}

/* Asks Python about all that stand. */
static void ask(Watch *w, Look *l, double now, PyObject *gone)
{
    static Look everybody;
    PyObject *waits = PyList_New(0), *held = NULL, *threads = PyLong_FromLong(0), *answer = NULL;
    long n = 0;
    for (PyThreadState *ts = PyInterpreterState_ThreadHead(w->interpreter); waits != NULL && ts != NULL;
         ts = PyThreadState_Next(ts)) {
        Wait *e = ts == w->state ? NULL : wait_of(w, ts->id);
        if (e == NULL) {
            continue;
        }
        n++;
        Standing s;
        stand(l, ts, &s);
        PyObject *item = describe(e, &s, now);
        if (item == NULL) {
            PyErr_Clear(); /* a thread without a frame: it counts, and is known to wait for nothing */
            continue;
        }
        if (PyList_Append(waits, item) < 0) {
            Py_CLEAR(waits);
        }
        Py_DECREF(item);
    }
    look(&everybody, w->state);
    held = look_as_list(&everybody);
    Py_XSETREF(threads, PyLong_FromLong(n));
    if (waits != NULL && held != NULL && threads != NULL) {
        PyThreadState_EnterTracing(w->state); /* the program's trace and profile functions are not for this thread */
        answer = PyObject_CallFunctionObjArgs(w->judge, waits, held, threads, w->locks, gone, NULL);
        PyThreadState_LeaveTracing(w->state);
    }
    if (answer == NULL || !PyList_Check(answer)) {
        PyErr_Clear(); /* it has said so itself */
        w->stop = 1;
    }
    else {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(answer); i++) {
            Wait *e = wait_of(w, PyLong_AsUnsignedLongLong(PyList_GET_ITEM(answer, i)));
            if (e != NULL) {
                e->reported = 1;
            }
        }
        PyErr_Clear();
    }
    Py_XDECREF(answer);
    Py_XDECREF(waits);
    Py_XDECREF(held);
    Py_XDECREF(threads);
}

static void look_once(Watch *w)
{
    static Look l;
    int collects = PyGC_Disable(); /* no finalizer of the program's is to run in this thread */
    double now = monotonic();
    int due = 0, all_still = 1;
    PyObject *gone = PyList_New(0);
    for (int i = 0; i < w->n; i++) {
        w->waits[i].seen = 0;
    }
    for (Py_ssize_t i = PyList_GET_SIZE(w->locks); i-- > 0;) {
        if (!is_taken(PyList_GET_ITEM(w->locks, i)) && PyList_SetSlice(w->locks, i, i + 1, NULL) < 0) {
            PyErr_Clear();
        }
    }
    PyThreadState *ts = gone == NULL ? NULL : PyInterpreterState_ThreadHead(w->interpreter);
    for (; ts != NULL; ts = PyThreadState_Next(ts)) {
        if (ts != w->state) {
            Standing s;
            stand(&l, ts, &s);
            due |= note(w, &s, now, gone, &all_still);
        }
    }
    for (int i = w->n; gone != NULL && i-- > 0;) {
        if (!w->waits[i].seen) {
            tell_gone(gone, &w->waits[i]);
            w->waits[i] = w->waits[--w->n];
        }
    }
    if (!all_still) {
        w->asked_closed = 0;
    }
    else if (!w->asked_closed) {
        w->asked_closed = due = 1;
    }
    if (gone != NULL && (due || PyList_GET_SIZE(gone))) {
        ask(w, &l, now, gone);
    }
    Py_XDECREF(gone);
    PyErr_Clear();
    if (collects) {
        PyGC_Enable();
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The thread
 */

/* -> whether to go on. */
static int sleep_until_next(Watch *w)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    long nanoseconds = end.tv_nsec + (long)((w->every - (double)(time_t)w->every) * 1e9);
    end.tv_sec += (time_t)w->every + nanoseconds / 1000000000;
    end.tv_nsec = nanoseconds % 1000000000;
    pthread_mutex_lock(&w->mutex);
    while (!w->stop && pthread_cond_timedwait(&w->wake, &w->mutex, &end) == 0) {
    }
    int go_on = !w->stop;
    pthread_mutex_unlock(&w->mutex);
    return go_on;
}

static void *run(void *argument)
{
    Watch *w = argument;
#ifdef __linux__
    pthread_setname_np(pthread_self(), "forkproof-watch");
#endif
    w->state = PyThreadState_New(w->interpreter);
    sem_post(&w->ready);
    if (w->state == NULL) {
        return NULL;
    }
    while (sleep_until_next(w)) {
        if (is_finalizing()) {
            return NULL; /* the interpreter clears its thread states itself */
        }
        PyEval_RestoreThread(w->state);
        if (!w->stop) {
            look_once(w);
        }
        PyEval_SaveThread();
    }
    if (is_finalizing()) {
        return NULL;
    }
    PyEval_RestoreThread(w->state);
    Py_CLEAR(w->judge);
    Py_CLEAR(w->locks);
    if (current == w) {
        current = NULL;
    }
    PyThreadState_Clear(w->state);
    PyThreadState_DeleteCurrent();
    PyMem_RawFree(w->waits);
    PyMem_RawFree(w);
    return NULL;
}

static void stop(void)
{
    Watch *w = current;
    if (w != NULL) {
        current = NULL;
        pthread_mutex_lock(&w->mutex);
        w->stop = 1;
        pthread_cond_signal(&w->wake);
        pthread_mutex_unlock(&w->mutex);
    }
}

static PyObject *watch_start(PyObject *module, PyObject *args)
{
    PyObject *judge, *locks;
    double hang_after, every;
    (void)module;
    if (!PyArg_ParseTuple(args, "OO!dd", &judge, &PyList_Type, &locks, &hang_after, &every)) {
        return NULL;
    }
    stop();
    Watch *w = PyMem_RawCalloc(1, sizeof(Watch));
    pthread_attr_t attributes;
    if (w == NULL || pthread_attr_init(&attributes) != 0) {
        PyMem_RawFree(w);
        Py_RETURN_FALSE;
    }
    w->interpreter = PyInterpreterState_Get();
    w->judge = Py_NewRef(judge);
    w->locks = Py_NewRef(locks);
    w->hang_after = hang_after;
    w->every = every;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_condattr_t monotonic_clock;
    pthread_condattr_init(&monotonic_clock);
    pthread_condattr_setclock(&monotonic_clock, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &monotonic_clock);
    pthread_condattr_destroy(&monotonic_clock);
    sem_init(&w->ready, 0, 0);

    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_SIZE);
    sigset_t all, mask;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &mask); /* inherited by the thread */
    pthread_t thread;
    int failed = pthread_create(&thread, &attributes, run, w);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    pthread_attr_destroy(&attributes);
    if (failed) { /* a limit of threads or of memory: then there is no watch */
        Py_DECREF(w->judge);
        Py_DECREF(w->locks);
        PyMem_RawFree(w);
        Py_RETURN_FALSE;
    }
    current = w;
    Py_RETURN_TRUE;
}

int watch_settle(void)
{
    if (current == NULL) {
        return 0;
    }
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 1;
    int waited;
    while ((waited = sem_timedwait(&current->ready, &end)) != 0 && errno == EINTR) {
    }
    if (waited != 0) {
        stop(); /* not in reasonable time: then without */
    }
    return current != NULL;
}

static PyObject *watch_stop(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    stop();
    Py_RETURN_NONE;
}

static void in_child(void)
{
    inherited = current != NULL; /* its thread is not here; its memory, with a mutex in whatever state, is left alone */
    current = NULL;
}

int watch_is_on(void)
{
    return current != NULL;
}

int watch_inherited(void)
{
    int answer = inherited;
    inherited = 0;
    return answer;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The record
 */

/* Where a reader from outside finds it: a mapping called /memfd:forkproof-record. 8 bytes "FPRECRD1", the length of what
 * follows as a little-endian 32-bit number, UTF-8 JSON. */
static PyObject *keep_record(PyObject *module, PyObject *args)
{
    const char *text;
    Py_ssize_t size;
    (void)module;
    if (!PyArg_ParseTuple(args, "y#", &text, &size)) {
        return NULL;
    }
#if defined(__linux__) && defined(SYS_memfd_create)
    static void *mapping;
    static size_t mapped;
    unsigned char head[12] = "FPRECRD1";
    for (int i = 0; i < 4; i++) {
        head[8 + i] = (unsigned char)((uint32_t)size >> (8 * i));
    }
    if (mapping != NULL) {
        munmap(mapping, mapped);
        mapping = NULL;
    }
    int fd = (int)syscall(SYS_memfd_create, "forkproof-record", 1 /* MFD_CLOEXEC */);
    if (fd < 0) {
        Py_RETURN_FALSE;
    }
    struct iovec parts[] = {{head, sizeof(head)}, {(void *)text, (size_t)size}};
    mapped = sizeof(head) + (size_t)size;
    if (size <= INT32_MAX && writev(fd, parts, 2) == (ssize_t)mapped) {
        mapping = mmap(NULL, mapped, PROT_READ, MAP_PRIVATE, fd, 0);
        mapping = mapping == MAP_FAILED ? NULL : mapping;
    }
    close(fd);
    return PyBool_FromLong(mapping != NULL);
#else
    Py_RETURN_FALSE;
#endif
}

static PyObject *set_waiting_methods(PyObject *module, PyObject *methods)
{
    (void)module;
    if (!PyDict_CheckExact(methods)) {
        PyErr_SetString(PyExc_TypeError, "a dict is needed");
        return NULL;
    }
    if (set_waits(methods) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *lock_is_locked(PyObject *module, PyObject *lock)
{
    (void)module;
    return PyBool_FromLong(is_locked(lock));
}

static PyObject *lock_is_taken(PyObject *module, PyObject *lock)
{
    (void)module;
    return PyBool_FromLong(is_taken(lock));
}

static PyMethodDef watch_methods[] = {
    {"is_taken", lock_is_taken, METH_O, NULL},
    {"watch_start", watch_start, METH_VARARGS, NULL},
    {"watch_stop", watch_stop, METH_NOARGS, NULL},
    {"keep_record", keep_record, METH_VARARGS, NULL},
    {"futex_of", futex_of, METH_O, NULL},
    {"address_of_lock", address_of_lock, METH_O, NULL},
    {"count_threads", count_threads, METH_NOARGS, NULL},
    {"is_locked", lock_is_locked, METH_O, NULL},
    {"set_waits", set_waiting_methods, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

int watch_init(PyObject *module)
{
    static int registered;
    if (!registered) {
        registered = 1;
        if (pthread_atfork(NULL, NULL, in_child) != 0) {
            PyErr_SetString(PyExc_ImportError, "pthread_atfork failed");
            return -1;
        }
    }
    probe_semaphores();
    return PyModule_AddFunctions(module, watch_methods);
}

#endif
