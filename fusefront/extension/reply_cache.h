/* What the file system has published, and the requests that are answered from it without Python. */
#ifndef MINIFO_PUBLISHED_H
#define MINIFO_PUBLISHED_H

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

#define FOR_EVER 1e9 /* seconds; only this mount changes the tree, so what the kernel was told stays true */

enum { ATTRIBUTES = 11 };

/* What engine.model.Attr holds. */
struct attributes {
	uint64_t ino;
	uint32_t mode, nlink, uid, gid;
	uint64_t rdev;
	int64_t size, blocks;
	int64_t times[3]; /* st_atim, st_mtim, st_ctim in ns */
};

/* Attributes from the numbers of an Attr; false, with an exception set, if they are none. */
bool read_attributes(PyObject *const *numbers, Py_ssize_t count, struct attributes *found);

/* The same from an Attr itself. */
bool take_attr(PyObject *tuple, struct attributes *found);

/* The kernel's form of attributes. */
struct stat stat_of(const struct attributes *from);

/* Forget everything: a new session begins. */
void forget_published(void);

/* LOOKUP of what is_absent() knows (names.h): there is no such name, for good. */
void reply_absent(fuse_req_t req);

/* GETATTR.  reply_attributes() does nothing and returns false where they are not known. */
bool knows_attributes(uint64_t ino);
bool reply_attributes(fuse_req_t req, uint64_t ino);

/* GETXATTR.  True if an inode surely lacks the attribute; names outside the known namespaces have errors of their own. */
bool lacks_xattr(uint64_t ino, const char *name);

/* SETATTR.  True if setting the attributes `valid`, of which `mtime` and `ctime` are two bits, changes nothing but the
 * last times of a file without a name: the kernel sends them after each unlink, and shows its own as long as somebody has
 * the file open.  reply_dead() is for those only. */
bool nobody_cares(uint64_t ino, unsigned valid, unsigned mtime, unsigned ctime);
void reply_dead(fuse_req_t req, uint64_t ino);

/* READ.  reply_bytes() returns false where it is left to Python: it is not known, or could not be read whole. */
bool knows_file(uint64_t ino);
bool reply_bytes(fuse_req_t req, uint64_t ino, size_t size, int64_t offset);

/* publish(), withdraw() and their like, for the module's functions. */
extern PyMethodDef published_methods[];

#endif
