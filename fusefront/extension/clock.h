/* The clock from which the kernel takes the times of files. */
#ifndef MINIFO_CLOCK_H
#define MINIFO_CLOCK_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <time.h>

#define NS_PER_SECOND 1000000000LL

/* CLOCK_MONOTONIC, in ns. */
static inline int64_t monotonic_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * NS_PER_SECOND + time.tv_nsec;
}

/* The module's function kernel_time(). */
extern PyMethodDef clock_methods[];

#endif
