/* Waiting a moment for the next request before going to sleep. */
#ifndef MINIFO_PATIENCE_H
#define MINIFO_PATIENCE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

/* True if a request can be read from the descriptor, now or within a moment.  Lets go of the interpreter's lock, if it is
 * held, while it waits. */
bool comes_soon(int fd);

/* Count a request; false if so many came in a row that everybody else is to get a turn before the next one. */
bool may_go_on(void);

/* A request was received: how long it was slept for tells whether waiting would have paid. */
void note_arrival(void);

/* comes_soon(), for the module's functions. */
extern PyMethodDef patience_methods[];

#endif
