/* A lock does harm only to a child that can come by it. One that is in nothing but the variables of threads that the child
 * will not have (the file of a socket from which a thread reads an answer, the lock of a client that it made for itself) is
 * as good as gone there.
 *
 * This is the collector's own argument: start at the variables of the vanishing threads, follow what those refer to, and
 * count for each object the references that come from there. An object that has more of them is in somebody else's
 * hands too, and so is all that it leads to; the rest is the threads' own. A reference that is not followed, for whatever
 * reason, counts as somebody else's, and so do weak ones that nobody met has: nothing shared can be taken for private.
 *
 * Reads only, and visits an object as the collector does.
 */
#include "reach.h"
#include "sight.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

#define MAX_MET 3000 /* objects; what lies beyond counts as somebody else's */
#define MAX_REFERENCES 2000 /* of one object that are followed: a queue may have millions of things in it; ... */
#define MAX_FOLLOWED 50000  /* ... and of all */
#define TABLE 8192

typedef struct {
    PyObject *object;
    Py_ssize_t counted; /* its references from variables and from what was followed */
    int followed;
    int listed; /* a thread in threading's own list */
    int parted; /* threading.local's own dict, of which each thread has a part that goes with it */
    int shared; /* in somebody else's hands */
    int led_to; /* by something that is */
} Met;

static struct {
    Met met[MAX_MET];
    int n;
    uint16_t table[TABLE]; /* index + 1; open addressing */
} graph;

static PyObject *name_spec, *name_threading, *name_active, *name_bootstrap;

int reach_init(void)
{
    name_spec = PyUnicode_InternFromString("__spec__");
    name_threading = PyUnicode_InternFromString("threading");
    name_active = PyUnicode_InternFromString("_active");
    name_bootstrap = PyUnicode_InternFromString("_bootstrap");
    return name_spec && name_threading && name_active && name_bootstrap ? 0 : -1;
}

static size_t place_of(PyObject *object)
{
    size_t at = (((uintptr_t)object >> 4) * (uintptr_t)11400714819323198485ull >> 40) & (TABLE - 1);
    while (graph.table[at] && graph.met[graph.table[at] - 1].object != object) {
        at = (at + 1) & (TABLE - 1);
    }
    return at;
}

static Met *met(PyObject *object)
{
    uint16_t index = graph.table[place_of(object)];
    return index ? &graph.met[index - 1] : NULL;
}

/* NULL where there is no room. */
static Met *meet(PyObject *object)
{
    size_t at = place_of(object);
    if (!graph.table[at]) {
        if (graph.n == MAX_MET) {
            return NULL;
        }
        graph.met[graph.n] = (Met){.object = object};
        graph.table[at] = (uint16_t)++graph.n;
    }
    return &graph.met[graph.table[at] - 1];
}

/* One more reference to `object` from what belongs to the threads. `left`: how many more are followed, or NULL. What the collector
 * does not know leads nowhere: it is counted only if somebody asks about it. */
static int count(PyObject *object, void *left)
{
    if (left != NULL && --*(int *)left < 0) {
        return 1; /* ends the traversal */
    }
    Met *m = object == NULL ? NULL : PyObject_IS_GC(object) ? meet(object) : met(object);
    if (m != NULL) {
        m->counted++;
    }
    return 0;
}

static int mark_shared(PyObject *object, void *left)
{
    if (left != NULL && --*(int *)left < 0) {
        return 1;
    }
    Met *m = met(object);
    if (m != NULL) {
        m->led_to = 1;
    }
    return 0;
}

/* Not where it leads to the whole program; nor into a generator or frame that runs, whose variables are counted as a thread's. */
static int is_followed(PyObject *object)
{
    if (!PyObject_GC_IsTracked(object) || PyType_Check(object) || PyModule_Check(object) || PyCode_Check(object)) {
        return 0;
    }
    if (PyDict_CheckExact(object)) { /* of a module? */
        int found = PyDict_Contains(object, name_spec);
        PyErr_Clear();
        return !found;
    }
    if (PyGen_CheckExact(object) || PyCoro_CheckExact(object) || PyAsyncGen_CheckExact(object)) {
        return suspended_frame(object) != NULL;
    }
    return 1;
}

