/* Connections that a child of a fork has inherited: which they are, and who uses one that another process has open as well.
 *
 * At the fork nothing is done. The child, still inside fork(), goes through its descriptors once; if there is a connection
 * among them, the calls of all loaded libraries that read, write or shut down lead through here from then on (interpose.c),
 * and with them those of compiled drivers. Each looks a descriptor up in a table, and that is all for one that was not
 * inherited.
 *
 * A call that did something to an inherited connection is noted, by the thread that made it: what it did, and where its
 * frames stand. It does not need the GIL for that: a thread's own frames do not move while it is in a call.
 * What that means is judged later, by a thread without Python that lives only meanwhile: a process that forks to hand a
 * connection over closes its own copy soon. Only if another process still has it open after GRACE seconds, or had it KEPT seconds
 * after the fork, or has been seen to use it since the fork, is it told.
 *
 * What counts as "another process": those that this one descends from, by the links in /proc/PID/fd. That one of them has
 * used a TCP connection is known from the kernel's counters: what was written and what was taken out, less what this
 * process did itself.
 *
 * What is no connection here: listening sockets; datagrams; standard streams, under whatever number; pipes that the program was
 * given, or both ends of which were inherited; sockets whose other end was made by this process or one that it descends from (socketpair). A connection that
 * was accepted at a listening socket which is there as well is told only if both use it: servers hand those over.
 *
 * Guarantees: a connection itself is never touched; a descriptor that was closed and is another file now is noticed; nothing
 * here raises, waits for the GIL or for another thread, or writes to any file but the events'. A process that ends by itself
 * within GRACE of such a call ends up to AT_END seconds later.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "connections.h"
#include "interpose.h"
#include "task.h"
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef FORKPROOF_UNKNOWN_INTERPRETER
#ifdef __linux__

#include <arpa/inet.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>

#define GRACE 1.0         /* seconds after which whoever hands a connection over has closed its own copy */
#define KEPT 3.0          /* seconds after the fork at which whoever has it still has not handed it over */
#define AT_END 0.25       /* the same, where this process ends by itself */
#define STEP 20000000     /* nanoseconds between the first two looks while something is to be judged, and at the end ... */
#define LONGEST 250000000 /* ... and between two later ones */
#define MOST_FDS 4096     /* connections with a higher number, and more of them than the next, are not watched */
#define MOST 256
#define MOST_NOTES 16     /* connections of which one process tells */
#define MOST_FRAMES 40
#define MOST_ANCESTORS 16
#define MOST_GIVEN 64
#define MOST_ASKED 256    /* uses of an accepted connection at each of which the kernel is asked whether others use it */
#define STACK_ROOM 12288

enum { TCP, UNIX, PIPE, OTHER };
static const char *const kinds[] = {"tcp", "unix", "pipe", "socket"};
enum { READ, WRITE, SHUTDOWN };
static const char *const operations[] = {"read", "write", "shutdown"};

typedef struct {
    uint64_t written, taken;
} Counts;

typedef struct {
    int fd, kind;
    dev_t device;
    ino_t inode;
    int accepted, counted;
    Counts at_fork, own; /* own: what this process did to it since */
    int reading, writing; /* calls of this process that are under way */
    int asked;           /* of one that was accepted: whether others use it */
    int noted;
    char local[128], peer[128];
} Connection;

enum { FREE, FILLING, WAITING, JUDGING, DONE };

typedef struct {
    int state; /* changed by whoever moves it on from one to the next, atomically */
    Connection *connection;
    int operation;
    int64_t others_wrote, others_took;
    pid_t holder, thread;
    int holder_known;
    int settled; /* what became of it since changes nothing */
    unsigned long ident;
    int remedy; /* -1 none */
    double at;
    struct timespec time;
    char name[64], owner[96], place[320];
    char stack[STACK_ROOM];
} Note;

typedef struct {
    const char *what, *advice;
    const char *const *packages, *const *libraries; /* parts of file names; NULL at the end */
} Remedy;

static int enabled;
static pid_t me, ancestors[MOST_ANCESTORS];
static int n_ancestors;
static char *events, *general_advice;
static Remedy *remedies;
static int n_remedies;
static unsigned long fork_number;
static double born; /* when this process was */
static ino_t stderr_inode;
static dev_t stderr_device;

static ino_t given[MOST_GIVEN]; /* pipes that were there when this began: of whoever started the program */
static int n_given;
static Connection connections[MOST];
static int n_connections, known_from; /* pid for which they hold */
static uint16_t number_of[MOST_FDS];  /* from 1, of what is watched */
static Note notes[MOST_NOTES];
static int judge_runs, telling;

static double monotonic_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The calls
 */

static Connection *begin(int fd, int operation);
static void end(Connection *c, int fd, int operation, int64_t bytes, const void *caller, const char *call);
static void at_end(void);

