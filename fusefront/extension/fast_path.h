/* Requests whose answer needs no wait, asked of Python by a plain call. */
#ifndef MINIFO_DIRECT_H
#define MINIFO_DIRECT_H

#include "reply_cache.h"

/* Put handlers that ask Python directly before those in `table`, which get what they leave.  They are for requests that
 * are processed with the interpreter's lock held; without it they leave everything. */
void stand_before(struct fuse_lowlevel_ops *table);

/* fuse_session_process_buf(), or its like. */
typedef void process_function(struct fuse_session *se, const struct fuse_buf *buf);

/* Process the request in buf, which is in memory, if it is of a kind for which handlers stand before others, and leave it
 * if none of them answers at once.  False: it is still to be processed, as if it had not been tried. */
bool try_to_answer(struct fuse_session *se, const struct fuse_buf *buf, process_function *process);

/* The same, if Python wants to be asked about that kind. */
bool answer_directly(struct fuse_session *se, const struct fuse_buf *buf, process_function *process);

#endif
