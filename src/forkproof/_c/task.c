/* What the kernel says of a thread of this process: asked for by native id, so that one which has just ended is an answer and
 * not an error. Needs no GIL, allocates nothing. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "task.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

ssize_t read_file(const char *path, char *text, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    ssize_t size = read(fd, text, room - 1);
    close(fd);
    text[size < 0 ? 0 : size] = '\0';
    return size;
}

ssize_t read_memory(uintptr_t address, void *into, size_t size)
{
    int memory = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    if (memory < 0) {
        return -1;
    }
    ssize_t got = pread(memory, into, size, (off_t)address);
    if (got < 0 && size > 4096) {
        got = pread(memory, into, 4096 - (address & 4095), (off_t)address); /* some kernels do not answer in part */
    }
    close(memory);
    return got;
}

int blocked_in(unsigned long native_id, Blocked *blocked)
{
    *blocked = (Blocked){0};
#ifdef __linux__
    char path[64], text[256];
    snprintf(path, sizeof(path), "/proc/self/task/%lu/syscall", native_id);
    if (read_file(path, text, sizeof(text)) <= 0) {
        return -1;
    }
    /* "number, six arguments, sp, pc"; "-1 sp pc" outside a call; "running" (fs/proc/base.c, proc_pid_syscall) */
    long number;
    unsigned long *a = blocked->arguments, sp;
    int n = sscanf(text, "%ld %lx %lx %lx %lx %lx %lx %lx", &number, &a[0], &a[1], &a[2], &a[3], &a[4], &a[5], &sp);
    if (n == 8) {
        blocked->futex = number == SYS_futex;
        blocked->stack = sp;
        return 1;
    }
    if (n == 3) {
        blocked->stack = a[0];
        a[0] = a[1] = 0;
        return 1;
    }
    return 0;
#else
    (void)native_id;
    return -1;
#endif
}

int64_t processor_time(unsigned long native_id)
{
#ifdef __linux__
    clockid_t clock = (clockid_t)((~(unsigned int)native_id << 3) | 6); /* of a thread, by its id (clock_getres(2)) */
    struct timespec time;
    if (clock_gettime(clock, &time) == 0) {
        return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
    }
#else
    (void)native_id;
#endif
    return -1;
}
