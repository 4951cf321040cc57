/* The clock from which the kernel takes the times of files (engine/tree/clock.py says what it is used for).
 *
 * It is the coarse clock, but since Linux 6.13 never earlier than a fine-grained time that stat(2) has returned for any
 * file (multigrain timestamps), and no system call returns it.  So we set the times of an empty file in memory to "now"
 * and read them; the kernel gives it a new time after each read.
 */
#include "clock.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

static int clock_file = -1; /* a memfd */

PyDoc_STRVAR(kernel_time_doc, "kernel_time() -> int\n\n"
			      "Return the time, in ns, that the kernel would give a file written now, or slightly later.\n"
			      "It is never earlier than a file time that a program may have read before.");

static PyObject *py_kernel_time(PyObject *module, PyObject *unused)
{
	struct timespec now;
	struct stat seen;

	(void)module;
	(void)unused;
	if (clock_file < 0)
		clock_file = memfd_create("minifo-clock", MFD_CLOEXEC);
	if (clock_file >= 0 && futimens(clock_file, NULL) == 0 && fstat(clock_file, &seen) == 0)
		now = seen.st_ctim;
	else
		clock_gettime(CLOCK_REALTIME_COARSE, &now); /* out of descriptors; exact to a few milliseconds */
	return PyLong_FromLongLong(now.tv_sec * NS_PER_SECOND + now.tv_nsec);
}

PyMethodDef clock_methods[] = {
	{"kernel_time", py_kernel_time, METH_NOARGS, kernel_time_doc},
	{NULL, NULL, 0, NULL},
};
