/* The interpreter as this extension sees it: threads, frames, value stacks, generators.
 *
 * The only file that touches CPython's internal headers. Everything above it speaks of "frame", "unit" (index of a
 * code unit, two bytes each) and "slot" (index on a frame's value stack, 0 the lowest). What is relied on:
 *
 *   PyThreadState          3.11, 3.12: cframe->current_frame; 3.13+: current_frame       (cpython/pystate.h)
 *   _PyInterpreterFrame    f_code or f_executable, previous, prev_instr or instr_ptr, owner, localsplus;
 *                          3.11: is_entry; up to 3.13: stacktop; 3.14+: stackpointer             (pycore_frame.h, pycore_interpframe_structs.h)
 *   _PyStackRef            3.14+: two tag bits, of which 3 is a tagged integer and 2 invalid       (pycore_stackref.h)
 *   its function           3.11: f_func; 3.12+: f_funcobj
 *   PyCodeObject           co_nlocalsplus, co_code_adaptive                                        (cpython/code.h)
 *   PyGenObject            gi_iframe, gi_frame_state                                (cpython/genobject.h, 3.14+ as above)
 *   PyFrameObject          f_back, f_frame; frame_obj of a frame                                          (pycore_frame.h)
 *   what a thread has      exc_info, context; 3.13+: threading_local_key, threading_local_sentinel        (cpython/pystate.h)
 *   PyInterpreterState     before_forkers, after_forkers_parent, after_forkers_child               (pycore_interp.h)
 *   the GIL's struct       cond, to see that a thread waits for it; interval; switch_number          (pycore_gil.h)
 *   pending calls          3.12: ceval.pending.busy; 3.13+: .handling_thread                (pycore_ceval_state.h)
 *   PyInterpreterState     3.14+: warnings.lock                                         (pycore_interp_structs.h)
 *   _PyRuntime             3.12+: faulthandler.thread.running, the lock of its watchdog             (pycore_faulthandler.h)
 *   trace functions        3.11: c_tracefunc, c_profilefunc, tracing, cframe->use_tracing       (cpython/pystate.h)
 *   recursion              3.11: recursion_remaining; 3.12+: py_recursion_remaining             (cpython/pystate.h)
 *   _PyRuntimeState        main_thread                                                          (pycore_runtime.h)
 *   signals                3.11, 3.12: ceval.signals_pending, .eval_breaker; 3.13+: eval_breaker of the thread
 *                                                                  (pycore_runtime.h, pycore_interp.h, cpython/pystate.h)
 *
 * Guarantee: on an interpreter that is not listed here the extension is an empty module that refuses to import.
 */
#ifndef FORKPROOF_INTERP_H
#define FORKPROOF_INTERP_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_BUILD_CORE_MODULE
#define Py_BUILD_CORE_MODULE 1
#endif
#include "alive.h"
#include <pthread.h>

typedef struct _PyInterpreterFrame Frame;

#if defined(FORKPROOF_UNKNOWN_INTERPRETER) /* asked for, by a test */
#elif PY_VERSION_HEX < 0x030B0000 || PY_VERSION_HEX >= 0x03100000 || defined(Py_GIL_DISABLED) || defined(PYPY_VERSION)
#define FORKPROOF_UNKNOWN_INTERPRETER 1
#else

#include "internal/pycore_frame.h"
#include "internal/pycore_interp.h"
#include "internal/pycore_code.h"
#include "internal/pycore_ceval.h"
#include "internal/pycore_gil.h"
#include "internal/pycore_runtime.h"
#if PY_VERSION_HEX >= 0x030E0000
#include "internal/pycore_interpframe.h"
#include "internal/pycore_stackref.h"
#include "internal/pycore_genobject.h"
#endif

#define PY_AT_LEAST(major, minor) (PY_VERSION_HEX >= (((major) << 24) | ((minor) << 16)))

/* Whether the lock says that a thread has ended, to those that join it; up to 3.12 each thread has one. */
static inline int thread_ends_with(PyThreadState *ts, PyObject *lock)
{
#if PY_AT_LEAST(3, 13)
    (void)ts;
    (void)lock;
    return 0;
#else
    PyObject *reference = ts->on_delete_data;
    return reference != NULL && PyWeakref_CheckRef(reference) && PyWeakref_GET_OBJECT(reference) == lock;
#endif
}

static inline Frame *thread_top(PyThreadState *ts)
{
#if PY_AT_LEAST(3, 13)
    return ts->current_frame;
#else
    return ts->cframe ? ts->cframe->current_frame : NULL;
#endif
}

