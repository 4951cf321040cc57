/* The clock by which the kernel stamps what programs write (engine/tree/clock.py says why).
 *
 * It is the coarse clock, but since Linux 6.13 never behind a fine time that some file system has shown (multigrain
 * timestamps), and no system call tells that.  So a file of our own is stamped and looked at: an empty one in memory, whose
 * stamp the kernel moves each time it has been seen.
 */
#include "clock.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#define NS_PER_SECOND 1000000000LL

static int stamped = -1; /* the file */

PyDoc_STRVAR(kernel_time_doc, "kernel_time() -> int\n\n"
			      "The time, in ns, that the kernel would stamp a file with that is written now, or a little later: never\n"
			      "before any such time that a program may have seen.");

static PyObject *py_kernel_time(PyObject *module, PyObject *unused)
{
	struct timespec now;
	struct stat seen;

	(void)module;
	(void)unused;
	if (stamped < 0)
		stamped = memfd_create("minifo-clock", MFD_CLOEXEC);
	if (stamped >= 0 && futimens(stamped, NULL) == 0 && fstat(stamped, &seen) == 0)
		now = seen.st_ctim;
	else
		clock_gettime(CLOCK_REALTIME_COARSE, &now); /* out of descriptors: right to a few milliseconds */
	return PyLong_FromLongLong(now.tv_sec * NS_PER_SECOND + now.tv_nsec);
}

PyMethodDef clock_methods[] = {
	{"kernel_time", py_kernel_time, METH_NOARGS, kernel_time_doc},
	{NULL, NULL, 0, NULL},
};
