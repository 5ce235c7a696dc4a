/* What no frame shows.
 *
 * An RLock names its owner, so that another thread has it is certain however it was taken. Those that frames do not explain
 * are searched for now and then, and once found looked at before every fork. A plain Lock names nobody, and most of those that
 * are locked and that no frame explains are signals. It is a hazard, a possible one, where a thread's frames say that it has
 * taken some lock and will let go of it, and lead to this one. Of the others a fork that may wait does so for a moment: one that
 * comes free is its own then, whatever it is for, and one that does not is left alone.
 */
#include "forking.h"
#include "heap.h"
#include "reach.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

/* A search is not done again before this many times as long as it took; nor, where many in a row have found nothing and no thread has
 * begun since the first of them, before the second number. */
#define SEARCH_SHARE 200
#define VAIN_SHARE 2000
#define MANY 50

Unseen unseen;
NamelessFound nameless;
Loose loose;

static PyObject *weakly(PyObject *lock)
{
    int collects = PyGC_Disable(); /* a collection runs code of the program's */
    PyObject *reference = PyWeakref_NewRef(lock, NULL);
    if (collects) {
        PyGC_Enable();
    }
    if (reference == NULL) {
        PyErr_Clear();
    }
    return reference;
}

typedef struct {
    PyThreadState *me;
    PyObject *found[MAX_UNSEEN]; /* borrowed */
    int n;
    Nameless nameless;
} Search;

static PyThreadState *thread_with(unsigned long ident, PyThreadState *me)
{
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(me));
    while (ts != NULL && (ts == me || (unsigned long)ts->thread_id != ident)) {
        ts = PyThreadState_Next(ts);
    }
    return ts;
}

/* -> whether another thread has it and no frame shows it. One that has ended with its lock held leaves this process no better
 * off than the child. */
static int add_owner(PyObject *rlock, PyThreadState *me)
{
    unsigned long owner = rlock_owner(rlock);
    PyThreadState *thread = owner == 0 ? NULL : thread_with(owner, me);
    return thread != NULL && sight_unseen(&g.look, thread, rlock, !unseen.inherited);
}

/* Whether it is locked and nothing in the look tells why. */
static int is_nameless(PyObject *lock, PyThreadState *me)
{
    Sighting s = {.thread = me, .kind = KIND_LOCK, .subject = lock};
    return is_locked(lock) && !is_owned(lock) && !is_explained(&g.look, lock) && !is_catalogued(lock) && !is_exempt(&s);
}

static int visit_lock(void *context, PyObject *lock, Kind kind)
{
    Search *s = context;
    if (kind == KIND_RLOCK && add_owner(lock, s->me)) {
        s->found[s->n++] = lock;
    }
    else if (kind == KIND_LOCK && s->nameless.n < MAX_NAMELESS && is_nameless(lock, s->me)) {
        s->nameless.locks[s->nameless.n++] = lock;
    }
    return s->n == MAX_UNSEEN;
}

static void remember_nameless(PyObject *lock, int named)
{
    int at = 0;
    while (at < nameless.n && referent(nameless.found[at]) != lock) {
        at++;
    }
    if (at == MAX_NAMELESS) {
        return;
    }
    if (at == nameless.n) {
        PyObject *reference = weakly(lock);
        if (reference == NULL) {
            return;
        }
        nameless.found[nameless.n] = reference;
        nameless.named[nameless.n++] = 0;
    }
    nameless.named[at] |= (char)named;
}

static void add_loose(PyObject *lock)
{
    const Lost *entry = find_lost(0, lock);
    for (int i = 0; i < loose.n; i++) {
        if (referent(loose.locks[i]) == lock) {
            return;
        }
    }
    if (g.policy == POLICY_WAIT && loose.n < MAX_NAMELESS && !(entry != NULL && entry->failures)) {
        PyObject *reference = weakly(lock);
        if (reference != NULL) {
            loose.locks[loose.n++] = reference;
        }
    }
}

