/* Waiting a moment for the next request before going to sleep.
 *
 * A program that makes one system call after another has its next request ready some ten microseconds after our reply,
 * but to fall asleep and be woken takes a hundred, on a virtual machine more.  So we look again and again for a moment,
 * and let others run meanwhile.  Where that is in vain the moment gets shorter, down to nothing; it is a whole one again
 * as soon as a request comes so early that it would have been seen.
 */
#include "spin.h"

#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <time.h>

enum {
	IN_A_ROW = 64,    /* requests before everybody else gets a turn */
	MOMENT = 100000,  /* ns */
	AS_GOOD = 200000, /* ns slept, being woken included, for a request that a moment would have been enough for */
};

static int64_t patience = MOMENT;
static int64_t asleep_since; /* 0: not asleep */
static int in_a_row;         /* requests since everybody else had a turn */

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static bool wait_a_moment(int fd)
{
	struct pollfd waiting = {.fd = fd, .events = POLLIN};

	if (poll(&waiting, 1, 0) > 0)
		return true;
	int64_t begin = now(), time = begin;
	while (time - begin < patience) {
		sched_yield();
		if (poll(&waiting, 1, 0) > 0)
			return true;
		time = now();
	}
	patience /= 2;
	asleep_since = time;
	return false;
}

void note_arrival(void)
{
	if (asleep_since != 0 && now() - asleep_since < AS_GOOD)
		patience = MOMENT;
	asleep_since = 0;
}

bool comes_soon(int fd)
{
	PyThreadState *state = PyGILState_Check() ? PyEval_SaveThread() : NULL;
	bool soon = wait_a_moment(fd);

	if (state != NULL)
		PyEval_RestoreThread(state);
	return soon;
}

bool may_go_on(void)
{
	return in_a_row < IN_A_ROW && ++in_a_row < IN_A_ROW;
}

PyDoc_STRVAR(comes_soon_doc, "comes_soon(fd) -> bool\n\n"
			     "Whether a descriptor can be read, now or within a moment that is worth waiting for.\n"
			     "False as well where others are to get a turn first, for there were many requests in a row.");

static PyObject *py_comes_soon(PyObject *module, PyObject *number)
{
	int fd = PyObject_AsFileDescriptor(number);

	(void)module;
	if (fd < 0)
		return NULL;
	if (in_a_row < IN_A_ROW && comes_soon(fd))
		Py_RETURN_TRUE;
	in_a_row = 0;
	Py_RETURN_FALSE;
}

PyMethodDef patience_methods[] = {
	{"comes_soon", py_comes_soon, METH_O, comes_soon_doc},
	{NULL, NULL, 0, NULL},
};
