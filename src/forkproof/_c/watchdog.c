/* faulthandler's watchdog in a child: the thread is gone, and the lock that it held for as long as it ran is let go of.
 *
 * Modules/faulthandler.c, 3.11 to 3.15: `thread.running` is locked before the watchdog is started, and unlocked by it when it ends;
 * cancel_dump_traceback_later() waits for that, also inside dump_traceback_later() and at the interpreter's end. All of them lock
 * with the GIL held and let go before they give it away. So at a fork with the GIL held the lock says that there is a watchdog, and
 * in the child that there was one. Unlocked it is as after a watchdog's natural end: it can be cancelled and started. In the parent
 * nothing changes.
 *
 * From 3.12 on the lock is in the runtime's state. 3.11 has it in a variable of one file, found by what is known of the words
 * around it: behind the message that it is to write and its length lies the lock on which the watchdog sleeps, and then this one.
 */
#include "watchdog.h"
#include "task.h"

#ifndef FORKPROOF_UNKNOWN_INTERPRETER

#if PY_AT_LEAST(3, 12)

void watchdog_seen(uintptr_t futex)
{
    (void)futex;
}

static PyThread_type_lock lock_of_watchdog(void)
{
    return _PyRuntime.faulthandler.thread.running;
}

#elif defined(__linux__)

#include <link.h>

typedef struct {
    char *header;
    size_t length;
    PyThread_type_lock cancel_event, running;
} Watchdog;

static PyThread_type_lock running;

static int find_watchdog(struct dl_phdr_info *info, size_t size, void *data)
{
    static const char begin[] = "Timeout (";
    uintptr_t futex = *(uintptr_t *)data, runtime = (uintptr_t)&_PyRuntime;
    char text[sizeof(begin) - 1];
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + segment->p_vaddr, end = start + segment->p_memsz;
        if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_W) || runtime < start || runtime >= end) {
            continue;
        }
        start = (start + sizeof(uintptr_t) - 1) & ~(uintptr_t)(sizeof(uintptr_t) - 1);
        for (; start + sizeof(Watchdog) <= end; start += sizeof(uintptr_t)) {
            const Watchdog *w = (const Watchdog *)start;
            if ((uintptr_t)w->cancel_event == futex && w->running != NULL && w->length > sizeof(text) && w->length < 100 &&
                read_memory((uintptr_t)w->header, text, sizeof(text)) == (ssize_t)sizeof(text) &&
                memcmp(text, begin, sizeof(text)) == 0) {
                running = w->running;
                return 1;
            }
        }
    }
    return 0;
}

void watchdog_seen(uintptr_t futex)
{
    if (running == NULL) { /* it is made once, and stays */
        dl_iterate_phdr(find_watchdog, &futex);
    }
}

static PyThread_type_lock lock_of_watchdog(void)
{
    return running;
}

#else

void watchdog_seen(uintptr_t futex)
{
    (void)futex;
}

static PyThread_type_lock lock_of_watchdog(void)
{
    return NULL;
}

#endif

static int was_reset;

void watchdog_in_child(int mend)
{
    PyThread_type_lock lock = mend ? lock_of_watchdog() : NULL;
    was_reset = 0;
    if (lock != NULL) {
        was_reset = !PyThread_acquire_lock(lock, NOWAIT_LOCK);
        PyThread_release_lock(lock);
    }
}

int watchdog_is_reset(void)
{
    return was_reset;
}

PyObject *watchdog_was_reset(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyBool_FromLong(was_reset);
}

#endif
