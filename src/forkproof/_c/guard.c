/* Around a fork: look, own what is contested, fork, let go; in the child reset what was owned.
 *
 * The callback `before` runs last of all before-callbacks, so nothing can happen between its last look and the system
 * call: it holds the GIL from the one to the other, and the import lock too (PyOS_BeforeFork would else let the GIL go
 * to take it). Where a look finds something it goes the slow way (settle.c).
 *
 * Guarantees: never raises into the program; never waits longer than its limits; whatever fails inside turns it off and
 * leaves the fork as it would have been.
 */
#include "forking.h"
#include "buffers.h"
#include "connections.h"
#include "follow.h"
#include "lines.h"
#include "named.h"
#include "pools.h"
#include "watch.h"
#include "watchdog.h"
#include "workers.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

#define SEARCH_LIMIT 2000000 /* objects passed in one search of the heap at a fork, ten nanoseconds each */

/* One fork at a time; a second forking thread waits here, unless the first takes unreasonably long. */
static int take_turn(unsigned long ident)
{
    if (this_fork->turn == 0) {
        this_fork->turn = ident;
        return 1;
    }
    if (g.n_waiting == (int)Py_ARRAY_LENGTH(g.waiting)) {
        return 0;
    }
    double end = monotonic() + 2 * g.wait + 1;
    g.waiting[g.n_waiting++] = ident;
    while (this_fork->turn != 0 && monotonic() < end) {
        sleep_without_gil(POLL);
    }
    for (int i = 0; i < g.n_waiting; i++) {
        if (g.waiting[i] == ident) {
            g.waiting[i] = g.waiting[--g.n_waiting];
            break;
        }
    }
    if (this_fork->turn != 0) {
        return 0;
    }
    this_fork->turn = ident;
    return 1;
}

static void take_out(PyObject *list, PyObject *hook)
{
    for (Py_ssize_t i = list == NULL ? 0 : PyList_GET_SIZE(list); i-- > 0;) {
        if (PyList_GET_ITEM(list, i) == hook && PyList_SetSlice(list, i, i + 1, NULL) < 0) {
            PyErr_Clear();
        }
    }
}

/* Others may have registered theirs since: to be first or last is to be made so at each fork. */
static void keep(PyObject *list, PyObject *hook, int wanted, int first)
{
    Py_ssize_t n = list == NULL ? 0 : PyList_GET_SIZE(list);
    if (list == NULL || (wanted && n > 0 && PyList_GET_ITEM(list, first ? 0 : n - 1) == hook)) {
        return;
    }
    take_out(list, hook);
    if (wanted && PyList_Insert(list, first ? 0 : PyList_GET_SIZE(list), hook) < 0) {
        PyErr_Clear();
    }
}

/* The hooks that run after the fork are in the interpreter's lists only when they will have something to say or to mend:
 * most forks do without, and no page is written to for them. Nothing runs between this and the fork that could register more. */
static void keep_hooks(PyInterpreterState *interpreter, int parent, int child)
{
    keep(interpreter->after_forkers_parent, g.parent_hook, parent, 0);
    keep(interpreter->after_forkers_child, g.child_first_hook, child, 1);
    keep(interpreter->after_forkers_child, g.child_last_hook, child, 0);
    this_fork->child_hooked = child;
}

static int anything_matters(void)
{
    for (int i = 0; i < g.look.n; i++) {
        if (matters(&g.look.items[i]) != MATTERS_NOT) {
            return 1;
        }
    }
    return g.look.failed ||
           (g.look.threads &&
            (PyDict_GET_SIZE(foreign_locks) || ((unseen.n || loose.n) && g.policy == POLICY_WAIT)));
}

static void forget_report(void)
{
    Py_CLEAR(g.seen);
    Py_CLEAR(g.left);
    Py_CLEAR(g.workers);
    Py_CLEAR(g.pools);
}

/* Threads that others rely on, and native ones, of which no fork has told yet. They hold nothing and are not waited for.
 *
 * A Python thread that is just beginning or ending looks like a native one, and one that nobody can name may never change: after
 * each search that found nothing new, twice as many forks go by before the next. */
static void find_news(PyThreadState *me)
{
    int native = native_threads(g.look.threads + 1);
    int search = native > g.pools_known && this_fork->forks >= g.pools_next;
    if (!g.look.news && !search) {
        return;
    }
    int collector = PyGC_Disable(); /* no finalizer now: it might let the GIL go */
    if (g.look.news) {
        g.workers = list_of_workers(me, 0);
        g.look.news = 0; /* the look may serve the next fork as well */
    }
    if (search) {
        int named = 0;
        PyObject *found = list_of_native_threads();
        for (Py_ssize_t i = 0; found != NULL && i < PyList_GET_SIZE(found); i++) {
            named += PyList_GET_SIZE(PyTuple_GET_ITEM(PyList_GET_ITEM(found, i), 2)) > 0;
        }
        if (named > g.pools_known) {
            g.pools = Py_NewRef(found);
            g.pools_vain = 0;
        }
        else {
            g.pools_vain = Py_MIN(g.pools_vain + 1, 10);
        }
        g.pools_known = named;
        g.pools_next = this_fork->forks + (1ul << g.pools_vain);
        Py_XDECREF(found);
    }
    PyErr_Clear();
    if (collector) {
        PyGC_Enable();
    }
}

