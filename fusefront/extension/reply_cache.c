/* What the file system has published: kept in tables, and replied without Python.  reply_cache.h says when.
 *
 * The rule kept: a table knows what Python said last, or nothing.  Python withdraws what has changed before the change is
 * acknowledged, and everything here happens in the thread that serves requests.
 */
#include "reply_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_SECOND 1000000000LL
#define SLOW_READ 5000000 /* ns */

/* What was published of inodes, each in the one place its number gives it; a later one takes the place over.  A place
 * takes memory once it is used. */
enum {
	KNOWN_ATTR = 1, /* the rest is what GETATTR is to be answered */
	KNOWN_DEAD = 2, /* no name is left: times of its own are of no interest to anybody any more */

	KNOWN_PLACES = 1 << 15,
	BARE_PLACES = 1 << 18,
	FILE_PLACES = 64,
	READ_ROOM = 1 << 20, /* bytes; the kernel asks for no more at a time */
};

static struct known {
	uint32_t what;
	uint32_t epoch;
	struct attributes attributes;
} published[KNOWN_PLACES];

static uint32_t epoch; /* what was published in an earlier one does not count any more */

static uint64_t bare[BARE_PLACES]; /* inodes without extended attributes */

static struct {
	uint64_t ino; /* 0: none */
	int fd;       /* ours; what it reads is what the file holds */
	int64_t size; /* up to here */
} files[FILE_PLACES];

static char *read_buffer; /* READ_ROOM bytes, once there is a file */

/* What was published of an inode, if it is of the kind `what`; else NULL. */
static struct known *known(uint64_t ino, unsigned what)
{
	struct known *place = &published[ino % KNOWN_PLACES];

	return place->attributes.ino == ino && place->epoch == epoch && place->what & what ? place : NULL;
}

bool lacks_xattr(uint64_t ino, const char *name)
{
	return bare[ino % BARE_PLACES] == ino && (strncmp(name, "security.", 9) == 0 || strncmp(name, "system.", 7) == 0 ||
						  strncmp(name, "user.", 5) == 0 || strncmp(name, "trusted.", 8) == 0);
}

static void forget_file(uint64_t ino)
{
	if (ino != 0 && files[ino % FILE_PLACES].ino == ino) {
		close(files[ino % FILE_PLACES].fd);
		files[ino % FILE_PLACES].ino = 0;
	}
}

void forget_published(void)
{
	memset(published, 0, sizeof published);
	memset(bare, 0, sizeof bare);
	for (int place = 0; place < FILE_PLACES; place++)
		forget_file(files[place].ino);
}

bool knows_file(uint64_t ino)
{
	return files[ino % FILE_PLACES].ino == ino;
}

bool reply_bytes(fuse_req_t req, uint64_t ino, size_t size, int64_t offset)
{
	if (!knows_file(ino))
		return false;
	int64_t left = files[ino % FILE_PLACES].size - offset;
	size_t wanted = left <= 0 ? 0 : (uint64_t)left < size ? (size_t)left : size;
	struct timespec begin, end;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	if (wanted > READ_ROOM || pread(files[ino % FILE_PLACES].fd, read_buffer, wanted, offset) != (ssize_t)wanted) {
		forget_file(ino);
		return false;
	}
	clock_gettime(CLOCK_MONOTONIC, &end); /* what the reply takes says nothing about the file */
	fuse_reply_buf(req, read_buffer, wanted);
	/* Others had to wait: Python knows how to read a slow file without that. */
	if ((end.tv_sec - begin.tv_sec) * NS_PER_SECOND + end.tv_nsec - begin.tv_nsec > SLOW_READ)
		forget_file(ino);
	return true;
}

bool nobody_cares(uint64_t ino, unsigned valid, unsigned mtime, unsigned ctime)
{
	struct known *place = (valid & ~mtime) == ctime ? known(ino, KNOWN_DEAD) : NULL;

	return place != NULL && S_ISREG(place->attributes.mode);
}

