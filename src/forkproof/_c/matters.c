/* Which of the sightings of a look matter at this fork, whose the locks are, and what has been waited for in vain.
 */
#include "forking.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

NotMine not_mine;

int is_exempt(const Sighting *s)
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

int is_held(PyObject *object)
{
    for (int i = 0; i < this_fork->n_held; i++) {
        if (g.held[i] == object) {
            return 1;
        }
    }
    return 0;
}

void add_held(PyObject *object)
{
    if (!is_held(object) && this_fork->n_held < MAX_HELD) {
        g.held[this_fork->n_held++] = object;
    }
}

int is_owned(PyObject *object)
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
void find_held(PyThreadState *me)
{
    static Look mine;
    this_fork->n_held = 0;
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

int is_not_mine(PyObject *lock)
{
    for (int i = 0; i < not_mine.n; i++) {
        if (not_mine.locks[i] == lock) {
            return 1;
        }
    }
    return 0;
}

void note_not_mine(PyObject *lock)
{
    if (not_mine.n < MAX_OWNED && !is_held(lock) && !is_not_mine(lock)) {
        not_mine.locks[not_mine.n++] = lock;
    }
}

/* A Lock does not say who has it. But one that is free, or that another has, is not the forking thread's, and cannot become
 * so before the fork is over. */
void learn_whose(void)
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
void find_orphans(void)
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

int is_catalogued(PyObject *lock)
{
    PyObject *id = PyDict_GET_SIZE(foreign_locks) ? PyLong_FromVoidPtr(lock) : NULL;
    int found = id != NULL && PyDict_Contains(foreign_locks, id) == 1;
    Py_XDECREF(id);
    PyErr_Clear();
    return found;
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

Matters matters(const Sighting *s)
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

Lost *find_lost(uint64_t thread, PyObject *subject)
{
    for (int i = 0; i < g.n_lost; i++) {
        if (g.lost[i].thread == thread && g.lost[i].subject == subject) {
            return &g.lost[i];
        }
    }
    return NULL;
}

Lost *note(uint64_t thread, PyObject *subject)
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
void give_up(Lost *entry, PyThreadState *thread)
{
    if (entry->fork != this_fork->forks) {
        entry->failures++;
    }
    entry->fork = this_fork->forks;
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
double patience(const Sighting *s)
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

PyThreadState *visible_holder(PyObject *subject)
{
    for (int i = 0; i < g.look.n; i++) {
        const Sighting *s = &g.look.items[i];
        if (s->subject == subject && (s->state == STATE_HOLDS || s->state == STATE_LEAVING)) {
            return s->thread;
        }
    }
    return NULL;
}

int given_up(const Sighting *s)
{
    const Lost *entry = find_lost(s->thread->id, s->subject);
    if (entry != NULL && entry->fork == this_fork->forks) {
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
int is_back(const Sighting *s)
{
    return s->kind == KIND_CALL && s->innermost && waits_for_gil((unsigned long)s->thread->native_thread_id);
}

/* It may sleep for something that only a thread which is stopped can give it. */
int is_asleep(const Sighting *s)
{
    Blocked blocked;
    return blocked_in((unsigned long)s->thread->native_thread_id, &blocked) == 1 &&
           !(blocked.futex && is_gil(the_gil(), blocked.arguments[0]));
}

/* One that is over but for the GIL holds nothing any more; and a thread that is parked stands between two instructions. */
int is_over(const Sighting *s, int back)
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
PyObject *at_risk(void)
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

#endif
