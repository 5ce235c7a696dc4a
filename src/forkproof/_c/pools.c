/* Native threads: what Python does not know of, named by the libraries that their stacks lead into.
 *
 * A blocked thread's stack pointer is in /proc/self/task/ID/syscall. Words above it that point into the code of a mapped
 * library are, mostly, return addresses. Old ones may lie among them, so the innermost is what counts. Of a running thread
 * (OpenMP's spin for a while when they have nothing to do) the outermost frames are read, where it began: they stand.
 * Memory is read through /proc/self/mem: an address that has gone is an error of a read, not of the process. No signal, no
 * ptrace, nothing is written.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "pools.h"
#include "task.h"
#include "watchdog.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifdef __linux__
#include <link.h>
#endif

#ifdef __linux__
/* All threads of the process as the kernel counts them; 0 where /proc does not say. */
static int threads_by_proc(void)
{
    struct stat status;
    return stat("/proc/self/task", &status) == 0 && status.st_nlink > 2 ? (int)status.st_nlink - 2 : 0;
}

/* glibc keeps the same number for debuggers, at no cost: used if it agrees when it is first asked. */
static int all_threads(void)
{
    static const volatile unsigned int *counter;
    static int probed;
    if (!probed) {
        probed = 1;
        counter = dlsym(RTLD_DEFAULT, "__nptl_nthreads");
        if (counter != NULL && (int)*counter != threads_by_proc()) {
            counter = NULL;
        }
    }
    return counter != NULL ? (int)*counter : threads_by_proc();
}
#endif

int native_threads(int python)
{
#ifdef __linux__
    int others = all_threads() - python;
    return others > 0 ? others : 0;
#else
    (void)python;
    return 0;
#endif
}

#ifdef __linux__

#define MAX_LIBRARIES 6
#define STACK_BYTES 16384

typedef struct {
    uintptr_t address;
    const char *name; /* NULL: not found */
} Owner;

static int find_owner(struct dl_phdr_info *info, size_t size, void *data)
{
    Owner *owner = data;
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + segment->p_vaddr;
        if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X) && owner->address >= start &&
            owner->address < start + segment->p_memsz) {
            owner->name = info->dlpi_name == NULL ? "" : info->dlpi_name;
            return 1;
        }
    }
    return 0;
}

/* Code lies in few places: most words of a stack are outside all of them. */
typedef struct {
    uintptr_t low, high;
} Range;

static int find_range(struct dl_phdr_info *info, size_t size, void *data)
{
    Range *range = data;
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type == PT_LOAD && (segment->p_flags & PF_X)) {
            uintptr_t start = info->dlpi_addr + segment->p_vaddr;
            range->low = Py_MIN(range->low, start);
            range->high = Py_MAX(range->high, start + segment->p_memsz);
        }
    }
    return 0;
}

/* Where the words of a blocked thread's stack begin; 0 for one that is running, or where the system forbids looking. `futex`:
 * the address on which it sleeps until a time limit, if it does. */
static uintptr_t stack_pointer(long native_id, uintptr_t *futex)
{
    Blocked blocked;
    blocked_in((unsigned long)native_id, &blocked);
    *futex = blocked.futex && blocked.arguments[3] != 0 ? blocked.arguments[0] : 0;
    return blocked.stack;
}

#if defined(__GLIBC__) && defined(SYS_get_robust_list)
#define CONTROL_BYTES 1280

/* The outermost part of a running thread's stack, which does not change while it runs. At its top lies the thread's control
 * block (struct pthread), and the kernel knows an address within: glibc registers its robust_head there. The last
 * CONTROL_BYTES of the words are from there on: of what lies in them only the function that the thread began with is code. */
static ssize_t outermost_words(long native_id, uintptr_t *words, size_t room)
{
    void *head = NULL;
    size_t size = 0;
    if (syscall(SYS_get_robust_list, (int)native_id, &head, &size) != 0 || (uintptr_t)head < room) {
        return 0;
    }
    ssize_t got = 0;
    for (; got <= 0 && room > 2 * CONTROL_BYTES; room /= 2) { /* a small stack ends before */
        got = read_memory((uintptr_t)head + CONTROL_BYTES - room, words, room);
    }
    return got;
}
#else
#define CONTROL_BYTES 0

static ssize_t outermost_words(long native_id, uintptr_t *words, size_t room)
{
    (void)native_id;
    (void)words;
    (void)room;
    return 0;
}
#endif

/* Whether the thread was started by the interpreter itself; not, where that cannot be known. */
static int began_in_python(long native_id, const Range *range)
{
    static uintptr_t words[4 * CONTROL_BYTES / sizeof(uintptr_t) + 1];
    ssize_t n = outermost_words(native_id, words, 4 * CONTROL_BYTES) / (ssize_t)sizeof(uintptr_t);
    for (ssize_t i = n - 1; i >= 0 && i >= n - (ssize_t)(CONTROL_BYTES / sizeof(uintptr_t)); i--) {
        Owner owner = {words[i], NULL};
        /* Sizes lie there too; where the program has a fixed address they look like its code, but they are whole pages. */
        if (owner.address % 4096 != 0 && owner.address >= range->low && owner.address < range->high &&
            dl_iterate_phdr(find_owner, &owner)) {
            return *owner.name == '\0' || strstr(owner.name, "/libpython") != NULL;
        }
    }
    return 0;
}

