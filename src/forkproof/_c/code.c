/* Reading bytecode: how deep the value stack is at each instruction, which slots hold managers and iterators, and
 * which locks a function has taken and not yet let go of.
 *
 * It is a data flow over the de-specialised code (PyCode_GetCode, never the adaptive bytes), with the interpreter's own
 * stack effects. A code object is read once; the answer lives in its co_extra and goes with it.
 */
#include "code.h"
#include "workers.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

static Py_ssize_t extra_index = -1;
static uint8_t caches[256];
static int8_t jumps[256]; /* 1 forward, -1 backward */
static enum { UNCONDITIONAL, IF_FALSE, IF_TRUE } conditions[256];
static enum { ASKS_NOT, IF_NOTHING, IF_SOMETHING } asks[256]; /* of a jump: whether it is for what is None or false, or for what is not */
static uint8_t harmless[256]; /* never raises an exception */

/* Opcode numbers by name; -1 where this version has none. */
static int PRECALL, CALL, CALL_KW, CALL_FUNCTION_EX, BEFORE_WITH, BEFORE_ASYNC_WITH, WITH_EXCEPT_START, PUSH_EXC_INFO,
    LOAD_SPECIAL, FOR_ITER, GET_ITER, SEND, EXTENDED_ARG, RETURN_VALUE, RETURN_CONST, RERAISE, RAISE_VARARGS, JUMP_FORWARD,
    JUMP_BACKWARD, JUMP_BACKWARD_NO_INTERRUPT, PUSH_NULL, LOAD_FAST, LOAD_FAST_CHECK, LOAD_FAST_BORROW, LOAD_DEREF,
    LOAD_CLASSDEREF, LOAD_FROM_DICT_OR_DEREF, LOAD_LOCALS, LOAD_GLOBAL, LOAD_NAME, LOAD_ATTR, LOAD_METHOD, LOAD_SUPER_ATTR, LOAD_CONST, LOAD_COMMON_CONSTANT,
    LOAD_FAST_LOAD_FAST, LOAD_FAST_BORROW_LOAD_FAST_BORROW, STORE_FAST_LOAD_FAST, STORE_FAST_STORE_FAST, STORE_FAST, STORE_DEREF, CHECK_EXC_MATCH, RETURN_GENERATOR, CACHE, KW_NAMES,
    GET_ANEXT, YIELD_VALUE, RESUME, NOP, END_FOR, POP_ITER, POP_TOP, TO_BOOL, SWAP, LIST_EXTEND, SET_UPDATE, UNPACK_SEQUENCE, UNPACK_EX;

static const struct {
    const char *name;
    int *number;
} opcode_names[] = {
#define OP(name) {#name, &name}
    OP(PRECALL), OP(CALL), OP(CALL_KW), OP(CALL_FUNCTION_EX), OP(BEFORE_WITH), OP(BEFORE_ASYNC_WITH),
    OP(WITH_EXCEPT_START), OP(PUSH_EXC_INFO), OP(LOAD_SPECIAL), OP(FOR_ITER), OP(GET_ITER), OP(SEND), OP(EXTENDED_ARG),
    OP(RETURN_VALUE), OP(RETURN_CONST), OP(RERAISE), OP(RAISE_VARARGS), OP(JUMP_FORWARD), OP(JUMP_BACKWARD),
    OP(JUMP_BACKWARD_NO_INTERRUPT), OP(PUSH_NULL), OP(LOAD_FAST), OP(LOAD_FAST_CHECK), OP(LOAD_FAST_BORROW),
    OP(LOAD_DEREF), OP(LOAD_CLASSDEREF), OP(LOAD_FROM_DICT_OR_DEREF), OP(LOAD_LOCALS), OP(LOAD_GLOBAL), OP(LOAD_NAME), OP(LOAD_ATTR), OP(LOAD_METHOD), OP(LOAD_SUPER_ATTR),
    OP(LOAD_CONST), OP(LOAD_COMMON_CONSTANT), OP(LOAD_FAST_LOAD_FAST), OP(LOAD_FAST_BORROW_LOAD_FAST_BORROW),
    OP(STORE_FAST_LOAD_FAST), OP(STORE_FAST_STORE_FAST), OP(STORE_FAST), OP(STORE_DEREF),
    OP(CHECK_EXC_MATCH), OP(RETURN_GENERATOR), OP(CACHE), OP(KW_NAMES), OP(GET_ANEXT), OP(YIELD_VALUE),
    OP(RESUME), OP(NOP), OP(END_FOR), OP(POP_ITER), OP(POP_TOP), OP(TO_BOOL), OP(SWAP),
    OP(LIST_EXTEND), OP(SET_UPDATE), OP(UNPACK_SEQUENCE), OP(UNPACK_EX),
#undef OP
};

#define LOOKS_TO_DECIDE 16

static CodeInfo nothing = {.boring = 1};

Recent recent[RECENT];

static void release_info(void *extra)
{
    CodeInfo *info = extra;
    if (info != NULL && info != &nothing) {
        Recent *entry = recent_entry(info->code);
        if (entry->code == info->code) {
            entry->code = NULL;
        }
        PyMem_RawFree(info->units);
        PyMem_RawFree(info->sites);
        PyMem_RawFree(info->regions);
        PyMem_RawFree(info->calls);
        PyMem_RawFree(info);
    }
}

static uint8_t kinds[256];

OpKind op_kind(int op)
{
    return (OpKind)kinds[op & 255];
}

static void note_kinds(void)
{
    const struct {
        int op;
        OpKind kind;
    } table[] = {
        {CALL, OP_CALL}, {PRECALL, OP_CALL}, {CALL_KW, OP_CALL_KW}, {CALL_FUNCTION_EX, OP_CALL_EX},
        {BEFORE_WITH, OP_BEFORE_WITH}, {BEFORE_ASYNC_WITH, OP_BEFORE_WITH}, {WITH_EXCEPT_START, OP_WITH_EXCEPT},
        {FOR_ITER, OP_FOR_ITER}, {SEND, OP_SEND}, {KW_NAMES, OP_KW_NAMES}, {LIST_EXTEND, OP_CONSUMES},
        {SET_UPDATE, OP_CONSUMES}, {UNPACK_SEQUENCE, OP_CONSUMES}, {UNPACK_EX, OP_CONSUMES},
    };
    for (size_t i = 0; i < Py_ARRAY_LENGTH(table); i++) {
        if (table[i].op >= 0) {
            kinds[table[i].op] = (uint8_t)table[i].kind;
        }
    }
}

int code_init(void)
{
    PyObject *module = PyImport_ImportModule("opcode");
    if (module == NULL) {
        return -1;
    }
    int result = -1;
    PyObject *opmap = PyObject_GetAttrString(module, "opmap");
    PyObject *entries = PyObject_GetAttrString(module, "_inline_cache_entries");
    PyObject *jrel = PyObject_GetAttrString(module, "hasjrel");
    PyObject *items = NULL;
    if (opmap == NULL || entries == NULL || jrel == NULL) {
        goto done;
    }
    for (size_t i = 0; i < Py_ARRAY_LENGTH(opcode_names); i++) {
        PyObject *number = PyMapping_GetItemString(opmap, opcode_names[i].name);
        if (number == NULL) {
            PyErr_Clear();
            *opcode_names[i].number = -1;
            continue;
        }
        *opcode_names[i].number = (int)PyLong_AsLong(number);
        Py_DECREF(number);
    }
    items = PyMapping_Items(opmap);
    if (items == NULL) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items); i++) {
        PyObject *item = PyList_GET_ITEM(items, i);
        PyObject *name = PyTuple_GET_ITEM(item, 0);
        long number = PyLong_AsLong(PyTuple_GET_ITEM(item, 1));
        if (number < 0 || number > 255) {
            continue;
        }
        PyObject *count;
        if (PyList_Check(entries)) {
            count = PySequence_GetItem(entries, number);
        }
        else {
            count = PyObject_GetItem(entries, name);
        }
        if (count == NULL) {
            PyErr_Clear();
        }
        else {
            caches[number] = (uint8_t)PyLong_AsLong(count);
            Py_DECREF(count);
        }
        const char *text = PyUnicode_AsUTF8(name);
        int contains = PySequence_Contains(jrel, PyTuple_GET_ITEM(item, 1));
        if (text == NULL || contains < 0) {
            goto done;
        }
        conditions[number] = strstr(text, "JUMP") == NULL ? UNCONDITIONAL
                             : strstr(text, "IF_FALSE") != NULL ? IF_FALSE
                             : strstr(text, "IF_TRUE") != NULL ? IF_TRUE : UNCONDITIONAL;
        asks[number] = conditions[number] == IF_FALSE || strstr(text, "JUMP_IF_NONE") || strstr(text, "WARD_IF_NONE") ? IF_NOTHING
                       : conditions[number] == IF_TRUE || strstr(text, "IF_NOT_NONE") ? IF_SOMETHING : ASKS_NOT;
        /* Also those that load a name: one that is not there is not what a `finally` is for. */
        static const char *const quiet[] = {"LOAD_FAST", "STORE_FAST", "LOAD_CONST", "LOAD_DEREF", "LOAD_GLOBAL", "PUSH_",
                                            "POP_TOP", "POP_EXCEPT", "POP_JUMP", "JUMP_FORWARD", "NOP", "COPY", "SWAP",
                                            "NOT_TAKEN", "PRECALL", "KW_NAMES", "EXTENDED_ARG", "CACHE"};
        for (size_t k = 0; k < Py_ARRAY_LENGTH(quiet); k++) {
            harmless[number] |= strncmp(text, quiet[k], strlen(quiet[k])) == 0 && strcmp(text, "COPY_FREE_VARS") != 0;
        }
        /* END_ASYNC_FOR names its SEND for the monitoring only; it does not jump there. */
        if (contains && strstr(text, "END_ASYNC_FOR") == NULL) {
            jumps[number] = strstr(text, "BACKWARD") ? -1 : 1;
        }
    }
    if (CALL < 0 || WITH_EXCEPT_START < 0 || PUSH_EXC_INFO < 0 || (BEFORE_WITH < 0 && LOAD_SPECIAL < 0)) {
        PyErr_SetString(PyExc_ImportError, "forkproof does not know this interpreter's bytecode");
        goto done;
    }
    note_kinds();
    extra_index = code_extra_index(release_info);
    if (extra_index < 0) {
        PyErr_SetString(PyExc_ImportError, "no room for forkproof in co_extra");
        goto done;
    }
    result = 0;
