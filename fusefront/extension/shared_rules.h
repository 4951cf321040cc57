/* The constants that Python's handlers and the extension have in common.  Python defines them (serve/shared_rules.py)
 * and passes them on by set_rules(); until then nothing is answered from the reply cache. */
#ifndef MINIFO_SHARED_RULES_H
#define MINIFO_SHARED_RULES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern struct shared_rules {
	int requests_per_turn; /* requests served in a row before the event loop runs other tasks */
	int64_t slow_read;     /* ns; after a longer read of a file Python answers READ of it */
	size_t name_max;       /* bytes; Python answers requests about a longer name */
	double for_ever;       /* seconds that the kernel may cache a reply: only this mount changes the tree */
} rules;

/* True for a valid name of an extended attribute: if an inode lacks it, GETXATTR is answered with ENODATA.  For other
 * names Python replies another errno. */
bool is_xattr_name(const char *name);

/* The module's function set_rules(). */
extern PyMethodDef shared_rules_methods[];

#endif
