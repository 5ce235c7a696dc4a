/* Locks that one function takes and another lets go of, called by a third: `store.begin()` ... `store.commit()`.
 *
 * The frame of the third shows them: what it has called may return with a lock held, and what it has still to call lets go of that.
 * All of it is `possible`: which way a function took that has returned, no frame says.
 */
#include "sight.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

/* Whether the code may return with a lock held that it has taken, as far as its own calls of acquire() say. */
static int returns_with_lock(PyCodeObject *code)
{
    const CodeInfo *info = code_info(code);
    for (int i = 0; i < info->n_sites && !info->wait && !info->permit; i++) {
        const CallSite *site = &info->sites[i];
        const Expression *e = site->expression < 0 ? NULL : &info->expressions[site->expression];
        if (site->role != CALL_ACQUIRE || e == NULL || !(e->base == BASE_GLOBAL || e->index < Py_MAX(code->co_argcount, 1))) {
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
        Target further = called.first == NULL ? (Target){.function = NULL} : target_of(called.first, name);
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
void decide_what_is_kept(CodeInfo *info, PyCodeObject *code, Frame *frame, unsigned look)
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
        PyObject *object = call->expression.super || call->entered ? NULL : evaluate(&call->expression, code, frame);
        if (object == NULL) {
            unknown |= !call->expression.super && !call->entered;
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

/* What the call runs that may leave a lock taken: not one that makes what a `with` enters, and will leave. */
static Target target_of_named(const NamedCall *call, PyCodeObject *code, const Variables *v)
{
    PyObject *object = call->expression.super || call->entered ? NULL : value_of(&call->expression, code, v);
    return object == NULL ? (Target){.function = NULL}
                          : target_of(object, call->method < 0 ? NULL : code_name(code, call->method));
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
        Target further = target_of_named(call, code, &v);
        if (further.function != NULL && may_change_locks(further, 0, nesting + 1)) {
            find_kept(t, kept, further, unit, nesting + 1);
        }
    }
}

/* Locks that the call passes on, to a function that may take its argument. */
static void add_arguments(Kept *kept, const Place *p, int unit)
{
    Expression e;
    for (int i = 0; i < MAX_ARGUMENTS; i++) {
        if (code_argument(p->info, unit, i, &e)) {
            add_kept(kept, evaluate(&e, p->code, p->frame), unit);
        }
    }
}

/* Whether a call in this code lets go of the lock: then it is used as a mutex here, and not as a signal to somebody else. */
static int lets_go_of(Thread *t, const Place *p, PyObject *lock)
{
    Variables v = {.frame = p->frame};
    if (releases(t, p, lock)) {
        return 1;
    }
    for (int i = 0; i < p->info->n_calls; i++) {
        const NamedCall *call = &p->info->calls[i];
        int effect = call->expression.super ? 0 : effect_of_named(t, call, p->code, &v, lock, HELD, 0);
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
void sight_kept(Thread *t, const Place *p, int base)
{
    t->look->firm = 0;
    Kept kept = {.n = 0};
    for (int i = 0; i < p->info->n_calls; i++) {
        const NamedCall *call = &p->info->calls[i];
        PyObject *object = call->keeps != KEEPS_PERHAPS ? NULL : evaluate(&call->expression, p->code, p->frame);
        PyObject *method = call->method < 0 ? NULL : code_name(p->code, call->method);
        Target called = object == NULL ? (Target){.function = NULL} : target_of(object, method);
        LockMethod role;
        if (called.function != NULL) {
            t->steps = 0;
            find_kept(t, &kept, called, call->unit, 0);
            add_arguments(&kept, p, call->unit);
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
            if (seen->state == STATE_ACQUIRING && has_it_already(t, p, base, lock)) {
                seen->signal = 1;
                seen->mutex = 0;
            }
            take_for_mutex(seen);
            continue; /* by a frame further in, which knows better */
        }
        t->steps = 0;
        int where = held_at(t, p->frame, lock, LET_GO, 0);
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
        Target further = target_of_named(call, code, &v);
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
        if (call->nameless == NAMELESS_UNKNOWN && !call->expression.super && !call->entered) {
            PyObject *object = evaluate(&call->expression, code, frame);
            Target called = object == NULL ? (Target){.function = NULL}
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
        int takes = effect_of_function(t, called, lock, LET_GO, 0) == TAKES;
        h->takes |= takes;
        h->no |= takes && code->co_name == name_init;
    }
    else if (code_releases(code)) {
        h->gives |= effect_of_function(t, called, lock, HELD, 0) == LETS_GO;
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
                add_halves(&h, &t, (Target){.function = value, .first = owner}, lock);
            }
        }
    }
    for (int i = 0; i < r->n; i++) {
        if (PyFunction_Check(r->objects[i])) {
            add_halves(&h, &t, (Target){.function = r->objects[i]}, lock);
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
        Sighting *s = nameless->of[k] == OTHERS ? add_sighting(l) : NULL;
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
        if (effect_of_function(&t, called, kept.locks[i], LET_GO, 0) == TAKES) {
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

#endif
