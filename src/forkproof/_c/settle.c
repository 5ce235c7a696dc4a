/* The slow way: own every lock that another thread holds or is about to take, wait for what cannot be owned, and look again,
 * until whatever is seen is ours or given up. While a lock is owned no Python code runs: signals are held and the collector
 * is off, because a handler or a finalizer might wait for that very lock.
 */
#include "forking.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

#define MAX_STOPPED 32
#define TAKE_LIMIT 0.05    /* seconds for one lock; under eight contenders none took longer (internals: trap 21) */
#define UNSEEN_LIMIT 0.01  /* seconds for a lock that is locked while no frame shows who has it */
#define STEPS_LIMIT 0.25   /* seconds of leading others from stop to stop until a lock is free between two of them */
#define STOP_LIMIT 0.05    /* seconds for one stop; what it takes is a processor, which a busy machine may not have for long */
#define HURRY 200          /* microseconds: the switch interval while a fork waits; at 5 ms each turn of each busy thread
                            * is 5 ms more before the forking one has the GIL back */
#define LEAD_AFTER 0.05    /* seconds after which threads that import are stopped when they come out of an import, ... */
#define LEAD_SLICE 0.005   /* ... asked for as long at a time, ... */
#define LEAD_SHARE 0.25    /* ... and for this part of the time: to be asked slows an import down, tight loops most */
#define STILL 0.01         /* seconds that threads stay parked while the others sleep in their calls */
#define DRAIN 0.0001       /* seconds with the GIL held, for native calls to come to their end */

int own(PyObject *object, Kind kind, double seconds)
{
    if (g.n_owned == MAX_OWNED) {
        return 0;
    }
    Py_INCREF(object);
    if (!take(object, kind, seconds)) {
        Py_DECREF(object);
        return 0;
    }
    g.owned[g.n_owned++] = (Owned){object, kind};
    note_not_mine(object);
    return 1;
}

/* Experiments (lab/intervene.py) wait for some hazards and not for others, and have to be asked about each that comes. */
static int unjudged(void)
{
    for (int i = 0; g.judged != NULL && i < g.look.n; i++) {
        const Sighting *s = &g.look.items[i];
        PyObject *key = matters(s) == MATTERS_NOT ? NULL : PyLong_FromVoidPtr(s->subject);
        int known = key == NULL || PyDict_Contains(g.judged, key) != 0;
        Py_XDECREF(key);
        if (!known) {
            return 1;
        }
    }
    return 0;
}

static int judge(void)
{
    PyObject *list = look_as_list(&g.look);
    int status = list == NULL ? -1 : call_python(g.consider, list, "consider");
    Py_XDECREF(list);
    PyErr_Clear();
    not_mine.n = 0; /* Python code has run in this thread: a signal handler too, perhaps */
    return status;
}

/* Of a thread that has come between two instructions: whether it is in the middle of nothing that matters. The native call in
 * which its innermost frame seems to stand is over. */
static int may_stop(PyThreadState *thread)
{
    static Look its;
    its.n = its.n_waiters = 0;
    look_at(&its, thread);
    for (int i = 0; i < its.n; i++) {
        const Sighting *s = &its.items[i];
        if (!(s->kind == KIND_CALL && s->innermost) && !is_held(s->subject) && !is_exempt(s) &&
            (s->state != STATE_ACQUIRING || s->mutex) &&
            (s->kind != KIND_SEMAPHORE || semaphore_value(s->subject) == 0)) {
            return 0;
        }
    }
    return 1;
}

/* Lets one of the threads that wait for the GIL run until it may be stopped, and stops it there. -> 0 if there is none. */
static int stop_another(PyThreadState *me)
{
    PyThreadState *back[MAX_STOPPED];
    int n = 0;
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(me));
    for (; ts != NULL && n < MAX_STOPPED; ts = PyThreadState_Next(ts)) {
        if (ts != me && !is_parked(ts) && waits_for_gil((unsigned long)ts->native_thread_id)) {
            back[n++] = ts;
        }
    }
    if (n) {
        stop_one(me, back, n, may_stop, POLL, STOP_LIMIT);
    }
    return n > 0;
}

/* With the GIL: whoever has something to do comes to wait for it. */
static void nap(void)
{
    struct timespec pause = {0, (long)(DRAIN * 1e9)};
    nanosleep(&pause, NULL);
}

/* A lock that compiled code takes again as soon as it has let go of it, without a pause in which who waits could have it:
 * its holder is stopped between two calls. */
