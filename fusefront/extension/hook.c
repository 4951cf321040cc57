/* minifo.fusefront.extension._hook: what pyfuse3 cannot ask of libfuse and the kernel, asked for it.
 *
 * This library is loaded with RTLD_GLOBAL before pyfuse3, so pyfuse3 finds some functions of libfuse here first: that
 * which creates its session (fuse_session_new; if built with libfuse 3.17 or newer, fuse_session_new_versioned), that
 * which receives a request and that which processes it.  The session it gets differs from a plain one in eight ways:
 *
 *   1. open and opendir are answered ENOSYS.  The kernel then sends neither again, nor release, and caches listings.
 *      Every request that would carry a handle carries 0 instead and is given the inode number for it.
 *   2. The INIT reply asks for HANDLE_KILLPRIV_V2, CACHE_SYMLINKS and DONT_MASK, as far as the kernel offers them, and
 *      not for ATOMIC_O_TRUNC: with no open request, truncation must come as a SETATTR.
 *   3. SETATTR's "clear set-id bits" flag, which libfuse drops, reaches Python as st_rdev == 1 (otherwise 0; SETATTR
 *      has no use for that field).  WRITE's flag of the same meaning is left alone: the kernel sends an empty SETATTR
 *      before it.
 *   4. Requests are read by plain read(2), so none costs a splice, and from a descriptor that does not block, so a
 *      request withdrawn between poll and read cannot stall the event loop.
 *   5. What the file system has published is answered here, and the next request read at once: attributes, which the
 *      kernel asks for after every change of a directory's entries, after a read of what it had not in memory (for its
 *      atime) and after every close of a file (for its blocks); that
 *      a directory has no such name; that an object has no extended attributes, which programs ask for again and again,
 *      for no kernel keeps the answer; the last times of a file without a name; and bytes of base files that are read
 *      piece by piece.
 *   6. fallocate, lseek and copy_file_range, which pyfuse3 has no handlers for, reach Python as a getxattr of an empty
 *      name (ranges.c).
 *   7. Requests whose answer needs no wait are put to Python by a plain call, and reach pyfuse3 only where that leaves
 *      them (fast_path.c).
 *   8. Files without a name (O_TMPFILE) are created, for which neither pyfuse3 nor older versions of libfuse have a
 *      handler (tmpfile.c).
 *
 * Nothing of libfuse but its public functions is used.  Its custom io would have shown requests and replies more
 * directly, but exists from 3.13 on only and is left out of a default build since 3.18.3.
 *
 * What is answered by 5. or 7. is so while pyfuse3 receives: it gets the next request that is left, or hears that there
 * is none.
 *
 * The rule kept: whatever is not exactly as expected here is left as libfuse would have done it, and status() says so.
 * Python is called only where the interpreter's lock is held: pyfuse3 calls some functions of libfuse without it.
 *
 * The state is one per process, as pyfuse3's is.  What must be remembered between receiving a request and processing it
 * is one per thread: pyfuse3 processes a request in the thread that received it, before that thread receives again.
 */
#include "callbacks.h"
#include "clock.h"
#include "fast_path.h"
#include "init.h"
#include "names.h"
#include "spin.h"
#include "protocol.h"
#include "reply_cache.h"
#include "ranges.h"
#include "tmpfile.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

enum {
	LOOKUP_NAME = sizeof(struct request_header),
	SETATTR_VALID = sizeof(struct request_header),     /* fuse_setattr_in.valid */
	GETXATTR_NAME = sizeof(struct request_header) + 8, /* behind fuse_getxattr_in */

	FATTR_MTIME_BIT = 1 << 5,
	FATTR_CTIME_BIT = 1 << 10,
	FATTR_KILL_SUIDGID_BIT = 1 << 11,
};

/* ------------------------------------------------------------------------------------------------------------------
 * State
 */

/* The functions of libfuse that the ones here stand before, found when the module is loaded.  Only new_versioned can be
 * NULL: older libraries lack it. */
static struct {
	struct fuse_session *(*new)(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t, void *);
	struct fuse_session *(*new_versioned)(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t, void *,
					      void *);
	int (*receive_buf)(struct fuse_session *, struct fuse_buf *);
	void (*process_buf)(struct fuse_session *, const struct fuse_buf *);
} libfuse;

static bool wanted = true; /* set_active(): whether the next session is to be altered at all */

static struct {
	bool hooked;    /* libfuse was given our table */
	bool stateless; /* open and opendir are ours: handles are inode numbers */
} session;

static struct fuse_lowlevel_ops theirs; /* pyfuse3's handlers, behind those that ask Python directly */
static struct fuse_lowlevel_ops ours;   /* the same, with ours in the places that choose_table() names */

