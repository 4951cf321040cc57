/* minifo.fusefront._hook: what pyfuse3 cannot ask of libfuse and the kernel, asked for it.
 *
 * This library is loaded with RTLD_GLOBAL before pyfuse3, so pyfuse3 finds some functions of libfuse here first: that
 * which creates its session (fuse_session_new; if built with libfuse 3.17 or newer, fuse_session_new_versioned), that
 * which receives a request and that which processes it.  The session it gets differs from a plain one in six ways:
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
 *      kernel asks for after every change of a directory's entries and after every read of a file (for its atime); that
 *      an object has no extended attributes, which programs ask for again and again, for no kernel keeps the answer;
 *      the last times of a file without a name; and bytes of base files that are read piece by piece.
 *   6. fallocate, lseek and copy_file_range, which pyfuse3 has no handlers for, reach Python as a getxattr of an empty
 *      name, which no user can ask for.  Its handler finds their arguments by asked(), and the bytes it returns are the
 *      reply's, in the kernel's form.
 *
 * Nothing of libfuse but its public functions is used.  Its custom io would have shown requests and replies more
 * directly, but exists from 3.13 on only and is left out of a default build since 3.18.3.
 *
 * The rule kept: whatever is not exactly as expected here is left as libfuse would have done it, and status() says so.
 * Nothing here calls Python from a libfuse function, for some are called without the interpreter's lock.
 *
 * The state is one per process, as pyfuse3's is.  What must be remembered between receiving a request and processing it
 * is one per thread: pyfuse3 processes a request in the thread that received it, before that thread receives again.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_NEXT, dup3 */
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define FUSE_USE_VERSION 35
#include <fuse_lowlevel.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------------------
 * The few bytes of the kernel's protocol that are looked at.  The protocol only ever grows at the end, so these places
 * are fixed; the kernel's own header is not used, for an old one lacks the newer names.
 */

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

enum {
	OP_GETATTR = 3,
	OP_SETATTR = 4,
	OP_READ = 15,
	OP_GETXATTR = 22,
	OP_INIT = 26,
	OP_FALLOCATE = 43,
	OP_LSEEK = 46,
	OP_COPY_FILE_RANGE = 47,

	SETATTR_VALID = sizeof(struct request_header),   /* fuse_setattr_in.valid */
	GETXATTR_NAME = sizeof(struct request_header) + 8, /* behind fuse_getxattr_in */
	INIT_FLAGS = sizeof(struct request_header) + 12, /* fuse_init_in.flags */
	INIT_FLAGS2 = INIT_FLAGS + 4,                    /* fuse_init_in.flags2, protocol 7.36 */

	REPLY_MAJOR = sizeof(struct reply_header),       /* fuse_init_out.major */
	REPLY_FLAGS = sizeof(struct reply_header) + 12,  /* fuse_init_out.flags */
	REPLY_FLAGS2 = sizeof(struct reply_header) + 32, /* fuse_init_out.flags2 */
	REPLY_MIN = sizeof(struct reply_header) + 24,    /* shortest INIT reply whose flags have this meaning */
	REPLY_ROOM = 4096,                               /* more than any reply to INIT; it is 80 bytes today */

	PROTOCOL_MAJOR = 7,
	FATTR_MTIME_BIT = 1 << 5,
	FATTR_CTIME_BIT = 1 << 10,
	FATTR_KILL_SUIDGID_BIT = 1 << 11,
};

#define FOR_EVER 1e9 /* seconds */
#define NS_PER_SECOND 1000000000LL
#define SLOW_READ 5000000 /* ns */

#define INIT_DONT_MASK (UINT32_C(1) << 6)
#define INIT_NO_OPEN_SUPPORT (UINT32_C(1) << 17)
#define INIT_CACHE_SYMLINKS (UINT32_C(1) << 23)
#define INIT_NO_OPENDIR_SUPPORT (UINT32_C(1) << 24)
#define INIT_HANDLE_KILLPRIV_V2 (UINT32_C(1) << 28)
#define INIT_INIT_EXT (UINT32_C(1) << 30)