done:
    Py_XDECREF(items);
    Py_XDECREF(jrel);
    Py_XDECREF(entries);
    Py_XDECREF(opmap);
    Py_DECREF(module);
    return result;
}

PyObject *code_name(PyCodeObject *code, int index)
{
    if (index < 0 || index >= PyTuple_GET_SIZE(code->co_names)) {
        return NULL;
    }
    return PyTuple_GET_ITEM(code->co_names, index);
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Names
 */

static CallRole role_of(PyObject *name)
{
    static const struct {
        const char *name;
        CallRole role;
    } roles[] = {
        {"acquire", CALL_ACQUIRE},           {"__enter__", CALL_ACQUIRE},
        {"acquire_lock", CALL_ACQUIRE},      {"release", CALL_RELEASE},
        {"__exit__", CALL_RELEASE},          {"release_lock", CALL_RELEASE},
        {"_release_save", CALL_RELEASE_SAVE}, {"_acquire_restore", CALL_ACQUIRE_RESTORE},
    };
    for (size_t i = 0; i < Py_ARRAY_LENGTH(roles); i++) {
        if (PyUnicode_CompareWithASCIIString(name, roles[i].name) == 0) {
            return roles[i].role;
        }
    }
    return CALL_OTHER;
}

/* What stands at `unit` when it loads a nameable thing: fills `e` and returns 1. `second`: of a pair of loads, the second. */
static int parse_base(const Unit *u, int second, Expression *e)
{
    int op = u->op;
    e->n = e->super = e->each = 0;
    if (op == LOAD_FAST || op == LOAD_FAST_CHECK || op == LOAD_FAST_BORROW) {
        e->base = BASE_LOCAL;
        e->index = (int)u->arg;
    }
    else if (op == LOAD_FAST_LOAD_FAST || op == LOAD_FAST_BORROW_LOAD_FAST_BORROW) {
        e->base = BASE_LOCAL;
        e->index = second ? (int)(u->arg & 15) : (int)(u->arg >> 4);
    }
    else if (op == STORE_FAST_LOAD_FAST) {
        e->base = BASE_LOCAL;
        e->index = (int)(u->arg & 15);
    }
    else if (op == LOAD_DEREF || op == LOAD_CLASSDEREF || op == LOAD_FROM_DICT_OR_DEREF) {
        e->base = BASE_CELL;
        e->index = (int)u->arg;
    }
    else if (op == LOAD_GLOBAL) {
        e->base = BASE_GLOBAL;
        e->index = (int)(u->arg >> 1);
    }
    else if (op == LOAD_NAME) {
        e->base = BASE_NAME;
        e->index = (int)u->arg;
    }
    else {
        return 0;
    }
    return 1;
}

static inline int next_unit(const CodeInfo *info, int unit)
{
    return unit + 1 + caches[info->units[unit].op];
}

static int past_extensions(const CodeInfo *info, int unit)
{
    while (unit < info->n_units && info->units[unit].op == EXTENDED_ARG) {
        unit++;
    }
    return unit;
}

#define BARE (-2) /* a callee that is a variable and no attribute of one */

static int parse_attributes(const CodeInfo *info, PyCodeObject *code, int at, int end, Expression *e);

/* The instruction, at or before `unit`, that pushed the slot `lowest`; -1 none. */
static int pusher(const CodeInfo *info, int unit, int lowest)
{
    const Unit *units = info->units;
    for (int at = unit; at >= 0; at--) {
        if (units[at].back || units[at].depth < 0) {
            continue;
        }
        /* Half of this one stores what stood before; the other half pushes. */
        int depth = units[at].depth - (units[at].op == STORE_FAST_LOAD_FAST);
        if (depth <= lowest) {
            return at;
        }
    }
    return -1;
}

/* Past what comes before a name: a slot that stays empty, the names of a class body. */
static int past_prefix(const CodeInfo *info, int unit)
{
    while (unit < info->n_units && (info->units[unit].op == PUSH_NULL || info->units[unit].op == LOAD_LOCALS)) {
        unit = next_unit(info, unit);
    }
    return unit;
}

int code_answer_slot(const CodeInfo *info, int unit)
{
    const Unit *units = info->units;
    int operands = (int)units[unit].arg + 2 + (units[unit].op == CALL_KW);
    if (units[unit].op == CALL_FUNCTION_EX) {
        operands = PY_VERSION_HEX >= 0x030E0000 ? 4 : 3 + (int)(units[unit].arg & 1);
    }
    return units[unit].depth - operands;
}

/* `().method` from `at` on, behind a load of `super`: the method's index in co_names, or -1. */
static int super_method(const CodeInfo *info, int at, int end)
{
    int called = 0;
    for (; at < end; at = next_unit(info, at)) {
        const Unit *u = &info->units[at];
        if (LOAD_SUPER_ATTR >= 0 && u->op == LOAD_SUPER_ATTR) {
            return (int)(u->arg >> 2);
        }
        if (called && (u->op == LOAD_METHOD || u->op == LOAD_ATTR)) {
            return u->op == LOAD_ATTR && PY_VERSION_HEX >= 0x030C0000 ? (int)(u->arg >> 1) : (int)u->arg;
        }
        called |= op_kind(u->op) == OP_CALL && u->arg == 0;
    }
    return -1;
}

/* The method that the call at `unit` is of, on whatever object: its index in co_names, or -1. */
static int called_method(const CodeInfo *info, PyCodeObject *code, int unit)
{
    int lowest = code_answer_slot(info, unit);
    for (int at = unit - 1; at >= 0; at--) {
        const Unit *u = &info->units[at];
        if (u->back || u->depth < 0) {
            continue;
        }
        if (u->depth <= lowest) {
            break;
        }
        int halved = PY_VERSION_HEX >= 0x030C0000;
        if (u->depth == lowest + 1 && (u->op == LOAD_METHOD || (u->op == LOAD_ATTR && halved && u->arg & 1))) {
            int name = (int)(u->op == LOAD_ATTR ? u->arg >> 1 : u->arg);
            return code_name(code, name) == NULL ? -1 : name;
        }
    }
    return -1;
}

/* The callee of the call at `unit` as `base.attributes.method`; the method's index in co_names, or -1. */
static int parse_callee(const CodeInfo *info, PyCodeObject *code, int unit, Expression *e)
{
    const Unit *units = info->units;
    int lowest = code_answer_slot(info, unit);
    if (lowest < 0) {
        return -1;
    }
    int start = pusher(info, unit - 1, lowest);
    if (start < 0) {
        return -1;
    }
    start = past_prefix(info, start);
    if (start >= unit || !parse_base(&units[start], units[start].depth < lowest, e)) {
        return -1;
    }
    PyObject *name = e->base == BASE_GLOBAL ? code_name(code, e->index) : NULL;
    if (name != NULL && PyUnicode_CompareWithASCIIString(name, "super") == 0) {
        int method = super_method(info, next_unit(info, start), unit);
        if (method >= 0) {
            *e = (Expression){.base = BASE_LOCAL, .super = 1};
            return code_name(code, method) == NULL ? -1 : method;
        }
    }
    int method = parse_attributes(info, code, next_unit(info, start), unit, e);
    return method == BARE && called_method(info, code, unit) >= 0 ? -1 : method;
}

/* `.a.b.last` from `at` on: all but the last go to `e`, whose index in co_names is returned; BARE when there is none. */
static int parse_attributes(const CodeInfo *info, PyCodeObject *code, int at, int end, Expression *e)
{
    const Unit *units = info->units;
    int method = -1;
    while (at < end) {
        int op = units[at].op;
        int name;
        if (op == EXTENDED_ARG) {
            at++;
            continue;
        }
        if (op == LOAD_METHOD) {
            name = (int)units[at].arg;
        }
        else if (op == LOAD_ATTR) {
            name = PY_VERSION_HEX >= 0x030C0000 ? (int)(units[at].arg >> 1) : (int)units[at].arg;
        }
        else {
            break;
        }
        if (method >= 0) {
            if (e->n == MAX_ATTRIBUTES) {
                return -1;
            }
            e->attributes[e->n++] = (uint16_t)method;
        }
        method = name;
        at = next_unit(info, at);
    }
    if (method < 0) {
        return BARE;
    }
    return code_name(code, method) == NULL ? -1 : method;
}

int same_object(const CodeInfo *info, int unit, int other)
{
    int lowest = code_answer_slot(info, unit);
    int a = pusher(info, unit - 1, lowest), b = pusher(info, other - 1, code_answer_slot(info, other));
    while (a >= 0 && b >= 0 && a < unit && b < other) {
        const Unit *u = &info->units[a], *v = &info->units[b];
        if (u->depth == lowest + 1 && u->op == v->op && (u->op == LOAD_METHOD || u->op == LOAD_ATTR) && u->arg != v->arg) {
            return 1;
        }
        if (u->op != v->op || u->arg != v->arg) {
            return 0;
        }
        a = next_unit(info, a);
        b = next_unit(info, b);
    }
    return 0;
}

static int same_expression(const Expression *a, const Expression *b)
{
    if (a->base != b->base || a->index != b->index || a->n != b->n || a->super != b->super) {
        return 0;
    }
    return memcmp(a->attributes, b->attributes, sizeof(a->attributes[0]) * (size_t)a->n) == 0;
}

static int is_call(int op)
{
    OpKind kind = op_kind(op);
    return kind == OP_CALL || kind == OP_CALL_KW;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Data flow
 */

typedef struct {
    int start, end, target, depth, lasti;
    int region;   /* -1: not yet known */
    int releases; /* bits of expressions that its handler releases and nothing here acquires; -1: not yet known */
    int guards;   /* all that it releases */
    int surely;   /* of `releases`, those that it does not first ask about */
} Entry;

typedef struct {
    CodeInfo *info;
    PyCodeObject *code;
    Entry *entries;
    int n_entries;
    int *entry_of; /* for each unit, index of the entry that covers it; -1 none */
    int *work;
    int n_work;
    uint8_t *queued, *arrived, *calm;
    int room_regions;
} Reader;

/* 3.11 splits a call into PRECALL and CALL and books the arguments on the first; both find them on the stack. */
static int effect_of(const Unit *u, int jump)
{
    if (PRECALL >= 0 && u->op == PRECALL) {
        return 0;
    }
    if (PRECALL >= 0 && u->op == CALL) {
        return -1 - (int)u->arg;
    }
    if (u->op == RETURN_GENERATOR) {
        return 1; /* a resumed generator finds the sent value there; 3.11 and 3.12 do not book it */
    }
    return PyCompile_OpcodeStackEffectWithJump(u->op, (int)u->arg, jump);
}

static int varint(const unsigned char **at, const unsigned char *end)
{
    int value = 0;
    while (*at < end) {
        unsigned char byte = *(*at)++;
        value = (value << 6) | (byte & 63);
        if (!(byte & 64)) {
            break;
        }
    }
    return value;
}

static int read_entries(Reader *r)
{
    const unsigned char *at = (const unsigned char *)PyBytes_AS_STRING(r->code->co_exceptiontable);
    const unsigned char *end = at + PyBytes_GET_SIZE(r->code->co_exceptiontable);
    int room = 0;
    while (at < end) {
        if (r->n_entries == room) {
            room = room ? room * 2 : 8;
            Entry *grown = PyMem_RawRealloc(r->entries, sizeof(Entry) * (size_t)room);
            if (grown == NULL) {
                return -1;
            }
            r->entries = grown;
        }
        Entry *e = &r->entries[r->n_entries++];
        e->start = varint(&at, end);
        e->end = e->start + varint(&at, end);
        e->target = varint(&at, end);
        int mixed = varint(&at, end);
        e->depth = mixed >> 1;
        e->lasti = mixed & 1;
        e->region = e->releases = -1;
        e->surely = e->guards = 0;
        if (e->target < 0 || e->target >= r->info->n_units || e->end > r->info->n_units) {
            return -1;
        }
    }
    for (int i = 0; i < r->info->n_units; i++) {
        r->entry_of[i] = -1;
    }
    for (int k = r->n_entries; k-- > 0;) {
        for (int i = r->entries[k].start; i < r->entries[k].end; i++) {
            r->entry_of[i] = k;
        }
    }
    return 0;
}

static Entry *entry_at(Reader *r, int unit)
{
    return r->entry_of[unit] < 0 ? NULL : &r->entries[r->entry_of[unit]];
}

static int add_region(Reader *r, int slot, int outer)
{
    CodeInfo *info = r->info;
    if (info->n_regions >= UINT16_MAX - 1) {
        return 0;
    }
    if (info->n_regions + 1 > r->room_regions) {
        int room = r->room_regions ? r->room_regions * 2 : 8;
        Region *grown = PyMem_RawRealloc(info->regions, sizeof(Region) * (size_t)room);
        if (grown == NULL) {
            return 0;
        }
        info->regions = grown;
        r->room_regions = room;
    }
    info->regions[info->n_regions].slot = (int16_t)slot;
    info->regions[info->n_regions].outer = (uint16_t)outer;
    info->regions[info->n_regions].enter = -1;
    return info->n_regions++;
}

int handler_is_with(const CodeInfo *info, int target)
{
    const Unit *units = info->units;
    if (units[target].op != PUSH_EXC_INFO) {
        return 0;
    }
    int after = next_unit(info, target);
    return after < info->n_units && units[after].op == WITH_EXCEPT_START;
}

/* The innermost `with` that is active where this entry applies: its handler's, or what encloses its handler. */
static int with_of_entry(Reader *r, Entry *e, int nesting)
{
    if (e == NULL || nesting > 100) {
        return 0;
    }
    if (e->region < 0) {
        e->region = 0; /* a handler that covers itself ends here */
        int outer = with_of_entry(r, entry_at(r, e->target), nesting + 1);
        if (!handler_is_with(r->info, e->target)) {
            e->region = outer;
            return outer;
        }
        /* A block split by inner handlers has several entries with one handler; it was entered before the first. */
        Entry *first = e;
        for (int i = 0; i < r->n_entries; i++) {
            if (r->entries[i].target == e->target && r->entries[i].start < first->start) {
                first = &r->entries[i];
            }
        }
        e->region = add_region(r, e->depth - 1, outer);
        int enter = first->start - 1;
        r->info->regions[e->region].enter = enter < 0 ? 0 : enter - r->info->units[enter].back;
    }
    return e->region;
}

static void visit(Reader *r, int unit, int depth, int iterator)
{
    CodeInfo *info = r->info;
    if (unit < 0 || unit >= info->n_units || depth < 0) {
        return;
    }
    while (iterator && info->regions[iterator].slot >= depth) {
        iterator = info->regions[iterator].outer;
    }
    Unit *u = &info->units[unit];
    int changed = 0;
    if (u->depth < 0) {
        u->depth = (int16_t)depth;
        u->iterator = (uint16_t)iterator;
        changed = 1;
    }
    if (changed && !r->queued[unit]) {
        r->queued[unit] = 1;
        r->work[r->n_work++] = unit;
    }
}

/* Whether the instruction after this one is never the next. */
static int never_goes_on(int op)
{
    return op == RETURN_VALUE || op == RETURN_CONST || op == RERAISE || op == RAISE_VARARGS || op == JUMP_FORWARD ||
           op == JUMP_BACKWARD || op == JUMP_BACKWARD_NO_INTERRUPT;
}

/* How deep the stack is, and which iterators are on it. */
static void flow(Reader *r)
{
    CodeInfo *info = r->info;
    r->n_work = 0;
    visit(r, 0, 0, 0);
    while (r->n_work) {
        int at = r->work[--r->n_work];
        r->queued[at] = 0;
        Unit *u = &info->units[at];
        int op = u->op, next = next_unit(info, at), depth = u->depth, iterator = u->iterator;
        Entry *e = entry_at(r, at);
        if (e != NULL) {
            visit(r, e->target, e->depth + e->lasti + 1, iterator);
        }
        int jump = jumps[op];
        if (jump) {
            int effect = effect_of(u, 1);
            int target = jump > 0 ? next + (int)u->arg : next - (int)u->arg;
            if (effect != PY_INVALID_STACK_EFFECT) {
                visit(r, target, depth + effect, iterator);
            }
        }
        if (never_goes_on(op)) {
            continue;
        }
        int effect = effect_of(u, 0);
        if (effect == PY_INVALID_STACK_EFFECT) {
            continue;
        }
        int whole = past_extensions(info, at), goes_on = whole < info->n_units ? info->units[whole].op : -1;
        int known = iterator && info->regions[iterator].slot == depth - 1;
        if (!known && (goes_on == FOR_ITER || (GET_ANEXT >= 0 && goes_on == GET_ANEXT))) {
            u->iterator = iterator = add_region(r, depth - 1, iterator); /* from here on: a thread is stopped before it too */
        }
        visit(r, next, depth + effect, iterator);
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Which locks a function has taken and not yet let go of
 */

typedef struct {
    unsigned pending, sure, guarded; /* as in Unit */
    int attempt;
} Taken;

static void arrive(Reader *r, int unit, Taken t)
{
    CodeInfo *info = r->info;
    if (unit < 0 || unit >= info->n_units || info->units[unit].depth < 0) {
        return;
    }
    Unit *u = &info->units[unit];
    if (t.attempt && u->depth <= code_answer_slot(info, info->sites[t.attempt - 1].unit)) {
        t.attempt = 0;
    }
    Taken now = {u->pending | t.pending, u->sure & t.sure, u->guarded | t.guarded, u->attempt == t.attempt ? t.attempt : 0};
    if (!r->arrived[unit]) {
        now = t;
    }
    int changed = now.pending != u->pending || now.sure != u->sure || now.guarded != u->guarded ||
                  now.attempt != u->attempt;
    if (r->arrived[unit] && !changed) {
        return;
    }
    r->arrived[unit] = 1;
    u->pending = (uint16_t)now.pending;
    u->sure = (uint16_t)now.sure;
    u->guarded = (uint16_t)now.guarded;
    u->attempt = (uint16_t)now.attempt;
    if (!r->queued[unit]) {
        r->queued[unit] = 1;
        r->work[r->n_work++] = unit;
    }
}

static int has_site(const CodeInfo *info, int expression, CallRole role)
{
    for (int i = 0; i < info->n_sites; i++) {
        if (info->sites[i].role == role && info->sites[i].expression == expression) {
            return 1;
        }
    }
    return 0;
}

/* Locks that were acquired out of sight, and that the handler of a `finally` releases: held all through its `try`. */
static void read_handler(const Reader *r, Entry *e)
{
    const CodeInfo *info = r->info;
    int asked = 0;
    e->releases = e->surely = e->guards = 0;
    for (int at = e->target; at < info->n_units; at = next_unit(info, at)) {
        int op = info->units[at].op;
        if (op == RERAISE || op == RETURN_VALUE || op == RETURN_CONST || op == CHECK_EXC_MATCH) {
            break;
        }
        asked |= conditions[op] != UNCONDITIONAL;
        const CallSite *site = code_site(info, at);
        if (site != NULL && site->role == CALL_RELEASE && site->expression >= 0) {
            int bit = 1 << site->expression;
            e->guards |= bit;
            if (!has_site(info, site->expression, CALL_ACQUIRE)) {
                e->releases |= bit;
                e->surely |= asked ? 0 : bit;
            }
        }
    }
}

static int previous_unit(const CodeInfo *info, int unit)
{
    return unit < 1 ? -1 : unit - 1 - info->units[unit - 1].back;
}

/* The local, cells among them, that the instruction loads; -1 none. */
static int loads_local(const CodeInfo *info, int unit)
{
    Expression e;
    int is_name = unit >= 0 && parse_base(&info->units[unit], 1, &e) && (e.base == BASE_LOCAL || e.base == BASE_CELL);
    return is_name ? e.index : -1;
}

/* The local, cells among them, in which the instruction puts what is uppermost on the stack; -1 none. */
static int stores_local(const Unit *u)
{
    if (u->op == STORE_FAST || u->op == STORE_DEREF) {
        return (int)u->arg;
    }
    int pair = (STORE_FAST_STORE_FAST >= 0 && u->op == STORE_FAST_STORE_FAST) ||
               (STORE_FAST_LOAD_FAST >= 0 && u->op == STORE_FAST_LOAD_FAST);
    return pair ? (int)(u->arg >> 4) : -1;
}

/* Whether the instruction can lead to its exception handler. What loads the method of a release() does not: only so is the
 * lock known to be free behind a `finally`. */
static int can_raise(const Reader *r, int unit)
{
    const CodeInfo *info = r->info;
    int op = info->units[unit].op;
    if (harmless[op] || r->calm[unit]) {
        return 0;
    }
    return !(TO_BOOL >= 0 && op == TO_BOOL && loads_local(info, previous_unit(info, unit)) >= 0);
}

/* The last instruction of what the conditional jump at `unit` asks; -1 none. */
static int tested_at(const CodeInfo *info, int unit)
{
    int from = previous_unit(info, unit);
    while (from >= 0 && (info->units[from].op == EXTENDED_ARG || (TO_BOOL >= 0 && info->units[from].op == TO_BOOL))) {
        from = previous_unit(info, from);
    }
    return from;
}

/* Bits of the locks whose answer is in a local that the conditional jump at `unit` asks. */
static unsigned asked_by(const CodeInfo *info, int unit)
{
    int local = loads_local(info, tested_at(info, unit));
    unsigned bits = 0;
    for (int k = 0; local >= 0 && k < info->n_expressions; k++) {
        bits |= info->answers[k] == local ? 1u << k : 0;
    }
    return bits;
}

/* What the instruction at `unit` takes from the slot `lowest`, as a name with attributes. `rest`: what is done to that before. -> 0, or -1. */
enum { REST_NONE, REST_OTHER, REST_CALL };
static int parse_operand(const CodeInfo *info, int unit, int lowest, Expression *e, int *rest)
{
    const Unit *units = info->units;
    int start = pusher(info, unit - 1, lowest);
    start = start < 0 ? start : past_prefix(info, start);
    if (start < 0 || !parse_base(&units[start], units[start].depth < lowest, e)) {
        return -1;
    }
    *rest = REST_NONE;
    for (int at = next_unit(info, start); at < unit; at = next_unit(info, at)) {
        int op = units[at].op;
        if (*rest == REST_NONE && (op == LOAD_ATTR || op == LOAD_METHOD)) {
            if (e->n == MAX_ATTRIBUTES) {
                return -1;
            }
            int halved = op == LOAD_ATTR && PY_VERSION_HEX >= 0x030C0000;
            e->attributes[e->n++] = (uint16_t)(halved ? units[at].arg >> 1 : units[at].arg);
        }
        else if (op != EXTENDED_ARG) {
            /* The rest of a `with`, or arguments of a call that makes its manager. */
            *rest = is_call(op) || *rest == REST_CALL ? REST_CALL : REST_OTHER;
        }
    }
    return 0;
}

/* Bits of the locks for which the jump at `unit` asks whether they are there: `if lock is not None`, `if self._lock`. */
static unsigned asked_for(const CodeInfo *info, int unit)
{
    int from = asks[info->units[unit].op] ? tested_at(info, unit) : -1, rest;
    Expression e;
    if (from < 0 || parse_operand(info, next_unit(info, from), info->units[unit].depth - 1, &e, &rest) < 0 || rest != REST_NONE) {
        return 0;
    }
    unsigned bits = 0;
    for (int k = 0; k < info->n_expressions; k++) {
        bits |= same_expression(&info->expressions[k], &e) ? 1u << k : 0;
    }
    return bits;
}

/* What a call of a lock's method does, when it returns. */
static Taken after_site(const CodeInfo *info, const CallSite *site, Taken t)
{
    unsigned bit = site->expression < 0 ? 0 : 1u << site->expression;
    switch (site->role) {
    case CALL_RELEASE_SAVE:
        t.pending |= PENDING_LET_GO;
        break;
    case CALL_ACQUIRE_RESTORE:
        t.pending &= ~(unsigned)PENDING_LET_GO;
        if (info->enters) {
            t.pending |= bit;
            t.sure |= bit;
        }
        break;
    case CALL_RELEASE:
    case CALL_HANDED_OVER:
        t.pending &= ~bit;
        t.sure &= ~bit;
        t.guarded &= ~bit;
        break;
    case CALL_ACQUIRE:
        if (bit && (info->enters || has_site(info, site->expression, CALL_RELEASE) ||
                    has_site(info, site->expression, CALL_HANDED_OVER))) {
            if (site->arguments) {
                t.attempt = (int)(site - info->sites) + 1;
            }
            else {
                t.pending |= bit;
                t.sure |= bit;
            }
        }
        break;
    default:
        break;
    }
    return t;
}

/* What becomes of an answer that the instruction at `unit` takes off the stack. `went`: what holds if the lock was acquired, and
 * on the way of a jump that says so; else `t` stays. */
static Taken answered(CodeInfo *info, int unit, Taken t, int *decides)
{
    const Unit *u = &info->units[unit];
    const CallSite *site = &info->sites[t.attempt - 1];
    unsigned bit = 1u << site->expression;
    Taken went = {t.pending | bit, t.sure | bit, t.guarded, 0};
    *decides = 0;
    if (u->depth - 1 != code_answer_slot(info, site->unit) || (TO_BOOL >= 0 && u->op == TO_BOOL)) {
        return t;
    }
    if (conditions[u->op] != UNCONDITIONAL) {
        *decides = 1;
        return went;
    }
    int local = stores_local(u);
    int16_t *answer = &info->answers[site->expression];
    if (local >= 0) {
        *answer = (int16_t)(*answer == ANSWER_NONE || *answer == local ? local : ANSWER_UNKNOWN);
        return went;
    }
    if (u->op == POP_TOP) { /* `acquire(True)`: it is not expected to fail */
        return went;
    }
    if (PyCompile_OpcodeStackEffectWithJump(u->op, (int)u->arg, 0) < 0) { /* to somebody else: perhaps */
        went.sure &= ~bit;
        return went;
    }
    return t;
}

static void flow_locks(Reader *r)
{
    CodeInfo *info = r->info;
    for (int i = 0; i < info->n_sites; i++) {
        if (info->sites[i].role == CALL_RELEASE) {
            int start = pusher(info, info->sites[i].unit - 1, code_answer_slot(info, info->sites[i].unit));
            for (int at = Py_MAX(start, 0); start >= 0 && at < info->sites[i].unit; at++) {
                r->calm[at] = 1;
            }
        }
    }
    r->n_work = 0;
    arrive(r, 0, (Taken){0});
    while (r->n_work) {
        int at = r->work[--r->n_work];
        r->queued[at] = 0;
        Unit *u = &info->units[at];
        int op = u->op, next = next_unit(info, at);
        /* 3.11 calls at PRECALL or at CALL; only past both is the call behind us. */
        const CallSite *site = PRECALL >= 0 && op == PRECALL ? NULL : code_site(info, at);
        Entry *e = entry_at(r, at);
        if (e != NULL) {
            if (e->releases < 0) {
                read_handler(r, e);
            }
            u->pending |= (uint16_t)e->releases;
            u->sure |= (uint16_t)e->surely;
            u->guarded |= (uint16_t)e->guards;
        }
        Taken t = {u->pending, u->sure, u->guarded, u->attempt}, jumped;
        if (e != NULL && can_raise(r, at)) {
            /* One that fails to let go had nothing to let go of. */
            Taken raised = site != NULL && site->role == CALL_RELEASE ? after_site(info, site, t) : t;
            raised.attempt = 0;
            arrive(r, e->target, raised);
        }
        if (site != NULL) {
            t = after_site(info, site, t);
        }
        jumped = t;
        if (u->attempt) {
            int decides;
            Taken went = answered(info, at, t, &decides);
            if (!decides) {
                t = jumped = went;
            }
            else if (conditions[op] == IF_TRUE) {
                jumped = went;
                t.attempt = 0;
            }
            else {
                t = went;
                jumped.attempt = 0;
            }
        }
        else if (conditions[op] != UNCONDITIONAL) {
            Taken *without = conditions[op] == IF_TRUE ? &t : &jumped;
            unsigned asked = asked_by(info, at);
            without->pending &= ~asked;
            without->sure &= ~asked;
        }
        unsigned there = asked_for(info, at);
        if (there) {
            /* Where what it names is a lock, the other way is not gone: whatever else leads to its end decides what is held. */
            Taken *never = asks[op] == IF_NOTHING ? &jumped : &t;
            never->pending &= ~there;
            never->guarded &= ~there;
            never->sure |= there;
        }
        if (jumps[op]) {
            arrive(r, jumps[op] > 0 ? next + (int)u->arg : next - (int)u->arg, jumped);
        }
        if (!never_goes_on(op)) {
            arrive(r, next, t);
        }
    }
}

static int find_local(PyCodeObject *code, const char *name)
{
    PyObject *names = code->co_localsplusnames;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
        if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, i), name) == 0) {
            return (int)i;
        }
    }
    return -1;
}

