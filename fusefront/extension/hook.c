/* minifo.fusefront.extension._hook: the session hook, which stands between pyfuse3 and libfuse.
 *
 * It gives a mount what pyfuse3 has no way to ask libfuse and the kernel for.  The library is loaded with RTLD_GLOBAL
 * before pyfuse3, so three functions of libfuse that pyfuse3 calls are found here first: the one that creates a session
 * (fuse_session_new; fuse_session_new_versioned if pyfuse3 was built with libfuse 3.17 or newer), the one that receives
 * a request and the one that processes it.  A session with the hook differs from a plain one in eight ways:
 *
 *   1. OPEN and OPENDIR are answered with ENOSYS.  The kernel then sends neither again, nor RELEASE, and caches
 *      listings.  Every request that would carry a handle carries 0; the hook sets the handle to the inode number.
 *   2. The reply to INIT asks for HANDLE_KILLPRIV_V2, CACHE_SYMLINKS and DONT_MASK, as far as the kernel offers them,
 *      and not for ATOMIC_O_TRUNC: without OPEN, truncation must come as a SETATTR (init.c).
 *   3. SETATTR has a flag "clear set-id bits", which libfuse drops.  Python gets it as st_rdev == 1 (otherwise 0), a
 *      field that SETATTR does not use.  WRITE's flag of that meaning is ignored: the kernel sends an empty SETATTR
 *      before it.
 *   4. Requests are read by plain read(2), not by splice(2), which costs more for most of them, and from a non-blocking
 *      descriptor, so a request that is withdrawn between poll and read cannot block the event loop.
 *   5. The hook replies from its reply cache without Python (reply_cache.c, names.c), and reads the next request at
 *      once: attributes, which the kernel asks for after every change of a directory's entries, after a read that the
 *      page cache did not answer (for atime) and after every close of a file (for its blocks); LOOKUP of a name that
 *      does not exist; GETXATTR of an inode without extended attributes, which no kernel caches; SETATTR of the last
 *      times of a file without a name; and READ of base files that are read piece by piece.
 *   6. fallocate, lseek and copy_file_range, which pyfuse3 has no handlers for, reach Python as a getxattr of an empty
 *      name (ranges.c).
 *   7. Requests that need no wait are served by a direct call of Python; pyfuse3 gets only those that the callback
 *      passes on (fast_path.c).
 *   8. Files without a name (O_TMPFILE) can be created; neither pyfuse3 nor older versions of libfuse have a handler
 *      for that (tmpfile.c).
 *
 * Only public functions of libfuse are used.  Its custom io would show requests and replies more directly, but exists
 * only since 3.13, and a default build lacks it since 3.18.3.
 *
 * Requests of 5. and 7. are served while pyfuse3 receives: its call returns with the first request that needs pyfuse3,
 * or when there is none.
 *
 * The rule kept: if libfuse, pyfuse3 or the kernel is not as expected, the request is processed as libfuse would do it,
 * and status() reports that.  Python is called only while the thread holds the interpreter's lock: pyfuse3 calls some
 * functions of libfuse without it.
 *
 * There is one state for each process, as in pyfuse3.  What must be remembered between receiving and processing a
 * request is one state for each thread: pyfuse3 processes a request in the thread that received it, before that thread
 * receives the next one.
 */
#include "callbacks.h"
#include "clock.h"
#include "counters.h"
#include "fast_path.h"
#include "generations.h"
#include "init.h"
#include "names.h"
#include "spin.h"
#include "protocol.h"
#include "redo_record.h"
#include "reply_cache.h"
#include "ranges.h"
#include "shared_rules.h"
#include "tmpfile.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

enum {
	LOOKUP_NAME = sizeof(struct request_header),
	SETATTR_VALID = sizeof(struct request_header),     /* fuse_setattr_in.valid */
	GETXATTR_NAME = sizeof(struct request_header) + 8, /* after fuse_getxattr_in */

	FATTR_MTIME_BIT = 1 << 5,
	FATTR_CTIME_BIT = 1 << 10,
	FATTR_KILL_SUIDGID_BIT = 1 << 11,
};

