/* What a code object says about locks, worked out once for each and kept in its co_extra. */
#ifndef FORKPROOF_CODE_H
#define FORKPROOF_CODE_H

#include "interp.h"
#include <stdint.h>

#define MAX_ATTRIBUTES 4
#define MAX_EXPRESSIONS 15
enum { PERMIT_NONE, PERMIT_TAKEN, PERMIT_RETURNED };
#define PENDING_LET_GO 0x8000  /* in Unit.pending: _release_save has been called, _acquire_restore not yet */

/* `base.attribute.attribute`: how a lock is reached from a frame. Evaluating it runs no user code. */
typedef struct {
    enum { BASE_NONE, BASE_LOCAL, BASE_CELL, BASE_GLOBAL, BASE_NAME } base;
    int index;                            /* of the local, or of the name in co_names */
    int super;                            /* the base is super(), and a method is looked up behind this code's class */
    int each;                             /* a `for` goes through what the first each-1 attributes lead to; 0: there is none */
    int n;
    uint16_t attributes[MAX_ATTRIBUTES];  /* indexes into co_names */
} Expression;

typedef enum {
    CALL_OTHER,
    CALL_ACQUIRE,          /* acquire, acquire_lock, __enter__ */
    CALL_RELEASE,          /* release, release_lock, __exit__ */
    CALL_RELEASE_SAVE,     /* Condition.wait lets go of its lock here ... */
    CALL_ACQUIRE_RESTORE,  /* ... and has it back after this */
    CALL_HANDED_OVER,      /* no call: `lock.release` is given to somebody, who will call it */
} CallRole;

/* A call of a lock's method on something nameable. */
typedef struct {
    int unit;
    CallRole role;
    int arguments;
    int expression;  /* index into expressions; -1 where it is not nameable or there are too many */
} CallSite;

/* One slot of the value stack that stays in use over a region: a manager of `with`, or an iterator of `for`. */
typedef struct {
    int16_t slot;
    uint16_t outer;  /* index of the enclosing one; 0: none */
    int enter;       /* unit of the instruction that entered the `with`; -1 for iterators */
} Region;

typedef struct {
    int16_t depth;    /* slots in use before this instruction; -1: not reachable */
    uint16_t with;    /* innermost `with` that has been entered and not left */
    uint16_t iterator;
    uint16_t pending; /* bit k: on some way here expressions[k] was acquired, and its release() is still to come */
    uint16_t sure;    /* of them, those of which that is so on every way */
    uint16_t guarded; /* bit k: a `finally` further on releases expressions[k], as it may once more where it is an RLock */
    uint16_t attempt; /* from 1: the site whose answer, whether it has the lock, is still on the stack */
    uint8_t back;     /* units back to the start of the instruction that this unit belongs to */
    uint8_t op;
    uint8_t quiet;    /* a thread that stands here in a call of a Python function holds nothing by this frame */
    uint32_t arg;
} Unit;

/* `base.a.b.method(...)`, or `function(...)` */
typedef struct {
    int unit;
    Expression expression;
    Expression over; /* as code_self_calls() has it, once it has been asked */
    int method; /* index into co_names; -1: the expression is itself what is called */
    unsigned entered : 1; /* it makes what a `with` enters: what it takes that lets go of */
    unsigned ends : 1;    /* os._exit() and the like: it does not return */
    enum { KEEPS_UNKNOWN, KEEPS_NOT, KEEPS_PERHAPS } keeps, gives; /* whether it may return with locks that it took; let go of some */
    enum { NAMELESS_UNKNOWN, NAMELESS_NOT, NAMELESS_TAKEN, NAMELESS_GIVEN } nameless; /* of locks that only it can name */
} NamedCall;