static int names_locks(PyCodeObject *code)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(code->co_names); i++) {
        if (role_of(PyTuple_GET_ITEM(code->co_names, i)) != CALL_OTHER) {
            return 1;
        }
    }
    return 0;
}

/* Whether the function goes on with generators that it keeps in variables. */
static int drives_generators(const CodeInfo *info, PyCodeObject *code)
{
    static const char *const names[] = {"next", "send", "throw", "anext", "asend", "athrow", "__next__", "__anext__"};
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(code->co_names); i++) {
        for (size_t k = 0; k < Py_ARRAY_LENGTH(names); k++) {
            if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(code->co_names, i), names[k]) == 0) {
                return 1;
            }
        }
    }
    return info->n_regions > 1;
}

/* `take = self._lock.acquire` makes `take()` a call of acquire on self._lock: the role, with `e` turned into the lock. */
static CallRole alias_role(const Reader *r, Expression *e)
{
    const CodeInfo *info = r->info;
    if (e->base != BASE_LOCAL && e->base != BASE_CELL) {
        return CALL_OTHER;
    }
    for (int at = 0; at < info->n_units; at = next_unit(info, at)) {
        const Unit *u = &info->units[at];
        int target = -1, lowest = u->depth - 1;
        if (u->depth > 1 && u->op == STORE_FAST_STORE_FAST) {
            target = e->index == (int)(u->arg >> 4) || e->index == (int)(u->arg & 15) ? e->index : -1;
            lowest -= e->index != (int)(u->arg >> 4);
        }
        else if (u->depth > 0 && (u->op == STORE_FAST || u->op == STORE_DEREF)) {
            target = (int)u->arg;
        }
        else if (u->depth > 0 && u->op == STORE_FAST_LOAD_FAST) {
            target = (int)(u->arg >> 4);
        }
        if (target != e->index) {
            continue;
        }
        int start = pusher(info, at - 1, lowest);
        Expression lock;
        start = start < 0 ? start : past_prefix(info, start);
        if (start < 0 || !parse_base(&info->units[start], info->units[start].depth < lowest, &lock)) {
            continue;
        }
        int method = parse_attributes(info, r->code, next_unit(info, start), at, &lock);
        CallRole role = method < 0 ? CALL_OTHER : role_of(code_name(r->code, method));
        if (role != CALL_OTHER) {
            *e = lock;
            return role;
        }
    }
    return CALL_OTHER;
}

