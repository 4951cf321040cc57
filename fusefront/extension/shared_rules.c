/* The constants that Python passes to the extension (shared_rules.h). */
#include "shared_rules.h"

#include <string.h>

enum { NAMES_MAX = 8, NAME_ROOM = 32 };

struct names {
	char text[NAMES_MAX][NAME_ROOM];
	Py_ssize_t count;
};

struct shared_rules rules;

static struct names xattr_prefixes; /* a name of which one of these is a proper prefix is valid */
static struct names xattr_names;    /* complete valid names without such a prefix */

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

/* Copy the bytes objects of a tuple; false, with an exception set, if an item is not bytes, or they do not fit. */
static bool parse_names(PyObject *tuple, struct names *names)
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
	     "Set the constants that Python and the extension have in common.\n"
	     "requests_per_turn: number of requests served in a row before the event loop runs other tasks.\n"
	     "slow_read: ns; after a longer read of a file Python answers READ of it.\n"
	     "for_ever: seconds that the kernel may cache a reply.\n"
	     "name_max: bytes; Python answers requests about a longer name.\n"
	     "xattr_prefixes, xattr_names: tuples of bytes; GETXATTR of a missing attribute is answered with ENODATA\n"
	     "only if its name is one of these names or begins with one of these prefixes.");

static PyObject *py_set_rules(PyObject *module, PyObject *args)
{
	struct shared_rules given;
	struct names prefixes, names;
	PyObject *prefix_tuple, *name_tuple;
	long long slow_read;
	Py_ssize_t name_max;

	(void)module;
	if (!PyArg_ParseTuple(args, "iLdnO!O!:set_rules", &given.requests_per_turn, &slow_read, &given.for_ever,
			      &name_max, &PyTuple_Type, &prefix_tuple, &PyTuple_Type, &name_tuple))
		return NULL;
	if (!parse_names(prefix_tuple, &prefixes) || !parse_names(name_tuple, &names))
		return NULL;
	given.slow_read = slow_read;
	given.name_max = (size_t)name_max;
	rules = given;
	xattr_prefixes = prefixes;
	xattr_names = names;
	Py_RETURN_NONE;
}

PyMethodDef shared_rules_methods[] = {
	{"set_rules", py_set_rules, METH_VARARGS, set_rules_doc},
	{NULL, NULL, 0, NULL},
};
