/* The lines in the events file of a fork of which there is nothing to tell but that it was: the parent's and the child's.
 *
 * After a fork whoever writes first to a page copies it, and Python code writes to many, if only by counting references: making
 * these lines in Python costs the parent some 150 pages and the child 100, each a few microseconds. Here a line is put together
 * on the stack, from what is only read.
 *
 * Guarantees: a line is the very one that forkproof/_events.py would have written. Whatever is not plain (names that are not
 * ASCII, or would need escapes; a descriptor that is another file by now) is left to Python; so is everything after half a line.
 */
#include "lines.h"
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

#define LONGEST 2048

static struct {
    int fd;
    unsigned long long device, inode;
    PyObject *tail, *tear, *passed;
} file = {.fd = -1};

PyObject *set_lines(PyObject *module, PyObject *argument)
{
    (void)module;
    int fd = -1;
    unsigned long long device = 0, inode = 0;
    PyObject *tail = NULL, *tear = NULL, *passed = NULL;
    if (argument != Py_None &&
        !PyArg_ParseTuple(argument, "iKKSOO!", &fd, &device, &inode, &tail, &tear, &PyTuple_Type, &passed)) {
        return NULL;
    }
    file.fd = fd;
    file.device = device;
    file.inode = inode;
    Py_XSETREF(file.tail, Py_XNewRef(tail));
    Py_XSETREF(file.tear, Py_XNewRef(tear));
    Py_XSETREF(file.passed, Py_XNewRef(passed));
    Py_RETURN_NONE;
}

/* The library's own functions take a lock for this (the time zone's), which a vanished thread may have had. */
static void date_of(time_t seconds, int *year, int *month, int *day)
{
    /* Days to a date of the Gregorian calendar, in eras of 400 years that begin on 1 March (H. Hinnant, "chrono-Compatible
     * Low-Level Date Algorithms", civil_from_days). */
    long days = (long)(seconds / 86400) + 719468;
    long era = days / 146097, of_era = days - era * 146097;
    long years = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    long of_year = of_era - (365 * years + years / 4 - years / 100), march = (5 * of_year + 2) / 153;
    *day = (int)(of_year - (153 * march + 2) / 5 + 1);
    *month = (int)(march < 10 ? march + 3 : march - 9);
    *year = (int)(years + era * 400 + (*month <= 2));
}

static int begin(char *line, const char *event)
{
    struct timespec now;
    int year, month, day;
    clock_gettime(CLOCK_REALTIME, &now);
    date_of(now.tv_sec, &year, &month, &day);
    int second = (int)(now.tv_sec % 86400);
    return snprintf(line, LONGEST, "{\"v\":1,\"event\":\"%s\",\"time\":\"%04d-%02d-%02dT%02d:%02d:%02d.%06ldZ\",\"pid\":%ld", event,
                    year, month, day, second / 3600, second / 60 % 60, second % 60, now.tv_nsec / 1000, (long)getpid());
}

/* -> the text of a name that stands in JSON as it is, else NULL. */
static const char *plain(PyObject *name)
{
    if (name == NULL || !PyUnicode_Check(name) || !PyUnicode_IS_COMPACT_ASCII(name)) {
        return NULL;
    }
    const char *text = (const char *)PyUnicode_1BYTE_DATA(name);
    for (const char *c = text; c < text + PyUnicode_GET_LENGTH(name); c++) {
        if (*c < ' ' || *c == '"' || *c == '\\' || *c == 127) {
            return NULL;
        }
    }
    return text;
}

/* As `_outside` of guard.py has it. */
static int is_passed(Frame *frame)
{
    static PyObject *key;
    if (key == NULL && (key = PyUnicode_InternFromString("__name__")) == NULL) {
        PyErr_Clear();
        return 0;
    }
    PyObject *globals = frame_globals(frame);
    PyObject *name = globals == NULL || !PyDict_CheckExact(globals) ? NULL : PyDict_GetItemWithError(globals, key);
    const char *text = plain(name);
    PyErr_Clear();
    for (Py_ssize_t i = 0; text != NULL && i < PyTuple_GET_SIZE(file.passed); i++) {
        const char *package = plain(PyTuple_GET_ITEM(file.passed, i));
        size_t n = package == NULL ? 0 : strlen(package);
        if (n && strncmp(text, package, n) == 0 && (text[n] == '\0' || text[n] == '.')) {
            return 1;
        }
    }
    return 0;
}

/* -> the frame that asked for the fork, with its code; NULL where there is none. */
static Frame *asking(PyCodeObject **code)
{
    Frame *found = NULL, *frame = thread_top(PyThreadState_Get());
    int through_c;
    while (frame != NULL && frame_is_shim(frame)) {
        frame = frame->previous;
    }
    for (; frame != NULL; frame = frame_outer(frame, &through_c)) {
        PyCodeObject *its = frame_code(frame);
        if (its == NULL) {
            continue;
        }
        found = frame;
        *code = its;
        if (!is_passed(frame)) {
            break;
        }
    }
    return found;
}

static int is_still_ours(void)
{
    struct stat status;
    return file.fd >= 0 && fstat(file.fd, &status) == 0 && (unsigned long long)status.st_dev == file.device &&
           (unsigned long long)status.st_ino == file.inode;
}

static int write_line(const char *line, size_t size)
{
    ssize_t written;
    int fd = file.fd;
    Py_BEGIN_ALLOW_THREADS
    do {
        written = write(fd, line, size);
    } while (written < 0 && errno == EINTR);
    Py_END_ALLOW_THREADS
    if (written <= 0) {
        return 0;
    }
    if ((size_t)written < size) {
        file.fd = -1;
        PyObject *answer = file.tear == NULL ? NULL : PyObject_CallNoArgs(file.tear);
        PyErr_Clear();
        Py_XDECREF(answer);
    }
    return 1;
}

int tell_fork(unsigned long fork, int polls)
{
    PyCodeObject *code = NULL;
    Frame *frame = file.fd < 0 || !is_still_ours() ? NULL : asking(&code);
    if (frame == NULL) {
        return 0;
    }
    const char *path = plain(code->co_filename), *function = plain(code->co_name);
    int at = PyCode_Addr2Line(code, frame_unit(frame, code) * (int)sizeof(_Py_CODEUNIT));
    if (path == NULL || function == NULL || at < 0) {
        return 0;
    }
    char line[LONGEST];
    int n = begin(line, "fork");
    n += snprintf(line + n, sizeof(line) - (size_t)n,
                  ",\"child\":null,\"fork\":%lu,\"risk\":\"none\",\"where\":{\"file\":\"%s\",\"line\":%d,\"function\":\"%s\"},"
                  "\"waited_ms\":0.0,\"polls\":%d,\"repaired\":[],\"hazards\":[],%s",
                  fork, path, at, function, polls, PyBytes_AS_STRING(file.tail));
    return n < (int)sizeof(line) && write_line(line, (size_t)n);
}

int tell_born(unsigned long fork)
{
    if (file.fd < 0 || !is_still_ours()) {
        return 0;
    }
    char line[LONGEST];
    int n = begin(line, "born");
    n += snprintf(line + n, sizeof(line) - (size_t)n, ",\"parent\":%ld,\"fork\":%lu}\n", (long)getppid(), fork);
    return write_line(line, (size_t)n);
}

#endif
