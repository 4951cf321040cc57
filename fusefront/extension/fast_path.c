/* Serves requests that need no wait by a direct call of Python.
 *
 * pyfuse3 serves every request in a task: one coroutine of its own and three of ours, objects for the context and the
 * attributes, and each attribute is set by its name.  That takes more than half of the time of most replies, and the
 * turn of pyfuse3's loop between two requests about 5 us more.  So while pyfuse3 receives, each request is first passed
 * to the callback for its kind (callbacks.c).  pyfuse3 gets the requests that the callbacks do not serve, and sees no
 * difference.
 */
#include "fast_path.h"

#include "callbacks.h"
#include "clock.h"
#include "counters.h"
#include "generations.h"
#include "protocol.h"
#include "shared_rules.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>

static struct fuse_lowlevel_ops slow_ops; /* the handlers that get the requests passed on */

static bool trying;    /* try_to_process() runs: a request that is passed on will be processed once more */
static bool passed_on; /* set during try_to_process(): no fast handler replied */

/* Pass the request on to slow_ops by `call`; only record it during try_to_process(). */
#define PASS_ON(call)                                                                                                  \
	do {                                                                                                           \
		if (trying)                                                                                            \
			abandon(req);                                                                                  \
		else                                                                                                   \
			call;                                                                                          \
	} while (0)

/* Free libfuse's state of the request without a reply; the kernel continues to wait for one. */
static void abandon(fuse_req_t req)
{
	passed_on = true;
	fuse_reply_none(req);
}

static void reply_counted(fuse_req_t req, int error)
{
	count_error(error);
	fuse_reply_err(req, error);
}

/* Convert an Attr to a struct stat; false, with an exception set, if it is not an Attr. */
static bool parse_stat(PyObject *tuple, struct stat *attr)
{
	struct attributes found;

	if (!parse_attr(tuple, &found))
		return false;
	*attr = stat_of(&found);
	return true;
}

/* ------------------------------------------------------------------------------------------------------------------
 * Replies from the result of a callback.  Each function consumes the reference to the result, and returns false if that
 * is NULL: then the request must be passed on.
 */

/* Reply the errno that the result is; if it is not an errno, log it and reply EIO. */
static bool reply_errno(fuse_req_t req, int kind, PyObject *result)
{
	if (result == NULL)
		return false;
	if (!errno_of(result))
		result = invalid_result(kind, result);
	reply_counted(req, errno_of(result));
	Py_DECREF(result);
	return true;
}

/* Reply success if the result is None, otherwise an errno. */
static bool reply_status(fuse_req_t req, int kind, PyObject *result)
{
	if (result != Py_None)
		return reply_errno(req, kind, result);
	fuse_reply_err(req, 0);
	Py_DECREF(result);
	return true;
}

/* Reply the entry that the result, an Attr, describes; for LOOKUP None is a negative entry.  Else reply an errno. */
static bool reply_entry(fuse_req_t req, int kind, PyObject *result)
{
	struct fuse_entry_param entry = {.entry_timeout = rules.for_ever, .attr_timeout = rules.for_ever};

	if (result == Py_None && kind == LOOKUP) {
		reply_absent(req);
	} else if (result == NULL || errno_of(result) || !parse_stat(result, &entry.attr)) {
		return reply_errno(req, kind, result);
	} else {
		entry.ino = entry.attr.st_ino;
		entry.generation = generation_of(entry.ino);
		fuse_reply_entry(req, &entry);
	}
	Py_DECREF(result);
	return true;
}

/* Reply the attributes that the result, an Attr, describes; otherwise an errno. */
static bool reply_attr(fuse_req_t req, int kind, PyObject *result)
{
	struct stat attr;

	if (result == NULL || errno_of(result) || !parse_stat(result, &attr))
		return reply_errno(req, kind, result);
	fuse_reply_attr(req, &attr, rules.for_ever);
	Py_DECREF(result);
	return true;
}

/* ------------------------------------------------------------------------------------------------------------------
 * Handlers
 */

