/* The flags of a session, which the kernel offers in its INIT request and is answered. */
#ifndef MINIFO_INIT_H
#define MINIFO_INIT_H

#include "fast_path.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What became of the newest session. */
extern struct handshake {
	bool answering;   /* INIT is being processed, and what libfuse replies is caught */
	bool answered;    /* an INIT reply that we understood was sent */
	uint64_t offered; /* INIT flags the kernel sent */
	uint64_t replied; /* INIT flags it was answered */
	uint32_t raised;  /* those of them that were added here */
} handshake;

/* Remember what the kernel offers in the INIT request bytes[0:size]. */
void note_init(const unsigned char *bytes, size_t size);

/* Process the INIT request in buf, with our flags in the reply. */
void answer_init(struct fuse_session *se, const struct fuse_buf *buf, process_function *process);

/* True if the kernel would take ENOSYS for an answer to open and opendir, and will see our flags. */
bool may_be_stateless(void);

#endif
