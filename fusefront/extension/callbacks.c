/* Questions to Python: functions by the kind of request, and what they return.
 *
 * A function gets numbers and bytes, and returns what is to be replied, or NotImplemented to leave the request.
 */
#include "callbacks.h"

#include <errno.h>

enum {
	MOST_ARGUMENTS = 12,
	ERRNO_MAX = 999, /* libfuse replies no larger ones */
};

static const char *const kinds[KINDS] = {
	[NONE] = "",
	[FORGET] = "forget",   [GETATTR] = "getattr",   [GETXATTR] = "getxattr", [LINK] = "link",
	[LOOKUP] = "lookup",   [MKDIR] = "mkdir",       [MKNOD] = "mknod",       [READ] = "read",
	[READDIR] = "readdir", [READLINK] = "readlink", [RENAME] = "rename",     [RMDIR] = "rmdir",
	[SETATTR] = "setattr", [SYMLINK] = "symlink",   [TMPFILE] = "tmpfile",   [UNLINK] = "unlink",
	[WRITE] = "write",
};

static PyObject *asked[KINDS]; /* functions, or NULL */

bool is_asked(int kind)
{
	return asked[kind] != NULL && PyGILState_Check();
}

PyObject *no_answer(int kind, PyObject *result)
{
	if (!PyErr_Occurred())
		PyErr_Format(PyExc_TypeError, "%s was answered with %.200R", kinds[kind], result);
	PyErr_WriteUnraisable(asked[kind]);
	Py_XDECREF(result);
	return PyLong_FromLong(EIO);
}

int errno_in(PyObject *result)
{
	long number = PyLong_CheckExact(result) ? PyLong_AsLong(result) : 0;

	if (number == -1)
		PyErr_Clear(); /* none that a long can hold: none at all */
	return number > 0 && number <= ERRNO_MAX ? (int)number : 0;
}

PyObject *ask(int kind, const char *form, ...)
{
	PyObject *arguments[MOST_ARGUMENTS], *result = NULL, *function;
	size_t count = 0;
	bool complete = true;
	va_list values;

	if (!is_asked(kind))
		return NULL;
	function = Py_NewRef(asked[kind]); /* which may call serve() */
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
		case 'O': /* NULL is passed on as the failure it is */
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
	return result != NULL ? result : no_answer(kind, NULL);
}

/* ------------------------------------------------------------------------------------------------------------------
 * Functions of the Python module
 */

static void ask_nobody(void)
{
	for (int kind = 0; kind < KINDS; kind++)
		Py_CLEAR(asked[kind]);
}

PyDoc_STRVAR(serve_doc,
	     "serve(functions: dict[str, Callable] | None) -> None\n\n"
	     "Put requests of the next session, or of the one there is, to these functions before pyfuse3 gets them.\n"
	     "A key is the name of a request, as pyfuse3 calls it.  A function returns NotImplemented to leave the request\n"
	     "to pyfuse3, an errno, or what is to be replied.");

/* The kind of request that goes by a name; KINDS for none. */
static int kind_of(PyObject *name)
{
	int kind = NONE + 1;

	while (kind < KINDS && !(PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, kinds[kind]) == 0))
		kind++;
	return kind;
}

static PyObject *py_serve(PyObject *module, PyObject *functions)
{
	PyObject *name, *function;

	(void)module;
	if (functions == Py_None) {
		ask_nobody();
		Py_RETURN_NONE;
	}
	if (!PyDict_Check(functions)) {
		PyErr_SetString(PyExc_TypeError, "serve() takes a dict of functions");
		return NULL;
	}
	for (Py_ssize_t at = 0; PyDict_Next(functions, &at, &name, &function);)
		if (kind_of(name) == KINDS || !PyCallable_Check(function)) {
			PyErr_Format(PyExc_TypeError, "%.200R is no request that can be served by %.200R", name, function);
			return NULL;
		}
	ask_nobody();
	for (Py_ssize_t at = 0; PyDict_Next(functions, &at, &name, &function);)
		asked[kind_of(name)] = Py_NewRef(function);
	Py_RETURN_NONE;
}

PyMethodDef ask_methods[] = {
	{"serve", py_serve, METH_O, serve_doc},
	{NULL, NULL, 0, NULL},
};