static int add_site(Reader *r, int *room, int at, CallRole role, const Expression *e)
{
    CodeInfo *info = r->info;
    if (info->n_sites == *room) {
        *room = *room ? *room * 2 : 4;
        CallSite *grown = PyMem_RawRealloc(info->sites, sizeof(CallSite) * (size_t)*room);
        if (grown == NULL) {
            return -1;
        }
        info->sites = grown;
    }
    int k = e->base == BASE_NONE ? -1 : 0;
    while (k >= 0 && k < info->n_expressions && !same_expression(&info->expressions[k], e)) {
        k++;
    }
    if (k == info->n_expressions) {
        if (k < MAX_EXPRESSIONS) {
            info->expressions[info->n_expressions++] = *e;
        }
        else {
            k = -1;
        }
    }
    info->sites[info->n_sites++] = (CallSite){at, role, (int)info->units[at].arg, k};
    return 0;
}

/* `lock.release`, as an argument of a call, from the load of `lock` at `start` on: the unit of the last instruction, or -1. */
static int handed_over(const Reader *r, int start, Expression *e)
{
    const CodeInfo *info = r->info;
    const Unit *units = info->units;
    start = past_prefix(info, start);
    if (units[start].depth < 0 || !parse_base(&units[start], 1, e)) {
        return -1;
    }
    int at = next_unit(info, start), last = -1;
    while (at < info->n_units && (units[at].op == LOAD_ATTR || units[at].op == EXTENDED_ARG)) {
        last = units[at].op == LOAD_ATTR ? at : last;
        at = next_unit(info, at);
    }
    /* Up to 3.11 the load of an attribute; from 3.12 on the same with its lowest bit clear: not of a method to be called. */
    if (last < 0 || at >= info->n_units || (PY_VERSION_HEX >= 0x030C0000 && (units[last].arg & 1))) {
        return -1;
    }
    int method = parse_attributes(info, r->code, next_unit(info, start), at, e);
    int is_argument = is_call(units[at].op) || (PRECALL >= 0 && units[at].op == PRECALL);
    return method >= 0 && is_argument && role_of(code_name(r->code, method)) == CALL_RELEASE ? last : -1;
}

