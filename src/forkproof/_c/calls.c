/* What a call that is going on means: a lock that is being acquired or released, a function of the catalogue that a thread is
 * inside, and the object that one works on.
 */
#include "sight.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

/* "db" is a name, although it is all of hexadecimal digits; "<broadcast>" is none (CPython Modules/socketmodule.c, setipaddr()). */
static int host_is_name(PyObject *host)
{
    const char *text = PyUnicode_Check(host) ? PyUnicode_AsUTF8(host) : PyBytes_Check(host) ? PyBytes_AS_STRING(host) : NULL;
    if (text == NULL) {
        PyErr_Clear();
        return 0;
    }
    if (strchr(text, ':') != NULL) { /* IPv6, and behind '%' the interface */
        char end = text[strspn(text, "0123456789abcdefABCDEF:.")];
        return end != '\0' && end != '%';
    }
    return text[strspn(text, "0123456789.")] != '\0' && strcmp(text, "<broadcast>") != 0;
}

static PyObject *argument_of(const Place *p, const Call *c, Py_ssize_t i)
{
    Py_ssize_t given = c->given != NULL && PyTuple_CheckExact(c->given) ? PyTuple_GET_SIZE(c->given) : 0;
    if (i < given) {
        return PyTuple_GET_ITEM(c->given, i);
    }
    return i - given < c->n_arguments ? frame_slot(p->frame, p->code, c->arguments + (int)(i - given)) : NULL;
}

#define MOST_ADDRESSED 4 /* arguments of sendmsg(), whose address is the last */

/* What a socket sends, and the path of a Unix socket, are no hosts: in an address the host is the first of a tuple. */
static int looks_a_name_up(const Place *p, const Call *c, int host)
{
    if (host == HOST_FIRST) {
        PyObject *first = argument_of(p, c, 0);
        return first != NULL && host_is_name(first);
    }
    for (Py_ssize_t i = 0; i < MOST_ADDRESSED; i++) {
        PyObject *address = argument_of(p, c, i);
        if (address != NULL && PyTuple_CheckExact(address) && PyTuple_GET_SIZE(address) > 1) {
            return host_is_name(PyTuple_GET_ITEM(address, 0));
        }
    }
    return 0;
}

/* Whether nobody but this thread's own frames refers to the object, and the C function that it is in `kept`
 * times: a child cannot come to use it. */
static int is_private(const Thread *t, PyObject *object, int kept)
{
    Py_ssize_t references = Py_REFCNT(object), seen = kept;
    if (references > 8) {
        return 0;
    }
    int c_below = 1;
    for (Frame *f = thread_top(t->thread), *inner = NULL; f != NULL && seen < references; inner = f, f = frame_outer(f, &c_below)) {
        PyCodeObject *code = frame_is_shim(f) ? NULL : frame_code(f);
        if (code == NULL) {
            c_below = 1;
            continue;
        }
        for (int i = 0; i < code->co_nlocalsplus; i++) {
            seen += frame_refers(f, i, object);
        }
        int slots = live_slots(f, code, c_below, inner), stale = perhaps_stale_slot(f, code);
        for (int i = 0; i < slots; i++) {
            seen += i != stale && frame_refers(f, code->co_nlocalsplus + i, object);
        }
#if !PY_AT_LEAST(3, 14)
        const CodeInfo *info = code_info(code);
        int unit = frame_unit(f, code);
        int depth = unit >= 0 && unit < info->n_units ? info->units[unit].depth : 0;
        for (int r = depth > 0 ? info->units[unit].with : 0; r; r = info->regions[r].outer) {
            PyObject *exit = frame_slot(f, code, info->regions[r].slot);
            seen += exit != NULL && manager_of(exit) == object; /* the bound __exit__ of `with file:` */
        }
#endif
    }
    return seen >= references;
}