bool read_attributes(PyObject *const *numbers, Py_ssize_t count, struct attributes *found)
{
	unsigned long long value[ATTRIBUTES];

	if (count != ATTRIBUTES) {
		PyErr_SetString(PyExc_TypeError, "attributes are 11 numbers");
		return false;
	}
	/* A time before 1970 is a negative number: the mask lets it wrap, and the cast below turns it back. */
	for (int i = 0; i < ATTRIBUTES; i++) {
		value[i] = PyLong_AsUnsignedLongLongMask(numbers[i]);
		if (value[i] == (unsigned long long)-1 && PyErr_Occurred())
			return false;
	}
	*found = (struct attributes){
		.ino = value[0],
		.mode = (uint32_t)value[1],
		.nlink = (uint32_t)value[2],
		.uid = (uint32_t)value[3],
		.gid = (uint32_t)value[4],
		.rdev = value[5],
		.size = (int64_t)value[6],
		.blocks = (int64_t)value[7],
		.times = {(int64_t)value[8], (int64_t)value[9], (int64_t)value[10]},
	};
	return true;
}

bool take_attr(PyObject *tuple, struct attributes *found)
{
	if (!PyTuple_Check(tuple)) {
		PyErr_SetString(PyExc_TypeError, "attributes are a tuple");
		return false;
	}
	return read_attributes(&PyTuple_GET_ITEM(tuple, 0), PyTuple_GET_SIZE(tuple), found);
}

struct stat stat_of(const struct attributes *from)
{
	struct stat attr = {
		.st_ino = from->ino,
		.st_mode = from->mode,
		.st_nlink = from->nlink,
		.st_uid = from->uid,
		.st_gid = from->gid,
		.st_rdev = from->rdev,
		.st_size = from->size,
		.st_blocks = from->blocks,
		.st_blksize = 4096,
	};
	struct timespec *times[3] = {&attr.st_atim, &attr.st_mtim, &attr.st_ctim};

	for (int i = 0; i < 3; i++) {
		int64_t seconds = from->times[i] / NS_PER_SECOND, ns = from->times[i] % NS_PER_SECOND;

		/* before 1970 the division has rounded the wrong way */
		times[i]->tv_sec = ns < 0 ? seconds - 1 : seconds;
		times[i]->tv_nsec = ns < 0 ? ns + NS_PER_SECOND : ns;
	}
	return attr;
}

/* Answer a request with the attributes that were published. */
static void reply_known(fuse_req_t req, const struct known *place)
{
	struct stat attr = stat_of(&place->attributes);

	fuse_reply_attr(req, &attr, FOR_EVER);
}

void reply_absent(fuse_req_t req)
{
	struct fuse_entry_param none = {.entry_timeout = FOR_EVER};

	fuse_reply_entry(req, &none);
}

bool knows_attributes(uint64_t ino)
{
	return known(ino, KNOWN_ATTR) != NULL;
}

bool reply_attributes(fuse_req_t req, uint64_t ino)
{
	const struct known *place = known(ino, KNOWN_ATTR);

	if (place != NULL)
		reply_known(req, place);
	return place != NULL;
}

void reply_dead(fuse_req_t req, uint64_t ino)
{
	reply_known(req, known(ino, KNOWN_DEAD));
}

/* ------------------------------------------------------------------------------------------------------------------
 * Functions of the Python module
 */

PyDoc_STRVAR(publish_doc,
	     "publish(what, ino, mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime) -> None\n\n"
	     "Let requests about an inode be answered here, until it is published anew or withdrawn.\n"
	     "what: 1 these are its attributes, 2 it has no name any more.\n"
	     "Times are nanoseconds, blocks units of 512 bytes.  To be called by the thread that serves requests, as are\n"
	     "the other functions about what is published.");

static PyObject *py_publish(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
	struct attributes attributes;

	(void)module;
	if (count < 1) {
		PyErr_SetString(PyExc_TypeError, "publish() takes 12 arguments");
		return NULL;
	}
	unsigned long what = PyLong_AsUnsignedLong(args[0]);
	if (PyErr_Occurred() || !read_attributes(args + 1, count - 1, &attributes))
		return NULL;
	published[attributes.ino % KNOWN_PLACES] = (struct known){
		.what = (uint32_t)what,
		.epoch = epoch,
		.attributes = attributes,
	};
	Py_RETURN_NONE;
}

