/* Looking: from threads to frames, from frames to managers and calls, from those to locks.
 *
 * Everything here reads. It holds the GIL throughout, calls only C functions that neither let it go nor run code of the
 * program's, and takes no reference. Evidence of three sorts meets in each frame: the exception table says which
 * `with` are active, the instruction at hand says what is being acquired or left, and the data flow of code.c says
 * which acquire() has its release() still to come.
 */
#include "look.h"
#include "reach.h"
#include "task.h"
#include "workers.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

#define MAX_NESTING 6
#define MAX_STEPS 200
#define MAX_LET_GO 16

static PyObject *name_enter, *name_exit, *name_aenter, *name_aexit, *name_gen, *name_exit_callbacks, *name_owner, *name_buffer, *name_func,
    *name_file, *name_release, *name_args, *name_lock, *name_next, *name_init, *name_function, *name_acquire_lock;

static PyObject *module_locks; /* importlib._bootstrap._module_locks */
static PyObject *warnings_lock; /* what takes the lock of `warnings`, from 3.14 on; else NULL */
static PyTypeObject *text_type;

/* Catalogued callables, by address: open addressing, never more than half full. */
typedef struct {
    PyObject *callable;
    int entry, resource, host_name, gil_outside;
    int streams; /* of RESOURCE_CONSUMES: references of its own; else a set of standard streams, and STREAM_KEPT */
} Known;
static Known *known;
static size_t known_mask;

/* Methods that wait for other threads without a lock that a frame shows: of thread handles and of queues in C. */
#define MAX_WAITS 8
static struct {
    PyObject *method;
    int kind, timeout;
} waits[MAX_WAITS];
static int n_waits;

typedef struct Place Place;

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
    int importing;
    int wide;                       /* calls of whatever the frame can name are read, not only those of its first parameter */
    int attempted;                  /* one of the calls that take a lock may have failed to */
    int steps;                      /* of resolving managers in one frame, against pathological objects */
} Thread;

struct Place {
    Frame *frame;
    PyCodeObject *code;
    const CodeInfo *info;
    int unit, named_at;
    PyTypeObject *manager;
    Frame *inner; /* of the Python function that is being called where this frame stands, if one is */
    int unsure; /* seen through an object that another thread may share: at most possible */
};

