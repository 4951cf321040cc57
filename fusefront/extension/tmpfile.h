/* Serves TMPFILE, the request for open(2) with O_TMPFILE. */
#ifndef MINIFO_TMPFILE_H
#define MINIFO_TMPFILE_H

#include "reply_cache.h"

/* Serve a request in bytes[0:size] if it is a TMPFILE and Python has a callback for it.  False if it was not served. */
bool answer_tmpfile(struct fuse_session *se, const unsigned char *bytes, size_t size);

#endif
