/* The clock from which the kernel takes the times of files. */
#ifndef MINIFO_CLOCK_H
#define MINIFO_CLOCK_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NS_PER_SECOND 1000000000LL

/* The module's function kernel_time(). */
extern PyMethodDef clock_methods[];

#endif
