/* The reply cache: tables that Python fills, from which the hook replies to requests without Python (reply_cache.h).
 *
 * The rule kept: an entry is what Python published last, or there is none.  Python withdraws an entry before it
 * acknowledges a change of it, and all of this runs in the thread that serves requests.
 */
#include "reply_cache.h"

#include "clock.h"
#include "shared_rules.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Each table has one slot for an inode number modulo its size; a later entry replaces the one in its slot.  A page of a
 * table takes memory once a slot in it is used. */
enum {
	KNOWN_ATTR = 1,     /* the current attributes, for GETATTR */
	KNOWN_UNLINKED = 2, /* the inode has no name: no program sees its times any more */

	ATTR_SLOTS = 1 << 15,
	NO_XATTR_SLOTS = 1 << 18,
	FILE_SLOTS = 64,
};

static struct known {
	uint32_t what;
	uint32_t epoch;
	struct attributes attributes;
} published[ATTR_SLOTS];

static uint32_t epoch; /* entries of an earlier epoch are invalid */

static uint64_t no_xattrs[NO_XATTR_SLOTS]; /* inodes without extended attributes */

static struct {
	uint64_t ino; /* 0: none */
	int fd;       /* owned by the table; reads the bytes of the file */
	int64_t size; /* of the file, in bytes */
} files[FILE_SLOTS];

static unsigned file_slots = FILE_SLOTS; /* of `files`, those in use: each may hold a descriptor */

static char *read_buffer; /* REPLY_MAX bytes, allocated for the first file */

/* The valid entry of an inode, if its kind is one of `what`; else NULL. */
static struct known *known(uint64_t ino, unsigned what)
{
	struct known *slot = &published[ino % ATTR_SLOTS];

	return slot->attributes.ino == ino && slot->epoch == epoch && slot->what & what ? slot : NULL;
}

bool lacks_xattr(uint64_t ino, const char *name)
{
	return no_xattrs[ino % NO_XATTR_SLOTS] == ino && is_xattr_name(name);
}

static void forget_file(uint64_t ino)
{
	if (ino != 0 && files[ino % file_slots].ino == ino) {
		close(files[ino % file_slots].fd);
		files[ino % file_slots].ino = 0;
	}
}

void clear_reply_cache(void)
{
	memset(published, 0, sizeof published);
	memset(no_xattrs, 0, sizeof no_xattrs);
	for (int slot = 0; slot < FILE_SLOTS; slot++)
		forget_file(files[slot].ino);
}

bool has_file(uint64_t ino)
{
	return files[ino % file_slots].ino == ino;
}

bool reply_bytes(fuse_req_t req, uint64_t ino, size_t size, int64_t offset)
{
	if (!has_file(ino))
		return false;
	int64_t remaining = files[ino % file_slots].size - offset;
	size_t length = remaining <= 0 ? 0 : (uint64_t)remaining < size ? (size_t)remaining : size;
	struct timespec begin, end;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	if (length > REPLY_MAX || pread(files[ino % file_slots].fd, read_buffer, length, offset) != (ssize_t)length) {
		forget_file(ino);
		return false;
	}
	clock_gettime(CLOCK_MONOTONIC, &end); /* without the time that the reply takes */
	fuse_reply_buf(req, read_buffer, length);
	/* Other requests had to wait: Python reads a slow file by a worker thread. */
	if ((end.tv_sec - begin.tv_sec) * NS_PER_SECOND + end.tv_nsec - begin.tv_nsec > rules.slow_read)
		forget_file(ino);
	return true;
}

bool sets_times_of_unlinked(uint64_t ino, unsigned valid, unsigned mtime, unsigned ctime)
{
	struct known *slot = (valid & ~mtime) == ctime ? known(ino, KNOWN_UNLINKED) : NULL;

	return slot != NULL && S_ISREG(slot->attributes.mode);
}

