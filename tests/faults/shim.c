/* Preloaded into the workers of the fault campaign: counts what writes below a folder and spoils the n-th of it.

   It sees what Python's audit hooks can't: the writes of pyarrow, safetensors and SQLite. Everything that changes a disk
   is one operation: an open that creates or cuts, a write, a sync, a rename, a removal ... Nothing is spoiled unless a
   process arms itself by fault_arm or fault_deny. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT = 0, ONCE = 1, FULL = 2, SHORT = 3, KILL = 4 };

static char root[PATH_MAX], denied[PATH_MAX];
static size_t root_length, denied_length;
static int armed, mode, code, trace = -1, deny_reading, deny_code;
static long target;
static atomic_long count;
static atomic_int fired;

/* mode: COUNT nothing happens; ONCE the n-th fails with `error`; FULL it and every later one that takes space does;
   SHORT the n-th writes half of what it should, then as FULL; KILL the process dies before the n-th, or amid a write. */
void fault_arm(const char *folder, long n, int how, int error, int trace_fd) {
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    target = n, mode = how, code = error, trace = trace_fd;
    atomic_store(&count, 0), atomic_store(&fired, 0);
    armed = 1;
}
void fault_disarm(void) { armed = 0; denied_length = 0; }
long fault_count(void) { return atomic_load(&count); }
int fault_fired(void) { return atomic_load(&fired); }

/* Whatever begins with `prefix` can't be changed, or with `reading` can't be opened either; empty: nothing. */
void fault_deny(const char *prefix, int reading, int error) {
    snprintf(denied, sizeof denied, "%s", prefix);
    denied_length = strlen(denied), deny_reading = reading, deny_code = error;
}

static void full_path(int dirfd, const char *path, char *out) {
    char base[PATH_MAX], link[64];
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
        return;
    }
    ssize_t n = -1;
    if (dirfd == AT_FDCWD)
        n = readlink("/proc/self/cwd", base, sizeof base - 1);
    else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
        n = readlink(link, base, sizeof base - 1);
    }
    base[n > 0 ? n : 0] = 0;
    if (snprintf(out, PATH_MAX, "%s/%s", base, path) < 0) out[0] = 0;
}
static void path_of(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = 0;
}
static void note(const char *what, const char *path) {
    char line[PATH_MAX + 64];
    int n = snprintf(line, sizeof line, "%s %s\n", what, path + (strncmp(path, root, root_length) ? 0 : root_length));
    if (trace >= 0 && n > 0) syscall(SYS_write, trace, line, n < (int)sizeof line ? n : (int)sizeof line);
}
static void die(void) {
    for (;;) syscall(SYS_kill, getpid(), SIGKILL);
}
static int is_denied(const char *path) { return denied_length && !strncmp(path, denied, denied_length); }

/* Says what is to become of an operation: 0 it goes on, -1 it fails (errno is set), 1 half of it is done, then more. */
static int step(const char *what, const char *path, int takes_space, int halves) {
    if (is_denied(path)) {
        errno = deny_code;
        return -1;
    }
    if (!armed || strncmp(path, root, root_length)) return 0;
    long n = atomic_fetch_add(&count, 1) + 1;
    if (mode == COUNT) note(what, path);
    if (mode == COUNT || n < target) return 0;
    if (n > target) {
        if ((mode == FULL || mode == SHORT) && takes_space) {
            errno = code;
            return -1;
        }
        return 0;
    }
    note(what, path);
    atomic_store(&fired, 1);
    if (mode == KILL && !halves) die();
    if ((mode == KILL || mode == SHORT) && halves) return 1;
    errno = code;
    return -1;
}
static void after_half(void) {
    if (mode == KILL) die();
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static int opening(int dirfd, const char *path, int flags) {
    char full[PATH_MAX];
    if (!armed && !denied_length) return 0;
    full_path(dirfd, path, full);
    if (is_denied(full)) {
        int changes = (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC);
        if (changes || (deny_reading && !(flags & O_PATH))) {
            errno = deny_code;
            return -1;
        }
        return 0;
    }
    if (!(flags & (O_CREAT | O_TRUNC))) return 0;
    return step("open", full, flags & O_CREAT && syscall(SYS_faccessat, AT_FDCWD, full, F_OK), 0);
}
static int of_path(const char *what, int dirfd, const char *path, int takes_space) {
    char full[PATH_MAX];
    if ((!armed && !denied_length) || !path) return 0;
    full_path(dirfd, path, full);
    return step(what, full, takes_space, 0);
}
static int of_fd(const char *what, int fd, int takes_space, int halves) {
    char full[PATH_MAX];
    if (!armed) return 0;
    path_of(fd, full);
    return step(what, full, takes_space, halves);
}

static int forbidden(int dirfd, const char *path) {
    char full[PATH_MAX];
    if (!denied_length) return 0;
    full_path(dirfd, path, full);
    if (is_denied(full)) errno = deny_code;
    return is_denied(full);
}

#define MODE_OF(flags) \
    mode_t given = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        given = va_arg(rest, mode_t); \
        va_end(rest); \
    }
#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        MODE_OF(flags) \
        return opening(AT_FDCWD, path, flags) ? -1 : real(path, flags, given); \
    }