int look_init(void)
{
    static const struct {
        PyObject **slot;
        const char *text;
    } names[] = {
        {&name_enter, "__enter__"}, {&name_exit, "__exit__"}, {&name_gen, "gen"},
        {&name_aenter, "__aenter__"}, {&name_aexit, "__aexit__"},
        {&name_exit_callbacks, "_exit_callbacks"}, {&name_owner, "owner"}, {&name_buffer, "buffer"},
        {&name_func, "func"}, {&name_args, "args"}, {&name_file, "file"}, {&name_release, "release"},
        {&name_lock, "lock"}, {&name_next, "__next__"}, {&name_init, "__init__"},
        {&name_function, "__func__"}, {&name_acquire_lock, "_acquire_lock"},
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

/* ---------------------------------------------------------------------------------------------------------------------
 * The catalogue
 */

static inline size_t hash_pointer(const void *pointer)
{
    return ((uintptr_t)pointer >> 4) * (uintptr_t)11400714819323198485ull >> 20;
}

static const Known *known_call(PyObject *callable)
{
    if (known == NULL || callable == NULL) {
        return NULL;
    }
    for (size_t at = hash_pointer(callable) & known_mask;; at = (at + 1) & known_mask) {
        if (known[at].callable == callable) {
            return &known[at];
        }
        if (known[at].callable == NULL) {
            return NULL;
        }
    }
}

/* An instance that is called itself, of a type in C: by its type's `__call__`. */
static const Known *known_instance(PyObject *callable)
{
    static PyObject *name;
    PyTypeObject *type = Py_TYPE(callable);
    if (type->tp_call == NULL || type == &PyFunction_Type || type == &PyMethod_Type || type == &PyType_Type ||
        type == &PyCFunction_Type || type == &PyMethodDescr_Type || type == &PyWrapperDescr_Type) {
        return NULL;
    }
    if (name == NULL) {
        name = PyUnicode_InternFromString("__call__");
    }
    return name == NULL ? NULL : known_call(_PyType_Lookup(type, name));
}

/* Of a bound method in C, what its class has: not always what the name leads to, where a subclass calls super().execute(). */
static PyObject *descriptor_of(PyCFunctionObject *bound, PyTypeObject *type)
{
    /* Interned, as the type's own: the interpreter's cache of look-ups keeps each string that it is asked with. */
    PyObject *name = PyUnicode_InternFromString(bound->m_ml->ml_name), *found = name ? _PyType_Lookup(type, name) : NULL;
    if (found != NULL && !Py_IS_TYPE(found, &PyMethodDescr_Type)) {
        for (Py_ssize_t i = 0; type->tp_mro != NULL && i < PyTuple_GET_SIZE(type->tp_mro); i++) {
            PyTypeObject *base = (PyTypeObject *)PyTuple_GET_ITEM(type->tp_mro, i);
            PyObject *own = base->tp_dict == NULL ? NULL : PyDict_GetItemWithError(base->tp_dict, name);
            if (own != NULL && Py_IS_TYPE(own, &PyMethodDescr_Type) &&
                ((PyMethodDescrObject *)own)->d_method == bound->m_ml) {
                found = own;
                break;
            }
        }
    }
    PyErr_Clear();
    Py_XDECREF(name);
    return found;
}

int set_calls(PyObject *calls)
{
    static PyObject *kept;
    size_t size = 16;
    while (size < 2 * (size_t)PyDict_GET_SIZE(calls) + 2) {
        size *= 2;
    }
    Known *fresh = PyMem_RawCalloc(size, sizeof(Known));
    if (fresh == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(calls, &position, &key, &value)) {
        Known entry = {.callable = key};
        if (!PyArg_ParseTuple(value, "iippi", &entry.entry, &entry.resource, &entry.host_name, &entry.gil_outside,
                              &entry.streams)) {
            PyMem_RawFree(fresh);
            return -1;
        }
        size_t at = hash_pointer(key) & (size - 1);
        while (fresh[at].callable != NULL) {
            at = (at + 1) & (size - 1);
        }
        fresh[at] = entry;
    }
    Known *old = known;
    known = fresh;
    known_mask = size - 1;
    PyMem_RawFree(old);
    Py_XDECREF(kept);
    kept = Py_NewRef(calls);
    return 0;
}

static int known_wait(PyObject *callable)
{
    for (int i = 0; i < n_waits; i++) {
        if (waits[i].method == callable) {
            return i;
        }
    }
    return -1;
}

int set_waits(PyObject *methods)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;
    n_waits = 0;
    while (PyDict_Next(methods, &position, &key, &value) && n_waits < MAX_WAITS) {
        if (!PyArg_ParseTuple(value, "ii", &waits[n_waits].kind, &waits[n_waits].timeout)) {
            return -1;
        }
        waits[n_waits++].method = Py_NewRef(key); /* for ever: compared by address */
    }
    return 0;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Sightings
 */

static Sighting *add(Look *l)
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

static void add_waiter(Look *l, PyObject *condition, PyObject *waiter)
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
static PyObject *first_local(const Frame *frame)
{
    PyObject *first = frame_local(frame, 0);
    return first != NULL && PyCell_Check(first) ? PyCell_GET(first) : first;
}

static PyTypeObject *self_type(const Place *p)
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

static Sighting *sight(Thread *t, const Place *p, State state, Kind kind, PyObject *subject, int certain)
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
        s = add(l);
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

static int has_let_go(Thread *t, PyObject *lock);

static int judgement(const Thread *t, PyObject *lock)
{
    for (int i = 0; i < t->n_judged; i++) {
        if (t->judged[i].lock == lock) {
            return t->judged[i].where;
        }
    }
    return 0;
}

static void sight_lock(Thread *t, const Place *p, State state, PyObject *lock, Kind kind, int certain)
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

/* ---------------------------------------------------------------------------------------------------------------------
 * From an object that was entered to the locks it took
 */

static void sight_frame_locks(Thread *t, Place *p, State state, int nesting);
static void sight_method_of_manager(Thread *t, const Place *p, int base);

typedef struct {
    Thread *thread;
    const Place *place;
    State state;
    CallRole want;
    int nesting, found;
    int certain;
    Frame *exiting;     /* of the __exit__ that lets go of what is found */
    PyObject *object;
    PyObject **collect; /* instead of sighting: locks, for Condition.wait */
    int *n_collect;
    int permits;        /* collect semaphores too */
} Resolve;

static void resolve_method(Resolve *r, PyObject *object, PyObject *method);

static void judge(Thread *t, Frame *frame, PyObject *lock);

/* With a name for what was found: of what entered it, else by which this frame itself takes it or lets go of it. */
static Place place_of(const Place *found, PyObject *lock)
{
    Place p = *found;
    for (int i = 0; p.named_at < 0 && i < p.info->n_sites; i++) {
        const CallSite *site = &p.info->sites[i];
        if ((site->role == CALL_ACQUIRE || site->role == CALL_RELEASE) && site->expression >= 0 &&
            evaluate(&p.info->expressions[site->expression], p.code, p.frame) == lock) {
            p.named_at = site->unit;
        }
    }
    return p;
}

static void found_lock(Resolve *r, PyObject *lock, Kind kind)
{
    r->found++;
    if (r->collect != NULL) {
        if (*r->n_collect < MAX_LET_GO) {
            r->collect[(*r->n_collect)++] = lock;
        }
        return;
    }
    if (r->exiting != NULL && kind == KIND_LOCK && is_locked(lock)) {
        judge(r->thread, r->exiting, lock);
    }
    Place p = place_of(r->place, lock);
    sight_lock(r->thread, &p, r->state, lock, kind, r->certain);
}

static void sight_permit(Thread *t, const Place *p, State state, PyObject *semaphore, int certain);
static int held_at(Thread *t, Frame *frame, PyObject *lock, int begins, int nesting);

static void found_permit(Resolve *r, PyObject *semaphore)
{
    Thread *t = r->thread;
    r->found++;
    if (r->collect == NULL) {
        int where = r->exiting != NULL ? held_at(t, r->exiting, semaphore, HELD, 0) : HELD;
        if (where == LET_GO) {
            t->returned = t->returned == semaphore ? NULL : t->returned;
            return;
        }
        Place p = place_of(r->place, semaphore);
        sight_permit(t, &p, r->state, semaphore, r->certain && where == HELD);
    }
    else if (r->permits && *r->n_collect < MAX_LET_GO) {
        r->collect[(*r->n_collect)++] = semaphore;
    }
}

/* The lock whose own method the object keeps as an attribute, as Condition does with `acquire` and `release`. */
static PyObject *lock_behind(PyObject *object, PyObject *method, LockMethod *role)
{
    PyObject *bound = PyType_HasFeature(Py_TYPE(object), Py_TPFLAGS_HEAPTYPE) ? plain_attribute(object, method) : NULL;
    PyObject *lock = bound != NULL && PyCFunction_Check(bound) ? PyCFunction_GET_SELF(bound) : NULL;
    if (lock == NULL || (!Py_IS_TYPE(lock, lock_type) && !Py_IS_TYPE(lock, rlock_type))) {
        return NULL;
    }
    *role = lock_method_named(((PyCFunctionObject *)bound)->m_ml->ml_name);
    return *role == METHOD_NONE ? NULL : lock;
}

/* The function that `super().method()` calls in `code`, a method of the object's class: the next behind it. */
static PyObject *function_behind(PyObject *object, PyCodeObject *code, PyObject *method)
{
    PyObject *mro = Py_TYPE(object)->tp_mro;
    int passed = 0;
    for (Py_ssize_t i = 0; mro != NULL && i < PyTuple_GET_SIZE(mro); i++) {
        PyTypeObject *type = (PyTypeObject *)PyTuple_GET_ITEM(mro, i);
        PyObject *own = type->tp_dict == NULL ? NULL : PyDict_GetItemWithError(type->tp_dict, code->co_name);
        PyObject *found = passed && type->tp_dict != NULL ? PyDict_GetItemWithError(type->tp_dict, method) : NULL;
        PyErr_Clear();
        if (found != NULL) {
            return PyFunction_Check(found) ? found : NULL;
        }
        passed |= own != NULL && PyFunction_Check(own) && PyFunction_GET_CODE(own) == (PyObject *)code;
    }
    return NULL;
}

static int visit_call(void *context, PyCodeObject *code, const Expression *e, PyObject *method, int unit)
{
    Resolve *r = context;
    (void)unit;
    if (++r->thread->steps > MAX_STEPS || method == NULL) {
        return 1;
    }
    if (e->super) {
        PyObject *function = r->nesting < 3 ? function_behind(r->object, code, method) : NULL;
        if (function != NULL) {
            r->nesting++;
            code_self_calls((PyCodeObject *)PyFunction_GET_CODE(function), visit_call, r);
            r->nesting--;
        }
        return 0;
    }
    PyObject *target = evaluate_on(e, code, r->object, NULL, NULL);
    if (target == NULL) {
        return 0;
    }
    const char *name = PyUnicode_AsUTF8(method);
    if (name == NULL) {
        PyErr_Clear();
        return 0;
    }
    Kind kind = kind_of(target);
    if (kind == KIND_LOCK || kind == KIND_RLOCK) {
        LockMethod role = lock_method_named(name);
        if ((r->want == CALL_ACQUIRE && (role == METHOD_ACQUIRE || role == METHOD_ENTER)) ||
            (r->want == CALL_RELEASE && role == METHOD_RELEASE)) {
            found_lock(r, target, kind);
        }
        return 0;
    }
    if (kind == KIND_SEMAPHORE) {
        LockMethod role = lock_method_named(name);
        if ((r->want == CALL_RELEASE) == (role == METHOD_RELEASE) && role != METHOD_NONE) {
            found_permit(r, target);
        }
        return 0;
    }
    if (kind == KIND_NONE && r->nesting < 3) {
        PyObject *outer = r->object;
        r->nesting++;
        resolve_method(r, target, method);
        r->nesting--;
        r->object = outer;
    }
    return 0;
}

/* What `object.method()` acquires or releases, by what its Python code says of self's attributes. */
static void resolve_method(Resolve *r, PyObject *object, PyObject *method)
{
    PyObject *function = _PyType_Lookup(Py_TYPE(object), method);
    if (function == NULL) {
        LockMethod role;
        PyObject *lock = lock_behind(object, method, &role);
        if (lock != NULL && (r->want == CALL_RELEASE) == (role == METHOD_RELEASE)) {
            found_lock(r, lock, kind_of(lock));
        }
        return;
    }
    if (!PyFunction_Check(function)) {
        return;
    }
    r->object = object;
    code_self_calls((PyCodeObject *)PyFunction_GET_CODE(function), visit_call, r);
}

static void resolve_exit_stack(Thread *t, const Place *p, State state, PyObject *callbacks, int nesting);
static int locks_behind(Thread *t, PyObject *object, PyObject **locks, int room);
static void sight_manager(Thread *t, const Place *p, State state, PyObject *manager, int nesting);
static void sight_iterator(Thread *t, const Place *p, State state, PyObject *object, int nesting);
static void sight_kept(Thread *t, const Place *p, int base);

/* What a frame that stands in `yield from` or `await` has handed on to. */
static void sight_delegate(Thread *t, const Place *p, State state, int nesting)
{
    if (p->unit < 0 || p->unit >= p->info->n_units || p->info->units[p->unit].depth < 0 || !delegates_at(p->info, p->unit)) {
        return;
    }
    int depth = p->info->units[p->unit].depth;
    PyObject *to = frame_slot(p->frame, p->code, depth - 2);
#if PY_AT_LEAST(3, 15)
    if (to == NULL) { /* as with FOR_ITER: two slots */
        to = frame_slot(p->frame, p->code, depth - 3);
    }
#endif
    sight_iterator(t, p, state, to, nesting);
}

static void sight_generator(Thread *t, const Place *p, State state, PyObject *generator, int nesting)
{
    t->look->firm = 0;
    Frame *frame = suspended_frame(generator);
    if (frame == NULL || nesting > MAX_NESTING) {
        return;
    }
    PyCodeObject *code = frame_code(frame);
    if (code == NULL) {
        return;
    }
    Place inner = {frame, code, code_info(code), frame_unit(frame, code), -1, p->manager, NULL, p->unsure};
    if (inner.unit > 0 && inner.unit < inner.info->n_units && inner.info->units[inner.unit].depth >= 0) {
        sight_method_of_manager(t, &inner, inner.unit - inner.info->units[inner.unit].back);
    }
    sight_frame_locks(t, &inner, state, nesting + 1);
    sight_delegate(t, &inner, state, nesting + 1);
}

typedef struct {
    Thread *thread;
    const Place *place;
    State state;
    int nesting;
    PyObject *owner; /* of what is visited: an iterator in Python, and whether it is its dict that is gone through */
    int in_dict;
} Inside;

static int visit_inside(PyObject *object, void *context)
{
    Inside *i = context;
    sight_iterator(i->thread, i->place, i->state, object, i->nesting + 1);
    return 0;
}

static int visit_kept(PyObject *object, void *context)
{
    Inside *i = context;
    if (PyGen_CheckExact(object)) {
        Place inner = *i->place;
        Frame *frame = suspended_frame(object);
        int own = frame != NULL && frame_code(frame) != NULL && first_local(frame) == i->owner; /* `self` of its own method */
        inner.unsure |= Py_REFCNT(object) > 1 || Py_REFCNT(i->owner) > 1 + own;
        i->thread->steps++;
        sight_generator(i->thread, &inner, i->state, object, i->nesting + 1);
    }
    else if (PyDict_CheckExact(object) && !i->in_dict && PyDict_GET_SIZE(object) < 64) { /* its own, most likely */
        i->in_dict = 1;
        PyDict_Type.tp_traverse(object, visit_kept, context);
        i->in_dict = 0;
    }
    return 0;
}

/* An iterator written in Python that goes on with generators which it keeps in attributes. */
static void sight_kept_generators(Thread *t, const Place *p, State state, PyObject *object, int nesting)
{
    PyObject *function = _PyType_Lookup(Py_TYPE(object), name_next);
    if (function == NULL || !PyFunction_Check(function) ||
        !code_drives((PyCodeObject *)PyFunction_GET_CODE(function))) {
        return;
    }
    Inside inside = {t, p, state, nesting, object, 0};
    t->look->firm = 0;
    t->steps++;
    Py_TYPE(object)->tp_traverse(object, visit_kept, &inside);
}

/* A generator that waits to be gone on with, or an iterator that has one inside. */
static void sight_iterator(Thread *t, const Place *p, State state, PyObject *object, int nesting)
{
    if (object == NULL || nesting > MAX_NESTING || t->steps > MAX_STEPS) {
        return;
    }
    PyTypeObject *type = Py_TYPE(object);
    if (PyGen_CheckExact(object) || PyCoro_CheckExact(object) || PyAsyncGen_CheckExact(object)) {
        t->steps++;
        sight_generator(t, p, state, object, nesting);
    }
    else if (type == &PyEnum_Type || type == &PyZip_Type || type == &PyMap_Type || type == &PyFilter_Type ||
             (type == &PyTuple_Type && nesting > 0 && PyTuple_GET_SIZE(object) < 16) ||
             strncmp(type->tp_name, "itertools.", 10) == 0) {
        t->look->firm = 0;
        Inside inside = {t, p, state, nesting, NULL, 0};
        t->steps++;
        type->tp_traverse(object, visit_inside, &inside);
    }
    else if (type->tp_iternext != NULL && PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE)) {
        sight_kept_generators(t, p, state, object, nesting);
    }
}

static void sight_permit(Thread *t, const Place *p, State state, PyObject *semaphore, int certain)
{
    if (t->returned == semaphore) {
        t->returned = NULL; /* of several, the one that a release() further in has given back */
        return;
    }
    sight(t, p, state, KIND_SEMAPHORE, semaphore, certain);
}

static void sight_manager(Thread *t, const Place *p, State state, PyObject *manager, int nesting)
{
    if (manager == NULL || nesting > MAX_NESTING || ++t->steps > MAX_STEPS) {
        return;
    }
    for (int i = 0; i < t->n_waiting; i++) {
        if (t->waiting[i] == manager) {
            return;
        }
    }
    t->look->firm = 0;
    const TypeInfo *type = type_info(Py_TYPE(manager));
    Kind kind = type->kind == KIND_NONE ? kind_of(manager) : type->kind;
    if (kind == KIND_LOCK || kind == KIND_RLOCK) {
        sight_lock(t, p, state, manager, kind, 1);
        return;
    }
    if (kind == KIND_SEMAPHORE) {
        if (state != STATE_ACQUIRING) {
            sight_permit(t, p, state, manager, 1);
        }
        return;
    }
    if (kind == KIND_FOREIGN) {
        sight(t, p, state, kind, manager, 1);
        return;
    }
    if (kind == KIND_BUFFERED || !PyType_HasFeature(Py_TYPE(manager), Py_TPFLAGS_HEAPTYPE)) {
        return;
    }
    Place inner = *p;
    inner.manager = Py_TYPE(manager);
    PyObject *generator = type->shape == SHAPE_GENERATOR ? plain_attribute(manager, name_gen) : NULL;
    if (generator != NULL && (PyGen_CheckExact(generator) || PyAsyncGen_CheckExact(generator))) {
        sight_generator(t, &inner, state, generator, nesting);
        return;
    }
    PyObject *callbacks = type->shape == SHAPE_EXIT_STACK ? plain_attribute(manager, name_exit_callbacks) : NULL;
    if (callbacks != NULL && strcmp(Py_TYPE(callbacks)->tp_name, "collections.deque") == 0) {
        resolve_exit_stack(t, &inner, state, callbacks, nesting);
        return;
    }
    Frame *exiting = nesting == 0 ? t->exiting : NULL;
    Resolve r = {.thread = t, .place = &inner, .state = state, .want = CALL_ACQUIRE, .certain = 1, .exiting = exiting};
    resolve_method(&r, manager, name_enter);
    if (!r.found) {
        resolve_method(&r, manager, name_aenter);
    }
    if (!r.found) {
        r = (Resolve){.thread = t, .place = &inner, .state = state, .want = CALL_RELEASE, .exiting = exiting};
        resolve_method(&r, manager, name_exit);
    }
    if (!r.found) {
        resolve_method(&r, manager, name_aexit);
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Whether what is being left has been let go of already
 */

/* Of whom the locks are that a function takes or lets go of: its frame, or what its parameter and its globals would be. */
typedef struct {
    Frame *frame;
    PyObject *first, *globals, *closure;
} Variables;

static PyObject *value_of(const Expression *e, PyCodeObject *code, const Variables *v)
{
    return v->frame != NULL ? evaluate(e, code, v->frame) : evaluate_on(e, code, v->first, v->globals, v->closure);
}

/* A function in Python and its first parameter, NULL where that is not known. */
typedef struct {
    PyObject *function, *first;
} Target;

static Variables variables_of_function(Target called)
{
    return (Variables){NULL, called.first, PyFunction_GET_GLOBALS(called.function), PyFunction_GET_CLOSURE(called.function)};
}

/* What `object.method()`, or `object()` if there is no method, runs. `function` is NULL if that is nothing in Python. */
static Target target_of(PyObject *object, PyObject *method)
{
    Target target = {NULL, NULL};
    if (method == NULL || PyModule_CheckExact(object)) {
        PyObject *called = method == NULL ? object : plain_attribute(object, method);
        if (called != NULL && PyMethod_Check(called)) {
            target = (Target){PyMethod_GET_FUNCTION(called), PyMethod_GET_SELF(called)};
        }
        else if (called != NULL && PyType_Check(called)) {
            target.function = _PyType_Lookup((PyTypeObject *)called, name_init); /* of an object that is not there yet */
        }
        else {
            target.function = called;
        }
    }
    else {
        target.function = _PyType_Lookup(PyType_Check(object) ? (PyTypeObject *)object : Py_TYPE(object), method);
        PyTypeObject *kind = target.function == NULL ? NULL : Py_TYPE(target.function);
        if (kind == &PyStaticMethod_Type) {
            target.function = plain_attribute(target.function, name_function);
        }
        else if (kind == &PyClassMethod_Type) {
            target.function = plain_attribute(target.function, name_function);
            target.first = PyType_Check(object) ? object : (PyObject *)Py_TYPE(object);
        }
        else if (!PyType_Check(object)) {
            target.first = object;
        }
    }
    int runs = target.function != NULL && PyFunction_Check(target.function);
    if (runs) {
        int flags = ((PyCodeObject *)PyFunction_GET_CODE(target.function))->co_flags;
        runs = !(flags & (CO_GENERATOR | CO_ASYNC_GENERATOR)); /* those run when somebody goes on with them */
    }
    return runs ? target : (Target){NULL, NULL};
}

static int held_in(Thread *t, Variables v, PyCodeObject *code, PyObject *lock, int begins, int unit, int nesting,
                   int *at_unit);

static int effect_of_function(Thread *t, PyObject *function, PyObject *first, PyObject *lock, int begins, int nesting)
{
    PyCodeObject *code = (PyCodeObject *)PyFunction_GET_CODE(function);
    int effect;
    if (nesting > 3 || ++t->steps > MAX_STEPS) {
        return 0;
    }
    Variables v = variables_of_function((Target){function, first});
    int set = held_in(t, v, code, lock, HELD, -1, nesting + 1, &effect);
    if (set & LET_GO) {
        return set == LET_GO ? LETS_GO : MAY_LET_GO;
    }
    set = begins == HELD ? 0 : held_in(t, v, code, lock, LET_GO, -1, nesting + 1, &effect);
    return set == HELD ? TAKES : 0;
}

/* Whether it is a call of a method of the first parameter, or of an attribute of it. */
static int is_on_first(const NamedCall *call)
{
    return call->method >= 0 && call->expression.index == 0 &&
           (call->expression.base == BASE_LOCAL || call->expression.base == BASE_CELL);
}

/* What `object.method()` does to a lock, if that is held (`begins`) or not. */
static int effect_of_call(Thread *t, PyObject *object, PyObject *method, PyObject *lock, int begins, int nesting)
{
    const char *name = method == NULL ? NULL : PyUnicode_AsUTF8(method);
    if (name == NULL || object == NULL || nesting > 3 || ++t->steps > MAX_STEPS) {
        PyErr_Clear();
        return 0;
    }
    LockMethod role = lock_method_named(name);
    Kind kind = kind_of(object);
    PyObject *target = object;
    if (kind == KIND_NONE) {
        Target called = target_of(object, method);
        if (called.function != NULL) {
            return effect_of_function(t, called.function, called.first, lock, begins, nesting);
        }
        target = _PyType_Lookup(Py_TYPE(object), method) == NULL ? lock_behind(object, method, &role) : NULL;
    }
    if (target != lock) {
        return 0;
    }
    return role == METHOD_RELEASE ? LETS_GO : role != METHOD_NONE ? TAKES : 0;
}

typedef struct {
    Thread *thread;
    Variables variables;
    PyObject *lock;
    uint8_t *effects;
    int begins, nesting, any;
} Effects;

static void add_effect(Effects *e, int unit, int effect)
{
    if (effect && !e->effects[unit]) {
        e->effects[unit] = (uint8_t)effect;
        e->any |= (effect == TAKES) == (e->begins == LET_GO);
    }
}

static void effect_of_named(Effects *e, PyCodeObject *code, const NamedCall *call)
{
    const Expression *expression = &call->expression;
    PyObject *method = call->method < 0 ? NULL : code_name(code, call->method);
    if (expression->super) {
        const Variables *v = &e->variables;
        PyObject *first = v->frame != NULL ? first_local(v->frame) : v->first;
        PyObject *function = first == NULL || method == NULL ? NULL : function_behind(first, code, method);
        if (function != NULL) {
            add_effect(e, call->unit, effect_of_function(e->thread, function, first, e->lock, e->begins, e->nesting));
        }
        return;
    }
    if (!is_on_first(call) && call->keeps == KEEPS_NOT && call->gives == KEEPS_NOT) {
        return; /* (`self` may be of another class each time) */
    }
    PyObject *object = value_of(expression, code, &e->variables);
    if (method != NULL) {
        add_effect(e, call->unit, effect_of_call(e->thread, object, method, e->lock, e->begins, e->nesting));
    }
    else if (object != NULL) {
        Target called = target_of(object, NULL);
        if (called.function != NULL) {
            add_effect(e, call->unit,
                       effect_of_function(e->thread, called.function, called.first, e->lock, e->begins, e->nesting));
        }
    }
}

/* Whether `lock`, which is held or not when `code` begins, is held when that comes to `unit` (-1: when it returns): HELD, LET_GO,
 * or both where that depends on the way it took, or where it is not seen to do anything about it. `at_unit`: what the call
 * at `unit` will do; -1 where no call does anything. */
static int held_in(Thread *t, Variables v, PyCodeObject *code, PyObject *lock, int begins, int unit, int nesting,
                   int *at_unit)
{
    const CodeInfo *info = code_calls(code);
    Effects e = {t, v, lock, PyMem_RawCalloc((size_t)info->n_units + 1, 1), begins, nesting, 0};
    int set = unit < 0 || begins == LET_GO ? begins : HELD | LET_GO;
    *at_unit = -1;
    if (e.effects == NULL) {
        return HELD | LET_GO;
    }
    for (int i = 0; i < info->n_calls; i++) {
        if (t->wide || is_on_first(&info->calls[i])) {
            effect_of_named(&e, code, &info->calls[i]);
        }
    }
    for (int i = 0; i < info->n_sites; i++) {
        const CallSite *site = &info->sites[i];
        int released = site->role == CALL_RELEASE;
        if (site->expression < 0 || call_unit(info, site->unit) != site->unit || !(released || site->role == CALL_ACQUIRE)) {
            continue;
        }
        const Expression *expression = &info->expressions[site->expression];
        PyObject *object = value_of(expression, code, &v);
        if (released) {
            add_effect(&e, site->unit, effect_of_call(t, object, name_release, lock, begins, nesting));
        }
        else if (object == lock) {
            add_effect(&e, site->unit, TAKES);
            t->attempted |= site->arguments > 0;
        }
    }
    if (e.any) {
        set = code_held(info, code, begins, e.effects, unit);
        *at_unit = unit < 0 ? 0 : e.effects[call_unit(info, unit)];
    }
    PyMem_RawFree(e.effects);
    return set;
}

static int call_result(const Place *p, int base, PyObject **result);

/* The frame that `frame` calls at this moment; `through_c`: not directly. */
static Frame *inner_of(Thread *t, Frame *frame, int *through_c)
{
    Frame *inner = thread_top(t->thread);
    while (inner != NULL && frame_is_shim(inner)) {
        inner = inner->previous;
    }
    *through_c = 1;
    while (inner != NULL && inner != frame) {
        Frame *outer = frame_outer(inner, through_c);
        if (outer == frame) {
            return inner;
        }
        inner = outer;
    }
    return NULL;
}

static int held_at(Thread *t, Frame *frame, PyObject *lock, int begins, int nesting)
{
    PyCodeObject *code = frame_code(frame);
    const CodeInfo *info = code == NULL ? NULL : code_info(code);
    int unit = code == NULL ? -1 : frame_unit(frame, code);
    if (unit < 0 || unit >= info->n_units || info->units[unit].depth < 0 || nesting > 4) {
        return begins == LET_GO ? LET_GO : HELD | LET_GO;
    }
    if (info->permit == PERMIT_RETURNED && first_local(frame) == lock) {
        return t->returned == lock ? LET_GO : HELD;
    }
    Place p = {.frame = frame, .code = code, .info = info, .unit = unit};
    int base = unit - info->units[unit].back, effect, through_c;
    int set = held_in(t, (Variables){.frame = frame}, code, lock, begins, base, nesting, &effect);
    if (effect == 0 || (effect == TAKES) != (begins == LET_GO)) {
        return set;
    }
    Frame *inner = inner_of(t, frame, &through_c);
    PyObject *result;
    if (inner != NULL) { /* also where this code says nothing: a function that it defines may be what lets go */
        return held_at(t, inner, lock, begins, nesting + 1);
    }
    if (effect < 0 || !call_result(&p, base, &result)) {
        return set;
    }
    if (effect == TAKES) {
        return result == Py_False ? set : HELD;
    }
    return effect == LETS_GO ? LET_GO : set | LET_GO;
}

/* Works out for `lock` how far `frame`, which lets go of it, has come. What a frame further in has told stands. */
static void judge(Thread *t, Frame *frame, PyObject *lock)
{
    if (t->n_judged == MAX_LET_GO || judgement(t, lock)) {
        return;
    }
    int steps = t->steps;
    int where = held_at(t, frame, lock, HELD, 0);
    t->steps = steps;
    t->judged[t->n_judged].lock = lock;
    t->judged[t->n_judged++].where = where ? where : HELD | LET_GO;
}

/* `exiting`: the frame of the manager's __exit__, if there is one; NULL and others say nothing. */
static void sight_leaving(Thread *t, const Place *p, PyObject *manager, Frame *exiting)
{
    t->exiting = exiting;
    sight_manager(t, p, STATE_LEAVING, manager, 0);
    t->exiting = NULL;
}

/* Where the manager was entered that is left here; -1 where the frame does not tell. */
static int entered_at(const Place *p, PyObject *manager)
{
    int only = -1, several = 0;
    for (int r = 1; r < p->info->n_regions; r++) {
        Expression e;
        int enter = p->info->regions[r].enter;
        if (enter < 0) {
            continue;
        }
        if (code_enters(p->info, enter, &e) && evaluate(&e, p->code, p->frame) == manager) {
            return enter;
        }
        several |= only >= 0 && only != enter;
        only = enter;
    }
    return several ? -1 : only;
}

/* Whether the lock is one that this thread's Condition.wait has let go of. */
static int has_let_go(Thread *t, PyObject *lock)
{
    for (int i = 0; i < t->n_waiting; i++) {
        t->n_let_go = 0;
        Resolve r = {.thread = t, .want = CALL_ACQUIRE, .collect = t->let_go, .n_collect = &t->n_let_go};
        resolve_method(&r, t->waiting[i], name_enter);
        for (int k = 0; k < t->n_let_go; k++) {
            if (t->let_go[k] == lock) {
                return 1;
            }
        }
    }
    return 0;
}

/* `lock.release`, or another method of a lock or manager that lets go of it. */
static void sight_method(Thread *t, const Place *p, State state, PyObject *method, int nesting)
{
    if (PyCFunction_Check(method) && PyCFunction_GET_SELF(method) != NULL) {
        PyObject *lock = PyCFunction_GET_SELF(method);
        Kind kind = kind_of(lock);
        if ((kind == KIND_LOCK || kind == KIND_RLOCK) &&
            lock_method_named(((PyCFunctionObject *)method)->m_ml->ml_name) == METHOD_RELEASE) {
            sight_lock(t, p, state, lock, kind, 1);
        }
    }
    else if (PyMethod_Check(method)) {
        PyObject *function = PyMethod_GET_FUNCTION(method);
        const char *text = PyFunction_Check(function) ? PyUnicode_AsUTF8(((PyFunctionObject *)function)->func_name) : NULL;
        PyErr_Clear();
        if (text == NULL || strcmp(text, "release") != 0) {
            sight_manager(t, p, state, PyMethod_GET_SELF(method), nesting + 1);
            return;
        }
        PyObject *object = PyMethod_GET_SELF(method), *locks[4];
        int n = locks_behind(t, object, locks, 4);
        for (int i = 0; i < n; i++) {
            sight_lock(t, p, state, locks[i], kind_of(locks[i]), 1);
        }
        if (kind_of(object) == KIND_SEMAPHORE) {
            sight_permit(t, p, state, object, 1);
        }
    }
}

/* A bound method, or a function around one. */
static void sight_callback(Thread *t, const Place *p, State state, PyObject *callback, int nesting)
{
    PyObject *cells = PyFunction_Check(callback) ? PyFunction_GET_CLOSURE(callback) : NULL;
    sight_method(t, p, state, callback, nesting);
    for (Py_ssize_t k = 0; cells != NULL && k < PyTuple_GET_SIZE(cells); k++) {
        PyObject *value = PyCell_GET(PyTuple_GET_ITEM(cells, k));
        if (value != NULL) {
            sight_method(t, p, state, value, nesting);
        }
    }
}

/* contextlib.ExitStack: a deque of (is_sync, callback); a callback is a bound __exit__, or a function around one. */
static void resolve_exit_stack(Thread *t, const Place *p, State state, PyObject *callbacks, int nesting)
{
    Py_ssize_t n = PyObject_Size(callbacks);
    for (Py_ssize_t i = 0; i < n && i < 64; i++) {
        PyObject *item = PySequence_GetItem(callbacks, i);
        if (item == NULL) {
            PyErr_Clear();
            return;
        }
        PyObject *callback = PyTuple_CheckExact(item) && PyTuple_GET_SIZE(item) == 2 ? PyTuple_GET_ITEM(item, 1) : NULL;
        if (callback != NULL) {
            sight_callback(t, p, state, callback, nesting);
        }
        Py_DECREF(item);
    }
}

/* Whether the last of an ExitStack's callbacks is this one, or the exit of this manager. */
static int is_stacked(PyObject *stack, PyObject *what)
{
    PyObject *callbacks = stack == NULL ? NULL : plain_attribute(stack, name_exit_callbacks);
    PyObject *item = callbacks == NULL ? NULL : PySequence_GetItem(callbacks, -1);
    PyErr_Clear();
    PyObject *callback = item != NULL && PyTuple_CheckExact(item) && PyTuple_GET_SIZE(item) == 2 ? PyTuple_GET_ITEM(item, 1) : NULL;
    int is = callback != NULL && PyMethod_Check(callback) && PyMethod_GET_SELF(callback) == what;
    if (callback != NULL && PyFunction_Check(callback) && PyFunction_GET_CLOSURE(callback) != NULL) {
        PyObject *cells = PyFunction_GET_CLOSURE(callback);
        for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(cells); k++) {
            is |= PyCell_GET(PyTuple_GET_ITEM(cells, k)) == what;
        }
    }
    Py_XDECREF(item);
    return is;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The value stack
 */

/* The manager behind what a `with` keeps in its slot: a bound __exit__ up to 3.13, the manager itself from 3.14 on. */
static PyObject *manager_of(PyObject *slot)
{
#if PY_AT_LEAST(3, 14)
    return slot;
#else
    if (slot == NULL) {
        return NULL;
    }
    if (PyMethod_Check(slot)) {
        return PyMethod_GET_SELF(slot);
    }
    if (PyCFunction_Check(slot)) {
        return PyCFunction_GET_SELF(slot);
    }
    return NULL;
#endif
}

/* Whether `slot` holds the exit method of `manager`'s class, as the interpreter looks it up. */
static int is_exit_of(PyObject *slot, PyObject *manager)
{
    if (slot == NULL || manager == NULL) {
        return 0;
    }
    PyObject *exit = _PyType_Lookup(Py_TYPE(manager), name_exit);
    if (exit == NULL) {
        return 0;
    }
    if (slot == exit) {
        return 1;
    }
    if (PyMethod_Check(slot)) {
        return PyMethod_GET_FUNCTION(slot) == exit;
    }
    if (PyCFunction_Check(slot)) {
        return strcmp(((PyCFunctionObject *)slot)->m_ml->ml_name, "__exit__") == 0;
    }
    return 0;
}

/* Whether `frame` is one of the __exit__ of `manager`'s class, a function of Python. */
static int runs_exit_of(Frame *frame, PyObject *manager)
{
    PyCodeObject *code = frame == NULL || manager == NULL ? NULL : frame_code(frame);
    PyObject *exit = code == NULL ? NULL : _PyType_Lookup(Py_TYPE(manager), name_exit);
    return exit != NULL && PyFunction_Check(exit) && PyFunction_GET_CODE(exit) == (PyObject *)code;
}

typedef struct {
    PyObject *callable, *self;
    int arguments; /* slot of the first argument after self */
    int n_arguments;
    PyObject *keywords;
    PyObject *given; /* a tuple of arguments that come before them; NULL none */
} Call;

/* The lowest slot of a call, where its result will be; -1 none. */
static int lowest_of_call(const Unit *u)
{
    switch (op_kind(u->op)) {
    case OP_CALL:
        return u->depth - (int)u->arg - 2;
    case OP_CALL_KW:
        return u->depth - (int)u->arg - 3;
    case OP_CALL_EX:
        return PY_VERSION_HEX >= 0x030E0000 ? u->depth - 4 : u->depth - 3 - (int)(u->arg & 1);
    default:
        return -1;
    }
}

/* The call that the frame is in, and only if it is still going on (internals: trap 4). */
static int call_of(const Place *p, int base, Call *c)
{
    const Unit *u = &p->info->units[base];
    OpKind kind = op_kind(u->op);
    int n = kind == OP_CALL_EX ? 0 : (int)u->arg, lowest = lowest_of_call(u);
    memset(c, 0, sizeof(*c));
    if (lowest < 0) {
        return 0;
    }
    if (kind == OP_CALL_KW) {
        c->keywords = frame_slot(p->frame, p->code, u->depth - 1);
    }
#if PY_AT_LEAST(3, 13)
    c->callable = frame_slot(p->frame, p->code, lowest);
    c->self = frame_slot(p->frame, p->code, lowest + 1);
#if PY_AT_LEAST(3, 14)
    if (frame_depth(p->frame, p->code) != u->depth) {
        return 0;
    }
#else
    PyObject *callable = c->callable;
    if (callable == NULL || !(known_call(callable) != NULL || lock_method(callable) != METHOD_NONE ||
                              PyCFunction_Check(callable) || known_instance(callable) != NULL ||
                              known_wait(callable) >= 0 || strcmp(Py_TYPE(callable)->tp_name, "functools.partial") == 0)) {
        return 0;
    }
#endif
#else
    PyObject *method = (PyObject *)slot_address(p->frame, p->code, lowest);
    if (method != NULL && known_call(method) == NULL && lock_method(method) == METHOD_NONE && known_wait(method) < 0) {
        return 0; /* a result, or a method that says nothing */
    }
    PyObject *second = frame_slot(p->frame, p->code, lowest + 1);
    c->callable = method != NULL ? method : second;
    c->self = method != NULL ? second : NULL;
    if (second == NULL) {
        return 0;
    }
#endif
    c->arguments = lowest + 2;
    c->n_arguments = n;
    if (kind == OP_CALL_EX) {
        c->given = frame_slot(p->frame, p->code, c->arguments);
    }
    return c->callable != NULL;
}

#if !PY_AT_LEAST(3, 14)
/* Whether a method written in C is being called: once it has returned, its result is in the lowest slot. */
static int calls_method(const Place *p, int lowest)
{
    PyObject *first = frame_slot(p->frame, p->code, lowest);
    return first != NULL && !PyFunction_Check(first) &&
           PyType_HasFeature(Py_TYPE(first), Py_TPFLAGS_METHOD_DESCRIPTOR);
}
#endif

int live_slots(Frame *frame, PyCodeObject *code, int c_below)
{
#if PY_AT_LEAST(3, 14)
    (void)c_below;
    return Py_MAX(frame_depth(frame, code), 0);
#else
    const CodeInfo *info = code_info(code);
    Place p = {.frame = frame, .code = code, .info = info, .unit = frame_unit(frame, code)};
    if (p.unit < 0 || p.unit >= info->n_units || info->units[p.unit].depth < 0) {
        return 0;
    }
    int base = p.unit - info->units[p.unit].back, lowest = lowest_of_call(&info->units[base]), n = 0;
    Call c;
    if (lowest >= 0) {
        return c_below && (call_of(&p, base, &c) || calls_method(&p, lowest)) ? info->units[base].depth : lowest;
    }
    if (op_kind(info->units[base].op) == OP_FOR_ITER) {
        return info->units[base].depth;
    }
    for (int r = info->units[base].with; r; r = info->regions[r].outer) {
        n = Py_MAX(n, info->regions[r].slot + 1);
    }
    for (int r = info->units[base].iterator; r; r = info->regions[r].outer) {
        n = Py_MAX(n, info->regions[r].slot + 1);
    }
    return n;
#endif
}

int perhaps_stale_slot(Frame *frame, PyCodeObject *code)
{
#if !PY_AT_LEAST(3, 14)
    const CodeInfo *info = code_info(code);
    int unit = frame_unit(frame, code);
    if (unit >= 0 && unit < info->n_units && info->units[unit].depth >= 0) {
        const Unit *u = &info->units[unit - info->units[unit].back];
        if (op_kind(u->op) == OP_CALL_EX) {
            return lowest_of_call(u) + 2;
        }
    }
#endif
    return -1;
}

static PyObject *keywords_before(const Place *p, int base);

static int has_keywords(const Place *p, int base)
{
    const Unit *u = &p->info->units[base];
    switch (op_kind(u->op)) {
    case OP_CALL:
        return keywords_before(p, base) != NULL;
    case OP_CALL_KW:
        return 1;
    default:
        return 0;
    }
}

CInside what_is_inside(Frame *frame, PyCodeObject *code, Frame *inner)
{
    CInside inside = {NULL, NULL, 1};
    const CodeInfo *info = code_info(code);
    Place p = {.frame = frame, .code = code, .info = info, .unit = frame_unit(frame, code)};
    if (p.unit < 0 || p.unit >= info->n_units || info->units[p.unit].depth < 0) {
        return inside;
    }
    int base = p.unit - info->units[p.unit].back, lowest = lowest_of_call(&info->units[base]);
    Call c;
    if (lowest < 0) {
        return inside;
    }
    inside.self = frame_slot(frame, code, lowest + 1);
    if (call_of(&p, base, &c)) {
        const Known *call = known_call(c.callable);
        inside.self = c.self;
        if (call != NULL && call->resource == RESOURCE_CONSUMES && call->streams && c.n_arguments > 0) {
            inside.kept = frame_slot(frame, code, c.arguments);
        }
        else if (call != NULL && call->resource == RESOURCE_STREAM && call->streams & STREAM_KEPT) {
            inside.kept = c.self;
        }
    }
    if (inside.kept != NULL || inner == NULL) {
        return inside;
    }
    /* type.__call__ has the object that it makes while its __init__ runs; so has, once more, the call of an __init__ that is
     * given keywords (_PyStack_UnpackDict). */
    PyCodeObject *callee = frame_code(inner);
    PyObject *made = callee != NULL && callee->co_argcount > 0 && callee->co_name == name_init ? frame_local(inner, 0) : NULL;
    if (made != NULL && PyCell_Check(made)) {
        made = PyCell_GET(made);
    }
    for (int slot = lowest; made != NULL && slot < lowest + 2; slot++) {
        if (frame_slot(frame, code, slot) == (PyObject *)Py_TYPE(made)) {
            inside.kept = made;
            inside.times = 1 + has_keywords(&p, base);
        }
    }
    return inside;
}

/* Whether the call at `base` has returned already: the thread waits for the GIL before the next instruction. */
static int call_result(const Place *p, int base, PyObject **result)
{
    const Unit *u = &p->info->units[base];
    int lowest = lowest_of_call(u);
    if (lowest < 0) {
        return 0;
    }
#if PY_AT_LEAST(3, 14)
    if (frame_depth(p->frame, p->code) != lowest + 1) {
        return 0;
    }
    *result = frame_slot(p->frame, p->code, lowest);
    return 1;
#else
    *result = frame_slot(p->frame, p->code, lowest);
    return *result == Py_True || *result == Py_False || *result == Py_None;
#endif
}

/* Whether the call at `base`, of a function in C, has returned and its answer lies on the stack. Up to 3.13 what lies there is
 * taken to be the answer if it is a tuple: no method's call has one in that slot. */
static int call_answered(const Place *p, int base)
{
#if PY_AT_LEAST(3, 14)
    return frame_depth(p->frame, p->code) == lowest_of_call(&p->info->units[base]) + 1;
#else
    PyObject *slot = frame_slot(p->frame, p->code, lowest_of_call(&p->info->units[base]));
    return slot != NULL && PyTuple_CheckExact(slot);
#endif
}

static int host_is_name(PyObject *host)
{
    if (PyTuple_CheckExact(host)) {
        host = PyTuple_GET_SIZE(host) ? PyTuple_GET_ITEM(host, 0) : NULL;
    }
    if (host == NULL || !(PyUnicode_Check(host) || PyBytes_Check(host))) {
        return 0;
    }
    const char *text = PyUnicode_Check(host) ? PyUnicode_AsUTF8(host) : PyBytes_AS_STRING(host);
    if (text == NULL) {
        PyErr_Clear();
        return 0;
    }
    return text[strspn(text, "0123456789abcdefABCDEF:.%")] != '\0';
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
    for (Frame *f = thread_top(t->thread); f != NULL && seen < references; f = frame_outer(f, &c_below)) {
        PyCodeObject *code = frame_is_shim(f) ? NULL : frame_code(f);
        if (code == NULL) {
            c_below = 1;
            continue;
        }
        for (int i = 0; i < code->co_nlocalsplus; i++) {
            seen += frame_refers(f, i, object);
        }
        int slots = live_slots(f, code, c_below), stale = perhaps_stale_slot(f, code);
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
static void sight_next(Thread *t, const Place *p, PyObject *iterator, int kept)
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
static PyObject *keywords_before(const Place *p, int base)
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
static int locks_behind(Thread *t, PyObject *object, PyObject **locks, int room)
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
    Resolve r = {.thread = t, .want = CALL_RELEASE, .collect = found, .n_collect = &n};
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
static int releases(Thread *t, const Place *p, PyObject *lock)
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

static void sight_call(Thread *t, Place *p, int base, Call *c, int nesting)
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
            int mutex = !p->info->joins && (method != METHOD_ACQUIRE || p->info->enters || releases(t, p, self));
            t->look->items[t->look->n - 1].mutex = (unsigned)mutex;
        }
        return;
    }
    if (call == NULL) {
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
    if (call->host_name) {
        int named = 0;
        for (int i = 0; i < c->n_arguments && i < 2 && !named; i++) {
            PyObject *argument = frame_slot(p->frame, p->code, c->arguments + i);
            named = argument != NULL && host_is_name(argument);
        }
        if (!named) {
            return;
        }
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

/* ---------------------------------------------------------------------------------------------------------------------
 * Frames
 */

/* The locks behind an expression that was acquired here; not `pending`: perhaps a second time, and an RLock knows. */
static void sight_expression(Thread *t, const Place *p, State state, int expression, int named_at, int certain, int pending)
{
    t->look->firm = 0;
    PyObject *object = evaluate(&p->info->expressions[expression], p->code, p->frame);
    if (object == NULL) {
        return;
    }
    Kind kind = kind_of(object);
    PyObject *locks[4];
    int n = locks_behind(t, object, locks, 4);
    Place inner = *p;
    inner.named_at = named_at;
    inner.manager = kind == KIND_NONE ? Py_TYPE(object) : p->manager;
    for (int i = 0; i < n; i++) {
        if (!pending && !Py_IS_TYPE(locks[i], rlock_type)) {
            continue;
        }
        if (state == STATE_LEAVING && p->inner != NULL && Py_IS_TYPE(locks[i], lock_type) && is_locked(locks[i])) {
            judge(t, p->inner, locks[i]);
        }
        sight_lock(t, &inner, state, locks[i], kind_of(locks[i]), certain);
    }
    /* In a manager's own methods it is told for the manager. */
    if (pending && kind == KIND_SEMAPHORE && !p->info->exits && !p->info->enters) {
        sight_permit(t, &inner, state, object, certain);
    }
}

/* What holds for as long as a frame stands where it does, whether it runs or is suspended. */
static void sight_frame_locks(Thread *t, Place *p, State state, int nesting)
{
    const CodeInfo *info = p->info;
    if (info->boring || p->unit < 0 || p->unit >= info->n_units || nesting > MAX_NESTING) {
        return;
    }
    const Unit *u = &info->units[p->unit];
    if (u->depth < 0) {
        return;
    }
    for (int r = u->with; r; r = info->regions[r].outer) {
        p->named_at = info->regions[r].enter;
        sight_manager(t, p, state, manager_of(frame_slot(p->frame, p->code, info->regions[r].slot)), nesting);
    }
    for (int r = u->iterator; r; r = info->regions[r].outer) {
        PyObject *iterator = frame_slot(p->frame, p->code, info->regions[r].slot);
#if PY_AT_LEAST(3, 15)
        if (iterator == NULL) { /* an iterator and its index take two slots there */
            iterator = frame_slot(p->frame, p->code, info->regions[r].slot - 1);
        }
#endif
        sight_iterator(t, p, state, iterator, nesting);
    }
    int own = p->code->co_name == name_next ? 0 : -1; /* in its own __next__ an iterator's generator runs, or is over */
    for (int i = 0; info->drives && i < p->code->co_nlocalsplus; i++) {
        PyObject *local = frame_local(p->frame, i);
        int unsure = p->unsure;
        if (local != NULL && PyCell_Check(local)) {
            t->look->firm = 0;
            local = PyCell_GET(local);
            unsure = 1;
        }
        if (local == NULL || i == own) {
            continue;
        }
        Place inner = *p;
        inner.unsure = unsure;
        if (PyGen_CheckExact(local) || PyCoro_CheckExact(local) || PyAsyncGen_CheckExact(local)) {
            inner.unsure |= Py_REFCNT(local) > 1;
            sight_generator(t, &inner, state, local, nesting);
        }
        else if (Py_TYPE(local)->tp_iternext != NULL && PyType_HasFeature(Py_TYPE(local), Py_TPFLAGS_HEAPTYPE)) {
            sight_kept_generators(t, &inner, state, local, nesting);
        }
    }
    if (u->attempt) {
        const CallSite *site = &info->sites[u->attempt - 1];
        if (frame_slot(p->frame, p->code, code_answer_slot(info, site->unit)) == Py_True) {
            sight_expression(t, p, state, site->expression, site->unit, 1, 1);
        }
    }
    for (int k = 0; k < info->n_expressions; k++) {
        int pending = (u->pending >> k) & 1;
        if (!pending && !((u->guarded >> k) & 1)) {
            continue;
        }
        int base = p->unit - u->back, certain = (u->sure >> k) & 1;
        const CallSite *site = code_site(info, base);
        PyObject *result;
        State now = state;
        if (site != NULL && site->expression == k && site->role == CALL_RELEASE) {
            if (call_result(p, base, &result)) {
                continue; /* given back: only the GIL is missing */
            }
            now = STATE_LEAVING;
        }
        if (info->answers[k] != ANSWER_NONE) {
            PyObject *answer = info->answers[k] < 0 ? NULL : frame_local(p->frame, info->answers[k]);
            t->look->firm = 0;
            answer = answer != NULL && PyCell_Check(answer) ? PyCell_GET(answer) : answer;
            if (answer == Py_False) {
                continue;
            }
            certain = certain && answer == Py_True;
        }
        int named_at = -1;
        for (int i = 0; i < info->n_sites; i++) {
            if (info->sites[i].expression == k) {
                named_at = info->sites[i].unit;
                break;
            }
        }
        sight_expression(t, p, now, k, named_at, certain, pending);
    }
}

/* ExitStack.__exit__ takes the callbacks from the stack, and has one in its hands until that has returned. */
static void sight_next_callback(Thread *t, const Place *p, int base)
{
    const CodeInfo *info = p->info;
    int pops, calls = called_local(info, p->code, info->stacked, &pops), through_c;
    PyObject *callback = frame_local(p->frame, info->stacked), *result;
    if (calls < 0 || pops < 0) {
        return;
    }
    base = call_unit(info, base);
    Frame *inner = inner_of(t, p->frame, &through_c);
    if (base == pops) {
        PyObject *item = inner == NULL && call_answered(p, base) ? frame_slot(p->frame, p->code, code_answer_slot(info, base)) : NULL;
        callback = item != NULL && PyTuple_CheckExact(item) && PyTuple_GET_SIZE(item) == 2 ? PyTuple_GET_ITEM(item, 1) : NULL;
    }
    else {
        uint8_t *effects = PyMem_RawCalloc((size_t)info->n_units + 1, 1);
        int where = LET_GO;
        if (effects != NULL) {
            effects[pops] = TAKES;
            effects[calls] = LETS_GO;
            where = code_held(info, p->code, LET_GO, effects, base);
            PyMem_RawFree(effects);
        }
        if (where != HELD || (base == calls && inner == NULL && call_result(p, base, &result))) {
            return;
        }
        PyCodeObject *code = inner == NULL ? NULL : frame_code(inner);
        const CodeInfo *wrapper = code == NULL ? NULL : code_info(code);
        int unit = code == NULL ? -1 : frame_unit(inner, code);
        if (wrapper != NULL && unit >= 0 && unit < wrapper->n_units && base == calls) {
            /* The function around `callback(*args)`. */
            Place q = {.frame = inner, .code = code, .info = wrapper, .unit = unit};
            unit -= wrapper->units[unit].back;
            if (inner_of(t, inner, &through_c) == NULL && op_kind(wrapper->units[unit].op) == OP_CALL_EX &&
                call_result(&q, unit, &result)) {
                return;
            }
        }
    }
    if (callback == NULL || (PyMethod_Check(callback) && PyMethod_GET_SELF(callback) == t->left)) {
        return;
    }
    sight_callback(t, p, STATE_LEAVING, callback, 0);
}

/* A method of a manager or of an ExitStack, running or suspended: what it is on the way to let go of, or has already taken. */
static void sight_method_of_manager(Thread *t, const Place *p, int base)
{
    const CodeInfo *info = p->info;
    if (!(info->exits || info->enters || info->stacks) || p->code->co_argcount < 1) {
        return;
    }
    t->look->firm = 0;
    PyObject *first = first_local(p->frame);
    if (first == NULL) {
        return;
    }
    if (info->stacks) {
        PyObject *charge = info->charge < 0 ? NULL : frame_local(p->frame, info->charge), *result;
        int has = info->entered < 0 || frame_local(p->frame, info->entered) != NULL;
        if (!has && answer_local(info, base) == info->entered) {
            has = op_kind(info->units[base].op) == OP_CALL ? call_result(p, base, &result) : 1;
        }
        if (charge != NULL && has && !is_stacked(first, charge)) {
            if (info->entered < 0) {
                sight_method(t, p, STATE_HOLDS, charge, 0);
            }
            else {
                sight_manager(t, p, STATE_HOLDS, charge, 0);
            }
        }
        return;
    }
    if (kind_of(first) != KIND_NONE || !PyType_HasFeature(Py_TYPE(first), Py_TPFLAGS_HEAPTYPE)) {
        return;
    }
    if (info->exits) {
        /* However it was called: by ExitStack, by hand, or awaited, when the caller's stack no longer shows the manager. */
        if (first != t->left) {
            if (info->stacked >= 0 && type_info(Py_TYPE(first))->shape == SHAPE_EXIT_STACK) {
                sight_next_callback(t, p, base);
            }
            sight_leaving(t, p, first, p->frame);
            t->left = first;
        }
        return;
    }
    if (first == t->entered) {
        return;
    }
    t->entered = first;
    Place inner = *p;
    inner.manager = Py_TYPE(first);
    if (type_info(Py_TYPE(first))->shape == SHAPE_GENERATOR) {
        PyObject *generator = plain_attribute(first, name_gen);
        if (generator != NULL) {
            sight_iterator(t, &inner, STATE_HOLDS, generator, 0);
        }
        return;
    }
    PyObject *locks[MAX_LET_GO];
    int n = 0, through_c;
    Resolve r = {.thread = t, .want = CALL_ACQUIRE, .collect = locks, .n_collect = &n, .permits = 1};
    resolve_method(&r, first, p->code->co_name);
    for (int i = 0; i < n; i++) {
        for (int k = t->first; k < t->look->n; k++) { /* in a method of another name it is a mutex as well */
            Sighting *s = &t->look->items[k];
            s->mutex |= s->subject == locks[i] && s->state == STATE_ACQUIRING;
        }
    }
    Frame *called = n ? inner_of(t, p->frame, &through_c) : NULL;
    PyCodeObject *callee = called == NULL ? NULL : frame_code(called);
    for (int i = 0; i < n; i++) {
        Kind kind = kind_of(locks[i]);
        if (kind == KIND_SEMAPHORE && callee != NULL && code_info(callee)->permit) {
            continue; /* sight_semaphore has told it */
        }
        int where = held_at(t, p->frame, locks[i], LET_GO, 0);
        if (!(where & HELD)) {
            continue;
        }
        if (kind == KIND_SEMAPHORE) {
            sight_permit(t, &inner, STATE_HOLDS, locks[i], where == HELD);
        }
        else {
            sight_lock(t, &inner, STATE_HOLDS, locks[i], kind, where == HELD);
        }
    }
}

/* Borrowed: while the GIL is held a module lock that is in use is kept by its user. */
PyObject *referent(PyObject *reference)
{
    if (!PyWeakref_CheckRef(reference)) {
        return NULL;
    }
#if PY_AT_LEAST(3, 13)
    PyObject *object;
    if (PyWeakref_GetRef(reference, &object) != 1) {
        PyErr_Clear();
        return NULL;
    }
    Py_DECREF(object);
    return object;
#else
    PyObject *object = PyWeakref_GET_OBJECT(reference);
    return object == Py_None ? NULL : object;
#endif
}

/* From 3.12 on a module lock has an RLock inside, which the import machinery holds for a moment now and then. */
static int is_of_import(PyObject *rlock)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(module_locks, &position, &key, &value)) {
        PyObject *lock = referent(value);
        if (lock != NULL && plain_attribute(lock, name_lock) == rlock) {
            return 1;
        }
    }
    return 0;
}

int sight_unseen(Look *l, PyThreadState *thread, PyObject *rlock, int certain)
{
    for (int i = 0; i < l->n; i++) {
        const Sighting *s = &l->items[i];
        if (s->subject == rlock && s->thread == thread && s->state != STATE_ACQUIRING) {
            return 0;
        }
    }
    int through_c;
    Frame *frame = thread_top(thread);
    while (frame != NULL && (frame_is_shim(frame) || frame_code(frame) == NULL)) {
        frame = frame_outer(frame, &through_c);
    }
    Sighting *s = frame == NULL || is_of_import(rlock) ? NULL : add(l);
    if (s == NULL) {
        return 0;
    }
    PyCodeObject *code = frame_code(frame);
    *s = (Sighting){
        .thread = thread, .state = STATE_HOLDS, .kind = KIND_RLOCK, .certain = (unsigned)certain, .subject = rlock,
        .entry = ENTRY_UNSEEN, .frame = frame, .code = code, .unit = frame_unit(frame, code), .named_at = -1,
    };
    return 1;
}

static void sight_import(Thread *t, Place *p, PyObject *waited_for)
{
    if (t->importing) {
        return;
    }
    t->importing = 1;
    int named = 0;
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(module_locks, &position, &key, &value)) {
        PyObject *lock = referent(value);
        if (lock == NULL) {
            continue;
        }
        PyObject *owner = plain_attribute(lock, name_owner);
        if (owner != NULL && PyLong_CheckExact(owner) &&
            PyLong_AsUnsignedLong(owner) == (unsigned long)t->thread->thread_id) {
            sight(t, p, STATE_IMPORTING, KIND_IMPORT, lock, 1);
            named = 1;
        }
        PyErr_Clear();
    }
    if (!named) {
        sight(t, p, STATE_IMPORTING, KIND_IMPORT, waited_for != NULL ? waited_for : module_locks, 0);
    }
}

static void sight_wait(Thread *t, Place *p, int base)
{
    const CodeInfo *info = p->info;
    PyObject *condition = info->wait_self < 0 ? NULL : frame_local(p->frame, info->wait_self);
    PyObject *waiter = info->wait_waiter < 0 ? NULL : frame_local(p->frame, info->wait_waiter);
    if (condition == NULL) {
        return;
    }
    if (waiter != NULL && Py_IS_TYPE(waiter, lock_type)) {
        add_waiter(t->look, condition, waiter);
    }
    const Unit *u = &info->units[base];
    const CallSite *site = code_site(info, base);
    PyObject *result;
    int let_go = (u->pending & PENDING_LET_GO) != 0, through_c;
    if (site != NULL && site->role == CALL_RELEASE_SAVE) { /* Python, where the condition's lock is no RLock */
        Frame *saves = inner_of(t, p->frame, &through_c);
        PyObject *locks[1];
        let_go = saves != NULL ? locks_behind(t, condition, locks, 1) == 1 && held_at(t, saves, locks[0], HELD, 0) == LET_GO
                               : call_result(p, base, &result);
    }
    if (let_go && site != NULL && site->role == CALL_ACQUIRE_RESTORE && call_result(p, base, &result)) {
        let_go = 0;
    }
    if (let_go) {
        if (t->n_waiting < MAX_LET_GO) {
            t->waiting[t->n_waiting++] = condition;
        }
    }
}

/* threading.Semaphore.acquire counts a permit as taken, and release as returned, under its condition's lock. In acquire the
 * local `rc` is True from then on; release has counted once it is past entering the `with`. */
static void sight_semaphore(Thread *t, Place *p, int base)
{
    PyObject *self = frame_local(p->frame, 0);
    t->look->firm = 0;
    if (self == NULL || type_info(Py_TYPE(self))->kind != KIND_SEMAPHORE) {
        return;
    }
    if (p->info->permit == PERMIT_TAKEN) {
        if (p->info->permit_local >= 0 && frame_local(p->frame, p->info->permit_local) == Py_True) {
            sight(t, p, STATE_HOLDS, KIND_SEMAPHORE, self, 1);
        }
    }
    else {
        int enter = p->info->n_units;
        for (int i = 1; i < p->info->n_regions; i++) {
            if (p->info->regions[i].enter >= 0) {
                enter = Py_MIN(enter, p->info->regions[i].enter);
            }
        }
        if (base > enter) {
            t->returned = self;
        }
    }
}

/* Whether an object of this type goes without running any code of the program's. */
static int goes_quietly(PyTypeObject *type)
{
    return type == &PyLong_Type || type == &PyBool_Type || type == Py_TYPE(Py_None) || type == &PyUnicode_Type ||
           type == &PyBytes_Type || type == &PyFloat_Type;
}

/* C code that calls Python may go on with an iterator that it was given: `list(map(f, generator))`. What is called here may
 * also be a finalizer, when the call is over and its arguments are let go of, from the first on: so they are looked at from the
 * last on, and none before one that may run it. (CALL_FUNCTION_EX up to 3.13 leaves a list that it has freed in its slot.) */
static void sight_arguments(Thread *t, const Place *p, int base)
{
    const Unit *u = &p->info->units[base];
    int lowest = lowest_of_call(u), slot = u->depth - 1 - (op_kind(u->op) == OP_CALL_KW);
#if PY_AT_LEAST(3, 14)
    if (frame_depth(p->frame, p->code) != u->depth) {
        return;
    }
#else
    if (op_kind(u->op) == OP_CALL_EX) {
        return;
    }
#endif
    for (; lowest >= 0 && slot >= lowest + 2; slot--) {
        PyObject *argument = frame_slot(p->frame, p->code, slot);
        if (argument == NULL) {
            return;
        }
        if (Py_TYPE(argument)->tp_iternext != NULL) {
            sight_iterator(t, p, STATE_HOLDS, argument, 0);
        }
        if (!goes_quietly(Py_TYPE(argument))) {
            return;
        }
    }
}

static void sight_frame(Thread *t, Frame *frame, PyCodeObject *code, const CodeInfo *info, int c_below)
{
    Frame *inner = t->inner;
    Place p = {frame, code, info, frame_unit(frame, code), -1, NULL, c_below ? NULL : inner, 0};
    if (p.unit < 0 || p.unit >= info->n_units || info->units[p.unit].depth < 0) {
        return;
    }
    int base = p.unit - info->units[p.unit].back;
    const Unit *u = &info->units[base];
    if (info->importlib) {
        sight_import(t, &p, info->module_lock ? frame_local(frame, 0) : NULL);
        return;
    }
    if (info->wait) {
        sight_wait(t, &p, base);
    }
    if (info->permit) {
        sight_semaphore(t, &p, base);
    }
    OpKind kind = op_kind(u->op);
    PyObject *result = NULL;
    sight_method_of_manager(t, &p, base);
    if (kind == OP_BEFORE_WITH) {
        if (c_below) {
            t->look->firm = 0;
            PyObject *slot = frame_slot(frame, code, u->depth - 1);
            PyObject *manager = slot;
#if !PY_AT_LEAST(3, 12)
            if (slot != NULL && (PyMethod_Check(slot) || PyCFunction_Check(slot))) {
                manager = manager_of(slot);
            }
#endif
            Kind k = manager == NULL ? KIND_NONE : kind_of(manager);
            if (k == KIND_LOCK || k == KIND_RLOCK || k == KIND_FOREIGN) {
                p.named_at = base;
                int before = t->look->n;
                sight_lock(t, &p, STATE_ACQUIRING, manager, k, 1);
                if (t->look->n > before) {
                    t->look->items[t->look->n - 1].mutex = 1;
                }
            }
        }
    }
    else if (is_enter_call(info, base)) {
        t->look->firm = 0;
        int depth = frame_depth(frame, code);
        if (depth == u->depth && c_below) {
            PyObject *manager = frame_slot(frame, code, u->depth - 1);
            Kind k = manager == NULL ? KIND_NONE : kind_of(manager);
            if (k == KIND_LOCK || k == KIND_RLOCK || k == KIND_FOREIGN) {
                p.named_at = base;
                int before = t->look->n;
                sight_lock(t, &p, STATE_ACQUIRING, manager, k, 1);
                if (t->look->n > before) {
                    t->look->items[t->look->n - 1].mutex = 1;
                }
            }
        }
        else if (depth == u->depth - 1) {
            p.named_at = base;
            sight_manager(t, &p, STATE_HOLDS, frame_slot(frame, code, u->depth - 3), 0);
        }
    }
    else if (is_exit_call(info, base)) {
        t->look->firm = 0;
#if PY_AT_LEAST(3, 14)
        PyObject *manager = NULL;
        if (!c_below && inner != NULL) {
            PyCodeObject *callee = frame_code(inner);
            PyObject *first = callee != NULL && callee->co_argcount >= 1 ? first_local(inner) : NULL;
            manager = runs_exit_of(inner, first) ? first : NULL;
        }
        else if (frame_depth(frame, code) == u->depth) {
            manager = frame_slot(frame, code, u->depth - 4);
            if (!is_exit_of(frame_slot(frame, code, u->depth - 5), manager)) {
                manager = NULL;
            }
        }
#else
        PyObject *slot = frame_slot(frame, code, u->depth - 4);
        PyObject *manager = manager_of(slot);
        if (manager == NULL && slot != NULL && c_below && inner != NULL) {
            /* A bound method lends its own slot to `self` for the time of the call (method_vectorcall). */
            manager = runs_exit_of(inner, slot) ? slot : NULL;
        }
        else if (!is_exit_of(slot, manager)) {
            manager = NULL;
        }
#endif
        PyObject *coroutine = manager != NULL || !c_below ? NULL : frame_slot(frame, code, code_answer_slot(info, base));
        if (coroutine != NULL && PyCoro_CheckExact(coroutine) && unbegun_frame(coroutine)) {
            manager = first_local(unbegun_frame(coroutine)); /* an __aexit__ that nothing has waited for yet */
        }
        if (manager != NULL && manager != t->left) {
            p.named_at = entered_at(&p, manager);
            sight_leaving(t, &p, manager, runs_exit_of(inner, manager) ? inner : NULL);
            p.named_at = -1;
        }
    }
    else if (kind == OP_WITH_EXCEPT) {
#if PY_AT_LEAST(3, 14)
        PyObject *manager = frame_slot(frame, code, u->depth - 4);
#else
        PyObject *manager = manager_of(frame_slot(frame, code, u->depth - 4));
#endif
        if (manager != NULL && manager != t->left) {
            p.named_at = entered_at(&p, manager);
            sight_leaving(t, &p, manager, runs_exit_of(inner, manager) ? inner : NULL);
            p.named_at = -1;
        }
    }
    else if (c_below && (kind == OP_CALL || kind == OP_CALL_KW || kind == OP_CALL_EX)) {
        Call c;
        if (inner != NULL) {
            sight_arguments(t, &p, base);
        }
        if (call_of(&p, base, &c)) {
            sight_call(t, &p, base, &c, 0);
        }
        else {
            const CallSite *site = code_site(info, base);
            if (site != NULL && (site->role == CALL_ACQUIRE || site->role == CALL_ACQUIRE_RESTORE) &&
                site->expression >= 0 && call_result(&p, base, &result) &&
                (result == Py_True || site->role == CALL_ACQUIRE_RESTORE) && (info->enters || !info->wait)) {
                /* It has it, and only the GIL to go on is missing. */
                t->look->firm = 0;
                PyObject *locks[4];
                PyObject *object = evaluate(&info->expressions[site->expression], code, frame);
                int n = locks_behind(t, object, locks, 4);
                for (int i = 0; i < n; i++) {
                    if (info->enters || releases(t, &p, locks[i])) {
                        p.named_at = base;
                        sight_lock(t, &p, STATE_HOLDS, locks[i], kind_of(locks[i]), 1);
                    }
                }
            }
        }
    }
    else if (c_below && kind == OP_FOR_ITER) {
        PyObject *iterator = frame_slot(frame, code, u->depth - 1);
#if PY_AT_LEAST(3, 15)
        if (iterator == NULL) {
            iterator = frame_slot(frame, code, u->depth - 2);
        }
#endif
        sight_next(t, &p, iterator, 0);
    }
    else if (kind == OP_OTHER) {
        int manager_at, exit_at;
        if (exit_call_after(info, base, &manager_at, &exit_at) >= 0) {
            t->look->firm = 0;
            PyObject *manager = manager_of(frame_slot(frame, code, manager_at));
            PyObject *slot = frame_slot(frame, code, exit_at);
            if (is_exit_of(slot, manager)) {
                p.named_at = entered_at(&p, manager);
                sight_manager(t, &p, STATE_LEAVING, manager, 0);
                p.named_at = -1;
            }
        }
    }
    sight_frame_locks(t, &p, STATE_HOLDS, 0);
    if (info->keeps) {
        sight_kept(t, &p, base);
    }
    if (inner == NULL) {
        sight_delegate(t, &p, STATE_HOLDS, 0); /* it is stopped before it goes on with what it waits for */
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Locks that one function takes and another lets go of, called by a third: `store.begin()` ... `store.commit()`
 */

/* Whether the code may return with a lock held that it has taken, as far as its own calls of acquire() say. */
static int returns_with_lock(PyCodeObject *code)
{
    const CodeInfo *info = code_info(code);
    for (int i = 0; i < info->n_sites && !info->wait && !info->permit; i++) {
        const CallSite *site = &info->sites[i];
        const Expression *e = site->expression < 0 ? NULL : &info->expressions[site->expression];
        if (site->role != CALL_ACQUIRE || e == NULL || !(e->base == BASE_GLOBAL || e->index == 0)) {
            continue;
        }
        uint8_t *effects = PyMem_RawCalloc((size_t)info->n_units + 1, 1);
        for (int k = 0; effects != NULL && k < info->n_sites; k++) {
            const CallSite *other = &info->sites[k];
            if (other->expression == site->expression && call_unit(info, other->unit) == other->unit) {
                effects[other->unit] = other->role == CALL_ACQUIRE ? TAKES : other->role == CALL_RELEASE ? LETS_GO : 0;
            }
        }
        int held = effects == NULL ? 0 : code_held(info, code, LET_GO, effects, -1);
        PyMem_RawFree(effects);
        if (held & HELD) {
            return 1;
        }
    }
    return 0;
}

/* Whether the function, or one that it calls, takes locks and returns with them, or (`gives`) lets go of some. */
static int may_change_locks(Target called, int gives, int nesting)
{
    PyCodeObject *code = (PyCodeObject *)PyFunction_GET_CODE(called.function);
    if (code_waits(code)) {
        return 0; /* it has the lock again when it returns */
    }
    if (gives ? code_releases(code) : code_acquires(code) && returns_with_lock(code)) {
        return 1;
    }
    PyObject *globals = PyFunction_GET_GLOBALS(called.function);
    for (Py_ssize_t i = 0; nesting < 2 && i < PyTuple_GET_SIZE(code->co_names); i++) {
        PyObject *name = PyTuple_GET_ITEM(code->co_names, i);
        PyObject *global = PyDict_CheckExact(globals) ? PyDict_GetItemWithError(globals, name) : NULL;
        Target further = called.first == NULL ? (Target){NULL, NULL} : target_of(called.first, name);
        if (further.function == NULL && global != NULL) {
            further = target_of(global, NULL);
        }
        if (further.function != NULL && further.function != called.function && may_change_locks(further, gives, nesting + 1)) {
            return 1;
        }
    }
    return 0;
}

/* Once for each code: which of its calls may leave a lock held, and whether one lets go of some. What a variable leads to
 * may not be there yet when a thread is first met in it. */
static void decide_what_is_kept(CodeInfo *info, PyCodeObject *code, Frame *frame, unsigned look)
{
    info->asked_in = look;
    code_calls(code);
    int takes = 0, gives = 0, functions = 0, unknown = 0;
    for (int i = 0; i < info->n_sites; i++) {
        takes |= info->sites[i].role == CALL_ACQUIRE;
        gives |= info->sites[i].role == CALL_RELEASE;
    }
    for (int i = 0; i < info->n_calls; i++) {
        NamedCall *call = &info->calls[i];
        PyObject *object = call->expression.super ? NULL : evaluate(&call->expression, code, frame);
        if (object == NULL) {
            unknown |= !call->expression.super;
            continue;
        }
        PyObject *method = call->method < 0 ? NULL : code_name(code, call->method);
        Target called = target_of(object, method);
        if (called.function == NULL) {
            LockMethod role = METHOD_NONE;
            if (method != NULL && kind_of(object) == KIND_NONE && lock_behind(object, method, &role) != NULL) {
                call->keeps = role == METHOD_RELEASE ? KEEPS_NOT : KEEPS_PERHAPS; /* self._take = lock.acquire */
                takes |= role != METHOD_RELEASE;
                gives |= role == METHOD_RELEASE;
                functions = 1;
            }
            continue;
        }
        if (call->keeps == KEEPS_UNKNOWN) {
            call->keeps = may_change_locks(called, 0, 0) ? KEEPS_PERHAPS : KEEPS_NOT;
        }
        functions |= call->keeps == KEEPS_PERHAPS;
        takes |= call->keeps == KEEPS_PERHAPS;
        if (call->gives == KEEPS_UNKNOWN) {
            call->gives = may_change_locks(called, 1, 0) ? KEEPS_PERHAPS : KEEPS_NOT;
        }
        functions |= call->gives == KEEPS_PERHAPS;
        gives |= call->gives == KEEPS_PERHAPS;
    }
    info->keeps = takes && gives && functions;
    info->undecided = unknown && !info->keeps ? (uint8_t)(info->undecided - 1) : 0;
}

#define MAX_KEPT 8

typedef struct {
    PyObject *locks[MAX_KEPT];
    int units[MAX_KEPT]; /* of the call that takes it */
    int n;
} Kept;

static void add_kept(Kept *kept, PyObject *lock, int unit)
{
    Kind kind = lock == NULL ? KIND_NONE : kind_of(lock);
    for (int i = 0; i < kept->n; i++) {
        if (kept->locks[i] == lock) {
            return;
        }
    }
    if ((kind == KIND_LOCK || kind == KIND_RLOCK || kind == KIND_SEMAPHORE) && kept->n < MAX_KEPT) {
        kept->units[kept->n] = unit;
        kept->locks[kept->n++] = lock;
    }
}

/* The locks that the function acquires, or functions that it calls. */
static void find_kept(Thread *t, Kept *kept, Target called, int unit, int nesting)
{
    PyCodeObject *code = (PyCodeObject *)PyFunction_GET_CODE(called.function);
    Variables v = variables_of_function(called);
    const CodeInfo *info = code_calls(code);
    if (++t->steps > MAX_STEPS) {
        return;
    }
    for (int i = 0; i < info->n_sites; i++) {
        PyObject *locks[4];
        const CallSite *site = &info->sites[i];
        PyObject *object = site->role != CALL_ACQUIRE || site->expression < 0
                               ? NULL
                               : value_of(&info->expressions[site->expression], code, &v);
        for (int n = locks_behind(t, object, locks, 4); n-- > 0;) {
            add_kept(kept, locks[n], unit);
        }
        if (object != NULL && kind_of(object) == KIND_SEMAPHORE) {
            add_kept(kept, object, unit);
        }
    }
    for (int i = 0; i < info->n_calls && nesting < 2; i++) {
        const NamedCall *call = &info->calls[i];
        PyObject *object = call->expression.super ? NULL : value_of(&call->expression, code, &v);
        Target further = object == NULL ? (Target){NULL, NULL}
                                        : target_of(object, call->method < 0 ? NULL : code_name(code, call->method));
        if (further.function != NULL && may_change_locks(further, 0, nesting + 1)) {
            find_kept(t, kept, further, unit, nesting + 1);
        }
    }
}

/* Whether a call in this code lets go of the lock: then it is used as a mutex here, and not as a signal to somebody else. */
static int lets_go_of(Thread *t, const Place *p, PyObject *lock)
{
    if (releases(t, p, lock)) {
        return 1;
    }
    for (int i = 0; i < p->info->n_calls; i++) {
        const NamedCall *call = &p->info->calls[i];
        PyObject *object = call->expression.super ? NULL : evaluate(&call->expression, p->code, p->frame);
        PyObject *method = call->method < 0 ? NULL : code_name(p->code, call->method);
        Target called = object == NULL ? (Target){NULL, NULL} : target_of(object, method);
        int effect = called.function != NULL            ? effect_of_function(t, called.function, called.first, lock, HELD, 0)
                     : object != NULL && method != NULL ? effect_of_call(t, object, method, lock, HELD, 0)
                                                        : 0;
        if (effect == LETS_GO || effect == MAY_LET_GO) {
            return 1;
        }
    }
    return 0;
}

/* Whether the lock, which is held where this frame stands, still is as far as the call at `base` has come. */
static int held_in_call(Thread *t, const Place *p, int base, PyObject *lock)
{
    int effect, through_c;
    held_in(t, (Variables){.frame = p->frame}, p->code, lock, LET_GO, base, 0, &effect);
    Frame *inner = effect == LETS_GO || effect == MAY_LET_GO ? inner_of(t, p->frame, &through_c) : NULL;
    PyObject *result;
    if (inner != NULL) {
        return held_at(t, inner, lock, HELD, 1);
    }
    return effect == LETS_GO && call_result(p, base, &result) ? LET_GO : HELD;
}

/* What calls that have returned left held, and calls that are still to come let go of. */
static void sight_kept(Thread *t, const Place *p, int base)
{
    t->look->firm = 0;
    Kept kept = {.n = 0};
    for (int i = 0; i < p->info->n_calls; i++) {
        const NamedCall *call = &p->info->calls[i];
        PyObject *object = call->keeps != KEEPS_PERHAPS ? NULL : evaluate(&call->expression, p->code, p->frame);
        PyObject *method = call->method < 0 ? NULL : code_name(p->code, call->method);
        Target called = object == NULL ? (Target){NULL, NULL} : target_of(object, method);
        LockMethod role;
        if (called.function != NULL) {
            t->steps = 0;
            find_kept(t, &kept, called, call->unit, 0);
        }
        else if (object != NULL && method != NULL && kind_of(object) == KIND_NONE) {
            add_kept(&kept, lock_behind(object, method, &role), call->unit);
        }
    }
    for (int i = 0; i < p->info->n_sites; i++) {
        const CallSite *site = &p->info->sites[i];
        if (site->role == CALL_ACQUIRE && site->expression >= 0) {
            add_kept(&kept, evaluate(&p->info->expressions[site->expression], p->code, p->frame), site->unit);
        }
    }
    t->wide = 1;
    for (int i = 0; i < kept.n; i++) {
        PyObject *lock = kept.locks[i];
        Kind kind = kind_of(lock);
        Sighting *seen = NULL;
        for (int k = t->first; k < t->look->n && seen == NULL; k++) {
            seen = t->look->items[k].subject == lock ? &t->look->items[k] : NULL;
        }
        int taken = kind == KIND_LOCK    ? is_locked(lock)
                    : kind == KIND_RLOCK ? rlock_owner(lock) == (unsigned long)t->thread->thread_id
                                         : semaphore_value(lock) == 0;
        t->steps = 0;
        if (!(taken || seen != NULL) || !lets_go_of(t, p, lock)) {
            continue;
        }
        if (seen != NULL) {
            seen->mutex |= seen->state == STATE_ACQUIRING;
            continue; /* by a frame further in, which knows better */
        }
        t->attempted = t->steps = 0;
        int where = held_at(t, p->frame, lock, LET_GO, 0), attempted = t->attempted;
        t->steps = 0;
        int still = where & HELD ? held_in_call(t, p, base, lock) : 0;
        if (!(still & HELD)) {
            continue;
        }
        Place from = *p;
        from.named_at = kept.units[i];
        int before = t->look->n;
        if (kind == KIND_SEMAPHORE) {
            sight_permit(t, &from, STATE_HOLDS, lock, 0);
        }
        else {
            sight_lock(t, &from, STATE_HOLDS, lock, kind, 0);
        }
        if (t->look->n > before) {
            t->look->items[before].entry = ENTRY_KEPT;
        }
    }
    t->wide = 0;
}

/* The same of locks that only the function itself has a name for: a variable of its own (`c.lock.acquire(); return c`), an item,
 * its argument. That a thread has called one that takes such a lock, and has still to call one that lets go, is seen in its
 * frame as before; which lock it is shows only by there being one that is locked, that nothing else explains, and that the
 * frame's variables lead to. */

static int is_nameless(const CodeInfo *info, const CallSite *site, int first_known)
{
    const Expression *e = site->expression < 0 ? NULL : &info->expressions[site->expression];
    return e == NULL || ((e->base == BASE_LOCAL || e->base == BASE_CELL) && !(e->index == 0 && first_known));
}

/* NAMELESS_TAKEN, NAMELESS_GIVEN or NAMELESS_NOT. */
static int nameless_of(Target called, int nesting)
{
    PyCodeObject *code = (PyCodeObject *)PyFunction_GET_CODE(called.function);
    Variables v = variables_of_function(called);
    const CodeInfo *info = code_calls(code);
    if (info->wait || info->permit || info->importlib || info->exits) {
        return NAMELESS_NOT;
    }
    uint8_t *effects = PyMem_RawCalloc((size_t)info->n_units + 1, 1);
    int takes = 0, gives = 0, acquires = 0;
    for (int i = 0; effects != NULL && i < info->n_sites; i++) {
        const CallSite *site = &info->sites[i];
        acquires |= site->role == CALL_ACQUIRE;
        gives |= site->role == CALL_RELEASE;
        if (call_unit(info, site->unit) != site->unit || !is_nameless(info, site, called.first != NULL)) {
            continue;
        }
        takes |= site->role == CALL_ACQUIRE;
        effects[site->unit] = site->role == CALL_ACQUIRE ? TAKES : site->role == CALL_RELEASE ? LETS_GO : 0;
    }
    for (int i = 0; effects != NULL && nesting < 2 && i < info->n_calls; i++) {
        const NamedCall *call = &info->calls[i];
        PyObject *object = call->expression.super ? NULL : value_of(&call->expression, code, &v);
        Target further = object == NULL ? (Target){NULL, NULL}
                                        : target_of(object, call->method < 0 ? NULL : code_name(code, call->method));
        int what = further.function == NULL ? NAMELESS_NOT : nameless_of(further, nesting + 1);
        takes |= what == NAMELESS_TAKEN;
        gives |= what == NAMELESS_GIVEN;
        effects[call->unit] |= what == NAMELESS_TAKEN ? TAKES : what == NAMELESS_GIVEN ? LETS_GO : 0;
    }
    int taken = takes && code_held(info, code, LET_GO, effects, -1) & HELD;
    PyMem_RawFree(effects);
    return taken ? NAMELESS_TAKEN : gives && !takes && !acquires ? NAMELESS_GIVEN : NAMELESS_NOT;
}

/* The unit of the call that took such a lock in this frame, if the frame is still to let go of it; else -1. */
static int nameless_in(Frame *frame, PyCodeObject *code)
{
    CodeInfo *info = code_calls(code);
    int unit = frame_unit(frame, code), at = -1, gives = 0;
    if (info->importlib || info->wait || info->permit || unit < 0 || unit >= info->n_units || info->units[unit].depth < 0) {
        return -1;
    }
    uint8_t *effects = PyMem_RawCalloc((size_t)info->n_units + 1, 1);
    for (int i = 0; effects != NULL && i < info->n_sites; i++) {
        const CallSite *site = &info->sites[i];
        if (call_unit(info, site->unit) == site->unit && site->expression < 0) {
            effects[site->unit] = site->role == CALL_ACQUIRE ? TAKES : site->role == CALL_RELEASE ? LETS_GO : 0;
            at = site->role == CALL_ACQUIRE ? site->unit : at;
            gives |= site->role == CALL_RELEASE;
        }
    }
    for (int i = 0; effects != NULL && i < info->n_calls; i++) {
        NamedCall *call = &info->calls[i];
        if (call->nameless == NAMELESS_UNKNOWN && !call->expression.super) {
            PyObject *object = evaluate(&call->expression, code, frame);
            Target called = object == NULL ? (Target){NULL, NULL}
                                           : target_of(object, call->method < 0 ? NULL : code_name(code, call->method));
            call->nameless = object == NULL            ? NAMELESS_UNKNOWN
                             : called.function == NULL ? NAMELESS_NOT
                                                       : nameless_of(called, 0);
        }
        effects[call->unit] |= call->nameless == NAMELESS_TAKEN ? TAKES : call->nameless == NAMELESS_GIVEN ? LETS_GO : 0;
        at = call->nameless == NAMELESS_TAKEN ? call->unit : at;
        gives |= call->nameless == NAMELESS_GIVEN;
    }
    int held = at >= 0 && gives && code_held(info, code, LET_GO, effects, unit - info->units[unit].back) & HELD;
    PyMem_RawFree(effects);
    return held ? at : -1;
}

#define MAX_REACHED 3000
#define REACHED_TABLE 8192

/* What a frame's variables lead to, nearest first. */
typedef struct {
    PyObject *objects[MAX_REACHED];
    uint16_t from[MAX_REACHED]; /* index + 1 of what led there; 0: a variable */
    uint16_t depths[MAX_REACHED];
    uint16_t table[REACHED_TABLE];
    int n, at; /* what is being followed; -1: variables */
} Reached;

static int reached(PyObject *object, void *context)
{
    Reached *r = context;
    if (object == NULL || r->n == MAX_REACHED || !PyObject_IS_GC(object) || PyType_Check(object) || PyModule_Check(object) ||
        PyCode_Check(object) || PyFrame_Check(object)) {
        return r->n == MAX_REACHED;
    }
    size_t at = ((uintptr_t)object >> 4) * (uintptr_t)11400714819323198485ull >> 40 & (REACHED_TABLE - 1);
    while (r->table[at] && r->objects[r->table[at] - 1] != object) {
        at = (at + 1) & (REACHED_TABLE - 1);
    }
    if (!r->table[at]) {
        r->objects[r->n] = object;
        r->from[r->n] = (uint16_t)(r->at + 1);
        r->depths[r->n] = (uint16_t)(r->at < 0 ? 0 : r->depths[r->at] + 1);
        r->table[at] = (uint16_t)++r->n;
    }
    return 0;
}

static void reach_globals(Reached *r, PyObject *globals, PyCodeObject *code)
{
    for (Py_ssize_t i = 0; globals != NULL && PyDict_CheckExact(globals) && i < PyTuple_GET_SIZE(code->co_names); i++) {
        reached(PyDict_GetItemWithError(globals, PyTuple_GET_ITEM(code->co_names, i)), r);
    }
}

static void reach_from(Reached *r, Frame *frame, PyCodeObject *code, int globals)
{
    for (int i = 0; i < code->co_nlocalsplus; i++) {
        reached(frame_local(frame, i), r);
    }
    if (globals) {
        reach_globals(r, frame_globals(frame), code);
    }
}

static void reach_none(Reached *r)
{
    r->n = 0;
    r->at = -1;
    memset(r->table, 0, sizeof(r->table));
}

static void reach_further(Reached *r, int globals)
{
    for (r->at = 0; r->at < r->n; r->at++) {
        PyObject *object = r->objects[r->at];
        if (PyFunction_Check(object) && globals) { /* what it names, not all that its module has */
            reach_globals(r, PyFunction_GET_GLOBALS(object), (PyCodeObject *)PyFunction_GET_CODE(object));
            reached(PyFunction_GET_CLOSURE(object), r);
        }
        else if (PyFunction_Check(object)) {
            continue;
        }
        else if (PyObject_GC_IsTracked(object) && !PyGen_CheckExact(object) && !PyCoro_CheckExact(object) &&
                 !PyAsyncGen_CheckExact(object)) {
            Py_TYPE(object)->tp_traverse(object, reached, r);
        }
    }
}

/* From all frames of a thread. -> the innermost of them. */
static Frame *reach_from_thread(Reached *r, PyThreadState *ts, int globals)
{
    int through_c;
    Frame *innermost = NULL;
    reach_none(r);
    for (Frame *frame = thread_top(ts); frame != NULL; frame = frame_outer(frame, &through_c)) {
        PyCodeObject *code = frame_is_shim(frame) ? NULL : frame_code(frame);
        innermost = innermost == NULL && code != NULL ? frame : innermost;
        if (code != NULL) {
            reach_from(r, frame, code, globals);
        }
    }
    reach_further(r, globals);
    return innermost;
}

/* What is known of a lock by the functions that take it and let go of it, without the one that calls them. `no`: it is taken when its
 * keeper is made, and so a signal; or its keeper is for `with` and the like, and who has entered it frames show. */
typedef struct {
    int takes, gives, no;
} Halves;

static void add_halves(Halves *h, Thread *t, Target called, PyObject *lock)
{
    PyCodeObject *code = (PyCodeObject *)PyFunction_GET_CODE(called.function);
    t->steps = 0;
    if (code_info(code)->enters) {
        h->no |= called.first != NULL;
    }
    else if (code_acquires(code)) {
        int takes = effect_of_function(t, called.function, called.first, lock, LET_GO, 0) == TAKES;
        h->takes |= takes;
        h->no |= takes && code->co_name == name_init;
    }
    else if (code_releases(code)) {
        h->gives |= effect_of_function(t, called.function, called.first, lock, HELD, 0) == LETS_GO;
    }
}

/* Whether one function takes the lock and returns, and another lets go of it: methods of whoever keeps it, or functions that are
 * met. */
static int is_taken_by_halves(const Reached *r, int at)
{
    Look none = {.n = 0};
    Thread t = {.look = &none, .wide = 1};
    Halves h = {0, 0, 0};
    PyObject *lock = r->objects[at];
    int keeper = r->from[at] - 1;
    if (keeper >= 0 && PyDict_CheckExact(r->objects[keeper])) {
        keeper = r->from[keeper] - 1; /* the instance */
    }
    PyObject *owner = keeper < 0 ? NULL : r->objects[keeper], *mro = owner == NULL ? NULL : Py_TYPE(owner)->tp_mro;
    int met = 0;
    for (Py_ssize_t i = 0; mro != NULL && i < PyTuple_GET_SIZE(mro); i++) {
        PyObject *names = ((PyTypeObject *)PyTuple_GET_ITEM(mro, i))->tp_dict, *name, *value;
        Py_ssize_t position = 0;
        while (names != NULL && PyDict_Next(names, &position, &name, &value) && ++met < 300) {
            if (PyFunction_Check(value)) {
                add_halves(&h, &t, (Target){value, owner}, lock);
            }
        }
    }
    for (int i = 0; i < r->n; i++) {
        if (PyFunction_Check(r->objects[i])) {
            add_halves(&h, &t, (Target){r->objects[i], NULL}, lock);
        }
    }
    return h.takes && h.gives && !h.no;
}

int has_taken(PyThreadState *ts, PyObject *lock)
{
    Look none = {.n = 0};
    Thread t = {.look = &none, .thread = ts, .wide = 1};
    int through_c;
    for (Frame *frame = thread_top(ts); frame != NULL; frame = frame_outer(frame, &through_c)) {
        PyCodeObject *code = frame_is_shim(frame) ? NULL : frame_code(frame);
        t.steps = 0;
        if (code != NULL && code_info(code)->undecided) {
            decide_what_is_kept((CodeInfo *)code_info(code), code, frame, 0);
        }
        if (code != NULL && !code_info(code)->importlib && held_at(&t, frame, lock, LET_GO, 0) & HELD) {
            return 1;
        }
    }
    return 0;
}

static void add_others(Nameless *nameless, const Reached *r, int at)
{
    PyObject *keeper = r->from[at] ? r->objects[r->from[at] - 1] : NULL;
    for (int i = 0; keeper != NULL && i < r->n && nameless->n_others < MAX_NAMELESS; i++) {
        PyObject *other = r->from[i] ? r->objects[r->from[i] - 1] : NULL;
        int alike = other == keeper || (other != NULL && Py_TYPE(other) == Py_TYPE(keeper) &&
                                        PyType_HasFeature(Py_TYPE(other), Py_TPFLAGS_HEAPTYPE));
        if (i != at && alike && Py_IS_TYPE(r->objects[i], lock_type)) {
            nameless->others[nameless->n_others++] = r->objects[i];
        }
    }
}

/* For each of the locks, the frame that is nearest to it. */
typedef struct {
    Sighting at[MAX_NAMELESS];
    int depths[MAX_NAMELESS];
} Nearest;

/* By frames that have taken a lock of which only the function that did so has a name. */
static void find_takers(Nameless *nameless, Nearest *nearest, Reached *r, PyThreadState *self)
{
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(self));
    for (; ts != NULL; ts = PyThreadState_Next(ts)) {
        int through_c;
        for (Frame *frame = thread_top(ts); frame != NULL; frame = frame_outer(frame, &through_c)) {
            PyCodeObject *code = frame_is_shim(frame) ? NULL : frame_code(frame);
            int unit = code == NULL ? -1 : nameless_in(frame, code);
            if (unit < 0) {
                continue;
            }
            reach_none(r);
            reach_from(r, frame, code, 1);
            reach_further(r, 1);
            for (int i = 0; i < r->n; i++) {
                for (int k = 0; k < nameless->n; k++) {
                    if (r->objects[i] != nameless->locks[k] || r->depths[i] >= nearest->depths[k]) {
                        continue;
                    }
                    nearest->depths[k] = r->depths[i];
                    nameless->of[k] = ts == self ? MINE : OTHERS;
                    add_others(nameless, r, i);
                    nearest->at[k] = (Sighting){
                        .thread = ts, .state = STATE_HOLDS, .kind = KIND_LOCK, .subject = nameless->locks[k],
                        .entry = ENTRY_KEPT, .frame = frame, .code = code, .unit = frame_unit(frame, code), .named_at = unit,
                    };
                }
            }
        }
    }
}

/* Of the others, those that one function takes and another lets go of, whoever calls them: by the thread that is nearest. That may
 * be the forking one, which then has it itself, or may have. */
static void find_halves(Nameless *nameless, Nearest *nearest, Reached *r, PyThreadState *self)
{
    char open[MAX_NAMELESS];
    int any = 0;
    for (int k = 0; k < nameless->n; k++) {
        open[k] = nameless->of[k] == NOBODYS;
        any += open[k];
    }
    if (!any) {
        return;
    }
    reach_from_thread(r, self, 0);
    for (int i = 0; i < r->n; i++) {
        for (int k = 0; k < nameless->n; k++) {
            if (open[k] && r->objects[i] == nameless->locks[k]) {
                nearest->depths[k] = Py_MIN(nearest->depths[k], r->depths[i]);
            }
        }
    }
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(self));
    for (; ts != NULL; ts = PyThreadState_Next(ts)) {
        Frame *frame = ts == self ? NULL : reach_from_thread(r, ts, 1);
        for (int i = 0; frame != NULL && i < r->n; i++) {
            for (int k = 0; k < nameless->n; k++) {
                if (!open[k] || r->objects[i] != nameless->locks[k] || r->depths[i] >= nearest->depths[k] ||
                    !is_taken_by_halves(r, i)) {
                    continue;
                }
                PyCodeObject *code = frame_code(frame);
                nearest->depths[k] = r->depths[i];
                nameless->of[k] = OTHERS;
                nearest->at[k] = (Sighting){
                    .thread = ts, .state = STATE_HOLDS, .kind = KIND_LOCK, .subject = nameless->locks[k],
                    .entry = ENTRY_UNSEEN, .frame = frame, .code = code, .unit = frame_unit(frame, code), .named_at = -1,
                };
            }
        }
    }
}

void sight_nameless(Look *l, PyThreadState *self, Nameless *nameless)
{
    static Reached reached_objects;
    static Nearest nearest;
    for (int k = 0; k < nameless->n; k++) {
        nameless->of[k] = has_taken(self, nameless->locks[k]) ? MINE : NOBODYS;
        nearest.depths[k] = nameless->of[k] == MINE ? -1 : INT_MAX;
    }
    find_takers(nameless, &nearest, &reached_objects, self);
    find_halves(nameless, &nearest, &reached_objects, self);
    for (int k = 0; k < nameless->n; k++) {
        Sighting *s = nameless->of[k] == OTHERS ? add(l) : NULL;
        if (s != NULL) {
            *s = nearest.at[k];
        }
    }
}

int locks_taken_by(PyObject *callable, PyObject **locks, int room)
{
    Look none = {.n = 0};
    Thread t = {.look = &none, .wide = 1};
    Kept kept = {.n = 0};
    Target called = target_of(callable, NULL);
    int n = 0;
    if (called.function == NULL) {
        return 0;
    }
    find_kept(&t, &kept, called, -1, 0);
    for (int i = 0; i < kept.n && n < room; i++) {
        t.steps = 0;
        if (effect_of_function(&t, called.function, called.first, kept.locks[i], LET_GO, 0) == TAKES) {
            locks[n++] = kept.locks[i];
        }
    }
    return n;
}

int is_explained(const Look *l, PyObject *lock)
{
    for (int i = 0; i < l->n; i++) {
        if (l->items[i].subject == lock) {
            return 1;
        }
    }
    for (int i = 0; i < l->n_waiters; i++) {
        if (l->waiters[i].waiter == lock) {
            return 1;
        }
    }
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    while (ts != NULL && !thread_ends_with(ts, lock)) {
        ts = PyThreadState_Next(ts);
    }
    return ts != NULL;
}

/* For a frame that is not the innermost of the Python code that C code called. */
static inline int is_quiet(const Frame *frame, PyCodeObject *code, const CodeInfo *info)
{
    int unit = frame_unit(frame, code);
    return unit >= 0 && unit < info->n_units && info->units[unit].quiet;
}

static void look_at_thread(Look *l, PyThreadState *ts)
{
    Thread t; /* without its arrays, which the counters say are empty */
    t.look = l;
    t.thread = ts;
    t.first = l->n;
    t.n_waiting = t.n_let_go = t.n_judged = t.importing = t.steps = t.wide = t.attempted = 0;
    t.returned = t.left = t.entered = NULL;
    t.inner = t.exiting = NULL;
    Frame *frame = thread_top(ts);
    while (frame != NULL && frame_is_shim(frame)) {
        frame = frame->previous;
    }
    const CodeInfo *worker = NULL;
    Frame *worker_at = NULL;
    int c_below = 1;
    while (frame != NULL) {
        PyCodeObject *code = (PyCodeObject *)frame_executable(frame);
        const CodeInfo *info = code_info_recent(code);
        if (info == NULL) {
            code = frame_code(frame);
            info = code == NULL ? NULL : code_info(code);
        }
        if (info != NULL && info->undecided && info->asked_in != l->number) {
            decide_what_is_kept((CodeInfo *)info, code == NULL ? frame_code(frame) : code, frame, l->number);
        }
        if (info != NULL && (c_below || info->keeps || !(info->boring || is_quiet(frame, code, info)))) {
            t.steps = 0;
            sight_frame(&t, frame, code, info, c_below);
        }
        if (info != NULL && info->worker) {
            worker = info;
            worker_at = frame;
        }
        t.inner = frame;
        frame = frame_outer(frame, &c_below);
    }
    if (worker != NULL) {
        if (l->workers < l->room_at_work) {
            l->at_work[l->workers] = (AtWork){ts, worker_at};
        }
        l->workers++;
        l->news += worker_is_news(worker, worker_at);
    }
}

void look_at(Look *l, PyThreadState *self)
{
    begin_to_look();
    look_at_thread(l, self);
}

/* Thread states and frames are linked lists in cold memory: after a fork hardly a line of them is in the cache, and no page
 * in the TLB. Following the lists of many threads side by side lets the processor wait for many lines at once; the look that
 * comes after finds them there. Where the thread states are is remembered from the last look: only fetched, never followed. */
#define SIDE_BY_SIDE 64

static PyThreadState *met[SIDE_BY_SIDE];

static void fetch(const void *memory)
{
    __builtin_prefetch(memory);
    __builtin_prefetch((const char *)memory + 64);
}

static void fetch_frames(PyThreadState **threads, int n)
{
    Frame *at[SIDE_BY_SIDE];
    for (int i = 0; i < n; i++) {
        at[i] = thread_top(threads[i]);
        fetch(at[i]);
    }
    for (int step = 0; n && step < 200; step++) {
        int going = 0;
        for (int i = 0; i < n; i++) {
            Frame *next = at[i] == NULL ? NULL : at[i]->previous;
            if (next != NULL) {
                fetch(next);
                at[going++] = next;
            }
        }
        n = going;
    }
}

/* The lock of `warnings` names its owner, wherever that is: in catch_warnings() it is taken and let go of by calls that have returned
 * long before, and after, the thread is met. What it is and whether it matters the catalogue says, of the function that takes it. */
static void sight_owner_of_warnings(Look *l, PyThreadState *thread, int first)
{
    const Known *call = warnings_lock == NULL ? NULL : known_call(warnings_lock);
    int through_c;
    Frame *frame = thread_top(thread);
    while (frame != NULL && (frame_is_shim(frame) || frame_code(frame) == NULL)) {
        frame = frame_outer(frame, &through_c);
    }
    if (call == NULL || frame == NULL) {
        return;
    }
    l->firm = 0;
    Sighting *s = NULL;
    for (int i = first; i < l->n && s == NULL; i++) {
        s = l->items[i].kind == KIND_CALL && l->items[i].entry == call->entry ? &l->items[i] : NULL;
    }
    if (s == NULL) {
        s = add(l);
        if (s == NULL) {
            return;
        }
        PyCodeObject *code = frame_code(frame);
        *s = (Sighting){
            .thread = thread, .state = STATE_INSIDE, .kind = KIND_CALL, .subject = warnings_lock, .entry = call->entry,
            .frame = frame, .code = code, .unit = frame_unit(frame, code), .named_at = -1,
        };
    }
    s->certain = 1;
}

void look(Look *l, PyThreadState *self)
{
    begin_to_look();
    l->n = l->n_waiters = l->threads = l->failed = l->workers = l->news = 0;
    l->firm = 1;
    l->number++;
    l->by = self->id;
    l->switches = gil_switches();
    unsigned long owner = warnings_owner();
    for (int i = 0; i < SIDE_BY_SIDE && met[i] != NULL; i++) {
        fetch(met[i]);
    }
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(self));
    while (ts != NULL) {
        PyThreadState *batch[SIDE_BY_SIDE];
        int n = 0;
        for (; ts != NULL && n < SIDE_BY_SIDE; ts = PyThreadState_Next(ts)) {
            if (ts != self) {
                batch[n++] = ts;
            }
        }
        if (l->threads == 0 && memcmp(met, batch, sizeof(batch[0]) * (size_t)n) != 0) {
            memcpy(met, batch, sizeof(batch[0]) * (size_t)n);
        }
        fetch_frames(batch, n);
        for (int i = 0; i < n; i++) {
            int first = l->n;
            look_at_thread(l, batch[i]);
            if (owner && owner == (unsigned long)batch[i]->thread_id) {
                sight_owner_of_warnings(l, batch[i], first);
            }
        }
        l->threads += n;
    }
    drop_unreachable(l, self);
}

void look_unless_still(Look *l, PyThreadState *self)
{
    if (!l->firm || l->by != self->id || l->switches != gil_switches()) {
        look(l, self);
    }
}

uint64_t position_of(PyThreadState *thread)
{
    uint64_t hash = 1469598103934665603ull;
    int through_c;
    for (Frame *f = thread_top(thread); f != NULL; f = frame_outer(f, &through_c)) {
        PyCodeObject *code = frame_is_shim(f) ? NULL : frame_code(f);
        if (code != NULL) {
            hash = (hash ^ (uintptr_t)f) * 1099511628211ull;
            hash = (hash ^ (uint64_t)frame_unit(f, code)) * 1099511628211ull;
        }
    }
    return hash;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Standing still
 */

/* Whether a call of a method that waits, whose time-out is argument number `timeout`, was given none. What cannot be
 * understood counts as timed: it may wake of itself. */
static int is_forever(const Place *p, int base, const Call *c, int timeout)
{
    PyObject *keywords = c->keywords != NULL ? c->keywords : keywords_before(p, base);
    Py_ssize_t named = keywords != NULL && PyTuple_CheckExact(keywords) ? PyTuple_GET_SIZE(keywords) : 0;
    if (c->given != NULL || named > 1 || c->n_arguments < named) {
        return 0;
    }
    if (named == 1) {
        const char *name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(keywords, 0));
        PyErr_Clear();
        if (name == NULL || strncmp(name, "block", 5) != 0) {
            return 0;
        }
    }
    if (c->n_arguments - named <= timeout) {
        return 1;
    }
    PyObject *limit = frame_slot(p->frame, p->code, c->arguments + timeout);
    if (limit == NULL) {
        return 0;
    }
    if (limit == Py_None) {
        return 1;
    }
    double seconds = PyLong_CheckExact(limit) || PyFloat_CheckExact(limit) ? PyFloat_AsDouble(limit) : 0;
    PyErr_Clear();
    return seconds < 0;
}

/* The condition that a frame of Condition.wait sleeps for, and by which of its calls. */
static PyObject *sleeps_for(const Place *p, const Call *c)
{
    const CodeInfo *info = p->info;
    if (!info->wait || info->wait_self < 0 || info->wait_waiter < 0) {
        return NULL;
    }
    PyObject *waiter = frame_local(p->frame, info->wait_waiter), *self = c->self;
    if (self == NULL && PyCFunction_Check(c->callable)) {
        self = PyCFunction_GET_SELF(c->callable);
    }
    return waiter != NULL && self == waiter ? frame_local(p->frame, info->wait_self) : NULL;
}

void stand(Look *l, PyThreadState *thread, Standing *standing)
{
    Frame *top = thread_top(thread);
    begin_to_look();
    l->n = l->n_waiters = 0;
    look_at_thread(l, thread);
    *standing = (Standing){.at = {.thread = thread, .kind = KIND_NONE, .named_at = -1}, .position = position_of(thread)};
    int in_c = top != NULL; /* a shim on top: C code that has called no Python */
    while (top != NULL && frame_is_shim(top)) {
        top = top->previous;
    }
    PyCodeObject *code = top == NULL ? NULL : frame_code(top);
    if (!in_c || code == NULL) {
        return;
    }
    const CodeInfo *info = code_info(code);
    int unit = frame_unit(top, code);
    Sighting *at = &standing->at;
    at->frame = top;
    at->code = code;
    at->unit = unit < 0 ? 0 : unit;
    if (unit < 0 || unit >= info->n_units || info->units[unit].depth < 0) {
        return;
    }
    Place p = {top, code, info, unit, -1, NULL, 0};
    int base = unit - info->units[unit].back;
    at->self = self_type(&p);
    if (info->importlib) {
        PyObject *lock = info->module_lock ? frame_local(top, 0) : NULL;
        if (lock != NULL) {
            at->state = STATE_IMPORTING;
            at->kind = KIND_IMPORT;
            at->subject = lock;
            standing->forever = 1;
        }
        return;
    }
    Call c;
    int calls = call_of(&p, base, &c);
    PyObject *condition = calls ? sleeps_for(&p, &c) : NULL;
    if (condition != NULL) {
        at->state = STATE_ACQUIRING;
        at->kind = KIND_CONDITION;
        at->subject = condition;
        standing->forever = is_forever(&p, base, &c, 1);
        return;
    }
    int wait = calls ? known_wait(c.callable) : -1;
    if (wait >= 0 && c.self != NULL) {
        at->state = STATE_ACQUIRING;
        at->kind = (Kind)waits[wait].kind;
        at->subject = c.self;
        standing->forever = is_forever(&p, base, &c, waits[wait].timeout);
        return;
    }
    for (int i = 0; i < l->n; i++) {
        const Sighting *s = &l->items[i];
        if (s->frame == top && (s->state == STATE_ACQUIRING || s->state == STATE_INSIDE)) {
            *at = *s;
            if (s->kind == KIND_LOCK || s->kind == KIND_RLOCK) {
                standing->forever = op_kind(info->units[base].op) == OP_BEFORE_WITH || is_enter_call(info, base) ||
                                    (calls && is_forever(&p, base, &c, 1));
            }
            return;
        }
    }
}

int waits_for_gil(unsigned long native_id)
{
    Blocked blocked;
    return blocked_in(native_id, &blocked) == 1 && blocked.futex && is_gil(the_gil(), blocked.arguments[0]);
}

/* ---------------------------------------------------------------------------------------------------------------------
 * For Python
 */

PyObject *stack_of(PyThreadState *thread)
{
    PyObject *list = PyList_New(0);
    if (list == NULL) {
        return NULL;
    }
    int through_c;
    for (Frame *f = thread_top(thread); f != NULL; f = frame_outer(f, &through_c)) {
        PyCodeObject *code = frame_is_shim(f) ? NULL : frame_code(f);
        if (code == NULL) {
            continue;
        }
        int unit = frame_unit(f, code);
        PyObject *item = Py_BuildValue("(Oi)", code, unit < 0 ? 0 : unit * 2);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_XDECREF(item);
            Py_DECREF(list);
            return NULL;
        }
        Py_DECREF(item);
    }
    return list;
}

PyObject *look_as_list(const Look *l)
{
    PyObject *list = PyList_New(0), *stack = NULL;
    PyThreadState *last = NULL;
    for (int i = 0; list != NULL && i < l->n; i++) {
        const Sighting *s = &l->items[i];
        if (s->thread != last) {
            Py_XDECREF(stack);
            stack = stack_of(s->thread);
            last = s->thread;
            if (stack == NULL) {
                Py_CLEAR(list);
                break;
            }
        }
        PyObject *item = Py_BuildValue(
            "(kkiiiiiOOiOiiOOi)", (unsigned long)s->thread->thread_id, (unsigned long)s->thread->native_thread_id,
            (int)s->state, (int)s->kind, (int)s->certain, (int)s->mutex, (int)s->draining, s->subject,
            s->manager ? (PyObject *)s->manager : Py_None, s->entry, s->code, s->unit * 2,
            s->named_at < 0 ? -1 : s->named_at * 2, s->self ? (PyObject *)s->self : Py_None, stack, (int)s->orphan);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_XDECREF(item);
            Py_CLEAR(list);
            break;
        }
        Py_DECREF(item);
    }
    Py_XDECREF(stack);
    return list;
}

#endif
