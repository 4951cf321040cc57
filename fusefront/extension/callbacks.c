/* Calls of Python: the callback for each kind of request, and the conversion of arguments and results.
 *
 * A callback takes numbers and bytes, and returns the reply, or NotImplemented to pass the request on to pyfuse3.
 */
#include "callbacks.h"

#include <errno.h>

enum {
	MOST_ARGUMENTS = 12,
	ERRNO_MAX = 999, /* libfuse refuses to reply a larger one */
};

static const char *const kinds[KINDS] = {
	[NONE] = "",
	[FORGET] = "forget",   [GETATTR] = "getattr",   [GETXATTR] = "getxattr", [LINK] = "link",
	[LOOKUP] = "lookup",   [MKDIR] = "mkdir",       [MKNOD] = "mknod",       [READ] = "read",
	[READDIR] = "readdir", [READLINK] = "readlink", [RENAME] = "rename",     [RMDIR] = "rmdir",
	[SETATTR] = "setattr", [SYMLINK] = "symlink",   [TMPFILE] = "tmpfile",   [UNLINK] = "unlink",
	[WRITE] = "write",
};

static PyObject *callbacks[KINDS]; /* NULL: none is installed */

bool has_callback(int kind)
{
	return callbacks[kind] != NULL && PyGILState_Check();
}

const char *name_of_kind(int kind)
{
	return kinds[kind];
}

PyObject *invalid_result(int kind, PyObject *result)
{
	if (!PyErr_Occurred())
		PyErr_Format(PyExc_TypeError, "the callback for %s returned %.200R", kinds[kind], result);
	PyErr_WriteUnraisable(callbacks[kind]);
	Py_XDECREF(result);
	return PyLong_FromLong(EIO);
}

int errno_of(PyObject *result)
{
	long number = PyLong_CheckExact(result) ? PyLong_AsLong(result) : 0;

	if (number == -1)
		PyErr_Clear(); /* too large for a long, so no errno */
	return number > 0 && number <= ERRNO_MAX ? (int)number : 0;
}

PyObject *call_python(int kind, const char *form, ...)
{
	PyObject *arguments[MOST_ARGUMENTS], *result = NULL, *function;
	size_t count = 0;
	bool complete = true;
	va_list values;

	if (!has_callback(kind))
		return NULL;
	function = Py_NewRef(callbacks[kind]); /* it may call set_callbacks(), which drops the other reference */
	va_start(values, form);
	for (; *form; form++, count++) {
		PyObject *argument = NULL;
		switch (*form) {
		case 'y': /* a name */
			argument = PyBytes_FromString(va_arg(values, const char *));
			break;
		case 'u':
			argument = PyLong_FromUnsignedLong(va_arg(values, unsigned));
			break;
		case 'K':
			argument = PyLong_FromUnsignedLongLong(va_arg(values, unsigned long long));
			break;
		case 'L':
			argument = PyLong_FromLongLong(va_arg(values, long long));
			break;
		case 'O': /* NULL: the caller could not create it, and an exception is set */
			argument = va_arg(values, PyObject *);
			break;
		}
		complete = complete && argument != NULL;
		arguments[count] = argument;
	}
	va_end(values);
	if (complete)
		result = PyObject_Vectorcall(function, arguments, count, NULL);
	while (count > 0)
		Py_XDECREF(arguments[--count]);
	Py_DECREF(function);
	if (result == Py_NotImplemented) {
		Py_DECREF(result);
		return NULL;
	}
	return result != NULL ? result : invalid_result(kind, NULL);
}

/* ------------------------------------------------------------------------------------------------------------------
 * Functions of the Python module
 */

static void clear_callbacks(void)
{
	for (int kind = 0; kind < KINDS; kind++)
		Py_CLEAR(callbacks[kind]);
}

PyDoc_STRVAR(set_callbacks_doc,
	     "set_callbacks(callbacks: dict[str, Callable] | None) -> None\n\n"
	     "Call these functions for requests of the current or the next session, before pyfuse3 gets them.\n"
	     "They replace all callbacks that were set before; None removes those.\n"
	     "A key is the name of a request, as pyfuse3 calls it.  A function returns the reply, an errno, or\n"
	     "NotImplemented to pass the request on to pyfuse3.");

/* The kind of request that has this name; KINDS if there is none. */
static int kind_of(PyObject *name)
{
	int kind = NONE + 1;

	while (kind < KINDS && !(PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, kinds[kind]) == 0))
		kind++;
	return kind;
}

static PyObject *py_set_callbacks(PyObject *module, PyObject *functions)
{
	PyObject *name, *function;

	(void)module;
	if (functions == Py_None) {
		clear_callbacks();
		Py_RETURN_NONE;
	}
	if (!PyDict_Check(functions)) {
		PyErr_SetString(PyExc_TypeError, "set_callbacks() takes a dict of functions");
		return NULL;
	}
	for (Py_ssize_t at = 0; PyDict_Next(functions, &at, &name, &function);)
		if (kind_of(name) == KINDS || !PyCallable_Check(function)) {
			PyErr_Format(PyExc_TypeError, "%.200R is not the name of a request, or %.200R is not callable", name,
				     function);
			return NULL;
		}
	clear_callbacks();
	for (Py_ssize_t at = 0; PyDict_Next(functions, &at, &name, &function);)
		callbacks[kind_of(name)] = Py_NewRef(function);
	Py_RETURN_NONE;
}

PyMethodDef callback_methods[] = {
	{"set_callbacks", py_set_callbacks, METH_O, set_callbacks_doc},
	{NULL, NULL, 0, NULL},
};
