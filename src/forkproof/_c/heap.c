/* The back-stop for what no frame shows: locks that compiled code took, or a function that has returned since.
 *
 * Both kinds of lock are tracked by the collector, so its lists have them all. To follow those touches every tracked object of
 * the process once: tens of microseconds in a small one, tens of milliseconds in one with a million objects. So it is
 * done rarely (guard.c says when). gc.get_objects() and PyUnstable_GC_VisitObjects would write a reference count into each
 * object, and after a fork every page written to is a page copied.
 */
#include "heap.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

#include "internal/pycore_gc.h"

#define GENERATIONS 4 /* three, and the permanent one (gc.freeze) */

/* `generations[3]` or, in early releases of 3.14, `young` and `old[2]`, which is the same memory. */
static PyGC_Head *head_of(struct _gc_runtime_state *gc, int i)
{
    if (i == GENERATIONS - 1) {
        return &gc->permanent_generation.head;
    }
#if PY_AT_LEAST(3, 14)
    return &(&gc->permanent_generation - (GENERATIONS - 1) + i)->head;
#else
    return &gc->generations[i].head;
#endif
}

void heap_locks(LockVisitor visit, void *context, size_t limit)
{
    struct _gc_runtime_state *gc = &PyInterpreterState_Get()->gc;
    if (gc->collecting) {
        return;
    }
    for (int i = GENERATIONS; i-- > 0;) { /* the oldest first: most locks are made early */
        PyGC_Head *head = head_of(gc, i);
        PyGC_Head *at = (PyGC_Head *)(head->_gc_next & ~(uintptr_t)3);
        while (at != NULL && at != head) {
            PyObject *object = (PyObject *)(at + 1);
            PyTypeObject *type = Py_TYPE(object);
            if ((type == lock_type && visit(context, object, KIND_LOCK)) ||
                (type == rlock_type && visit(context, object, KIND_RLOCK)) || limit-- == 0) {
                return;
            }
            at = (PyGC_Head *)(at->_gc_next & ~(uintptr_t)3);
        }
    }
}

#endif
