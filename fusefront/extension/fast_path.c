/* Requests whose answer needs no wait, asked of Python by a plain call.
 *
 * pyfuse3 makes a task's work of every request: a coroutine of its own and three of ours, objects for the context and the
 * attributes, and each attribute set by name.  That is the better half of what most of our answers cost, and the turn of
 * its loop between two requests is some 5 us more.  So each kind of request is first put to a function (callbacks.c), while
 * pyfuse3 still receives; what that leaves pyfuse3 is given, as if nothing had been here.
 */
#include "fast_path.h"

#include "callbacks.h"
#include "protocol.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>

enum { REPLY_MAX = 1 << 20 }; /* bytes; the kernel asks for no more names at a time */

static struct fuse_lowlevel_ops next; /* the handlers that get what is left */

static bool trying; /* what is left is processed once more, by whoever tries */
static bool left;

/* Leave the request to those handlers, by this call of one of them. */
#define LEAVE(call)                                                                                                    \
	do {                                                                                                           \
		if (trying)                                                                                            \
			drop(req);                                                                                     \
		else                                                                                                   \
			call;                                                                                          \
	} while (0)

/* Let go of a request that is only tried: libfuse forgets it, and the kernel waits on. */
static void drop(fuse_req_t req)
{
	left = true;
	fuse_reply_none(req);
}

/* Turn an Attr into the kernel's form; false, with an exception set, if it is none. */
static bool take_attributes(PyObject *tuple, struct stat *attr)
{
	struct attributes found;

	if (!take_attr(tuple, &found))
		return false;
	*attr = stat_of(&found);
	return true;
}

/* ------------------------------------------------------------------------------------------------------------------
 * Replying what was returned; each lets go of the result, and returns false if there is none
 */

/* Reply the errno that was returned, or that it is none. */
static bool reply_errno(fuse_req_t req, int kind, PyObject *result)
{
	if (result == NULL)
		return false;
	if (!errno_in(result))
		result = no_answer(kind, result);
	fuse_reply_err(req, errno_in(result));
	Py_DECREF(result);
	return true;
}

/* None stands for success. */
static bool reply_status(fuse_req_t req, int kind, PyObject *result)
{
	if (result != Py_None)
		return reply_errno(req, kind, result);
	fuse_reply_err(req, 0);
	Py_DECREF(result);
	return true;
}

static bool reply_entry(fuse_req_t req, int kind, PyObject *result)
{
	struct fuse_entry_param entry = {.entry_timeout = FOR_EVER, .attr_timeout = FOR_EVER};

	if (result == Py_None && kind == LOOKUP) {
		reply_absent(req);
	} else if (result == NULL || errno_in(result) || !take_attributes(result, &entry.attr)) {
		return reply_errno(req, kind, result);
	} else {
		entry.ino = entry.attr.st_ino;
		fuse_reply_entry(req, &entry);
	}
	Py_DECREF(result);
	return true;
}

static bool reply_attr(fuse_req_t req, int kind, PyObject *result)
{
	struct stat attr;

	if (result == NULL || errno_in(result) || !take_attributes(result, &attr))
		return reply_errno(req, kind, result);
	fuse_reply_attr(req, &attr, FOR_EVER);
	Py_DECREF(result);
	return true;
}

/* ------------------------------------------------------------------------------------------------------------------
 * Handlers
 */

static void direct_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (!reply_entry(req, LOOKUP, ask(LOOKUP, "Ky", (unsigned long long)parent, name)))
		LEAVE(next.lookup(req, parent, name));
}

static void direct_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	if (!is_asked(FORGET)) {
		LEAVE(next.forget_multi(req, count, forgets));
		return;
	}
	PyObject *list = PyList_New((Py_ssize_t)count), *result;
	for (size_t at = 0; list != NULL && at < count; at++) {
		PyObject *pair = Py_BuildValue("KK", (unsigned long long)forgets[at].ino,
					       (unsigned long long)forgets[at].nlookup);
		if (pair == NULL)
			Py_CLEAR(list);
		else
			PyList_SET_ITEM(list, (Py_ssize_t)at, pair);
	}
	result = ask(FORGET, "O", list);
	if (result == NULL) {
		LEAVE(next.forget_multi(req, count, forgets));
		return;
	}
	if (result != Py_None && !errno_in(result))
		result = no_answer(FORGET, result);
	Py_DECREF(result);
	fuse_reply_none(req); /* there is no reply to this request */
}

static void direct_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
	struct fuse_forget_data forget = {.ino = ino, .nlookup = count};

	direct_forget_multi(req, 1, &forget);
}

static void direct_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	unsigned pid = (unsigned)fuse_req_ctx(req)->pid;

	if (!reply_attr(req, GETATTR, ask(GETATTR, "Ku", (unsigned long long)ino, pid)))
		LEAVE(next.getattr(req, ino, fi));
}

static PyObject *number_if(bool given, long long number)
{
	if (given)
		return PyLong_FromLongLong(number);
	Py_RETURN_NONE;
}

