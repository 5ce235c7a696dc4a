/* Looking: from threads to frames, and from what each frame shows to locks (sight.h says by which ways).
 *
 * Everything here reads. It holds the GIL throughout, calls only C functions that neither let it go nor run code of the
 * program's, and takes no reference. Evidence of three sorts meets in each frame: the exception table says which
 * `with` are active, the instruction at hand says what is being acquired or left, and the data flow of code.c says
 * which acquire() has its release() still to come.
 */
#include "sight.h"
#include "reach.h"
#include "workers.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

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
void sight_frame_locks(Thread *t, Place *p, State state, int nesting)
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
        /* What runs further in then is no part of it: the collector's callbacks, say, at the end of the call. */
        PyObject *item = call_answered(p, base) ? frame_slot(p->frame, p->code, code_answer_slot(info, base)) : NULL;
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
void sight_method_of_manager(Thread *t, const Place *p, int base)
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
    static PyObject *locks[MOST_IN_ONE];
    static uint8_t each[MOST_IN_ONE];
    int n = 0, through_c;
    Resolve r = {
        .thread = t, .want = CALL_ACQUIRE, .collect = locks, .each = each, .n_collect = &n, .room = MOST_IN_ONE, .permits = 1,
    };
    resolve_method(&r, first, p->code->co_name);
    for (int i = 0; i < n; i++) {
        for (int k = t->first; k < t->look->n; k++) { /* in a method of another name it is a mutex as well */
            if (t->look->items[k].subject == locks[i]) {
                take_for_mutex(&t->look->items[k]);
            }
        }
    }
    Frame *called = n ? inner_of(t, p->frame, &through_c) : NULL;
    PyCodeObject *callee = called == NULL ? NULL : frame_code(called);
    for (int i = 0; i < n; i++) {
        Kind kind = kind_of(locks[i]);
        if (kind == KIND_SEMAPHORE && callee != NULL && code_info(callee)->permit) {
            continue; /* sight_semaphore has told it */
        }
        /* Of several, those before the one at hand; which these are no variable says, but an RLock does. */
        int where = each[i] ? HELD | LET_GO : held_at(t, p->frame, locks[i], LET_GO, 0);
        if (!(where & HELD) || (each[i] && kind == KIND_SEMAPHORE)) {
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
    Sighting *s = frame == NULL || is_of_import(rlock) ? NULL : add_sighting(l);
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

/* The manager that a `with` of this frame is leaving; not if the frame of its __exit__, further in, has told that already. */
static void sight_left(Thread *t, const Place *p, PyObject *manager)
{
    if (manager == NULL || manager == t->left) {
        return;
    }
    Place left = *p;
    left.named_at = entered_at(p, manager);
    sight_leaving(t, &left, manager, runs_exit_of(t->inner, manager) ? t->inner : NULL);
}

/* From the top of the stack, while it is called: the exit of a `with`. Its manager, or the method bound to that, is the fourth. */
#define EXIT_BELOW (PY_AT_LEAST(3, 14) ? 5 : 4)

/* An exit that the catalogue knows, as that of a database connection, which commits, or of a file. Of locks all is told already. */
static void sight_exit_in_c(Thread *t, Place *p, int base, PyObject *exit, PyObject *manager)
{
    Kind kind = exit == NULL || manager == NULL ? KIND_LOCK : kind_of(manager);
    if (kind == KIND_NONE || kind == KIND_BUFFERED) {
        Call c = {.callable = exit, .self = manager};
        sight_call(t, p, base, &c, 0);
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
        sight_left(t, &p, manager);
        if (c_below) {
            sight_exit_in_c(t, &p, base, frame_slot(frame, code, u->depth - EXIT_BELOW), manager);
        }
    }
    else if (kind == OP_WITH_EXCEPT) {
        PyObject *manager = manager_of(frame_slot(frame, code, u->depth - 4));
        sight_left(t, &p, manager);
        if (c_below) {
            sight_exit_in_c(t, &p, base, frame_slot(frame, code, u->depth - EXIT_BELOW), manager);
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
        int manager_at = u->depth - 3, exit_at = manager_at - PY_AT_LEAST(3, 14); /* where an exception leads to its exit */
        if (handler_is_with(info, base) || exit_call_after(info, base, &manager_at, &exit_at) >= 0) {
            t->look->firm = 0;
            PyObject *manager = manager_of(frame_slot(frame, code, manager_at));
            PyObject *slot = frame_slot(frame, code, exit_at);
            int entered = u->with && info->regions[u->with].slot == exit_at; /* it is told below then: an exception leads there */
            if (!entered && is_exit_of(slot, manager)) {
                Place left = p;
                left.named_at = entered_at(&p, manager);
                sight_manager(t, &left, STATE_LEAVING, manager, 0);
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
 * One look
 */

/* For a frame that is not the innermost of the Python code that C code called. */
static inline int is_quiet(const Frame *frame, PyCodeObject *code, const CodeInfo *info)
{
    int unit = frame_unit(frame, code);
    return unit >= 0 && unit < info->n_units && info->units[unit].quiet;
}

void look_at_thread(Look *l, PyThreadState *ts)
{
    Thread t; /* without its arrays, which the counters say are empty */
    t.look = l;
    t.thread = ts;
    t.first = l->n;
    t.n_waiting = t.n_let_go = t.n_judged = t.importing = t.steps = t.wide = t.sure = 0;
    t.returned = t.left = t.entered = NULL;
    t.inner = t.exiting = NULL;
    t.works_in = NULL;
    t.works_on = NULL;
    Frame *frame = thread_top(ts);
    while (frame != NULL && frame_is_shim(frame)) {
        frame = frame->previous;
    }
    AtWork worker = {ts, NULL, 0, NULL};
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
        if (t.works_in != NULL && t.inner == NULL) {
            worker = (AtWork){ts, frame, t.works_in->entry, t.works_on};
        }
        if (info != NULL && info->worker) {
            worker = (AtWork){ts, frame, info->worker - 1, NULL};
        }
        t.inner = frame;
        frame = frame_outer(frame, &c_below);
    }
    if (worker.frame != NULL) {
        if (l->workers < l->room_at_work) {
            l->at_work[l->workers] = worker;
        }
        l->workers++;
        l->news += worker_is_news(&worker);
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
        s = add_sighting(l);
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

/* As of now: whoever reads the list may do so when the thread has ended, and threading forgotten it. Borrowed; None if it has none. */
static PyObject *name_of(PyThreadState *thread)
{
    PyObject *active = active_threads(), *ident = PyLong_FromUnsignedLong((unsigned long)thread->thread_id);
    PyObject *object = active == NULL || ident == NULL ? NULL : PyDict_GetItemWithError(active, ident);
    PyObject *name = object == NULL ? NULL : plain_attribute(object, name_name);
    Py_XDECREF(ident);
    PyErr_Clear();
    return name != NULL && PyUnicode_Check(name) ? name : Py_None;
}

PyObject *look_as_list(const Look *l)
{
    PyObject *list = PyList_New(0), *stack = NULL, *name = NULL;
    PyThreadState *last = NULL;
    for (int i = 0; list != NULL && i < l->n; i++) {
        const Sighting *s = &l->items[i];
        if (s->thread != last) {
            Py_XDECREF(stack);
            stack = stack_of(s->thread);
            name = name_of(s->thread);
            last = s->thread;
            if (stack == NULL) {
                Py_CLEAR(list);
                break;
            }
        }
        PyObject *item = Py_BuildValue(
            "(kkiiiiiOOiOiiOOiO)", (unsigned long)s->thread->thread_id, (unsigned long)s->thread->native_thread_id,
            (int)s->state, (int)s->kind, (int)s->certain, (int)s->mutex, (int)s->draining, s->subject,
            s->manager ? (PyObject *)s->manager : Py_None, s->entry, s->code, s->unit * 2,
            s->named_at < 0 ? -1 : s->named_at * 2, s->self ? (PyObject *)s->self : Py_None, stack, (int)s->orphan, name);
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