/* Whether there are weak references to the object that nobody met has. A plain one to a lock is Forkproof's own; those of weak
 * dictionaries and sets have a callback. */
static int has_other_weak_references(PyObject *object)
{
    Py_ssize_t offset = Py_TYPE(object)->tp_weaklistoffset;
    int is_lock = Py_IS_TYPE(object, lock_type) || Py_IS_TYPE(object, rlock_type);
    if (offset == 0) {
        return 0;
    }
    for (PyWeakReference *r = *(PyWeakReference **)((char *)object + offset); r != NULL; r = r->wr_next) {
        if (met((PyObject *)r) == NULL && !(is_lock && r->wr_callback == NULL)) {
            return 1;
        }
    }
    return 0;
}

static void count_variables(PyThreadState *ts)
{
    int c_below = 1;
    Frame *frame = thread_top(ts), *inner = NULL;
    while (frame != NULL && frame_is_shim(frame)) {
        frame = frame->previous;
    }
    while (frame != NULL) {
        PyCodeObject *code = frame_code(frame);
        int through_c;
        Frame *outer = frame_outer(frame, &through_c);
        if (code != NULL) {
            int n = code->co_nlocalsplus + live_slots(frame, code, c_below, inner);
            int stale = perhaps_stale_slot(frame, code);
            for (int i = 0; i < n; i++) {
                int slot = i - code->co_nlocalsplus;
                PyObject *object = slot < 0 ? frame_local(frame, i) : frame_slot(frame, code, slot);
                if (object != NULL && frame_refers(frame, i, object) && (slot < 0 || slot != stale || PyTuple_CheckExact(object))) {
                    count(object, NULL);
                }
            }
            count(frame_function(frame), NULL);
            count(frame_object(frame), NULL);
            if (c_below) {
                CInside inside = what_is_inside(frame, code, inner);
                for (int i = 0; i < inside.n_kept; i++) {
                    for (int k = 0; k < inside.kept[i].times; k++) {
                        count(inside.kept[i].object, NULL);
                    }
                }
            }
            /* What goes lives once more for as long as its finalizer takes; and 3.11 calls a bound method (call_attribute,
             * Objects/typeobject.c). */
            if (through_c && (runs_method(frame, code, name_del) ||
                              (!PY_AT_LEAST(3, 12) && runs_method(frame, code, name_getattr)))) {
                count(first_local(frame), NULL);
            }
            if (outer == NULL && code->co_name == name_bootstrap && code->co_argcount == 1) {
                count(frame_local(frame, 0), NULL); /* the bound method that the thread was started with */
            }
        }
        else {
            count(frame_makes(frame), NULL);
        }
        inner = frame;
        frame = outer;
        c_below = through_c;
    }
}

/* The exceptions that the thread is handling, with what is left of the calls that they went through, and its context variables. */
static void count_state(PyThreadState *ts)
{
    for (_PyErr_StackItem *handled = ts->exc_info; handled != NULL; handled = handled->previous_item) {
        count(handled->exc_value, NULL);
    }
    count(ts->context, NULL);
}

/* What a frame that does not run has by itself, a generator's or that of a call that is over. */
static void count_frame(Frame *frame, PyCodeObject *code, int n, int *left)
{
    for (int i = 0; i < code->co_nlocalsplus + n; i++) {
        PyObject *value = frame_local(frame, i);
        if (value != NULL && frame_refers(frame, i, value)) {
            count(value, left);
        }
    }
    count(frame_function(frame), left);
}

/* What the object refers to, each once for each reference of its own. A frame may have borrowed ones besides, which
 * its tp_traverse shows to any visitor but the collector's (Python/gc.c _PyGC_VisitStackRef, v3.14.0). */