static int something_to_say(void)
{
    return g.seen != NULL || g.left != NULL || g.workers != NULL || g.pools != NULL;
}

/* Python code has a turn again in a process that C code has forked. */
static void tell_unseen(void)
{
    PyObject *argument = Py_BuildValue("(iO)", 3, Py_None);
    if (argument == NULL) {
        turn_off("child");
        return;
    }
    if (g.after_child != NULL) {
        call_python(g.after_child, argument, "after_in_child");
    }
    Py_DECREF(argument);
}

/* How many of multiprocessing's locks count threads that a child does not have; in the child, with `forget`, none do any more. */
static int counts_others(int forget)
{
    static PyObject *util_name, *registry_name;
    if (util_name == NULL) {
        util_name = PyUnicode_InternFromString("multiprocessing.util");
        registry_name = PyUnicode_InternFromString("_afterfork_registry");
    }
    PyObject *registry = module_variable(util_name, registry_name);
    int n = registry == NULL ? 0 : counted_for_others(registry, forget);
    PyErr_Clear();
    return n;
}

static int refresh(void)
{
    return call_python(g.refresh, NULL, "refresh");
}

/* Looks, and does no more. PyOS_BeforeFork would take the import lock after us and wait for it while others move on; taken
 * here, the look is of the instant at which the fork happens. No Python code from here to there. -> -1: not to be done. */
static int look_only(PyThreadState *me)
{
    if (lock_imports() < 0) {
        return -1;
    }
    resolve_awaited();
    look_unless_still(&g.look, me);
    look_for_unseen(me, SEARCH_LIMIT);
    this_fork->polls = 1;
    if (anything_matters()) {
        find_held(me);
        g.left = at_risk();
        this_fork->outcome = OUTCOME_OBSERVED;
    }
    return 0;
}

/* The fast way, and the only one where nothing matters. -> -1: not to be done. */
static int first_look(PyThreadState *me)
{
    for (int i = 0;; i++) {
        if (lock_imports() < 0) {
            return -1;
        }
        look_unless_still(&g.look, me);
        look_for_unseen(me, SEARCH_LIMIT);
        if (i == 3 || anything_matters() || !refresh_is_due()) {
            break;
        }
        /* To take the import lock may have let the GIL go: an import that ended then may be in the catalogue, and at work. */
        unlock_imports();
        if (refresh() < 0) {
            return -1;
        }
    }
    this_fork->polls = 1;
    if (anything_matters()) {
        find_held(me);
    }
    return 0;
}

static int wait_for_safe_point(PyThreadState *me)
{
    g.seen = step_fails() ? PyErr_NoMemory() : at_risk();
    if (g.seen == NULL) {
        turn_off("look");
    }
    unlock_imports();
    if (g.seen == NULL || call_python(g.consider, g.seen, "consider") < 0) {
        return -1;
    }
    look(&g.look, me); /* others have run meanwhile, and what the last one saw may be gone */
    find_held(me);
    settle(me);
    for (int i = 0; i < 3 && refresh_is_due(); i++) {
        /* What was imported while we waited may be in the catalogue, and at work already. */
        double waited = this_fork->waited;
        let_go();
        let_run(NULL);
        unlock_imports();
        release_signals();
        if (refresh() < 0) {
            return -1;
        }
        settle(me);
        this_fork->waited += waited;
    }
    find_orphans();
    g.left = at_risk();
    return 0;
}

static int look_and_wait(PyThreadState *me)
{
    if (first_look(me) < 0) {
        return -1;
    }
    if (anything_matters()) {
        return wait_for_safe_point(me);
    }
    if (g.look.n) {
        not_mine.n = 0;
        find_orphans();
    }
    return 0;
}

/* What a hook returns, which nobody looks at: up to 3.11 the references of None are counted in a page that a fork does not write to. */
static PyObject *no_answer(void)
{
    return Py_NewRef(g.before_hook);
}