static _Thread_local struct {
	bool init;         /* the request received last is an INIT */
	bool kill_suidgid; /* it is a SETATTR that is to clear set-id bits */
	bool syncfs;       /* it is a SYNCFS */
} request;

/* ------------------------------------------------------------------------------------------------------------------
 * Requests that are looked into
 */

/* Remember what libfuse will not pass on about the request in bytes[0:size]; size 0 means that none can be seen. */
static void note_request(const unsigned char *bytes, size_t size)
{
	struct request_header header;

	memset(&request, 0, sizeof request);
	if (size < sizeof header)
		return;
	memcpy(&header, bytes, sizeof header);
	if (header.len != size)
		return;
	if (header.opcode == OP_SETATTR && size >= SETATTR_VALID + 4) {
		request.kill_suidgid = get32(bytes, SETATTR_VALID) & FATTR_KILL_SUIDGID_BIT;
	} else if (header.opcode == OP_INIT) {
		request.init = true;
		note_init(bytes, size);
	}
	request.syncfs = header.opcode == OP_SYNCFS;
}

/* True if one of our handlers will answer the request in bytes[0:size] from what was published. */
static bool answered_here(const unsigned char *bytes, size_t size)
{
	struct request_header header;

	if (!session.stateless || size < sizeof header)
		return false;
	memcpy(&header, bytes, sizeof header);
	switch (header.opcode) {
	case OP_LOOKUP:
		return size > LOOKUP_NAME && bytes[size - 1] == 0 &&
		       is_absent(header.nodeid, (const char *)bytes + LOOKUP_NAME);
	case OP_GETATTR:
		return knows_attributes(header.nodeid);
	case OP_READ:
		return knows_file(header.nodeid);
	case OP_GETXATTR:
		return size > GETXATTR_NAME && bytes[size - 1] == 0 &&
		       lacks_xattr(header.nodeid, (const char *)bytes + GETXATTR_NAME);
	case OP_SETATTR:
		return size >= SETATTR_VALID + 4 &&
		       nobody_cares(header.nodeid, get32(bytes, SETATTR_VALID), FATTR_MTIME_BIT, FATTR_CTIME_BIT);
	default:
		return false;
	}
}

/* ------------------------------------------------------------------------------------------------------------------
 * Handlers that stand before pyfuse3's
 */

static void number_handle(struct fuse_file_info *fi, fuse_ino_t ino)
{
	if (session.stateless && fi != NULL && fi->fh == 0)
		fi->fh = ino;
}

static void our_init(void *userdata, struct fuse_conn_info *conn)
{
	theirs.init(userdata, conn);
	/* Opens can go only where the kernel takes ENOSYS for an answer, and only if we saw what it offers. */
	session.stateless = may_be_stateless();
	if (session.stateless)
		conn->want &= ~(unsigned)FUSE_CAP_ATOMIC_O_TRUNC;
	conn->want &= ~(unsigned)FUSE_CAP_SPLICE_READ;
}

static void our_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (session.stateless)
		fuse_reply_err(req, ENOSYS);
	else
		theirs.open(req, ino, fi);
}

static void our_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (session.stateless)
		fuse_reply_err(req, ENOSYS);
	else
		theirs.opendir(req, ino, fi);
}

static void our_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (session.stateless && is_absent(parent, name))
		reply_absent(req);
	else
		theirs.lookup(req, parent, name);
}

static void our_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (!session.stateless || !reply_attributes(req, ino))
		theirs.getattr(req, ino, fi);
}

static void our_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	if (session.stateless && lacks_xattr(ino, name))
		fuse_reply_err(req, ENODATA);
	else
		theirs.getxattr(req, ino, name, size);
}

static void our_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	if (session.stateless && nobody_cares(ino, (unsigned)to_set, FUSE_SET_ATTR_MTIME, FUSE_SET_ATTR_CTIME)) {
		reply_dead(req, ino);
		return;
	}
	attr->st_rdev = request.kill_suidgid;
	number_handle(fi, ino);
	theirs.setattr(req, ino, attr, to_set, fi);
}

static void our_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	if (session.stateless && reply_bytes(req, ino, size, off))
		return;
	number_handle(fi, ino);
	theirs.read(req, ino, size, off, fi);
}

static void our_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *data, off_t off,
			  struct fuse_file_info *fi)
{
	number_handle(fi, ino);
	theirs.write_buf(req, ino, data, off, fi);
}

static void our_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	number_handle(fi, ino);
	theirs.readdirplus(req, ino, size, off, fi);
}

static void our_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	number_handle(fi, ino);
	theirs.fsync(req, ino, datasync, fi);
}