#define INIT_WANTED (INIT_DONT_MASK | INIT_CACHE_SYMLINKS | INIT_HANDLE_KILLPRIV_V2)
#define INIT_STATELESS (INIT_NO_OPEN_SUPPORT | INIT_NO_OPENDIR_SUPPORT)

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
	bool hooked;      /* libfuse was given our table */
	bool answering;   /* INIT is being processed, and what libfuse replies is caught */
	bool answered;    /* an INIT reply that we understood was sent */
	bool stateless;   /* open and opendir are ours: handles are inode numbers */
	uint64_t offered; /* INIT flags the kernel sent */
	uint64_t replied; /* INIT flags it was answered */
	uint32_t raised;  /* those of them that were added here */
} session;

static struct fuse_lowlevel_ops theirs; /* pyfuse3's handlers */
static struct fuse_lowlevel_ops ours;   /* the same, with ours in the places that choose_table() names */

/* What was published of inodes, each in the one place its number gives it; a later one takes the place over.  A place
 * takes memory once it is used.  Touched by the thread only that serves requests. */
enum {
	KNOWN_ATTR = 1, /* the rest is what GETATTR is to be answered */
	KNOWN_DEAD = 2, /* no name is left: times of its own are of no interest to anybody any more */

	KNOWN_PLACES = 1 << 15,
	BARE_PLACES = 1 << 16,
	FILE_PLACES = 64,
	READ_ROOM = 1 << 20, /* bytes; the kernel asks for no more at a time */
	IN_A_ROW = 64, /* requests answered here before Python gets its turn */
	ASKED_ROOM = 64, /* bytes, more than any reply to what is passed on as a getxattr */
};

static struct known {
	uint64_t ino;
	uint32_t what;
	uint32_t epoch;
	uint32_t mode, nlink, uid, gid;
	uint64_t rdev;
	int64_t size, blocks;
	int64_t times[3]; /* st_atim, st_mtim, st_ctim in ns */
} published[KNOWN_PLACES];

static uint32_t epoch; /* what was published in an earlier one does not count any more */

static uint64_t bare[BARE_PLACES]; /* inodes without extended attributes */

static struct {
	uint64_t ino; /* 0: none */
	int fd;       /* ours; what it reads is what the file holds */
	int64_t size; /* up to here */
} files[FILE_PLACES];

static char *read_buffer; /* READ_ROOM bytes, once there is a file */

/* The arguments of the request that is being passed on as a getxattr of an empty name. */
static struct {
	int opcode;
	int mode; /* of fallocate; of lseek, what to look for; of a copy, its flags */
	uint64_t ino, size;
	int64_t offset;
	uint64_t target; /* of a copy, with the place there */
	int64_t at;
} asked;

static _Thread_local struct {
	uint64_t unique;   /* of the request received last */
	bool init;         /* it is an INIT */
	bool kill_suidgid; /* it is a SETATTR that is to clear set-id bits */
} request;

/* ------------------------------------------------------------------------------------------------------------------
 * Requests and the one reply that are looked into
 */

static uint32_t get32(const unsigned char *bytes, size_t at)
{
	uint32_t value;
	memcpy(&value, bytes + at, sizeof value);
	return value;
}

/* What was published of an inode, if it is of the kind `what`; else NULL. */
static struct known *known(uint64_t ino, unsigned what)
{
	struct known *place = &published[ino % KNOWN_PLACES];

	return place->ino == ino && place->epoch == epoch && place->what & what ? place : NULL;
}

/* True if an inode surely lacks the extended attribute.  Names outside these namespaces have an error of their own. */
static bool lacks_xattr(uint64_t ino, const char *name)
{
	return bare[ino % BARE_PLACES] == ino && (strncmp(name, "security.", 9) == 0 || strncmp(name, "system.", 7) == 0 ||
						  strncmp(name, "user.", 5) == 0 || strncmp(name, "trusted.", 8) == 0);
}

static void forget_file(uint64_t ino)
{
	if (ino != 0 && files[ino % FILE_PLACES].ino == ino) {
		close(files[ino % FILE_PLACES].fd);
		files[ino % FILE_PLACES].ino = 0;
	}
}

static void forget_published(void)
{
	memset(published, 0, sizeof published);
	memset(bare, 0, sizeof bare);
	for (int place = 0; place < FILE_PLACES; place++)
		forget_file(files[place].ino);
}

