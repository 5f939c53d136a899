"""Errors of the operating system by remedy: waiting, freeing space, or none.

1. *Transient*: too little of something that other work releases: descriptors, buffers, memory. Waited out, wherever it
   is met, and never counted as a failed attempt.
2. *Full*: every further file would meet it too, until space is freed, or the disk repaired.
3. *Permanent*: the same call has the same result. It ends what it happened to: one file, or one lock.

Not every system has every code, so they are looked up by name.
"""

import errno
from enum import Enum, auto


class OsErrorKind(Enum):
    """What an error means for the next attempt."""

    TRANSIENT = auto()
    FULL = auto()
    PERMANENT = auto()


def _find_codes(*names: str) -> frozenset[int]:
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


_TRANSIENT = _find_codes("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EAGAIN", "EWOULDBLOCK", "EINTR")
_NO_SPACE = _find_codes("ENOSPC", "EDQUOT")
_FULL = _NO_SPACE | _find_codes("EFBIG", "EROFS", "EIO", "ENXIO", "ENODEV", "ESTALE")
_NAME_REFUSED = _find_codes("ENAMETOOLONG", "EILSEQ", "EINVAL")
_NO_LOCKS = _find_codes("ENOSYS", "EOPNOTSUPP", "ENOTSUP", "ENOLCK", "EIO", "EINVAL", "EPERM")


def classify(code: int | None) -> OsErrorKind:
    """Return the kind of an error code; an unknown one, or None, is permanent."""
    return OsErrorKind.TRANSIENT if code in _TRANSIENT else OsErrorKind.FULL if code in _FULL else OsErrorKind.PERMANENT


def is_transient(code: int | None) -> bool:
    """Return whether waiting helps (rule 1)."""
    return classify(code) is OsErrorKind.TRANSIENT


def is_out_of_space(code: int | None) -> bool:
    """Return whether the disk, or the user's share of it, is used up."""
    return code in _NO_SPACE


def refuses_name(code: int | None) -> bool:
    """Return whether a file system may have refused a file for its name: too long, or a character it cannot hold."""
    return code in _NAME_REFUSED


def lacks_locks(code: int | None) -> bool:
    """Return whether an attempt to lock a file says that its file system has no locks."""
    return code in _NO_LOCKS
