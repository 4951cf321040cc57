/* The reply cache: tables that Python fills, from which the hook replies to requests without Python. */
#ifndef MINIFO_REPLY_CACHE_H
#define MINIFO_REPLY_CACHE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RTLD_NEXT, dup3 */
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define FUSE_USE_VERSION 35
#include <fuse_lowlevel.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	ATTRIBUTES = 11,
	BLOCK_SIZE = 4096,   /* bytes, st_blksize; pyfuse3 replies the same */
	REPLY_MAX = 1 << 20, /* bytes; the kernel does not ask for more at a time, of a file or of a directory */
};

/* The fields of engine.model.Attr. */
struct attributes {
	uint64_t ino;
	uint32_t mode, nlink, uid, gid;
	uint64_t rdev;
	int64_t size, blocks;
	int64_t times[3]; /* st_atim, st_mtim, st_ctim in ns */
};

/* Convert the numbers of an Attr; false, with an exception set, if these are not its 11 numbers. */
bool parse_numbers(PyObject *const *numbers, Py_ssize_t count, struct attributes *found);

/* Convert an Attr; false, with an exception set, if `tuple` is not one. */
bool parse_attr(PyObject *tuple, struct attributes *found);

/* Convert attributes to a struct stat. */
struct stat stat_of(const struct attributes *from);

/* Empty all tables: a new session begins. */
void clear_reply_cache(void);

/* LOOKUP: reply a negative entry, for a name of which is_absent() is true (names.h). */
void reply_absent(fuse_req_t req);

/* GETATTR: reply_attributes() returns false, and does not reply, if the attributes are not published. */
bool has_attributes(uint64_t ino);
bool reply_attributes(fuse_req_t req, uint64_t ino);

/* GETXATTR: true if the inode certainly lacks the attribute.  False for a name outside of the known namespaces, which
 * has an errno of its own. */
bool lacks_xattr(uint64_t ino, const char *name);

/* SETATTR: true if `valid`, of which `mtime` and `ctime` are two bits, sets only times of an unlinked regular file.
 * The kernel sends that after each unlink(2), and as long as a program has the file open, the kernel returns its own
 * times.  So no program can see the new times, and reply_unlinked() replies the published attributes. */
bool sets_times_of_unlinked(uint64_t ino, unsigned valid, unsigned mtime, unsigned ctime);
void reply_unlinked(fuse_req_t req, uint64_t ino);

/* READ: reply_bytes() returns false, and does not reply, if the file is not published or could not be read. */
bool has_file(uint64_t ino);
bool reply_bytes(fuse_req_t req, uint64_t ino, size_t size, int64_t offset);

/* The module's functions publish_attr(), withdraw() and the others of their names. */
extern PyMethodDef reply_cache_methods[];

#endif
