/* The value stack of a frame: the managers that lie on it, and the call that the frame is in, if that is still going on.
 */
#include "sight.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

/* The manager behind what a `with` keeps in its slot: a bound __exit__ up to 3.13, the manager itself from 3.14 on. */
PyObject *manager_of(PyObject *slot)
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
int is_exit_of(PyObject *slot, PyObject *manager)
{
    if (slot == NULL || manager == NULL) {
        return 0;
    }
    if (PyCFunction_Check(slot)) {
        return strcmp(((PyCFunctionObject *)slot)->m_ml->ml_name, "__exit__") == 0;
    }
    PyObject *exit = _PyType_Lookup(Py_TYPE(manager), name_exit), *aexit = _PyType_Lookup(Py_TYPE(manager), name_aexit);
    PyObject *function = PyMethod_Check(slot) ? PyMethod_GET_FUNCTION(slot) : slot;
    return function == exit || function == aexit;
}

/* Whether `frame` is one of the __exit__ of `manager`'s class, a function of Python. */
int runs_exit_of(Frame *frame, PyObject *manager)
{
    PyCodeObject *code = frame == NULL || manager == NULL ? NULL : frame_code(frame);
    PyObject *exit = code == NULL ? NULL : _PyType_Lookup(Py_TYPE(manager), name_exit);
    return exit != NULL && PyFunction_Check(exit) && PyFunction_GET_CODE(exit) == (PyObject *)code;
}

/* The lowest slot of a call, where its result will be; -1 none. */
int lowest_of_call(const Unit *u)
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
int call_of(const Place *p, int base, Call *c)
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
                              known_wait(callable) != NULL || known_method(callable) != NULL ||
                              strcmp(Py_TYPE(callable)->tp_name, "functools.partial") == 0)) {
        return 0;
    }
