/* Counts requests by their kind and the time that each took, and replies by their errno.
 *
 * A request that Python serves takes some ten microseconds at least, and to read the clock twice for it a twentieth of
 * one.  A request that is replied to without Python takes less, so its time is not taken.  All of this runs in the
 * thread that serves requests.
 */
#include "counters.h"

#include "callbacks.h"
#include "clock.h"

enum {
	BUCKETS = 40,    /* the last one also has what took longer: 9 minutes */
	ERRNOS = 1000,   /* libfuse refuses to reply a larger one */
};

static uint64_t cached[KINDS];

static struct {
	uint64_t total;            /* ns */
	uint64_t buckets[BUCKETS]; /* bucket n counts times below 2^n ns, and not below 2^(n-1) */
} served[KINDS];

static uint64_t errors[ERRNOS];

void count_cached(int kind)
{
	cached[kind]++;
}

void count_served(int kind, int64_t began)
{
	uint64_t ns = (uint64_t)(monotonic_ns() - began);
	int bucket = ns == 0 ? 0 : 64 - __builtin_clzll(ns);

	served[kind].total += ns;
	served[kind].buckets[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
}

void count_error(int code)
{
	if (code > 0 && code < ERRNOS)
		errors[code]++;
}

PyDoc_STRVAR(counters_doc, "counters() -> (cached, served, errors)\n\n"
			 "Return what was counted since the process began.\n"
			 "cached: requests that were replied to without Python, by their kind.\n"
			 "served: for each kind that Python replied to by a direct call: the sum of their times in ns, and\n"
			 "how many took below 2^n ns and not below 2^(n-1), for n from 0.\n"
			 "errors: replies by their errno, without those of pyfuse3.");

/* Set dict[key] = value, and drop the references to both; false, with an exception set, if that fails. */
static bool put(PyObject *dict, PyObject *key, PyObject *value)
{
	bool done = key != NULL && value != NULL && PyDict_SetItem(dict, key, value) == 0;

	Py_XDECREF(key);
	Py_XDECREF(value);
	return done;
}

static PyObject *served_of(int kind)
{
	PyObject *list = PyList_New(BUCKETS);

	for (int at = 0; list != NULL && at < BUCKETS; at++) {
		PyObject *count = PyLong_FromUnsignedLongLong(served[kind].buckets[at]);
		if (count == NULL)
			Py_CLEAR(list);
		else
			PyList_SET_ITEM(list, at, count);
	}
	return list == NULL ? NULL : Py_BuildValue("KN", (unsigned long long)served[kind].total, list);
}

static PyObject *py_counters(PyObject *module, PyObject *unused)
{
	PyObject *hits = PyDict_New(), *times = PyDict_New(), *failures = PyDict_New();
	bool done = hits != NULL && times != NULL && failures != NULL;

	(void)module;
	(void)unused;
	for (int kind = NONE + 1; done && kind < KINDS; kind++) {
		if (cached[kind] != 0)
			done = put(hits, PyUnicode_FromString(name_of_kind(kind)),
				   PyLong_FromUnsignedLongLong(cached[kind]));
		if (done && served[kind].total != 0)
			done = put(times, PyUnicode_FromString(name_of_kind(kind)), served_of(kind));
	}
	for (int code = 0; done && code < ERRNOS; code++)
		if (errors[code] != 0)
			done = put(failures, PyLong_FromLong(code), PyLong_FromUnsignedLongLong(errors[code]));
	if (done)
		return Py_BuildValue("NNN", hits, times, failures);
	Py_XDECREF(hits);
	Py_XDECREF(times);
	Py_XDECREF(failures);
	return NULL;
}

PyMethodDef counters_methods[] = {
	{"counters", py_counters, METH_NOARGS, counters_doc},
	{NULL, NULL, 0, NULL},
};
