# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Many records at once: made, verified, and rows of tasks read into columns; and one row of columns.

Those that read say None where anything is not as usual, and then the way in Python has the word: `record.unpack_all`, which names
what is damaged, and the decoder of `TaskRow`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from cpython cimport array
from cpython.object cimport Py_SIZE
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

import array

include "_checksum.pxi"

cdef enum:
    FIELDS_MAX = 64
    NAMES_MAX = 16


def unpack_all(records, uint32_t seed, uint8_t version):
    """Keys and bodies of the records, which lie under their keys in one database; None where one is not in order."""
    cdef list found = []
    cdef bytes key, record
    cdef const uint8_t *at
    cdef Py_ssize_t size
    for key, record in records:
        at, size = <const uint8_t *>PyBytes_AS_STRING(record), PyBytes_GET_SIZE(record)
        if not is_record(<const uint8_t *>PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), at, size, seed, version):
            return None
        found.append((key, PyBytes_FromStringAndSize(<const char *>at + ENVELOPE, size - ENVELOPE)))
    return found


def pack_all(rows, uint32_t seed, uint8_t version):
    """Keys and records of the rows that have a body."""
    cdef list found = []
    cdef bytes key, body, record
    cdef uint8_t *to
    cdef uint32_t checksum
    cdef Py_ssize_t size, key_size
    for key, body in rows:
        if body is None:
            continue
        size, key_size = PyBytes_GET_SIZE(body), PyBytes_GET_SIZE(key)
        checksum = crc32(seed, <const uint8_t *>PyBytes_AS_STRING(key), key_size) ^ <uint32_t>key_size
        checksum = crc32(checksum, <const uint8_t *>PyBytes_AS_STRING(body), size)
        record = PyBytes_FromStringAndSize(NULL, ENVELOPE + size)
        to = <uint8_t *>PyBytes_AS_STRING(record)
        to[0], to[1], to[2] = 0xAC, 0x52, version
        to[3], to[4], to[5], to[6] = checksum >> 24, checksum >> 16 & 0xFF, checksum >> 8 & 0xFF, checksum & 0xFF
        memcpy(to + ENVELOPE, PyBytes_AS_STRING(body), size)
        found.append((key, record))
    return found


def fill(list columns, Py_ssize_t slot, tuple values):
    """Put a value into each column at that place; errors as of an array."""
    cdef array.array column
    cdef int64_t value
    cdef char kind
    cdef Py_ssize_t n
    if len(columns) != len(values):
        raise ValueError(f"{len(values)} values for {len(columns)} columns")
    for n in range(len(columns)):
        column = <array.array?>columns[n]
        value = <object>values[n]
        kind = column.ob_descr.typecode
        if not 0 <= slot < Py_SIZE(column):
            raise IndexError("array assignment index out of range")
        if kind == c"q":
            column.data.as_longlongs[slot] = value
        elif kind == c"i" and value == <int32_t>value:
            column.data.as_ints[slot] = <int32_t>value
        elif kind == c"h" and value == <int16_t>value:
            column.data.as_shorts[slot] = <int16_t>value
        elif kind == c"b" and value == <int8_t>value:
            column.data.as_schars[slot] = <int8_t>value
        else:
            raise OverflowError(f"{value} in a column of type {chr(kind)!r}")


def values_at(list columns, Py_ssize_t slot):
    """What each column has there."""
    cdef array.array column
    cdef int64_t value
    cdef char kind
    cdef object number
    cdef Py_ssize_t n
    cdef tuple found = PyTuple_New(len(columns))
    for n in range(len(columns)):
        column = <array.array?>columns[n]
        kind = column.ob_descr.typecode
        if not 0 <= slot < Py_SIZE(column):
            raise IndexError("array index out of range")
        if kind == c"q":
            value = column.data.as_longlongs[slot]
        elif kind == c"i":
            value = column.data.as_ints[slot]
        elif kind == c"h":
            value = column.data.as_shorts[slot]
        elif kind == c"b":
            value = column.data.as_schars[slot]
        else:
            raise ValueError(f"a column of type {chr(kind)!r}")
        number = value
        Py_INCREF(number)
        PyTuple_SET_ITEM(found, n, number)
    return found


