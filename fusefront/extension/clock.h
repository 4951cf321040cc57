/* The clock by which the kernel stamps what programs write. */
#ifndef MINIFO_CLOCK_H
#define MINIFO_CLOCK_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* kernel_time(), for the module's functions. */
extern PyMethodDef clock_methods[];

#endif