static PyObject *before(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    if (g.on && g.unseen) {
        tell_unseen();
    }
    if (!g.on) {
        return no_answer();
    }
    PyThreadState *me = PyThreadState_Get();
    unsigned long ident = PyThread_get_thread_ident();
    if (this_fork->turn == ident && this_fork->armed == ident) {
        disarm(); /* a fork that never came */
    }
    if (!take_turn(ident)) {
        announced = 1;
        return no_answer();
    }
    this_fork->forks++;
    this_fork->polls = 0;
    this_fork->waited = 0;
    this_fork->outcome = OUTCOME_CLEAR;
    this_fork->clean = 1;
    this_fork->n_held = 0;
    forget_report();

    PyInterpreterState *interpreter = PyThreadState_GetInterpreter(me);
    PyThreadState *head = PyInterpreterState_ThreadHead(interpreter);
    if (head == me && PyThreadState_Next(head) == NULL) {
        if (g.look.n || g.look.n_waiters || g.look.threads || g.look.workers || g.look.news) { /* else nothing is written */
            g.look.n = g.look.n_waiters = g.look.threads = g.look.workers = g.look.news = 0;
        }
        find_news(me);
        int tell = g.report_all || g.pools != NULL || buffers_watched();
        keep_hooks(interpreter, tell, tell || g.pools_expected || watch_is_on());
        this_fork->armed = ident;
        return no_answer();
    }
    if (g.policy != POLICY_OBSERVE && refresh_is_due() && refresh() < 0) {
        this_fork->turn = 0;
        return no_answer();
    }
    follow_foreign();
    if ((g.policy == POLICY_OBSERVE ? look_only(me) : look_and_wait(me)) < 0) {
        this_fork->turn = 0;
        return no_answer();
    }
    PyErr_Clear();
    drop_loose();
    this_fork->clean = g.left == NULL || PyList_GET_SIZE(g.left) == 0;
    find_news(me);
    int tell = something_to_say() || g.report_all || buffers_watched();
    int mend = g.look.workers || (g.watch_idle && g.look.n_waiters) ||
               (g.policy == POLICY_WAIT && g.repair && (g.look.n || g.look.n_waiters || counts_others(0)));
    this_fork->refresh_due = g.policy == POLICY_OBSERVE && refresh_is_due(); /* once asked, it is not due any more */
    keep_hooks(interpreter, g.on && (tell || this_fork->refresh_due),
               g.on && (tell || mend || g.pools_expected || watch_is_on()));
    this_fork->armed = ident;
    return no_answer();
}

static PyObject *report(void)
{
    return Py_BuildValue("(kOOdiiOOO)", this_fork->forks, g.seen ? g.seen : Py_None, g.left ? g.left : Py_None,
                         this_fork->waited, this_fork->polls, this_fork->outcome, this_fork->clean ? Py_True : Py_False,
                         g.workers ? g.workers : Py_None, g.pools ? g.pools : Py_None);
}

/* The same of a fork at which there was nothing to tell. */
static PyObject *clear_report(unsigned long fork, int polls)
{
    return Py_BuildValue("(kOOdiiOOO)", fork, Py_None, Py_None, 0.0, polls, OUTCOME_CLEAR, Py_True, Py_None, Py_None);
}

/* Give the report to Python. It lets the GIL go, and `g` is the next fork's then. */
static void hand_over(PyObject *function, PyObject *argument, const char *where, const char *what)
{
    if (argument == NULL) {
        turn_off(what);
        return;
    }
    call_python(function, argument, where);
    Py_DECREF(argument);
}

/* What files have in their buffers is in both processes now. */
static void note_buffers(int in_child)
{
    PyObject *argument = g.on ? buffers_at_fork(this_fork->forks, in_child) : NULL;
    if (argument == NULL) {
        return;
    }
    Undisturbed u = undisturbed();
    PyObject *answer = PyObject_Call(buffers_callback(), argument, NULL);
    end_undisturbed(u);
    Py_DECREF(argument);
    if (answer == NULL) {
        turn_off("note_buffers");
        return;
    }
    buffers_answer(answer);
    Py_DECREF(answer);
}

static PyObject *after_parent(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    in_parent(); /* for a fork that came to nothing before it reached the system call */
    note_buffers(0);
    if (g.on && this_fork->refresh_due) {
        this_fork->refresh_due = 0;
        call_python(g.refresh, NULL, "refresh");
    }
    if (g.on && g.report_all && !something_to_say() && this_fork->outcome == OUTCOME_CLEAR && this_fork->waited == 0) {
        unsigned long fork = this_fork->forks;
        int polls = this_fork->polls;
        if (!tell_fork(fork, polls) && g.after_parent != NULL) { /* which lets the GIL go */
            hand_over(g.after_parent, clear_report(fork, polls), "after_in_parent", "report");
        }
    }
    else if (g.on && (something_to_say() || g.report_all) && g.after_parent != NULL) {
        PyObject *argument = report();
        forget_report();
        hand_over(g.after_parent, argument, "after_in_parent", "report");
    }
    return no_answer();
}

/* A Condition still lists the waiters of threads that are gone; notify() would wake one of those instead of a living
 * one. The permits that such threads had of a semaphore come back to nobody else. */
