/* Files without a name: open(2) with O_TMPFILE. */
#ifndef MINIFO_TMPFILE_H
#define MINIFO_TMPFILE_H

#include "reply_cache.h"

/* Answer the request in bytes[0:size] if it creates such a file and Python does; false: it is left. */
bool answer_tmpfile(struct fuse_session *se, const unsigned char *bytes, size_t size);

#endif
