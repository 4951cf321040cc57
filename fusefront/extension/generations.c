/* Keeps the generations of the few inodes that have one.
 *
 * A return to a checkpoint gives a file other bytes behind the kernel's back.  A new generation in the next entry makes
 * the kernel take the file for another one, so that what it holds of the old one ends in errors (fs/fuse/inode.c,
 * fuse_iget).  A sorted array is enough: it changes with such a return only, and is empty before the first one.
 */
#include "generations.h"

#include <stdlib.h>
#include <string.h>

static struct generation {
	uint64_t ino;
	uint64_t generation;
} *known;
static size_t count, room;

/* The index of an inode, or that at which it would have to be inserted. */
static size_t place_of(uint64_t ino)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (known[middle].ino < ino)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

uint64_t generation_of(uint64_t ino)
{
	size_t at = count ? place_of(ino) : 0;

	return at < count && known[at].ino == ino ? known[at].generation : 0;
}

PyDoc_STRVAR(set_generation_doc, "set_generation(ino, generation) -> None\n\n"
				 "From now on entries of the inode have this generation in replies.");

static PyObject *py_set_generation(PyObject *module, PyObject *args)
{
	unsigned long long ino, generation;

	(void)module;
	if (!PyArg_ParseTuple(args, "KK:set_generation", &ino, &generation))
		return NULL;
	size_t at = place_of(ino);
	if (at == count || known[at].ino != ino) {
		if (count == room) {
			size_t more = room ? 2 * room : 64;
			struct generation *larger = realloc(known, more * sizeof *known);
			if (larger == NULL)
				return PyErr_NoMemory();
			known = larger;
			room = more;
		}
		memmove(known + at + 1, known + at, (count - at) * sizeof *known);
		count++;
	}
	known[at] = (struct generation){ino, generation};
	Py_RETURN_NONE;
}

PyMethodDef generation_methods[] = {
	{"set_generation", py_set_generation, METH_VARARGS, set_generation_doc},
	{NULL, NULL, 0, NULL},
};