static void mend_queues(void)
{
    static PyObject *waiters_name, *value_name, *remove_name;
    if (waiters_name == NULL) {
        waiters_name = PyUnicode_InternFromString("_waiters");
        value_name = PyUnicode_InternFromString("_value");
        remove_name = PyUnicode_InternFromString("remove");
    }
    /* The newest thread is seen first and waits last in the queue: from the back, each is found at its front. */
    for (int i = g.look.n_waiters; i-- > 0;) {
        PyObject *queue = plain_attribute(g.look.waiters[i].condition, waiters_name);
        if (queue == NULL || strcmp(Py_TYPE(queue)->tp_name, "collections.deque") != 0) {
            continue;
        }
        PyObject *answer = PyObject_CallMethodOneArg(queue, remove_name, g.look.waiters[i].waiter);
        if (answer == NULL) {
            PyErr_Clear(); /* it was notified, and had not gone on yet */
        }
        Py_XDECREF(answer);
    }
    for (int i = 0; i < g.look.n; i++) {
        const Sighting *s = &g.look.items[i];
        int value = s->kind == KIND_SEMAPHORE ? semaphore_value(s->subject) : -1;
        if (value >= 0) {
            PyObject *more = PyLong_FromLong((long)value + 1);
            if (more == NULL || PyObject_GenericSetAttr(s->subject, value_name, more) < 0) {
                PyErr_Clear();
            }
            Py_XDECREF(more);
        }
    }
    g.look.n_waiters = 0;
    counts_others(1);
}

/* What vanished workers had in their variables, for those who mend and explain: before anyone else's callback may use it. */
static void hand_over_workers(void)
{
    PyObject *list = kept_workers();
    PyObject *argument = list == NULL ? NULL : Py_BuildValue("(iN)", 2, list);
    if (argument == NULL) {
        turn_off("child");
        return;
    }
    if (PyList_GET_SIZE(list) && g.on && g.after_child != NULL) {
        call_python(g.after_child, argument, "after_in_child");
    }
    Py_DECREF(argument);
}

/* Whether Python has been asked, at this fork, what this child was left without. */
static int begun;

static PyObject *child_first(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    int idle = g.watch_idle && g.look.n_waiters; /* threads that wait to be given something to do, perhaps */
    if (g.on && g.in_child && g.repair && g.policy == POLICY_WAIT) {
        mend_queues();
    }
    if (g.in_child && g.look.workers) {
        hand_over_workers();
    }
    if (g.in_child) {
        note_buffers(1);
    }
    int left_behind = watch_inherited() || (g.left != NULL && PyList_GET_SIZE(g.left)) || g.look.workers ||
                      g.pools != NULL || g.pools_expected || idle;
    g.pools_expected = 0;
    begun = g.on && g.in_child && left_behind;
    if (begun && g.after_child != NULL) {
        hand_over(g.after_child, Py_BuildValue("(iN)", 0, report()), "after_in_child", "child");
    }
    Py_RETURN_NONE;
}

