/* Whether there is an object at an address that came from a slot of which nobody knows whether it is in use. */
#ifndef FORKPROOF_ALIVE_H
#define FORKPROOF_ALIVE_H

#include <Python.h>

/* No address does harm, and what is there is read only as far as needed. An object in the middle of its deallocation is not
 * alive. Holds for as long as the GIL is held and no code of the program's runs. */
int is_alive(const void *address);

/* Forgets what has been found to be mapped: before each look, since the program may have given memory back. */
void begin_to_look(void);

#endif