/* A time in ns; one that they cannot reach is the last one that they can.  The kernel tells what it takes for now as well:
 * its clock counts, for it gave the file its other times. */
static PyObject *time_if(int given, struct timespec time)
{
	long long ns;

	if (__builtin_mul_overflow(time.tv_sec, 1000000000LL, &ns) || __builtin_add_overflow(ns, time.tv_nsec, &ns))
		ns = time.tv_sec < 0 ? LLONG_MIN : LLONG_MAX;
	return number_if(given, ns);
}

static void direct_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	PyObject *result = NULL;

	if (is_asked(SETATTR))
		result = ask(SETATTR, "KOOOOOOOuuuu", (unsigned long long)ino,
			     number_if(to_set & FUSE_SET_ATTR_MODE, attr->st_mode),
			     number_if(to_set & FUSE_SET_ATTR_UID, attr->st_uid),
			     number_if(to_set & FUSE_SET_ATTR_GID, attr->st_gid),
			     number_if(to_set & FUSE_SET_ATTR_SIZE, attr->st_size),
			     time_if(to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW), attr->st_atim),
			     time_if(to_set & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW), attr->st_mtim),
			     time_if(to_set & FUSE_SET_ATTR_CTIME, attr->st_ctim), (unsigned)attr->st_rdev,
			     (unsigned)ctx->uid, (unsigned)ctx->gid, (unsigned)ctx->pid);
	if (!reply_attr(req, SETATTR, result))
		LEAVE(next.setattr(req, ino, attr, to_set, fi));
}

static void direct_readlink(fuse_req_t req, fuse_ino_t ino)
{
	PyObject *result = ask(READLINK, "K", (unsigned long long)ino);

	if (result != NULL && PyBytes_Check(result)) {
		fuse_reply_readlink(req, PyBytes_AS_STRING(result));
		Py_DECREF(result);
	} else if (!reply_errno(req, READLINK, result)) {
		LEAVE(next.readlink(req, ino));
	}
}

static void direct_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	if (!reply_entry(req, MKNOD,
			 ask(MKNOD, "KyuKuuu", (unsigned long long)parent, name, (unsigned)mode,
			     (unsigned long long)rdev, (unsigned)ctx->uid, (unsigned)ctx->gid, (unsigned)ctx->umask)))
		LEAVE(next.mknod(req, parent, name, mode, rdev));
}

static void direct_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	if (!reply_entry(req, MKDIR,
			 ask(MKDIR, "Kyuuuu", (unsigned long long)parent, name, (unsigned)mode, (unsigned)ctx->uid,
			     (unsigned)ctx->gid, (unsigned)ctx->umask)))
		LEAVE(next.mkdir(req, parent, name, mode));
}

static void direct_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	if (!reply_entry(req, SYMLINK,
			 ask(SYMLINK, "Kyyuuu", (unsigned long long)parent, name, target, (unsigned)ctx->uid,
			     (unsigned)ctx->gid, (unsigned)ctx->umask)))
		LEAVE(next.symlink(req, target, parent, name));
}

static void direct_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	if (!reply_entry(req, LINK, ask(LINK, "KKy", (unsigned long long)ino, (unsigned long long)parent, name)))
		LEAVE(next.link(req, ino, parent, name));
}

static void direct_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (!reply_status(req, UNLINK, ask(UNLINK, "Ky", (unsigned long long)parent, name)))
		LEAVE(next.unlink(req, parent, name));
}

static void direct_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (!reply_status(req, RMDIR, ask(RMDIR, "Ky", (unsigned long long)parent, name)))
		LEAVE(next.rmdir(req, parent, name));
}

static void direct_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
			  const char *new_name, unsigned flags)
{
	if (!reply_status(req, RENAME,
			  ask(RENAME, "KyKyu", (unsigned long long)parent, name, (unsigned long long)new_parent,
			      new_name, flags)))
		LEAVE(next.rename(req, parent, name, new_parent, new_name, flags));
}

static void direct_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	/* an empty name stands for something else (ranges.c) */
	PyObject *result = *name ? ask(GETXATTR, "Ky", (unsigned long long)ino, name) : NULL;
	if (result == NULL || !PyBytes_Check(result)) {
		if (!reply_errno(req, GETXATTR, result))
			LEAVE(next.getxattr(req, ino, name, size));
		return;
	}
	size_t length = (size_t)PyBytes_GET_SIZE(result);
	if (size == 0) /* only the length is asked for */
		fuse_reply_xattr(req, length);
	else if (length <= size)
		fuse_reply_buf(req, PyBytes_AS_STRING(result), length);
	else
		fuse_reply_err(req, ERANGE);
	Py_DECREF(result);
}

static void direct_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	PyObject *result = ask(READ, "KLLu", (unsigned long long)fi->fh, (long long)off, (long long)size,
			       (unsigned)fi->flags);

	if (result != NULL && PyBytes_Check(result)) {
		fuse_reply_buf(req, PyBytes_AS_STRING(result), (size_t)PyBytes_GET_SIZE(result));
		Py_DECREF(result);
	} else if (!reply_errno(req, READ, result)) {
		LEAVE(next.read(req, ino, size, off, fi));
	}
}