static void sight_file(Thread *t, const Place *p, PyObject *file, const Known *call)
{
    t->look->firm = 0;
    if (file != NULL && is_private(t, file, 0)) {
        return;
    }
    if (file != NULL && PyType_IsSubtype(Py_TYPE(file), text_type)) {
        file = plain_attribute(file, name_buffer);
        if (file == NULL) {
            return;
        }
    }
    if (file == NULL) {
        return;
    }
    Kind kind = kind_of(file);
    Sighting *s;
    if (kind == KIND_BUFFERED) {
        int holds = buffered_owner(file) == (unsigned long)t->thread->thread_id;
        s = sight(t, p, holds ? STATE_HOLDS : STATE_ACQUIRING, kind, file, holds);
        if (s != NULL) {
            s->mutex = 1;
        }
    }
    else if (strncmp(Py_TYPE(file)->tp_name, "_io.Buffered", 12) == 0) {
        s = sight(t, p, STATE_INSIDE, KIND_CALL, file, 0);
    }
    else {
        return;
    }
    if (s != NULL && call != NULL) {
        s->entry = call->entry;
    }
}

/* What `file=` gives; NULL when it is not there, or None. */
static PyObject *given_file(const Place *p, const Call *c)
{
    Py_ssize_t n = c->keywords != NULL && PyTuple_CheckExact(c->keywords) ? PyTuple_GET_SIZE(c->keywords) : 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (PyUnicode_Compare(PyTuple_GET_ITEM(c->keywords, i), name_file) == 0) {
            PyObject *file = frame_slot(p->frame, p->code, c->arguments + c->n_arguments - (int)n + (int)i);
            return file == Py_None ? NULL : file;
        }
    }
    return NULL;
}

static void sight_inside(Thread *t, const Place *p, const Known *call, PyObject *object, int kept)
{
    t->look->firm = 0;
    if (call->resource == RESOURCE_OBJECT && object != NULL && is_private(t, object, kept)) {
        return;
    }
    Sighting *s = sight(t, p, STATE_INSIDE, KIND_CALL,
                        call->resource == RESOURCE_OBJECT && object != NULL ? object : call->callable, 0);
    if (s != NULL) {
        s->entry = call->entry;
        s->innermost = t->inner == NULL;
        s->draining = s->innermost && call->gil_outside; /* the guard asks the system whether it waits for the GIL */
    }
}

/* A call that uses standard streams. One that uses several has at most one of their locks at a time; when it has none, it
 * may be about to take any, or be at a terminal, which has a lock of its own. */
static void sight_streams(Thread *t, const Place *p, const Known *call)
{
    t->look->firm = 0;
    static const char *const names[] = {"stdin", "stdout", "stderr"};
    int several = (call->streams & (call->streams - 1)) != 0; /* none of these is called on a file */
    for (int i = 0; i < 3; i++) {
        PyObject *file = call->streams & (1 << i) ? PySys_GetObject(names[i]) : NULL;
        if (file == NULL) {
            continue;
        }
        if (!several) {
            sight_file(t, p, file, call);
            return;
        }
        PyObject *below = PyType_IsSubtype(Py_TYPE(file), text_type) ? plain_attribute(file, name_buffer) : file;
        if (below != NULL && kind_of(below) == KIND_BUFFERED &&
            buffered_owner(below) == (unsigned long)t->thread->thread_id) {
            sight_file(t, p, file, call);
            return;
        }
    }
    if (several) {
        sight_inside(t, p, call, NULL, 0);
    }
}

/* C code that goes on with an iterator is inside its `__next__`. */
void sight_next(Thread *t, const Place *p, PyObject *iterator, int kept)
{
    if (iterator == NULL) {
        return;
    }
    const Known *call = known_call(_PyType_Lookup(Py_TYPE(iterator), name_next));
    if (call == NULL || call->resource == RESOURCE_STREAM) {
        sight_file(t, p, iterator, call);
    }
    else if (!t->importing) {
        sight_inside(t, p, call, iterator, kept);
    }
}

/* Up to 3.12 the names of keywords come from an instruction before the call. */
PyObject *keywords_before(const Place *p, int base)
{
#if PY_AT_LEAST(3, 13)
    (void)p;
    (void)base;
    return NULL;
#else
    for (int at = base - 1; at >= 0 && at >= base - 12; at--) {
        const Unit *u = &p->info->units[at];
        if (!u->back && op_kind(u->op) == OP_KW_NAMES && (int)u->arg < PyTuple_GET_SIZE(p->code->co_consts)) {
            return PyTuple_GET_ITEM(p->code->co_consts, u->arg);
        }
        if (!u->back && op_kind(u->op) != OP_CALL) {
            break;
        }
    }
    return NULL;
#endif
}