static int own_between(PyThreadState *me, PyObject *lock, Kind kind, double seconds)
{
    double end = monotonic() + seconds;
    int naps = 0;
    do {
        if (own(lock, kind, 0)) {
            return 1;
        }
        if (stop_another(me)) {
            continue;
        }
        if (++naps % 20) {
            nap();
        }
        else {
            sleep_without_gil(POLL);
        }
    } while (monotonic() < end);
    return 0;
}

/* A thread that holds one lock that is needed and waits for another that is ours will let go of neither before it has it.
 * -> whether one was given back to it. */
static int give_way(PyThreadState *holder)
{
    int given = 0;
    for (int i = 0; i < g.look.n; i++) {
        const Sighting *s = &g.look.items[i];
        for (int k = 0; s->thread == holder && s->state == STATE_ACQUIRING && k < g.n_owned; k++) {
            if (g.owned[k].object == s->subject) {
                Owned o = g.owned[k];
                g.owned[k] = g.owned[--g.n_owned];
                give_back(o.object, o.kind);
                Py_DECREF(o.object);
                given = 1;
                break;
            }
        }
    }
    return given;
}

/* Whether one of the threads that are seen to acquire the lock may have got it, and not have come so far as to say so. One that
 * sleeps for anything but the GIL has not. */
static int may_be_in_transit(PyObject *lock)
{
    for (int i = 0; i < g.look.n; i++) {
        const Sighting *s = &g.look.items[i];
        Blocked blocked;
        if (s->subject == lock && s->state == STATE_ACQUIRING) {
            int known = blocked_in((unsigned long)s->thread->native_thread_id, &blocked);
            if (known == 0 || (known == 1 && (!blocked.futex || is_gil(the_gil(), blocked.arguments[0])))) {
                return 1;
            }
        }
    }
    return 0;
}

/* An RLock that compiled code took before names no owner while a thread comes back with it, and who waits for it there is not
 * seen and gets it without the GIL: free or not, it is to be ours. Not one that could not be had before. */
static int may_be_taken_unseen(PyObject *rlock, PyThreadState *me)
{
    if (rlock == NULL || rlock_owner(rlock) != 0) {
        return 0;
    }
    Sighting s = {.thread = me, .state = STATE_HOLDS, .kind = KIND_RLOCK, .subject = rlock};
    const Lost *entry = find_lost(0, rlock);
    return matters(&s) != MATTERS_NOT && (entry == NULL || !entry->failures);
}

typedef struct {
    PyObject *lock;
    Kind kind;
    int hurry; /* its time is up, and this its only try */
} Needed;

/* What a look says is still to be done before this fork may go ahead. */
typedef struct {
    Needed needs[MAX_OWNED]; /* to be owned */
    int n;
    int pending; /* what cannot be owned: imports, native calls, permits; and of the threads in the middle of those: */
    PyThreadState *back[MAX_STOPPED], *inside[MAX_STOPPED], *importing[MAX_STOPPED];
    int n_back, n_inside, n_importing, asleep, unstoppable;
} Todo;

/* One wait for a safe point. */
typedef struct {
    PyThreadState *me;
    double start, elapsed;
    int gave_up, naps, steps;
    double led;                 /* since when others are led from stop to stop */
    double led_imports, asking; /* the same of those that import, and for how long they were asked */
    double still;               /* since when all that is waited for is calls that sleep */
} Wait;

static int is_needed(const Todo *todo, PyObject *lock)
{
    for (int i = 0; i < todo->n; i++) {
        if (todo->needs[i].lock == lock) {
            return 1;
        }
    }
    return 0;
}

static void need(Todo *todo, PyObject *lock, Kind kind, int hurry)
{
    if (todo->n < MAX_OWNED && !is_needed(todo, lock)) {
        todo->needs[todo->n++] = (Needed){lock, kind, hurry};
    }
}

/* A lock whose holder no frame shows is waited for as long as any. -> whether it still may be. */
static int is_in_time(Wait *w, PyObject *lock)
{
    if (w->elapsed < g.wait) {
        return 1;
    }
    give_up(note(0, lock), NULL);
    w->gave_up = 1;
    return 0;
}

