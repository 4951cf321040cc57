/* The clock from which the kernel takes the times of files. */
#ifndef MINIFO_CLOCK_H
#define MINIFO_CLOCK_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* The module's function kernel_time(). */
extern PyMethodDef clock_methods[];

#endif