/* ------------------------------------------------------------------------------------------------------------------
 * State
 */

/* The functions of libfuse that the hook's functions replace, found when the module is loaded.  Only new_versioned can
 * be NULL: older libraries lack it. */
static struct {
	struct fuse_session *(*new)(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t, void *);
	struct fuse_session *(*new_versioned)(struct fuse_args *, const struct fuse_lowlevel_ops *, size_t, void *,
					      void *);
	int (*receive_buf)(struct fuse_session *, struct fuse_buf *);
	void (*process_buf)(struct fuse_session *, const struct fuse_buf *);
} libfuse;

static bool enabled = true; /* set_active(): whether the next session gets the hook */

static struct {
	bool hooked;    /* libfuse has the table hook_ops */
	bool stateless; /* OPEN and OPENDIR are answered with ENOSYS: handles are inode numbers */
} session;

static struct fuse_lowlevel_ops pyfuse3_ops; /* pyfuse3's handlers, some of them replaced by fast ones (fast_path.c) */
static struct fuse_lowlevel_ops hook_ops;    /* pyfuse3_ops with the handlers hook_*, which call those */

static _Thread_local struct {
	bool init;         /* it is an INIT */
	bool kill_suidgid; /* it is a SETATTR with the flag to clear set-id bits */
	bool syncfs;       /* it is a SYNCFS */
	uint32_t uid, pid; /* of the process that sent it; 0 if it is not in memory */
} request; /* the request that this thread received last */

/* ------------------------------------------------------------------------------------------------------------------
 * Inspecting requests
 */

/* Record what libfuse does not pass on of the request in bytes[0:size]; size 0 if the request is not in memory. */
static void inspect_request(const unsigned char *bytes, size_t size)
{
	struct request_header header;

	memset(&request, 0, sizeof request);
	if (size < sizeof header)
		return;
	memcpy(&header, bytes, sizeof header);
	if (header.len != size)
		return;
	request.uid = header.uid;
	request.pid = header.pid;
	if (header.opcode == OP_SETATTR && size >= SETATTR_VALID + 4) {
		request.kill_suidgid = get32(bytes, SETATTR_VALID) & FATTR_KILL_SUIDGID_BIT;
	} else if (header.opcode == OP_INIT) {
		request.init = true;
		note_init(bytes, size);
	}
	request.syncfs = header.opcode == OP_SYNCFS;
}

/* True if the reply cache has the reply to the request in bytes[0:size]. */
static bool is_cached(const unsigned char *bytes, size_t size)
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
		return has_attributes(header.nodeid);
	case OP_READ:
		return has_file(header.nodeid);
	case OP_GETXATTR:
		return size > GETXATTR_NAME && bytes[size - 1] == 0 &&
		       lacks_xattr(header.nodeid, (const char *)bytes + GETXATTR_NAME);
	case OP_SETATTR:
		return size >= SETATTR_VALID + 4 &&
		       sets_times_of_unlinked(header.nodeid, get32(bytes, SETATTR_VALID), FATTR_MTIME_BIT,
					      FATTR_CTIME_BIT);
	default:
		return false;
	}
}

/* ------------------------------------------------------------------------------------------------------------------
 * The handlers of hook_ops
 */

/* Set the handle of a request that carries none to the inode number. */
static void set_handle(struct fuse_file_info *fi, fuse_ino_t ino)
{
	if (session.stateless && fi != NULL && fi->fh == 0)
		fi->fh = ino;
}

static void hook_init(void *userdata, struct fuse_conn_info *conn)
{
	pyfuse3_ops.init(userdata, conn);
	/* ENOSYS needs a kernel that accepts it for OPEN and OPENDIR, and an INIT request that was read here. */
	session.stateless = may_be_stateless();
	if (session.stateless)
		conn->want &= ~(unsigned)FUSE_CAP_ATOMIC_O_TRUNC;
	conn->want &= ~(unsigned)FUSE_CAP_SPLICE_READ;
}

static void hook_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (session.stateless)
		fuse_reply_err(req, ENOSYS);
	else
		pyfuse3_ops.open(req, ino, fi);
}