static void fast_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (!reply_entry(req, LOOKUP, call_python(LOOKUP, "Ky", (unsigned long long)parent, name)))
		PASS_ON(slow_ops.lookup(req, parent, name));
}

static void fast_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	if (!has_callback(FORGET)) {
		PASS_ON(slow_ops.forget_multi(req, count, forgets));
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
	result = call_python(FORGET, "O", list);
	if (result == NULL) {
		PASS_ON(slow_ops.forget_multi(req, count, forgets));
		return;
	}
	if (result != Py_None && !errno_of(result))
		result = invalid_result(FORGET, result);
	Py_DECREF(result);
	fuse_reply_none(req); /* there is no reply to this request */
}

static void fast_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
	struct fuse_forget_data forget = {.ino = ino, .nlookup = count};

	fast_forget_multi(req, 1, &forget);
}

static void fast_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	unsigned pid = (unsigned)fuse_req_ctx(req)->pid;

	if (!reply_attr(req, GETATTR, call_python(GETATTR, "Ku", (unsigned long long)ino, pid)))
		PASS_ON(slow_ops.getattr(req, ino, fi));
}

static PyObject *number_or_none(bool given, long long number)
{
	if (given)
		return PyLong_FromLongLong(number);
	Py_RETURN_NONE;
}

/* A time in ns, or None.  A time that 64 bits cannot hold becomes the nearest one that they can.  For "now" the kernel
 * sends its own time as well; that one is used, for the kernel's clock gave the file its other times. */
static PyObject *time_or_none(int given, struct timespec time)
{
	long long ns;

	if (__builtin_mul_overflow(time.tv_sec, NS_PER_SECOND, &ns) || __builtin_add_overflow(ns, time.tv_nsec, &ns))
		ns = time.tv_sec < 0 ? LLONG_MIN : LLONG_MAX;
	return number_or_none(given, ns);
}

static void fast_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	PyObject *result = NULL;

	if (has_callback(SETATTR))
		result = call_python(SETATTR, "KOOOOOOOuuuu", (unsigned long long)ino,
			     number_or_none(to_set & FUSE_SET_ATTR_MODE, attr->st_mode),
			     number_or_none(to_set & FUSE_SET_ATTR_UID, attr->st_uid),
			     number_or_none(to_set & FUSE_SET_ATTR_GID, attr->st_gid),
			     number_or_none(to_set & FUSE_SET_ATTR_SIZE, attr->st_size),
			     time_or_none(to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW), attr->st_atim),
			     time_or_none(to_set & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW), attr->st_mtim),
			     time_or_none(to_set & FUSE_SET_ATTR_CTIME, attr->st_ctim), (unsigned)attr->st_rdev,
			     (unsigned)ctx->uid, (unsigned)ctx->gid, (unsigned)ctx->pid);
	if (!reply_attr(req, SETATTR, result))
		PASS_ON(slow_ops.setattr(req, ino, attr, to_set, fi));
}

static void fast_readlink(fuse_req_t req, fuse_ino_t ino)
{
	PyObject *result = call_python(READLINK, "K", (unsigned long long)ino);

	if (result != NULL && PyBytes_Check(result)) {
		fuse_reply_readlink(req, PyBytes_AS_STRING(result));
		Py_DECREF(result);
	} else if (!reply_errno(req, READLINK, result)) {
		PASS_ON(slow_ops.readlink(req, ino));
	}
}

static void fast_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	if (!reply_entry(req, MKNOD,
			 call_python(MKNOD, "KyuKuuu", (unsigned long long)parent, name, (unsigned)mode,
			     (unsigned long long)rdev, (unsigned)ctx->uid, (unsigned)ctx->gid, (unsigned)ctx->umask)))
		PASS_ON(slow_ops.mknod(req, parent, name, mode, rdev));
}

static void fast_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	if (!reply_entry(req, MKDIR,
			 call_python(MKDIR, "Kyuuuu", (unsigned long long)parent, name, (unsigned)mode,
				     (unsigned)ctx->uid, (unsigned)ctx->gid, (unsigned)ctx->umask)))
		PASS_ON(slow_ops.mkdir(req, parent, name, mode));
}

