/* Serves TMPFILE, the request for open(2) with O_TMPFILE, which creates a file without a name (Linux 6.2 and newer).
 *
 * libfuse older than 3.17 replies ENOSYS to it, and pyfuse3 has no handler for it.  So it is served before either sees
 * it, and the reply is written as the kernel's structures.  The reply also opens the file; its handle is the inode
 * number, as for every file.
 */
#include "tmpfile.h"

#include "callbacks.h"
#include "clock.h"
#include "counters.h"
#include "protocol.h"
#include "shared_rules.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

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

_Static_assert(sizeof(struct open_entry) == 40 + 88 + 16, "the size of the kernel's structures");

enum { KEEP_CACHE = 1 << 1 }; /* FOPEN_KEEP_CACHE */

/* Reply `error`, or `entry` if that is 0; false if the reply did not reach the kernel (the caller was interrupted). */
static bool reply(struct fuse_session *se, uint64_t unique, int error, struct open_entry *entry)
{
	size_t size = error ? 0 : sizeof *entry;
	struct reply_header header = {
		.len = (uint32_t)(sizeof header + size), .error = -error, .unique = unique};
	struct iovec parts[] = {{&header, sizeof header}, {entry, size}};

	return writev(fuse_session_fd(se), parts, error ? 1 : 2) == (ssize_t)header.len;
}

/* Convert an Attr to the reply; false, with an exception set, if it is not an Attr. */
static bool take_entry(PyObject *tuple, struct open_entry *entry)
{
	struct attributes found;

	if (!parse_attr(tuple, &found))
		return false;
	*entry = (struct open_entry){
		.nodeid = found.ino,
		.entry_valid = (uint64_t)rules.for_ever,
		.attr_valid = (uint64_t)rules.for_ever,
		.ino = found.ino,
		.mode = found.mode,
		.nlink = found.nlink,
		.uid = found.uid,
		.gid = found.gid,
		.block_size = BLOCK_SIZE,
		.handle = found.ino,
		.open_flags = KEEP_CACHE,
	};
	for (int i = 0; i < 3; i++) { /* a new file: no time is before 1970 */
		entry->seconds[i] = (uint64_t)(found.times[i] / NS_PER_SECOND);
		entry->ns[i] = (uint32_t)(found.times[i] % NS_PER_SECOND);
	}
	return true;
}

/* Drop the reference that Python counted for a reply which the kernel did not take: it will send no FORGET. */
static void forget(uint64_t ino)
{
	Py_XDECREF(call_python(FORGET, "O", Py_BuildValue("[(KK)]", (unsigned long long)ino, 1ULL)));
}

bool answer_tmpfile(struct fuse_session *se, const unsigned char *bytes, size_t size)
{
	struct request_header header;
	struct create_request create;
	struct open_entry entry;

	if (size < sizeof header + sizeof create || get32(bytes, 4) != OP_TMPFILE)
		return false;
	memcpy(&header, bytes, sizeof header);
	memcpy(&create, bytes + sizeof header, sizeof create);
	int64_t began = monotonic_ns();
	PyObject *result = call_python(TMPFILE, "Kuuuuu", (unsigned long long)header.nodeid, (unsigned)create.flags,
			       (unsigned)create.mode, (unsigned)header.uid, (unsigned)header.gid,
				       (unsigned)create.umask);
	if (result == NULL)
		return false;
	if (!errno_of(result) && !take_entry(result, &entry))
		result = invalid_result(TMPFILE, result);
	int error = errno_of(result);
	Py_DECREF(result);
	if (!reply(se, header.unique, error, &entry) && !error)
		forget(entry.ino);
	count_error(error);
	count_served(TMPFILE, began);
	return true;
}
