/* Encodes operations for the redo log, byte for byte as encode_operation() in engine/store/redo_records.py, which
 * describes the format and is used where there is no extension.  Every operation is encoded before it is acknowledged,
 * so this is a part of the time that each takes.
 */
#include "redo_record.h"

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { TYPE_NULL, TYPE_INT, TYPE_BYTES, TYPE_TEXT };

#define OPERATION 1	  /* the kind of the record */
#define HEAD_SIZE 25	  /* kind, two counters of 8 bytes, the counts of statements and of notes */
#define VALUES_MAX 255	  /* of one statement: their count is one byte */

/* The ends of the parts of a record that are written side by side. */
struct writer {
	char *number; /* of each statement, 4 bytes */
	char *count;  /* of its values, 1 byte */
	char *type;   /* of each value, 1 byte */
	char *integer; /* each integer, 8 bytes */
	char *length;  /* of each bytes or text, 4 bytes */
	char *string;  /* their bytes */
};

struct sizes {
	size_t statements, values, integers, strings, bytes;
};

static void put_32(char **at, uint32_t value)
{
	value = htole32(value);
	memcpy(*at, &value, sizeof value);
	*at += sizeof value;
}

static void put_64(char **at, int64_t number)
{
	uint64_t value = htole64((uint64_t)number);
	memcpy(*at, &value, sizeof value);
	*at += sizeof value;
}

/* Find the type of a value, and of bytes or text where they are and how many; -1 with an exception set.  A buffer that
 * is not bytes (a memoryview) must be released afterwards.
 */
static int look_at(PyObject *value, Py_buffer *buffer)
{
	buffer->obj = NULL;
	if (value == Py_None)
		return TYPE_NULL;
	if (PyLong_Check(value))
		return TYPE_INT;
	if (PyBytes_Check(value)) {
		buffer->buf = PyBytes_AS_STRING(value);
		buffer->len = PyBytes_GET_SIZE(value);
		return TYPE_BYTES;
	}
	if (PyUnicode_Check(value)) {
		buffer->buf = (void *)PyUnicode_AsUTF8AndSize(value, &buffer->len);
		return buffer->buf != NULL ? TYPE_TEXT : -1;
	}
	return PyObject_GetBuffer(value, buffer, PyBUF_SIMPLE) == 0 ? TYPE_BYTES : -1;
}

/* Add one value to the sizes; false with an exception set. */
static bool measure(PyObject *value, struct sizes *sizes)
{
	Py_buffer buffer;
	int type = look_at(value, &buffer);

	sizes->values++;
	sizes->integers += type == TYPE_INT;
	if (type == TYPE_BYTES || type == TYPE_TEXT) {
		sizes->strings++;
		sizes->bytes += (size_t)buffer.len;
	}
	if (buffer.obj != NULL)
		PyBuffer_Release(&buffer);
	return type >= 0;
}

/* Write one value; false with an exception set. */
static bool write_value(PyObject *value, struct writer *to)
{
	Py_buffer buffer;
	int type = look_at(value, &buffer);

	if (type < 0)
		return false;
	*to->type++ = (char)type;
	if (type == TYPE_INT) {
		long long number = PyLong_AsLongLong(value);
		if (number == -1 && PyErr_Occurred())
			return false;
		put_64(&to->integer, number);
	} else if (type != TYPE_NULL) {
		put_32(&to->length, (uint32_t)buffer.len);
		memcpy(to->string, buffer.buf, (size_t)buffer.len);
		to->string += buffer.len;
	}
	if (buffer.obj != NULL)
		PyBuffer_Release(&buffer);
	return true;
}

