/* What one thread waits for, by its innermost frame: for the watch, which asks it of threads that do not move.
 */
#include "sight.h"
#include "task.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

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
    const WaitingMethod *wait = calls ? known_wait(c.callable) : NULL;
    if (wait != NULL && (c.self != NULL || wait->timeout < 0)) {
        at->state = STATE_ACQUIRING;
        at->kind = (Kind)wait->kind;
        at->subject = c.self != NULL ? c.self : (PyObject *)code; /* who polls: one loop, however often it looks */
        standing->forever = wait->timeout >= 0 && is_forever(&p, base, &c, wait->timeout);
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

#endif