static void wait_for(Todo *todo, const Sighting *s, int waits_for_gil)
{
    todo->pending++;
    if (waits_for_gil && todo->n_back < MAX_STOPPED) {
        todo->back[todo->n_back++] = s->thread;
    }
    if (s->kind == KIND_IMPORT && todo->n_importing < MAX_STOPPED) {
        todo->importing[todo->n_importing++] = s->thread;
    }
    if (s->kind == KIND_CALL && s->innermost) {
        todo->inside[todo->n_inside++ % MAX_STOPPED] = s->thread;
        todo->asleep += !waits_for_gil && is_asleep(s);
        todo->unstoppable |= !can_be_stopped(s->thread);
    }
}

static void need_what_is_seen(Wait *w, Todo *todo)
{
    for (int i = 0; i < g.look.n; i++) {
        Sighting *s = &g.look.items[i];
        Matters m = matters(s);
        if (m == MATTERS_NOT || given_up(s)) {
            continue;
        }
        int waits = is_back(s);
        if (is_over(s, waits)) {
            s->over = 1; /* and stays so while the GIL is ours; asked again it may be awake, to ask for the GIL */
            continue;
        }
        double limit = patience(s);
        Lost *entry = find_lost(s->thread->id, s->subject);
        int tried = entry != NULL ? entry->tried : 0;
        int forgive = m == MATTERS_OWN && limit > 0 && !tried && w->elapsed < 2 * g.wait + 0.25;
        if (w->elapsed >= limit && !forgive) {
            give_up(note(s->thread->id, s->subject), s->thread);
            w->gave_up = 1;
            continue;
        }
        if (entry != NULL) {
            entry->hoped = this_fork->forks;
        }
        if (m == MATTERS_WAIT) {
            wait_for(todo, s, waits);
        }
        else {
            need(todo, s->subject, s->kind, w->elapsed >= limit);
        }
    }
}

static void need_catalogued(Wait *w, Todo *todo)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(foreign_locks, &position, &key, &value)) {
        PyObject *lock = PyTuple_GET_ITEM(value, 0);
        const Lost *entry = find_lost(0, lock);
        if (!is_owned(lock) && !(entry != NULL && entry->fork == this_fork->forks) && todo->n < MAX_OWNED && is_in_time(w, lock)) {
            need(todo, lock, kind_of(lock), 0);
        }
    }
}

static void need_unseen(Wait *w, Todo *todo)
{
    for (int i = 0; i < unseen.n && todo->n < MAX_OWNED; i++) {
        PyObject *rlock = referent(unseen.found[i]);
        if (!is_needed(todo, rlock) && may_be_taken_unseen(rlock, w->me) && is_in_time(w, rlock)) {
            need(todo, rlock, KIND_RLOCK, 0);
        }
    }
    for (int i = 0; i < loose.n && w->elapsed < g.wait; i++) {
        PyObject *lock = referent(loose.locks[i]);
        const Lost *entry = lock == NULL ? NULL : find_lost(0, lock);
        if (lock != NULL && !is_owned(lock) && !is_held(lock) && !(entry != NULL && entry->fork == this_fork->forks)) {
            need(todo, lock, KIND_LOCK, 0);
        }
    }
}

/* Lets the threads go on that are in the middle of something, so that they come to its end; as soon as one has, it is stopped where
 * that can be done. */
static void let_them_end(Wait *w, Todo *todo)
{
    if (todo->asleep < todo->pending) {
        w->still = 0;
    }
    else if (w->still == 0) {
        w->still = monotonic();
    }
    let_go(); /* such a thread may need what we own */
    if (todo->n_back) {
        stop_one(w->me, todo->back, todo->n_back, may_stop, POLL, STOP_LIMIT); /* it comes out of its call, and stays there */
    }
    else if (w->still != 0 && monotonic() - w->still > STILL) {
        /* The call may wait for what a parked thread has (a transaction, the other end of a pipe): all go on for a
         * while, and come out in another order. */
        w->still = 0;
        let_run(NULL);
        sleep_without_gil((double)(random_bits() % 5000) * 1e-6);
    }
    else if (todo->n_inside == todo->pending && w->naps < 20) {
        /* The GIL is ours: such calls come to their end within their own time and then wait for it. */
        w->naps++;
        nap();
    }
    else if (todo->unstoppable) {
        w->naps = 0; /* it has to be met between two calls by chance */
        let_run(NULL);
        sleep_without_gil((double)(random_bits() % 5000) * 1e-6);
    }
    else if (todo->n_inside == todo->pending) {
        /* The GIL is for others meanwhile, but whoever comes out of his call stops. */
        w->naps = 0;
        stop_one(w->me, todo->inside, Py_MIN(todo->n_inside, MAX_STOPPED), may_stop, POLL, POLL);
    }
    else if (todo->n_importing && w->elapsed > LEAD_AFTER && w->asking < LEAD_SHARE * (w->elapsed - LEAD_AFTER)) {
        /* One import may follow on another for ever: each thread is stopped when it is out of one. */
        double now = monotonic();
        w->led_imports = w->led_imports != 0 ? w->led_imports : now;
        w->naps = 0;
        stop_one(w->me, todo->importing, todo->n_importing, may_stop, LEAD_SLICE, LEAD_SLICE);
        w->asking += monotonic() - now;
    }
    else {
        w->naps = 0;
        if (w->led_imports == 0 || monotonic() - w->led_imports > STEPS_LIMIT) {
            w->led_imports = 0;
            let_run(NULL); /* Python code that is waited for may need a thread that is parked */
        }
        sleep_without_gil(POLL);
    }
}