static void hook_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (session.stateless)
		fuse_reply_err(req, ENOSYS);
	else
		pyfuse3_ops.opendir(req, ino, fi);
}

static void hook_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	if (session.stateless && is_absent(parent, name))
		reply_absent(req);
	else
		pyfuse3_ops.lookup(req, parent, name);
}

static void hook_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (!session.stateless || !reply_attributes(req, ino))
		pyfuse3_ops.getattr(req, ino, fi);
}

static void hook_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	if (session.stateless && lacks_xattr(ino, name)) {
		count_error(ENODATA);
		fuse_reply_err(req, ENODATA);
	} else {
		pyfuse3_ops.getxattr(req, ino, name, size);
	}
}

static void hook_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	if (session.stateless &&
	    sets_times_of_unlinked(ino, (unsigned)to_set, FUSE_SET_ATTR_MTIME, FUSE_SET_ATTR_CTIME)) {
		reply_unlinked(req, ino);
		return;
	}
	attr->st_rdev = request.kill_suidgid;
	set_handle(fi, ino);
	pyfuse3_ops.setattr(req, ino, attr, to_set, fi);
}

static void hook_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	if (session.stateless && reply_bytes(req, ino, size, off))
		return;
	set_handle(fi, ino);
	pyfuse3_ops.read(req, ino, size, off, fi);
}

static void hook_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *data, off_t off,
			  struct fuse_file_info *fi)
{
	set_handle(fi, ino);
	pyfuse3_ops.write_buf(req, ino, data, off, fi);
}

static void hook_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	set_handle(fi, ino);
	pyfuse3_ops.readdirplus(req, ino, size, off, fi);
}

static void hook_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	set_handle(fi, ino);
	pyfuse3_ops.fsync(req, ino, datasync, fi);
}

static void hook_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	set_handle(fi, ino);
	pyfuse3_ops.fsyncdir(req, ino, datasync, fi);
}

/* The table that libfuse gets in the place of ops[0:size]: hook_ops, or ops itself for a plain session. */
static const struct fuse_lowlevel_ops *choose_table(const struct fuse_lowlevel_ops *ops, size_t size)
{
	if (ops == &hook_ops) /* libfuse itself calls fuse_session_new_versioned, and finds it here, too */
		return ops;
	memset(&session, 0, sizeof session);
	memset(&handshake, 0, sizeof handshake);
	clear_reply_cache();
	clear_names();
	/* A longer table is that of a newer header than this file was built with: copying it would cut it off. */
	if (!enabled || ops == NULL || size > sizeof hook_ops ||
	    size < offsetof(struct fuse_lowlevel_ops, readdirplus) + sizeof ops->readdirplus)
		return ops;
	if (!ops->init || !ops->open || !ops->opendir || !ops->setattr || !ops->read || !ops->write_buf ||
	    !ops->readdirplus || !ops->fsync || !ops->fsyncdir || !ops->getattr || !ops->getxattr || !ops->lookup)
		return ops;
	memset(&pyfuse3_ops, 0, sizeof pyfuse3_ops);
	memcpy(&pyfuse3_ops, ops, size);
	install_fast_handlers(&pyfuse3_ops);
	hook_ops = pyfuse3_ops;
	hook_ops.init = hook_init;
	hook_ops.open = hook_open;
	hook_ops.opendir = hook_opendir;
	hook_ops.lookup = hook_lookup;
	hook_ops.getattr = hook_getattr;
	hook_ops.getxattr = hook_getxattr;
	hook_ops.setattr = hook_setattr;
	hook_ops.read = hook_read;
	hook_ops.write_buf = hook_write_buf;
	hook_ops.readdirplus = hook_readdirplus;
	hook_ops.fsync = hook_fsync;
	hook_ops.fsyncdir = hook_fsyncdir;
	install_range_handlers(&hook_ops, pyfuse3_ops.getxattr, &session.stateless);
	session.hooked = true;
	return &hook_ops;
}

