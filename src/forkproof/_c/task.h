/* What the kernel says of this process: a thread of it, a file, its memory. */
#ifndef FORKPROOF_TASK_H
#define FORKPROOF_TASK_H

#include <stdint.h>
#include <sys/types.h>

/* Where a thread is blocked, by /proc/self/task/ID/syscall. */
typedef struct {
    int futex;                  /* whether the call is futex() */
    unsigned long arguments[6]; /* of the call */
    uintptr_t stack;            /* pointer */
} Blocked;

/* -> 1 when the thread is blocked, 0 when it is running, -1 where that cannot be known. */
int blocked_in(unsigned long native_id, Blocked *blocked);

/* In nanoseconds: unchanged means that the thread has not run. -1 where the system does not say. */
int64_t processor_time(unsigned long native_id);

/* What a small file says, as text; -> its bytes, -1 if it cannot be read. */
ssize_t read_file(const char *path, char *text, size_t room);

/* Copy memory of this process to `into`, without harm where there is none. -> bytes, or -1. */
ssize_t read_memory(uintptr_t address, void *into, size_t size);

#endif
