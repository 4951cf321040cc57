/* Directories all of whose names are known here, so that a look-up in vain need not ask Python. */
#ifndef MINIFO_NAMES_H
#define MINIFO_NAMES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

/* True if a directory surely has no such name; false says nothing. */
bool is_absent(uint64_t directory, const char *name);

/* Forget everything: a new session begins. */
void forget_names(void);

/* publish_names() and its like, for the module's functions. */
extern PyMethodDef names_methods[];

#endif
