/* Up to 3.13 a frame does not say how much of its value stack is in use. While an exception leaves it, or what a call was given
 * is let go of, finalizers and trace functions run Python code on top of it, other threads get their turn, and the slots
 * still have the addresses of what has been freed. By then the memory may be anything, or be mapped no more.
 *
 * So an address counts as an object only if all of this is true of it: it can be read; the reference count is one that an
 * object can have; its type can be read, and is a type, by the flags of the type of that. What has been freed fails: the
 * count of an object that the collector tracks stays zero (the allocators write before it), any other has the address of the
 * next free block, or noise, for a count or for a type. What has been used again for an object is an object, and safe to
 * read; what is then said of it is said of something that is there. Bytes that pass by chance would have to name a type.
 *
 * That an address can be read the kernel says, in a call that fails without doing anything.
 */
#include "alive.h"
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

#define PAGE 4096 /* no system has smaller ones */
#define REMEMBERED 64

#if defined(__SANITIZE_ADDRESS__)
#define READS_WHAT_WAS_FREED __attribute__((no_sanitize("address"), noinline))
#else
#define READS_WHAT_WAS_FREED
#endif

static uintptr_t mapped[REMEMBERED], types[REMEMBERED]; /* 0: none */

void begin_to_look(void)
{
    memset(mapped, 0, sizeof(mapped));
    memset(types, 0, sizeof(types));
}

static int is_mapped(uintptr_t address)
{
    uintptr_t page = address / PAGE, *known = &mapped[page % REMEMBERED];
    if (*known != page) {
#ifdef __linux__
        /* The set is read before `how` is looked at, which is none (kernel/signal.c, sys_rt_sigprocmask). */
        int before = errno, faulty = syscall(SYS_rt_sigprocmask, -1, page * PAGE, NULL, 8) != 0 && errno == EFAULT;
        errno = before;
        if (faulty) {
            return 0;
        }
#endif
        *known = page;
    }
    return 1;
}

READS_WHAT_WAS_FREED static int has_count(uintptr_t address)
{
    if (address < PAGE || address % sizeof(void *) || !is_mapped(address) || !is_mapped(address + sizeof(PyObject) - 1)) {
        return 0;
    }
    Py_ssize_t count = *(const volatile Py_ssize_t *)&((const PyObject *)address)->ob_refcnt;
    return count > 0 && (size_t)count <= UINT_MAX; /* which is that of an immortal one */
}

READS_WHAT_WAS_FREED static uintptr_t type_of(uintptr_t address)
{
    return (uintptr_t)((const volatile PyObject *)address)->ob_type;
}

READS_WHAT_WAS_FREED static int is_type(uintptr_t address)
{
    uintptr_t *known = &types[address / 16 % REMEMBERED];
    if (address != 0 && *known == address) {
        return 1;
    }
    if (!has_count(address) || !is_mapped(address + sizeof(PyTypeObject) - 1)) {
        return 0;
    }
    uintptr_t its = type_of(address);
    if (!has_count(its) || !is_mapped(its + sizeof(PyTypeObject) - 1) ||
        !(((const volatile PyTypeObject *)its)->tp_flags & Py_TPFLAGS_TYPE_SUBCLASS)) {
        return 0;
    }
    *known = address;
    return 1;
}

int is_alive(const void *address)
{
    return has_count((uintptr_t)address) && is_type(type_of((uintptr_t)address));
}