static void direct_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *data, off_t off,
			     struct fuse_file_info *fi)
{
	const struct fuse_buf *only = &data->buf[0];
	PyObject *result = NULL;

	/* What was spliced is not in memory; nor is anything in more than one piece. */
	if (is_asked(WRITE) && data->count == 1 && data->idx == 0 && data->off == 0 && !(only->flags & FUSE_BUF_IS_FD))
		result = ask(WRITE, "KLO", (unsigned long long)fi->fh, (long long)off,
			     PyBytes_FromStringAndSize(only->mem, (Py_ssize_t)only->size));
	if (result == Py_None) {
		fuse_reply_write(req, only->size);
		Py_DECREF(result);
	} else if (!reply_errno(req, WRITE, result)) {
		LEAVE(next.write_buf(req, ino, data, off, fi));
	}
}

/* The function returns an iterator of (name, attributes, cookie); to be asked for one more means that the one before was
 * taken.  An errno in its place ends the listing. */
static void direct_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	static char reply[REPLY_MAX];
	PyObject *entries = ask(READDIR, "KL", (unsigned long long)fi->fh, (long long)off), *found;
	struct fuse_entry_param entry = {0};
	size_t used = 0;
	int error = 0;

	if (entries == NULL) {
		LEAVE(next.readdirplus(req, ino, size, off, fi));
		return;
	}
	if (!PyIter_Check(entries)) {
		reply_errno(req, READDIR, entries);
		return;
	}
	if (size > REPLY_MAX)
		size = REPLY_MAX;
	while ((found = PyIter_Next(entries)) != NULL) {
		if (errno_in(found)) {
			error = errno_in(found);
			Py_DECREF(found);
			break;
		}
		PyObject *attributes;
		const char *name;
		long long cookie;
		if (!PyArg_ParseTuple(found, "yOL", &name, &attributes, &cookie) ||
		    !take_attributes(attributes, &entry.attr)) {
			Py_DECREF(found);
			break;
		}
		entry.ino = entry.attr.st_ino;
		/* what is listed has a link, but for a stand-in (engine/tree/merged_view.py): the kernel is to ask for the object's own */
		entry.entry_timeout = entry.attr_timeout = entry.attr.st_nlink != 0 ? FOR_EVER : 0;
		size_t more = fuse_add_direntry_plus(req, reply + used, size - used, name, &entry, cookie);
		Py_DECREF(found);
		if (more > size - used)
			break;
		used += more;
	}
	if (PyErr_Occurred()) {
		Py_DECREF(no_answer(READDIR, NULL));
		error = EIO;
	}
	/* names that the kernel was told of must reach it, or it will not forget them */
	if (used == 0 && error != 0)
		fuse_reply_err(req, error);
	else
		fuse_reply_buf(req, reply, used);
	Py_DECREF(entries);
}

/* ------------------------------------------------------------------------------------------------------------------
 * The way here
 */

void stand_before(struct fuse_lowlevel_ops *table)
{
	next = *table;
	table->lookup = direct_lookup;
	table->forget = direct_forget;
	table->forget_multi = direct_forget_multi;
	table->getattr = direct_getattr;
	table->setattr = direct_setattr;
	table->readlink = direct_readlink;
	table->mknod = direct_mknod;
	table->mkdir = direct_mkdir;
	table->symlink = direct_symlink;
	table->link = direct_link;
	table->unlink = direct_unlink;
	table->rmdir = direct_rmdir;
	table->rename = direct_rename;
	table->getxattr = direct_getxattr;
	table->read = direct_read;
	table->write_buf = direct_write_buf;
	table->readdirplus = direct_readdirplus;
}

static const unsigned char kinds_by_opcode[] = {
	[OP_BATCH_FORGET] = FORGET, [OP_FORGET] = FORGET,      [OP_GETATTR] = GETATTR,        [OP_GETXATTR] = GETXATTR,
	[OP_LINK] = LINK,           [OP_LOOKUP] = LOOKUP,      [OP_MKDIR] = MKDIR,            [OP_MKNOD] = MKNOD,
	[OP_READ] = READ,           [OP_READLINK] = READLINK,  [OP_READDIRPLUS] = READDIR,    [OP_RENAME] = RENAME,
	[OP_RENAME2] = RENAME,      [OP_RMDIR] = RMDIR,        [OP_SETATTR] = SETATTR,        [OP_SYMLINK] = SYMLINK,
	[OP_UNLINK] = UNLINK,       [OP_WRITE] = WRITE,
};

bool answer_directly(struct fuse_session *se, const struct fuse_buf *buf, process_function *process)
{
	uint32_t opcode = get32(buf->mem, offsetof(struct request_header, opcode));

	if (opcode >= sizeof kinds_by_opcode || !is_asked(kinds_by_opcode[opcode]))
		return false;
	return try_to_answer(se, buf, process);
}

bool try_to_answer(struct fuse_session *se, const struct fuse_buf *buf, process_function *process)
{
	trying = true;
	left = false;
	process(se, buf);
	trying = false;
	return !left;
}
