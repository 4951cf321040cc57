/* Serves requests that need no wait by a direct call of Python. */
#ifndef MINIFO_FAST_PATH_H
#define MINIFO_FAST_PATH_H

#include "reply_cache.h"

/* Replace handlers in `table` by ones that call Python directly, and pass on to the replaced ones what Python does not
 * serve.  A request that is processed without the interpreter's lock is always passed on. */
void install_fast_handlers(struct fuse_lowlevel_ops *table);

/* The kind (callbacks.h) of requests with an opcode; NONE if they never have a callback. */
int kind_of_opcode(uint32_t opcode);

/* A function like fuse_session_process_buf(). */
typedef void process_function(struct fuse_session *se, const struct fuse_buf *buf);

/* Let the fast handlers serve the request in buf, which must be in memory.  False if they did not reply: then the
 * request must still be processed, and nothing has happened. */
bool try_to_process(struct fuse_session *se, const struct fuse_buf *buf, process_function *process);

/* Let the fast handlers serve the request in buf if Python has a callback for its kind; false if they did not. */
bool try_fast_path(struct fuse_session *se, const struct fuse_buf *buf, process_function *process);

#endif