/* Answer a READ from the descriptor that was published.  False: it is left to Python, from now on. */
static bool reply_file(fuse_req_t req, uint64_t ino, size_t size, int64_t offset)
{
	int64_t left = files[ino % FILE_PLACES].size - offset;
	size_t wanted = left <= 0 ? 0 : (uint64_t)left < size ? (size_t)left : size;
	struct timespec begin, end;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	if (wanted > READ_ROOM || pread(files[ino % FILE_PLACES].fd, read_buffer, wanted, offset) != (ssize_t)wanted) {
		forget_file(ino);
		return false;
	}
	fuse_reply_buf(req, read_buffer, wanted);
	clock_gettime(CLOCK_MONOTONIC, &end);
	/* Others had to wait: Python knows how to read a slow file without that. */
	if ((end.tv_sec - begin.tv_sec) * NS_PER_SECOND + end.tv_nsec - begin.tv_nsec > SLOW_READ)
		forget_file(ino);
	return true;
}

/* True if setting the attributes `valid` changes nothing but the last times of a file without a name: the kernel sends
 * them after each unlink, and shows its own as long as somebody has the file open. */
static bool nobody_cares(uint64_t ino, unsigned valid, unsigned mtime, unsigned ctime)
{
	struct known *place = (valid & ~mtime) == ctime ? known(ino, KNOWN_DEAD) : NULL;

	return place != NULL && S_ISREG(place->mode);
}

/* Answer a request with the attributes that were published. */
static void reply_known(fuse_req_t req, const struct known *place)
{
	struct stat attr = {
		.st_ino = place->ino,
		.st_mode = place->mode,
		.st_nlink = place->nlink,
		.st_uid = place->uid,
		.st_gid = place->gid,
		.st_rdev = place->rdev,
		.st_size = place->size,
		.st_blocks = place->blocks,
		.st_blksize = 4096,
	};
	struct timespec *times[3] = {&attr.st_atim, &attr.st_mtim, &attr.st_ctim};

	for (int i = 0; i < 3; i++) {
		int64_t ns = place->times[i], seconds = ns / NS_PER_SECOND;
		if (ns % NS_PER_SECOND < 0)
			seconds--;
		times[i]->tv_sec = seconds;
		times[i]->tv_nsec = ns - seconds * NS_PER_SECOND;
	}
	fuse_reply_attr(req, &attr, FOR_EVER);
}

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
	request.unique = header.unique;
	if (header.opcode == OP_SETATTR && size >= SETATTR_VALID + 4) {
		request.kill_suidgid = get32(bytes, SETATTR_VALID) & FATTR_KILL_SUIDGID_BIT;
	} else if (header.opcode == OP_INIT && size >= INIT_FLAGS + 4) {
		request.init = true;
		session.offered = get32(bytes, INIT_FLAGS);
		if (session.offered & INIT_INIT_EXT && size >= INIT_FLAGS2 + 4)
			session.offered |= (uint64_t)get32(bytes, INIT_FLAGS2) << 32;
	}
}