/* Python frames that the thread may still enter. */
static inline int *recursion_room(PyThreadState *ts)
{
#if PY_AT_LEAST(3, 12)
    return &ts->py_recursion_remaining;
#else
    return &ts->recursion_remaining;
#endif
}

/* The ident of the thread that runs the handlers of signals. */
static inline unsigned long *main_thread(void)
{
    return &_PyRuntime.main_thread;
}

/* Has the thread look, at the next instruction at which it may, whether a signal came. (Up to 3.12 only a signal that waits may
 * be told of: nothing would take the telling back.) */
static inline void ask_for_signals(PyThreadState *ts)
{
#if PY_AT_LEAST(3, 13)
    _Py_set_eval_breaker_bit(ts, _PY_SIGNALS_PENDING_BIT);
#else
    if (_Py_atomic_load_relaxed(&_PyRuntime.ceval.signals_pending)) {
        _Py_atomic_store_relaxed(&ts->interp->ceval.eval_breaker, 1);
    }
#endif
}

/* Shims stand where C code entered the interpreter (3.12+); they carry no Python code. */
static inline int frame_is_shim(const Frame *f)
{
#if PY_AT_LEAST(3, 12)
    return f->owner >= 3;
#else
    (void)f;
    return 0;
#endif
}

/* Whether C code lies between this frame and the next outer Python frame. `outer` is the first non-shim one. */
static inline Frame *frame_outer(Frame *f, int *through_c)
{
#if PY_AT_LEAST(3, 12)
    Frame *outer = f->previous;
    *through_c = 0;
    while (outer != NULL && frame_is_shim(outer)) {
        *through_c = 1;
        outer = outer->previous;
    }
    return outer;
#else
    *through_c = f->is_entry;
    return f->previous;
#endif
}

/* Address of what the frame runs, not touched. */
static inline PyObject *frame_executable(const Frame *f)
{
#if PY_AT_LEAST(3, 14)
    return (PyObject *)(f->f_executable.bits & ~(uintptr_t)3);
#elif PY_AT_LEAST(3, 13)
    return f->f_executable;
#else
    return (PyObject *)f->f_code;
#endif
}

/* Borrowed; NULL where the frame runs no code of a program's: a frame being torn down, or the one that checks what an
 * inlined __init__ returned (_Py_InitCleanup, 3.12+). That one's code object is a constant of the interpreter: its memory
 * cannot be written, and no code extra set on it. It alone has a file name that is its name. */
static inline PyCodeObject *frame_code(const Frame *f)
{
    PyObject *object = frame_executable(f);
    if (object == NULL || !PyCode_Check(object)) {
        return NULL;
    }
    PyCodeObject *code = (PyCodeObject *)object;
#if PY_AT_LEAST(3, 12)
    if (code->co_filename == code->co_name && Py_SIZE(code) <= 4) {
        return NULL;
    }
#endif
    return code;
}

/* The object that an inlined call of a class is making, while its __init__ runs: that frame (see frame_code) has it for its
 * caller. Borrowed; NULL for any other frame. */
static inline PyObject *frame_makes(const Frame *f)
{
#if PY_AT_LEAST(3, 12)
    PyObject *object = frame_is_shim(f) ? NULL : frame_executable(f);
    if (object == NULL || !PyCode_Check(object) || frame_code(f) != NULL) {
        return NULL;
    }
#if PY_AT_LEAST(3, 14)
    return f->localsplus[0].bits & 3 ? NULL : (PyObject *)f->localsplus[0].bits;
#else
    return is_alive(f->localsplus[0]) ? f->localsplus[0] : NULL;
#endif
#else
    (void)f;
    return NULL;
#endif
}

/* The code unit the frame stands at; it may lie among an instruction's caches, and be -1 before the first one. */
static inline int frame_unit(const Frame *f, PyCodeObject *code)
{
#if PY_AT_LEAST(3, 13)
    return (int)(f->instr_ptr - _PyCode_CODE(code));
#else
    return (int)(f->prev_instr - _PyCode_CODE(code));
#endif
}

#if PY_AT_LEAST(3, 14)
static inline PyObject *untag(_PyStackRef ref)
{
    uintptr_t tag = ref.bits & 3;
    if (tag == 3 || tag == 2) {
        return NULL;
    }
    return (PyObject *)(ref.bits & ~(uintptr_t)3);
}
#endif

/* Borrowed local, cell or free variable; NULL when unbound. Always safe to read. */
static inline PyObject *frame_local(const Frame *f, int index)
{
#if PY_AT_LEAST(3, 14)
    return untag(f->localsplus[index]);
#else
    return f->localsplus[index];
#endif
}