/* A replacement: `done` is an expression in `result`, what was done in bytes, 0 for nothing. */
#define CALL(type, name, parameters, arguments, fd, operation, done)                                                   \
    static type(*real_##name) parameters;                                                                              \
    static type lead_##name parameters                                                                                 \
    {                                                                                                                  \
        Connection *c = begin(fd, operation);                                                                                     \
        type result = real_##name arguments;                                                                           \
        if (c != NULL) {                                                                                               \
            end(c, fd, operation, (int64_t)(done), __builtin_return_address(0), #name);                                \
        }                                                                                                              \
        return result;                                                                                                 \
    }

#define TAKEN(flags) ((flags) & (MSG_PEEK | MSG_ERRQUEUE) ? 0 : result)

static int64_t sum_of(const struct mmsghdr *messages, int n)
{
    int64_t sum = 0;
    for (int i = 0; i < n; i++) {
        sum += messages[i].msg_len;
    }
    return sum;
}

CALL(ssize_t, read, (int fd, void *buffer, size_t size), (fd, buffer, size), fd, READ, result)
CALL(ssize_t, readv, (int fd, const struct iovec *parts, int n), (fd, parts, n), fd, READ, result)
CALL(ssize_t, recv, (int fd, void *buffer, size_t size, int flags), (fd, buffer, size, flags), fd, READ, TAKEN(flags))
CALL(ssize_t, recvfrom, (int fd, void *buffer, size_t size, int flags, struct sockaddr *from, socklen_t *length),
     (fd, buffer, size, flags, from, length), fd, READ, TAKEN(flags))
CALL(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags), fd, READ, TAKEN(flags))
CALL(int, recvmmsg, (int fd, struct mmsghdr *messages, unsigned n, int flags, struct timespec *limit),
     (fd, messages, n, flags, limit), fd, READ, flags &MSG_PEEK ? 0 : sum_of(messages, result))
CALL(ssize_t, __read_chk, (int fd, void *buffer, size_t size, size_t room), (fd, buffer, size, room), fd, READ, result)
CALL(ssize_t, __recv_chk, (int fd, void *buffer, size_t size, size_t room, int flags), (fd, buffer, size, room, flags), fd,
     READ, TAKEN(flags))
CALL(ssize_t, __recvfrom_chk,
     (int fd, void *buffer, size_t size, size_t room, int flags, struct sockaddr *from, socklen_t *length),
     (fd, buffer, size, room, flags, from, length), fd, READ, TAKEN(flags))
CALL(ssize_t, write, (int fd, const void *buffer, size_t size), (fd, buffer, size), fd, WRITE, result)
CALL(ssize_t, writev, (int fd, const struct iovec *parts, int n), (fd, parts, n), fd, WRITE, result)
CALL(ssize_t, send, (int fd, const void *buffer, size_t size, int flags), (fd, buffer, size, flags), fd, WRITE, result)
CALL(ssize_t, sendto, (int fd, const void *buffer, size_t size, int flags, const struct sockaddr *to, socklen_t length),
     (fd, buffer, size, flags, to, length), fd, WRITE, result)
CALL(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags), fd, WRITE, result)
CALL(int, sendmmsg, (int fd, struct mmsghdr *messages, unsigned n, int flags), (fd, messages, n, flags), fd, WRITE,
     sum_of(messages, result))
CALL(ssize_t, sendfile, (int fd, int from, off_t *offset, size_t size), (fd, from, offset, size), fd, WRITE, result)
CALL(ssize_t, sendfile64, (int fd, int from, off64_t *offset, size_t size), (fd, from, offset, size), fd, WRITE, result)
CALL(int, shutdown, (int fd, int how), (fd, how), fd, SHUTDOWN, result == 0)

static void (*real__exit)(int status);
static void (*also_at_exit)(void);
static void lead__exit(int status)
{
    if (also_at_exit != NULL) {
        also_at_exit();
    }
    at_end();
    real__exit(status);
}

#define LEAD(name) {#name, (void *)lead_##name, (void **)&real_##name}
static const Replaced calls[] = {
    LEAD(read),   LEAD(readv),  LEAD(recv),    LEAD(recvfrom), LEAD(recvmsg),  LEAD(recvmmsg),   LEAD(__read_chk),
    LEAD(__recv_chk), LEAD(__recvfrom_chk), LEAD(write), LEAD(writev), LEAD(send), LEAD(sendto), LEAD(sendmsg),
    LEAD(sendmmsg), LEAD(sendfile), LEAD(sendfile64), LEAD(shutdown), LEAD(_exit), /* the last: see connections_at_exit() */
};

/* ---------------------------------------------------------------------------------------------------------------------
 * What the kernel says of a connection
 */

static int is_still(const Connection *c, int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 && status.st_ino == c->inode && status.st_dev == c->device;
}

/* What has been written to a TCP connection since it began, and what has been taken out, by whomever. -> whether that is known. */
static int count(int fd, Counts *counts)
{
    struct tcp_info before, after;
    for (int i = 0; i < 5; i++) {
        socklen_t size = sizeof(before), again = sizeof(after);
        int to_send = 0, to_take = 0;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &before, &size) != 0 ||
            size < offsetof(struct tcp_info, tcpi_bytes_received) + sizeof(before.tcpi_bytes_received) ||
            ioctl(fd, SIOCOUTQ, &to_send) != 0 || ioctl(fd, FIONREAD, &to_take) != 0 ||
            getsockopt(fd, IPPROTO_TCP, TCP_INFO, &after, &again) != 0) {
            return 0;
        }
        if (before.tcpi_bytes_acked == after.tcpi_bytes_acked && before.tcpi_bytes_received == after.tcpi_bytes_received) {
            *counts = (Counts){after.tcpi_bytes_acked + (uint64_t)to_send, after.tcpi_bytes_received - (uint64_t)to_take};
            return 1;
        }
    }
    return 0;
}

/* What others have done to it since the fork. The end of a stream counts as a byte: less than two prove nothing. Of what this
 * process is in the middle of nothing is known: while it waits for an answer, only what others wrote. */
