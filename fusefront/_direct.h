/* Requests whose answer needs no wait, asked of Python by a plain call. */
#ifndef MINIFO_DIRECT_H
#define MINIFO_DIRECT_H

#include "_published.h"

/* Put handlers that ask Python directly before those in `table`, which get what they leave.  They are for requests that
 * are processed with the interpreter's lock held; without it they leave everything. */
void stand_before(struct fuse_lowlevel_ops *table);

/* serve(), for the module's functions. */
extern PyMethodDef direct_methods[];

#endif