static void follow(PyObject *object, int *left)
{
#if PY_AT_LEAST(3, 14)
    Frame *frame = suspended_frame(object);
    PyCodeObject *code = frame == NULL ? NULL : frame_code(frame);
    if (code != NULL) {
        count_frame(frame, code, live_slots(frame, code, 0, NULL), left);
        count(((PyGenObject *)object)->gi_exc_state.exc_value, left);
        return;
    }
    frame = left_frame(object);
    code = frame == NULL ? NULL : frame_code(frame);
    if (code != NULL) {
        count_frame(frame, code, 0, left);
        count((PyObject *)((PyFrameObject *)object)->f_back, left);
        return;
    }
#endif
    Py_TYPE(object)->tp_traverse(object, count, left);
}

static int is_it(PyObject *object, void *wanted)
{
    return object == wanted;
}

static int leads_to(PyObject *object, void *wanted)
{
    return object == wanted || (PyObject_IS_GC(object) && !PyType_Check(object) && PyObject_GC_IsTracked(object) &&
                                Py_TYPE(object)->tp_traverse(object, is_it, wanted));
}

/* A lock that no frame shows was taken by the C function that its thread is in, which keeps the lock and the bound method that
 * lets go of it: two references more. Only where the lock is of the very object that the function was called on. */
static int kept_unseen(const Sighting *s)
{
    if (s->entry != ENTRY_UNSEEN || s->frame != thread_top(s->thread)) {
        return 0;
    }
    PyObject *self = what_is_inside(s->frame, s->code, NULL).self;
    Met *m = self == NULL ? NULL : met(self);
    return m != NULL && !m->shared && m->followed && Py_TYPE(self)->tp_traverse(self, leads_to, s->subject);
}

PyObject *active_threads(void)
{
    PyObject *active = module_variable(name_threading, name_active);
    return active != NULL && PyDict_CheckExact(active) ? active : NULL;
}

/* Thread objects of vanishing threads: the child takes them out of threading's own lists, one of which is weak, before any of
 * the program's code runs there. */
static void count_threads(PyThreadState *self)
{
    PyObject *active = active_threads();
    PyObject *ident, *thread;
    Py_ssize_t position = 0;
    while (active != NULL && PyDict_Next(active, &position, &ident, &thread)) {
        Met *m = met(thread);
        if (m != NULL && PyLong_CheckExact(ident) && PyLong_AsUnsignedLong(ident) != (unsigned long)self->thread_id) {
            m->counted++;
            m->listed = 1;
        }
    }
    PyErr_Clear();
}

typedef struct {
    PyObject *key, *dict, *part;
} Part;

/* Whether a dict that a threading.local refers to is that of all threads' parts. */
static int has_part(PyObject *object, void *wanted)
{
    Part *p = wanted;
    if (PyDict_CheckExact(object)) {
        p->part = PyDict_GetItemWithError(object, p->key);
        p->dict = object;
        PyErr_Clear();
    }
    return p->part != NULL;
}

/* What the thread has in each threading.local goes with the thread: to that end weak references to something of the thread's have
 * a callback with the local, and from 3.13 on the thread's key in its dict; up to 3.12 they are the keys themselves (Modules/_threadmodule.c,
 * v3.11.7 to v3.15.0). */
static void count_parts(PyObject *mark)
{
    Py_ssize_t offset = mark == NULL ? 0 : Py_TYPE(mark)->tp_weaklistoffset;
    PyWeakReference *r = offset == 0 ? NULL : *(PyWeakReference **)((char *)mark + offset);
    for (; r != NULL; r = r->wr_next) {
        PyObject *bound = r->wr_callback != NULL && PyCFunction_Check(r->wr_callback) ? PyCFunction_GET_SELF(r->wr_callback) : NULL;
        Part p = {.key = (PyObject *)r};
        if (bound != NULL && PyTuple_CheckExact(bound) && PyTuple_GET_SIZE(bound) == 2) {
            p.key = PyTuple_GET_ITEM(bound, 1);
            bound = PyTuple_GET_ITEM(bound, 0);
        }
        PyObject *local = bound == NULL ? NULL : referent(bound);
        if (local != NULL && Py_TYPE(local)->tp_traverse != NULL) {
            Py_TYPE(local)->tp_traverse(local, has_part, &p);
        }
        Met *parted = p.part == NULL ? NULL : meet(p.dict);
        if (parted != NULL) {
            parted->parted = 1;
            count(p.part, NULL);
        }
    }
}

