/* Preloaded into a process: writes down every change to the files of one folder, in order, and can let one fail.
 *
 * SHIM_FOLDER  what is watched (no other file is touched by this)
 * SHIM_LOG     where the changes go: a head of five numbers (kind, flags, offset, length of the content, length
 *              of the path), then the path, then the content
 * SHIM_FAIL    "KIND:N:ERRNO[:PART]": the N-th (from 1) call of that kind on a path that contains PART fails with
 *              that error number, and every later one as well; the first failing write does half of its work.
 *              A disk that is full this way also refuses to set room aside (posix_fallocate).
 * SHIM_WHILE   a file: SHIM_FAIL holds only while it is there, and its count begins then
 * SHIM_ROOM    a file with an int64: the free bytes of the disk, shared by all processes that look at it. What makes
 *              a watched file longer takes from it, what cuts or removes one gives back; without any left: ENOSPC
 *
 * The calls are made as system calls, so that nothing here depends on the order in which libraries are bound.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, CUT = 3, RENAME = 4, UNLINK = 5, CREATE = 6, SYNC_FOLDER = 7 };
enum { FILES_MAX = 1024, PATH_BYTES = 1024, SYNCHRONOUS = 1 };

static const char *KIND_NAMES[] = {"", "write", "sync", "cut", "rename", "unlink", "create", "sync_folder"};

struct head { uint32_t kind, flags; int64_t offset, content_bytes; uint32_t path_bytes, zero; };

static char folder[PATH_BYTES];
static int log_fd = -1;
static char paths[FILES_MAX][PATH_BYTES];
static int flags_of[FILES_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char fail_part[PATH_BYTES];
static int fail_kind, fail_after, fail_error;
static const char *fail_while;
static int64_t *room;

__attribute__((constructor)) static void begin(void) {
    const char *watched = getenv("SHIM_FOLDER"), *log = getenv("SHIM_LOG"), *fail = getenv("SHIM_FAIL");
    if (!watched) return;
    snprintf(folder, sizeof folder, "%s", watched);
    if (log) {
        int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        log_fd = syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, FILES_MAX);  /* out of the way of the program's own */
        if (log_fd < 0) log_fd = fd; else syscall(SYS_close, fd);
    }
    fail_while = getenv("SHIM_WHILE");
    const char *free_bytes = getenv("SHIM_ROOM");
    if (free_bytes) {
        int fd = syscall(SYS_openat, AT_FDCWD, free_bytes, O_RDWR | O_CLOEXEC);
        void *at = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *room, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED) abort();
        room = at;
        syscall(SYS_close, fd);
    }
    char kind[32];
    if (fail && sscanf(fail, "%31[^:]:%d:%d:%1023s", kind, &fail_after, &fail_error, fail_part) >= 3)
        for (int i = 1; i <= SYNC_FOLDER; i++)
            if (!strcmp(kind, KIND_NAMES[i])) fail_kind = i;
}

static int is_watched(const char *path) {
    size_t length = strlen(folder);
    return length && !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static const char *path_of(int fd) { return fd >= 0 && fd < FILES_MAX && paths[fd][0] ? paths[fd] : NULL; }

/* Whether this call is to fail; errno is set then. */
static int fails(int kind, const char *path) {
    if (kind != fail_kind || !strstr(path, fail_part)) return 0;
    if (fail_while && syscall(SYS_faccessat, AT_FDCWD, fail_while, F_OK)) return 0;
    if (--fail_after > 0) return 0;
    errno = fail_error;
    return 1;
}

static int64_t size_of(int fd) {
    struct stat found;
    return fstat(fd, &found) ? 0 : found.st_size;
}

/* Take `bytes` from the free ones, as many as there are; how many that is. */
static int64_t take_room(int64_t bytes) {
    int64_t left = __atomic_load_n(room, __ATOMIC_SEQ_CST), taken;
    do taken = bytes < left ? bytes : left > 0 ? left : 0;
    while (!__atomic_compare_exchange_n(room, &left, left - taken, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return taken;
}

static void give_room(int64_t bytes) { if (room && bytes > 0) __atomic_add_fetch(room, bytes, __ATOMIC_SEQ_CST); }

static void note(int kind, int flags, int64_t offset, const char *path, const void *content, int64_t bytes) {
    if (log_fd < 0) return;
    struct head head = {kind, flags, offset, bytes, strlen(path), 0};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)path, head.path_bytes}, {(void *)content, bytes}};
    pthread_mutex_lock(&lock);
    if (syscall(SYS_writev, log_fd, parts, content ? 3 : 2) < 0) abort();
    pthread_mutex_unlock(&lock);
}

