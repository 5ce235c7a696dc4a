/* A lock of the process around name resolution, as CPython had it where getaddrinfo() was thought not to be thread-safe.
 *
 * CPython let go of the GIL, took the lock, called getaddrinfo(), took the GIL back, and only then let go of the lock
 * (Modules/socketmodule.c up to 3.9: ACQUIRE_GETADDRINFO_LOCK and
 * RELEASE_GETADDRINFO_LOCK). So a thread that had its answer kept the lock until it could run, which it could not while
 * another thread was about to fork: that is why the child practically always found it taken. To be so, the lock has to
 * lie around the call as Python makes it, not around that of the C library: the functions and methods of `_socket` are
 * replaced by ones that take the lock and call what they replaced. Nothing is replaced until `install`.
 *
 * The lock is a plain mutex, so that with glibc its owner can be read from outside. It is taken where CPython took it, and
 * not for what CPython did before: the codec is imported, and an address is connected to, without it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>

static pthread_mutex_t netdb_lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local int depth; /* a finalizer or an audit hook may look a name up inside a look-up */

static int locking, tracing;
static struct timespec delay;

/* ---------------------------------------------------------------------------------------------------------------------
 * The two engineers' printf
 */

typedef struct {
    char text[160];
} Who;

/* With the GIL: who is asking, for lines that are written without it. */
static void say_who(Who *who)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    unsigned long ident = PyThread_get_thread_ident();
    const char *name = NULL;
    PyObject *modules = PyImport_GetModuleDict(); /* borrowed */
    PyObject *threading = modules ? PyDict_GetItemString(modules, "threading") : NULL;
    PyObject *active = threading ? PyObject_GetAttrString(threading, "_active") : NULL;
    PyObject *key = active && PyDict_Check(active) ? PyLong_FromUnsignedLong(ident) : NULL;
    PyObject *thread = key ? PyDict_GetItemWithError(active, key) : NULL;
    PyObject *text = thread ? PyObject_GetAttrString(thread, "_name") : NULL;
    if (text != NULL && PyUnicode_Check(text)) {
        name = PyUnicode_AsUTF8(text);
    }
    snprintf(who->text, sizeof who->text, "pid %ld, thread %lu (%.80s)", (long)getpid(),
             (unsigned long)PyThread_get_thread_native_id(), name ? name : "?");
    Py_XDECREF(text);
    Py_XDECREF(key);
    Py_XDECREF(active);
    PyErr_Restore(type, value, traceback);
}

