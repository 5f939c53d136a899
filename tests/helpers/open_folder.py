"""A temporary folder that processes and threads of another user may enter."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def make_open_folder() -> Iterator[Path]:
    """Make a folder that other users may enter, also where TMPDIR lies in a private one, as below a clone of root's.

    Only root has to share: tests become another user where root could do too much.
    """
    parent = "/tmp" if os.geteuid() == 0 else None  # noqa: S108 - the folder below it has a random name
    with tempfile.TemporaryDirectory(prefix="soundpiece-", dir=parent) as name:
        Path(name).chmod(0o755)
        yield Path(name)