static int find_sites(Reader *r)
{
    CodeInfo *info = r->info;
    int room = 0;
    for (int at = 0; at < info->n_units; at = next_unit(info, at)) {
        const Unit *u = &info->units[at];
        Expression e;
        if (u->depth < 0) {
            continue;
        }
        if (u->op == LOAD_ATTR) {
            int start = pusher(info, at, u->depth - 1);
            if (start >= 0 && start < at && handed_over(r, start, &e) == at && add_site(r, &room, at, CALL_HANDED_OVER, &e) < 0) {
                return -1;
            }
            continue;
        }
        if (!is_call(u->op)) {
            continue;
        }
        e = (Expression){.base = BASE_NONE};
        int method = parse_callee(info, r->code, at, &e);
        CallRole role = CALL_OTHER;
        if (method == BARE) {
            role = alias_role(r, &e);
        }
        else if (method >= 0) {
            role = role_of(code_name(r->code, method));
        }
        else if ((method = called_method(info, r->code, at)) >= 0) {
            role = role_of(code_name(r->code, method)); /* of a lock that has no name here */
            role = role == CALL_ACQUIRE || role == CALL_RELEASE ? role : CALL_OTHER;
            e.base = BASE_NONE;
        }
        if (role != CALL_OTHER && !e.super && add_site(r, &room, at, role, &e) < 0) {
            return -1;
        }
    }
    return 0;
}