static void our_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	number_handle(fi, ino);
	theirs.fsyncdir(req, ino, datasync, fi);
}

/* The table to hand to libfuse in place of ops[0:size]: ours, or ops itself if it is to be left alone. */
static const struct fuse_lowlevel_ops *choose_table(const struct fuse_lowlevel_ops *ops, size_t size)
{
	if (ops == &ours) /* libfuse calling its own newer entry point, which is also here */
		return ops;
	memset(&session, 0, sizeof session);
	memset(&handshake, 0, sizeof handshake);
	forget_published();
	forget_names();
	/* A longer table than ours is of a newer header than this file was built with: it would be cut off. */
	if (!wanted || ops == NULL || size > sizeof ours ||
	    size < offsetof(struct fuse_lowlevel_ops, readdirplus) + sizeof ops->readdirplus)
		return ops;
	if (!ops->init || !ops->open || !ops->opendir || !ops->setattr || !ops->read || !ops->write_buf ||
	    !ops->readdirplus || !ops->fsync || !ops->fsyncdir || !ops->getattr || !ops->getxattr || !ops->lookup)
		return ops;
	memset(&theirs, 0, sizeof theirs);
	memcpy(&theirs, ops, size);
	stand_before(&theirs);
	ours = theirs;
	ours.init = our_init;
	ours.open = our_open;
	ours.opendir = our_opendir;
	ours.lookup = our_lookup;
	ours.getattr = our_getattr;
	ours.getxattr = our_getxattr;
	ours.setattr = our_setattr;
	ours.read = our_read;
	ours.write_buf = our_write_buf;
	ours.readdirplus = our_readdirplus;
	ours.fsync = our_fsync;
	ours.fsyncdir = our_fsyncdir;
	pass_ranges_on(&ours, theirs.getxattr, &session.stateless);
	session.hooked = true;
	return &ours;
}

/* ------------------------------------------------------------------------------------------------------------------
 * The functions of libfuse that pyfuse3 finds here.  They are given their names by label: the headers of some versions
 * make macros or inline functions of them, and no two versions declare them alike.
 */

#define STANDS_FOR(name) __asm__(name) __attribute__((visibility("default")))

struct fuse_session *our_session_new(struct fuse_args *args, const struct fuse_lowlevel_ops *ops, size_t size,
				     void *userdata) STANDS_FOR("fuse_session_new");
struct fuse_session *our_session_new_versioned(struct fuse_args *args, const struct fuse_lowlevel_ops *ops,
					       size_t size, void *version, void *userdata)
	STANDS_FOR("fuse_session_new_versioned");
int our_receive_buf(struct fuse_session *se, struct fuse_buf *buf) STANDS_FOR("fuse_session_receive_buf");
void our_process_buf(struct fuse_session *se, const struct fuse_buf *buf) STANDS_FOR("fuse_session_process_buf");

struct fuse_session *our_session_new(struct fuse_args *args, const struct fuse_lowlevel_ops *ops, size_t size,
				     void *userdata)
{
	return libfuse.new(args, choose_table(ops, size), size, userdata);
}

struct fuse_session *our_session_new_versioned(struct fuse_args *args, const struct fuse_lowlevel_ops *ops,
					       size_t size, void *version, void *userdata)
{
	if (libfuse.new_versioned == NULL) /* called by what was built with a newer libfuse than is here */
		return NULL;
	return libfuse.new_versioned(args, choose_table(ops, size), size, version, userdata);
}

/* True if the request in buf, of which `size` bytes can be seen, was answered: by what was published, or by Python. */
static bool is_answered(struct fuse_session *se, const struct fuse_buf *buf, size_t size)
{
	if (session.stateless && answer_tmpfile(se, buf->mem, size))
		return true;
	if (answered_here(buf->mem, size))
		return try_to_answer(se, buf, libfuse.process_buf); /* what was published may fail: a file is not read */
	return size >= sizeof(struct request_header) && answer_directly(se, buf, libfuse.process_buf);
}

int our_receive_buf(struct fuse_session *se, struct fuse_buf *buf)
{
	int result;

	for (bool answered = false;; answered = true) {
		result = libfuse.receive_buf(se, buf);
		if (!session.hooked)
			return result;
		/* whoever was answered here is likely to go on at once */
		if (result == -EAGAIN && answered && comes_soon(fuse_session_fd(se)))
			result = libfuse.receive_buf(se, buf);
		if (result > 0)
			note_arrival();
		/* What was spliced into a pipe is a large WRITE; everything else is in memory. */
		size_t size = result > 0 && !(buf->flags & FUSE_BUF_IS_FD) ? (size_t)result : 0;
		note_request(buf->mem, size);
		if (!may_go_on() || !is_answered(se, buf, size))
			break;
	}
	/* The descriptor does not block.  An empty queue is what pyfuse3 knows as EINTR: it waits for the next request. */
	return result == -EAGAIN ? -EINTR : result;
}