/* ------------------------------------------------------------------------------------------------------------------
 * The functions that pyfuse3 finds here in the place of libfuse's.  They get their names by an assembler label, for the
 * headers of some versions define these names as macros or inline functions, and versions declare them differently.
 */

#define REPLACES(name) __asm__(name) __attribute__((visibility("default")))

struct fuse_session *hook_session_new(struct fuse_args *args, const struct fuse_lowlevel_ops *ops, size_t size,
				     void *userdata) REPLACES("fuse_session_new");
struct fuse_session *hook_session_new_versioned(struct fuse_args *args, const struct fuse_lowlevel_ops *ops,
					       size_t size, void *version, void *userdata)
	REPLACES("fuse_session_new_versioned");
int hook_receive_buf(struct fuse_session *se, struct fuse_buf *buf) REPLACES("fuse_session_receive_buf");
void hook_process_buf(struct fuse_session *se, const struct fuse_buf *buf) REPLACES("fuse_session_process_buf");

struct fuse_session *hook_session_new(struct fuse_args *args, const struct fuse_lowlevel_ops *ops, size_t size,
				     void *userdata)
{
	return libfuse.new(args, choose_table(ops, size), size, userdata);
}

struct fuse_session *hook_session_new_versioned(struct fuse_args *args, const struct fuse_lowlevel_ops *ops,
					       size_t size, void *version, void *userdata)
{
	if (libfuse.new_versioned == NULL) /* the caller was built with a newer libfuse than is installed */
		return NULL;
	return libfuse.new_versioned(args, choose_table(ops, size), size, version, userdata);
}

/* Reply to the request in buf, of which `size` bytes are in memory, from the reply cache or by a direct call of Python.
 * False if it was not replied to. */
static bool try_to_answer_here(struct fuse_session *se, const struct fuse_buf *buf, size_t size)
{
	if (session.stateless && answer_tmpfile(se, buf->mem, size))
		return true;
	if (is_cached(buf->mem, size)) {
		if (!try_to_process(se, buf, libfuse.process_buf))
			return false; /* a published file may fail to be read */
		count_cached(kind_of_opcode(get32(buf->mem, offsetof(struct request_header, opcode))));
		return true;
	}
	return size >= sizeof(struct request_header) && try_fast_path(se, buf, libfuse.process_buf);
}

int hook_receive_buf(struct fuse_session *se, struct fuse_buf *buf)
{
	int result;

	for (bool replied = false;; replied = true) {
		result = libfuse.receive_buf(se, buf);
		if (!session.hooked)
			return result;
		/* a program that got a reply from here often sends its next request at once */
		if (result == -EAGAIN && replied && arrives_soon(fuse_session_fd(se)))
			result = libfuse.receive_buf(se, buf);
		if (result > 0)
			note_arrival();
		/* a large WRITE may have been spliced into a pipe; everything else is in memory */
		size_t size = result > 0 && !(buf->flags & FUSE_BUF_IS_FD) ? (size_t)result : 0;
		inspect_request(buf->mem, size);
		if (!count_request() || !try_to_answer_here(se, buf, size))
			break;
	}
	/* The descriptor does not block.  pyfuse3 waits for the next request after EINTR, and does not know EAGAIN. */
	return result == -EAGAIN ? -EINTR : result;
}

/* Process a SYNCFS as a FSYNCDIR: the reply to either must wait until everything is durable.  The kernel sends SYNCFS
 * for sync(2) since Linux 7.3, and libfuse does not know it. */
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

void hook_process_buf(struct fuse_session *se, const struct fuse_buf *buf)
{
	if (session.hooked && request.init)
		answer_init(se, buf, libfuse.process_buf);
	else if (session.hooked && request.syncfs)
		process_syncfs(se, buf);
	/* A TMPFILE that was passed on to let other tasks run is served now: libfuse would reply ENOSYS, and after
	 * that the kernel would never send one again. */
	else if (!session.stateless || buf->flags & FUSE_BUF_IS_FD || !answer_tmpfile(se, buf->mem, buf->size))
		libfuse.process_buf(se, buf);
}

/* ------------------------------------------------------------------------------------------------------------------
 * The Python module
 */