const CallSite *code_site(const CodeInfo *info, int unit)
{
    int low = 0, high = info->n_sites;
    while (low < high) {
        int middle = (low + high) / 2;
        if (info->sites[middle].unit < unit) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    return low < info->n_sites && info->sites[low].unit == unit ? &info->sites[low] : NULL;
}

static int decode(CodeInfo *info, PyCodeObject *code)
{
    PyObject *bytes = PyCode_GetCode(code);
    if (bytes == NULL) {
        PyErr_Clear();
        return -1;
    }
    const unsigned char *raw = (const unsigned char *)PyBytes_AS_STRING(bytes);
    info->n_units = (int)(PyBytes_GET_SIZE(bytes) / 2);
    info->units = PyMem_RawCalloc((size_t)info->n_units + 1, sizeof(Unit));
    if (info->units == NULL) {
        Py_DECREF(bytes);
        return -1;
    }
    uint32_t extended = 0;
    for (int at = 0; at < info->n_units;) {
        Unit *u = &info->units[at];
        u->op = raw[2 * at];
        u->arg = extended << 8 | raw[2 * at + 1];
        u->depth = -1;
        extended = u->op == EXTENDED_ARG ? u->arg : 0;
        int size = 1 + caches[u->op];
        for (int k = 1; k < size && at + k < info->n_units; k++) {
            info->units[at + k] = (Unit){.op = (uint8_t)(CACHE < 0 ? 0 : CACHE), .depth = -1, .back = (uint8_t)k};
        }
        at += size;
    }
    Py_DECREF(bytes);
    return 0;
}

/* Most frames of most threads stand in a plain call: a look is to pass by them without reading more than where they are. */
static void note_quiet(CodeInfo *info)
{
    if (info->importlib || info->wait || info->permit || info->exits || info->enters || info->stacks || info->drives) {
        return;
    }
    for (int i = 0; i < info->n_units; i++) {
        Unit *u = &info->units[i];
        OpKind kind = op_kind(u->op);
        u->quiet = u->depth >= 0 && !u->back && !u->with && !u->iterator && !u->pending && !u->guarded && !u->attempt &&
                   (kind == OP_CALL || kind == OP_CALL_KW || kind == OP_CALL_EX) && !is_enter_call(info, i) &&
                   !is_exit_call(info, i);
    }
}

static CodeInfo *read_code(PyCodeObject *code)
{
    CodeInfo *info = PyMem_RawCalloc(1, sizeof(CodeInfo));
    if (info == NULL) {
        return &nothing;
    }
    info->code = code;
    info->n_calls = -1;
    Reader r = {.info = info, .code = code};
    int failed = decode(info, code) < 0;
    r.work = PyMem_RawMalloc(sizeof(int) * (size_t)(info->n_units + 1));
    r.queued = PyMem_RawCalloc(3, (size_t)info->n_units + 1);
    r.arrived = r.queued == NULL ? NULL : r.queued + info->n_units + 1;
    r.calm = r.queued == NULL ? NULL : r.arrived + info->n_units + 1;
    for (int k = 0; k < MAX_EXPRESSIONS; k++) {
        info->answers[k] = ANSWER_NONE;
    }
    r.entry_of = PyMem_RawMalloc(sizeof(int) * (size_t)(info->n_units + 1));
    failed = failed || r.work == NULL || r.queued == NULL || r.entry_of == NULL || read_entries(&r) < 0;
    if (!failed) {
        add_region(&r, -1, 0); /* index 0 means none */
        flow(&r);
        for (int i = 0; i < info->n_units; i++) {
            info->units[i].with = (uint16_t)with_of_entry(&r, entry_at(&r, i), 0);
        }
        /* The table leaves out what cannot raise: a NOP (the line of a `try`), and from 3.12 on a jump. Nothing is entered or left
         * there, so it is as where they lead. */
        for (int i = info->n_units; i-- > 0;) {
            int op = info->units[i].op, next = next_unit(info, i);
            if (r.entry_of[i] >= 0 || info->units[i].back) {
                continue;
            }
            int target = op == NOP ? next
                         : !jumps[op] || !never_goes_on(op) ? -1
                         : jumps[op] > 0 ? next + (int)info->units[i].arg : next - (int)info->units[i].arg;
            if (target >= 0 && target < info->n_units) {
                info->units[i].with = info->units[target].with;
            }
        }
        const char *file = PyUnicode_AsUTF8(code->co_filename);
        const char *name = PyUnicode_AsUTF8(code->co_name);
        if (file == NULL || name == NULL) {
            PyErr_Clear();
            file = name = "";
        }
        info->importlib = strcmp(file, "<frozen importlib._bootstrap>") == 0;
        info->module_lock = info->importlib && strcmp(name, "acquire") == 0;
        info->enters = strcmp(name, "__enter__") == 0 || strcmp(name, "__aenter__") == 0 ||
                       strcmp(name, "acquire") == 0 || strcmp(name, "_acquire_restore") == 0 ||
                       strcmp(name, "acquire_lock") == 0;
        info->exits = strcmp(name, "__exit__") == 0 || strcmp(name, "__aexit__") == 0;
        const char *slash = strrchr(file, '/');
        if (strcmp(slash != NULL ? slash + 1 : file, "threading.py") == 0 && code->co_argcount > 0) {
            info->permit = strcmp(name, "acquire") == 0 ? PERMIT_TAKEN
                           : strcmp(name, "release") == 0 ? PERMIT_RETURNED
                                                          : PERMIT_NONE;
            info->permit_local = find_local(code, "rc");
        }
        info->charge = info->entered = info->stacked = -1;
        if (strcmp(slash != NULL ? slash + 1 : file, "contextlib.py") == 0) {
            int enters = strcmp(name, "enter_context") == 0 || strcmp(name, "enter_async_context") == 0;
            info->stacked = info->exits ? find_local(code, "cb") : -1;
            int called = strcmp(name, "callback") == 0 || strcmp(name, "push_async_callback") == 0;
            info->stacks = enters || called;
            info->charge = !info->stacks ? -1 : find_local(code, enters ? "cm" : "callback");
            info->entered = enters ? find_local(code, "result") : -1;
        }
        info->worker = (uint8_t)worker_of(code);
        info->joins = strcmp(name, "_wait_for_tstate_lock") == 0;
        info->wait_self = info->wait_waiter = -1;
        if (names_locks(code)) {
            failed = find_sites(&r) < 0;
            if (!failed && info->n_sites) {
                flow_locks(&r);
            }
            int saves = 0, restores = 0;
            for (int i = 0; i < info->n_sites; i++) {
                saves += info->sites[i].role == CALL_RELEASE_SAVE;
                restores += info->sites[i].role == CALL_ACQUIRE_RESTORE;
            }
            if (saves && restores) {
                info->wait = 1;
                info->wait_self = find_local(code, "self");
                info->wait_waiter = find_local(code, "waiter");
            }
        }
        info->drives = drives_generators(info, code) != 0;
        info->boring = info->n_sites == 0 && info->n_regions <= 1 && !info->importlib && !info->drives && !info->exits &&
                       !info->enters && !info->stacks;
        for (int i = 0; i < info->n_units && info->boring; i++) {
            OpKind kind = op_kind(info->units[i].op);
            info->boring = kind != OP_BEFORE_WITH && kind != OP_WITH_EXCEPT;
        }
    }
    PyMem_RawFree(r.entries);
    PyMem_RawFree(r.entry_of);
    PyMem_RawFree(r.work);
    PyMem_RawFree(r.queued);
    if (failed) {
        release_info(info);
        return &nothing;
    }
    info->undecided = info->importlib || info->wait || info->permit || info->exits || info->enters ? 0 : LOOKS_TO_DECIDE;
    note_quiet(info);
    /* Units among the caches answer as their instruction does. */
    for (int i = 0; i < info->n_units; i++) {
        if (info->units[i].back) {
            uint8_t back = info->units[i].back;
            info->units[i] = info->units[i - back];
            info->units[i].back = back;
        }
    }
    return info;
}

const CodeInfo *code_info(PyCodeObject *code)
{
    const CodeInfo *known = code_info_recent(code);
    if (known != NULL) {
        return known;
    }
    CodeInfo *info = code_extra_get(code, extra_index);
    if (info == NULL) {
        info = read_code(code);
        if (code_extra_set(code, extra_index, info) < 0) {
            PyErr_Clear();
            release_info(info);
            return &nothing;
        }
    }
    if (info != &nothing) {
        *recent_entry(code) = (Recent){code, info};
    }
    return info;
}

int call_unit(const CodeInfo *info, int unit)
{
    return PRECALL >= 0 && info->units[unit].op == PRECALL ? next_unit(info, unit) : unit;
}

typedef struct {
    uint8_t *at; /* for each unit, the set of what may be when it begins */
    int *work;
    int n_work, n_units;
} Reached;

static void reach(Reached *r, int unit, int set)
{
    if (unit >= 0 && unit < r->n_units && (r->at[unit] | set) != r->at[unit]) {
        r->at[unit] |= (uint8_t)set;
        r->work[r->n_work++] = unit; /* each unit at most twice, once for each element */
    }
}

/* Whether a call that does not return stands there. */
static int ends_at(const CodeInfo *info, int unit)
{
    for (int i = 0; i < info->n_calls && info->calls[i].unit <= unit; i++) {
        if (info->calls[i].unit == unit && info->calls[i].ends) {
            return 1;
        }
    }
    return 0;
}

int code_held(const CodeInfo *info, PyCodeObject *code, int begins, const uint8_t *effects, int unit)
{
    size_t n = (size_t)info->n_units;
    Reader reader = {.info = (CodeInfo *)info, .code = code, .entry_of = PyMem_RawMalloc(sizeof(int) * (n + 1))};
    Reached r = {.at = PyMem_RawCalloc(n + 1, 1), .work = PyMem_RawMalloc(sizeof(int) * (2 * n + 2)), .n_units = (int)n};
    int answer = HELD | LET_GO;
    if (reader.entry_of != NULL && r.at != NULL && r.work != NULL && read_entries(&reader) == 0) {
        int returns = 0;
        reach(&r, 0, begins);
        while (r.n_work) {
            int at = r.work[--r.n_work], set = r.at[at];
            const Unit *u = &info->units[at];
            if (u->depth < 0) {
                continue;
            }
            Entry *e = entry_at(&reader, at);
            if (e != NULL) {
                reach(&r, e->target, set);
            }
            switch (effects[at]) {
            case LETS_GO:
                set = LET_GO;
                break;
            case MAY_LET_GO:
                set |= LET_GO;
                break;
            case TAKES:
                set = HELD;
                break;
            default:
                break;
            }
            int op = u->op, next = next_unit(info, at);
            if (jumps[op]) {
                reach(&r, jumps[op] > 0 ? next + (int)u->arg : next - (int)u->arg, set);
            }
            if (op == RETURN_VALUE || op == RETURN_CONST) {
                returns |= set;
            }
            else if (!never_goes_on(op) && !(is_call(op) && ends_at(info, at))) {
                reach(&r, next, set);
            }
        }
        answer = unit < 0 ? returns : r.at[unit];
    }
    PyMem_RawFree(reader.entries);
    PyMem_RawFree(reader.entry_of);
    PyMem_RawFree(r.at);
    PyMem_RawFree(r.work);
    return answer;
}

int delegates_at(const CodeInfo *info, int unit)
{
    unit -= info->units[unit].back;
    int at = info->units[unit].op == YIELD_VALUE ? next_unit(info, unit) : unit;
    /* RESUME's argument: 2 after `yield from`, 3 after `await` (in its two low bits). */
    return at < info->n_units && info->units[at].op == RESUME && (info->units[at].arg & 3) >= 2;
}

int answer_local(const CodeInfo *info, int unit)
{
    int local = stores_local(&info->units[unit]), next = next_unit(info, unit);
    return local < 0 && next < info->n_units ? stores_local(&info->units[next]) : local;
}

int drops_answer(const CodeInfo *info, int unit)
{
    int next = next_unit(info, unit);
    return next < info->n_units && info->units[next].op == POP_TOP;
}

int is_enter_call(const CodeInfo *info, int unit)
{
    if (LOAD_SPECIAL < 0 || info->units[unit].op != CALL || info->units[unit].arg != 0 || unit < 1) {
        return 0;
    }
    const Unit *before = &info->units[unit - 1];
    /* LOAD_SPECIAL's argument: 0 __enter__, 1 __exit__, 2 __aenter__, 3 __aexit__ (pycore_ceval.h). */
    return before->op == LOAD_SPECIAL && (before->arg == 0 || before->arg == 2);
}

int is_exit_call(const CodeInfo *info, int unit)
{
    const Unit *units = info->units;
    if (PRECALL >= 0 && units[unit].op == CALL && unit >= 1 + caches[PRECALL]) {
        unit -= 1 + caches[PRECALL];
    }
    if (unit < 4 || units[unit].arg != (PY_VERSION_HEX >= 0x030E0000 ? 3 : 2)) {
        return 0;
    }
    for (int k = 1; k <= 3; k++) {
        const Unit *u = &units[unit - k];
        if (u->back || (u->op != LOAD_CONST && u->op != LOAD_COMMON_CONSTANT)) {
            return 0;
        }
    }
    return units[unit - 1].arg == units[unit - 2].arg && units[unit - 2].arg == units[unit - 3].arg;
}

int exit_call_after(const CodeInfo *info, int unit, int *manager, int *exit)
{
    int swaps[2], n = 0, call = unit;
    for (int steps = 0; steps < 8 && call < info->n_units; steps++, call = next_unit(info, call)) {
        int op = info->units[call].op;
        if (is_call(op)) {
            break;
        }
        if (op == SWAP && n < 2) { /* the value of a `return` goes below the manager */
            swaps[n++] = call;
        }
        else if (op != LOAD_CONST && op != LOAD_COMMON_CONSTANT && op != NOP && op != END_FOR && op != POP_ITER) {
            return -1;
        }
    }
    if (call >= info->n_units || !is_call(info->units[call].op) || !is_exit_call(info, call) || info->units[call].depth < 0) {
        return -1;
    }
    *manager = info->units[call].depth - 4;
    *exit = *manager - (PY_VERSION_HEX >= 0x030E0000);
    while (n--) {
        int top = info->units[swaps[n]].depth - 1, other = info->units[swaps[n]].depth - (int)info->units[swaps[n]].arg;
        *manager = *manager == top ? other : *manager == other ? top : *manager;
        *exit = *exit == top ? other : *exit == other ? top : *exit;
    }
    return call;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * From names to objects, without running any code of the program's
 */

/* What `object.name` is when no descriptor, no __getattr__ and no __getattribute__ of the program has a say. Borrowed: the
 * object keeps it alive. */
PyObject *plain_attribute(PyObject *object, PyObject *name)
{
    if (PyModule_CheckExact(object)) {
        return PyDict_GetItemWithError(PyModule_GetDict(object), name);
    }
    PyTypeObject *type = Py_TYPE(object);
    if (PyType_Check(object)) {
        PyObject *found = _PyType_Lookup((PyTypeObject *)object, name);
        return found != NULL && Py_TYPE(found)->tp_descr_get == NULL ? found : NULL;
    }
    if (type->tp_dict == NULL && !PyType_HasFeature(type, Py_TPFLAGS_READY)) {
        return NULL;
    }
    PyObject *descriptor = _PyType_Lookup(type, name);
    if (descriptor != NULL && Py_TYPE(descriptor)->tp_descr_get != NULL &&
        !Py_IS_TYPE(descriptor, &PyMemberDescr_Type) && !PyFunction_Check(descriptor)) {
        return NULL;
    }
    PyObject *value = _PyObject_GenericGetAttrWithDict(object, name, NULL, 1);
    if (value == NULL) {
        PyErr_Clear();
        return NULL;
    }
    if (Py_REFCNT(value) == 1) { /* made for us (a bound method): nobody else keeps it */
        Py_DECREF(value);
        return NULL;
    }
    Py_DECREF(value);
    return value;
}

PyObject *module_variable(PyObject *module, PyObject *name)
{
    PyObject *modules = PyImport_GetModuleDict();
    PyObject *found = modules != NULL && PyDict_CheckExact(modules) ? PyDict_GetItemWithError(modules, module) : NULL;
    PyObject *value = found != NULL && PyModule_Check(found) ? PyDict_GetItemWithError(PyModule_GetDict(found), name) : NULL;
    PyErr_Clear();
    return value;
}

static PyObject *follow_from(const Expression *e, PyCodeObject *code, PyObject *object, int from, int to)
{
    for (int i = from; i < to && object != NULL; i++) {
        PyObject *name = code_name(code, e->attributes[i]);
        object = name == NULL ? NULL : plain_attribute(object, name);
    }
    return object;
}

/* What it is, or with `each` what is gone through. */
static PyObject *follow(const Expression *e, PyCodeObject *code, PyObject *object)
{
    return follow_from(e, code, object, 0, e->each ? e->each - 1 : e->n);
}

PyObject *evaluate_element(const Expression *e, PyCodeObject *code, PyObject *element)
{
    return follow_from(e, code, element, e->each - 1, e->n);
}

PyObject *evaluate(const Expression *e, PyCodeObject *code, Frame *frame)
{
    PyObject *object = NULL;
    if (e->base == BASE_LOCAL || e->base == BASE_CELL) {
        if (e->index >= code->co_nlocalsplus) {
            return NULL;
        }
        object = frame_local(frame, e->index);
        if (object != NULL && e->base == BASE_CELL) {
            object = PyCell_Check(object) ? PyCell_GET(object) : NULL;
        }
    }
    else if (e->base == BASE_GLOBAL || e->base == BASE_NAME) {
        PyObject *name = code_name(code, e->index);
        PyObject *globals = frame_globals(frame);
        if (name == NULL || globals == NULL) {
            return NULL;
        }
        if (e->base == BASE_NAME && frame->f_locals != NULL && PyDict_CheckExact(frame->f_locals)) {
            object = PyDict_GetItemWithError(frame->f_locals, name);
        }
        if (object == NULL && PyDict_CheckExact(globals)) {
            object = PyDict_GetItemWithError(globals, name);
        }
    }
    return object == NULL ? NULL : follow(e, code, object);
}

PyObject *evaluate_on(const Expression *e, PyCodeObject *code, PyObject *first, PyObject *globals, PyObject *closure)
{
    int free = e->index - (code->co_nlocalsplus - code->co_nfreevars);
    if (e->base == BASE_CELL && free >= 0 && closure != NULL && PyTuple_CheckExact(closure) && free < PyTuple_GET_SIZE(closure)) {
        PyObject *cell = PyTuple_GET_ITEM(closure, free), *object = PyCell_Check(cell) ? PyCell_GET(cell) : NULL;
        return object == NULL ? NULL : follow(e, code, object);
    }
    if (e->base == BASE_GLOBAL && globals != NULL && PyDict_CheckExact(globals)) {
        PyObject *name = code_name(code, e->index);
        PyObject *object = name == NULL ? NULL : PyDict_GetItemWithError(globals, name);
        return object == NULL ? NULL : follow(e, code, object);
    }
    if ((e->base != BASE_LOCAL && e->base != BASE_CELL) || first == NULL) {
        return NULL;
    }
    return e->index == 0 ? follow(e, code, first) : NULL;
}

static PyObject *join(const Expression *e, PyCodeObject *code, const char *end)
{
    PyObject *name = e->base == BASE_GLOBAL || e->base == BASE_NAME ? code_name(code, e->index)
                     : e->index < PyTuple_GET_SIZE(code->co_localsplusnames)
                         ? PyTuple_GET_ITEM(code->co_localsplusnames, e->index)
                         : NULL;
    PyObject *text = name ? PyUnicode_FromFormat("%U", name) : NULL;
    for (int i = 0; i < e->n && text != NULL; i++) {
        PyObject *attribute = code_name(code, e->attributes[i]);
        PyObject *longer = attribute ? PyUnicode_FromFormat("%U.%U", text, attribute) : NULL;
        Py_SETREF(text, longer);
    }
    if (text != NULL && *end) {
        Py_SETREF(text, PyUnicode_FromFormat("%U%s", text, end));
    }
    PyErr_Clear();
    return text;
}

/* The lowest slot of what the `with` entered at `unit` needs; -1 if none is entered there. */
static int lowest_of_entered(const CodeInfo *info, int unit)
{
    const Unit *u = &info->units[unit];
    if (u->op == BEFORE_WITH || u->op == BEFORE_ASYNC_WITH) {
        return u->depth - 1;
    }
    return is_enter_call(info, unit) ? u->depth - 4 : -1;
}

int code_enters(const CodeInfo *info, int unit, Expression *e)
{
    int rest, lowest = lowest_of_entered(info, unit);
    return lowest >= 0 && parse_operand(info, unit, lowest, e, &rest) == 0 && rest != REST_CALL;
}

PyObject *expression_text(PyCodeObject *code, int unit)
{
    const CodeInfo *info = code_info(code);
    if (unit < 0 || unit >= info->n_units || info->units[unit].depth < 0) {
        return NULL;
    }
    unit -= info->units[unit].back;
    Expression e;
    int rest, lowest = lowest_of_entered(info, unit);
    if (lowest >= 0) {
        return parse_operand(info, unit, lowest, &e, &rest) < 0 ? NULL : join(&e, code, rest == REST_CALL ? "()" : "");
    }
    return is_call(info->units[unit].op) && parse_callee(info, code, unit, &e) >= 0 ? join(&e, code, "") : NULL;
}

int code_argument(const CodeInfo *info, int unit, int index, Expression *e)
{
    int rest, before = previous_unit(info, unit), lowest = code_answer_slot(info, unit) + 2 + index;
    before = before >= 0 && PRECALL >= 0 && info->units[before].op == PRECALL ? previous_unit(info, before) : before;
    return op_kind(info->units[unit].op) == OP_CALL && before >= 0 && info->units[before].op != KW_NAMES &&
           index < (int)info->units[unit].arg && parse_operand(info, unit, lowest, e, &rest) == 0;
}

/* Whether what the call at `unit` returns goes into what a `with` enters: `with closing(Handle()):` */
static int makes_manager(const CodeInfo *info, int unit)
{
    for (int i = 1; i < info->n_regions; i++) {
        int enter = info->regions[i].enter, lowest = enter < 0 ? -1 : lowest_of_entered(info, enter);
        int start = lowest < 0 || unit >= enter ? -1 : pusher(info, enter - 1, lowest);
        if (start >= 0 && start <= unit) {
            return 1;
        }
    }
    return 0;
}

static int never_returns(PyCodeObject *code, const NamedCall *call)
{
    static const char *const ends[][2] = {{"os", "_exit"}, {"os", "abort"}, {"sys", "exit"}};
    const Expression *e = &call->expression;
    PyObject *base = e->base == BASE_GLOBAL || e->base == BASE_NAME ? code_name(code, e->index) : NULL;
    PyObject *method = call->method < 0 ? NULL : code_name(code, call->method);
    for (size_t i = 0; base != NULL && e->n == 0 && method != NULL && i < Py_ARRAY_LENGTH(ends); i++) {
        if (PyUnicode_CompareWithASCIIString(base, ends[i][0]) == 0 &&
            PyUnicode_CompareWithASCIIString(method, ends[i][1]) == 0) {
            return 1;
        }
    }
    return 0;
}

static void find_calls(CodeInfo *info, PyCodeObject *code)
{
    int room = 0;
    info->n_calls = 0;
    for (int at = 0; at < info->n_units; at = next_unit(info, at)) {
        int op = info->units[at].op;
        if (info->units[at].depth < 0 || op == PRECALL || !(is_call(op) || op == CALL_FUNCTION_EX)) {
            continue;
        }
        NamedCall call = {.unit = at};
        call.method = parse_callee(info, code, at, &call.expression);
        if (call.method < 0 && call.method != BARE) {
            continue;
        }
        call.method = Py_MAX(call.method, -1);
        call.entered = makes_manager(info, at) & 1;
        call.ends = never_returns(code, &call) & 1;
        if (info->n_calls == room) {
            room = room ? room * 2 : 4;
            NamedCall *grown = PyMem_RawRealloc(info->calls, sizeof(NamedCall) * (size_t)room);
            if (grown == NULL) {
                return;
            }
            info->calls = grown;
        }
        info->calls[info->n_calls++] = call;
    }
}

CodeInfo *code_calls(PyCodeObject *code)
{
    CodeInfo *info = (CodeInfo *)code_info(code);
    if (info->n_calls < 0) {
        find_calls(info, code);
    }
    return info;
}

static int names_role(PyCodeObject *code, CallRole role)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(code->co_names); i++) {
        if (role_of(PyTuple_GET_ITEM(code->co_names, i)) == role) {
            return 1;
        }
    }
    return 0;
}