/* True if one of our handlers will answer the request in bytes[0:size] from what was published. */
static bool answered_here(const unsigned char *bytes, size_t size)
{
	struct request_header header;

	if (!session.stateless || size < sizeof header)
		return false;
	memcpy(&header, bytes, sizeof header);
	switch (header.opcode) {
	case OP_GETATTR:
		return known(header.nodeid, KNOWN_ATTR) != NULL;
	case OP_READ:
		return files[header.nodeid % FILE_PLACES].ino == header.nodeid;
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

/* Raise our flags in the reply bytes[0:size].  False: not the successful reply to our INIT in a layout we know. */
static bool raise_flags(unsigned char *bytes, size_t size)
{
	struct reply_header header;

	if (size < REPLY_MIN)
		return false;
	memcpy(&header, bytes, sizeof header);
	if (header.len != size || header.error != 0 || header.unique != request.unique ||
	    get32(bytes, REPLY_MAJOR) != PROTOCOL_MAJOR)
		return false;
	uint32_t flags = get32(bytes, REPLY_FLAGS);
	session.raised = (uint32_t)session.offered & INIT_WANTED & ~flags;
	flags |= session.raised;
	session.replied = flags;
	if (flags & INIT_INIT_EXT && size >= REPLY_FLAGS2 + 4)
		session.replied |= (uint64_t)get32(bytes, REPLY_FLAGS2) << 32;
	memcpy(bytes + REPLY_FLAGS, &flags, sizeof flags);
	return true;
}

/* Let the descriptor number `to` mean what `from` means. */
static void redirect(int from, int to)
{
	while (dup3(from, to, O_CLOEXEC) < 0 && (errno == EBUSY || errno == EINTR))
		;
}

/* Process the INIT request in buf with our flags in the reply.
 *
 * libfuse knows no way to ask for a flag that is newer than itself, so its reply is caught: while it processes the
 * request, the session's descriptor number means one end of a socket pair.  The kernel sends nothing else before it has
 * the reply, and nobody can have a notification to send, so nothing else can get into the socket. */
static void answer_init(struct fuse_session *se, const struct fuse_buf *buf)
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
	if (kernel < 0) { /* out of descriptors: answer as libfuse would */
		libfuse.process_buf(se, buf);
		return;
	}
	int flags = fcntl(kernel, F_GETFL);
	if (flags >= 0)
		(void)fcntl(kernel, F_SETFL, flags | O_NONBLOCK); /* refused: reads block, as they would without us */
	redirect(ends[1], fd);
	session.answering = true;
	libfuse.process_buf(se, buf);
	session.answering = false;
	redirect(kernel, fd);
	close(kernel);
	ssize_t size = recv(ends[0], reply, sizeof reply, MSG_DONTWAIT);
	close(ends[0]);
	close(ends[1]);
	if (size <= 0)
		return;
	bool understood = raise_flags(reply, (size_t)size);
	session.answered = write(fd, reply, (size_t)size) == size && understood;
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
	session.stateless = session.answering && (session.offered & INIT_STATELESS) == INIT_STATELESS;
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

static void our_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct known *place = session.stateless ? known(ino, KNOWN_ATTR) : NULL;

	if (place != NULL)
		reply_known(req, place);
	else
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
		reply_known(req, known(ino, KNOWN_DEAD));
		return;
	}
	attr->st_rdev = request.kill_suidgid;
	number_handle(fi, ino);
	theirs.setattr(req, ino, attr, to_set, fi);
}

static void our_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	if (session.stateless && files[ino % FILE_PLACES].ino == ino && reply_file(req, ino, size, off))
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

/* Pass a request on whose arguments are in `asked`. */
static void ask(fuse_req_t req)
{
	if (session.stateless)
		theirs.getxattr(req, asked.ino, "", ASKED_ROOM);
	else
		fuse_reply_err(req, ENOSYS);
}

static void our_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
			  struct fuse_file_info *fi)
{
	(void)fi;
	memset(&asked, 0, sizeof asked);
	asked.opcode = OP_FALLOCATE;
	asked.ino = ino;
	asked.mode = mode;
	asked.offset = offset;
	asked.size = (uint64_t)length;
	ask(req);
}

static void our_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	(void)fi;
	memset(&asked, 0, sizeof asked);
	asked.opcode = OP_LSEEK;
	asked.ino = ino;
	asked.mode = whence;
	asked.offset = off;
	ask(req);
}

static void our_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in, struct fuse_file_info *fi_in,
				fuse_ino_t ino_out, off_t off_out, struct fuse_file_info *fi_out, size_t len, int flags)
{
	(void)fi_in;
	(void)fi_out;
	memset(&asked, 0, sizeof asked);
	asked.opcode = OP_COPY_FILE_RANGE;
	asked.ino = ino_in;
	asked.offset = off_in;
	asked.target = ino_out;
	asked.at = off_out;
	asked.size = len;
	asked.mode = flags;
	ask(req);
}

