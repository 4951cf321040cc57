/* The requests about ranges of files, passed on as a getxattr of an empty name. */
#ifndef MINIFO_RANGES_H
#define MINIFO_RANGES_H

#include "reply_cache.h"

/* Put handlers for these requests into `table`, which call `getxattr`, or reply ENOSYS while `active` is false. */
void pass_ranges_on(struct fuse_lowlevel_ops *table, void (*getxattr)(fuse_req_t, fuse_ino_t, const char *, size_t),
		    const bool *active);

/* asked(), for the module's functions. */
extern PyMethodDef ranges_methods[];

#endif