/* Whether a thread that has another lock of those needed waits for this one: it is to have it first. */
static int is_promised(PyObject *lock, const Todo *todo)
{
    for (int i = 0; i < todo->n; i++) {
        PyObject *other = todo->needs[i].lock;
        PyThreadState *holder = other == lock ? NULL : visible_holder(other);
        for (int k = 0; holder != NULL && k < g.look.n; k++) {
            const Sighting *s = &g.look.items[k];
            if (s->thread == holder && s->state == STATE_ACQUIRING && s->subject == lock) {
                return 1;
            }
        }
    }
    return 0;
}

typedef enum { OWNED, PROMISED, LOOK_AGAIN, IN_VAIN } Try;

/* It was free, and we too slow: with every thread stopped that comes by, it stays free. */
static Try own_by_stops(Wait *w, PyObject *lock, Kind kind)
{
    double now = monotonic();
    if (own(lock, kind, 0)) {
        w->led = 0;
        return OWNED;
    }
    w->led = w->led != 0 ? w->led : now;
    if (now - w->led >= STEPS_LIMIT) {
        w->led = 0;
        return IN_VAIN;
    }
    if (!stop_another(w->me)) {
        if (++w->steps % 20) {
            nap();
        }
        else {
            sleep_without_gil(POLL);
        }
    }
    return LOOK_AGAIN;
}

static Try own_by_waiting(Wait *w, PyObject *lock, Kind kind, int is_unseen)
{
    double limit = is_unseen ? UNSEEN_LIMIT : Py_MIN(TAKE_LIMIT, Py_MAX(g.wait, 0.002));
    return (is_catalogued(lock) ? own_between(w->me, lock, kind, limit) : own(lock, kind, limit)) ? OWNED : IN_VAIN;
}

static int times_tried(PyObject *lock)
{
    int tried = 0;
    for (int i = 0; i < g.look.n; i++) {
        const Sighting *s = &g.look.items[i];
        const Lost *entry = s->subject == lock ? find_lost(s->thread_id, lock) : NULL;
        tried = entry != NULL && entry->tried > tried ? entry->tried : tried;
    }
    return tried;
}

static void note_try(PyObject *lock, int is_unseen)
{
    for (int i = 0; i < g.look.n; i++) {
        if (g.look.items[i].subject == lock) {
            note(g.look.items[i].thread_id, lock)->tried++;
        }
    }
    if (is_unseen) {
        Lost *entry = note(0, lock);
        if (++entry->tried >= 2) {
            give_up(entry, NULL);
        }
    }
}

/* `taken`: others have become ours in this round. */
static Try try_to_own(Wait *w, const Todo *todo, int at, int taken)
{
    PyObject *lock = todo->needs[at].lock;
    Kind kind = todo->needs[at].kind;
    int last_try = todo->needs[at].hurry;
    PyThreadState *holder = visible_holder(lock);
    if (!last_try && is_promised(lock, todo)) {
        return PROMISED;
    }
    if (!last_try && holder != NULL && give_way(holder)) {
        return LOOK_AGAIN; /* it goes on now */
    }
    if (holder != NULL && is_parked(holder)) {
        let_run(holder); /* it took this one without being seen to */
        return LOOK_AGAIN;
    }
    if (taken && !last_try) {
        /* Look again before waiting: its holder may need what has just become ours. */
        return own(lock, kind, 0) ? OWNED : LOOK_AGAIN;
    }
    int catalogued = is_catalogued(lock);
    int is_unseen = kind == KIND_LOCK && is_locked(lock) && holder == NULL && !catalogued && !is_not_mine(lock) &&
                    !may_be_in_transit(lock);
    int by_stops = times_tried(lock) % 2 && !is_unseen && !catalogued && !last_try;
    Try outcome = by_stops ? own_by_stops(w, lock, kind) : own_by_waiting(w, lock, kind, is_unseen);
    if (outcome == IN_VAIN) {
        note_try(lock, is_unseen);
    }
    return outcome;
}