cdef struct Reader:
    const uint8_t *at
    const uint8_t *end


cdef inline uint64_t big_endian(Reader *one, int size) noexcept nogil:
    cdef uint64_t value = 0
    cdef int n
    for n in range(size):
        value = value << 8 | one.at[n]
    one.at += size
    return value


cdef inline bint read_int(Reader *one, int64_t *into) noexcept nogil:
    cdef uint8_t head
    cdef uint64_t value
    cdef int size
    if one.at >= one.end:
        return False
    head = one.at[0]
    one.at += 1
    if head < 0x80:
        into[0] = head
        return True
    if head >= 0xE0:
        into[0] = <int8_t>head
        return True
    if not (0xCC <= head <= 0xD3):
        return False
    size = 1 << (head & 3)
    if one.end - one.at < size:
        return False
    value = big_endian(one, size)
    if head < 0xD0:
        into[0] = <int64_t>value
        return value <= <uint64_t>0x7FFFFFFFFFFFFFFF
    if size == 1:
        into[0] = <int8_t>value
    elif size == 2:
        into[0] = <int16_t>value
    elif size == 4:
        into[0] = <int32_t>value
    else:
        into[0] = <int64_t>value
    return True


cdef inline bint read_text(Reader *one, const uint8_t **text, uint32_t *size) noexcept nogil:
    cdef uint8_t head
    if one.at >= one.end:
        return False
    head = one.at[0]
    one.at += 1
    if 0xA0 <= head < 0xC0:
        size[0] = head & 0x1F
    elif head == 0xD9 and one.at < one.end:
        size[0] = <uint32_t>big_endian(one, 1)
    elif head == 0xDA and one.end - one.at >= 2:
        size[0] = <uint32_t>big_endian(one, 2)
    else:
        return False
    if one.end - one.at < size[0]:
        return False
    text[0] = one.at
    one.at += size[0]
    return True


cdef inline bint read_head(Reader *one, uint32_t *count) noexcept nogil:
    """Of an array."""
    if one.at >= one.end:
        return False
    if 0x90 <= one.at[0] < 0xA0:
        count[0] = one.at[0] & 0x0F
        one.at += 1
        return True
    if one.at[0] != 0xDC or one.end - one.at < 3:
        return False
    one.at += 1
    count[0] = <uint32_t>big_endian(one, 2)
    return True