#define OPENAT(name) \
    int name(int dirfd, const char *path, int flags, ...) { \
        REAL(int, #name, int, const char *, int, ...); \
        MODE_OF(flags) \
        return opening(dirfd, path, flags) ? -1 : real(dirfd, path, flags, given); \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

#define CREAT(name) \
    int name(const char *path, mode_t given) { \
        REAL(int, #name, const char *, mode_t); \
        return opening(AT_FDCWD, path, O_CREAT | O_TRUNC | O_WRONLY) ? -1 : real(path, given); \
    }
CREAT(creat)
CREAT(creat64)

#define FOPEN(name) \
    FILE *name(const char *path, const char *how) { \
        REAL(FILE *, #name, const char *, const char *); \
        int flags = how[0] == 'r' ? (strchr(how, '+') ? O_RDWR : O_RDONLY) : O_CREAT | O_WRONLY; \
        return opening(AT_FDCWD, path, flags) ? NULL : real(path, how); \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int fd, const void *from, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    int told = of_fd("write", fd, 1, size > 1);
    if (told < 0) return -1;
    if (!told) return real(fd, from, size);
    ssize_t done = real(fd, from, size / 2);
    after_half();
    return done;
}
#define PWRITE(name, offset_type) \
    ssize_t name(int fd, const void *from, size_t size, offset_type at) { \
        REAL(ssize_t, #name, int, const void *, size_t, offset_type); \
        int told = of_fd("write", fd, 1, size > 1); \
        if (told < 0) return -1; \
        if (!told) return real(fd, from, size, at); \
        ssize_t done = real(fd, from, size / 2, at); \
        after_half(); \
        return done; \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    return of_fd("write", fd, 1, 0) < 0 ? -1 : real(fd, parts, n);
}
#define SENDFILE(name, offset_type) \
    ssize_t name(int to, int from, offset_type *at, size_t size) { \
        REAL(ssize_t, #name, int, int, offset_type *, size_t); \
        return of_fd("write", to, 1, 0) < 0 ? -1 : real(to, from, at, size); \
    }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *to_at, size_t size, unsigned flags) {
    REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
    return of_fd("write", to, 1, 0) < 0 ? -1 : real(from, at, to, to_at, size, flags);
}

#define BY_FD(name, space, declared, used) \
    int name declared { \
        static int(*real) declared; \
        if (!real) real = (int(*) declared)dlsym(RTLD_NEXT, #name); \
        return of_fd(#name, fd, space, 0) < 0 ? -1 : real used; \
    }
BY_FD(fsync, 0, (int fd), (fd))
BY_FD(fdatasync, 0, (int fd), (fd))
BY_FD(ftruncate, 0, (int fd, off_t size), (fd, size))
BY_FD(ftruncate64, 0, (int fd, off64_t size), (fd, size))
BY_FD(fallocate, 1, (int fd, int how, off_t at, off_t size), (fd, how, at, size))
BY_FD(fallocate64, 1, (int fd, int how, off64_t at, off64_t size), (fd, how, at, size))
BY_FD(fchmod, 0, (int fd, mode_t given), (fd, given))
BY_FD(futimens, 0, (int fd, const struct timespec times[2]), (fd, times))

#define BY_PATH(name, dirfd, path, space, declared, used) \
    int name declared { \
        static int(*real) declared; \
        if (!real) real = (int(*) declared)dlsym(RTLD_NEXT, #name); \
        return of_path(#name, dirfd, path, space) ? -1 : real used; \
    }
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return forbidden(AT_FDCWD, from) || of_path("rename", AT_FDCWD, to, 0) ? -1 : real(from, to);
}
BY_PATH(renameat, there, to, 0, (int here, const char *from, int there, const char *to), (here, from, there, to))
BY_PATH(renameat2, there, to, 0, (int here, const char *from, int there, const char *to, unsigned how),
        (here, from, there, to, how))
BY_PATH(link, AT_FDCWD, to, 1, (const char *from, const char *to), (from, to))
BY_PATH(linkat, there, to, 1, (int here, const char *from, int there, const char *to, int how),
        (here, from, there, to, how))
BY_PATH(symlink, AT_FDCWD, to, 1, (const char *from, const char *to), (from, to))
BY_PATH(symlinkat, there, to, 1, (const char *from, int there, const char *to), (from, there, to))
BY_PATH(unlink, AT_FDCWD, path, 0, (const char *path), (path))
BY_PATH(unlinkat, here, path, 0, (int here, const char *path, int how), (here, path, how))
BY_PATH(remove, AT_FDCWD, path, 0, (const char *path), (path))
BY_PATH(rmdir, AT_FDCWD, path, 0, (const char *path), (path))
BY_PATH(mkdir, AT_FDCWD, path, 1, (const char *path, mode_t given), (path, given))
BY_PATH(mkdirat, here, path, 1, (int here, const char *path, mode_t given), (here, path, given))
BY_PATH(truncate, AT_FDCWD, path, 0, (const char *path, off_t size), (path, size))
BY_PATH(truncate64, AT_FDCWD, path, 0, (const char *path, off64_t size), (path, size))
BY_PATH(chmod, AT_FDCWD, path, 0, (const char *path, mode_t given), (path, given))
BY_PATH(utimensat, here, path, 0, (int here, const char *path, const struct timespec times[2], int how),
        (here, path, times, how))
