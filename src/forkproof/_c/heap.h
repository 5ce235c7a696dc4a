/* Every Lock and RLock of the process, by the collector's own lists. */
#ifndef FORKPROOF_HEAP_H
#define FORKPROOF_HEAP_H

#include "locks.h"

/* Calls `visit` for each until it returns nonzero, or `limit` objects have been passed, the oldest first. Holds the GIL, takes no reference and
 * writes to no object; `visit` must not allocate what the collector tracks. Does nothing while a collection is under way. */
typedef int (*LockVisitor)(void *context, PyObject *lock, Kind kind);
void heap_locks(LockVisitor visit, void *context, size_t limit);

#endif
