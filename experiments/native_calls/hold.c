/* Preloaded: holds each mutex or read-write lock that one library takes for a little longer.
 *
 * Only in threads other than the first (that one forks), only when the caller's code lies in the library named by HOLD_LIB,
 * only one time in HOLD_EVERY. The lock is really held: nothing is made to hang that could not hang without this.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int wanted(void *caller)
{
    static const char *name;
    static useconds_t delay;
    static unsigned every;
    static __thread unsigned seed;
    static __thread int inside;
    Dl_info info;
    if (name == NULL) {
        const char *text = getenv("HOLD_US");
        delay = text ? (useconds_t)atoi(text) : 2000;
        text = getenv("HOLD_EVERY");
        every = text ? (unsigned)atoi(text) : 16;
        text = getenv("HOLD_LIB");
        name = text ? text : "";
    }
    if (*name == 0 || syscall(SYS_gettid) == getpid() || inside)
        return 0;
    if (seed == 0)
        seed = (unsigned)syscall(SYS_gettid);
    if ((unsigned)rand_r(&seed) % every)
        return 0;
    inside = 1;
    int found = dladdr(caller, &info) && info.dli_fname && strstr(info.dli_fname, name);
    inside = 0;
    return found ? (int)delay : 0;
}

#define WRAP(function, type)                                               \
    int function(type *lock)                                               \
    {                                                                      \
        static int (*real)(type *);                                        \
        if (real == NULL)                                                  \
            real = (int (*)(type *))dlsym(RTLD_NEXT, #function);           \
        int result = real(lock);                                           \
        int delay = result == 0 ? wanted(__builtin_return_address(0)) : 0; \
        if (delay)                                                         \
            usleep((useconds_t)delay);                                     \
        return result;                                                     \
    }

WRAP(pthread_mutex_lock, pthread_mutex_t)
WRAP(pthread_rwlock_wrlock, pthread_rwlock_t)
WRAP(pthread_rwlock_rdlock, pthread_rwlock_t)
