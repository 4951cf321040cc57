/* Questions to Python: a kind of request is put to the function that serve() was given for it. */
#ifndef MINIFO_ASK_H
#define MINIFO_ASK_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

enum { /* kinds of requests */
	NONE, /* never asked */
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

/* True if there is a function for a kind of request, and the interpreter's lock is held. */
bool is_asked(int kind);

/* Call that function.  `form` is as in Py_BuildValue(), one argument for each letter; what is given as an object is
 * consumed, and to be made only if the kind is_asked().
 *
 * Returns a new reference, an errno's for an exception that came out all the same; or NULL: the request is left. */
PyObject *ask(int kind, const char *form, ...);

/* Log what a function returned that is no answer, or the exception that says why it is none.  Returns EIO for it. */
PyObject *no_answer(int kind, PyObject *result);

/* The errno that a function returned; 0 for anything else. */
int errno_in(PyObject *result);

/* serve(), for the module's functions. */
extern PyMethodDef ask_methods[];

#endif
