/* How a call of one library to another is led elsewhere: by the word through which it goes.
 *
 * A library calls a function of another through a word of its global offset table, which the dynamic linker has filled in. Each
 * library's relocations say which word is for which name. All words for a catalogued name are set to the replacement; so
 * compiled drivers are reached as well as the interpreter, and nothing of the program's is loaded or patched for it.
 *
 * The list of libraries is walked by the linker's own debugger interface (`_r_debug`, link.h), not by dl_iterate_phdr(): that
 * takes a lock, which a thread that is gone may have. Words lie in memory that is often read-only (RELRO): they are written
 * through /proc/self/mem, which needs no other protection for a page, not even for a moment.
 *
 * Not reached: system calls that a library makes itself (Go), calls within the C library (stdio), libraries loaded later.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "interpose.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__linux__) && defined(__GLIBC__) && (defined(__x86_64__) || defined(__aarch64__))
#include <link.h>

#ifdef __x86_64__
#define BY_CALL R_X86_64_JUMP_SLOT
#define BY_ADDRESS R_X86_64_GLOB_DAT
#else
#define BY_CALL R_AARCH64_JUMP_SLOT
#define BY_ADDRESS R_AARCH64_GLOB_DAT
#endif

int interpose_init(const Replaced *table, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        *table[i].original = dlsym(RTLD_DEFAULT, table[i].name);
    }
    return 0;
}

/* What of a library's dynamic section is needed. */
typedef struct {
    uintptr_t base, end; /* code lies between, the dynamic section after it */
    const char *names;
    const Elf64_Sym *symbols;
    const Elf64_Rela *calls, *others;
    size_t n_calls, n_others, n_relative;
} Library;

/* glibc has put the library's base into the pointers of most libraries, and not of those whose section cannot be written. */
static const void *in(uintptr_t base, uintptr_t pointer)
{
    return (const void *)(pointer < base ? base + pointer : pointer);
}

static int read_library(const struct link_map *map, Library *l)
{
    size_t calls = 0, others = 0;
    *l = (Library){.base = map->l_addr, .end = (uintptr_t)map->l_ld};
    for (const Elf64_Dyn *d = map->l_ld; d != NULL && d->d_tag != DT_NULL; d++) {
        switch (d->d_tag) {
        case DT_STRTAB: l->names = in(l->base, d->d_un.d_ptr); break;
        case DT_SYMTAB: l->symbols = in(l->base, d->d_un.d_ptr); break;
        case DT_JMPREL: l->calls = in(l->base, d->d_un.d_ptr); break;
        case DT_PLTRELSZ: calls = d->d_un.d_val; break;
        case DT_RELA: l->others = in(l->base, d->d_un.d_ptr); break;
        case DT_RELASZ: others = d->d_un.d_val; break;
        case DT_RELACOUNT: l->n_relative = d->d_un.d_val; break;
        default: break;
        }
    }
    l->n_calls = l->calls == NULL ? 0 : calls / sizeof(*l->calls);
    l->n_others = l->others == NULL ? 0 : others / sizeof(*l->others);
    return l->names != NULL && l->symbols != NULL;
}

static int set_word(int memory, uintptr_t address, void *value)
{
    if (pwrite(memory, &value, sizeof(value), (off_t)address) == (ssize_t)sizeof(value)) {
        return 1;
    }
    /* A kernel that lets nobody write to read-only memory that way. */
    uintptr_t size = (uintptr_t)sysconf(_SC_PAGESIZE), page = address & ~(size - 1);
    if (mprotect((void *)page, size, PROT_READ | PROT_WRITE) != 0) {
        return 0;
    }
    *(void **)address = value;
    mprotect((void *)page, size, PROT_READ);
    return 1;
}

static int lead(const Library *l, const Elf64_Rela *r, int memory, const Replaced *table, size_t n)
{
    unsigned type = (unsigned)ELF64_R_TYPE(r->r_info);
    if (type != BY_CALL && type != BY_ADDRESS) {
        return 0;
    }
    const Elf64_Sym *symbol = &l->symbols[ELF64_R_SYM(r->r_info)];
    const char *name = l->names + symbol->st_name;
    if (symbol->st_shndx != SHN_UNDEF || (*name != 'r' && *name != 'w' && *name != 's' && *name != '_')) {
        return 0; /* no other letters begin the names that are replaced */
    }
    for (size_t i = 0; i < n; i++) {
        void **word = (void **)(l->base + r->r_offset);
        if (*table[i].original == NULL || strcmp(name, table[i].name) != 0) {
            continue;
        }
        /* A call that has not been made yet leads to the library's own code, to be resolved; anything else than that and the
         * function itself is another library's function of the same name, or a replacement of somebody else's. */
        uintptr_t now = (uintptr_t)*word;
        if (*word != *table[i].original && (type != BY_CALL || now < l->base || now >= l->end)) {
            return 0;
        }
        return set_word(memory, (uintptr_t)word, table[i].replacement);
    }
    return 0;
}

int interpose(const Replaced *table, size_t n)
{
    if (_r_debug.r_state != RT_CONSISTENT) {
        return -1; /* a thread that is gone was loading a library */
    }
    int memory = open("/proc/self/mem", O_RDWR | O_CLOEXEC), written = 0;
    if (memory < 0) {
        return -1;
    }
    Library l;
    for (const struct link_map *map = _r_debug.r_map; map != NULL; map = map->l_next) {
        const char *file = strrchr(map->l_name, '/');
        if ((file != NULL && (strncmp(file, "/libc.so", 8) == 0 || strncmp(file, "/ld-linux", 9) == 0)) ||
            !read_library(map, &l)) {
            continue;
        }
        for (size_t i = 0; i < l.n_calls; i++) {
            written += lead(&l, &l.calls[i], memory, table, n);
        }
        for (size_t i = l.n_relative; i < l.n_others; i++) {
            written += lead(&l, &l.others[i], memory, table, n);
        }
    }
    close(memory);
    return written;
}

#else

int interpose_init(const Replaced *table, size_t n)
{
    (void)table;
    (void)n;
    return -1;
}

int interpose(const Replaced *table, size_t n)
{
    (void)table;
    (void)n;
    return -1;
}

#endif