/* How many slots are in use, exactly, on 3.14+; -1 where the interpreter does not keep it (internals: trap 4). */
static inline int frame_depth(const Frame *f, PyCodeObject *code)
{
#if PY_AT_LEAST(3, 14)
    if (f->stackpointer == NULL) {
        return -2;
    }
    return (int)(f->stackpointer - f->localsplus) - code->co_nlocalsplus;
#else
    (void)f;
    (void)code;
    return -1;
#endif
}

#if !PY_AT_LEAST(3, 12)
/* Up to 3.11.2 a frame that began under a profile function goes on saying that its stack is empty until it calls another (gh-101975).
 * Whether this may be one: when an exception leaves a frame, the profile function is called, and `tracing` says that it runs. */
static inline int may_say_empty_in_error(const Frame *f)
{
    if (Py_Version >= 0x030B0300) {
        return 0;
    }
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    for (; ts != NULL; ts = PyThreadState_Next(ts)) {
        if (ts->c_profilefunc == NULL || ts->tracing) {
            continue;
        }
        for (const Frame *any = thread_top(ts); any != NULL; any = any->previous) {
            if (any == f) {
                return 1;
            }
        }
    }
    return 0;
}
#endif

/* Whether nothing is on the value stack, where the frame says so: up to 3.13 only one that has called another, or a trace
 * function, and one that an exception leaves, wherever that stands (Python/ceval.c, exception_unwind). */
static inline int has_empty_stack(const Frame *f, PyCodeObject *code)
{
#if PY_AT_LEAST(3, 14)
    return frame_depth(f, code) == 0;
#elif PY_AT_LEAST(3, 12)
    return f->stacktop == code->co_nlocalsplus;
#else
    return f->stacktop == code->co_nlocalsplus && !may_say_empty_in_error(f);
#endif
}

/* What lies in a slot, to be compared and not touched: up to 3.13 it may have been freed. */
static inline const void *slot_address(const Frame *f, PyCodeObject *code, int slot)
{
    return slot < 0 || slot >= code->co_stacksize || has_empty_stack(f, code)
               ? NULL
               : frame_local(f, code->co_nlocalsplus + slot);
}

/* Borrowed content of a slot; NULL where it is not in use (3.14+), or what was there is gone. Up to 3.13 it may be something that
 * the frame has let go of while somebody else has it: the caller must know that the slot is in use (see code.c on depths). */
static inline PyObject *frame_slot(const Frame *f, PyCodeObject *code, int slot)
{
    PyObject *object = (PyObject *)slot_address(f, code, slot);
#if PY_AT_LEAST(3, 14)
    return slot < frame_depth(f, code) ? object : NULL;
#else
    return object != NULL && is_alive(object) ? object : NULL;
#endif
}

/* Whether a local or slot has a reference to the object that the object counts: one that is borrowed (3.14+) is not. */
static inline int frame_refers(const Frame *f, int index, PyObject *object)
{
#if PY_AT_LEAST(3, 14)
    return f->localsplus[index].bits == (uintptr_t)object;
#else
    return f->localsplus[index] == object;
#endif
}

/* The function that the frame runs, if it has a reference of its own to it; else NULL. */
static inline PyObject *frame_function(const Frame *f)
{
#if PY_AT_LEAST(3, 14)
    return f->f_funcobj.bits & 3 ? NULL : (PyObject *)f->f_funcobj.bits;
#elif PY_AT_LEAST(3, 12)
    return f->f_funcobj;
#else
    return (PyObject *)f->f_func;
#endif
}

static inline PyObject *frame_globals(const Frame *f)
{
    return f->f_globals;
}

/* The frame of a generator, coroutine or asynchronous generator that is suspended; else NULL. */
static inline Frame *suspended_frame(PyObject *generator)
{
    if (!PyGen_Check(generator) && !PyCoro_CheckExact(generator) && !PyAsyncGen_CheckExact(generator)) {
        return NULL;
    }
    PyGenObject *gen = (PyGenObject *)generator;
#if PY_AT_LEAST(3, 13)
    if (!FRAME_STATE_SUSPENDED(gen->gi_frame_state)) {
        return NULL;
    }
#else
    if (gen->gi_frame_state != FRAME_SUSPENDED) {
        return NULL;
    }
#endif
    return (Frame *)&gen->gi_iframe;
}

/* The object that Python code has for a frame, of which the frame has a reference; NULL while nobody has asked for it. */
static inline PyObject *frame_object(const Frame *f)
{
    return (PyObject *)f->frame_obj;
}

