"""Opens regular files only, where a FIFO, a socket, a device, a directory or a link may have their name.

1. Opening a FIFO waits for its other end, and reading a device may never end. Nothing here waits for either.
2. Anything but a regular file raises a FileExistsError that names it; it is neither read, written nor removed.
3. A file that only this library writes is opened with ``NO_LINK``: a link may lead to any file of the user's.

All files with predictable names are opened here: journals, locks, sidecars, unfinished files.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

NO_LINK = getattr(os, "O_NOFOLLOW", 0)
"""A flag for ``open_regular`` (rule 3); Windows has none, nor links that every user may create."""
_ALWAYS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
}


def open_regular(path: Path, flags: int = os.O_RDONLY, permissions: int = 0o666) -> int:
    """Open a regular file, and return its descriptor.

    Args:
        path: the file.
        flags: as of ``os.open``.
        permissions: of a new file.

    Raises:
        FileExistsError: the path is not a regular file (rule 2), or with O_EXCL exists at all.
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | _ALWAYS, permissions)
    except OSError:  # for a socket, say, the error code does not name the reason
        demand_regular(path, links=not flags & NO_LINK)
        raise
    try:
        _demand(path, os.fstat(descriptor).st_mode)
    except FileExistsError:
        os.close(descriptor)
        raise
    return descriptor


def demand_regular(path: Path, *, links: bool = True) -> None:
    """Raise FileExistsError if a path exists and is not a regular file.

    For files that SQLite opens itself; a later replacement is not noticed.

    Args:
        path: the file.
        links: whether a symbolic link to a regular file is allowed.
    """
    mode = stat.S_IFREG
    with suppress(OSError):
        mode = path.stat(follow_symlinks=links).st_mode
    _demand(path, mode)


def _demand(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise FileExistsError(errno.EEXIST, f"{kind} is there instead of a regular file: move it away", str(path))
