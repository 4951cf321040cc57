/* The requests about ranges of files, fallocate, lseek and copy_file_range, which pyfuse3 has no handlers for.
 *
 * They reach Python as a getxattr of an empty name, which no user can ask for.  Its handler finds their arguments by
 * asked(), and the bytes it returns are the reply's, in the kernel's form.
 */
#include "ranges.h"

#include "protocol.h"

#include <errno.h>

enum { ASKED_ROOM = 64 }; /* bytes, more than any reply */

/* A request that is passed on. */
struct range_request {
	int opcode;
	int mode; /* of fallocate; of lseek, what to look for; of a copy, its flags */
	uint64_t ino, size;
	int64_t offset;
	uint64_t target; /* of a copy, with the place there */
	int64_t at;
};

static struct range_request asked; /* the one that is being passed on */

static void (*passed_to)(fuse_req_t, fuse_ino_t, const char *, size_t);
static const bool *serving;

static void pass_on(fuse_req_t req, struct range_request request)
{
	asked = request;
	if (*serving)
		passed_to(req, asked.ino, "", ASKED_ROOM);
	else
		fuse_reply_err(req, ENOSYS);
}

static void pass_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
			   struct fuse_file_info *fi)
{
	(void)fi;
	pass_on(req, (struct range_request){
			 .opcode = OP_FALLOCATE, .ino = ino, .mode = mode, .offset = offset, .size = (uint64_t)length});
}

static void pass_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	(void)fi;
	pass_on(req, (struct range_request){.opcode = OP_LSEEK, .ino = ino, .mode = whence, .offset = off});
}

static void pass_copy(fuse_req_t req, fuse_ino_t ino_in, off_t off_in, struct fuse_file_info *fi_in, fuse_ino_t ino_out,
		      off_t off_out, struct fuse_file_info *fi_out, size_t len, int flags)
{
	(void)fi_in;
	(void)fi_out;
	pass_on(req, (struct range_request){.opcode = OP_COPY_FILE_RANGE,
					.ino = ino_in,
					.offset = off_in,
					.target = ino_out,
					.at = off_out,
					.size = len,
					.mode = flags});
}

void pass_ranges_on(struct fuse_lowlevel_ops *table, void (*getxattr)(fuse_req_t, fuse_ino_t, const char *, size_t),
		    const bool *active)
{
	passed_to = getxattr;
	serving = active;
	table->fallocate = pass_fallocate;
	table->lseek = pass_lseek;
	table->copy_file_range = pass_copy;
}

PyDoc_STRVAR(asked_doc, "asked() -> (opcode, ino, offset, size, mode, target, at)\n\n"
			"The request that a getxattr of an empty name stands for: 43 fallocate, 46 lseek, 47 copy_file_range.\n"
			"mode: of fallocate; of lseek, SEEK_DATA or SEEK_HOLE; of copy_file_range its flags.\n"
			"To be called before the handler of that getxattr awaits anything.");

static PyObject *py_asked(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	return Py_BuildValue("iKLKiKL", asked.opcode, (unsigned long long)asked.ino, (long long)asked.offset,
			     (unsigned long long)asked.size, asked.mode, (unsigned long long)asked.target,
			     (long long)asked.at);
}

PyMethodDef ranges_methods[] = {
	{"asked", py_asked, METH_NOARGS, asked_doc},
	{NULL, NULL, 0, NULL},
};
