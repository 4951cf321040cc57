/* The generations of inodes, for the entries in replies. */
#ifndef MINIFO_GENERATIONS_H
#define MINIFO_GENERATIONS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

/* The generation of an inode: 0, unless set_generation() has given it another one. */
uint64_t generation_of(uint64_t ino);

/* The module's function set_generation(). */
extern PyMethodDef generation_methods[];

#endif
