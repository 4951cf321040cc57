/* Polls for the next request for a short time before the daemon sleeps. */
#ifndef MINIFO_SPIN_H
#define MINIFO_SPIN_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

/* True if a request can be read from the descriptor now or within SPIN_MAX.  Releases the interpreter's lock, if the
 * thread holds it, during the wait. */
bool arrives_soon(int fd);

/* Count a request; false if rules.requests_per_turn of them came without a turn of the event loop: then other tasks
 * must run first. */
bool count_request(void);

/* To be called when a request was received: adapts the time to poll to how long the daemon slept before it. */
void note_arrival(void);

/* The module's function arrives_soon(). */
extern PyMethodDef spin_methods[];

#endif