bool parse_numbers(PyObject *const *numbers, Py_ssize_t count, struct attributes *found)
{
	unsigned long long value[ATTRIBUTES];

	if (count != ATTRIBUTES) {
		PyErr_SetString(PyExc_TypeError, "attributes must be 11 numbers");
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

bool parse_attr(PyObject *tuple, struct attributes *found)
{
	if (!PyTuple_Check(tuple)) {
		PyErr_SetString(PyExc_TypeError, "attributes must be a tuple");
		return false;
	}
	return parse_numbers(&PyTuple_GET_ITEM(tuple, 0), PyTuple_GET_SIZE(tuple), found);
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
		.st_blksize = BLOCK_SIZE,
	};
	struct timespec *times[3] = {&attr.st_atim, &attr.st_mtim, &attr.st_ctim};

	for (int i = 0; i < 3; i++) {
		int64_t seconds = from->times[i] / NS_PER_SECOND, ns = from->times[i] % NS_PER_SECOND;

		/* before 1970 the division has rounded towards the later second */
		times[i]->tv_sec = ns < 0 ? seconds - 1 : seconds;
		times[i]->tv_nsec = ns < 0 ? ns + NS_PER_SECOND : ns;
	}
	return attr;
}

/* Reply the attributes of an entry. */
static void reply_known(fuse_req_t req, const struct known *slot)
{
	struct stat attr = stat_of(&slot->attributes);

	fuse_reply_attr(req, &attr, rules.for_ever);
}

void reply_absent(fuse_req_t req)
{
	struct fuse_entry_param none = {.entry_timeout = rules.for_ever};

	fuse_reply_entry(req, &none);
}

bool has_attributes(uint64_t ino)
{
	return known(ino, KNOWN_ATTR) != NULL;
}

bool reply_attributes(fuse_req_t req, uint64_t ino)
{
	const struct known *slot = known(ino, KNOWN_ATTR);

	if (slot != NULL)
		reply_known(req, slot);
	return slot != NULL;
}

void reply_unlinked(fuse_req_t req, uint64_t ino)
{
	reply_known(req, known(ino, KNOWN_UNLINKED));
}

/* ------------------------------------------------------------------------------------------------------------------
 * Functions of the Python module
 */

static PyObject *publish(uint32_t what, PyObject *const *args, Py_ssize_t count)
{
	struct attributes attributes;

	if (!parse_numbers(args, count, &attributes))
		return NULL;
	published[attributes.ino % ATTR_SLOTS] = (struct known){
		.what = what,
		.epoch = epoch,
		.attributes = attributes,
	};
	Py_RETURN_NONE;
}

PyDoc_STRVAR(publish_attr_doc,
	     "publish_attr(ino, mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime) -> None\n\n"
	     "Answer GETATTR of an inode with these attributes, until it is published again or withdrawn.\n"
	     "Times are nanoseconds, blocks units of 512 bytes.  Call this and the other functions of the reply cache\n"
	     "in the thread that serves requests.");

static PyObject *py_publish_attr(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
	(void)module;
	return publish(KNOWN_ATTR, args, count);
}

PyDoc_STRVAR(publish_unlinked_doc,
	     "publish_unlinked(ino, mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime) -> None\n\n"
	     "Answer SETATTR of the times of an inode that has no name with these attributes, until it is withdrawn.\n"
	     "Units are those of publish_attr().");

static PyObject *py_publish_unlinked(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
	(void)module;
	return publish(KNOWN_UNLINKED, args, count);
}

/* The inode number that is the argument of a function; 0, with an exception set, if it is not one. */
static uint64_t number_of(PyObject *argument)
{
	unsigned long long ino = PyLong_AsUnsignedLongLong(argument);

	if (ino == 0 && !PyErr_Occurred())
		PyErr_SetString(PyExc_ValueError, "0 is not an inode number");
	return ino == (unsigned long long)-1 && PyErr_Occurred() ? 0 : ino;
}

PyDoc_STRVAR(publish_no_xattrs_doc, "publish_no_xattrs(ino) -> None\n\n"
			       "Answer GETXATTR for an inode with ENODATA from now on: it has no extended attributes.");

static PyObject *py_publish_no_xattrs(PyObject *module, PyObject *number)
{
	uint64_t ino = number_of(number);

	(void)module;
	if (ino == 0)
		return NULL;
	no_xattrs[ino % NO_XATTR_SLOTS] = ino;
	Py_RETURN_NONE;
}

PyDoc_STRVAR(publish_file_doc, "publish_file(ino, fd, size) -> None\n\n"
			       "Answer READ of a file from a descriptor, which the hook closes when it is not needed.\n"
			       "size: of the file, in bytes.  After a read that takes longer than 5 ms, or that\n"
			       "returns too few bytes, Python answers READ of the file again.");

static PyObject *py_publish_file(PyObject *module, PyObject *args)
{
	unsigned long long ino;
	long long size;
	int fd;

	(void)module;
	if (!PyArg_ParseTuple(args, "KiL:publish_file", &ino, &fd, &size))
		return NULL;
	if (read_buffer == NULL && (read_buffer = malloc(REPLY_MAX)) == NULL)
		return PyErr_NoMemory();
	forget_file(files[ino % file_slots].ino);
	files[ino % file_slots].ino = ino;
	files[ino % file_slots].fd = fd;
	files[ino % file_slots].size = size;
	Py_RETURN_NONE;
}

PyDoc_STRVAR(limit_files_doc, "limit_files(count) -> None\n\n"
			      "Hold at most this number of descriptors for publish_file(), from 1 to 64; close those held.");

static PyObject *py_limit_files(PyObject *module, PyObject *number)
{
	uint64_t count = PyLong_AsUnsignedLongLong(number);

	(void)module;
	if (PyErr_Occurred())
		return NULL;
	if (count == 0 || count > FILE_SLOTS) {
		PyErr_SetString(PyExc_ValueError, "the count must be from 1 to 64");
		return NULL;
	}
	for (int slot = 0; slot < FILE_SLOTS; slot++)
		forget_file(files[slot].ino);
	file_slots = (unsigned)count;
	Py_RETURN_NONE;
}

PyDoc_STRVAR(withdraw_doc, "withdraw(ino) -> None\n\n"
			   "Let Python answer requests for the attributes and bytes of an inode again.");

static PyObject *py_withdraw(PyObject *module, PyObject *number)
{
	uint64_t ino = number_of(number);

	(void)module;
	if (ino == 0)
		return NULL;
	struct known *slot = &published[ino % ATTR_SLOTS];
	if (slot->attributes.ino == ino)
		memset(slot, 0, sizeof *slot);
	forget_file(ino);
	Py_RETURN_NONE;
}

PyDoc_STRVAR(withdraw_no_xattrs_doc, "withdraw_no_xattrs(ino) -> None\n\n"
				"Let Python answer requests for the extended attributes of an inode again.");

static PyObject *py_withdraw_no_xattrs(PyObject *module, PyObject *number)
{
	uint64_t ino = number_of(number);

	(void)module;
	if (ino == 0)
		return NULL;
	if (no_xattrs[ino % NO_XATTR_SLOTS] == ino)
		no_xattrs[ino % NO_XATTR_SLOTS] = 0;
	Py_RETURN_NONE;
}

PyDoc_STRVAR(withdraw_all_doc, "withdraw_all() -> None\n\n"
			       "Let Python answer requests for the attributes of every inode again.");

static PyObject *py_withdraw_all(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	if (++epoch == 0) /* after an overflow the oldest entries would be valid again */
		memset(published, 0, sizeof published);
	Py_RETURN_NONE;
}

PyMethodDef reply_cache_methods[] = {
	{"publish_attr", (PyCFunction)(void (*)(void))py_publish_attr, METH_FASTCALL, publish_attr_doc},
	{"publish_unlinked", (PyCFunction)(void (*)(void))py_publish_unlinked, METH_FASTCALL, publish_unlinked_doc},
	{"publish_no_xattrs", py_publish_no_xattrs, METH_O, publish_no_xattrs_doc},
	{"publish_file", py_publish_file, METH_VARARGS, publish_file_doc},
	{"limit_files", py_limit_files, METH_O, limit_files_doc},
	{"withdraw", py_withdraw, METH_O, withdraw_doc},
	{"withdraw_no_xattrs", py_withdraw_no_xattrs, METH_O, withdraw_no_xattrs_doc},
	{"withdraw_all", py_withdraw_all, METH_NOARGS, withdraw_all_doc},
	{NULL, NULL, 0, NULL},
};
