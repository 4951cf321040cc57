/* Keeps all names of some directories, so that LOOKUP of a missing name is answered without Python.
 *
 * The kernel looks a name up before it creates a file or renames one to that name, and compilers and interpreters
 * search for files in many directories.  One hash table holds the names of all directories.  Two names with the same
 * hash have an entry each, so if a hash is not in the table, no name of the directory has that hash.
 *
 * The table may hold a name that the directory does not have: that costs only a request which Python answers.  It never
 * lacks one.  When the table is full it is emptied, and Python publishes again the directories that are in use.
 */
#include "names.h"

#include "shared_rules.h"

#include <string.h>
#include <time.h>

#define FNV_START UINT64_C(14695981039346656037) /* Fowler, Noll and Vo's hash of 64 bits, FNV-1a */
#define FNV_PRIME UINT64_C(1099511628211)
#define MIX UINT64_C(0xff51afd7ed558ccd) /* spreads the effect of the last bytes over all bits */

enum {
	DIRECTORY_SLOTS = 1 << 12,
	NAME_SLOTS = 1 << 17,
	MOST_USED = NAME_SLOTS / 2, /* with more, a look-up would take many steps */

	EMPTY = 0,
	REMOVED = 1, /* a search goes on behind this slot */
	FIRST_HASH = 2,
};

static struct {
	uint64_t ino;  /* 0: none */
	uint64_t salt; /* of the hashes of its names; new for each publication, since older entries stay in the table */
} directories[DIRECTORY_SLOTS];

static uint64_t names[NAME_SLOTS];
static uint32_t used; /* slots that are not EMPTY */
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

/* A pointer to the salt of a directory whose names are known; NULL for another one. */
static uint64_t *salt_of(uint64_t ino)
{
	uint64_t slot = ino % DIRECTORY_SLOTS;

	return ino != 0 && directories[slot].ino == ino ? &directories[slot].salt : NULL;
}

/* The slot that holds a hash, or else the EMPTY slot at which the search for it ends. */
static uint64_t *slot_of(uint64_t hash)
{
	uint64_t at = hash % NAME_SLOTS;

	while (names[at] != hash && names[at] != EMPTY)
		at = (at + 1) % NAME_SLOTS;
	return &names[at];
}

void clear_names(void)
{
	struct timespec time;

	memset(directories, 0, sizeof directories);
	memset(names, 0, sizeof names);
	used = 0;
	clock_gettime(CLOCK_MONOTONIC, &time);
	salts ^= (uint64_t)time.tv_nsec << 32; /* a user must not be able to choose names that all have the same slot */
}

bool is_absent(uint64_t directory, const char *name)
{
	const uint64_t *salt = salt_of(directory);

	/* a longer name is an error, which Python replies */
	return salt != NULL && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
	       strlen(name) <= rules.name_max && *slot_of(hash_of(*salt, name)) == EMPTY;
}

/* Add a name of the directory with this salt; false if the table was full: then all directories are forgotten. */
static bool add(uint64_t salt, const char *name)
{
	uint64_t hash = hash_of(salt, name), at = hash % NAME_SLOTS;

	while (names[at] >= FIRST_HASH)
		at = (at + 1) % NAME_SLOTS;
	if (names[at] == EMPTY && ++used > MOST_USED) {
		clear_names();
		return false;
	}
	names[at] = hash;
	return true;
}

/* ------------------------------------------------------------------------------------------------------------------
 * Functions of the Python module
 */

PyDoc_STRVAR(publish_names_doc, "publish_names(ino, names) -> None\n\n"
				"Answer LOOKUP of any other name in a directory with a negative entry from now on.\n"
				"names: all names of the directory, a list of bytes.  Each change of them must be\n"
				"reported by name_appeared() or name_vanished().");

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
	directories[ino % DIRECTORY_SLOTS].ino = ino;
	directories[ino % DIRECTORY_SLOTS].salt = salt;
	Py_RETURN_NONE;
}

static PyObject *change(PyObject *const *args, Py_ssize_t count, bool appeared)
{
	if (count != 2) {
		PyErr_SetString(PyExc_TypeError, "the arguments are the inode number of a directory and a name");
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
		uint64_t *slot = slot_of(hash_of(*salt, name));
		if (*slot != EMPTY)
			*slot = REMOVED;
	}
	Py_RETURN_NONE;
}

PyDoc_STRVAR(appeared_doc, "name_appeared(ino, name) -> None\n\n"
			   "Add a name to a published directory; it may have it already.");

static PyObject *py_appeared(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
	(void)module;
	return change(args, count, true);
}

PyDoc_STRVAR(vanished_doc, "name_vanished(ino, name) -> None\n\nRemove a name from a published directory.");

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
