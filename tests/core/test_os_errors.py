import errno

import pytest

from soundpiece_async._core import os_errors
from soundpiece_async._core.os_errors import OsErrorKind


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EAGAIN", "EINTR"])
def test_what_other_work_gives_back_is_passing(name: str) -> None:
    """Descriptors, buffers, memory: waiting helps."""
    assert os_errors.classify(getattr(errno, name)) is OsErrorKind.TRANSIENT
    assert os_errors.is_transient(getattr(errno, name))


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO"])
def test_what_the_next_file_would_meet_is_full(name: str) -> None:
    """No attempt helps until somebody frees space; only two of them are about space."""
    assert os_errors.classify(getattr(errno, name)) is OsErrorKind.FULL
    assert os_errors.is_out_of_space(getattr(errno, name)) is (name in {"ENOSPC", "EDQUOT"})


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED, 99999, None])
def test_everything_else_is_hopeless(code: int | None) -> None:
    """The same call gets the same answer; so does a code nobody knows."""
    assert os_errors.classify(code) is OsErrorKind.PERMANENT
    assert not os_errors.is_transient(code)


def test_names_and_locks_have_answers_of_their_own() -> None:
    """A name that is too long, and a file system without locks, are distinguished from a disk fault by the call."""
    assert all(map(os_errors.refuses_name, (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)))
    assert not os_errors.refuses_name(errno.ENOSPC)
    assert all(map(os_errors.lacks_locks, (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EIO)))
    assert not os_errors.lacks_locks(errno.EAGAIN)
