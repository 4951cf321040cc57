/* Keeps all names of some directories, so that LOOKUP of a missing name is answered without Python. */
#ifndef MINIFO_NAMES_H
#define MINIFO_NAMES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

/* True if the directory certainly has no such name; false if it has it, or if that is unknown. */
bool is_absent(uint64_t directory, const char *name);

/* Forget all directories: a new session begins. */
void clear_names(void);

/* The module's functions publish_names(), name_appeared() and name_vanished(). */
extern PyMethodDef names_methods[];

#endif