/* The locks that `object.release()` gives back: itself, the lock whose own method a Condition borrows, or what the
 * Python method of that name releases. -> how many, at most `room`. */
int locks_behind(Thread *t, PyObject *object, PyObject **locks, int room)
{
    Kind kind = object == NULL ? KIND_NONE : kind_of(object);
    if (object == NULL || room < 1) {
        return 0;
    }
    if (kind == KIND_LOCK || kind == KIND_RLOCK) {
        locks[0] = object;
        return 1;
    }
    if (kind != KIND_NONE || !PyType_HasFeature(Py_TYPE(object), Py_TPFLAGS_HEAPTYPE)) {
        return 0;
    }
    LockMethod role;
    PyObject *lock = lock_behind(object, name_release, &role);
    if (lock != NULL) {
        locks[0] = lock;
        return 1;
    }
    PyObject *found[MAX_LET_GO];
    int n = 0;
    Resolve r = {.thread = t, .want = CALL_RELEASE, .collect = found, .n_collect = &n, .room = MAX_LET_GO};
    resolve_method(&r, object, name_release);
    n = Py_MIN(n, room);
    memcpy(locks, found, sizeof(found[0]) * (size_t)n);
    return n;
}

static int is_call_of(const CodeInfo *info, int unit)
{
    OpKind kind = op_kind(info->units[unit].op);
    return (kind == OP_CALL || kind == OP_CALL_KW) && lowest_of_call(&info->units[unit]) >= 0;
}

/* Whether this code releases `lock` somewhere: then it uses it as a mutex. */
int releases(Thread *t, const Place *p, PyObject *lock)
{
    t->look->firm = 0;
    for (int i = 0; i < p->info->n_sites; i++) {
        const CallSite *site = &p->info->sites[i];
        if (site->role == CALL_RELEASE && site->expression < 0) {
            int base = p->unit - p->info->units[p->unit].back;
            if (is_call_of(p->info, base) && same_object(p->info, call_unit(p->info, base), site->unit)) {
                return 1;
            }
            continue;
        }
        if ((site->role != CALL_RELEASE && site->role != CALL_HANDED_OVER) || site->expression < 0) {
            continue;
        }
        PyObject *locks[4];
        PyObject *object = evaluate(&p->info->expressions[site->expression], p->code, p->frame);
        int n = locks_behind(t, object, locks, 4);
        for (int k = 0; k < n; k++) {
            if (locks[k] == lock) {
                return 1;
            }
        }
    }
    for (int i = 0; i < p->code->co_nlocalsplus; i++) {
        PyObject *local = frame_local(p->frame, i);
        if (local != NULL && PyCFunction_Check(local) && PyCFunction_GET_SELF(local) == lock &&
            lock_method_named(((PyCFunctionObject *)local)->m_ml->ml_name) == METHOD_RELEASE) {
            return 1;
        }
    }
    return 0;
}

/* Whether the thread has this plain lock where it is about to take it, by this frame: it waits for another to let go of it, and so
 * for a signal, as in a condition of somebody's own (`waiter.acquire(); self.waiters.append(waiter); ...; waiter.acquire()`). */
int has_it_already(Thread *t, const Place *p, int base, PyObject *lock)
{
    int takes = 0, effect, wide = t->wide;
    for (int i = 0; i < p->info->n_sites && kind_of(lock) == KIND_LOCK && !takes; i++) {
        const CallSite *site = &p->info->sites[i];
        takes = site->role == CALL_ACQUIRE && site->expression >= 0 &&
                evaluate(&p->info->expressions[site->expression], p->code, p->frame) == lock;
    }
    if (!takes) {
        return 0;
    }
    t->wide = t->sure = 1;
    t->steps = 0;
    int held = held_in(t, (Variables){.frame = p->frame}, p->code, lock, LET_GO, base, 0, &effect);
    t->wide = wide;
    t->sure = 0;
    return held == HELD;
}