/* Return number and values of a statement, which must be a tuple of an int and a list or a tuple. */
static bool open_statement(PyObject *statement, unsigned long *number, PyObject **values)
{
	if (!PyTuple_Check(statement) || PyTuple_GET_SIZE(statement) != 2 ||
	    !(PyTuple_Check(PyTuple_GET_ITEM(statement, 1)) || PyList_Check(PyTuple_GET_ITEM(statement, 1)))) {
		PyErr_SetString(PyExc_TypeError, "a statement is a number and a list or tuple of values");
		return false;
	}
	*values = PyTuple_GET_ITEM(statement, 1);
	*number = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(statement, 0));
	if (PyErr_Occurred())
		return false;
	if (*number > UINT32_MAX || PySequence_Fast_GET_SIZE(*values) > VALUES_MAX) {
		PyErr_SetString(PyExc_OverflowError, "a statement's number or its count of values is too large");
		return false;
	}
	return true;
}

static bool measure_all(PyObject *statements, struct sizes *sizes)
{
	for (Py_ssize_t index = 0; index < PyList_GET_SIZE(statements); index++) {
		unsigned long number;
		PyObject *values;

		if (!open_statement(PyList_GET_ITEM(statements, index), &number, &values))
			return false;
		sizes->statements++;
		for (Py_ssize_t at = 0; at < PySequence_Fast_GET_SIZE(values); at++)
			if (!measure(PySequence_Fast_GET_ITEM(values, at), sizes))
				return false;
	}
	return true;
}

static bool write_all(PyObject *statements, struct writer *to)
{
	for (Py_ssize_t index = 0; index < PyList_GET_SIZE(statements); index++) {
		unsigned long number;
		PyObject *values;

		if (!open_statement(PyList_GET_ITEM(statements, index), &number, &values))
			return false;
		put_32(&to->number, (uint32_t)number);
		*to->count++ = (char)PySequence_Fast_GET_SIZE(values);
		for (Py_ssize_t at = 0; at < PySequence_Fast_GET_SIZE(values); at++)
			if (!write_value(PySequence_Fast_GET_ITEM(values, at), to))
				return false;
	}
	return true;
}

static bool write_notes(PyObject *notes, char *at)
{
	for (Py_ssize_t index = 0; index < PyList_GET_SIZE(notes); index++) {
		long long object, size;

		if (!PyArg_ParseTuple(PyList_GET_ITEM(notes, index), "LL", &object, &size))
			return false;
		put_64(&at, object);
		put_64(&at, size);
	}
	return true;
}

PyDoc_STRVAR(encode_operation_doc, "encode_operation(statements, next_ino, next_object, notes) -> bytes\n\n"
				   "Return the body of a redo record, as engine/store/redo_records.py does.\n"
				   "Raises OverflowError for an integer of more than 64 bits.");

static PyObject *py_encode_operation(PyObject *module, PyObject *args)
{
	PyObject *statements, *notes, *body;
	long long next_ino, next_object;
	struct sizes sizes = {0};

	(void)module;
	if (!PyArg_ParseTuple(args, "O!LLO!", &PyList_Type, &statements, &next_ino, &next_object, &PyList_Type, &notes))
		return NULL;
	if (!measure_all(statements, &sizes))
		return NULL;
	size_t size = HEAD_SIZE + 5 * sizes.statements + sizes.values + 8 * sizes.integers + 4 * sizes.strings +
		      sizes.bytes + 16 * (size_t)PyList_GET_SIZE(notes);
	body = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
	if (body == NULL)
		return NULL;

	char *at = PyBytes_AS_STRING(body);
	*at++ = OPERATION;
	put_64(&at, next_ino);
	put_64(&at, next_object);
	put_32(&at, (uint32_t)sizes.statements);
	put_32(&at, (uint32_t)PyList_GET_SIZE(notes));

	struct writer to = {.number = at};
	to.count = to.number + 4 * sizes.statements;
	to.type = to.count + sizes.statements;
	to.integer = to.type + sizes.values;
	to.length = to.integer + 8 * sizes.integers;
	to.string = to.length + 4 * sizes.strings;
	if (!write_all(statements, &to) || !write_notes(notes, to.string))
		Py_CLEAR(body);
	return body;
}

PyMethodDef redo_record_methods[] = {
	{"encode_operation", py_encode_operation, METH_VARARGS, encode_operation_doc},
	{NULL, NULL, 0, NULL},
};
