/* Polls for the next request for a short time before the daemon sleeps.
 *
 * A program that makes one system call after another sends its next request some ten microseconds after our reply, but
 * to sleep and be woken takes a hundred, on a virtual machine more.  So the daemon polls the descriptor for up to 0.1
 * ms, and yields the processor between two polls.  Each time no request arrives, the next polling is half as long, down
 * to nothing; it lasts 0.1 ms again as soon as a request arrives so early that polling would have found it.
 */
#include "spin.h"

#include "clock.h"
#include "shared_rules.h"

#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <time.h>

enum {
	SPIN_MAX = 100000,       /* ns */
	WORTH_SPINNING = 200000, /* ns; had the daemon polled, a shorter sleep would not have been needed */
};

static int64_t spin_ns = SPIN_MAX;
static int64_t asleep_since; /* ns; 0: the daemon does not sleep */
static int in_a_row;         /* requests since the event loop ran */

static bool spin(int fd)
{
	struct pollfd waiting = {.fd = fd, .events = POLLIN};

	if (poll(&waiting, 1, 0) > 0)
		return true;
	int64_t begin = monotonic_ns(), time = begin;
	while (time - begin < spin_ns) {
		sched_yield();
		if (poll(&waiting, 1, 0) > 0)
			return true;
		time = monotonic_ns();
	}
	spin_ns /= 2;
	asleep_since = time;
	return false;
}

void note_arrival(void)
{
	if (asleep_since != 0 && monotonic_ns() - asleep_since < WORTH_SPINNING)
		spin_ns = SPIN_MAX;
	asleep_since = 0;
}

bool arrives_soon(int fd)
{
	PyThreadState *state = PyGILState_Check() ? PyEval_SaveThread() : NULL;
	bool soon = spin(fd);

	if (state != NULL)
		PyEval_RestoreThread(state);
	return soon;
}

bool count_request(void)
{
	return in_a_row < rules.requests_per_turn && ++in_a_row < rules.requests_per_turn;
}

PyDoc_STRVAR(arrives_soon_doc, "arrives_soon(fd) -> bool\n\n"
			     "Return whether a descriptor can be read now or within 0.1 ms.\n"
			     "False also after too many requests in a row: then the event loop must run other tasks.");

static PyObject *py_arrives_soon(PyObject *module, PyObject *number)
{
	int fd = PyObject_AsFileDescriptor(number);

	(void)module;
	if (fd < 0)
		return NULL;
	if (in_a_row < rules.requests_per_turn && arrives_soon(fd))
		Py_RETURN_TRUE;
	in_a_row = 0;
	Py_RETURN_FALSE;
}

PyMethodDef spin_methods[] = {
	{"arrives_soon", py_arrives_soon, METH_O, arrives_soon_doc},
	{NULL, NULL, 0, NULL},
};
