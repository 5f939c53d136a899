"""The folder for the files: made, and tried, before anything is asked for and paid."""

import tempfile
from pathlib import Path

import anyio.to_thread


async def prepare(folder: Path) -> None:
    """Make a folder, and find out whether files can be put into it.

    Raises:
        OSError: they cannot; with a note that says what to do.
    """

    def attempt() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                """It could be made, which is all there is to know."""
        except OSError as error:
            error.add_note(f"files cannot be put into {folder}: name a folder that can be written to; nothing was sent")
            raise
        except RecursionError as error:  # Python makes a folder by calling itself for each missing one above it
            why = "the folder lies too deep, below too many missing ones: name another one; nothing was sent"
            raise OSError(why) from error

    await anyio.to_thread.run_sync(attempt)
