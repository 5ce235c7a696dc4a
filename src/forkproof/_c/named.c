/* The process that may look at this one besides its ancestors, where Yama lets nobody else (prctl(PR_SET_PTRACER), Yama.rst).
 *
 * A process has it of itself only: a fork's child does not inherit it, so each names it again, first of all, in case it is to hang.
 * Guarantees: only a process that is still the one that was meant is named, not another that has come by its id; what the program
 * itself names later stands; async-signal-safe in the child.
 */
#include "named.h"
#include "task.h"
#include <pthread.h>

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

#ifdef __linux__
#include <sys/prctl.h>

static struct {
    long pid;
    unsigned long long started; /* in clock ticks after the machine's start */
    char stat[32];              /* the file of /proc that says when the process `pid` was */
} named;

static void name(void)
{
    char text[1024];
    if (read_file(named.stat, text, sizeof(text)) <= 0) {
        return;
    }
    /* proc(5): the second field, a name, may have anything in it, and ends with the last bracket; the start is the 22nd. */
    const char *field = strrchr(text, ')');
    for (int number = 2; field != NULL && number < 22; number++) {
        field = strchr(field + 1, ' ');
    }
    if (field != NULL && strtoull(field, NULL, 10) == named.started) {
        prctl(PR_SET_PTRACER, (unsigned long)named.pid, 0, 0, 0);
    }
}
#endif

PyObject *name_reader(PyObject *module, PyObject *args)
{
    (void)module;
    long pid;
    unsigned long long started;
    if (!PyArg_ParseTuple(args, "lK", &pid, &started)) {
        return NULL;
    }
#ifdef __linux__
    int first = named.pid == 0;
    named.pid = pid;
    named.started = started;
    snprintf(named.stat, sizeof(named.stat), "/proc/%ld/stat", pid);
    if (first && pthread_atfork(NULL, NULL, name) != 0) {
        PyErr_SetString(PyExc_OSError, "pthread_atfork failed");
        return NULL;
    }
    name();
#endif
    Py_RETURN_NONE;
}

#endif
