/* Whether what is being left has been let go of already: what the calls of a function do to one lock, followed into the functions
 * that those run, without running any of them.
 */
#include "sight.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

PyObject *value_of(const Expression *e, PyCodeObject *code, const Variables *v)
{
    if (v->given != NULL && e->index == v->given_at && (e->base == BASE_LOCAL || e->base == BASE_CELL)) {
        return e->n ? NULL : v->given;
    }
    return v->frame != NULL ? evaluate(e, code, v->frame) : evaluate_on(e, code, v->first, v->globals, v->closure);
}

Variables variables_of_function(Target called)
{
    return (Variables){NULL, called.first, PyFunction_GET_GLOBALS(called.function), PyFunction_GET_CLOSURE(called.function),
                       called.given, called.given_at};
}

/* What `object.method()`, or `object()` if there is no method, runs. `function` is NULL if that is nothing in Python. */
Target target_of(PyObject *object, PyObject *method)
{
    Target target = {.function = NULL};
    if (method == NULL || PyModule_CheckExact(object)) {
        PyObject *called = method == NULL ? object : plain_attribute(object, method);
        if (called != NULL && PyMethod_Check(called)) {
            target = (Target){.function = PyMethod_GET_FUNCTION(called), .first = PyMethod_GET_SELF(called)};
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
    return runs ? target : (Target){.function = NULL};
}

int effect_of_function(Thread *t, Target called, PyObject *lock, int begins, int nesting)
{
    PyCodeObject *code = (PyCodeObject *)PyFunction_GET_CODE(called.function);
    int effect;
    if (nesting > 3 || ++t->steps > MAX_STEPS) {
        return 0;
    }
    Variables v = variables_of_function(called);
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
int effect_of_call(Thread *t, PyObject *object, PyObject *method, PyObject *lock, int begins, int nesting)
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
            return effect_of_function(t, called, lock, begins, nesting);
        }
        target = _PyType_Lookup(Py_TYPE(object), method) == NULL ? lock_behind(object, method, &role) : NULL;
    }
    if (target != lock) {
        return 0;
    }
    return role == METHOD_RELEASE ? LETS_GO : role != METHOD_NONE ? TAKES : 0;
}

typedef struct {
    const CodeInfo *info;
    uint8_t *effects;
    int begins, sure, any;
} Effects;

static void add_effect(Effects *e, int unit, int effect)
{
    if (effect == TAKES && e->sure && !drops_answer(e->info, unit)) {
        return;
    }
    if (effect && !e->effects[unit]) {
        e->effects[unit] = (uint8_t)effect;
        e->any |= (effect == TAKES) == (e->begins == LET_GO);
    }
}

/* With the lock among the arguments, if the call passes it on: `finish(lock)`, `self._give_back(lock)`. */
static Target with_argument(Target called, const NamedCall *call, PyCodeObject *code, const Variables *v, PyObject *lock, int bound)
{
    Expression e;
    for (int i = 0; i < MAX_ARGUMENTS; i++) {
        if (code_argument(code_info(code), call->unit, i, &e) && value_of(&e, code, v) == lock) {
            called.given = lock;
            called.given_at = i + bound;
        }
    }
    return called;
}

/* What a call in `code` does to a lock, if that is held (`begins`) or not. */
int effect_of_named(Thread *t, const NamedCall *call, PyCodeObject *code, const Variables *v, PyObject *lock, int begins, int nesting)
{
    const Expression *expression = &call->expression;
    PyObject *method = call->method < 0 ? NULL : code_name(code, call->method);
    if (call->entered) {
        return 0;
    }
    if (expression->super) {
        PyObject *first = v->frame != NULL ? first_local(v->frame) : v->first;
        PyObject *function = first == NULL || method == NULL ? NULL : function_behind(first, code, method);
        Target called = {.function = function, .first = first};
        return function == NULL ? 0 : effect_of_function(t, with_argument(called, call, code, v, lock, 1), lock, begins, nesting);
    }
    PyObject *object = value_of(expression, code, v);
    Target called = object == NULL || kind_of(object) != KIND_NONE ? (Target){.function = NULL} : target_of(object, method);
    if (called.function != NULL) {
        int bound = called.first != NULL || (method == NULL && PyType_Check(object));
        return effect_of_function(t, with_argument(called, call, code, v, lock, bound), lock, begins, nesting);
    }
    return method == NULL ? 0 : effect_of_call(t, object, method, lock, begins, nesting);
}

/* Whether `lock`, which is held or not when `code` begins, is held when that comes to `unit` (-1: when it returns): HELD, LET_GO,
 * or both where that depends on the way it took, or where it is not seen to do anything about it. `at_unit`: what the call
 * at `unit` will do; -1 where no call does anything. */
int held_in(Thread *t, Variables v, PyCodeObject *code, PyObject *lock, int begins, int unit, int nesting,
                   int *at_unit)
{
    const CodeInfo *info = code_calls(code);
    Effects e = {info, PyMem_RawCalloc((size_t)info->n_units + 1, 1), begins, t->sure, 0};
    int set = unit < 0 || begins == LET_GO ? begins : HELD | LET_GO;
    *at_unit = -1;
    if (e.effects == NULL) {
        return HELD | LET_GO;
    }
    for (int i = 0; i < info->n_calls; i++) {
        const NamedCall *call = &info->calls[i];
        int idle = !is_on_first(call) && call->keeps == KEEPS_NOT && call->gives == KEEPS_NOT;
        /* (`self` may be of another class each time) */
        if (call->expression.super || is_on_first(call) || (t->wide && !idle)) {
            add_effect(&e, call->unit, effect_of_named(t, call, code, &v, lock, begins, nesting));
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
        }
    }
    if (e.any) {
        set = code_held(info, code, begins, e.effects, unit);
        *at_unit = unit < 0 ? 0 : e.effects[call_unit(info, unit)];
    }
    PyMem_RawFree(e.effects);
    return set;
}

/* The frame that `frame` calls at this moment; `through_c`: not directly. */
Frame *inner_of(Thread *t, Frame *frame, int *through_c)
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

int held_at(Thread *t, Frame *frame, PyObject *lock, int begins, int nesting)
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
void judge(Thread *t, Frame *frame, PyObject *lock)
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
void sight_leaving(Thread *t, const Place *p, PyObject *manager, Frame *exiting)
{
    t->exiting = exiting;
    sight_manager(t, p, STATE_LEAVING, manager, 0);
    t->exiting = NULL;
}

/* Whether the lock is one that this thread's Condition.wait has let go of. */
int has_let_go(Thread *t, PyObject *lock)
{
    for (int i = 0; i < t->n_waiting; i++) {
        t->n_let_go = 0;
        Resolve r = {.thread = t, .want = CALL_ACQUIRE, .collect = t->let_go, .n_collect = &t->n_let_go, .room = MAX_LET_GO};
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
void sight_method(Thread *t, const Place *p, State state, PyObject *method, int nesting)
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
void sight_callback(Thread *t, const Place *p, State state, PyObject *callback, int nesting)
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
void resolve_exit_stack(Thread *t, const Place *p, State state, PyObject *callbacks, int nesting)
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
int is_stacked(PyObject *stack, PyObject *what)
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

#endif
