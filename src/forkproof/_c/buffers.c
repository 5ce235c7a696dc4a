/* What files had in their buffers when the process forked: if the child writes it too, it is there twice.
 *
 * A file of `io` does not say how much it has yet to write, so three of its words are read: where in a buffered file the data
 * begins and ends, how far the raw file has come (every write moves it, a pipe's too), and how many bytes its text layer has not
 * handed down. Where these words lie is learnt by writing to files of our own; a layout in which they are not found, each in one
 * place, is not used.
 *
 * Which files there are nobody knows without a search of the heap. Looked at are the standard streams, and what the forking
 * thread's frames have in their variables, globals and attributes of `self`; in both processes, after the fork.
 *
 * A MemoryHandler of logging keeps records instead of bytes; logging has a list of its handlers. Python is asked about those only where
 * one has a record, and nothing is imported or called to know that.
 *
 * Who has written what was there at a fork is counted in memory that the processes share, by a key which both can make: so
 * the last of them knows that another was first, whichever it is, and says so only if that really was.
 */
#include "buffers.h"
#include "code.h"
#include "connections.h"
#include "look.h"
#include <sys/mman.h>
#include <unistd.h>

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

#define SLOTS 1024      /* of files at forks that are told apart; what is more is not told */
#define MOST_FRAMES 64
#define MOST_GLOBALS 2000
#define MOST_HANDLERS 1000

typedef struct {
    uint64_t key;       /* 0: free */
    uint32_t writers;
    uint8_t doubtful, told;
} Slot;

static Slot *slots;
static PyObject *callback, *leaving;
static long known;      /* files of which Python goes on to know */
static pid_t me;
static PyTypeObject *text_type, *buffered_types[2];
static struct {
    Py_ssize_t begin, end, position; /* of a buffered file */
    Py_ssize_t buffer, pending;      /* of a text file */
} at;