typedef struct {
    PyCodeObject *code; /* borrowed: this goes when it goes */
    int n_calls;        /* -1: not yet looked for */
    NamedCall *calls;
    int n_units;
    int n_sites, n_regions, n_expressions;
    unsigned boring : 1;       /* no `with`, no lock methods, no `for`: nothing in it can hold a lock */
    unsigned importlib : 1;    /* a frame of the import machinery */
    unsigned module_lock : 1;  /* importlib's _ModuleLock.acquire */
    unsigned wait : 1;         /* Condition.wait or a copy of it */
    unsigned permit : 2;       /* acquire() or release() of threading, by name: perhaps a semaphore's */
    unsigned joins : 1;        /* Thread.join up to 3.12: the lock that it acquires says that a thread has ended */
    unsigned exits : 1;        /* __exit__ or __aexit__: its first parameter is being left */
    unsigned drives : 1;       /* it may go on with generators that it keeps in variables */
    unsigned enters : 1;       /* __enter__, acquire and the like: what it acquires it leaves held */
    unsigned stacks : 1;       /* a method of contextlib's ExitStack that takes charge of something */
    unsigned told : 1;         /* a consumer of a queue that it runs has been told of (workers.c) */
    uint8_t worker;            /* what the catalogue calls a thread that runs it, from 1 (workers.c) */
    uint8_t undecided;         /* looks that will still ask which of its calls leave locks held ... */
    unsigned keeps : 1;        /* ... and one of them may */
    unsigned asked_in;         /* the look that asked last */
    int permit_local;          /* `rc` of Semaphore.acquire */
    int wait_self, wait_waiter;
    int stacked;               /* ExitStack.__exit__: the local with the callback that is next */
    int charge, entered;       /* ExitStack's: the local that it takes charge of; the one that is bound once that is entered */
    Unit *units;
    CallSite *sites;
    Region *regions;           /* [0] is unused */
    Expression expressions[MAX_EXPRESSIONS];
    /* The local that says whether expressions[k] was acquired, as of `got = lock.acquire(timeout=1)`. */
    int16_t answers[MAX_EXPRESSIONS];
} CodeInfo;

#define ANSWER_NONE (-1)    /* each acquire() that can fail is a condition, or there is none */
#define ANSWER_UNKNOWN (-2) /* it goes elsewhere */

/* -> 0 or -1 with an exception set. Reads the opcode tables of the running interpreter. */
int code_init(void);

/* Never NULL after code_init; on lack of memory, or a code object that it cannot follow, the answer is `boring`. */
const CodeInfo *code_info(PyCodeObject *code);

/* The code objects of the last looks: found again by address, without touching them. An entry goes with its code. */
#define RECENT 512
typedef struct {
    const void *code;
    const CodeInfo *info;
} Recent;
extern Recent recent[RECENT];

static inline Recent *recent_entry(const void *code)
{
    return &recent[((uintptr_t)code >> 4 ^ (uintptr_t)code >> 13) & (RECENT - 1)];
}

/* The same as code_info without touching the code object; NULL unless it was asked for lately. */
static inline const CodeInfo *code_info_recent(const void *code)
{
    const Recent *entry = recent_entry(code);
    return entry->code == code ? entry->info : NULL;
}

/* The unit at which the local is called, and that at which `.pop()` is; -1 none. */
int called_local(const CodeInfo *info, PyCodeObject *code, int local, int *pops);

/* The argument `index` of the call at `unit`, from 0, where it is a name with attributes and the call has no keywords: 1, else 0. */
int code_argument(const CodeInfo *info, int unit, int index, Expression *e);

/* All of them, once looked for. */
CodeInfo *code_calls(PyCodeObject *code);
/* Calls `visit` for each call `first_parameter.a.b.method(...)` in the code, each `x.c.method(...)` where `for x in
 * first_parameter.a.b`, and each `variable.a.method(...)` of a global or of a function around it, until it returns nonzero. */
typedef int (*CallVisitor)(void *context, PyCodeObject *code, const Expression *expression, PyObject *method, int unit);
int code_self_calls(PyCodeObject *code, CallVisitor visit, void *context);
/* Whether the code names methods that take locks, or let go of them. */
int code_acquires(PyCodeObject *code);
/* Whether it waits as Condition.wait does. */
int code_waits(PyCodeObject *code);
/* Whether it goes on with generators. */
int code_drives(PyCodeObject *code);
int code_releases(PyCodeObject *code);