/* In random order, until one does not come. */
static void own_what_is_needed(Wait *w, Todo *todo)
{
    for (int i = 0; i < todo->n; i++) {
        Py_INCREF(todo->needs[i].lock);
    }
    for (int i = 0; i < g.look.n; i++) {
        g.look.items[i].thread_id = g.look.items[i].thread->id;
    }
    int taken = 0;
    Try last = PROMISED;
    for (int i = 0; i < todo->n && last != LOOK_AGAIN && last != IN_VAIN; i++) {
        int k = i + (int)(random_bits() % (uint32_t)(todo->n - i));
        Needed next = todo->needs[k];
        todo->needs[k] = todo->needs[i];
        todo->needs[i] = next;
        Try outcome = try_to_own(w, todo, i, taken);
        taken |= outcome == OWNED;
        last = outcome == PROMISED ? last : outcome;
    }
    for (int i = 0; i < todo->n; i++) {
        Py_DECREF(todo->needs[i].lock);
    }
    if (last == IN_VAIN || last == PROMISED) {
        /* Its holder may be waiting for one that we have: give all back and come again in another order. */
        let_go();
        let_run(NULL);
        sleep_without_gil((double)(random_bits() % 2000) * 1e-6);
    }
}

/* -> whether experiments were asked, so that the look is not of now any more; -1 for a fault. */
static int ask_experiments(const Wait *w)
{
    if (w->elapsed >= g.wait || !unjudged()) {
        return 0;
    }
    unlock_imports();
    let_go(); /* Python code runs only where nothing is owned, and nobody stopped */
    let_run(NULL);
    return judge() < 0 ? -1 : 1;
}

/* Looks until everything that matters is owned or given up: the last look is done with the import lock taken. */
static void wait_until_safe(Wait *w)
{
    for (;;) {
        w->elapsed = monotonic() - w->start;
        look(&g.look, w->me);
        look_for_unseen(w->me, 0);
        learn_whose();
        this_fork->polls++;
        int asked = g.look.failed ? -1 : ask_experiments(w);
        if (asked < 0) {
            return;
        }
        if (asked) {
            continue;
        }
        Todo todo;
        todo.n = todo.pending = todo.n_back = todo.n_inside = todo.n_importing = todo.asleep = todo.unstoppable = 0;
        need_what_is_seen(w, &todo);
        need_catalogued(w, &todo);
        need_unseen(w, &todo);
        if (!todo.pending && todo.n == 0) {
            if (this_fork->import_locked || lock_imports() < 0) {
                return; /* the last look: everything it saw is ours, or given up */
            }
            continue; /* to take it may have let the GIL go */
        }
        unlock_imports(); /* never kept while others are to move: an import needs it at every step */
        if (todo.pending) {
            let_them_end(w, &todo);
        }
        else {
            own_what_is_needed(w, &todo);
        }
    }
}

/* Returns with the import lock taken and the last look done. */
void settle(PyThreadState *me)
{
    Wait w = {.me = me, .start = monotonic()};
    unsigned long usual = *switch_interval();
    hold_signals();
    not_mine.n = 0;
    if (usual > HURRY) {
        *switch_interval() = HURRY;
    }
    wait_until_safe(&w);
    if (!this_fork->import_locked) {
        lock_imports();
        look(&g.look, me); /* to take it may have let the GIL go */
    }
    for (int i = 0; i < g.n_lost; i++) {
        Lost *entry = &g.lost[i];
        if (entry->hoped == this_fork->forks && entry->fork != this_fork->forks) {
            entry->failures = 0; /* it came: the next time it is worth the whole wait again */
        }
        entry->tried = 0;
    }
    if (*switch_interval() == HURRY) {
        *switch_interval() = usual;
    }
    this_fork->waited = monotonic() - w.start;
    this_fork->outcome = w.gave_up ? OUTCOME_GAVE_UP : OUTCOME_WAITED;
}

#endif