/* The table to hand to libfuse in place of ops[0:size]: ours, or ops itself if it is to be left alone. */
static const struct fuse_lowlevel_ops *choose_table(const struct fuse_lowlevel_ops *ops, size_t size)
{
	if (ops == &ours) /* libfuse calling its own newer entry point, which is also here */
		return ops;
	memset(&session, 0, sizeof session);
	forget_published();
	/* A longer table than ours is of a newer header than this file was built with: it would be cut off. */
	if (!wanted || ops == NULL || size > sizeof ours ||
	    size < offsetof(struct fuse_lowlevel_ops, readdirplus) + sizeof ops->readdirplus)
		return ops;
	if (!ops->init || !ops->open || !ops->opendir || !ops->setattr || !ops->read || !ops->write_buf ||
	    !ops->readdirplus || !ops->fsync || !ops->fsyncdir || !ops->getattr || !ops->getxattr)
		return ops;
	memset(&theirs, 0, sizeof theirs);
	memcpy(&theirs, ops, size);
	ours = theirs;
	ours.init = our_init;
	ours.open = our_open;
	ours.opendir = our_opendir;
	ours.getattr = our_getattr;
	ours.getxattr = our_getxattr;
	ours.setattr = our_setattr;
	ours.read = our_read;
	ours.write_buf = our_write_buf;
	ours.readdirplus = our_readdirplus;
	ours.fsync = our_fsync;
	ours.fsyncdir = our_fsyncdir;
	ours.fallocate = our_fallocate;
	ours.lseek = our_lseek;
	ours.copy_file_range = our_copy_file_range;
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

int our_receive_buf(struct fuse_session *se, struct fuse_buf *buf)
{
	int result;

	for (int count = 1;; count++) {
		result = libfuse.receive_buf(se, buf);
		if (!session.hooked)
			return result;
		/* What was spliced into a pipe is a large WRITE; everything else is in memory. */
		size_t size = result > 0 && !(buf->flags & FUSE_BUF_IS_FD) ? (size_t)result : 0;
		note_request(buf->mem, size);
		if (count >= IN_A_ROW || !answered_here(buf->mem, size))
			break;
		libfuse.process_buf(se, buf);
	}
	/* The descriptor does not block.  An empty queue is what pyfuse3 knows as EINTR: it waits for the next request. */
	return result == -EAGAIN ? -EINTR : result;
}

void our_process_buf(struct fuse_session *se, const struct fuse_buf *buf)
{
	if (session.hooked && request.init)
		answer_init(se, buf);
	else
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
			     "init_seen", session.answered ? Py_True : Py_False, "stateless",
			     session.stateless ? Py_True : Py_False, "kernel_flags",
			     (unsigned long long)session.offered, "reply_flags", (unsigned long long)session.replied,
			     "raised", (unsigned long long)session.raised);
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

PyDoc_STRVAR(publish_doc,
	     "publish(what, ino, mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime) -> None\n\n"
	     "Let requests about an inode be answered here, until it is published anew or withdrawn.\n"
	     "what: 1 these are its attributes, 2 it has no name any more.\n"
	     "Times are nanoseconds, blocks units of 512 bytes.  To be called by the thread that serves requests, as are\n"
	     "the other functions about what is published.");

static PyObject *py_publish(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
	unsigned long long value[12];

	(void)module;
	if (count != 12) {
		PyErr_SetString(PyExc_TypeError, "publish() takes 12 arguments");
		return NULL;
	}
	/* A time before 1970 is a negative number: the mask lets it wrap, and the cast below turns it back. */
	for (int i = 0; i < 12; i++) {
		value[i] = PyLong_AsUnsignedLongLongMask(args[i]);
		if (value[i] == (unsigned long long)-1 && PyErr_Occurred())
			return NULL;
	}
	published[value[1] % KNOWN_PLACES] = (struct known){
		.what = (uint32_t)value[0],
		.ino = value[1],
		.epoch = epoch,
		.mode = (uint32_t)value[2],
		.nlink = (uint32_t)value[3],
		.uid = (uint32_t)value[4],
		.gid = (uint32_t)value[5],
		.rdev = value[6],
		.size = (int64_t)value[7],
		.blocks = (int64_t)value[8],
		.times = {(int64_t)value[9], (int64_t)value[10], (int64_t)value[11]},
	};
	Py_RETURN_NONE;
}

/* The inode number that is the argument of a function; 0, with an exception set, if it is none. */
static uint64_t number_of(PyObject *argument)
{
	unsigned long long ino = PyLong_AsUnsignedLongLong(argument);

	if (ino == 0 && !PyErr_Occurred())
		PyErr_SetString(PyExc_ValueError, "0 is no inode number");
	return ino == (unsigned long long)-1 && PyErr_Occurred() ? 0 : ino;
}

PyDoc_STRVAR(publish_bare_doc, "publish_bare(ino) -> None\n\n"
			       "Let it be answered here that an inode has no extended attributes.");

static PyObject *py_publish_bare(PyObject *module, PyObject *number)
{
	uint64_t ino = number_of(number);

	(void)module;
	if (ino == 0)
		return NULL;
	bare[ino % BARE_PLACES] = ino;
	Py_RETURN_NONE;
}

PyDoc_STRVAR(publish_file_doc, "publish_file(ino, fd, size) -> None\n\n"
			       "Let reads of a file be answered here: bytes [0, size) are what the descriptor reads there.\n"
			       "The descriptor is closed here.  A read that takes long, or gets less, is the last one.");

static PyObject *py_publish_file(PyObject *module, PyObject *args)
{
	unsigned long long ino;
	long long size;
	int fd;

	(void)module;
	if (!PyArg_ParseTuple(args, "KiL:publish_file", &ino, &fd, &size))
		return NULL;
	if (read_buffer == NULL && (read_buffer = malloc(READ_ROOM)) == NULL)
		return PyErr_NoMemory();
	forget_file(files[ino % FILE_PLACES].ino);
	files[ino % FILE_PLACES].ino = ino;
	files[ino % FILE_PLACES].fd = fd;
	files[ino % FILE_PLACES].size = size;
	Py_RETURN_NONE;
}

PyDoc_STRVAR(withdraw_doc, "withdraw(ino) -> None\n\n"
			   "Leave requests for an inode's attributes and bytes to Python again.");

static PyObject *py_withdraw(PyObject *module, PyObject *number)
{
	uint64_t ino = number_of(number);

	(void)module;
	if (ino == 0)
		return NULL;
	struct known *place = &published[ino % KNOWN_PLACES];
	if (place->ino == ino)
		memset(place, 0, sizeof *place);
	forget_file(ino);
	Py_RETURN_NONE;
}

PyDoc_STRVAR(withdraw_bare_doc, "withdraw_bare(ino) -> None\n\n"
				"Leave requests for an inode's extended attributes to Python again.");

static PyObject *py_withdraw_bare(PyObject *module, PyObject *number)
{
	uint64_t ino = number_of(number);

	(void)module;
	if (ino == 0)
		return NULL;
	if (bare[ino % BARE_PLACES] == ino)
		bare[ino % BARE_PLACES] = 0;
	Py_RETURN_NONE;
}

PyDoc_STRVAR(withdraw_all_doc, "withdraw_all() -> None\n\nLeave requests for any inode's attributes to Python again.");

static PyObject *py_withdraw_all(PyObject *module, PyObject *unused)
{
	(void)module;
	(void)unused;
	if (++epoch == 0) /* the oldest ones would count again */
		memset(published, 0, sizeof published);
	Py_RETURN_NONE;
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

static PyMethodDef methods[] = {
	{"asked", py_asked, METH_NOARGS, asked_doc},
	{"publish", (PyCFunction)(void (*)(void))py_publish, METH_FASTCALL, publish_doc},
	{"publish_bare", py_publish_bare, METH_O, publish_bare_doc},
	{"publish_file", py_publish_file, METH_VARARGS, publish_file_doc},
	{"withdraw", py_withdraw, METH_O, withdraw_doc},
	{"withdraw_bare", py_withdraw_bare, METH_O, withdraw_bare_doc},
	{"withdraw_all", py_withdraw_all, METH_NOARGS, withdraw_all_doc},
	{"status", py_status, METH_NOARGS, status_doc},
	{"set_active", py_set_active, METH_O, set_active_doc},
	{NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "minifo.fusefront._hook",
	.m_doc = "Stands between pyfuse3 and libfuse; load it by minifo.fusefront.hook.load().",
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
	return PyModule_Create(&definition);
}
