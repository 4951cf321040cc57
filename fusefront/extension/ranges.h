/* Passes requests about ranges of files on to pyfuse3, as a getxattr of an empty name. */
#ifndef MINIFO_RANGES_H
#define MINIFO_RANGES_H

#include "reply_cache.h"

/* Set the handlers for these requests in `table`.  They call `getxattr`, or reply ENOSYS while `*active` is false. */
void install_range_handlers(struct fuse_lowlevel_ops *table,
			    void (*getxattr)(fuse_req_t, fuse_ino_t, const char *, size_t), const bool *active);

/* The module's function range_request(). */
extern PyMethodDef ranges_methods[];

#endif
