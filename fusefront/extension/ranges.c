/* Passes on fallocate, lseek and copy_file_range, the requests about ranges of files that pyfuse3 has no handlers for.
 *
 * They reach Python as a getxattr of an empty name, which no program can send.  The handler of getxattr gets their
 * arguments from range_request(), and returns the bytes of the reply as the kernel expects them.
 */
#include "ranges.h"

#include <errno.h>

enum { REPLY_ROOM = 64 }; /* bytes; no reply is longer */

/* The arguments of one request. */
struct range_request {
	const char *kind; /* fallocate, lseek or copy_file_range */
	int mode; /* fallocate: its mode; lseek: SEEK_DATA or SEEK_HOLE; copy_file_range: its flags */
	uint64_t ino, size;
	int64_t offset;
	uint64_t target; /* copy_file_range: the file that is written */
	int64_t at;      /* copy_file_range: the offset in it */
};

static struct range_request last; /* the request that was passed on last */

static void (*getxattr_handler)(fuse_req_t, fuse_ino_t, const char *, size_t);
static const bool *is_active;

static void pass_on(fuse_req_t req, struct range_request request)
{
	last = request;
	if (*is_active)
		getxattr_handler(req, last.ino, "", REPLY_ROOM);
	else
		fuse_reply_err(req, ENOSYS);
}

static void pass_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
			   struct fuse_file_info *fi)
{
	(void)fi;
	pass_on(req, (struct range_request){
			 .kind = "fallocate", .ino = ino, .mode = mode, .offset = offset, .size = (uint64_t)length});
}

static void pass_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	(void)fi;
	pass_on(req, (struct range_request){.kind = "lseek", .ino = ino, .mode = whence, .offset = off});
}

static void pass_copy(fuse_req_t req, fuse_ino_t ino_in, off_t off_in, struct fuse_file_info *fi_in, fuse_ino_t ino_out,
		      off_t off_out, struct fuse_file_info *fi_out, size_t len, int flags)
{
	(void)fi_in;
	(void)fi_out;
	pass_on(req, (struct range_request){.kind = "copy_file_range",
					.ino = ino_in,
					.offset = off_in,
					.target = ino_out,
					.at = off_out,
					.size = len,
					.mode = flags});
}

void install_range_handlers(struct fuse_lowlevel_ops *table,
			    void (*getxattr)(fuse_req_t, fuse_ino_t, const char *, size_t), const bool *active)
{
	getxattr_handler = getxattr;
	is_active = active;
	table->fallocate = pass_fallocate;
	table->lseek = pass_lseek;
	table->copy_file_range = pass_copy;
}

PyDoc_STRVAR(range_request_doc, "range_request() -> (kind, ino, offset, size, mode, target, at)\n\n"
			"Return the request that was passed on as a getxattr of an empty name.\n"
			"kind: \"fallocate\", \"lseek\" or \"copy_file_range\".\n"
			"mode: of fallocate its mode, of lseek SEEK_DATA or SEEK_HOLE, of copy_file_range its flags.\n"
			"Call it before the handler of that getxattr awaits anything: the next request replaces it.");

static PyObject *py_range_request(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	return Py_BuildValue("sKLKiKL", last.kind, (unsigned long long)last.ino, (long long)last.offset,
			     (unsigned long long)last.size, last.mode, (unsigned long long)last.target,
			     (long long)last.at);
}

PyMethodDef ranges_methods[] = {
	{"range_request", py_range_request, METH_NOARGS, range_request_doc},
	{NULL, NULL, 0, NULL},
};