int code_waits(PyCodeObject *code)
{
    return names_role(code, CALL_RELEASE_SAVE) && code_info(code)->wait;
}

int code_drives(PyCodeObject *code)
{
    return code_info(code)->drives;
}

int code_acquires(PyCodeObject *code)
{
    return names_role(code, CALL_ACQUIRE);
}

int code_releases(PyCodeObject *code)
{
    return names_role(code, CALL_RELEASE);
}

int called_local(const CodeInfo *info, PyCodeObject *code, int local, int *pops)
{
    int calls = -1;
    *pops = -1;
    for (int at = 0; at < info->n_units; at = next_unit(info, at)) {
        int op = info->units[at].op;
        Expression e;
        if (info->units[at].depth < 0 || op == PRECALL || !(is_call(op) || op == CALL_FUNCTION_EX)) {
            continue;
        }
        int method = parse_callee(info, code, at, &e);
        if (method == BARE && e.base == BASE_LOCAL && e.index == local) {
            calls = at;
        }
        else if (method >= 0 && PyUnicode_CompareWithASCIIString(code_name(code, method), "pop") == 0) {
            *pops = at;
        }
    }
    return calls;
}

/* Whether the local is bound by one `for`, over a name with attributes, and by nothing else: that is `e` then, each element of it. */
static int gone_through(const CodeInfo *info, int local, Expression *e)
{
    int loops = 0, stores = 0;
    for (int at = 0; at < info->n_units; at = next_unit(info, at)) {
        const Unit *u = &info->units[at];
        int pair = STORE_FAST_STORE_FAST >= 0 && u->op == STORE_FAST_STORE_FAST;
        stores += stores_local(u) == local || (pair && (int)(u->arg & 15) == local);
        if (u->op != GET_ITER || u->depth < 0) {
            continue;
        }
        int loop = past_extensions(info, next_unit(info, at)), rest;
        int store = loop < info->n_units && info->units[loop].op == FOR_ITER ? past_extensions(info, next_unit(info, loop)) : -1;
        if (store >= 0 && store < info->n_units && stores_local(&info->units[store]) == local) {
            loops += parse_operand(info, at, u->depth - 1, e, &rest) == 0 && rest == REST_NONE;
        }
    }
    e->each = e->n + 1;
    return loops == 1 && stores == 1;
}

/* What the call is on, or, of what a `for` binds, what that goes through; worked out once. */
static const Expression *over(const CodeInfo *info, NamedCall *call)
{
    if (call->over.base == BASE_NONE) {
        const Expression *e = &call->expression;
        Expression *all = &call->over;
        if (e->base != BASE_LOCAL || e->index == 0 || !gone_through(info, e->index, all) || all->n + e->n > MAX_ATTRIBUTES) {
            *all = *e;
        }
        else {
            memcpy(&all->attributes[all->n], e->attributes, (size_t)e->n * sizeof(*e->attributes));
            all->n += e->n;
        }
    }
    return &call->over;
}

int code_self_calls(PyCodeObject *code, CallVisitor visitor, void *context)
{
    const CodeInfo *info = code_calls(code);
    for (int i = 0; i < info->n_calls; i++) {
        NamedCall *call = &info->calls[i];
        const Expression *e = call->method < 0 ? NULL : over(info, call);
        if (e == NULL || e->base == BASE_NAME || (e->base == BASE_LOCAL && e->index != 0)) {
            continue;
        }
        int stop = visitor(context, code, e, code_name(code, call->method), call->unit);
        if (stop) {
            return stop;
        }
    }
    return 0;
}

#endif