#endif
#else
    PyObject *method = (PyObject *)slot_address(p->frame, p->code, lowest);
    if (method != NULL && known_call(method) == NULL && lock_method(method) == METHOD_NONE && known_wait(method) == NULL) {
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

/* Whether C code calls this for the frame, and runs `inner` for that: a method, a class that makes something, an instance. */
static int calls_for(PyObject *callable, Frame *inner)
{
    PyCodeObject *code = callable == NULL || inner == NULL ? NULL : frame_code(inner);
    PyObject *function = NULL;
    if (code != NULL && PyMethod_Check(callable)) {
        function = PyMethod_GET_FUNCTION(callable);
    }
    else if (code != NULL) {
        function = PyType_Check(callable) ? _PyType_Lookup((PyTypeObject *)callable, name_init)
                                          : _PyType_Lookup(Py_TYPE(callable), name_call);
    }
    return function != NULL && PyFunction_Check(function) && PyFunction_GET_CODE(function) == (PyObject *)code;
}

#if !PY_AT_LEAST(3, 14)
/* Whether a method written in C is being called: once it has returned, its result is in the lowest slot. */
static int calls_method(const Place *p, int lowest)
{
    PyObject *first = frame_slot(p->frame, p->code, lowest);
    return first != NULL && !PyFunction_Check(first) &&
           PyType_HasFeature(Py_TYPE(first), Py_TPFLAGS_METHOD_DESCRIPTOR);
}

/* Whether the exit of a `with` is being called, in C: it lies there bound to its manager until its result does. */
static int calls_exit(const Place *p, int base, int lowest)
{
    PyObject *first = is_exit_call(p->info, base) ? frame_slot(p->frame, p->code, lowest) : NULL;
    return first != NULL && (PyCFunction_Check(first) || PyMethod_Check(first));
}
#endif

int runs_method(Frame *frame, PyCodeObject *code, PyObject *name)
{
    PyObject *first = code->co_argcount > 0 ? first_local(frame) : NULL;
    PyObject *function = first == NULL ? NULL : _PyType_Lookup(Py_TYPE(first), name);
    return function != NULL && PyFunction_Check(function) && PyFunction_GET_CODE(function) == (PyObject *)code;
}

/* Whether `inner` may run because something was let go of, at the end of an instruction whose operands are gone already. */
static int finalizes(Frame *inner)
{
    PyCodeObject *code = frame_code(inner);
    PyObject *first = code != NULL && code->co_argcount > 0 ? first_local(inner) : NULL;
    return code == NULL || (first != NULL && PyWeakref_Check(first)) || runs_method(inner, code, name_del);
}

int live_slots(Frame *frame, PyCodeObject *code, int c_below, Frame *inner)
{
#if PY_AT_LEAST(3, 14)
    (void)c_below;
    (void)inner;
    return Py_MAX(frame_depth(frame, code), 0);
#else
    const CodeInfo *info = code_info(code);
    Place p = {.frame = frame, .code = code, .info = info, .unit = frame_unit(frame, code)};
    if (p.unit < 0 || p.unit >= info->n_units || info->units[p.unit].depth < 0) {
        return 0;
    }
    int base = p.unit - info->units[p.unit].back, lowest = lowest_of_call(&info->units[base]), n = 0;
    int depth = info->units[base].depth, goes_on = c_below && inner != NULL && !finalizes(inner);
    OpKind kind = op_kind(info->units[base].op);
    Call c;
    if (lowest >= 0) {
        goes_on |= c_below && (call_of(&p, base, &c) || calls_method(&p, lowest) || calls_exit(&p, base, lowest));
        return goes_on ? depth : lowest;
    }
    if (goes_on && kind == OP_BEFORE_WITH && PY_AT_LEAST(3, 12)) {
        return depth - 1; /* the manager has been let go of already, but its slot not cleared */
    }
    if (goes_on || kind == OP_FOR_ITER || kind == OP_WITH_EXCEPT) {
        return depth;
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

static int has_keywords(const Place *p, int base)
{
    const Unit *u = &p->info->units[base];
    PyObject *named;
    switch (op_kind(u->op)) {
    case OP_CALL:
        return keywords_before(p, base) != NULL;
    case OP_CALL_KW:
        return 1;
    case OP_CALL_EX:
        named = PY_AT_LEAST(3, 14) || u->arg & 1 ? frame_slot(p->frame, p->code, u->depth - 1) : NULL;
        return named != NULL && PyDict_CheckExact(named) && PyDict_GET_SIZE(named) > 0;
    default:
        return 0;
    }
}

/* C functions that have references of their own to the first argument of the Python function which they run. A read() without a size
 * has the bound method of the raw file (Modules/_io/bufferedio.c, _bufferedreader_read_all), ZoneInfo the file that it has opened, and
 * once more in the arguments of the call (Modules/_zoneinfo.c, zoneinfo_new_instance and load_data; both v3.11.7 to v3.15.0).
 * `type`: of what is called on, or what is called. */
static const struct {
    const char *type, *runs;
    int times;
} passers[] = {{"_io.BufferedReader", "readall", 1}, {"zoneinfo.ZoneInfo", "load_data", 2}};

static void add_kept(CInside *inside, PyObject *object, int times)
{
    if (inside->n_kept < (int)Py_ARRAY_LENGTH(inside->kept)) {
        inside->kept[inside->n_kept].object = object;
        inside->kept[inside->n_kept++].times = times;
    }
}

static void find_passed(CInside *inside, Frame *inner, PyCodeObject *callee, PyObject *callable)
{
    PyObject *on = inside->self != NULL ? inside->self : callable;
    if (on != NULL && PyCFunction_Check(on)) {
        on = PyCFunction_GET_SELF(on);
    }
    const char *type = on == NULL ? NULL : PyType_Check(on) ? ((PyTypeObject *)on)->tp_name : Py_TYPE(on)->tp_name;
    for (size_t i = 0; type != NULL && i < Py_ARRAY_LENGTH(passers); i++) {
        if (strcmp(type, passers[i].type) == 0 && PyUnicode_CompareWithASCIIString(callee->co_name, passers[i].runs) == 0) {
            add_kept(inside, first_local(inner), passers[i].times);
        }
    }
}

/* Calling a class or an instance goes by way of a tuple of what is given (_PyObject_MakeTpCall), and of a dict of what is given by
 * name, which is copied once more; up to 3.14 all is then (_PyStack_UnpackDict; Objects/call.c, v3.11.7 to v3.15.0). */
static void find_given(CInside *inside, const Place *p, int base)
{
    const Unit *u = &p->info->units[base];
    int is_kw = op_kind(u->op) == OP_CALL_KW;
    if (op_kind(u->op) == OP_CALL_EX) {
        return; /* the tuple is there to be seen */
    }
    PyObject *names = !has_keywords(p, base) ? NULL : is_kw ? frame_slot(p->frame, p->code, u->depth - 1) : keywords_before(p, base);
    int copied = names == NULL || !PyTuple_CheckExact(names) ? 0 : PY_AT_LEAST(3, 15) ? (int)PyTuple_GET_SIZE(names) : (int)u->arg;
    for (int i = 0; i < (int)u->arg; i++) {
        PyObject *given = frame_slot(p->frame, p->code, u->depth - is_kw - 1 - i);
        if (given != NULL) {
            add_kept(inside, given, 1 + (i < copied));
        }
    }
}

/* type.__call__ has the object that it makes while its __init__ runs, whoever calls it: the frame, or code in C that the frame has
 * given the class to (map, functools.partial); not where the frame calls that __init__ by itself. Up to 3.14 names given are copied,
 * and the object with them. */
static void find_self(CInside *inside, const Place *p, int base, PyObject *callable, Frame *inner, PyCodeObject *callee)
{
    int makes = callee->co_name == name_init;
    PyObject *self = first_local(inner);
    if (callable != NULL && strcmp(Py_TYPE(callable)->tp_name, "functools.partial") == 0) {
        PyObject *arguments = plain_attribute(callable, name_args);
        callable = plain_attribute(callable, name_func); /* it lends what it was given, and from 3.15 on keeps that meanwhile */
        if (PY_AT_LEAST(3, 15) && callable != NULL && arguments != NULL) {
            add_kept(inside, callable, 1);
            add_kept(inside, arguments, 1);
        }
    }
    if (self == NULL || callable == NULL || PyFunction_Check(callable) || PyMethod_Check(callable)) {
        return;
    }
    int directly = callable == self || callable == (PyObject *)Py_TYPE(self);
    if (makes || (directly && calls_for(callable, inner))) {
        add_kept(inside, self, makes + (!PY_AT_LEAST(3, 15) && directly && has_keywords(p, base)));
    }
    if (directly && (makes || callee->co_name == name_new || calls_for(callable, inner))) {
        find_given(inside, p, base);
    }
}

/* The interpreter itself, in an instruction that is no call. Up to 3.13 entering a `with` has the manager's two methods, and 3.11 has put
 * one of them on the stack; what makes a list, a set or variables of an iterator has asked it for its iterator, which it is itself
 * (Python/ceval.c, v3.11.7, Python/bytecodes.c, v3.12.1 and later). */
static void find_held_by_instruction(CInside *inside, const Place *p, int base, Frame *inner)
{
    const Unit *u = &p->info->units[base];
    OpKind kind = op_kind(u->op);
    PyObject *top = inner == NULL || u->depth < 1 || finalizes(inner) ? NULL : frame_slot(p->frame, p->code, u->depth - 1);
    if (top != NULL && kind == OP_BEFORE_WITH) {
        PyObject *manager = PY_AT_LEAST(3, 12) ? top : manager_of(top);
        if (manager != NULL && first_local(inner) == manager) {
            add_kept(inside, manager, PY_AT_LEAST(3, 12) ? 2 : 1);
        }
    }
    else if (top != NULL && kind == OP_CONSUMES && Py_TYPE(top)->tp_iternext != NULL) {
        add_kept(inside, top, 1);
    }
}

CInside what_is_inside(Frame *frame, PyCodeObject *code, Frame *inner)
{
    CInside inside = {.n_kept = 0};
    const CodeInfo *info = code_info(code);
    Place p = {.frame = frame, .code = code, .info = info, .unit = frame_unit(frame, code)};
    if (p.unit < 0 || p.unit >= info->n_units || info->units[p.unit].depth < 0) {
        return inside;
    }
    int base = p.unit - info->units[p.unit].back, lowest = lowest_of_call(&info->units[base]);
    Call c;
    if (lowest < 0) {
        find_held_by_instruction(&inside, &p, base, inner);
        return inside;
    }
    inside.self = frame_slot(frame, code, lowest + 1);
    if (call_of(&p, base, &c)) {
        const Known *call = known_call(c.callable);
        inside.self = c.self;
        if (call != NULL && call->resource == RESOURCE_CONSUMES && call->streams && c.n_arguments > 0) {
            add_kept(&inside, frame_slot(frame, code, c.arguments), 1);
        }
        else if (call != NULL && call->resource == RESOURCE_STREAM && call->streams & STREAM_KEPT) {
            add_kept(&inside, c.self, 1);
        }
    }
    PyCodeObject *callee = inner == NULL ? NULL : frame_code(inner);
    if (callee != NULL && callee->co_argcount > 0) {
        PyObject *callable = frame_slot(frame, code, lowest);
        if (!PY_AT_LEAST(3, 13) && callable == NULL) {
            callable = frame_slot(frame, code, lowest + 1);
        }
        find_passed(&inside, inner, callee, callable);
        find_self(&inside, &p, base, callable, inner, callee);
    }
    return inside;
}

/* Whether the call at `base` has returned already: the thread waits for the GIL before the next instruction. */
int call_result(const Place *p, int base, PyObject **result)
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
int call_answered(const Place *p, int base)
{
#if PY_AT_LEAST(3, 14)
    return frame_depth(p->frame, p->code) == lowest_of_call(&p->info->units[base]) + 1;
#else
    PyObject *slot = frame_slot(p->frame, p->code, lowest_of_call(&p->info->units[base]));
    return slot != NULL && PyTuple_CheckExact(slot);
#endif
}

#endif
