/* Counters of what the extension does, which counters() tells Python. */
#ifndef MINIFO_COUNTERS_H
#define MINIFO_COUNTERS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

/* Count a request of a kind (callbacks.h) that was replied to without Python. */
void count_cached(int kind);

/* Count a request of a kind that Python replied to by a direct call, which began at a time of monotonic_ns(). */
void count_served(int kind, int64_t began);

/* Count a reply with an errno; 0 is none. */
void count_error(int code);

/* The module's function counters(). */
extern PyMethodDef counters_methods[];

#endif