static PyObject *child_last(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    int ours = g.in_child, watched = watch_settle();
    if (g.on && g.unseen) {
        tell_unseen();
    }
    g.in_child = 0;
    g.look.n = 0;
    int only_born = g.report_all && !watched && !begun && !something_to_say() && !watchdog_is_reset();
    begun = 0;
    int told = g.on && ours && only_born && tell_born(this_fork->forks);
    if (!told && g.on && ours && (watched || something_to_say() || g.report_all) && g.after_child != NULL) {
        PyObject *argument = Py_BuildValue("(iN)", 1, report());
        forget_report();
        hand_over(g.after_child, argument, "after_in_child", "child");
    }
    Py_RETURN_NONE;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * For Python
 */

static PyObject *call_hook(PyObject *hook, PyObject *const *args, size_t n, PyObject *names)
{
    (void)args;
    (void)n;
    (void)names;
    return ((Hook *)hook)->function(NULL, NULL);
}

static PyObject *name_of_hook(PyObject *hook, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(((Hook *)hook)->name);
}

static PyGetSetDef hook_attributes[] = {{"__name__", name_of_hook, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};

static PyTypeObject hook_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "forkproof._native.hook",
    .tp_basicsize = sizeof(Hook),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_vectorcall_offset = offsetof(Hook, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_getset = hook_attributes,
};

static const Hook new_hooks[] = {
    {PyObject_HEAD_INIT(&hook_type) call_hook, before, "forkproof_before"},
    {PyObject_HEAD_INIT(&hook_type) call_hook, after_parent, "forkproof_after_in_parent"},
    {PyObject_HEAD_INIT(&hook_type) call_hook, child_first, "forkproof_first_in_child"},
    {PyObject_HEAD_INIT(&hook_type) call_hook, child_last, "forkproof_last_in_child"},
};

static PyObject *install(PyObject *module, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"policy", "repair", "wait", "report_all", "watch_idle", "refresh", "consider",
                            "after_parent", "after_child", "fault", "warnings", "filter", NULL};
    int policy, repair, report_all, watch_idle;
    double wait;
    PyObject *refresh, *consider, *parent, *child, *fault, *warnings, *filter;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "ipdppOOOOOOO", names, &policy, &repair, &wait, &report_all,
                                     &watch_idle, &refresh, &consider, &parent, &child, &fault, &warnings, &filter)) {
        return NULL;
    }
    PyInterpreterState *interpreter = PyInterpreterState_Get();
    take_out(interpreter->before_forkers, g.before_hook);
    take_out(interpreter->after_forkers_parent, g.parent_hook);
    take_out(interpreter->after_forkers_child, g.child_first_hook);
    take_out(interpreter->after_forkers_child, g.child_last_hook);

    PyObject *posix = PyImport_ImportModule("posix");
    PyObject *reg = posix ? PyObject_GetAttrString(posix, "register_at_fork") : NULL;
    Py_XDECREF(posix);
    PyObject *none = PyTuple_New(0);
    PyObject *hooks = Py_BuildValue("{sOsOsO}", "before", g.before_hook, "after_in_parent", g.parent_hook,
                                    "after_in_child", g.child_last_hook);
    PyObject *answer = reg && none && hooks ? PyObject_Call(reg, none, hooks) : NULL;
    Py_XDECREF(reg);
    Py_XDECREF(none);
    Py_XDECREF(hooks);
    if (answer == NULL) {
        return NULL;
    }
    Py_DECREF(answer);
    /* `before` runs in reverse order of registration: the first of the list is the last to run. */
    take_out(interpreter->before_forkers, g.before_hook);
    if (PyList_Insert(interpreter->before_forkers, 0, g.before_hook) < 0) {
        return NULL;
    }
    g.policy = policy;
    g.repair = repair;
    g.wait = wait;
    g.report_all = report_all;
    g.watch_idle = watch_idle;
    Py_XSETREF(g.refresh, Py_NewRef(refresh));
    Py_XSETREF(g.consider, Py_NewRef(consider));
    Py_XSETREF(g.after_parent, Py_NewRef(parent));
    Py_XSETREF(g.after_child, Py_NewRef(child));
    Py_XSETREF(g.fault, Py_NewRef(fault));
    Py_XSETREF(g.warnings, Py_NewRef(warnings));
    Py_XSETREF(g.filter, Py_NewRef(filter));
    g.modules_seen = -1;
    g.n_lost = 0;
    g.on = 1;
    Py_RETURN_NONE;
}

static PyObject *uninstall(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    /* A fork under way in another thread still ends as it must: what is armed is disarmed inside fork() itself. */
    PyInterpreterState *interpreter = PyInterpreterState_Get();
    g.on = 0;
    take_out(interpreter->before_forkers, g.before_hook);
    take_out(interpreter->after_forkers_parent, g.parent_hook);
    take_out(interpreter->after_forkers_child, g.child_first_hook);
    take_out(interpreter->after_forkers_child, g.child_last_hook);
    Py_RETURN_NONE;
}

static PyObject *look_now(PyObject *module, PyObject *unused)
{
    static Look l;
    (void)module;
    (void)unused;
    look(&l, PyThreadState_Get());
    if (l.failed) {
        return PyErr_NoMemory();
    }
    return look_as_list(&l);
}

static PyObject *assess(PyObject *module, PyObject *args)
{
    int search = 1;
    (void)module;
    if (!PyArg_ParseTuple(args, "|p", &search)) {
        return NULL;
    }
    PyThreadState *me = PyThreadState_Get();
    if (this_fork->turn != 0) {
        return PyList_New(0); /* asked from inside a fork of another thread: its look is in use */
    }
    follow_foreign();
    look(&g.look, me);
    if (search) {
        unseen.took = 0; /* the next is due */
    }
    look_for_unseen(me, search ? SIZE_MAX : SEARCH_LIMIT);
    find_held(me);
    return at_risk();
}

static PyObject *workers_now(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return list_of_workers(PyThreadState_Get(), 1);
}

static PyObject *native_threads_now(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return list_of_native_threads();
}

static PyObject *expect_pools(PyObject *module, PyObject *there)
{
    (void)module;
    g.pools_expected = there == Py_True;
    Py_RETURN_NONE;
}

