/* What is seen: sightings are added here and nowhere else, each lock of a thread once.
 */
#include "sight.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

PyObject *name_enter, *name_exit, *name_aenter, *name_aexit, *name_gen, *name_exit_callbacks, *name_owner, *name_buffer, *name_func,
    *name_file, *name_release, *name_args, *name_lock, *name_next, *name_init, *name_function, *name_acquire_lock, *name_name,
    *name_call, *name_del, *name_new, *name_getattr;
PyObject *module_locks; /* importlib._bootstrap._module_locks */
PyObject *warnings_lock; /* what takes the lock of `warnings`, from 3.14 on; else NULL */
PyTypeObject *text_type;

int sight_init(void)
{
    static const struct {
        PyObject **slot;
        const char *text;
    } names[] = {
        {&name_enter, "__enter__"}, {&name_exit, "__exit__"}, {&name_gen, "gen"},
        {&name_aenter, "__aenter__"}, {&name_aexit, "__aexit__"},
        {&name_exit_callbacks, "_exit_callbacks"}, {&name_owner, "owner"}, {&name_buffer, "buffer"},
        {&name_func, "func"}, {&name_args, "args"}, {&name_file, "file"}, {&name_release, "release"},
        {&name_lock, "lock"}, {&name_next, "__next__"}, {&name_init, "__init__"}, {&name_call, "__call__"},
        {&name_del, "__del__"}, {&name_new, "__new__"}, {&name_getattr, "__getattr__"},
        {&name_function, "__func__"}, {&name_name, "_name"}, {&name_acquire_lock, "_acquire_lock"},
    };
    for (size_t i = 0; i < Py_ARRAY_LENGTH(names); i++) {
        *names[i].slot = PyUnicode_InternFromString(names[i].text);
        if (*names[i].slot == NULL) {
            return -1;
        }
    }
    PyObject *bootstrap = PyImport_ImportModule("_frozen_importlib");
    PyObject *io = PyImport_ImportModule("_io");
    PyObject *warnings = PyImport_ImportModule("_warnings");
    if (bootstrap == NULL || io == NULL || warnings == NULL) {
        return -1;
    }
    warnings_lock = plain_attribute(warnings, name_acquire_lock); /* kept by its module, which is kept for ever */
    module_locks = PyObject_GetAttrString(bootstrap, "_module_locks");
    text_type = (PyTypeObject *)PyObject_GetAttrString(io, "TextIOWrapper");
    Py_DECREF(bootstrap);
    Py_DECREF(io);
    if (module_locks == NULL || text_type == NULL || !PyDict_CheckExact(module_locks)) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ImportError, "importlib's module locks are not where forkproof knows them");
        }
        return -1;
    }
    return 0;
}

Sighting *add_sighting(Look *l)
{
    l->firm = 0;
    if (l->n == l->room) {
        int room = l->room ? l->room * 2 : 128;
        Sighting *grown = PyMem_RawRealloc(l->items, sizeof(Sighting) * (size_t)room);
        if (grown == NULL) {
            l->failed = 1;
            return NULL;
        }
        l->items = grown;
        l->room = room;
    }
    memset(&l->items[l->n], 0, sizeof(Sighting));
    return &l->items[l->n++];
}

void add_waiter(Look *l, PyObject *condition, PyObject *waiter)
{
    if (l->n_waiters == l->room_waiters) {
        int room = l->room_waiters ? l->room_waiters * 2 : 128;
        Waiter *grown = PyMem_RawRealloc(l->lent ? NULL : l->waiters, sizeof(Waiter) * (size_t)room);
        if (grown == NULL) {
            l->failed = 1;
            return;
        }
        if (l->lent) {
            memcpy(grown, l->waiters, sizeof(Waiter) * (size_t)l->n_waiters);
            l->lent = 0;
        }
        l->waiters = grown;
        l->room_waiters = room;
    }
    l->waiters[l->n_waiters++] = (Waiter){condition, waiter};
}

/* The first parameter, also where a closure has made a cell of it. */
PyObject *first_local(const Frame *frame)
{
    PyObject *first = frame_local(frame, 0);
    return first != NULL && PyCell_Check(first) ? PyCell_GET(first) : first;
}

PyTypeObject *self_type(const Place *p)
{
    if (p->code->co_argcount < 1) {
        return NULL;
    }
    PyObject *first = first_local(p->frame);
    if (first == NULL) {
        return NULL;
    }
    return PyType_Check(first) ? (PyTypeObject *)first : Py_TYPE(first);
}

Sighting *sight(Thread *t, const Place *p, State state, Kind kind, PyObject *subject, int certain)
{
    Look *l = t->look;
    l->firm = 0;
    Sighting *s = NULL;
    for (int i = t->first; i < l->n; i++) {
        if (l->items[i].subject == subject) {
            s = &l->items[i];
            /* A permit can be held twice by one thread; any other lock is the same one seen again, further out. */
            if (kind == KIND_SEMAPHORE || kind == KIND_CALL) {
                s = NULL;
                continue;
            }
            if (s->state == STATE_ACQUIRING && state != STATE_ACQUIRING) {
                if (kind != KIND_RLOCK) {
                    return s; /* blocked on it, so it is not this thread's */
                }
            }
            break;
        }
    }
    int better = s != NULL;
    if (s == NULL) {
        s = add_sighting(l);
        if (s == NULL) {
            return NULL;
        }
    }
    s->thread = t->thread;
    /* A frame of an __exit__ leaves it, whatever else that frame does with it. */
    s->state = better && s->state == STATE_LEAVING && state == STATE_HOLDS && s->frame == p->frame ? STATE_LEAVING : state;
    s->kind = kind;
    s->certain = (unsigned)((better && s->certain) || (certain && (!p->unsure || kind == KIND_RLOCK)));
    s->subject = subject;
    s->manager = p->manager;
    s->frame = p->frame;
    s->code = p->code;
    s->unit = p->unit;
    s->named_at = p->named_at;
    s->self = self_type(p);
    return s;
}

int judgement(const Thread *t, PyObject *lock)
{
    for (int i = 0; i < t->n_judged; i++) {
        if (t->judged[i].lock == lock) {
            return t->judged[i].where;
        }
    }
    return 0;
}

void sight_lock(Thread *t, const Place *p, State state, PyObject *lock, Kind kind, int certain)
{
    t->look->firm = 0;
    unsigned long me = (unsigned long)t->thread->thread_id;
    if (state == STATE_ACQUIRING) {
        if (kind == KIND_RLOCK && rlock_owner(lock) == me) {
            return; /* re-entering: it gets it at once */
        }
        sight(t, p, state, kind, lock, certain);
        return;
    }
    if (kind == KIND_RLOCK) {
        if (rlock_owner(lock) == me) {
            sight(t, p, state, kind, lock, 1);
        }
        return;
    }
    if (kind == KIND_LOCK) {
        if (t->n_waiting && has_let_go(t, lock)) {
            return;
        }
        if (!is_locked(lock)) {
            return;
        }
        int where = state == STATE_LEAVING && t->n_judged ? judgement(t, lock) : 0;
        if (where == LET_GO) {
            return; /* it is locked by somebody else by now */
        }
        certain = certain && !(where & LET_GO);
    }
    sight(t, p, state, kind, lock, certain);
}

#endif
