/* Files without a name: open(2) with O_TMPFILE, a request of Linux 6.2 and newer.
 *
 * libfuse knows it from 3.17 on only and answers ENOSYS before, pyfuse3 has no handler for it.  So it is answered before
 * either sees it, in the kernel's own form.  The file is open from then on, and its handle is its number, like all.
 */
#include "tmpfile.h"

#include "callbacks.h"
#include "protocol.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#define NS_PER_SECOND 1000000000LL

struct create_request { /* struct fuse_create_in */
	uint32_t flags, mode, umask, open_flags;
};

struct open_entry { /* struct fuse_entry_out with its struct fuse_attr, and struct fuse_open_out */
	uint64_t nodeid, generation, entry_valid, attr_valid;
	uint32_t entry_valid_ns, attr_valid_ns;
	uint64_t ino, size, blocks, seconds[3];
	uint32_t ns[3];
	uint32_t mode, nlink, uid, gid, rdev, block_size, flags;
	uint64_t handle;
	uint32_t open_flags, padding;
};

_Static_assert(sizeof(struct open_entry) == 40 + 88 + 16, "as the kernel has it");

enum { KEEP_CACHE = 1 << 1 }; /* FOPEN_KEEP_CACHE */

/* Reply an errno, or `entry` where that is 0; false if nobody waits for it any more. */
static bool reply(struct fuse_session *se, uint64_t unique, int error, struct open_entry *entry)
{
	size_t size = error ? 0 : sizeof *entry;
	struct reply_header header = {
		.len = (uint32_t)(sizeof header + size), .error = -error, .unique = unique};
	struct iovec parts[] = {{&header, sizeof header}, {entry, size}};

	return writev(fuse_session_fd(se), parts, error ? 1 : 2) == (ssize_t)header.len;
}

/* Turn an Attr into the reply; false, with an exception set, if it is none. */
static bool take_entry(PyObject *tuple, struct open_entry *entry)
{
	struct attributes found;

	if (!take_attr(tuple, &found))
		return false;
	*entry = (struct open_entry){
		.nodeid = found.ino,
		.entry_valid = (uint64_t)FOR_EVER,
		.attr_valid = (uint64_t)FOR_EVER,
		.ino = found.ino,
		.mode = found.mode,
		.nlink = found.nlink,
		.uid = found.uid,
		.gid = found.gid,
		.block_size = 4096,
		.handle = found.ino,
		.open_flags = KEEP_CACHE,
	};
	for (int i = 0; i < 3; i++) { /* all are now */
		entry->seconds[i] = (uint64_t)(found.times[i] / NS_PER_SECOND);
		entry->ns[i] = (uint32_t)(found.times[i] % NS_PER_SECOND);
	}
	return true;
}

/* The kernel has given the request up: nobody will ever refer to the file. */
static void forget(uint64_t ino)
{
	Py_XDECREF(ask(FORGET, "O", Py_BuildValue("[(KK)]", (unsigned long long)ino, 1ULL)));
}

bool answer_tmpfile(struct fuse_session *se, const unsigned char *bytes, size_t size)
{
	struct request_header header;
	struct create_request wanted;
	struct open_entry entry;

	if (size < sizeof header + sizeof wanted || get32(bytes, 4) != OP_TMPFILE)
		return false;
	memcpy(&header, bytes, sizeof header);
	memcpy(&wanted, bytes + sizeof header, sizeof wanted);
	PyObject *result = ask(TMPFILE, "Kuuuuu", (unsigned long long)header.nodeid, (unsigned)wanted.flags,
			       (unsigned)wanted.mode, (unsigned)header.uid, (unsigned)header.gid, (unsigned)wanted.umask);
	if (result == NULL)
		return false;
	if (!errno_in(result) && !take_entry(result, &entry))
		result = no_answer(TMPFILE, result);
	int error = errno_in(result);
	Py_DECREF(result);
	if (!reply(se, header.unique, error, &entry) && !error)
		forget(entry.ino);
	return true;
}
