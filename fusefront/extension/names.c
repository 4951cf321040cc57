/* Directories all of whose names are known here, so that a look-up in vain need not ask Python.
 *
 * Whoever makes a file asks for its name first, and whoever replaces one by a rename does; compilers and interpreters
 * look for files in many places.  The names of a directory are kept as hashes, in a table for all directories.  Two names
 * of one hash have an entry each, so a hash that is not in the table stands for no name of the directory.
 *
 * The table only errs on one side: a name too many costs a request that Python answers.  When it is full it is emptied,
 * and Python publishes anew what is in use.
 */
#include "names.h"

#include <string.h>
#include <time.h>

#define FNV_START UINT64_C(14695981039346656037) /* Fowler, Noll and Vo's hash of 64 bits, FNV-1a */
#define FNV_PRIME UINT64_C(1099511628211)
#define MIX UINT64_C(0xff51afd7ed558ccd) /* spreads what the last bytes did over all bits */

enum {
	DIRECTORY_PLACES = 1 << 12,
	NAME_PLACES = 1 << 17,
	MOST_USED = NAME_PLACES / 2, /* with more, to look one up would take many steps */
	NAME_LENGTH_MAX = 255,       /* longer ones are an error, which Python knows */

	EMPTY = 0,
	REMOVED = 1, /* others may come behind it */
	FIRST_HASH = 2,
};

static struct {
	uint64_t ino;  /* 0: none */
	uint64_t salt; /* its names are hashed with: another one each time, for old entries are left in the table */
} directories[DIRECTORY_PLACES];

static uint64_t names[NAME_PLACES];
static uint32_t used; /* places that are not EMPTY */
static uint64_t salts;

static uint64_t hash_of(uint64_t salt, const char *name)
{
	uint64_t hash = FNV_START ^ salt;

	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * FNV_PRIME;
	hash = (hash ^ hash >> 33) * MIX;
	hash ^= hash >> 33;
	return hash < FIRST_HASH ? hash + FIRST_HASH : hash;
}

/* The place of a directory, if all its names are known; else NULL. */
static uint64_t *salt_of(uint64_t ino)
{
	return ino != 0 && directories[ino % DIRECTORY_PLACES].ino == ino ? &directories[ino % DIRECTORY_PLACES].salt : NULL;
}

/* The place of a hash, or of the first EMPTY one where it would be. */
static uint64_t *place_of(uint64_t hash)
{
	uint64_t at = hash % NAME_PLACES;

	while (names[at] != hash && names[at] != EMPTY)
		at = (at + 1) % NAME_PLACES;
	return &names[at];
}

void forget_names(void)
{
	struct timespec time;

	memset(directories, 0, sizeof directories);
	memset(names, 0, sizeof names);
	used = 0;
	clock_gettime(CLOCK_MONOTONIC, &time);
	salts ^= (uint64_t)time.tv_nsec << 32; /* nobody can choose names that are all in one place */
}

bool is_absent(uint64_t directory, const char *name)
{
	const uint64_t *salt = salt_of(directory);

	return salt != NULL && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
	       strnlen(name, NAME_LENGTH_MAX + 1) <= NAME_LENGTH_MAX && *place_of(hash_of(*salt, name)) == EMPTY;
}

/* Add a name of a directory whose names are known; false if there was no room, and everything is forgotten. */
static bool add(uint64_t salt, const char *name)
{
	uint64_t hash = hash_of(salt, name), at = hash % NAME_PLACES;

	while (names[at] >= FIRST_HASH)
		at = (at + 1) % NAME_PLACES;
	if (names[at] == EMPTY && ++used > MOST_USED) {
		forget_names();
		return false;
	}
	names[at] = hash;
	return true;
}

/* ------------------------------------------------------------------------------------------------------------------
 * Functions of the Python module
 */

PyDoc_STRVAR(publish_names_doc, "publish_names(ino, names) -> None\n\n"
				"Let look-ups of other names in a directory be answered here, in vain.  names: a list of bytes.\n"
				"From then on each change of its names must be told.");

static PyObject *py_publish_names(PyObject *module, PyObject *args)
{
	unsigned long long ino;
	PyObject *list;

	(void)module;
	if (!PyArg_ParseTuple(args, "KO!:publish_names", &ino, &PyList_Type, &list))
		return NULL;
	uint64_t salt = ++salts * FNV_PRIME;
	for (Py_ssize_t at = 0; at < PyList_GET_SIZE(list); at++) {
		const char *name = PyBytes_AsString(PyList_GET_ITEM(list, at));
		if (name == NULL)
			return NULL;
		if (!add(salt, name))
			Py_RETURN_NONE;
	}
	directories[ino % DIRECTORY_PLACES].ino = ino;
	directories[ino % DIRECTORY_PLACES].salt = salt;
	Py_RETURN_NONE;
}

static PyObject *change(PyObject *const *args, Py_ssize_t count, bool appeared)
{
	if (count != 2) {
		PyErr_SetString(PyExc_TypeError, "a directory's number and a name are needed");
		return NULL;
	}
	unsigned long long ino = PyLong_AsUnsignedLongLong(args[0]);
	const char *name = PyBytes_AsString(args[1]);
	if (name == NULL || PyErr_Occurred())
		return NULL;
	const uint64_t *salt = salt_of(ino);
	if (salt != NULL && appeared) {
		add(*salt, name);
	} else if (salt != NULL) {
		uint64_t *place = place_of(hash_of(*salt, name));
		if (*place != EMPTY)
			*place = REMOVED;
	}
	Py_RETURN_NONE;
}

PyDoc_STRVAR(appeared_doc, "name_appeared(ino, name) -> None\n\nA directory has a name that it may not have had.");

static PyObject *py_appeared(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
	(void)module;
	return change(args, count, true);
}

PyDoc_STRVAR(vanished_doc, "name_vanished(ino, name) -> None\n\nA directory has lost a name that it had.");

static PyObject *py_vanished(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
	(void)module;
	return change(args, count, false);
}

PyMethodDef names_methods[] = {
	{"publish_names", py_publish_names, METH_VARARGS, publish_names_doc},
	{"name_appeared", (PyCFunction)(void (*)(void))py_appeared, METH_FASTCALL, appeared_doc},
	{"name_vanished", (PyCFunction)(void (*)(void))py_vanished, METH_FASTCALL, vanished_doc},
	{NULL, NULL, 0, NULL},
};