static intptr_t word(PyObject *object, Py_ssize_t offset)
{
    return *(intptr_t *)((char *)object + offset);
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The layout
 */

#define MOST_WORDS 64

typedef struct {
    intptr_t words[MOST_WORDS];
} Snapshot;

static int words_of(PyObject *object)
{
    return (int)Py_MIN(Py_TYPE(object)->tp_basicsize / (Py_ssize_t)sizeof(intptr_t), MOST_WORDS);
}

static Snapshot snapshot(PyObject *object)
{
    Snapshot s = {{0}};
    memcpy(s.words, object, (size_t)words_of(object) * sizeof(intptr_t));
    return s;
}

/* Writes `n` characters, looks, flushes and looks again. */
static int try_writing(PyObject *file, const char *characters, int as_text, Snapshot *full, Snapshot *flushed)
{
    PyObject *answer = PyObject_CallMethod(file, "write", as_text ? "s" : "y", characters);
    if (answer == NULL) {
        return -1;
    }
    Py_DECREF(answer);
    *full = snapshot(file);
    answer = PyObject_CallMethod(file, "flush", NULL);
    *flushed = snapshot(file);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

/* Takes note of the one place that fits; of none or of several there is nothing to learn. */
static int one_place(Py_ssize_t *place, int found, int i)
{
    *place = (Py_ssize_t)i * (Py_ssize_t)sizeof(intptr_t);
    return found + 1;
}

static int learn(PyObject *buffered, PyObject *text)
{
    Snapshot full[2], flushed[2];
    int pairs = 0, positions = 0, buffers = 0, pendings = 0;
    if (try_writing(buffered, "12345", 0, &full[0], &flushed[0]) < 0 ||
        try_writing(buffered, "123", 0, &full[1], &flushed[1]) < 0) {
        return -1;
    }
    for (int i = 1; i + 1 < words_of(buffered); i++) {
        const intptr_t *f0 = &full[0].words[i], *f1 = &full[1].words[i];
        if (f0[0] == 0 && f0[1] == 5 && f1[0] == 0 && f1[1] == 3 && flushed[0].words[i + 1] == -1) {
            pairs = one_place(&at.begin, pairs, i);
            at.end = at.begin + (Py_ssize_t)sizeof(intptr_t);
        }
        intptr_t before = *f0;
        if (flushed[0].words[i] == before + 5 && *f1 == before + 5 && flushed[1].words[i] == before + 8) {
            positions = one_place(&at.position, positions, i);
        }
    }
    if (try_writing(text, "1234567", 1, &full[0], &flushed[0]) < 0 ||
        try_writing(text, "12345678901", 1, &full[1], &flushed[1]) < 0) {
        return -1;
    }
    for (int i = 1; i < words_of(text); i++) {
        if (full[0].words[i] == (intptr_t)buffered) {
            buffers = one_place(&at.buffer, buffers, i);
        }
        if (full[0].words[i] == 7 && full[1].words[i] == 11 && flushed[0].words[i] == 0 && flushed[1].words[i] == 0) {
            pendings = one_place(&at.pending, pendings, i);
        }
    }
    return pairs == 1 && positions == 1 && buffers == 1 && pendings == 1;
}

static int learn_types(void)
{
    PyObject *io = PyImport_ImportModule("_io");
    static const char *const names[] = {"BufferedWriter", "BufferedRandom"};
    for (size_t i = 0; io != NULL && i < Py_ARRAY_LENGTH(names); i++) {
        Py_XSETREF(buffered_types[i], (PyTypeObject *)PyObject_GetAttrString(io, names[i]));
    }
    Py_XSETREF(text_type, io == NULL ? NULL : (PyTypeObject *)PyObject_GetAttrString(io, "TextIOWrapper"));
    Py_XDECREF(io);
    if (text_type == NULL || buffered_types[0] == NULL || buffered_types[1] == NULL) {
        return -1;
    }
    return buffered_types[0]->tp_basicsize == buffered_types[1]->tp_basicsize;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * What a file has yet to write
 */

typedef struct {
    PyObject *buffered; /* borrowed; NULL: it is no file that can be looked at */
    intptr_t bytes, position;
} Pending;

static Pending state_of(PyObject *file)
{
    Pending s = {NULL, 0, 0};
    PyObject *buffered = file;
    if (Py_IS_TYPE(file, text_type)) {
        buffered = (PyObject *)word(file, at.buffer);
        s.bytes = word(file, at.pending);
    }
    if (buffered == NULL || !(Py_IS_TYPE(buffered, buffered_types[0]) || Py_IS_TYPE(buffered, buffered_types[1]))) {
        return s;
    }
    intptr_t begin = word(buffered, at.begin), end = word(buffered, at.end);
    s.bytes += end > begin && begin >= 0 ? end - begin : 0;
    s.position = word(buffered, at.position);
    s.buffered = buffered;
    return s;
}

static int add_if_unflushed(PyObject *list, PyObject *object)
{
    if (object == NULL || !(Py_IS_TYPE(object, text_type) || Py_IS_TYPE(object, buffered_types[0]) ||
                            Py_IS_TYPE(object, buffered_types[1]))) {
        return 0;
    }
    Pending s = state_of(object);
    return s.buffered != NULL && s.bytes > 0 ? PyList_Append(list, object) : 0;
}

static int add_of_frame(PyObject *list, Frame *frame, PyCodeObject *code, int globals_too)
{
    for (int i = 0; i < code->co_nlocalsplus; i++) {
        PyObject *value = frame_local(frame, i);
        if (value != NULL && PyCell_Check(value)) {
            value = PyCell_GET(value);
        }
        if (add_if_unflushed(list, value) < 0) {
            return -1;
        }
        for (Py_ssize_t k = 0; i == 0 && value != NULL && k < PyTuple_GET_SIZE(code->co_names); k++) {
            if (add_if_unflushed(list, plain_attribute(value, PyTuple_GET_ITEM(code->co_names, k))) < 0) {
                return -1;
            }
        }
    }
    PyObject *globals = frame_globals(frame), *key, *value;
    Py_ssize_t position = 0;
    if (!globals_too || globals == NULL || !PyDict_CheckExact(globals) || PyDict_GET_SIZE(globals) > MOST_GLOBALS) {
        return 0;
    }
    while (PyDict_Next(globals, &position, &key, &value)) {
        if (add_if_unflushed(list, value) < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *unflushed(PyThreadState *ts)
{
    static const char *const streams[] = {"stdout", "stderr", "__stdout__", "__stderr__"};
    PyObject *list = PyList_New(0), *globals = NULL;
    int through_c, failed = list == NULL;
    for (size_t i = 0; !failed && i < Py_ARRAY_LENGTH(streams); i++) {
        failed = add_if_unflushed(list, PySys_GetObject(streams[i])) < 0;
    }
    Frame *f = thread_top(ts);
    for (int n = 0; !failed && f != NULL && n < MOST_FRAMES; f = frame_outer(f, &through_c), n++) {
        PyCodeObject *code = frame_is_shim(f) ? NULL : frame_code(f);
        if (code != NULL) {
            failed = add_of_frame(list, f, code, frame_globals(f) != globals) < 0;
            globals = frame_globals(f);
        }
    }
    if (failed) {
        PyErr_Clear();
        Py_CLEAR(list);
    }
    return list;
}

static int handlers_keep_records(void)
{
    static PyObject *buffer_name, *logging, *logging_handlers, *kind_name, *list_name;
    if (buffer_name == NULL) {
        logging = PyUnicode_InternFromString("logging");
        logging_handlers = PyUnicode_InternFromString("logging.handlers");
        kind_name = PyUnicode_InternFromString("MemoryHandler");
        list_name = PyUnicode_InternFromString("_handlerList");
        buffer_name = PyUnicode_InternFromString("buffer");
    }
    PyObject *kind = module_variable(logging_handlers, kind_name);
    PyObject *handlers = kind == NULL || !PyType_Check(kind) ? NULL : module_variable(logging, list_name);
    int keep = 0;
    for (Py_ssize_t i = 0; handlers != NULL && PyList_CheckExact(handlers) && !keep &&
                           i < Py_MIN(PyList_GET_SIZE(handlers), MOST_HANDLERS); i++) {
        PyObject *reference = PyList_GET_ITEM(handlers, i);
        PyObject *handler = PyWeakref_CheckRef(reference) ? referent(reference) : NULL;
        PyObject *buffer = handler != NULL && PyObject_TypeCheck(handler, (PyTypeObject *)kind)
                               ? plain_attribute(handler, buffer_name)
                               : NULL;
        keep = buffer != NULL && PyList_CheckExact(buffer) && PyList_GET_SIZE(buffer) > 0;
    }
    PyErr_Clear();
    return keep;
}

PyObject *buffers_at_fork(unsigned long fork, int in_child)
{
    long origin = (long)me;
    if (callback == NULL) {
        return NULL;
    }
    me = getpid();
    PyObject *list = unflushed(PyThreadState_Get());
    if (list == NULL || (PyList_GET_SIZE(list) == 0 && known == 0 && !handlers_keep_records())) {
        Py_XDECREF(list);
        return NULL;
    }
    PyObject *argument = Py_BuildValue("(lkNO)", origin, fork, list, in_child ? Py_True : Py_False);
    if (argument == NULL) {
        PyErr_Clear();
    }
    return argument;
}

PyObject *buffers_callback(void)
{
    return callback;
}

/* os._exit(), which flushes nothing and runs nothing: what the child has written by then is known. */
static void at_exit_call(void)
{
    if (known == 0 || leaving == NULL || getpid() != me || !PyGILState_Check()) {
        return;
    }
    PyErr_Clear();
    PyThreadState_EnterTracing(PyThreadState_Get());
    PyObject *answer = PyObject_CallNoArgs(leaving);
    if (answer == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(answer);
    PyThreadState_LeaveTracing(PyThreadState_Get());
}

void buffers_answer(PyObject *answer)
{
    known = answer == NULL ? 0 : PyLong_AsLong(answer);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        known = 0;
    }
}

int buffers_watched(void)
{
    return callback != NULL;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * For Python
 */

PyObject *watch_buffers(PyObject *module, PyObject *args)
{
    PyObject *function, *at_leaving, *buffered, *text;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOOO", &function, &at_leaving, &buffered, &text)) {
        return NULL;
    }
    Py_CLEAR(callback);
    Py_CLEAR(leaving);
    known = 0;
    if (function == Py_None) {
        Py_RETURN_FALSE;
    }
    int learnt = learn_types();
    if (learnt > 0) {
        learnt = learn(buffered, text);
    }
    if (learnt <= 0) {
        return learnt < 0 ? NULL : Py_NewRef(Py_False);
    }
    if (slots == NULL) {
        void *memory = mmap(NULL, SLOTS * sizeof(Slot), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            Py_RETURN_FALSE;
        }
        slots = memory;
    }
    me = getpid();
    callback = Py_NewRef(function);
    leaving = Py_NewRef(at_leaving);
    Py_RETURN_TRUE;
}

PyObject *buffer_state(PyObject *module, PyObject *file)
{
    (void)module;
    Pending s = text_type == NULL ? (Pending){NULL, 0, 0} : state_of(file);
    if (s.buffered == NULL) {
        Py_RETURN_NONE;
    }
    return Py_BuildValue("(Onn)", s.buffered, (Py_ssize_t)s.bytes, (Py_ssize_t)s.position);
}

PyObject *lead_exit(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    connections_at_exit(at_exit_call);
    Py_RETURN_NONE;
}

PyObject *count_writer(PyObject *module, PyObject *args)
{
    unsigned long long key;
    int sure;
    (void)module;
    if (!PyArg_ParseTuple(args, "Kp", &key, &sure)) {
        return NULL;
    }
    key = key ? key : 1;
    for (unsigned i = 0; slots != NULL && i < SLOTS; i++) {
        Slot *s = &slots[(key + i) % SLOTS];
        uint64_t there = 0;
        if (!__atomic_compare_exchange_n(&s->key, &there, key, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST) && there != key) {
            continue;
        }
        if (!sure) {
            __atomic_store_n(&s->doubtful, 1, __ATOMIC_SEQ_CST);
        }
        uint32_t writers = __atomic_add_fetch(&s->writers, 1, __ATOMIC_SEQ_CST);
        int news = writers > 1 && !__atomic_exchange_n(&s->told, 1, __ATOMIC_SEQ_CST);
        return Py_BuildValue("(kNN)", (unsigned long)writers,
                             PyBool_FromLong(!__atomic_load_n(&s->doubtful, __ATOMIC_SEQ_CST)), PyBool_FromLong(news));
    }
    return Py_BuildValue("(kOO)", 0UL, Py_False, Py_False);
}

#endif
