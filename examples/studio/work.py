"""Runs each sound from its form to its files, any number concurrently, and across restarts."""

import json
import logging
import sqlite3
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.abc
import attrs
from kinds import explain, make_request
from store import OVER, Sound, Store

from soundpiece_async import (
    DecodeError,
    Handle,
    NotFound,
    Operation,
    OperationFailed,
    Output,
    SavedFile,
    Session,
    SoundpieceError,
    ValidationError,
)

_logger = logging.getLogger("studio")

FORGOTTEN = 86_400.0
"""Seconds. How long the service remembers a key is not known: after this, a sound is not resent automatically."""

UNCERTAIN = (
    "The studio stopped more than a day ago, while it was sending this. It is not known whether the service accepted "
    "it: trying again may be charged a second time."
)


class Studio:
    """All sounds, and the operations in progress. Views read ``changes`` and wait for ``changed``.

    Args:
        session: the one session of this process.
        store: the database.
        folder: for the audio.
        callback: the URL for webhooks.
        service: the name of the service, for the page.
    """

    def __init__(
        self, session: Session, store: Store, folder: Path, *, callback: str | None = None, service: str = ""
    ) -> None:
        self.sounds: dict[int, Sound] = {}
        self.service = service
        self.callback = callback
        self.closing = False
        self._session = session
        self._store = store
        self._folder = folder
        self._group: anyio.abc.TaskGroup | None = None
        self._revision = 0
        self._revisions: dict[int, int] = {}  # sound: the revision in which it last changed
        self._changed = anyio.Event()

    async def run(self, sounds: Iterable[Sound]) -> None:
        """Load the sounds of an earlier process, resume the unfinished ones, and run until cancelled."""
        async with anyio.create_task_group() as self._group:
            for sound in sounds:
                try:
                    await self._load(sound)
                except (LookupError, TypeError, ValueError) as error:  # edited, or of another version
                    _logger.warning("sound %s cannot be shown: %r", sound.id, error)
            await anyio.sleep_forever()

    async def _load(self, sound: Sound) -> None:
        uncertain = sound.state == "sending" and time.time() - sound.created > FORGOTTEN
        json.dumps(_describe(sound), allow_nan=False)  # one that browsers cannot parse would hide all others
        self._show(sound)
        if uncertain:
            await self._change(sound, state="failed", problem=UNCERTAIN)
        elif sound.state not in OVER:
            self._start(sound)

    def close(self) -> None:
        """Wake all waiters."""
        self.closing = True
        self._notify()

    async def begin(self, form: Sound) -> Sound:
        """Store a new sound, then run it in the background. A repeated key returns the same sound."""
        sound = await self._store.add(attrs.evolve(form, created=time.time()))
        if sound.id not in self.sounds:
            self._show(sound)
            self._start(sound)
        return sound

    async def try_again(self, number: int) -> None:
        """Resume a failed sound where it stopped; with a new key only if the old one cannot succeed."""
        sound = self.sounds.get(number)
        if sound is None or sound.state != "failed":
            return
        sound = attrs.evolve(sound, problem="", state="sending" if sound.handle is None else "making")
        if sound.spent:
            reset: dict[str, Any] = {"key": str(uuid4()), "source": None, "handle": None, "started": 0.0, "ended": 0.0}
            sound = attrs.evolve(sound, spent=False, state="sending", **reset)
        self._show(sound)  # at once, so that a second click has no effect
        await self._store.save(sound)
        self._start(sound)

    async def delete(self, number: int) -> bool:
        """Delete a sound with its audio; return False if it, or a sound derived from it, is in progress."""
        sound = self.sounds.get(number)
        if sound is None:
            return True
        if any(one.state not in OVER for one in self.sounds.values() if number in (one.id, one.parent)):
            return False
        del self.sounds[number]
        self._notify()
        await self._store.remove(sound)
        for file in sound.files:
            await anyio.Path(self._folder, file["name"]).unlink(missing_ok=True)
        return True

    async def rename(self, number: int, title: str) -> None:
        """Set the title of a finished sound; "" restores the default."""
        sound = self.sounds.get(number)
        if sound is not None and sound.state in OVER:
            await self._change(sound, title=title)

    def changes(self, *, since: int) -> dict[str, Any]:
        """Return the changes after a revision, as JSON for the page; 0: everything."""
        return {
            "revision": self._revision,
            "now": time.time(),
            "ids": list(self.sounds),
            "sounds": [_describe(sound) for sound in self.sounds.values() if self._revisions[sound.id] > since],
            "usual": self._usual(),
            "service": self.service,
            "figures": _count(self._session) if self._busy else None,
        }

    async def changed(self, since: int) -> None:
        """Wait for a newer revision; while operations are in progress, at most a second."""
        with anyio.move_on_after(1 if self._busy else 15):
            if self._revision == since and not self.closing:
                await self._changed.wait()

    @property
    def _busy(self) -> bool:
        return any(sound.state not in OVER for sound in self.sounds.values())

    def _usual(self) -> dict[str, float]:
        """Return the median duration of each kind here, in seconds."""
        took = defaultdict(list)
        for sound in self.sounds.values():
            if sound.state == "ready" and sound.started:
                took[sound.kind].append(sound.ended - sound.started)
        return {kind: statistics.median(times[-20:]) for kind, times in took.items()}

    def _start(self, sound: Sound) -> None:
        if self._group is None:
            raise RuntimeError("the studio is not running")
        self._group.start_soon(self._make, sound)

    async def _make(self, sound: Sound) -> None:
        """Run a sound to its end; each step is stored, so that a kill loses nothing."""
        try:
            if sound.handle is None:
                sound = await self._send(sound)
            operation = await self._session.wait(Handle.parse(str(sound.handle)))
            ended = sound.ended or time.time()
            sound = await self._change(sound, state="fetching", ended=ended)
            files = await self._session.download(operation, self._folder)
            await self._change(sound, state="ready", files=[_record(file) for file in files])
        except (SoundpieceError, OSError) as error:
            _logger.warning("sound %d: %s", sound.id, error)
            await self._fail(self.sounds[sound.id], error)
        except Exception as fault:  # a failed sound does not stop the others
            _logger.exception("sound %d: internal error", sound.id)
            await self._fail(self.sounds[sound.id], fault)

    async def _fail(self, sound: Sound, error: Exception) -> None:
        lost = (
            isinstance(error, NotFound | ValidationError) and sound.handle is not None
        )  # the service no longer knows it
        spent = lost or isinstance(error, OperationFailed)
        failed = attrs.evolve(sound, state="failed", problem=explain(error), spent=spent)
        self._show(failed)
        try:
            await self._store.save(failed)
        except sqlite3.Error:  # the database cannot be written; the others continue
            _logger.exception("sound %d: its failure was not stored", sound.id)

    async def _send(self, sound: Sound) -> Sound:
        if sound.parent is not None and not sound.source:
            source = await self._find_source(sound)
            sound = await self._change(sound, source=source.url)  # before sending, so that a retry has the same bytes
        try:
            operation: Operation[Any] = await self._session.submit(make_request(sound))
        except DecodeError as error:
            if error.operation is None:
                raise
            operation = error.operation  # accepted and paid for, but the response was unexpected
        return await self._change(sound, state="making", handle=str(operation.handle), started=time.time())

    async def _find_source(self, sound: Sound) -> Output:
        """Return the source output with a fresh URL; the order of outputs is not guaranteed."""
        parent = self.sounds[sound.parent or 0]
        operation = await self._session.refresh(Handle.parse(str(parent.handle)))
        known = parent.files[sound.take]
        same = [output for output in operation.outputs if output.path == known["path"]]
        return same[0] if same else operation.outputs[sound.take]

    async def _change(self, sound: Sound, **changes: Any) -> Sound:
        sound = attrs.evolve(sound, **changes)
        await self._store.save(sound)
        self._show(sound)
        return sound

    def _show(self, sound: Sound) -> None:
        self.sounds[sound.id] = sound
        self._notify()
        self._revisions[sound.id] = self._revision

    def _notify(self) -> None:
        self._revision += 1
        self._changed.set()
        self._changed = anyio.Event()


def _record(file: SavedFile) -> dict[str, Any]:
    output = file.output
    return {"name": file.name, "path": output.path, "seconds": file.duration, "kind": output.kind}


def _describe(sound: Sound) -> dict[str, Any]:
    """Return a sound as JSON for the page, without keys and signed URLs."""
    names = ("id", "kind", "fields", "title", "parent", "take", "state", "problem", "created", "started", "ended")
    files = [
        {"url": f"/audio/{file['name']}", "seconds": file["seconds"], "kind": file["kind"]} for file in sound.files
    ]
    return {**{name: getattr(sound, name) for name in names}, "files": files}


def _count(session: Session) -> dict[str, float]:
    now = session.statistics()
    return {"in_flight": now.in_flight, "requests": now.requests, "bytes": now.bytes}