static int others_used(Connection *c, int fd, int64_t *wrote, int64_t *took)
{
    Counts own = c->own, now;
    *wrote = *took = 0;
    int writes = __atomic_load_n(&c->writing, __ATOMIC_SEQ_CST), reads = __atomic_load_n(&c->reading, __ATOMIC_SEQ_CST);
    if (!c->counted || !is_still(c, fd) || !count(fd, &now)) {
        return 0;
    }
    writes |= __atomic_load_n(&c->writing, __ATOMIC_SEQ_CST);
    reads |= __atomic_load_n(&c->reading, __ATOMIC_SEQ_CST);
    if (!writes && own.written == c->own.written) {
        *wrote = (int64_t)(now.written - c->at_fork.written - own.written);
    }
    if (!reads && own.taken == c->own.taken) {
        *took = (int64_t)(now.taken - c->at_fork.taken - own.taken);
    }
    *wrote = *wrote > 1 ? *wrote : 0;
    *took = *took > 1 ? *took : 0;
    return *wrote || *took;
}

/* The nearest process that this one descends from and that has the connection open; 0 if none has. `known`: whether all
 * could be looked at; where not, the one that could not. */
static pid_t holder_of(const Connection *c, int *known)
{
    char wanted[64], found[64], path[64];
    pid_t hidden = 0;
    snprintf(wanted, sizeof(wanted), "%s:[%lu]", c->kind == PIPE ? "pipe" : "socket", (unsigned long)c->inode);
    for (int i = 0; i < n_ancestors; i++) {
        snprintf(path, sizeof(path), "/proc/%ld/fd", (long)ancestors[i]);
        int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *list = folder < 0 ? NULL : fdopendir(folder);
        if (list == NULL) {
            int denied = errno == EACCES || errno == EPERM || errno == ENOENT; /* hidepid: it is as if it were not there */
            if (folder >= 0) {
                close(folder);
            }
            if (denied && hidden == 0 && (kill(ancestors[i], 0) == 0 || errno == EPERM)) {
                hidden = ancestors[i];
            }
            continue;
        }
        struct dirent *entry;
        while ((entry = readdir(list)) != NULL) {
            ssize_t n = readlinkat(folder, entry->d_name, found, sizeof(found) - 1);
            if (n > 0) {
                found[n] = '\0';
                if (strcmp(found, wanted) == 0) {
                    closedir(list);
                    *known = 1;
                    return ancestors[i];
                }
            }
            else if (n < 0 && (errno == EACCES || errno == EPERM) && hidden == 0) {
                hidden = ancestors[i];
            }
        }
        closedir(list);
    }
    *known = 0;
    return hidden;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Text, in JSON
 */

typedef struct {
    char *at, *end; /* `end` has room for a zero */
    int full;
} Text;

static void put(Text *t, const char *text)
{
    size_t size = strlen(text);
    if (t->full || t->at + size >= t->end) {
        t->full = 1;
        return;
    }
    memcpy(t->at, text, size + 1);
    t->at += size;
}

static void put_number(Text *t, const char *before, long long number)
{
    char digits[32];
    snprintf(digits, sizeof(digits), "%lld", number);
    put(t, before);
    put(t, digits);
}

static void put_unit(Text *t, unsigned unit)
{
    char text[8] = {(char)unit};
    if (unit == '"' || unit == '\\') {
        snprintf(text, sizeof(text), "\\%c", (char)unit);
    }
    else if (unit < 0x20 || unit > 0x7e) {
        snprintf(text, sizeof(text), "\\u%04x", unit);
    }
    put(t, text);
}

static void put_character(Text *t, Py_UCS4 c)
{
    if (c > 0xffff) {
        put_unit(t, 0xd800 + ((c - 0x10000) >> 10));
        put_unit(t, 0xdc00 + ((c - 0x10000) & 0x3ff));
    }
    else {
        put_unit(t, c);
    }
}

/* Bytes that are meant to be UTF-8; what is not comes out as Python's surrogateescape has it. */
static void put_quoted(Text *t, const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    put(t, "\"");
    while (*p) {
        int more = *p < 0x80 ? 0 : *p >= 0xf0 && *p < 0xf5 ? 3 : *p >= 0xe0 ? 2 : *p >= 0xc2 ? 1 : -1;
        Py_UCS4 c = *p & (more <= 0 ? 0xff : 0x3f >> more);
        int good = more >= 0 && *p < 0xf5;
        for (int i = 1; good && i <= more; i++) {
            good = (p[i] & 0xc0) == 0x80;
            c = (c << 6) | (p[i] & 0x3f);
        }
        put_character(t, good ? c : 0xdc00u + *p);
        p += good ? more + 1 : 1;
    }
    put(t, "\"");
}

/* A text of Python's, which no thread changes once it is made. */
static void put_python(Text *t, PyObject *text)
{
    put(t, "\"");
    if (text != NULL && PyUnicode_Check(text)) {
        for (Py_ssize_t i = 0; i < PyUnicode_GET_LENGTH(text); i++) {
            put_character(t, PyUnicode_READ_CHAR(text, i));
        }
    }
    put(t, "\"");
}

/* The same as plain bytes; what is not ASCII as a question mark. */
static void plain(PyObject *text, char *into, size_t room)
{
    size_t n = 0;
    if (text != NULL && PyUnicode_Check(text)) {
        for (Py_ssize_t i = 0; i < PyUnicode_GET_LENGTH(text) && n + 1 < room; i++) {
            Py_UCS4 c = PyUnicode_READ_CHAR(text, i);
            into[n++] = c < 0x80 ? (char)c : '?';
        }
    }
    into[n] = '\0';
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Where the thread stands
 */

static int remedy_for(const char *file, int library)
{
    for (int i = 0; i < n_remedies; i++) {
        const char *const *parts = library ? remedies[i].libraries : remedies[i].packages;
        for (; *parts != NULL; parts++) {
            if (strstr(file, *parts) != NULL) {
                return i;
            }
        }
    }
    return -1;
}

/* The interpreter's own code, of whose frames the stack tells already. */
static int is_python(const char *file)
{
    const char *name = strrchr(file, '/');
    return strstr(file, "/lib-dynload/") != NULL || name == NULL || strncmp(name, "/python", 7) == 0 ||
           strncmp(name, "/libpython", 10) == 0;
}

static int is_standard(const char *file)
{
    return *file == '<' || (strstr(file, "/lib/python3") != NULL && strstr(file, "-packages/") == NULL);
}

/* The class of the frame's `self`, without its module: a name that the class has for ever. */
static const char *class_of_self(Frame *f, PyCodeObject *code)
{
    PyObject *name = code->co_argcount > 0 ? PyTuple_GET_ITEM(code->co_localsplusnames, 0) : NULL;
    PyObject *self = name != NULL && PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, "self") == 0 ? frame_local(f, 0) : NULL;
    if (self == NULL || PyCell_Check(self)) {
        return NULL;
    }
    const char *dot = strrchr(Py_TYPE(self)->tp_name, '.');
    return dot == NULL ? Py_TYPE(self)->tp_name : dot + 1;
}

/* The frames of the thread that calls, innermost first, with what the catalogue knows of the libraries nearest to the call: of
 * those that follow each other without the program's own code between, the outermost counts. */
static void describe_place(Note *n, const void *caller, const char *call)
{
    Text t = {n->stack, n->stack + sizeof(n->stack) - 1, 0};
    char file[1024], function[64] = "?";
    int known = 1, frames = 0;
    Dl_info info;
    n->remedy = -1;
    n->owner[0] = n->place[0] = '\0';
    if (dladdr(caller, &info) != 0 && info.dli_fname != NULL && !is_python(info.dli_fname)) {
        put(&t, "{\"file\":");
        put_quoted(&t, info.dli_fname);
        put(&t, ",\"line\":null,\"function\":\"");
        put(&t, call);
        put(&t, "\"}");
        n->remedy = remedy_for(info.dli_fname, 1);
        frames++;
    }
    PyThreadState *ts = PyGILState_GetThisThreadState();
    int through_c;
    for (Frame *f = ts == NULL ? NULL : thread_top(ts); f != NULL && frames < MOST_FRAMES; f = frame_outer(f, &through_c)) {
        PyCodeObject *code = frame_is_shim(f) ? NULL : frame_code(f);
        if (code == NULL) {
            continue;
        }
        char *before = t.at;
        int unit = frame_unit(f, code), line = PyCode_Addr2Line(code, unit < 0 ? 0 : unit * 2);
        plain(code->co_filename, file, sizeof(file));
        put(&t, frames ? ",{\"file\":" : "{\"file\":");
        put_python(&t, code->co_filename);
        if (line > 0) {
            put_number(&t, ",\"line\":", line);
        }
        else {
            put(&t, ",\"line\":null");
        }
        put(&t, ",\"function\":");
        put_python(&t, code->co_name);
        put(&t, "}");
        if (t.full) {
            *before = '\0';
            break;
        }
        frames++;
        int remedy = remedy_for(file, 0), standard = remedy < 0 && is_standard(file);
        if (!n->place[0] && !standard && remedy < 0) {
            snprintf(n->place, sizeof(n->place), "%.300s:%d", file, line);
        }
        if (known && remedy >= 0) {
            const char *class = class_of_self(f, code);
            if (class != NULL) {
                snprintf(n->owner, sizeof(n->owner), "%.90s", class);
            }
            n->remedy = remedy;
        }
        known &= remedy >= 0 || standard;
        if (n->name[0] == '\0' && strstr(file, "threading.py") == NULL) {
            plain(code->co_name, function, sizeof(function));
        }
    }
    if (n->name[0] == '\0') {
        snprintf(n->name, sizeof(n->name), "thread (%.50s)", function);
    }
}

/* The system's name of the thread, if it has one of its own: Python gives them names from 3.14 on. */
static void describe_thread(Note *n)
{
    char path[64], process[32], thread[32];
    n->thread = (pid_t)syscall(SYS_gettid);
    n->ident = PyThread_get_thread_ident();
    n->name[0] = '\0';
    if (n->thread == getpid()) {
        strcpy(n->name, "MainThread");
        return;
    }
    snprintf(path, sizeof(path), "/proc/self/task/%ld/comm", (long)n->thread);
    if (read_file("/proc/self/comm", process, sizeof(process)) > 0 && read_file(path, thread, sizeof(thread)) > 0 &&
        strcmp(process, thread) != 0) {
        thread[strcspn(thread, "\n")] = '\0';
        snprintf(n->name, sizeof(n->name), "%s", thread);
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Noting
 */

static void begin_judge(void);

static int *under_way(Connection *c, int operation)
{
    return operation == READ ? &c->reading : &c->writing;
}

static Connection *begin(int fd, int operation)
{
    if (fd < 0 || fd >= MOST_FDS || number_of[fd] == 0) {
        return NULL;
    }
    Connection *c = &connections[number_of[fd] - 1];
    __atomic_add_fetch(under_way(c, operation), 1, __ATOMIC_SEQ_CST);
    return c;
}

static void note(Connection *c, int fd, int operation, const void *caller, const char *call)
{
    int64_t wrote = 0, took = 0;
    int both = others_used(c, fd, &wrote, &took);
    if (c->accepted && ++c->asked == MOST_ASKED) {
        number_of[fd] = 0;
    }
    if ((c->accepted && !both) || __atomic_exchange_n(&c->noted, 1, __ATOMIC_SEQ_CST)) {
        return;
    }
    int known;
    pid_t holder = holder_of(c, &known);
    if (holder == 0 && !both) {
        number_of[fd] = 0; /* it is this process's alone by now */
        return;
    }
    for (int i = 0; i < MOST_NOTES; i++) {
        Note *n = &notes[i];
        int state = FREE;
        if (!__atomic_compare_exchange_n(&n->state, &state, FILLING, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            continue;
        }
        n->connection = c;
        n->operation = operation;
        n->others_wrote = wrote;
        n->others_took = took;
        n->holder = holder;
        n->holder_known = known;
        n->settled = known && holder && c->kind != PIPE && monotonic_now() - born >= KEPT;
        n->at = monotonic_now();
        clock_gettime(CLOCK_REALTIME, &n->time);
        describe_thread(n);
        describe_place(n, caller, call);
        __atomic_store_n(&n->state, WAITING, __ATOMIC_SEQ_CST);
        begin_judge();
        return;
    }
}

static void end(Connection *c, int fd, int operation, int64_t bytes, const void *caller, const char *call)
{
    int error = errno;
    /* In a child of vfork() this memory is the parent's; what was closed and opened again is another file. */
    if (bytes > 0 && getpid() == known_from && !is_still(c, fd)) {
        number_of[fd] = 0;
        bytes = 0;
    }
    if (bytes > 0) {
        __atomic_add_fetch(operation == READ ? &c->own.taken : &c->own.written, (uint64_t)bytes, __ATOMIC_SEQ_CST);
    }
    __atomic_sub_fetch(under_way(c, operation), 1, __ATOMIC_SEQ_CST);
    /* A small write to a pipe is never mixed with another (POSIX, PIPE_BUF): programs share pipes so. */
    int matters = bytes > 0 && (c->kind != PIPE || operation == READ || bytes > PIPE_BUF);
    if (matters && !c->noted && getpid() == known_from) {
        note(c, fd, operation, caller, call);
    }
    errno = error;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Judging and telling
 */

static void put_time(Text *t, const struct timespec *time)
{
    char text[64];
    struct tm parts;
    gmtime_r(&time->tv_sec, &parts);
    size_t n = strftime(text, sizeof(text), ",\"time\":\"%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text + n, sizeof(text) - n, ".%06ldZ\"", time->tv_nsec / 1000);
    put(t, text);
}

static void put_optional(Text *t, const char *key, const char *text)
{
    put(t, key);
    if (*text) {
        put_quoted(t, text);
    }
    else {
        put(t, "null");
    }
}

static const char *verdict_of(const Note *n, const char **proof)
{
    int used = n->others_wrote || n->others_took;
    *proof = used ? "both-used" : "both-open";
    if (n->connection->kind == PIPE || (!n->holder_known && !used)) {
        *proof = NULL; /* a pipe may be shared on purpose; or the process that may have it could not be looked at */
        return "likely";
    }
    return "proven";
}

static const char *advice_of(const Note *n)
{
    return n->remedy >= 0 ? remedies[n->remedy].advice : general_advice;
}

/* As docs/events.md has it. */
static void put_event(Text *t, const Note *n)
{
    const Connection *c = n->connection;
    const char *proof, *verdict = verdict_of(n, &proof);
    put(t, "{\"v\":1,\"event\":\"shared-connection\"");
    put_time(t, &n->time);
    put_number(t, ",\"pid\":", getpid());
    put_number(t, ",\"parent\":", n_ancestors ? ancestors[0] : 0);
    put_number(t, ",\"fork\":", (long long)fork_number);
    put(t, ",\"operation\":\"");
    put(t, operations[n->operation]);
    put(t, "\",\"connection\":{\"kind\":\"");
    put(t, kinds[c->kind]);
    put_number(t, "\",\"fd\":", c->fd);
    put_optional(t, ",\"local\":", c->local);
    put_optional(t, ",\"peer\":", c->peer);
    put_optional(t, ",\"library\":", n->remedy >= 0 ? remedies[n->remedy].what : "");
    put_optional(t, ",\"owner\":", n->owner);
    put(t, "},\"thread\":{\"name\":");
    put_quoted(t, n->name);
    put_number(t, ",\"ident\":", (long long)n->ident);
    put_number(t, ",\"native_id\":", n->thread);
    put(t, "},\"stack\":[");
    put(t, n->stack);
    put(t, "],\"held_by\":");
    if (n->holder) {
        put_number(t, "", n->holder);
    }
    else {
        put(t, "null");
    }
    put_number(t, ",\"others_wrote\":", n->others_wrote);
    put_number(t, ",\"others_read\":", n->others_took);
    put(t, ",\"verdict\":\"");
    put(t, verdict);
    put_optional(t, "\",\"proof\":", proof == NULL ? "" : proof);
    put(t, ",\"advice\":");
    put_quoted(t, advice_of(n));
    put(t, "}\n");
}

static void put_sentence(Text *t, const Note *n)
{
    static const char *const did[] = {"reads from", "writes to", "shuts down"};
    const Connection *c = n->connection;
    const char *proof, *verdict = verdict_of(n, &proof);
    put(t, n->place);
    put_number(t, n->place[0] ? ": forkproof: process " : "forkproof: process ", getpid());
    put(t, ": ");
    put(t, n->name);
    put(t, " ");
    put(t, did[n->operation]);
    put(t, " a connection (");
    put(t, kinds[c->kind]);
    put(t, c->peer[0] ? " to " : "");
    put(t, c->peer);
    put_number(t, ") that it has inherited; process ", n->holder);
    put(t, proof == NULL ? " may have it open as well [" : " has it open as well [");
    put(t, verdict);
    put(t, proof == NULL ? "" : " by ");
    put(t, proof == NULL ? "" : proof);
    put(t, "]. ");
    put(t, advice_of(n));
    put(t, "\n");
}

static void tell(const Note *n)
{
    static char text[STACK_ROOM + 8192];
    struct timespec pause = {0, 1000000};
    for (int i = 0; __atomic_exchange_n(&telling, 1, __ATOMIC_SEQ_CST); i++) {
        if (i == 100) {
            return;
        }
        nanosleep(&pause, NULL);
    }
    Text t = {text, text + sizeof(text) - 1, 0};
    int fd = -1;
    struct stat status;
    if (events != NULL) {
        put_event(&t, n);
        fd = open(events, O_WRONLY | O_APPEND | O_CLOEXEC);
    }
    else if (fstat(2, &status) == 0 && status.st_ino == stderr_inode && status.st_dev == stderr_device) {
        put_sentence(&t, n);
        fd = 2;
    }
    if (fd >= 0 && !t.full && real_write(fd, text, (size_t)(t.at - text)) < 0) {
        t.full = 1; /* the disk is: the line is lost */
    }
    if (fd > 2 || (fd >= 0 && events != NULL)) {
        close(fd);
    }
    __atomic_store_n(&telling, 0, __ATOMIC_SEQ_CST);
}

/* -> whether something is still to be judged. `patience`: seconds from the call on. */
static int judge(double patience)
{
    int waiting = 0;
    double now = monotonic_now();
    for (int i = 0; i < MOST_NOTES; i++) {
        Note *n = &notes[i];
        int state = WAITING;
        if (__atomic_load_n(&n->state, __ATOMIC_SEQ_CST) == FILLING) {
            waiting = 1;
        }
        if (!__atomic_compare_exchange_n(&n->state, &state, JUDGING, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            waiting |= state == JUDGING;
            continue;
        }
        Connection *c = n->connection;
        int both = n->others_wrote || n->others_took;
        int64_t wrote, took;
        if (!both && others_used(c, c->fd, &wrote, &took)) {
            n->others_wrote = wrote;
            n->others_took = took;
            both = 1;
        }
        pid_t holder = n->settled ? n->holder : holder_of(c, &n->holder_known);
        n->holder = holder ? holder : both ? n->holder : 0;
        if ((n->holder == 0 && !both) || !enabled) {
            state = DONE; /* it was handed over */
        }
        else if (both || n->settled || now - n->at >= patience) {
            tell(n);
            state = DONE;
        }
        else {
            state = WAITING;
            waiting = 1;
        }
        if (state == DONE && number_of[c->fd] == c - connections + 1) {
            number_of[c->fd] = 0;
        }
        __atomic_store_n(&n->state, state, __ATOMIC_SEQ_CST);
    }
    return waiting;
}

static void *judge_all(void *unused)
{
    struct timespec pause = {0, STEP};
    (void)unused;
    for (;;) {
        nanosleep(&pause, NULL);
        if (judge(GRACE)) {
            pause.tv_nsec = Py_MIN(2 * pause.tv_nsec, LONGEST);
            continue;
        }
        __atomic_store_n(&judge_runs, 0, __ATOMIC_SEQ_CST);
        int waiting = 0;
        for (int i = 0; i < MOST_NOTES; i++) { /* what was noted just then found a judge */
            int state = __atomic_load_n(&notes[i].state, __ATOMIC_SEQ_CST);
            waiting |= state == WAITING || state == FILLING;
        }
        if (!waiting || __atomic_exchange_n(&judge_runs, 1, __ATOMIC_SEQ_CST)) {
            return NULL;
        }
    }
}

static void begin_judge(void)
{
    if (__atomic_exchange_n(&judge_runs, 1, __ATOMIC_SEQ_CST)) {
        return;
    }
    sigset_t all, mask;
    pthread_attr_t attributes;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &mask);
    int made = pthread_attr_init(&attributes) == 0;
    if (made) {
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        made = pthread_create(&thread, &attributes, judge_all, NULL) == 0;
        pthread_attr_destroy(&attributes);
    }
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    if (!made) {
        __atomic_store_n(&judge_runs, 0, __ATOMIC_SEQ_CST); /* it is judged at the end */
    }
}

static void at_end(void)
{
    struct timespec pause = {0, STEP};
    if (getpid() != known_from) {
        return;
    }
    for (double until = monotonic_now() + 2 * AT_END; judge(AT_END) && monotonic_now() < until;) {
        nanosleep(&pause, NULL);
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * What is inherited
 */

typedef union {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
    struct sockaddr_storage all;
} Address;

static int port_of(const Address *a)
{
    return a->any.sa_family == AF_INET ? a->in.sin_port : a->any.sa_family == AF_INET6 ? a->in6.sin6_port : 0;
}

static void write_address(const Address *a, socklen_t size, char *into, size_t room)
{
    char host[INET6_ADDRSTRLEN];
    into[0] = '\0';
    if (a->any.sa_family == AF_INET && inet_ntop(AF_INET, &a->in.sin_addr, host, sizeof(host)) != NULL) {
        snprintf(into, room, "%s:%d", host, ntohs(a->in.sin_port));
    }
    else if (a->any.sa_family == AF_INET6 && inet_ntop(AF_INET6, &a->in6.sin6_addr, host, sizeof(host)) != NULL) {
        snprintf(into, room, "[%s]:%d", host, ntohs(a->in6.sin6_port));
    }
    else if (a->any.sa_family == AF_UNIX && size > offsetof(struct sockaddr_un, sun_path)) {
        size_t n = Py_MIN(size - offsetof(struct sockaddr_un, sun_path), room - 1);
        memcpy(into, a->un.sun_path, n);
        into[n] = '\0';
        if (into[0] == '\0') {
            into[0] = '@'; /* as the system's tools write a name that is no file's */
        }
    }
}

static int descends_from(pid_t pid)
{
    int found = pid == me;
    for (int i = 0; i < n_ancestors; i++) {
        found |= ancestors[i] == pid;
    }
    return found;
}

static int uses_tls_of_kernel(int fd)
{
    char name[32] = "";
    socklen_t size = sizeof(name);
    return getsockopt(fd, IPPROTO_TCP, TCP_ULP, name, &size) == 0 && size > 0 && name[0] != '\0';
}

/* -> whether it is a connected socket. `listener`: set for one that listens. */
static int read_socket(int fd, Connection *c, Address *local, int *listener)
{
    int type = 0, listens = 0, protocol = 0;
    socklen_t size = sizeof(type), at = sizeof(*local);
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM) {
        return 0;
    }
    memset(local, 0, sizeof(*local));
    size = sizeof(listens);
    if (getsockname(fd, &local->any, &at) != 0 || getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0) {
        return 0;
    }
    write_address(local, at, c->local, sizeof(c->local));
    *listener = listens;
    Address peer = {0};
    at = sizeof(peer);
    if (listens || getpeername(fd, &peer.any, &at) != 0) {
        return 0;
    }
    write_address(&peer, at, c->peer, sizeof(c->peer));
    c->kind = OTHER;
    if (local->any.sa_family == AF_UNIX) {
        struct ucred maker = {0};
        size = sizeof(maker);
        c->kind = UNIX;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &maker, &size) == 0 && descends_from(maker.pid)) {
            return 0; /* both ends are of this family: made for its members to talk */
        }
    }
    else if (local->any.sa_family == AF_INET || local->any.sa_family == AF_INET6) {
        size = sizeof(protocol);
        c->kind = TCP;
        c->counted = getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 && protocol == IPPROTO_TCP &&
                     !uses_tls_of_kernel(fd) && count(fd, &c->at_fork);
    }
    return 1;
}

/* -> whether it is an end of a pipe without a name. */
static int read_pipe(int fd, Connection *c)
{
    char path[64], found[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, found, sizeof(found) - 1);
    c->kind = PIPE;
    for (int i = 0; i < n_given; i++) {
        n = given[i] == c->inode ? 0 : n;
    }
    return n > 6 && strncmp(found, "pipe:[", 6) == 0;
}

static void find_given(void)
{
    struct stat status;
    struct dirent *entry;
    DIR *list = opendir("/proc/self/fd");
    while (list != NULL && n_given < MOST_GIVEN && (entry = readdir(list)) != NULL) {
        if (fstat(atoi(entry->d_name), &status) == 0 && S_ISFIFO(status.st_mode)) {
            given[n_given++] = status.st_ino;
        }
    }
    if (list != NULL) {
        closedir(list);
    }
}

typedef struct {
    int family, port;
    char name[128];
} Listener;

static void find_connections(DIR *list)
{
    static Listener listeners[64];
    static int families[MOST], ports[MOST];
    struct stat standard[3], status;
    int n_listeners = 0, is_standard_stream[3], directory = dirfd(list);
    for (int i = 0; i < 3; i++) {
        is_standard_stream[i] = fstat(i, &standard[i]) == 0;
    }
    struct dirent *entry;
    while ((entry = readdir(list)) != NULL && n_connections < MOST) {
        int fd = atoi(entry->d_name), listener = 0, found = 0;
        if (fd <= 2 || fd >= MOST_FDS || fd == directory || fstat(fd, &status) != 0 ||
            !(S_ISSOCK(status.st_mode) || S_ISFIFO(status.st_mode))) {
            continue;
        }
        for (int i = 0; i < 3; i++) {
            found |= is_standard_stream[i] && standard[i].st_ino == status.st_ino && standard[i].st_dev == status.st_dev;
        }
        if (found) {
            continue;
        }
        Connection *c = &connections[n_connections];
        Address local = {0};
        memset(c, 0, sizeof(*c));
        c->fd = fd;
        c->inode = status.st_ino;
        c->device = status.st_dev;
        if (S_ISFIFO(status.st_mode) ? read_pipe(fd, c) : read_socket(fd, c, &local, &listener)) {
            families[n_connections] = local.any.sa_family;
            ports[n_connections] = port_of(&local);
            number_of[fd] = (uint16_t)++n_connections;
        }
        else if (listener && n_listeners < (int)Py_ARRAY_LENGTH(listeners)) {
            Listener *l = &listeners[n_listeners++];
            l->family = local.any.sa_family;
            l->port = port_of(&local);
            memcpy(l->name, c->local, sizeof(l->name));
        }
    }
    for (int i = 0; i < n_connections; i++) {
        Connection *c = &connections[i];
        for (int k = 0; k < n_listeners; k++) {
            c->accepted |= c->kind == TCP    ? ports[i] != 0 && listeners[k].port == ports[i]
                           : c->kind == UNIX ? c->local[0] && strcmp(listeners[k].name, c->local) == 0
                                             : listeners[k].family == families[i];
        }
        if (c->accepted && !c->counted) {
            number_of[c->fd] = 0; /* nothing can be known of it */
        }
        int ends = 0; /* other descriptors of the same pipe that do what this one does not: then it has both ends */
        for (int k = 0; c->kind == PIPE && k < n_connections; k++) {
            Connection *o = &connections[k];
            ends |= o->kind == PIPE && o->inode == c->inode && fcntl(o->fd, F_GETFL) >= 0 &&
                    (fcntl(o->fd, F_GETFL) & O_ACCMODE) != (fcntl(c->fd, F_GETFL) & O_ACCMODE);
        }
        if (ends || (c->kind == PIPE && (fcntl(c->fd, F_GETFL) & O_ACCMODE) == O_RDWR)) {
            number_of[c->fd] = 0;
        }
    }
}

static int anything_watched(void)
{
    for (int i = 0; i < n_connections; i++) {
        if (number_of[connections[i].fd]) {
            return 1;
        }
    }
    return 0;
}

void connections_forget(void)
{
    for (int i = 0; i < n_connections; i++) {
        number_of[connections[i].fd] = 0;
    }
    n_connections = 0;
}

void connections_at_exit(void (*function)(void))
{
    also_at_exit = function;
    if (enabled && me == getpid()) {
        interpose(&calls[Py_ARRAY_LENGTH(calls) - 1], 1);
    }
}

void connections_in_child(unsigned long fork)
{
    if (me == 0) {
        return; /* never asked for */
    }
    connections_forget();
    for (int i = 0; i < MOST_NOTES; i++) {
        notes[i].state = FREE;
    }
    judge_runs = telling = 0;
    memmove(ancestors + 1, ancestors, sizeof(ancestors) - sizeof(*ancestors));
    ancestors[0] = me;
    n_ancestors = Py_MIN(n_ancestors + 1, MOST_ANCESTORS);
    me = known_from = getpid();
    born = monotonic_now();
    fork_number = fork;
    int error = errno;
    DIR *list = enabled && fork ? opendir("/proc/self/fd") : NULL;
    if (list != NULL) {
        find_connections(list);
        closedir(list);
    }
    if (anything_watched()) {
        struct stat status;
        if (fstat(2, &status) == 0) {
            stderr_inode = status.st_ino;
            stderr_device = status.st_dev;
        }
        if (interpose(calls, Py_ARRAY_LENGTH(calls)) < 0) {
            connections_forget();
        }
    }
    errno = error;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * For Python
 */

/* A copy for ever: a process is told of these once or twice in its life. */
static char *copy_text(PyObject *text)
{
    const char *bytes = PyUnicode_Check(text) ? PyUnicode_AsUTF8(text) : NULL;
    char *copy = bytes == NULL ? NULL : strdup(bytes);
    if (copy == NULL && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_TypeError, "a text is needed");
    }
    return copy;
}

static const char *const *copy_texts(PyObject *tuple)
{
    Py_ssize_t n = PyTuple_Check(tuple) ? PyTuple_GET_SIZE(tuple) : -1;
    const char **copy = n < 0 ? NULL : calloc((size_t)n + 1, sizeof(*copy));
    if (copy == NULL) {
        PyErr_SetString(PyExc_TypeError, "a tuple of texts is needed");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        copy[i] = copy_text(PyTuple_GET_ITEM(tuple, i));
        if (copy[i] == NULL) {
            return NULL;
        }
    }
    return copy;
}

PyObject *watch_connections(PyObject *module, PyObject *args)
{
    int on;
    PyObject *file, *table, *advice;
    (void)module;
    if (!PyArg_ParseTuple(args, "pOO!O", &on, &file, &PyTuple_Type, &table, &advice)) {
        return NULL;
    }
    enabled = 0;
    if (!on) {
        connections_forget();
        Py_RETURN_FALSE;
    }
    if (n_remedies == 0) {
        remedies = calloc((size_t)PyTuple_GET_SIZE(table) + 1, sizeof(*remedies));
        general_advice = copy_text(advice);
        if (remedies == NULL || general_advice == NULL) {
            return PyErr_Occurred() ? NULL : PyErr_NoMemory();
        }
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(table); i++) {
            PyObject *what, *text, *packages, *libraries;
            Remedy *r = &remedies[i];
            if (!PyArg_ParseTuple(PyTuple_GET_ITEM(table, i), "OOOO", &what, &text, &packages, &libraries) ||
                (r->what = copy_text(what)) == NULL || (r->advice = copy_text(text)) == NULL ||
                (r->packages = copy_texts(packages)) == NULL || (r->libraries = copy_texts(libraries)) == NULL) {
                return NULL;
            }
        }
        n_remedies = (int)PyTuple_GET_SIZE(table);
    }
    char *path = file == Py_None ? NULL : copy_text(file);
    if (file != Py_None && path == NULL) {
        return NULL;
    }
    events = path; /* the former one may be in use by another thread, and stays */
    if (me == 0) {
        me = getpid();
        atexit(at_end);
        find_given();
    }
    enabled = interpose_init(calls, Py_ARRAY_LENGTH(calls)) == 0;
    return PyBool_FromLong(enabled);
}

PyObject *inherited_connections(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < n_connections; i++) {
        const Connection *c = &connections[i];
        PyObject *item = number_of[c->fd] == 0 ? Py_NewRef(Py_None)
                                               : Py_BuildValue("(isO&O&O)", c->fd, kinds[c->kind], PyUnicode_DecodeFSDefault,
                                                               c->local, PyUnicode_DecodeFSDefault, c->peer,
                                                               c->accepted ? Py_True : Py_False);
        if (item == NULL || (item != Py_None && PyList_Append(list, item) < 0)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

#else

void connections_at_exit(void (*function)(void))
{
    (void)function;
}

void connections_in_child(unsigned long fork)
{
    (void)fork;
}

void connections_forget(void)
{
}

PyObject *watch_connections(PyObject *module, PyObject *args)
{
    (void)module;
    (void)args;
    Py_RETURN_FALSE;
}

PyObject *inherited_connections(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyList_New(0);
}

#endif
#endif