void sight_call(Thread *t, Place *p, int base, Call *c, int nesting)
{
    PyObject *callable = c->callable, *self = c->self;
    const Known *call = known_call(callable);
    LockMethod method = lock_method(callable);
    if (call == NULL && method == METHOD_NONE) {
        if (PyCFunction_Check(callable)) {
            self = PyCFunction_GET_SELF(callable);
            t->look->firm &= self == NULL || PyModule_CheckExact(self);
            const char *name = ((PyCFunctionObject *)callable)->m_ml->ml_name;
            if (self == NULL) {
                return;
            }
            Kind kind = kind_of(self);
            if (kind == KIND_LOCK || kind == KIND_RLOCK) {
                method = lock_method_named(name);
            }
            else if (!PyModule_CheckExact(self)) {
                call = known_call(descriptor_of((PyCFunctionObject *)callable, Py_TYPE(self)));
            }
        }
        else if (nesting == 0 && strcmp(Py_TYPE(callable)->tp_name, "functools.partial") == 0) {
            t->look->firm = 0;
            c->callable = plain_attribute(callable, name_func);
            c->given = plain_attribute(callable, name_args);
            c->self = NULL;
            if (c->callable != NULL) {
                sight_call(t, p, base, c, 1);
            }
            return;
        }
        else if ((call = known_method(callable)) != NULL) {
            self = PyMethod_GET_SELF(callable);
        }
        else if ((call = known_instance(callable)) != NULL) {
            self = callable;
        }
    }
    if (method != METHOD_NONE) {
        if (self == NULL && c->given != NULL && PyTuple_CheckExact(c->given) && PyTuple_GET_SIZE(c->given)) {
            self = PyTuple_GET_ITEM(c->given, 0); /* Lock.acquire(*arguments), partial(Lock.acquire, lock) */
        }
        if (self == NULL && c->n_arguments > 0) {
            self = frame_slot(p->frame, p->code, c->arguments); /* Lock.acquire(lock) */
        }
        Kind kind = self != NULL ? kind_of(self) : KIND_NONE;
        if (kind != KIND_LOCK && kind != KIND_RLOCK) {
            return;
        }
        if (p->info->wait && p->info->wait_waiter >= 0 && self == frame_local(p->frame, p->info->wait_waiter)) {
            return; /* the lock that Condition.wait sleeps on: a signal, made for this one wait */
        }
        p->named_at = base;
        if (method == METHOD_RELEASE) {
            sight_lock(t, p, STATE_LEAVING, self, kind, 1);
            return;
        }
        int before = t->look->n;
        sight_lock(t, p, STATE_ACQUIRING, self, kind, 1);
        if (t->look->n > before) {
            Sighting *s = &t->look->items[t->look->n - 1];
            s->signal = (unsigned)has_it_already(t, p, base, self);
            s->mutex = !s->signal && !p->info->joins && (method != METHOD_ACQUIRE || p->info->enters || releases(t, p, self));
        }
        return;
    }
    if (call == NULL) {
        return;
    }
    if (call->resource == RESOURCE_WORKER) {
        if (t->inner == NULL && self != NULL) {
            t->works_in = call;
            t->works_on = self;
        }
        return;
    }
    if (call->resource == RESOURCE_CONSUMES) {
        PyObject *iterator = NULL;
        if (c->n_arguments > 0) {
            iterator = frame_slot(p->frame, p->code, c->arguments);
        }
        else if (c->given != NULL && PyTuple_CheckExact(c->given) && PyTuple_GET_SIZE(c->given)) {
            iterator = PyTuple_GET_ITEM(c->given, 0);
        }
        if (t->inner == NULL) {
            sight_next(t, p, iterator, call->streams);
        }
        return;
    }
    if (call->host != HOST_ANY && !looks_a_name_up(p, c, call->host)) {
        return;
    }
    if (call->resource == RESOURCE_STREAM) {
        PyObject *file = self;
        if (file == NULL || PyModule_Check(file)) {
            if (c->keywords == NULL) {
                c->keywords = keywords_before(p, base);
            }
            file = given_file(p, c);
            if (file == NULL) {
                sight_streams(t, p, call);
                return;
            }
        }
        sight_file(t, p, file, call);
        return;
    }
    if (t->importing) {
        return; /* its own import, further in, is what it waits for: the library has not been entered yet */
    }
    sight_inside(t, p, call, self, 0);
}

#endif
