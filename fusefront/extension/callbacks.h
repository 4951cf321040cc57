/* Calls of Python: each kind of request has a callback, which set_callbacks() installs. */
#ifndef MINIFO_CALLBACKS_H
#define MINIFO_CALLBACKS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

enum { /* kinds of requests */
	NONE, /* never has a callback */
	FORGET,
	GETATTR,
	GETXATTR,
	LINK,
	LOOKUP,
	MKDIR,
	MKNOD,
	READ,
	READDIR,
	READLINK,
	RENAME,
	RMDIR,
	SETATTR,
	SYMLINK,
	TMPFILE,
	UNLINK,
	WRITE,
	KINDS,
};

/* True if a callback for this kind of request is installed and the calling thread holds the interpreter's lock. */
bool has_callback(int kind);

/* Call the callback for a kind of request.
 *
 * `form` has one letter for each argument: y a name, u, K and L numbers (as in Py_BuildValue()), O an object.  The
 * reference to an object is consumed; create it only if has_callback().
 *
 * Returns a new reference to the callback's result; EIO as a number if it raised an exception, which is logged; NULL if
 * there is no callback or it returned NotImplemented: then the request must be passed on to pyfuse3. */
PyObject *call_python(int kind, const char *form, ...);

/* The name of a kind of request, as pyfuse3 calls it. */
const char *name_of_kind(int kind);

/* Log an invalid result of a callback, or the current exception if there is one; return a new reference to EIO as a
 * number.  The reference `result` is consumed; it may be NULL. */
PyObject *invalid_result(int kind, PyObject *result);

/* The errno that a callback returned; 0 if its result is something else. */
int errno_of(PyObject *result);

/* The module's function set_callbacks(). */
extern PyMethodDef callback_methods[];

#endif