/* The inode number that is the argument of a function; 0, with an exception set, if it is none. */
static uint64_t number_of(PyObject *argument)
{
	unsigned long long ino = PyLong_AsUnsignedLongLong(argument);

	if (ino == 0 && !PyErr_Occurred())
		PyErr_SetString(PyExc_ValueError, "0 is no inode number");
	return ino == (unsigned long long)-1 && PyErr_Occurred() ? 0 : ino;
}

PyDoc_STRVAR(publish_bare_doc, "publish_bare(ino) -> None\n\n"
			       "Let it be answered here that an inode has no extended attributes.");

static PyObject *py_publish_bare(PyObject *module, PyObject *number)
{
	uint64_t ino = number_of(number);

	(void)module;
	if (ino == 0)
		return NULL;
	bare[ino % BARE_PLACES] = ino;
	Py_RETURN_NONE;
}

PyDoc_STRVAR(publish_file_doc, "publish_file(ino, fd, size) -> None\n\n"
			       "Let reads of a file be answered here: bytes [0, size) are what the descriptor reads there.\n"
			       "The descriptor is closed here.  A read that takes long, or gets less, is the last one.");

static PyObject *py_publish_file(PyObject *module, PyObject *args)
{
	unsigned long long ino;
	long long size;
	int fd;

	(void)module;
	if (!PyArg_ParseTuple(args, "KiL:publish_file", &ino, &fd, &size))
		return NULL;
	if (read_buffer == NULL && (read_buffer = malloc(READ_ROOM)) == NULL)
		return PyErr_NoMemory();
	forget_file(files[ino % FILE_PLACES].ino);
	files[ino % FILE_PLACES].ino = ino;
	files[ino % FILE_PLACES].fd = fd;
	files[ino % FILE_PLACES].size = size;
	Py_RETURN_NONE;
}

PyDoc_STRVAR(withdraw_doc, "withdraw(ino) -> None\n\n"
			   "Leave requests for an inode's attributes and bytes to Python again.");

static PyObject *py_withdraw(PyObject *module, PyObject *number)
{
	uint64_t ino = number_of(number);

	(void)module;
	if (ino == 0)
		return NULL;
	struct known *place = &published[ino % KNOWN_PLACES];
	if (place->attributes.ino == ino)
		memset(place, 0, sizeof *place);
	forget_file(ino);
	Py_RETURN_NONE;
}

PyDoc_STRVAR(withdraw_bare_doc, "withdraw_bare(ino) -> None\n\n"
				"Leave requests for an inode's extended attributes to Python again.");

static PyObject *py_withdraw_bare(PyObject *module, PyObject *number)
{
	uint64_t ino = number_of(number);

	(void)module;
	if (ino == 0)
		return NULL;
	if (bare[ino % BARE_PLACES] == ino)
		bare[ino % BARE_PLACES] = 0;
	Py_RETURN_NONE;
}

PyDoc_STRVAR(withdraw_all_doc, "withdraw_all() -> None\n\nLeave requests for any inode's attributes to Python again.");

static PyObject *py_withdraw_all(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	if (++epoch == 0) /* the oldest ones would count again */
		memset(published, 0, sizeof published);
	Py_RETURN_NONE;
}

PyMethodDef published_methods[] = {
	{"publish", (PyCFunction)(void (*)(void))py_publish, METH_FASTCALL, publish_doc},
	{"publish_bare", py_publish_bare, METH_O, publish_bare_doc},
	{"publish_file", py_publish_file, METH_VARARGS, publish_file_doc},
	{"withdraw", py_withdraw, METH_O, withdraw_doc},
	{"withdraw_bare", py_withdraw_bare, METH_O, withdraw_bare_doc},
	{"withdraw_all", py_withdraw_all, METH_NOARGS, withdraw_all_doc},
	{NULL, NULL, 0, NULL},
};