static void count_locals(PyThreadState *ts)
{
#if PY_AT_LEAST(3, 13)
    count_parts(ts->threading_local_sentinel);
#else
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (ts->dict != NULL && PyDict_Next(ts->dict, &position, &key, &value)) {
        if (strcmp(Py_TYPE(value)->tp_name, "_thread._localdummy") == 0) {
            count_parts(value);
        }
    }
#endif
}

static void begin(void)
{
    begin_to_look(); /* the last look may be of a fork before, and memory have been given back since */
    graph.n = 0;
    memset(graph.table, 0, sizeof(graph.table));
}

static void build(PyThreadState *self)
{
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(self));
    for (; ts != NULL; ts = PyThreadState_Next(ts)) {
        if (ts != self) {
            count_variables(ts);
            count_state(ts);
            count_locals(ts);
        }
    }
    int of_all = MAX_FOLLOWED;
    for (int i = 0; i < graph.n && of_all > 0; i++) {
        PyObject *object = graph.met[i].object;
        if (!graph.met[i].parted && is_followed(object)) {
            int left = MAX_REFERENCES;
            graph.met[i].followed = 1;
            follow(object, &left);
            of_all -= MAX_REFERENCES - left;
        }
    }
    count_threads(self);
    int told = 0;
    for (int i = 0; i < graph.n; i++) {
        Met *m = &graph.met[i];
        /* Fewer cannot be: what was counted is in doubt then. */
        m->shared = Py_REFCNT(m->object) != m->counted || (!m->listed && has_other_weak_references(m->object));
    }
    do { /* until nobody tells of anything new */
        told = 0;
        for (int i = 0; i < graph.n; i++) {
            Met *m = &graph.met[i];
            m->shared |= m->led_to;
            if (m->shared && m->followed) {
                m->followed = 0;
                told = 1;
                int left = MAX_REFERENCES; /* those that were counted, and no others are known */
                Py_TYPE(m->object)->tp_traverse(m->object, mark_shared, &left);
                if (PyWeakref_Check(m->object)) {
                    mark_shared(((PyWeakReference *)m->object)->wr_object, NULL);
                }
            }
        }
    } while (told);
}

int keep_reachable(PyObject **locks, int n, PyThreadState *self)
{
    int kept = 0;
    if (n) {
        begin();
        build(self);
    }
    for (int i = 0; i < n; i++) {
        const Met *m = met(locks[i]);
        if (m == NULL || m->shared) {
            locks[kept++] = locks[i];
        }
    }
    return kept;
}

void drop_unreachable(Look *l, PyThreadState *self)
{
    int kept = 0, built = 0;
    for (int i = 0; i < l->n; i++) {
        const Sighting *s = &l->items[i];
        if (s->kind != KIND_IMPORT && s->kind != KIND_FOREIGN && !PyType_Check(s->subject)) {
            if (!built++) {
                begin();
                for (int k = i; k < l->n; k++) {
                    if (l->items[k].subject != NULL && !PyObject_IS_GC(l->items[k].subject)) {
                        meet(l->items[k].subject); /* a decompressor, say: it is asked about */
                    }
                }
                build(self);
            }
            Met *m = met(s->subject);
            if (m != NULL && (!m->shared || (Py_REFCNT(s->subject) <= m->counted + 2 && !m->led_to && kept_unseen(s)))) {
                continue;
            }
        }
        if (kept != i) {
            l->items[kept] = l->items[i];
        }
        kept++;
    }
    l->n = kept;
}

#endif