/* New list of paths; empty for a thread that Python started, unless those are asked for too. */
static PyObject *libraries_of(long native_id, int of_python)
{
    static uintptr_t words[STACK_BYTES / sizeof(uintptr_t)];
    PyObject *list = PyList_New(0);
    if (list == NULL) {
        return NULL;
    }
    uintptr_t futex = 0, sp = stack_pointer(native_id, &futex) & ~(uintptr_t)(sizeof(uintptr_t) - 1);
    ssize_t got = sp != 0 ? read_memory(sp, words, sizeof(words)) : outermost_words(native_id, words, sizeof(words));
    Range range = {UINTPTR_MAX, 0};
    dl_iterate_phdr(find_range, &range);
    if (!of_python && (futex == 0 || is_gil(the_gil(), futex)) && began_in_python(native_id, &range)) {
        return list; /* it is just beginning or ending; faulthandler's watchdog is the one that waits for its time */
    }
    const char *found[MAX_LIBRARIES];
    int n = 0, others = 0;
    ssize_t n_words = got / (ssize_t)sizeof(uintptr_t);
    ssize_t control = sp != 0 ? 0 : CONTROL_BYTES / (ssize_t)sizeof(uintptr_t);
    int begun = sp != 0;
    for (ssize_t i = 0; i < n_words && n < MAX_LIBRARIES; i++) {
        Owner owner = {words[sp != 0 ? i : n_words - 1 - i], NULL}; /* of a running thread from its outermost frame on */
        if (owner.address < range.low || owner.address >= range.high || (i < control && owner.address % 4096 == 0)) {
            continue;
        }
        dl_iterate_phdr(find_owner, &owner);
        /* Between the control block and start_thread() lie the thread's own variables, which say nothing. */
        begun |= owner.name != NULL && strstr(owner.name, "/libc.so") != NULL && i >= control;
        int known = owner.name == NULL || (!begun && i >= control);
        for (int k = 0; k < n; k++) {
            known |= owner.name != NULL && strcmp(found[k], owner.name) == 0;
        }
        if (known) {
            continue;
        }
        found[n++] = owner.name;
        others += *owner.name != '\0' && strstr(owner.name, "/libpython") == NULL &&
                  strstr(owner.name, "/libc.so") == NULL && strstr(owner.name, "/ld-linux") == NULL;
        PyObject *name = PyUnicode_DecodeFSDefault(owner.name); /* "" is the program itself */
        if (name == NULL || PyList_Append(list, name) < 0) {
            Py_XDECREF(name);
            Py_DECREF(list);
            return NULL;
        }
        Py_DECREF(name);
    }
    if (futex != 0 && (!others || began_in_python(native_id, &range))) { /* old words of a stack may be another library's */
        watchdog_seen(futex);
    }
    if (!of_python && !others && (futex == 0 || is_gil(the_gil(), futex)) && PyList_SetSlice(list, 0, n, NULL) < 0) {
        Py_CLEAR(list); /* as above, of one that has no control block yet, or no more */
    }
    return list;
}

static int python_knows(long native_id)
{
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    for (; ts != NULL; ts = PyThreadState_Next(ts)) {
        if ((long)ts->native_thread_id == native_id) {
            return 1;
        }
    }
    return 0;
}

PyObject *list_of_native_threads(void)
{
    PyObject *list = PyList_New(0);
    DIR *tasks = list == NULL ? NULL : opendir("/proc/self/task");
    struct dirent *entry;
    int patience = 10; /* in all */
    while (tasks != NULL && list != NULL && (entry = readdir(tasks)) != NULL) {
        char path[64], name[32];
        long native_id = strtol(entry->d_name, NULL, 10);
        if (native_id <= 0 || native_id == (long)getpid() || python_knows(native_id)) {
            continue;
        }
        snprintf(path, sizeof(path), "/proc/self/task/%ld/comm", native_id);
        if (read_file(path, name, sizeof(name)) <= 0) {
            continue; /* it has ended */
        }
        name[strcspn(name, "\n")] = '\0';
        if (strncmp(name, "iou-", 4) == 0) {
            continue; /* the kernel's own worker for io_uring */
        }
        PyObject *libraries = libraries_of(native_id, 0);
        while (libraries != NULL && PyList_GET_SIZE(libraries) == 0 && patience-- > 0 && !python_knows(native_id)) {
            struct timespec pause = {0, 100000}; /* it may be on its way to where it will stay */
            nanosleep(&pause, NULL);
            Py_SETREF(libraries, libraries_of(native_id, 0));
        }
        if (python_knows(native_id)) {
            Py_XDECREF(libraries);
            continue; /* it has begun meanwhile */
        }
        PyObject *text = PyUnicode_DecodeUTF8(name, (Py_ssize_t)strlen(name), "replace");
        PyObject *item = libraries == NULL || text == NULL ? NULL : Py_BuildValue("(lOO)", native_id, text, libraries);
        Py_XDECREF(text);
        Py_XDECREF(libraries);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    if (tasks != NULL) {
        closedir(tasks);
    }
    return list;
}

PyObject *libraries_of_thread(PyObject *module, PyObject *native_id)
{
    (void)module;
    long id = PyLong_AsLong(native_id);
    return id == -1 && PyErr_Occurred() ? NULL : libraries_of(id, 1);
}

#else

PyObject *list_of_native_threads(void)
{
    return PyList_New(0);
}

PyObject *libraries_of_thread(PyObject *module, PyObject *native_id)
{
    (void)module;
    (void)native_id;
    return PyList_New(0);
}

#endif
#endif