/* What is left of a call that is over, in the object that Python code has of it: a traceback's, say. NULL while it runs. */
static inline Frame *left_frame(PyObject *object)
{
    Frame *frame = PyFrame_Check(object) ? ((PyFrameObject *)object)->f_frame : NULL;
    return frame != NULL && frame->owner == FRAME_OWNED_BY_FRAME_OBJECT ? frame : NULL;
}

/* The frame of a coroutine that has been called and has not begun; else NULL. */
static inline Frame *unbegun_frame(PyObject *coroutine)
{
    PyGenObject *gen = (PyGenObject *)coroutine;
    return PyCoro_CheckExact(coroutine) && gen->gi_frame_state == FRAME_CREATED ? (Frame *)&gen->gi_iframe : NULL;
}

static inline struct _gil_runtime_state *the_gil(void)
{
#if PY_AT_LEAST(3, 12)
    return PyInterpreterState_Get()->ceval.gil;
#else
    return &_PyRuntime.ceval.gil;
#endif
}

/* Whether a thread that sleeps on this address waits to be given the GIL. The struct's other condition is not meant: a
 * thread sleeps on that when it has just let the GIL go, on its way into a call. */
static inline int is_gil(const struct _gil_runtime_state *gil, uintptr_t address)
{
    uintptr_t condition = (uintptr_t)&gil->cond;
    return address >= condition && address < condition + sizeof(PyCOND_T);
}

/* How often the GIL has gone from one thread to another. While it stays the same no other thread has run any Python code:
 * take_gil() counts every time that it is not its last holder who takes it (ceval_gil.c, 3.11 to 3.15). */
static inline unsigned long gil_switches(void)
{
    return the_gil()->switch_number;
}

/* What sys.setswitchinterval sets, in microseconds. */
static inline unsigned long *switch_interval(void)
{
    return &the_gil()->interval;
}

/* The lock of `warnings`, a recursive mutex in C from 3.14 on, that no fork resets. -> 1 taken, or there is none. */
static inline int try_warnings(void)
{
#if PY_AT_LEAST(3, 14)
    _PyRecursiveMutex *lock = &PyInterpreterState_Get()->warnings.lock;
    if (!_PyRecursiveMutex_IsLockedByCurrentThread(lock) && PyMutex_IsLocked(&lock->mutex)) {
        return 0;
    }
    _PyRecursiveMutex_Lock(lock); /* it is free or ours, and with the GIL held stays so */
#endif
    return 1;
}

/* Ident of the thread that has it; 0: none, or there is no such lock. */
static inline unsigned long warnings_owner(void)
{
#if PY_AT_LEAST(3, 14)
    const _PyRecursiveMutex *lock = &PyInterpreterState_Get()->warnings.lock;
    return PyMutex_IsLocked((PyMutex *)&lock->mutex) ? (unsigned long)lock->thread : 0;
#else
    return 0;
#endif
}

static inline void give_back_warnings(void)
{
#if PY_AT_LEAST(3, 14)
    _PyRecursiveMutex_Unlock(&PyInterpreterState_Get()->warnings.lock);
#endif
}

/* In the child: a thread that is gone had it, or was about to. */
static inline void reset_warnings(void)
{
#if PY_AT_LEAST(3, 14)
    _PyRecursiveMutex *lock = &PyInterpreterState_Get()->warnings.lock;
    if (!_PyRecursiveMutex_IsLockedByCurrentThread(lock)) {
        memset(lock, 0, sizeof(*lock));
    }
#endif
}

static inline void *code_extra_get(PyCodeObject *code, Py_ssize_t index)
{
    void *extra = NULL;
#if PY_AT_LEAST(3, 12)
    PyUnstable_Code_GetExtra((PyObject *)code, index, &extra);
#else
    _PyCode_GetExtra((PyObject *)code, index, &extra);
#endif
    return extra;
}

static inline int code_extra_set(PyCodeObject *code, Py_ssize_t index, void *extra)
{
#if PY_AT_LEAST(3, 12)
    return PyUnstable_Code_SetExtra((PyObject *)code, index, extra);
#else
    return _PyCode_SetExtra((PyObject *)code, index, extra);
#endif
}

static inline Py_ssize_t code_extra_index(freefunc release)
{
#if PY_AT_LEAST(3, 12)
    return PyUnstable_Eval_RequestCodeExtraIndex(release);
#else
    return _PyEval_RequestCodeExtraIndex(release);
#endif
}

#endif /* known interpreter */
#endif
