# cython: language_level=3
"""A thread without the interpreter that makes a file durable while the loop goes on with other work.

A thread of Python would have to wait for the interpreter before it could even begin, up to 5 ms with a busy loop. One
flush at a time. The thread takes no signals: those are for the loop, whose poll they interrupt.
"""

from libc.string cimport strerror

cdef extern from *:
    """
    #include <errno.h>
    #include <pthread.h>
    #include <signal.h>
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>

    enum { FL_IDLE, FL_ASKED, FL_DONE, FL_ENDED };

    enum { FL_NOTE_MAX = 32 };

    typedef struct {
        pthread_t thread;
        pthread_mutex_t lock;
        pthread_cond_t asked, done;
        int file, error, state;
        int note_file, note_length; /* what is written there when the file is durable; length 0: nothing */
        char note[FL_NOTE_MAX];
    } fl_flusher;

    static void *fl_run(void *given) {
        fl_flusher *one = (fl_flusher *)given;
        pthread_mutex_lock(&one->lock);
        for (;;) {
            while (one->state == FL_IDLE || one->state == FL_DONE) pthread_cond_wait(&one->asked, &one->lock);
            if (one->state == FL_ENDED) break;
            pthread_mutex_unlock(&one->lock);
            int error = fdatasync(one->file) ? errno : 0;
            ssize_t noted = error || !one->note_length ? 0
                : pwrite(one->note_file, one->note, one->note_length, 0);
            (void)noted; /* the next one takes its place */
            pthread_mutex_lock(&one->lock);
            one->error = error;
            __atomic_store_n(&one->state, FL_DONE, __ATOMIC_RELEASE);
            pthread_cond_signal(&one->done);
        }
        pthread_mutex_unlock(&one->lock);
        return NULL;
    }

    static fl_flusher *fl_new(void) {
        fl_flusher *one = (fl_flusher *)calloc(1, sizeof *one);
        if (!one) return NULL;
        pthread_mutex_init(&one->lock, NULL);
        pthread_cond_init(&one->asked, NULL);
        pthread_cond_init(&one->done, NULL);
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        int failed = pthread_create(&one->thread, NULL, fl_run, one);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (!failed) return one;
        free(one);
        return NULL;
    }

    static void fl_begin(fl_flusher *one, int file, int note_file, const char *note, int note_length) {
        pthread_mutex_lock(&one->lock);
        one->file = file;
        one->note_file = note_file;
        one->note_length = note_length;
        memcpy(one->note, note, note_length);
        one->state = FL_ASKED;
        pthread_mutex_unlock(&one->lock);
        pthread_cond_signal(&one->asked); /* unlocked, or the thread that it wakes would wait for the lock at once */
    }

    static int fl_is_done(fl_flusher *one) {
        return __atomic_load_n(&one->state, __ATOMIC_ACQUIRE) != FL_ASKED;
    }

    static int fl_wait(fl_flusher *one) {
        pthread_mutex_lock(&one->lock);
        while (one->state == FL_ASKED) pthread_cond_wait(&one->done, &one->lock);
        one->state = FL_IDLE;
        int error = one->error;
        pthread_mutex_unlock(&one->lock);
        return error;
    }

    static void fl_free(fl_flusher *one) {
        fl_wait(one);
        pthread_mutex_lock(&one->lock);
        one->state = FL_ENDED;
        pthread_cond_signal(&one->asked);
        pthread_mutex_unlock(&one->lock);
        pthread_join(one->thread, NULL);
        free(one);
    }
    """
    ctypedef struct fl_flusher:
        pass
    fl_flusher *fl_new() nogil
    int FL_NOTE_MAX
    void fl_begin(fl_flusher *one, int file, int note_file, const char *note, int note_length) nogil
    int fl_is_done(fl_flusher *one) nogil
    int fl_wait(fl_flusher *one) nogil
    void fl_free(fl_flusher *one) nogil


cdef class Flusher:
    """Owns the thread. `begin`, then `wait` before the next `begin`, all from the thread that made it."""

    cdef fl_flusher *_one

    def __cinit__(self):
        self._one = fl_new()
        if self._one is NULL:
            raise MemoryError("no thread could be started")

    def begin(self, int file, int note_file=-1, bytes note=b""):
        """Have the file made durable (fdatasync). Then `note`, of 32 bytes at most, is written at the beginning of
        `note_file`; whether that worked is not told."""
        cdef Py_ssize_t length = len(note)
        if self._one is NULL:
            raise ValueError("the flusher is closed")
        if length > FL_NOTE_MAX:
            raise ValueError(f"a note has {FL_NOTE_MAX} bytes at most, this one has {length}")
        fl_begin(self._one, file, note_file, note, <int>length)

    def is_done(self):
        """Whether `wait` would return at once."""
        return self._one is NULL or fl_is_done(self._one) != 0

    def wait(self):
        """Until it is done; OSError as of fdatasync."""
        cdef int error
        if self._one is NULL:
            return
        with nogil:
            error = fl_wait(self._one)
        if error:
            raise OSError(error, strerror(error).decode())

    def close(self):
        """End the thread, after what it is doing. A second close does nothing."""
        cdef fl_flusher *one = self._one
        self._one = NULL
        if one is not NULL:
            with nogil:
                fl_free(one)

    def __dealloc__(self):
        if self._one is not NULL:
            fl_free(self._one)
