/* Waiting a moment for the next request before going to sleep. */
#ifndef MINIFO_PATIENCE_H
#define MINIFO_PATIENCE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

/* True if a request can be read from the descriptor, now or within a moment.  Needs no interpreter's lock. */
bool comes_soon(int fd);

/* A request was received: how long it was slept for tells whether waiting would have paid. */
void note_arrival(void);

/* comes_soon(), for the module's functions. */
extern PyMethodDef patience_methods[];

#endif