void drop_loose(void)
{
    while (loose.n) {
        PyObject *reference = loose.locks[--loose.n], *lock = referent(reference);
        if (lock != NULL && is_owned(lock)) {
            remember_nameless(lock, 0);
        }
        Py_DECREF(reference);
    }
}

/* Who may have the locks, of which nothing in the look tells. */
static void look_for_nameless(PyThreadState *me, Nameless *found)
{
    int n = keep_reachable(found->locks, found->n, me);
    if (n) {
        find_held(me);
    }
    found->n = found->n_others = 0;
    for (int i = 0; i < n; i++) {
        if (!is_held(found->locks[i])) {
            found->locks[found->n++] = found->locks[i];
        }
    }
    if (found->n) {
        sight_nameless(&g.look, me, found);
    }
    for (int i = 0; i < found->n; i++) {
        if (found->of[i] == MINE) {
            add_held(found->locks[i]);
        }
        else if (found->of[i] == OTHERS) {
            remember_nameless(found->locks[i], 1);
        }
        else {
            add_loose(found->locks[i]);
        }
    }
    for (int i = 0; i < found->n_others; i++) {
        remember_nameless(found->others[i], 1);
    }
}

static void search_for_unseen(PyThreadState *me, size_t limit)
{
    double start = limit && g.look.threads ? monotonic() : 0;
    uint64_t newest = PyThreadState_GetID(PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(me)));
    int in_vain = unseen.vain >= MANY && newest == unseen.newest;
    if (start == 0 || start < unseen.ended + unseen.took * (in_vain ? VAIN_SHARE : SEARCH_SHARE)) {
        return;
    }
    Search s = {.me = me};
    int known = nameless.n + loose.n;
    heap_locks(visit_lock, &s, limit);
    look_for_nameless(me, &s.nameless);
    unseen.vain = s.n == 0 && nameless.n + loose.n == known && newest == unseen.newest ? unseen.vain + 1 : 0;
    unseen.newest = newest;
    unseen.ended = monotonic();
    unseen.took = unseen.ended - start;
    int collects = PyGC_Disable(); /* a collection runs code of the program's */
    for (int i = 0; i < s.n && unseen.n < MAX_UNSEEN; i++) {
        PyObject *reference = PyWeakref_NewRef(s.found[i], NULL);
        if (reference == NULL) {
            PyErr_Clear();
            continue;
        }
        unseen.found[unseen.n++] = reference;
    }
    if (collects) {
        PyGC_Enable();
    }
}

/* Completes the look that has just been done. `limit`: of a search of the heap, if one is due; 0 for none. */
void look_for_unseen(PyThreadState *me, size_t limit)
{
    int kept = 0, seen = g.look.n;
    for (int i = 0; i < unseen.n; i++) {
        PyObject *rlock = referent(unseen.found[i]);
        if (rlock == NULL) {
            Py_CLEAR(unseen.found[i]);
            continue;
        }
        unseen.found[kept++] = unseen.found[i];
        add_owner(rlock, me);
    }
    if (unseen.n != kept) { /* what is not written to costs no copy of its page after the fork before */
        unseen.n = kept;
    }
    Nameless remembered = {.n = 0};
    kept = 0;
    for (int i = 0; i < nameless.n; i++) {
        PyObject *lock = referent(nameless.found[i]);
        if (lock == NULL) {
            Py_CLEAR(nameless.found[i]);
            continue;
        }
        nameless.named[kept] = nameless.named[i];
        nameless.found[kept++] = nameless.found[i];
        if (is_nameless(lock, me)) {
            remembered.locks[remembered.n++] = lock;
        }
        for (int k = 0; nameless.named[i] && k < g.look.n; k++) {
            if (g.look.items[k].subject == lock) {
                take_for_mutex(&g.look.items[k]); /* it is no signal */
            }
        }
    }
    if (nameless.n != kept) {
        nameless.n = kept;
    }
    look_for_nameless(me, &remembered);
    search_for_unseen(me, limit);
    if (g.look.n > seen) {
        drop_unreachable(&g.look, me);
    }
}

#endif