static PyObject *waiters(PyObject *module, PyObject *unused)
{
    static Look l;
    (void)module;
    (void)unused;
    look(&l, PyThreadState_Get());
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < l.n_waiters; i++) {
        PyObject *item = PyTuple_Pack(2, l.waiters[i].condition, l.waiters[i].waiter);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

static PyObject *set_catalogue(PyObject *module, PyObject *args)
{
    PyObject *calls, *unresolved, *locks, *awaited;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!O!O!", &PyDict_Type, &calls, &PyList_Type, &unresolved, &PyList_Type, &locks,
                          &PyTuple_Type, &awaited)) {
        return NULL;
    }
    Py_XSETREF(g.locks, Py_NewRef(locks));
    Py_XSETREF(g.calls, Py_NewRef(calls));
    Py_XSETREF(g.unresolved, Py_NewRef(unresolved));
    Py_XSETREF(g.awaited, Py_NewRef(awaited));
    g.modules_resolved = -1;
    g.look.firm = 0;
    if (set_calls(calls) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *set_semaphore(PyObject *module, PyObject *type)
{
    (void)module;
    if (!PyType_Check(type)) {
        PyErr_SetString(PyExc_TypeError, "a class is needed");
        return NULL;
    }
    Py_XSETREF(semaphore_type, (PyTypeObject *)Py_NewRef(type));
    forget_types();
    g.look.firm = 0;
    Py_RETURN_NONE;
}

static PyObject *add_foreign(PyObject *module, PyObject *args)
{
    PyObject *object, *marker, *path;
    (void)module;
    if (!PyArg_ParseTuple(args, "OUO!", &object, &marker, &PyTuple_Type, &path)) {
        return NULL;
    }
    PyObject *id = PyLong_FromVoidPtr(object);
    if (id == NULL || PyDict_SetItem(foreign_locks, id, args) < 0) {
        Py_XDECREF(id);
        return NULL;
    }
    Py_DECREF(id);
    g.look.firm = 0;
    Py_RETURN_NONE;
}

static PyObject *drop_foreign(PyObject *module, PyObject *lock)
{
    (void)module;
    PyObject *id = PyLong_FromVoidPtr(lock);
    if (id == NULL || (PyDict_DelItem(foreign_locks, id) < 0 && !PyErr_ExceptionMatches(PyExc_KeyError))) {
        Py_XDECREF(id);
        return NULL;
    }
    PyErr_Clear();
    Py_DECREF(id);
    Py_RETURN_NONE;
}

static PyObject *set_judged(PyObject *module, PyObject *judged)
{
    if (!PyDict_CheckExact(judged)) {
        PyErr_SetString(PyExc_TypeError, "set_judged needs a dict");
        return NULL;
    }
    Py_XSETREF(g.judged, Py_NewRef(judged));
    Py_RETURN_NONE;
}

static PyObject *set_exempt(PyObject *module, PyObject *exempt)
{
    (void)module;
    if (!PyDict_CheckExact(exempt)) {
        PyErr_SetString(PyExc_TypeError, "a dict is needed");
        return NULL;
    }
    Py_XSETREF(g.exempt, Py_NewRef(exempt));
    Py_RETURN_NONE;
}

/* Stands for the message in a warnings filter: hides a blanket warning about a fork that nothing was at risk at. `warnings`
 * asks anew at each warning, so one filter can decide every time; in C, because it is asked at every fork. */
typedef struct {
    PyObject_HEAD
    PyObject *contains; /* tuple of texts */
    int in_child;       /* it is issued there, and the fork that counts is the one that made this process */
} ForkWarning;

static PyObject *fork_warning_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *contains;
    int in_child;
    if (!PyArg_ParseTuple(args, "O!p", &PyTuple_Type, &contains, &in_child)) {
        return NULL;
    }
    ForkWarning *self = (ForkWarning *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->contains = Py_NewRef(contains);
        self->in_child = in_child;
    }
    return (PyObject *)self;
}

static void fork_warning_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(((ForkWarning *)self)->contains);
    type->tp_free(self);
    Py_DECREF(type);
}

/* CPython 3.12 warns in the parent while it still has the import lock that it took for the fork (Modules/posixmodule.c
 * os_fork_impl(); not so from 3.13 on), and a warning that is shown imports `linecache`, whose `tokenize` imports `re`. A
 * thread that was inside one of those imports waits for the import lock, and the parent for the thread: for ever. So they are
 * imported with the lock let go, which is had again before anything goes on. */
static int import_what_warnings_show_with(void)
{
#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030D0000
    PyObject *modules = PyImport_GetModuleDict();
    if (PyDict_GetItemString(modules, "linecache") != NULL && PyDict_GetItemString(modules, "tokenize") != NULL) {
        return 0;
    }
    int levels = 0;
    PyObject *answer;
    while ((answer = g.release_import_lock(g.imp, NULL)) != NULL) {
        Py_DECREF(answer);
        levels++;
    }
    PyErr_Clear(); /* no longer this thread's */
    if (levels == 0) {
        return 0;
    }
    Py_XDECREF(PyImport_ImportModule("linecache"));
    if (PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear(); /* who shows the warning meets it again, and says so */
    }
    PyObject *interrupt = PyErr_GetRaisedException();
    while (levels-- > 0) {
        Py_XDECREF(g.acquire_import_lock(g.imp, NULL));
    }
    PyErr_SetRaisedException(interrupt);
    return interrupt == NULL ? 0 : -1;
#else
    return 0;
#endif
}

