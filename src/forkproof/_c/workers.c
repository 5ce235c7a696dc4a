/* Threads that others rely on: what they run says it, so a catalogued function is looked for once in each code object and
 * an idle look costs one test a frame.
 *
 * The outermost catalogued frame of a thread says what the thread is for: a library's own loop, not the queue that it stands
 * in. What is found is told once for each sort; a child keeps what vanished workers had in their variables (a queue, a weak
 * reference to an executor, the job at hand) until Python has seen to it.
 */
#include "workers.h"
#include "look.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

#define MAX_ENTRIES 256
#define MAX_KEPT 256
#define MAX_LOCALS 12 /* of a frame's variables, the first: its parameters, and the job at hand */

static PyObject *table; /* dict, see workers.h */
static uint8_t told[MAX_ENTRIES], each_user[MAX_ENTRIES];

static struct {
    int entry, n;
    unsigned long ident, native_id;
    PyCodeObject *code;            /* strong */
    PyObject *called_on;           /* strong, see AtWork */
    PyObject *locals[MAX_LOCALS];  /* strong, NULL where unbound */
} kept[MAX_KEPT];
static int n_kept;

static int is_file(PyObject *filename, PyObject *module)
{
    const char *file = PyUnicode_AsUTF8(filename), *end = PyUnicode_AsUTF8(module);
    if (file == NULL || end == NULL) {
        PyErr_Clear();
        return 0;
    }
    size_t size = strlen(file), length = strlen(end);
    static const char *const forms[] = {".py", "/__init__.py"};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(forms); i++) {
        size_t more = strlen(forms[i]);
        if (size > length + more && file[size - more - length - 1] == '/' &&
            memcmp(file + size - more - length, end, length) == 0 && strcmp(file + size - more, forms[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

int worker_of(PyCodeObject *code)
{
    PyObject *known = table == NULL ? NULL : PyDict_GetItemWithError(table, code->co_qualname);
    for (Py_ssize_t i = 0; known != NULL && i < PyTuple_GET_SIZE(known); i++) {
        PyObject *item = PyTuple_GET_ITEM(known, i);
        if (is_file(code->co_filename, PyTuple_GET_ITEM(item, 0))) {
            return 1 + (int)PyLong_AsLong(PyTuple_GET_ITEM(item, 1));
        }
    }
    PyErr_Clear();
    return 0;
}

/* Whose code has the thread work so: told of for each of them where the catalogued function says too little by itself. */
static CodeInfo *user_of(const AtWork *at)
{
    int through_c;
    Frame *frame = at->called_on != NULL ? at->frame : frame_outer(at->frame, &through_c);
    PyCodeObject *code = frame == NULL ? NULL : frame_code(frame);
    return code == NULL ? NULL : (CodeInfo *)code_info(code);
}

int worker_is_news(const AtWork *at)
{
    if (!each_user[at->entry]) {
        return !told[at->entry];
    }
    const CodeInfo *user = user_of(at);
    return user != NULL && !user->told;
}

static void tell(const AtWork *at)
{
    told[at->entry] = 1;
    CodeInfo *user = each_user[at->entry] ? user_of(at) : NULL;
    if (user != NULL && user->code != NULL) {
        user->told = 1;
    }
}

/* What others rely on the thread for; no frame where they do not. */
static AtWork work_of(PyThreadState *thread)
{
    static Look l;
    AtWork at = {thread, NULL, 0, NULL};
    l.n = l.n_waiters = l.workers = l.news = 0;
    l.at_work = &at;
    l.room_at_work = 1;
    look_at(&l, thread);
    return at;
}

/* The variables of a frame by name, cells opened. */
static PyObject *named(PyCodeObject *code, PyObject *const *locals, int n)
{
    PyObject *result = PyDict_New();
    for (int i = 0; result != NULL && i < n; i++) {
        PyObject *value = locals[i];
        if (value != NULL && PyCell_Check(value)) {
            value = PyCell_GET(value);
        }
        if (value != NULL && PyDict_SetItem(result, PyTuple_GET_ITEM(code->co_localsplusnames, i), value) < 0) {
            Py_CLEAR(result);
        }
    }
    return result;
}

static int read_locals(Frame *frame, PyCodeObject *code, PyObject **locals)
{
    int n = Py_MIN(code->co_nlocalsplus, MAX_LOCALS);
    for (int i = 0; i < n; i++) {
        locals[i] = frame_local(frame, i);
    }
    return n;
}

/* What the catalogue's paths begin with: the variables of the function, or `self` of the method. */
static PyObject *variables_at(const AtWork *at, PyCodeObject *code)
{
    PyObject *first[MAX_LOCALS];
    return at->called_on != NULL ? Py_BuildValue("{sO}", "self", at->called_on)
                                 : named(code, first, read_locals(at->frame, code, first));
}

PyObject *list_of_workers(PyThreadState *self, int all)
{
    PyObject *list = PyList_New(0);
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(self));
    AtWork newly[MAX_KEPT];
    int n_newly = 0;
    for (; list != NULL && ts != NULL; ts = PyThreadState_Next(ts)) {
        AtWork at = {ts, NULL, 0, NULL};
        if (ts != self) {
            at = work_of(ts);
        }
        PyCodeObject *code = at.frame == NULL ? NULL : frame_code(at.frame);
        if (code == NULL || (!all && (n_newly == MAX_KEPT || !worker_is_news(&at)))) {
            continue;
        }
        int unit = frame_unit(at.frame, code);
        PyObject *stack = stack_of(ts), *variables = variables_at(&at, code);
        PyObject *item = stack == NULL || variables == NULL
                             ? NULL
                             : Py_BuildValue("(ikkOiOO)", at.entry, (unsigned long)ts->thread_id,
                                             (unsigned long)ts->native_thread_id, code, unit < 0 ? 0 : unit * 2,
                                             variables, stack);
        Py_XDECREF(stack);
        Py_XDECREF(variables);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
        if (!all) {
            newly[n_newly++] = at;
        }
    }
    for (int i = 0; i < n_newly; i++) {
        tell(&newly[i]); /* only now: several threads of one sort are told of together */
    }
    return list;
}

void keep_workers(const Look *l)
{
    for (int i = 0; i < Py_MIN(l->workers, l->room_at_work) && n_kept < MAX_KEPT; i++) {
        const AtWork *at = &l->at_work[i];
        PyCodeObject *code = frame_code(at->frame);
        if (code == NULL) {
            continue;
        }
        kept[n_kept].entry = at->entry;
        kept[n_kept].ident = (unsigned long)at->thread->thread_id;
        kept[n_kept].native_id = (unsigned long)at->thread->native_thread_id;
        kept[n_kept].code = (PyCodeObject *)Py_NewRef(code);
        kept[n_kept].called_on = Py_XNewRef(at->called_on);
        kept[n_kept].n = at->called_on != NULL ? 0 : read_locals(at->frame, code, kept[n_kept].locals);
        for (int k = 0; k < kept[n_kept].n; k++) {
            Py_XINCREF(kept[n_kept].locals[k]);
        }
        n_kept++;
    }
}

PyObject *kept_workers(void)
{
    PyObject *list = PyList_New(0);
    while (n_kept) {
        n_kept--;
        PyObject *locals = kept[n_kept].called_on != NULL ? Py_BuildValue("{sO}", "self", kept[n_kept].called_on)
                                                          : named(kept[n_kept].code, kept[n_kept].locals, kept[n_kept].n);
        PyObject *item = list == NULL || locals == NULL
                             ? NULL
                             : Py_BuildValue("(ikkO)", kept[n_kept].entry, kept[n_kept].ident, kept[n_kept].native_id,
                                             locals);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
        Py_XDECREF(locals);
        for (int i = 0; i < kept[n_kept].n; i++) {
            Py_XDECREF(kept[n_kept].locals[i]);
        }
        Py_CLEAR(kept[n_kept].called_on);
        Py_DECREF(kept[n_kept].code);
    }
    return list;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * What a thread's frames know, for the watch
 */

/* (thread, code) -> {variable: object} of the innermost frame of that thread that runs `code`; None where there is none. */
PyObject *variables_of(PyObject *module, PyObject *args)
{
    unsigned long long id;
    PyCodeObject *code;
    int through_c;
    (void)module;
    if (!PyArg_ParseTuple(args, "KO!", &id, &PyCode_Type, &code)) {
        return NULL;
    }
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    while (ts != NULL && ts->id != id) {
        ts = PyThreadState_Next(ts);
    }
    for (Frame *f = ts == NULL ? NULL : thread_top(ts); f != NULL; f = frame_outer(f, &through_c)) {
        if (frame_is_shim(f) || frame_code(f) != code) {
            continue;
        }
        PyObject **locals = PyMem_New(PyObject *, (size_t)code->co_nlocalsplus + 1);
        if (locals == NULL) {
            return PyErr_NoMemory();
        }
        for (int i = 0; i < code->co_nlocalsplus; i++) {
            locals[i] = frame_local(f, i);
        }
        PyObject *result = named(code, locals, code->co_nlocalsplus);
        PyMem_Free(locals);
        return result;
    }
    Py_RETURN_NONE;
}

/* Whether `object` is `thing`, a method of it, or has it as an attribute that the code names. */
static int leads_to(PyObject *object, PyCodeObject *code, PyObject *thing)
{
    if (object == thing || object == NULL) {
        return object != NULL;
    }
    if ((PyMethod_Check(object) && PyMethod_GET_SELF(object) == thing) ||
        (PyCFunction_Check(object) && PyCFunction_GET_SELF(object) == thing)) {
        return 1;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(code->co_names); i++) {
        if (plain_attribute(object, PyTuple_GET_ITEM(code->co_names, i)) == thing) {
            return 1;
        }
    }
    return 0;
}

static int frame_knows(Frame *frame, PyCodeObject *code, PyObject *thing)
{
    for (int i = 0; i < code->co_nlocalsplus; i++) {
        PyObject *value = frame_local(frame, i);
        if (value != NULL && PyCell_Check(value)) {
            value = PyCell_GET(value);
        }
        if (leads_to(value, code, thing)) {
            return 1;
        }
    }
    PyObject *globals = frame_globals(frame);
    if (globals == NULL || !PyDict_CheckExact(globals)) {
        return 0;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(code->co_names); i++) {
        if (leads_to(PyDict_GetItemWithError(globals, PyTuple_GET_ITEM(code->co_names, i)), code, thing)) {
            return 1;
        }
    }
    return 0;
}

/* The threads, one of whose frames has `thing`, or a method of it, in a variable, in a global that its code names, or in an
 * attribute of one of these that its code names. Runs no Python code and keeps nothing. */
PyObject *users_of(PyObject *module, PyObject *thing)
{
    int through_c;
    (void)module;
    PyObject *list = PyList_New(0);
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    for (; list != NULL && ts != NULL; ts = PyThreadState_Next(ts)) {
        int knows = 0;
        for (Frame *f = thread_top(ts); f != NULL && !knows; f = frame_outer(f, &through_c)) {
            PyCodeObject *code = frame_is_shim(f) ? NULL : frame_code(f);
            knows = code != NULL && frame_knows(f, code, thing);
        }
        PyObject *id = knows ? PyLong_FromUnsignedLongLong(ts->id) : NULL;
        if (knows && (id == NULL || PyList_Append(list, id) < 0)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(id);
    }
    return list;
}

PyObject *set_workers(PyObject *module, PyObject *args)
{
    PyObject *fresh, *each;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!", &PyDict_Type, &fresh, &PyList_Type, &each)) {
        return NULL;
    }
    if (PyList_GET_SIZE(each) > MAX_ENTRIES) {
        PyErr_SetString(PyExc_ValueError, "too many workers");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(each); i++) {
        each_user[i] = PyList_GET_ITEM(each, i) == Py_True;
    }
    Py_XSETREF(table, Py_NewRef(fresh));
    Py_RETURN_NONE;
}

#endif
