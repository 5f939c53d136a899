"""File systems without locks or shared memory, simulated by a library preloaded before libc, compiled on demand.

Within the folder `SHIM_FOLDER`, `flock`, `fcntl` (locks) and `mmap` (shared) fail with the numbers in `SHIM_FLOCK`,
`SHIM_FCNTL` and `SHIM_MMAP`, and names longer than `SHIM_NAME` bytes are refused.
"""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int number(const char *name) {
    const char *text = getenv(name);
    return text ? atoi(text) : 0;
}

static int inside(int fd) {
    char link[64], path[4096];
    const char *folder = getenv("SHIM_FOLDER");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0 || !folder) return 0;
    path[size] = 0;
    return !strncmp(path, folder, strlen(folder));
}

static int refused(int fd, const char *name) {
    int code = number(name);
    if (!code || !inside(fd)) return 0;
    errno = code;
    return 1;
}

int flock(int fd, int operation) {
    if (refused(fd, "SHIM_FLOCK")) return -1;
    int (*next)(int, int) = dlsym(RTLD_NEXT, "flock");
    return next(fd, operation);
}

static int control(const char *name, int fd, int command, void *argument) {
    if ((command == F_SETLK || command == F_SETLKW || command == F_GETLK) && refused(fd, "SHIM_FCNTL")) return -1;
    int (*next)(int, int, ...) = dlsym(RTLD_NEXT, name);
    return next(fd, command, argument);
}

int fcntl(int fd, int command, ...) {
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    return control("fcntl", fd, command, argument);
}

int fcntl64(int fd, int command, ...) {
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    return control("fcntl64", fd, command, argument);
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    if (flags & MAP_SHARED && fd >= 0 && refused(fd, "SHIM_MMAP")) return MAP_FAILED;
    void *(*next)(void *, size_t, int, int, int, off_t) = dlsym(RTLD_NEXT, "mmap");
    return next(address, length, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset) {
    if (flags & MAP_SHARED && fd >= 0 && refused(fd, "SHIM_MMAP")) return MAP_FAILED;
    void *(*next)(void *, size_t, int, int, int, off64_t) = dlsym(RTLD_NEXT, "mmap64");
    return next(address, length, protection, flags, fd, offset);
}

static int too_long(const char *path) {
    const char *folder = getenv("SHIM_FOLDER"), *name = strrchr(path, '/');
    int most = number("SHIM_NAME");
    if (!most || !folder || strncmp(path, folder, strlen(folder))) return 0;
    if ((int)strlen(name ? name + 1 : path) <= most) return 0;
    errno = ENAMETOOLONG;
    return 1;
}

static int do_open(const char *function, const char *path, int flags, int mode) {
    if (too_long(path)) return -1;
    int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, function);
    return next(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    int mode = va_arg(list, int);
    va_end(list);
    return do_open("open", path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list list;
    va_start(list, flags);
    int mode = va_arg(list, int);
    va_end(list);
    return do_open("open64", path, flags, mode);
}

int stat(const char *path, struct stat *found) {
    if (too_long(path)) return -1;
    int (*next)(const char *, struct stat *) = dlsym(RTLD_NEXT, "stat");
    return next(path, found);
}
"""


def build(folder: Path) -> Path:
    """Compile the library; a machine that runs these tests has a compiler (`noxfile.py` sees to it)."""
    compiler = shutil.which("cc")
    assert compiler is not None, "no C compiler: apt-get install gcc libc6-dev"
    source, library = folder / "shim.c", folder / "shim.so"
    source.write_text(SOURCE)
    words = [compiler, "-shared", "-fPIC", "-O1", "-w", "-o", str(library), str(source), "-ldl"]
    subprocess.run(words, check=True)  # noqa: S603 - our own
    return library


def run(library: Path, folder: Path, arguments: list[str], **refusals: str) -> subprocess.CompletedProcess[str]:
    """Run Python on a file system that refuses something, as `flock="ENOSYS"`, within a folder."""
    codes = {f"SHIM_{name.upper()}": str(getattr(errno, code, code)) for name, code in refusals.items()}
    environ = {**os.environ, **codes, "SHIM_FOLDER": str(folder), "LD_PRELOAD": str(library)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environ)  # noqa: S603 - our own
