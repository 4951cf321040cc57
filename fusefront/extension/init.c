/* Adds INIT flags that libfuse offers no way to ask for to the reply of INIT.
 *
 * libfuse knows only flags that are no newer than itself, so its reply is intercepted: while libfuse processes the
 * request, the number of the session's descriptor refers to one end of a socket pair.  The kernel sends no other
 * request before it has this reply, and the daemon has no notification to send yet, so the socket receives nothing
 * else.
 */
#include "init.h"

#include "protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	INIT_FLAGS = sizeof(struct request_header) + 12, /* fuse_init_in.flags */
	INIT_FLAGS2 = INIT_FLAGS + 4,                    /* fuse_init_in.flags2, protocol 7.36 */

	REPLY_MAJOR = sizeof(struct reply_header),       /* fuse_init_out.major */
	REPLY_FLAGS = sizeof(struct reply_header) + 12,  /* fuse_init_out.flags */
	REPLY_FLAGS2 = sizeof(struct reply_header) + 32, /* fuse_init_out.flags2 */
	REPLY_MIN = sizeof(struct reply_header) + 24,    /* the shortest INIT reply that has these flags */
	REPLY_ROOM = 4096,                               /* bytes; a reply to INIT has 80 today */

	PROTOCOL_MAJOR = 7,
};

#define INIT_DONT_MASK (UINT32_C(1) << 6)
#define INIT_NO_OPEN_SUPPORT (UINT32_C(1) << 17)
#define INIT_CACHE_SYMLINKS (UINT32_C(1) << 23)
#define INIT_NO_OPENDIR_SUPPORT (UINT32_C(1) << 24)
#define INIT_HANDLE_KILLPRIV_V2 (UINT32_C(1) << 28)
#define INIT_INIT_EXT (UINT32_C(1) << 30)

const struct init_flag wanted_flags[] = {
	{"DONT_MASK", INIT_DONT_MASK},
	{"CACHE_SYMLINKS", INIT_CACHE_SYMLINKS},
	{"HANDLE_KILLPRIV_V2", INIT_HANDLE_KILLPRIV_V2},
	{NULL, 0},
};
const struct init_flag stateless_flags[] = {
	{"NO_OPEN_SUPPORT", INIT_NO_OPEN_SUPPORT},
	{"NO_OPENDIR_SUPPORT", INIT_NO_OPENDIR_SUPPORT},
	{NULL, 0},
};

struct handshake handshake;

static uint64_t request; /* `unique` of the INIT request */

void note_init(const unsigned char *bytes, size_t size)
{
	struct request_header header;

	if (size < INIT_FLAGS + 4)
		return;
	memcpy(&header, bytes, sizeof header);
	request = header.unique;
	handshake.offered = get32(bytes, INIT_FLAGS);
	if (handshake.offered & INIT_INIT_EXT && size >= INIT_FLAGS2 + 4)
		handshake.offered |= (uint64_t)get32(bytes, INIT_FLAGS2) << 32;
}

static uint32_t mask_of(const struct init_flag *flags)
{
	uint32_t mask = 0;

	for (; flags->name != NULL; flags++)
		mask |= flags->bit;
	return mask;
}

bool may_be_stateless(void)
{
	return handshake.answering && (~handshake.offered & mask_of(stateless_flags)) == 0;
}

/* Add the hook's flags to the reply in bytes[0:size].  False if that is an error, or has an unknown layout. */
static bool raise_flags(unsigned char *bytes, size_t size)
{
	struct reply_header header;

	if (size < REPLY_MIN)
		return false;
	memcpy(&header, bytes, sizeof header);
	if (header.len != size || header.error != 0 || header.unique != request ||
	    get32(bytes, REPLY_MAJOR) != PROTOCOL_MAJOR)
		return false;
	uint32_t flags = get32(bytes, REPLY_FLAGS);
	handshake.raised = (uint32_t)handshake.offered & mask_of(wanted_flags) & ~flags;
	flags |= handshake.raised;
	handshake.replied = flags;
	if (flags & INIT_INIT_EXT && size >= REPLY_FLAGS2 + 4)
		handshake.replied |= (uint64_t)get32(bytes, REPLY_FLAGS2) << 32;
	memcpy(bytes + REPLY_FLAGS, &flags, sizeof flags);
	return true;
}

/* Make the descriptor number `to` refer to the open file of `from`. */
static void redirect(int from, int to)
{
	while (dup3(from, to, O_CLOEXEC) < 0 && (errno == EBUSY || errno == EINTR))
		;
}

void answer_init(struct fuse_session *se, const struct fuse_buf *buf, process_function *process)
{
	int fd = fuse_session_fd(se);
	int ends[2], kernel = -1;
	unsigned char reply[REPLY_ROOM];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0) {
		kernel = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (kernel < 0) {
			close(ends[0]);
			close(ends[1]);
		}
	}
	if (kernel < 0) { /* out of descriptors: libfuse replies as it does without the hook */
		process(se, buf);
		return;
	}
	int flags = fcntl(kernel, F_GETFL);
	if (flags >= 0)
		(void)fcntl(kernel, F_SETFL, flags | O_NONBLOCK); /* if this fails, reads block as without the hook */
	redirect(ends[1], fd);
	handshake.answering = true;
	process(se, buf);
	handshake.answering = false;
	redirect(kernel, fd);
	close(kernel);
	ssize_t size = recv(ends[0], reply, sizeof reply, MSG_DONTWAIT);
	close(ends[0]);
	close(ends[1]);
	if (size <= 0)
		return;
	bool understood = raise_flags(reply, (size_t)size);
	handshake.answered = write(fd, reply, (size_t)size) == size && understood;
}