const CallSite *code_site(const CodeInfo *info, int unit);

/* What calls do to one lock, and whether it is held, as a set. */
enum { LETS_GO = 1, MAY_LET_GO, TAKES };
enum { HELD = 1, LET_GO = 2 };
/* `begins`: whether it is held when the function begins. `effects`: one for each unit, 0 none. The answer is for the
 * instruction at `unit`, before it; -1: for its returns. It is both where paths differ, and 0 where none leads. */
int code_held(const CodeInfo *info, PyCodeObject *code, int begins, const uint8_t *effects, int unit);
/* The lowest slot of the call at `unit`, where its answer will be. */
int code_answer_slot(const CodeInfo *info, int unit);
/* The unit whose effect a call at `unit` has: 3.11 splits a call in two. */
int call_unit(const CodeInfo *info, int unit);

/* The instruction kinds that evidence tells apart. */
typedef enum { OP_OTHER, OP_CALL, OP_CALL_KW, OP_CALL_EX, OP_BEFORE_WITH, OP_WITH_EXCEPT, OP_FOR_ITER, OP_SEND, OP_KW_NAMES,
               OP_CONSUMES /* all that an iterator gives, at once */ } OpKind;
OpKind op_kind(int op);

/* Whether a generator that is suspended at `unit` has delegated, by `yield from` or `await`; to what lies at depth - 2. */
int delegates_at(const CodeInfo *info, int unit);
/* In which local the instruction at `unit`, or the one after it, puts what is uppermost on the stack; -1 none. */
int answer_local(const CodeInfo *info, int unit);
/* Whether the code makes nothing of what the call at `unit` returns. */
int drops_answer(const CodeInfo *info, int unit);
/* Whether the call at `unit` is the `__enter__` of a `with` (3.14+, where it is an ordinary CALL). */
int is_enter_call(const CodeInfo *info, int unit);
/* Whether the call at `unit` passes three times None, as a `with` that ends without exception calls `__exit__`. */
int is_exit_call(const CodeInfo *info, int unit);
/* Whether what stands at `target` begins the part of a `with` that calls `__exit__` with an exception. */
int handler_is_with(const CodeInfo *info, int target);
/* The unit of that call when nothing but its arguments, and what a `return` has evaluated, is still to be put in its place between
 * `unit` and it; else -1. Only a trace function makes a thread stop there. `manager`, `exit`: where both lie, from the bottom of
 * the value stack; up to 3.13 that is one slot. */
int exit_call_after(const CodeInfo *info, int unit, int *manager, int *exit);

/* Borrowed, or NULL. */
PyObject *evaluate(const Expression *e, PyCodeObject *code, Frame *frame);
/* Whether the callees of two calls are the same but for the name of the method: `locks[k].acquire` and `locks[k].release`. */
int same_object(const CodeInfo *info, int unit, int other);
/* Of a function that does not run: its first parameter, its globals, its closure; NULL where that is not known. */
PyObject *evaluate_on(const Expression *e, PyCodeObject *code, PyObject *first, PyObject *globals, PyObject *closure);
/* From an element of what an expression with `each` goes through to what it means. */
PyObject *evaluate_element(const Expression *e, PyCodeObject *code, PyObject *element);
PyObject *plain_attribute(PyObject *object, PyObject *name);
/* Borrowed: what a module that has been imported has by that name. NULL, without an error, where there is none. */
PyObject *module_variable(PyObject *module, PyObject *name);

/* Whether the `with` entered at `unit` enters what a name with attributes leads to: that is `e` then. (In 3.14 and later more stands between
 * that and the call; whoever evaluates it compares.) */
int code_enters(const CodeInfo *info, int unit, Expression *e);
/* The words by which the program knows the lock that is entered or called at `unit`: "self._lock", "get_lock()". New
 * reference, or NULL without an exception where it has no name. */
PyObject *expression_text(PyCodeObject *code, int unit);

/* The name at an index that came from bytecode; borrowed, NULL when out of range. */
PyObject *code_name(PyCodeObject *code, int index);

#endif