/* SYNCFS, which the kernel sends for sync(2) from Linux 7.3 on and libfuse does not know, is to be answered when
 * everything is durable, and so is FSYNCDIR: it becomes one. */
static void process_syncfs(struct fuse_session *se, const struct fuse_buf *buf)
{
	struct {
		struct request_header header;
		uint64_t handle;
		uint32_t flags, padding;
	} fsyncdir = {0};
	struct fuse_buf changed = *buf;

	memcpy(&fsyncdir.header, buf->mem, sizeof fsyncdir.header);
	fsyncdir.header.opcode = OP_FSYNCDIR;
	fsyncdir.header.len = sizeof fsyncdir;
	changed.mem = &fsyncdir;
	changed.size = sizeof fsyncdir;
	libfuse.process_buf(se, &changed);
}

void our_process_buf(struct fuse_session *se, const struct fuse_buf *buf)
{
	if (session.hooked && request.init)
		answer_init(se, buf, libfuse.process_buf);
	else if (session.hooked && request.syncfs)
		process_syncfs(se, buf);
	/* that which is left because others are to get a turn: one ENOSYS of libfuse's and the kernel never asks again */
	else if (!session.stateless || buf->flags & FUSE_BUF_IS_FD || !answer_tmpfile(se, buf->mem, buf->size))
		libfuse.process_buf(se, buf);
}

/* ------------------------------------------------------------------------------------------------------------------
 * The Python module
 */

PyDoc_STRVAR(status_doc, "status() -> dict\n\n"
			 "What became of the newest session of this process:\n"
			 "session_hooked: libfuse was given our handlers;\n"
			 "init_seen: the kernel's INIT was answered through us;\n"
			 "stateless: open and opendir are answered here, handles are inode numbers;\n"
			 "kernel_flags, reply_flags: the 64-bit INIT flags offered and answered;\n"
			 "raised: those of the answer that were added here.");

static PyObject *py_status(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	return Py_BuildValue("{s:O,s:O,s:O,s:K,s:K,s:K}", "session_hooked", session.hooked ? Py_True : Py_False,
			     "init_seen", handshake.answered ? Py_True : Py_False, "stateless",
			     session.stateless ? Py_True : Py_False, "kernel_flags",
			     (unsigned long long)handshake.offered, "reply_flags", (unsigned long long)handshake.replied,
			     "raised", (unsigned long long)handshake.raised);
}

PyDoc_STRVAR(set_active_doc, "set_active(on: bool) -> None\n\n"
			     "Say whether the next session is altered; one that exists keeps what it has.");

static PyObject *py_set_active(PyObject *module, PyObject *on)
{
	(void)module;
	int truth = PyObject_IsTrue(on);
	if (truth < 0)
		return NULL;
	wanted = truth;
	Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
	{"status", py_status, METH_NOARGS, status_doc},
	{"set_active", py_set_active, METH_O, set_active_doc},
	{NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "minifo.fusefront.extension._hook",
	.m_doc = "Stands between pyfuse3 and libfuse; load it by minifo.fusefront.serve.hook.load().",
	.m_size = -1, /* the state is the process's, not an interpreter's */
	.m_methods = methods,
};

PyMODINIT_FUNC PyInit__hook(void)
{
	/* The next library after this one to have the name is libfuse. */
	*(void **)&libfuse.new = dlsym(RTLD_NEXT, "fuse_session_new");
	*(void **)&libfuse.new_versioned = dlsym(RTLD_NEXT, "fuse_session_new_versioned");
	*(void **)&libfuse.receive_buf = dlsym(RTLD_NEXT, "fuse_session_receive_buf");
	*(void **)&libfuse.process_buf = dlsym(RTLD_NEXT, "fuse_session_process_buf");
	if (libfuse.new == NULL || libfuse.receive_buf == NULL || libfuse.process_buf == NULL) {
		PyErr_SetString(PyExc_ImportError, "libfuse lacks a function that the session hook stands before");
		return NULL;
	}
	PyObject *module = PyModule_Create(&definition);
	PyMethodDef *const parts[] = {published_methods, names_methods,    ask_methods,
				      ranges_methods,    patience_methods, clock_methods};
	for (size_t part = 0; module != NULL && part < sizeof parts / sizeof *parts; part++)
		if (PyModule_AddFunctions(module, parts[part]) < 0)
			Py_CLEAR(module);
	return module;
}
