/* The parts of the FUSE protocol that the hook reads.  Its structures only grow at the end, so these offsets are fixed.
 * linux/fuse.h is not used, for an old one lacks the newer names. */
#ifndef MINIFO_PROTOCOL_H
#define MINIFO_PROTOCOL_H

#include <stdint.h>
#include <string.h>

struct request_header { /* struct fuse_in_header */
	uint32_t len;
	uint32_t opcode;
	uint64_t unique;
	uint64_t nodeid;
	uint32_t uid, gid, pid;
	uint32_t extensions;
};

struct reply_header { /* struct fuse_out_header */
	uint32_t len;
	int32_t error;
	uint64_t unique;
};

enum { /* enum fuse_opcode */
	OP_LOOKUP = 1,
	OP_FORGET = 2,
	OP_GETATTR = 3,
	OP_SETATTR = 4,
	OP_READLINK = 5,
	OP_SYMLINK = 6,
	OP_MKNOD = 8,
	OP_MKDIR = 9,
	OP_UNLINK = 10,
	OP_RMDIR = 11,
	OP_RENAME = 12,
	OP_LINK = 13,
	OP_READ = 15,
	OP_WRITE = 16,
	OP_GETXATTR = 22,
	OP_INIT = 26,
	OP_FSYNCDIR = 30,
	OP_BATCH_FORGET = 42,
	OP_READDIRPLUS = 44,
	OP_RENAME2 = 45,
	OP_SYNCFS = 50,
	OP_TMPFILE = 51,
};

static inline uint32_t get32(const unsigned char *bytes, size_t at)
{
	uint32_t value;

	memcpy(&value, bytes + at, sizeof value);
	return value;
}

#endif