static void say(const Who *who, const char *what)
{
    struct timespec now;
    struct tm parts;
    char line[256];
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &parts);
    int n = snprintf(line, sizeof line, "forkproof: %02d:%02d:%02d.%06ld %s: %s\n", parts.tm_hour, parts.tm_min,
                     parts.tm_sec, now.tv_nsec / 1000, who->text, what);
    if (n > 0 && write(STDERR_FILENO, line, (size_t)n) < 0) {
        return; /* nobody is there to read it */
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The lock
 */

static void enter(Who *who)
{
    if (depth++) {
        return;
    }
    if (tracing) {
        say_who(who);
        say(who, locking ? "getting lock" : "looking up");
    }
    if (locking) {
        /* CPython let go of the GIL first. To take a lock that is free before that closes a window of a few microseconds
         * in which the call has begun and the lock is not taken: a look-up that is seen at a fork has the lock. */
        if (pthread_mutex_trylock(&netdb_lock) != 0) {
            Py_BEGIN_ALLOW_THREADS
            pthread_mutex_lock(&netdb_lock);
            Py_END_ALLOW_THREADS
        }
        if (tracing) {
            say(who, "got lock");
        }
    }
}

static void leave(Who *who)
{
    if (--depth) {
        return;
    }
    if (locking) {
        if (delay.tv_sec || delay.tv_nsec) {
            Py_BEGIN_ALLOW_THREADS
            nanosleep(&delay, NULL);
            Py_END_ALLOW_THREADS
        }
        pthread_mutex_unlock(&netdb_lock); /* and the GIL is ours again */
    }
    if (tracing) {
        say(who, locking ? "released" : "looked up");
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The roads to a look-up
 */

enum { GETADDRINFO, GETHOSTBYNAME, GETHOSTBYNAME_EX, GETHOSTBYADDR, GETNAMEINFO, N_FUNCTIONS };
enum { CONNECT, CONNECT_EX, BIND, SENDTO, SENDMSG, N_METHODS };

static PyObject *functions[N_FUNCTIONS], *methods[N_METHODS]; /* what was replaced */

/* Let the host's codec be imported, as the call itself would do before it takes the lock; errors are the call's to raise. */
static void import_codec(PyObject *host, int always)
{
    if (host != NULL && PyUnicode_Check(host) && (always || !PyUnicode_IS_ASCII(host))) {
        PyObject *encoded = PyUnicode_AsEncodedString(host, "idna", NULL);
        Py_XDECREF(encoded);
        PyErr_Clear();
    }
}

static PyObject *host_of(PyObject *args, PyObject *keywords)
{
    if (PyTuple_GET_SIZE(args) > 0) {
        return PyTuple_GET_ITEM(args, 0);
    }
    return keywords ? PyDict_GetItemString(keywords, "host") : NULL;
}

/* Whether CPython's setipaddr() asks the resolver for a host: not for a numeric address of that family, nor for "<broadcast>". For
 * an empty one it does. */
static int is_asked_for(PyObject *host, long family)
{
    const char *text = PyUnicode_Check(host)   ? PyUnicode_AsUTF8(host)
                       : PyBytes_Check(host)     ? PyBytes_AS_STRING(host)
                       : PyByteArray_Check(host) ? PyByteArray_AS_STRING(host)
                                                 : NULL;
    unsigned char packed[sizeof(struct in6_addr)];
    if (text == NULL) {
        PyErr_Clear();
        return 0;
    }
    return strcmp(text, "<broadcast>") != 0 && inet_pton((int)family, text, packed) != 1;
}

static PyObject *look_up(int which, PyObject *args, PyObject *keywords)
{
    Who who;
    PyObject *host = host_of(args, keywords);
    if (which == GETHOSTBYNAME && host != NULL && !is_asked_for(host, AF_INET)) {
        return PyObject_Call(functions[which], args, keywords);
    }
    import_codec(host, which == GETADDRINFO);
    enter(&who);
    PyObject *result = PyObject_Call(functions[which], args, keywords);
    leave(&who);
    return result;
}

/* A new reference: the address with its host looked up under the lock, or the address itself where nothing is looked up. */
static PyObject *resolve(PyObject *self, PyObject *address)
{
    if (!PyTuple_Check(address) || PyTuple_GET_SIZE(address) < 2) {
        return Py_NewRef(address);
    }
    PyObject *host = PyTuple_GET_ITEM(address, 0), *resolved = NULL, *found = NULL;
    PyObject *family = PyObject_GetAttrString(self, "family");
    long af = family ? PyLong_AsLong(family) : -1;
    Py_XDECREF(family);
    if ((af != AF_INET && af != AF_INET6) || !is_asked_for(host, af)) {
        PyErr_Clear();
        return Py_NewRef(address);
    }
    /* As it is here, a name in ASCII needs no codec; getaddrinfo() of Python's own would have it imported. */
    PyObject *bytes = !PyUnicode_Check(host)     ? Py_NewRef(host)
                      : PyUnicode_IS_ASCII(host) ? PyUnicode_AsASCIIString(host)
                                                 : PyUnicode_AsEncodedString(host, "idna", NULL);
    PyObject *args = NULL;
    if (bytes != NULL && PyObject_Length(bytes) > 0) {
        args = Py_BuildValue("(NOl)", bytes, Py_None, af);
    }
    else if (bytes != NULL) { /* an empty host: any address of this machine */
        Py_DECREF(bytes);
        args = Py_BuildValue("(Osliii)", Py_None, "0", af, SOCK_DGRAM, 0, AI_PASSIVE);
    }
    if (args != NULL) {
        found = look_up(GETADDRINFO, args, NULL);
        Py_DECREF(args);
    }
    PyObject *first = found && PyList_Check(found) && PyList_GET_SIZE(found) ? PyList_GET_ITEM(found, 0) : NULL;
    PyObject *there = first && PyTuple_Check(first) ? PyTuple_GET_ITEM(first, PyTuple_GET_SIZE(first) - 1) : NULL;
    if (there != NULL && PyTuple_Check(there)) {
        resolved = PyTuple_New(PyTuple_GET_SIZE(address));
    }
    if (resolved != NULL) {
        PyTuple_SET_ITEM(resolved, 0, Py_NewRef(PyTuple_GET_ITEM(there, 0)));
        for (Py_ssize_t i = 1; i < PyTuple_GET_SIZE(address); i++) {
            PyTuple_SET_ITEM(resolved, i, Py_NewRef(PyTuple_GET_ITEM(address, i)));
        }
    }
    Py_XDECREF(found);
    if (resolved == NULL && !PyErr_Occurred()) {
        return Py_NewRef(address);
    }
    return resolved; /* NULL: the error is that of the look-up, as it would have been */
}

/* `at`: which argument is the address; -1 the last one. */
static PyObject *call_method(int which, PyObject *self, PyObject *args, Py_ssize_t at)
{
    Py_ssize_t n = PyTuple_GET_SIZE(args);
    at = at < 0 ? n - 1 : at;
    PyObject *all = PyTuple_New(n + 1);
    if (all == NULL) {
        return NULL;
    }
    PyTuple_SET_ITEM(all, 0, Py_NewRef(self));
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *argument = PyTuple_GET_ITEM(args, i);
        argument = i == at ? resolve(self, argument) : Py_NewRef(argument);
        if (argument == NULL) {
            Py_DECREF(all);
            return NULL;
        }
        PyTuple_SET_ITEM(all, i + 1, argument);
    }
    PyObject *result = PyObject_CallObject(methods[which], all);
    Py_DECREF(all);
    return result;
}

#define FUNCTION(name, which)                                                                                          \
    static PyObject *name(PyObject *module, PyObject *args, PyObject *keywords)                                        \
    {                                                                                                                  \
        return look_up(which, args, keywords);                                                                         \
    }

FUNCTION(emulated_getaddrinfo, GETADDRINFO)
FUNCTION(emulated_gethostbyname, GETHOSTBYNAME)
FUNCTION(emulated_gethostbyname_ex, GETHOSTBYNAME_EX)
FUNCTION(emulated_gethostbyaddr, GETHOSTBYADDR)
FUNCTION(emulated_getnameinfo, GETNAMEINFO)

#define METHOD(name, which, at)                                                                                        \
    static PyObject *name(PyObject *self, PyObject *args)                                                              \
    {                                                                                                                  \
        return call_method(which, self, args, at);                                                                     \
    }

METHOD(emulated_connect, CONNECT, -1)
METHOD(emulated_connect_ex, CONNECT_EX, -1)
METHOD(emulated_bind, BIND, -1)
METHOD(emulated_sendto, SENDTO, -1)
METHOD(emulated_sendmsg, SENDMSG, 3)

#define KEYWORDS (METH_VARARGS | METH_KEYWORDS)
#define AS_FUNCTION(name) {#name, (PyCFunction)(void (*)(void))emulated_##name, KEYWORDS, NULL}

static PyMethodDef function_definitions[N_FUNCTIONS] = {
    AS_FUNCTION(getaddrinfo), AS_FUNCTION(gethostbyname), AS_FUNCTION(gethostbyname_ex), AS_FUNCTION(gethostbyaddr),
    AS_FUNCTION(getnameinfo),
};

static PyMethodDef method_definitions[N_METHODS] = {
    {"connect", emulated_connect, METH_VARARGS, NULL},       {"connect_ex", emulated_connect_ex, METH_VARARGS, NULL},
    {"bind", emulated_bind, METH_VARARGS, NULL},             {"sendto", emulated_sendto, METH_VARARGS, NULL},
    {"sendmsg", emulated_sendmsg, METH_VARARGS, NULL},
};

/* ---------------------------------------------------------------------------------------------------------------------
 * Putting them in place
 */

/* Wherever a module got hold of it already: `from _socket import *`. */
static int replace_everywhere(PyObject *old, PyObject *new)
{
    PyObject *key, *module, *name, *value;
    Py_ssize_t at = 0, inside;
    PyObject *all = PyDict_Copy(PyImport_GetModuleDict());
    int status = all == NULL ? -1 : 0;
    while (status == 0 && PyDict_Next(all, &at, &key, &module)) {
        PyObject *dict = PyModule_Check(module) ? PyModule_GetDict(module) : NULL;
        inside = 0;
        while (dict != NULL && status == 0 && PyDict_Next(dict, &inside, &name, &value)) {
            if (value == old) {
                status = PyDict_SetItem(dict, name, new); /* the key is there: the dict does not grow */
            }
        }
    }
    Py_XDECREF(all);
    return status;
}

static int replace_function(PyObject *module, int which)
{
    PyMethodDef *definition = &function_definitions[which];
    PyObject *old = PyObject_GetAttrString(module, definition->ml_name);
    if (old == NULL) {
        PyErr_Clear(); /* a build without it */
        return 0;
    }
    PyObject *name = PyModule_GetNameObject(module);
    definition->ml_doc = PyCFunction_Check(old) ? ((PyCFunctionObject *)old)->m_ml->ml_doc : NULL;
    PyObject *new = name ? PyCFunction_NewEx(definition, module, name) : NULL;
    functions[which] = old;
    int status = new ? replace_everywhere(old, new) : -1;
    Py_XDECREF(name);
    Py_XDECREF(new);
    return status;
}

static int replace_method(PyTypeObject *type, PyObject *dict, int which)
{
    PyMethodDef *definition = &method_definitions[which];
    PyObject *old = PyDict_GetItemString(dict, definition->ml_name);
    if (old == NULL || !Py_IS_TYPE(old, &PyMethodDescr_Type)) {
        return 0;
    }
    definition->ml_doc = ((PyMethodDescrObject *)old)->d_method->ml_doc;
    PyObject *new = PyDescr_NewMethod(type, definition);
    if (new == NULL) {
        return -1;
    }
    methods[which] = Py_NewRef(old);
    int status = PyDict_SetItemString(dict, definition->ml_name, new);
    Py_DECREF(new);
    return status;
}

static PyObject *install(PyObject *self, PyObject *args)
{
    double seconds;
    if (!PyArg_ParseTuple(args, "pdp:install", &locking, &seconds, &tracing)) {
        return NULL;
    }
    delay = (struct timespec){(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    if (functions[GETADDRINFO] != NULL) {
        Py_RETURN_NONE;
    }
    PyObject *module = PyImport_ImportModule("_socket");
    PyObject *type = module ? PyObject_GetAttrString(module, "socket") : NULL;
    if (type == NULL) {
        Py_XDECREF(module);
        return NULL;
    }
    int status = 0;
    /* The type cannot be changed from Python. 3.11 makes it ready only when it is first used. */
    if (!PyType_HasFeature((PyTypeObject *)type, Py_TPFLAGS_READY)) {
        status = PyType_Ready((PyTypeObject *)type);
    }
#if PY_VERSION_HEX >= 0x030C0000
    PyObject *dict = PyType_GetDict((PyTypeObject *)type);
#else
    PyObject *dict = Py_XNewRef(((PyTypeObject *)type)->tp_dict);
#endif
    for (int i = 0; i < N_FUNCTIONS && status == 0; i++) {
        status = replace_function(module, i);
    }
    for (int i = 0; i < N_METHODS && status == 0; i++) {
        status = replace_method((PyTypeObject *)type, dict, i);
    }
    PyType_Modified((PyTypeObject *)type);
    Py_XDECREF(dict);
    Py_DECREF(type);
    Py_DECREF(module);
    if (status < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *address(PyObject *self, PyObject *unused)
{
    return PyLong_FromVoidPtr(&netdb_lock);
}

static PyMethodDef module_methods[] = {
    {"install", install, METH_VARARGS, NULL},
    {"address", address, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "forkproof.lab._emulate", .m_size = 0, .m_methods = module_methods, .m_slots = slots,
};

PyMODINIT_FUNC PyInit__emulate(void)
{
    return PyModuleDef_Init(&definition);
}
