# cython: language_level=3
"""The hub's ROUTER without pyzmq in between: the twin of `PlainWire` in wire.py, which says what it does.

It calls the library that pyzmq has loaded, on pyzmq's own socket, with the interpreter held: no call here waits. Signals
are looked for as pyzmq does, or a loop that is compiled as well would never see one.
"""

import ctypes

import zmq

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EHOSTUNREACH, EINTR

cdef extern from *:
    """
    typedef struct { void *words[8]; } wr_message; /* zmq_msg_t: 64 bytes, in line with pointers */
    typedef int (*wr_init)(void *);
    typedef int (*wr_close)(void *);
    typedef int (*wr_recv)(void *, void *, int);
    typedef int (*wr_more)(const void *);
    typedef void *(*wr_data)(void *);
    typedef size_t (*wr_size)(const void *);
    typedef const char *(*wr_gets)(const void *, const char *);
    typedef int (*wr_option)(void *, int, void *, size_t *);
    typedef int (*wr_send)(void *, const void *, size_t, int);
    typedef int (*wr_errno)(void);
    """
    ctypedef struct wr_message:
        pass
    ctypedef int (*wr_init)(void *) noexcept
    ctypedef int (*wr_close)(void *) noexcept
    ctypedef int (*wr_recv)(void *, void *, int) noexcept
    ctypedef int (*wr_more)(const void *) noexcept
    ctypedef void *(*wr_data)(void *) noexcept
    ctypedef size_t (*wr_size)(const void *) noexcept
    ctypedef const char *(*wr_gets)(const void *, const char *) noexcept
    ctypedef int (*wr_option)(void *, int, void *, size_t *) noexcept
    ctypedef int (*wr_send)(void *, const void *, size_t, int) noexcept
    ctypedef int (*wr_errno)() noexcept

cdef wr_init msg_init
cdef wr_close msg_close
cdef wr_recv msg_recv
cdef wr_more msg_more
cdef wr_data msg_data
cdef wr_size msg_size
cdef wr_gets msg_gets
cdef wr_option get_option
cdef wr_send send_bytes
cdef wr_errno last_error

cdef int EVENTS = int(zmq.EVENTS)
cdef int POLLIN = int(zmq.POLLIN)
cdef int NOBLOCK = int(zmq.NOBLOCK)
cdef int SNDMORE = int(zmq.SNDMORE)


cdef void *_at(object library, str name) except NULL:
    return <void *><size_t>ctypes.cast(getattr(library, name), ctypes.c_void_p).value


def _load():
    """The functions of libzmq, by the extension that pyzmq has loaded it for. ImportError where it shows none."""
    global msg_init, msg_close, msg_recv, msg_more, msg_data, msg_size, msg_gets, get_option, send_bytes, last_error
    from zmq.backend.cython import _zmq

    try:
        library = ctypes.CDLL(_zmq.__file__)
        msg_init = <wr_init>_at(library, "zmq_msg_init")
        msg_close = <wr_close>_at(library, "zmq_msg_close")
        msg_recv = <wr_recv>_at(library, "zmq_msg_recv")
        msg_more = <wr_more>_at(library, "zmq_msg_more")
        msg_data = <wr_data>_at(library, "zmq_msg_data")
        msg_size = <wr_size>_at(library, "zmq_msg_size")
        msg_gets = <wr_gets>_at(library, "zmq_msg_gets")
        get_option = <wr_option>_at(library, "zmq_getsockopt")
        send_bytes = <wr_send>_at(library, "zmq_send")
        last_error = <wr_errno>_at(library, "zmq_errno")
    except (OSError, AttributeError, TypeError) as error:
        raise ImportError(f"pyzmq does not show the functions of libzmq: {error}") from error


_load()


cdef class Wire:
    """As `PlainWire`, of a socket of pyzmq, which stays open until `close`."""

    cdef void *_socket
    cdef object _owner

    def __init__(self, socket):
        self._owner = socket
        self._socket = <void *><size_t>socket.underlying

    def close(self):
        """Use the socket no more."""
        self._socket = NULL

    def has_input(self):
        cdef int events = 0
        cdef size_t size = sizeof(int)
        self._require_open()
        while get_option(self._socket, EVENTS, &events, &size) < 0:
            self._again()
        PyErr_CheckSignals()
        return (events & POLLIN) != 0

    def receive(self):
        cdef wr_message message
        self._require_open()
        msg_init(&message)
        try:
            if not self._receive(&message):
                return None
            address = PyBytes_FromStringAndSize(<char *>msg_data(&message), <Py_ssize_t>msg_size(&message))
            if not msg_more(&message) or not self._receive(&message):
                raise RuntimeError("a ROUTER gives an address and a message")
            body = PyBytes_FromStringAndSize(<char *>msg_data(&message), <Py_ssize_t>msg_size(&message))
            key = msg_gets(&message, b"User-Id")
            user = "" if key is NULL else (<bytes>key).decode("utf-8", "replace")
            is_whole = not msg_more(&message)
            while msg_more(&message) and self._receive(&message):
                pass
            return address, body, user, is_whole
        finally:
            msg_close(&message)

    def send(self, bytes address, bytes body):
        cdef int flags = NOBLOCK | SNDMORE
        self._require_open()
        while send_bytes(self._socket, PyBytes_AS_STRING(address), PyBytes_GET_SIZE(address), flags) < 0:
            if last_error() == EAGAIN:
                return False
            if last_error() == EHOSTUNREACH:
                return None
            self._again()
        while send_bytes(self._socket, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), NOBLOCK) < 0:
            self._again()
        return True

    cdef bint _receive(self, wr_message *message) except -1:
        while msg_recv(message, self._socket, NOBLOCK) < 0:
            if last_error() == EAGAIN:
                return False
            self._again()
        return True

    cdef int _require_open(self) except -1:
        if self._socket is NULL:
            raise ValueError("the socket is closed")
        return 0

    cdef int _again(self) except -1:
        """After an error: go on where a signal had come between, or raise."""
        if last_error() != EINTR:
            raise zmq.ZMQError(last_error())
        PyErr_CheckSignals()
        return 0