static PyObject *match(PyObject *object, PyObject *text)
{
    ForkWarning *self = (ForkWarning *)object;
    int meant = PyUnicode_Check(text);
    for (Py_ssize_t i = 0; meant && i < PyTuple_GET_SIZE(self->contains); i++) {
        meant = PyUnicode_Contains(text, PyTuple_GET_ITEM(self->contains, i)) == 1;
    }
    PyErr_Clear();
    int hidden = meant && g.on && (self->in_child ? g.born == BORN_CLEAN : this_fork->clean);
    if (meant && !hidden && !self->in_child && import_what_warnings_show_with() < 0) {
        return NULL;
    }
    return PyBool_FromLong(hidden);
}

/* Whoever copies the filters to another process (joblib) takes them for regular expressions. What is hidden is decided by the
 * forks of this process, so in another one nothing is. */
static PyObject *pattern(PyObject *self, void *unused)
{
    (void)self;
    (void)unused;
    return PyUnicode_FromString("(?!)");
}

static PyGetSetDef fork_warning_attributes[] = {{"pattern", pattern, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyMethodDef fork_warning_methods[] = {{"match", match, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static PyType_Slot fork_warning_slots[] = {
    {Py_tp_methods, fork_warning_methods},
    {Py_tp_getset, fork_warning_attributes},
    {Py_tp_new, fork_warning_new},
    {Py_tp_dealloc, fork_warning_dealloc},
    {0, NULL},
};
static PyType_Spec fork_warning = {
    .name = "forkproof._native.ForkWarning", .basicsize = sizeof(ForkWarning), .flags = Py_TPFLAGS_DEFAULT,
    .slots = fork_warning_slots,
};

static PyObject *enter_warnings(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyBool_FromLong(try_warnings());
}

static PyObject *leave_warnings(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    give_back_warnings();
    Py_RETURN_NONE;
}

static PyObject *last_clean(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyBool_FromLong(g.on && this_fork->clean);
}

static PyObject *unseen_threads(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    int threads = g.unseen;
    g.unseen = 0;
    return PyLong_FromLong(threads);
}

static PyObject *forks(PyObject *module, PyObject *args)
{
    (void)module;
    if (!PyArg_ParseTuple(args, "|k", &this_fork->forks)) {
        return NULL;
    }
    return PyLong_FromUnsignedLong(this_fork->forks);
}

static PyObject *fail_at(PyObject *module, PyObject *number)
{
    (void)module;
    g.fail_at = (int)PyLong_AsLong(number);
    g.step = 0;
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *expression(PyObject *module, PyObject *args)
{
    PyCodeObject *code;
    int offset;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!i", &PyCode_Type, &code, &offset)) {
        return NULL;
    }
    PyObject *text = expression_text(code, offset / 2);
    if (text == NULL) {
        Py_RETURN_NONE;
    }
    return text;
}

/* What others run in a child, in order. */
static PyObject *child_callbacks(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *list = PyInterpreterState_Get()->after_forkers_child;
    PyObject *copy = PyList_New(0);
    for (Py_ssize_t i = 0; copy != NULL && list != NULL && i < PyList_GET_SIZE(list); i++) {
        PyObject *callback = PyList_GET_ITEM(list, i);
        if (callback != g.child_first_hook && callback != g.child_last_hook && PyList_Append(copy, callback) < 0) {
            Py_CLEAR(copy);
        }
    }
    return copy;
}

static PyObject *code_units(PyObject *module, PyObject *code)
{
    (void)module;
    if (!PyCode_Check(code)) {
        PyErr_SetString(PyExc_TypeError, "a code object is needed");
        return NULL;
    }
    const CodeInfo *info = code_info((PyCodeObject *)code);
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < info->n_units; i++) {
        const Unit *u = &info->units[i];
        int slot = u->with ? info->regions[u->with].slot : -1;
        PyObject *item = Py_BuildValue("(iii)", u->back ? -2 : u->depth, slot, (int)u->pending);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

PyMethodDef guard_methods[] = {
    {"install", (PyCFunction)(void (*)(void))install, METH_VARARGS | METH_KEYWORDS, NULL},
    {"uninstall", uninstall, METH_NOARGS, NULL},
    {"set_lines", set_lines, METH_O, NULL},
    {"look", look_now, METH_NOARGS, NULL},
    {"assess", assess, METH_VARARGS, NULL},
    {"waiters", waiters, METH_NOARGS, NULL},
    {"set_calls", set_catalogue, METH_VARARGS, NULL},
    {"set_workers", set_workers, METH_VARARGS, NULL},
    {"workers", workers_now, METH_NOARGS, NULL},
    {"variables_of", variables_of, METH_VARARGS, NULL},
    {"users_of", users_of, METH_O, NULL},
    {"expect_pools", expect_pools, METH_O, NULL},
    {"watchdog_was_reset", watchdog_was_reset, METH_NOARGS, NULL},
    {"native_threads", native_threads_now, METH_NOARGS, NULL},
    {"libraries_of_thread", libraries_of_thread, METH_O, NULL},
    {"set_semaphore", set_semaphore, METH_O, NULL},
    {"add_foreign", add_foreign, METH_VARARGS, NULL},
    {"drop_foreign", drop_foreign, METH_O, NULL},
    {"set_exempt", set_exempt, METH_O, NULL},
    {"set_judged", set_judged, METH_O, NULL},
    {"last_clean", last_clean, METH_NOARGS, NULL},
    {"enter_warnings", enter_warnings, METH_NOARGS, NULL},
    {"leave_warnings", leave_warnings, METH_NOARGS, NULL},
    {"probe_buffered", probe_buffered, METH_O, NULL},
    {"expression", expression, METH_VARARGS, NULL},
    {"child_callbacks", child_callbacks, METH_NOARGS, NULL},
    {"code_units", code_units, METH_O, NULL},
    {"forks", forks, METH_VARARGS, NULL},
    {"unseen", unseen_threads, METH_NOARGS, NULL},
    {"follow_exec", follow_exec, METH_O, NULL},
    {"watch_connections", watch_connections, METH_VARARGS, NULL},
    {"inherited_connections", inherited_connections, METH_NOARGS, NULL},
    {"watch_buffers", watch_buffers, METH_VARARGS, NULL},
    {"buffer_state", buffer_state, METH_O, NULL},
    {"lead_exit", lead_exit, METH_NOARGS, NULL},
    {"count_writer", count_writer, METH_VARARGS, NULL},
    {"environment", environment, METH_NOARGS, NULL},
    {"name_reader", name_reader, METH_VARARGS, NULL},
    {"fail_at", fail_at, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

#if PY_AT_LEAST(3, 12)
/* The C function behind a built-in function of a module that takes no arguments. */
static PyCFunction without_arguments(PyObject *module, const char *name)
{
    PyObject *function = PyObject_GetAttrString(module, name);
    PyCFunction found = NULL;
    if (function != NULL && PyCFunction_Check(function) && PyCFunction_GET_FLAGS(function) == METH_NOARGS) {
        found = PyCFunction_GET_FUNCTION(function);
    }
    else if (function != NULL) {
        PyErr_Format(PyExc_ImportError, "_imp.%s is not the interpreter's own", name);
    }
    Py_XDECREF(function);
    return found;
}
#endif

/* CPython's warning, at each fork beside threads, asks for the method: to count that would be to write to its page. */
static void count_no_references(PyTypeObject *type, const char *method)
{
#if PY_AT_LEAST(3, 12) && !defined(Py_GIL_DISABLED)
    PyObject *descriptor = PyDict_GetItemString(type->tp_dict, method);
    if (descriptor != NULL) {
        Py_SET_REFCNT(descriptor, Py_REFCNT(Py_None)); /* immortal, as that is */
    }
#else
    (void)type;
    (void)method;
#endif
}

int guard_init(PyObject *module)
{
    static int registered;
    PyObject *type = PyType_FromSpec(&fork_warning);
    if (type != NULL) {
        count_no_references((PyTypeObject *)type, "match");
    }
    int added = type == NULL ? -1 : PyModule_AddObjectRef(module, "ForkWarning", type);
    Py_XDECREF(type);
    if (added < 0) {
        return -1;
    }
    PyObject *imp = PyImport_ImportModule("_imp");
    if (imp == NULL) {
        return -1;
    }
    g.imp = imp;
    g.modules = Py_XNewRef(PySys_GetObject("modules"));
#if PY_AT_LEAST(3, 12)
    g.acquire_import_lock = without_arguments(imp, "acquire_lock");
    g.release_import_lock = without_arguments(imp, "release_lock");
    if (g.acquire_import_lock == NULL || g.release_import_lock == NULL) {
        return -1;
    }
#endif
    if (g.modules == NULL || !PyDict_CheckExact(g.modules)) {
        PyErr_SetString(PyExc_ImportError, "sys.modules is not a dict");
        return -1;
    }
    if (g.before_hook == NULL) {
        place_this_fork();
        if (PyType_Ready(&hook_type) < 0) {
            return -1;
        }
        memcpy(this_fork->hooks, new_hooks, sizeof(new_hooks));
        PyObject **names[] = {&g.before_hook, &g.parent_hook, &g.child_first_hook, &g.child_last_hook};
        for (size_t i = 0; i < Py_ARRAY_LENGTH(names); i++) {
            *names[i] = (PyObject *)&this_fork->hooks[i];
        }
    }
    g.random = (uint32_t)(monotonic() * 1e9) | 1;
    g.look.waiters = g.first_waiters;
    g.look.room_waiters = (int)Py_ARRAY_LENGTH(g.first_waiters);
    g.look.lent = 1;
    static AtWork at_work[256];
    g.look.at_work = at_work;
    g.look.room_at_work = (int)Py_ARRAY_LENGTH(at_work);
    if (!registered) {
        registered = 1;
        if (pthread_atfork(NULL, in_parent, in_child) != 0) {
            PyErr_SetString(PyExc_ImportError, "pthread_atfork failed");
            return -1;
        }
    }
    return 0;
}

#endif
