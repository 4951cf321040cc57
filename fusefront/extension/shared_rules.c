/* Rules that the extension follows as Python does.  shared_rules.h says when they are told. */
#include "shared_rules.h"

#include <string.h>

enum { NAMES_MAX = 8, NAME_ROOM = 32 };

struct names {
	char text[NAMES_MAX][NAME_ROOM];
	Py_ssize_t count;
};

struct shared_rules rules;

static struct names xattr_prefixes; /* of names that end in anything */
static struct names xattr_names;    /* whole names beside them */

bool is_xattr_name(const char *name)
{
	for (Py_ssize_t at = 0; at < xattr_prefixes.count; at++) {
		size_t length = strlen(xattr_prefixes.text[at]);
		if (strncmp(name, xattr_prefixes.text[at], length) == 0 && name[length] != 0)
			return true;
	}
	for (Py_ssize_t at = 0; at < xattr_names.count; at++)
		if (strcmp(name, xattr_names.text[at]) == 0)
			return true;
	return false;
}

/* Copy the bytes objects in a tuple; false, with an exception set, if they are something else, too many or too long. */
static bool take_names(PyObject *tuple, struct names *names)
{
	struct names found = {.count = PyTuple_GET_SIZE(tuple)};

	for (Py_ssize_t at = 0; at < found.count; at++) {
		const char *text = PyBytes_AsString(PyTuple_GET_ITEM(tuple, at));
		if (text == NULL)
			return false;
		if (at == NAMES_MAX || strlen(text) >= NAME_ROOM) {
			PyErr_SetString(PyExc_ValueError, "names of extended attributes are too many or too long");
			return false;
		}
		strcpy(found.text[at], text);
	}
	*names = found;
	return true;
}

PyDoc_STRVAR(set_rules_doc,
	     "set_rules(requests_per_turn, slow_read, for_ever, name_max, xattr_prefixes, xattr_names) -> None\n\n"
	     "Tell the extension what it must do as Python does.\n"
	     "requests_per_turn: how many requests are served in a row before the event loop gets a turn.\n"
	     "slow_read: ns; a file whose read takes longer is left to Python.\n"
	     "for_ever: seconds the kernel may keep what it was told.\n"
	     "name_max: bytes in one name; longer ones are left to Python.\n"
	     "xattr_prefixes, xattr_names: tuples of bytes: extended attributes whose absence is answered ENODATA.");

static PyObject *py_set_rules(PyObject *module, PyObject *args)
{
	struct shared_rules told;
	struct names prefixes, names;
	PyObject *prefix_tuple, *name_tuple;
	long long slow_read;
	Py_ssize_t name_max;

	(void)module;
	if (!PyArg_ParseTuple(args, "iLdnO!O!:set_rules", &told.requests_per_turn, &slow_read, &told.for_ever,
			      &name_max, &PyTuple_Type, &prefix_tuple, &PyTuple_Type, &name_tuple))
		return NULL;
	if (!take_names(prefix_tuple, &prefixes) || !take_names(name_tuple, &names))
		return NULL;
	told.slow_read = slow_read;
	told.name_max = (size_t)name_max;
	rules = told;
	xattr_prefixes = prefixes;
	xattr_names = names;
	Py_RETURN_NONE;
}

PyMethodDef shared_rules_methods[] = {
	{"set_rules", py_set_rules, METH_VARARGS, set_rules_doc},
	{NULL, NULL, 0, NULL},
};