PyDoc_STRVAR(status_doc, "status() -> dict\n\n"
			 "Return the state of the newest session of this process:\n"
			 "session_hooked: libfuse has the handlers of the hook;\n"
			 "init_seen: the reply to INIT went through the hook;\n"
			 "stateless: OPEN and OPENDIR are answered with ENOSYS, handles are inode numbers;\n"
			 "kernel_flags, reply_flags: the 64-bit INIT flags of the request and of the reply;\n"
			 "raised: the flags of the reply that the hook added.");

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
			     "Set whether the next session gets the hook; an existing session does not change.");

static PyObject *py_set_active(PyObject *module, PyObject *on)
{
	(void)module;
	int truth = PyObject_IsTrue(on);
	if (truth < 0)
		return NULL;
	enabled = truth;
	Py_RETURN_NONE;
}

PyDoc_STRVAR(caller_doc, "caller() -> tuple[int, int]\n\n"
			 "Return uid and pid of the process that sent the request which this thread received last.\n"
			 "Call it before the thread receives another one.  pid is 0 for a request of the kernel itself, for\n"
			 "a process of a PID namespace that the daemon cannot see, and where the request is in a pipe.");

static PyObject *py_caller(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	return Py_BuildValue("(II)", request.uid, request.pid);
}

static PyMethodDef methods[] = {
	{"caller", py_caller, METH_NOARGS, caller_doc},
	{"status", py_status, METH_NOARGS, status_doc},
	{"set_active", py_set_active, METH_O, set_active_doc},
	{NULL, NULL, 0, NULL},
};

/* Add a dict of flags by their names to the module; false, with an exception set, if it fails. */
static bool add_flags(PyObject *module, const char *attribute, const struct init_flag *flags)
{
	PyObject *dict = PyDict_New();

	for (; dict != NULL && flags->name != NULL; flags++) {
		PyObject *bit = PyLong_FromUnsignedLong(flags->bit);
		if (bit == NULL || PyDict_SetItemString(dict, flags->name, bit) < 0)
			Py_CLEAR(dict);
		Py_XDECREF(bit);
	}
	if (dict != NULL && PyModule_AddObject(module, attribute, dict) == 0)
		return true;
	Py_XDECREF(dict);
	return false;
}

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "minifo.fusefront.extension._hook",
	.m_doc = "Stands between pyfuse3 and libfuse; load it by minifo.fusefront.extension.loader.load().",
	.m_size = -1, /* one state for each process, not for each interpreter */
	.m_methods = methods,
};

PyMODINIT_FUNC PyInit__hook(void)
{
	/* The next library after this one that has these names is libfuse. */
	*(void **)&libfuse.new = dlsym(RTLD_NEXT, "fuse_session_new");
	*(void **)&libfuse.new_versioned = dlsym(RTLD_NEXT, "fuse_session_new_versioned");
	*(void **)&libfuse.receive_buf = dlsym(RTLD_NEXT, "fuse_session_receive_buf");
	*(void **)&libfuse.process_buf = dlsym(RTLD_NEXT, "fuse_session_process_buf");
	if (libfuse.new == NULL || libfuse.receive_buf == NULL || libfuse.process_buf == NULL) {
		PyErr_SetString(PyExc_ImportError, "libfuse lacks a function that the session hook replaces");
		return NULL;
	}
	PyObject *module = PyModule_Create(&definition);
	PyMethodDef *const parts[] = {reply_cache_methods, names_methods, callback_methods,    ranges_methods,
				      spin_methods,        clock_methods, shared_rules_methods, redo_record_methods,
				      counters_methods,    generation_methods};
	for (size_t part = 0; module != NULL && part < sizeof parts / sizeof *parts; part++)
		if (PyModule_AddFunctions(module, parts[part]) < 0)
			Py_CLEAR(module);
	if (module != NULL && (!add_flags(module, "WANTED_FLAGS", wanted_flags) ||
			       !add_flags(module, "STATELESS_FLAGS", stateless_flags)))
		Py_CLEAR(module);
	return module;
}