static void fast_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	if (!reply_entry(req, SYMLINK,
			 call_python(SYMLINK, "Kyyuuu", (unsigned long long)parent, name, target, (unsigned)ctx->uid,
			     (unsigned)ctx->gid, (unsigned)ctx->umask)))
		PASS_ON(slow_ops.symlink(req, target, parent, name));
}

static void fast_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	if (!reply_entry(req, LINK,
			 call_python(LINK, "KKy", (unsigned long long)ino, (unsigned long long)parent, name)))
		PASS_ON(slow_ops.link(req, ino, parent, name));
}

static void fast_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (!reply_status(req, UNLINK, call_python(UNLINK, "Ky", (unsigned long long)parent, name)))
		PASS_ON(slow_ops.unlink(req, parent, name));
}

static void fast_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (!reply_status(req, RMDIR, call_python(RMDIR, "Ky", (unsigned long long)parent, name)))
		PASS_ON(slow_ops.rmdir(req, parent, name));
}

static void fast_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
			  const char *new_name, unsigned flags)
{
	if (!reply_status(req, RENAME,
			  call_python(RENAME, "KyKyu", (unsigned long long)parent, name, (unsigned long long)new_parent,
			      new_name, flags)))
		PASS_ON(slow_ops.rename(req, parent, name, new_parent, new_name, flags));
}

static void fast_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	/* an empty name is a request about a range (ranges.c) */
	PyObject *result = *name ? call_python(GETXATTR, "Ky", (unsigned long long)ino, name) : NULL;
	if (result == NULL || !PyBytes_Check(result)) {
		if (!reply_errno(req, GETXATTR, result))
			PASS_ON(slow_ops.getxattr(req, ino, name, size));
		return;
	}
	size_t length = (size_t)PyBytes_GET_SIZE(result);
	if (size == 0) /* the caller wants the length only */
		fuse_reply_xattr(req, length);
	else if (length <= size)
		fuse_reply_buf(req, PyBytes_AS_STRING(result), length);
	else
		reply_counted(req, ERANGE);
	Py_DECREF(result);
}

static void fast_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	PyObject *result = call_python(READ, "KLLu", (unsigned long long)fi->fh, (long long)off, (long long)size,
			       (unsigned)fi->flags);

	if (result != NULL && PyBytes_Check(result)) {
		fuse_reply_buf(req, PyBytes_AS_STRING(result), (size_t)PyBytes_GET_SIZE(result));
		Py_DECREF(result);
	} else if (!reply_errno(req, READ, result)) {
		PASS_ON(slow_ops.read(req, ino, size, off, fi));
	}
}

static void fast_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *data, off_t off,
			     struct fuse_file_info *fi)
{
	const struct fuse_buf *only = &data->buf[0];
	PyObject *result = NULL;

	/* Only data that is in memory, in one piece: data of a splice is in a pipe. */
	if (has_callback(WRITE) && data->count == 1 && data->idx == 0 && data->off == 0 &&
	    !(only->flags & FUSE_BUF_IS_FD))
		result = call_python(WRITE, "KLO", (unsigned long long)fi->fh, (long long)off,
			     PyBytes_FromStringAndSize(only->mem, (Py_ssize_t)only->size));
	if (result == Py_None) {
		fuse_reply_write(req, only->size);
		Py_DECREF(result);
	} else if (!reply_errno(req, WRITE, result)) {
		PASS_ON(slow_ops.write_buf(req, ino, data, off, fi));
	}
}

/* The callback returns an iterator of (name, attributes, cookie).  Asking it for the next entry tells Python that the
 * one before is in the reply, so the kernel will hold a reference to its inode.  An errno as an item ends the listing.
 */
