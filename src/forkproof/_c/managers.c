/* From an object that was entered to the locks it took: by the frames of suspended generators, by what `__enter__` and
 * `__exit__` do to attributes, by the callbacks of an ExitStack.
 */
#include "sight.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

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

static void collect(Resolve *r, PyObject *lock)
{
    if (*r->n_collect < r->room) {
        if (r->each != NULL) {
            r->each[*r->n_collect] = (uint8_t)r->in_each;
        }
        r->collect[(*r->n_collect)++] = lock;
    }
}

static void found_lock(Resolve *r, PyObject *lock, Kind kind)
{
    r->found++;
    if (r->collect != NULL) {
        collect(r, lock);
        return;
    }
    if (r->exiting != NULL && kind == KIND_LOCK && is_locked(lock)) {
        judge(r->thread, r->exiting, lock);
    }
    Place p = place_of(r->place, lock);
    sight_lock(r->thread, &p, r->state, lock, kind, r->certain);
}

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
    else if (r->permits) {
        collect(r, semaphore);
    }
}

/* The lock whose own method the object keeps as an attribute, as Condition does with `acquire` and `release`. */
PyObject *lock_behind(PyObject *object, PyObject *method, LockMethod *role)
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
PyObject *function_behind(PyObject *object, PyCodeObject *code, PyObject *method)
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

static void visit_target(Resolve *r, PyObject *target, PyObject *method)
{
    const char *name = PyUnicode_AsUTF8(method);
    if (name == NULL || target == NULL) {
        PyErr_Clear();
        return;
    }
    Kind kind = kind_of(target);
    if (kind == KIND_LOCK || kind == KIND_RLOCK) {
        LockMethod role = lock_method_named(name);
        if ((r->want == CALL_ACQUIRE && (role == METHOD_ACQUIRE || role == METHOD_ENTER)) ||
            (r->want == CALL_RELEASE && role == METHOD_RELEASE)) {
            found_lock(r, target, kind);
        }
        return;
    }
    if (kind == KIND_SEMAPHORE) {
        LockMethod role = lock_method_named(name);
        if ((r->want == CALL_RELEASE) == (role == METHOD_RELEASE) && role != METHOD_NONE) {
            found_permit(r, target);
        }
        return;
    }
    if (kind == KIND_NONE && r->nesting < 3) {
        PyObject *outer = r->object;
        r->nesting++;
        resolve_method(r, target, method);
        r->nesting--;
        r->object = outer;
    }
}

static void visit_calls_of(Resolve *r, PyObject *function);

/* Whether the lock is taken and let go of by turns in the method itself: for a count, say, and not for as long as what is entered. */
static int only_passes(Resolve *r, PyCodeObject *code, PyObject *lock)
{
    if (kind_of(lock) != KIND_LOCK || !is_locked(lock)) {
        return 0; /* an RLock has its owner's name, and a free lock says nothing */
    }
    const CodeInfo *info = code_calls(code);
    Variables v = variables_of_function((Target){.function = r->function, .first = r->object});
    int effect, takes = 0, gives = 0;
    for (int i = 0; i < info->n_sites; i++) {
        const CallSite *site = &info->sites[i];
        if (site->expression >= 0 && value_of(&info->expressions[site->expression], code, &v) == lock) {
            takes |= site->role == CALL_ACQUIRE;
            gives |= site->role == CALL_RELEASE;
        }
    }
    return takes && gives && held_in(r->thread, v, code, lock, LET_GO, -1, 1, &effect) == LET_GO;
}

static int visit_call(void *context, PyCodeObject *code, const Expression *e, PyObject *method, int unit)
{
    Resolve *r = context;
    (void)unit;
    PyObject *globals = PyFunction_GET_GLOBALS(r->function), *closure = PyFunction_GET_CLOSURE(r->function);
    if (e->base == BASE_GLOBAL || e->index != 0) { /* not of self: only what is taken for longer than the method runs */
        PyObject *lock = e->each || e->super ? NULL : evaluate_on(e, code, NULL, globals, closure);
        int takes = r->want == CALL_ACQUIRE;
        int effect = lock == NULL || kind_of(lock) == KIND_NONE
                         ? 0
                         : effect_of_function(r->thread, (Target){.function = r->function, .first = r->object}, lock,
                                              takes ? LET_GO : HELD, 0);
        if (takes ? effect == TAKES : effect == LETS_GO || effect == MAY_LET_GO) {
            visit_target(r, lock, method);
        }
        return 0;
    }
    if (++r->thread->steps > MAX_STEPS || method == NULL) {
        return 1;
    }
    if (e->super) {
        PyObject *function = r->nesting < 3 ? function_behind(r->object, code, method) : NULL;
        if (function != NULL) {
            r->nesting++;
            visit_calls_of(r, function);
            r->nesting--;
        }
        return 0;
    }
    PyObject *target = evaluate_on(e, code, r->object, globals, closure);
    if (target == NULL || !e->each) {
        if (target == NULL || !only_passes(r, code, target)) {
            visit_target(r, target, method);
        }
        return 0;
    }
    Py_ssize_t n = PyTuple_CheckExact(target) || PyList_CheckExact(target) ? PySequence_Fast_GET_SIZE(target) : 0;
    int in_each = r->in_each;
    r->in_each = 1;
    for (Py_ssize_t i = 0; i < Py_MIN(n, MOST_IN_ONE); i++) {
        visit_target(r, evaluate_element(e, code, PySequence_Fast_GET_ITEM(target, i)), method);
    }
    r->in_each = in_each;
    return 0;
}

static void visit_calls_of(Resolve *r, PyObject *function)
{
    PyObject *outer = r->function;
    r->function = function;
    code_self_calls((PyCodeObject *)PyFunction_GET_CODE(function), visit_call, r);
    r->function = outer;
}

/* What `object.method()` acquires or releases, by what its Python code says of self's attributes. */
void resolve_method(Resolve *r, PyObject *object, PyObject *method)
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
    visit_calls_of(r, function);
}

/* What a frame that stands in `yield from` or `await` has handed on to. */
void sight_delegate(Thread *t, const Place *p, State state, int nesting)
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

void sight_generator(Thread *t, const Place *p, State state, PyObject *generator, int nesting)
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
void sight_kept_generators(Thread *t, const Place *p, State state, PyObject *object, int nesting)
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
void sight_iterator(Thread *t, const Place *p, State state, PyObject *object, int nesting)
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

void sight_permit(Thread *t, const Place *p, State state, PyObject *semaphore, int certain)
{
    if (t->returned == semaphore) {
        t->returned = NULL; /* of several, the one that a release() further in has given back */
        return;
    }
    sight(t, p, state, KIND_SEMAPHORE, semaphore, certain);
}

void sight_manager(Thread *t, const Place *p, State state, PyObject *manager, int nesting)
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

#endif