static int opened(int fd, const char *path, int flags, int was_there) {
    if (fd < 0 || fd >= FILES_MAX) return fd;
    paths[fd][0] = 0;
    if (is_watched(path)) {
        snprintf(paths[fd], PATH_BYTES, "%s", path);
        flags_of[fd] = flags;
        if (!was_there && (flags & O_CREAT)) note(CREATE, 0, 0, path, NULL, 0);
        else if (flags & O_TRUNC) note(CUT, 0, 0, path, NULL, 0);
    }
    return fd;
}

static int open_any(int at, const char *path, int flags, mode_t mode) {
    int was_there = syscall(SYS_faccessat, at, path, F_OK) == 0;
    struct stat found;
    if (room && was_there && (flags & O_TRUNC) && is_watched(path) && !stat(path, &found)) give_room(found.st_size);
    if (is_watched(path) && !was_there && (flags & O_CREAT) && fails(CREATE, path)) return -1;
    return opened(syscall(SYS_openat, at, path, flags, mode), path, flags, was_there);
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) { MODE(flags) return open_any(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_any(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return open_any(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return open_any(at, path, flags, mode); }

int close(int fd) {
    if (path_of(fd)) paths[fd][0] = 0;
    return syscall(SYS_close, fd);
}

static ssize_t write_at(int fd, const void *content, size_t bytes, off_t offset) {
    const char *path = path_of(fd);
    if (!path) return syscall(SYS_pwrite64, fd, content, bytes, offset);
    int synchronous = flags_of[fd] & O_DSYNC ? SYNCHRONOUS : 0;
    if (fails(WRITE, path)) {
        int error = errno;
        ssize_t half = bytes > 1 && fail_after == 0 ? syscall(SYS_pwrite64, fd, content, bytes / 2, offset) : -1;
        if (half > 0) { note(WRITE, synchronous, offset, path, content, half); return half; }
        errno = error;
        return -1;
    }
    int64_t growth = room ? offset + (int64_t)bytes - size_of(fd) : 0;
    if (growth > 0) {
        int64_t missing = growth - take_room(growth);
        if (missing >= (int64_t)bytes) {
            give_room(growth - missing);
            errno = ENOSPC;
            return -1;
        }
        bytes -= missing;
    }
    ssize_t done = syscall(SYS_pwrite64, fd, content, bytes, offset);
    if (done > 0) note(WRITE, synchronous, offset, path, content, done);
    return done;
}

ssize_t pwrite(int fd, const void *content, size_t bytes, off_t offset) { return write_at(fd, content, bytes, offset); }
ssize_t pwrite64(int fd, const void *content, size_t bytes, off_t offset) { return write_at(fd, content, bytes, offset); }

ssize_t write(int fd, const void *content, size_t bytes) {
    if (!path_of(fd)) return syscall(SYS_write, fd, content, bytes);
    off_t offset = syscall(SYS_lseek, fd, 0, flags_of[fd] & O_APPEND ? SEEK_END : SEEK_CUR);
    ssize_t done = write_at(fd, content, bytes, offset);
    if (done > 0) syscall(SYS_lseek, fd, offset + done, SEEK_SET);
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!path_of(fd)) return syscall(SYS_writev, fd, parts, count);
    ssize_t all = 0;
    for (int i = 0; i < count; i++) {
        ssize_t done = write(fd, parts[i].iov_base, parts[i].iov_len);
        if (done < 0) return all ? all : done;
        all += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return all;
}

static ssize_t writev_at(int fd, const struct iovec *parts, int count, off_t offset) {
    if (!path_of(fd)) return syscall(SYS_pwritev, fd, parts, count, (long)offset, 0L);
    ssize_t all = 0;
    for (int i = 0; i < count; i++) {
        ssize_t done = write_at(fd, parts[i].iov_base, parts[i].iov_len, offset + all);
        if (done < 0) return all ? all : done;
        all += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return all;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return writev_at(fd, parts, count, offset); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) { return writev_at(fd, parts, count, offset); }

static int sync_any(int fd, long call) {
    const char *path = path_of(fd);
    if (!path) return syscall(call, fd);
    struct stat found;
    int kind = fstat(fd, &found) == 0 && S_ISDIR(found.st_mode) ? SYNC_FOLDER : SYNC;
    if (fails(kind, path)) return -1;
    int done = syscall(call, fd);
    if (!done) note(kind, 0, 0, path, NULL, 0);
    return done;
}

int fsync(int fd) { return sync_any(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_any(fd, SYS_fdatasync); }

/* The store maps its files read-only (no writemap), so a synced mapping would be a change of its design. */
int msync(void *start, size_t bytes, int flags) {
    note(SYNC, 0, 0, "msync", NULL, 0);
    return syscall(SYS_msync, start, bytes, flags);
}

static int cut(int fd, off_t length) {
    const char *path = path_of(fd);
    if (path && fails(CUT, path)) return -1;
    int64_t before = path && room ? size_of(fd) : 0;
    int done = syscall(SYS_ftruncate, fd, length);
    if (path && !done) note(CUT, 0, length, path, NULL, 0);
    if (path && !done) give_room(before - length);  /* a longer one is sparse: it takes no room yet */
    return done;
}

int ftruncate(int fd, off_t length) { return cut(fd, length); }
int ftruncate64(int fd, off_t length) { return cut(fd, length); }

static int rename_any(const char *from, const char *to) {
    if (!is_watched(from) && !is_watched(to)) return syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    if (fails(RENAME, from)) return -1;
    struct stat found;
    int64_t bytes = room && is_watched(to) && !stat(to, &found) ? found.st_size : 0;
    int done = syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    if (done) return done;
    note(RENAME, 0, 0, from, to, strlen(to));
    give_room(bytes);
    for (int fd = 0; fd < FILES_MAX; fd++)
        if (!strcmp(paths[fd], from)) snprintf(paths[fd], PATH_BYTES, "%s", to);
    return 0;
}

static int refuses_room(void) {
    return fail_kind == WRITE && fail_after <= 0 && fail_error == ENOSPC
        && !(fail_while && syscall(SYS_faccessat, AT_FDCWD, fail_while, F_OK));
}

int posix_fallocate(int fd, off_t offset, off_t bytes) {
    if (refuses_room()) return ENOSPC;
    int64_t growth = room && path_of(fd) ? offset + bytes - size_of(fd) : 0;
    if (growth > 0) {
        int64_t taken = take_room(growth);
        if (taken < growth) { give_room(taken); return ENOSPC; }
    }
    return syscall(SYS_fallocate, fd, 0, offset, bytes) ? errno : 0;
}

int posix_fallocate64(int fd, off_t offset, off_t bytes) { return posix_fallocate(fd, offset, bytes); }

int rename(const char *from, const char *to) { return rename_any(from, to); }
int renameat(int a, const char *from, int b, const char *to) { (void)a; (void)b; return rename_any(from, to); }

int unlink(const char *path) {
    if (is_watched(path) && fails(UNLINK, path)) return -1;
    struct stat found;
    int64_t bytes = room && is_watched(path) && !stat(path, &found) ? found.st_size : 0;
    int done = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (!done && is_watched(path)) note(UNLINK, 0, 0, path, NULL, 0);
    if (!done) give_room(bytes);
    return done;
}

/* Whoever copies with these goes on with plain reads and writes, which are seen here. */
ssize_t sendfile(int out, int in, off_t *offset, size_t bytes) {
    if (!path_of(out)) return syscall(SYS_sendfile, out, in, offset, bytes);
    errno = EINVAL;
    return -1;
}

ssize_t sendfile64(int out, int in, off_t *offset, size_t bytes) { return sendfile(out, in, offset, bytes); }

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t bytes, unsigned flags) {
    if (!path_of(out)) return syscall(SYS_copy_file_range, in, from, out, to, bytes, flags);
    errno = EINVAL;
    return -1;
}
