/* Rules that the extension follows as Python does.  Python says each of them once (serve/shared_rules.py) and tells them
 * here by set_rules(); until then nothing is answered from the tables. */
#ifndef MINIFO_SHARED_RULES_H
#define MINIFO_SHARED_RULES_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern struct shared_rules {
	int requests_per_turn; /* requests served in a row before the event loop gets a turn */
	int64_t slow_read;     /* ns; a file whose read takes longer is left to Python */
	size_t name_max;       /* bytes in one name */
	double for_ever;       /* seconds the kernel may keep what it was told: only this mount changes the tree */
} rules;

/* True for the name of an extended attribute that objects may have: ENODATA is right where an object lacks it.  Other names
 * have errors of their own, which Python knows. */
bool is_xattr_name(const char *name);

/* set_rules(), for the module's functions. */
extern PyMethodDef shared_rules_methods[];

#endif