cdef class RowReader:
    """Reads rows whose fields are of these `kinds`, by their order: the type code of an array for an integer, `e` for one
    of its `names`, `t` for a text that is empty as a rule, `l` for a set of texts that many rows have in common, `x` for
    an integer that nobody asks for. The first `required` fields are in every row, the others may be missing at its end
    and are 0 or empty then."""

    cdef bytes _kinds
    cdef int _count
    cdef int _required
    cdef list _names

    def __init__(self, bytes kinds, int required, list names):
        if len(kinds) > FIELDS_MAX or len(names) != len(kinds) or max(map(len, names)) > NAMES_MAX:
            raise ValueError("more fields or names than this was built for")
        self._kinds, self._count, self._required = kinds, len(kinds), required
        self._names = names

    def read(self, list bodies):
        """For each field an array with its values, codes of names and numbers of sets, or None; then the sets."""
        cdef Py_ssize_t rows = len(bodies)
        cdef list columns = []
        cdef array.array column
        cdef char *into[FIELDS_MAX]
        cdef int n
        for n in range(self._count):
            kind = chr(self._kinds[n])
            into[n] = NULL
            if kind in "tx":
                columns.append(None)
                continue
            column = array.clone(EMPTY["b" if kind == "e" else "i" if kind == "l" else kind], rows, True)
            columns.append(column)
            into[n] = column.data.as_chars
        sets = self._fill(bodies, into)
        return None if sets is None else (columns, sets)

    cdef list _fill(self, list bodies, char **into):
        cdef const char *kinds = PyBytes_AS_STRING(self._kinds)
        cdef Reader one
        cdef uint32_t count
        cdef int n, code
        cdef Py_ssize_t row = 0
        cdef int64_t value
        cdef uint32_t size
        cdef const uint8_t *text
        cdef const uint8_t *last_set = NULL
        cdef Py_ssize_t last_size = 0
        cdef int last_number = 0
        cdef list sets = []
        cdef dict numbers = {}
        cdef bytes body
        for body in bodies:
            one.at = <const uint8_t *>PyBytes_AS_STRING(body)
            one.end = one.at + PyBytes_GET_SIZE(body)
            if not read_head(&one, &count) or <int>count < self._required or <int>count > self._count:
                return None
            for n in range(<int>count):
                if kinds[n] == c"t":
                    if not read_text(&one, &text, &size) or size:
                        return None
                elif kinds[n] == c"e":
                    if not read_text(&one, &text, &size):
                        return None
                    code = code_of(<list>self._names[n], text, size)
                    if code < 0:
                        return None
                    into[n][row] = <char>code
                elif kinds[n] == c"l":
                    text = one.at
                    if not skip_set(&one):
                        return None
                    if last_set is NULL or one.at - text != last_size or memcmp(text, last_set, last_size):
                        last_set, last_size = text, one.at - text
                        last_number = number_of(text, last_size, numbers, sets)
                        if last_number < 0:
                            return None
                    (<int32_t *>into[n])[row] = last_number
                elif not read_int(&one, &value):
                    return None
                elif kinds[n] == c"q":
                    (<int64_t *>into[n])[row] = value
                elif kinds[n] == c"i":
                    if value != <int32_t>value:
                        return None
                    (<int32_t *>into[n])[row] = <int32_t>value
                elif kinds[n] == c"h":
                    if value != <int16_t>value:
                        return None
                    (<int16_t *>into[n])[row] = <int16_t>value
            for n in range(<int>count, self._count):
                if kinds[n] == c"l":
                    last_set, last_size = NULL, 0
                    last_number = number_of(b"\x90", 1, numbers, sets)
                    (<int32_t *>into[n])[row] = last_number
                elif kinds[n] == c"e":
                    return None
            if one.at != one.end:
                return None
            row += 1
        return sets


EMPTY = {kind: array.array(kind) for kind in "bhiq"}


cdef inline int code_of(list names, const uint8_t *text, uint32_t size):
    cdef int n
    cdef bytes name
    for n in range(len(names)):
        name = <bytes>names[n]
        if PyBytes_GET_SIZE(name) == size and memcmp(PyBytes_AS_STRING(name), text, size) == 0:
            return n
    return -1


cdef inline bint skip_set(Reader *one) noexcept nogil:
    cdef uint32_t count, n, size
    cdef const uint8_t *text
    if not read_head(one, &count):
        return False
    for n in range(count):
        if not read_text(one, &text, &size):
            return False
    return True


cdef int number_of(const uint8_t *start, Py_ssize_t size, dict numbers, list sets) except -2:
    """Of a set, known by its bytes; -1 for one that cannot be read."""
    cdef bytes raw = PyBytes_FromStringAndSize(<const char *>start, size)
    cdef Reader one
    cdef uint32_t count, n, length
    cdef const uint8_t *text
    cdef list texts = []
    known = numbers.get(raw)
    if known is not None:
        return known
    one.at, one.end = start, start + size
    if not read_head(&one, &count):
        return -1
    for n in range(count):
        if not read_text(&one, &text, &length):
            return -1
        try:
            texts.append(PyUnicode_DecodeUTF8(<const char *>text, length, NULL))
        except UnicodeDecodeError:
            return -1
    numbers[raw] = len(sets)
    sets.append(tuple(texts))
    return len(sets) - 1