static void fast_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	static char reply[REPLY_MAX];
	PyObject *entries = call_python(READDIR, "KL", (unsigned long long)fi->fh, (long long)off), *found;
	struct fuse_entry_param entry = {0};
	size_t used = 0;
	int error = 0;

	if (entries == NULL) {
		PASS_ON(slow_ops.readdirplus(req, ino, size, off, fi));
		return;
	}
	if (!PyIter_Check(entries)) {
		reply_errno(req, READDIR, entries);
		return;
	}
	if (size > REPLY_MAX)
		size = REPLY_MAX;
	while ((found = PyIter_Next(entries)) != NULL) {
		if (errno_of(found)) {
			error = errno_of(found);
			Py_DECREF(found);
			break;
		}
		PyObject *attributes;
		const char *name;
		long long cookie;
		if (!PyArg_ParseTuple(found, "yOL", &name, &attributes, &cookie) ||
		    !parse_stat(attributes, &entry.attr)) {
			Py_DECREF(found);
			break;
		}
		entry.ino = entry.attr.st_ino;
		entry.generation = generation_of(entry.ino);
		/* nlink 0 marks placeholder attributes (engine/tree/merged_view.py): the kernel must not cache them */
		entry.entry_timeout = entry.attr_timeout = entry.attr.st_nlink != 0 ? rules.for_ever : 0;
		size_t more = fuse_add_direntry_plus(req, reply + used, size - used, name, &entry, cookie);
		Py_DECREF(found);
		if (more > size - used)
			break;
		used += more;
	}
	if (PyErr_Occurred()) {
		Py_DECREF(invalid_result(READDIR, NULL));
		error = EIO;
	}
	/* Entries in the reply must reach the kernel even after an error: Python counted references for them. */
	if (used == 0 && error != 0)
		reply_counted(req, error);
	else
		fuse_reply_buf(req, reply, used);
	Py_DECREF(entries);
}

/* ------------------------------------------------------------------------------------------------------------------
 * Installing and calling the handlers
 */

void install_fast_handlers(struct fuse_lowlevel_ops *table)
{
	slow_ops = *table;
	table->lookup = fast_lookup;
	table->forget = fast_forget;
	table->forget_multi = fast_forget_multi;
	table->getattr = fast_getattr;
	table->setattr = fast_setattr;
	table->readlink = fast_readlink;
	table->mknod = fast_mknod;
	table->mkdir = fast_mkdir;
	table->symlink = fast_symlink;
	table->link = fast_link;
	table->unlink = fast_unlink;
	table->rmdir = fast_rmdir;
	table->rename = fast_rename;
	table->getxattr = fast_getxattr;
	table->read = fast_read;
	table->write_buf = fast_write_buf;
	table->readdirplus = fast_readdirplus;
}

static const unsigned char kinds_by_opcode[] = {
	[OP_BATCH_FORGET] = FORGET, [OP_FORGET] = FORGET,      [OP_GETATTR] = GETATTR,        [OP_GETXATTR] = GETXATTR,
	[OP_LINK] = LINK,           [OP_LOOKUP] = LOOKUP,      [OP_MKDIR] = MKDIR,            [OP_MKNOD] = MKNOD,
	[OP_READ] = READ,           [OP_READLINK] = READLINK,  [OP_READDIRPLUS] = READDIR,    [OP_RENAME] = RENAME,
	[OP_RENAME2] = RENAME,      [OP_RMDIR] = RMDIR,        [OP_SETATTR] = SETATTR,        [OP_SYMLINK] = SYMLINK,
	[OP_UNLINK] = UNLINK,       [OP_WRITE] = WRITE,
};

int kind_of_opcode(uint32_t opcode)
{
	return opcode < sizeof kinds_by_opcode ? kinds_by_opcode[opcode] : NONE;
}

bool try_fast_path(struct fuse_session *se, const struct fuse_buf *buf, process_function *process)
{
	int kind = kind_of_opcode(get32(buf->mem, offsetof(struct request_header, opcode)));

	if (!has_callback(kind))
		return false;
	int64_t began = monotonic_ns();
	if (!try_to_process(se, buf, process))
		return false;
	count_served(kind, began);
	return true;
}

bool try_to_process(struct fuse_session *se, const struct fuse_buf *buf, process_function *process)
{
	trying = true;
	passed_on = false;
	process(se, buf);
	trying = false;
	return !passed_on;
}
