/* The INIT flags of a session: those that the kernel offers, and those that the reply asks for. */
#ifndef MINIFO_INIT_H
#define MINIFO_INIT_H

#include "fast_path.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The state of the newest session. */
extern struct handshake {
	bool answering;   /* INIT is being processed, and libfuse's reply will be intercepted */
	bool answered;    /* an INIT reply of a known layout was sent */
	uint64_t offered; /* INIT flags of the request */
	uint64_t replied; /* INIT flags of the reply */
	uint32_t raised;  /* flags of the reply that the hook added */
} handshake;

/* INIT flags and their names; the last name is NULL.  The hook asks for the first, and needs the others: a kernel
 * without them does not accept ENOSYS as the reply to OPEN and OPENDIR. */
struct init_flag {
	const char *name;
	uint32_t bit;
};
extern const struct init_flag wanted_flags[], stateless_flags[];

/* Record the flags that the kernel offers in the INIT request bytes[0:size]. */
void note_init(const unsigned char *bytes, size_t size);

/* Process the INIT request in buf by `process`, and add the hook's flags to the reply. */
void answer_init(struct fuse_session *se, const struct fuse_buf *buf, process_function *process);

/* True if the kernel accepts ENOSYS as the reply to OPEN and OPENDIR, and the hook's flags will be in the reply to
 * INIT. */
bool may_be_stateless(void);

#endif
