/* Encodes operations for the redo log; see redo_record.c. */
#ifndef MINIFO_REDO_RECORD_H
#define MINIFO_REDO_RECORD_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern PyMethodDef redo_record_methods[];

#endif
