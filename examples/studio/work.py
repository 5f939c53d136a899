"""The work: each piece on its way from a wish to its files, any number at once, and across restarts."""

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
from store import OVER, Piece, Store

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
"""Seconds: for how long the service remembers a key is not known; after that a piece is not sent again unasked."""

UNCERTAIN = (
    "The studio stopped more than a day ago, while it was sending this. Whether the service made it is not known: "
    "trying again may be charged a second time."
)


class Studio:
    """All pieces, and what is under way. Whoever shows them asks ``news`` and waits for ``changed``.

    Args:
        session: the one session of this process.
        store: where the pieces are remembered.
        folder: where the audio goes.
        callback: where the service is to post its news.
        service: what the page calls the service.
    """

    def __init__(
        self, session: Session, store: Store, folder: Path, *, callback: str | None = None, service: str = ""
    ) -> None:
        self.pieces: dict[int, Piece] = {}
        self.service = service
        self.callback = callback
        self.closing = False
        self._session = session
        self._store = store
        self._folder = folder
        self._group: anyio.abc.TaskGroup | None = None
        self._revision = 0
        self._touched: dict[int, int] = {}  # piece: the revision in which it last changed
        self._bell = anyio.Event()

    async def run(self, pieces: Iterable[Piece]) -> None:
        """Take over the pieces of an earlier process, go on with those that are not over, and work until cancelled."""
        async with anyio.create_task_group() as self._group:
            for piece in pieces:
                try:
                    await self._take_over(piece)
                except (LookupError, TypeError, ValueError) as error:  # edited, or of another version
                    _logger.warning("piece %s cannot be shown: %r", piece.id, error)
            await anyio.sleep_forever()

    async def _take_over(self, piece: Piece) -> None:
        uncertain = piece.state == "sending" and time.time() - piece.created > FORGOTTEN
        json.dumps(_describe(piece), allow_nan=False)  # one that no browser reads would keep the others from all pages
        self._show(piece)
        if uncertain:
            await self._change(piece, state="failed", problem=UNCERTAIN)
        elif piece.state not in OVER:
            self._start(piece)

    def close(self) -> None:
        """Let everyone who waits for news go."""
        self.closing = True
        self._ring()

    async def begin(self, wish: Piece) -> Piece:
        """Store a new piece, then make it in the background. The same key again is the same piece."""
        piece = await self._store.add(attrs.evolve(wish, created=time.time()))
        if piece.id not in self.pieces:
            self._show(piece)
            self._start(piece)
        return piece

    async def try_again(self, number: int) -> None:
        """Go on with a failed piece where it stopped; under a new key only if the old one leads nowhere."""
        piece = self.pieces.get(number)
        if piece is None or piece.state != "failed":
            return
        piece = attrs.evolve(piece, problem="", state="sending" if piece.handle is None else "making")
        if piece.spent:
            afresh: dict[str, Any] = {"key": str(uuid4()), "source": None, "handle": None, "started": 0.0, "ended": 0.0}
            piece = attrs.evolve(piece, spent=False, state="sending", **afresh)
        self._show(piece)  # at once, so that a second click finds it no longer failed
        await self._store.save(piece)
        self._start(piece)

    async def delete(self, number: int) -> bool:
        """Forget a piece, with its audio; False: it is under way, or something is being made of it."""
        piece = self.pieces.get(number)
        if piece is None:
            return True
        if any(one.state not in OVER for one in self.pieces.values() if number in (one.id, one.parent)):
            return False
        del self.pieces[number]
        self._ring()
        await self._store.remove(piece)
        for file in piece.files:
            await anyio.Path(self._folder, file["name"]).unlink(missing_ok=True)
        return True

    async def rename(self, number: int, title: str) -> None:
        """Call a piece that is over something else; "": what it was called by itself."""
        piece = self.pieces.get(number)
        if piece is not None and piece.state in OVER:
            await self._change(piece, title=title)

    def news(self, *, since: int) -> dict[str, Any]:
        """Give what changed after a revision, as JSON for the page; 0: everything."""
        return {
            "revision": self._revision,
            "now": time.time(),
            "ids": list(self.pieces),
            "pieces": [_describe(piece) for piece in self.pieces.values() if self._touched[piece.id] > since],
            "usual": self._usual(),
            "service": self.service,
            "figures": _count(self._session) if self._busy else None,
        }

    async def changed(self, since: int) -> None:
        """Wait for something newer than a revision; while work is under way, no longer than a second."""
        with anyio.move_on_after(1 if self._busy else 15):
            if self._revision == since and not self.closing:
                await self._bell.wait()

    @property
    def _busy(self) -> bool:
        return any(piece.state not in OVER for piece in self.pieces.values())

    def _usual(self) -> dict[str, float]:
        """How long each kind has usually taken here, in seconds."""
        took = defaultdict(list)
        for piece in self.pieces.values():
            if piece.state == "ready" and piece.started:
                took[piece.kind].append(piece.ended - piece.started)
        return {kind: statistics.median(times[-20:]) for kind, times in took.items()}

    def _start(self, piece: Piece) -> None:
        if self._group is None:
            raise RuntimeError("the studio is not running")
        self._group.start_soon(self._make, piece)

    async def _make(self, piece: Piece) -> None:
        """Bring a piece as far as it gets; what happens is stored at every step, so that a kill loses nothing."""
        try:
            if piece.handle is None:
                piece = await self._send(piece)
            operation = await self._session.wait(Handle.parse(str(piece.handle)))
            ended = piece.ended or time.time()
            piece = await self._change(piece, state="fetching", ended=ended)
            files = await self._session.download(operation, self._folder)
            await self._change(piece, state="ready", files=[_record(file) for file in files])
        except (SoundpieceError, OSError) as error:
            _logger.warning("piece %d: %s", piece.id, error)
            await self._fail(self.pieces[piece.id], error)
        except Exception as fault:  # one bad piece never stops the others
            _logger.exception("piece %d: a fault of the studio", piece.id)
            await self._fail(self.pieces[piece.id], fault)

    async def _fail(self, piece: Piece, error: Exception) -> None:
        lost = (
            isinstance(error, NotFound | ValidationError) and piece.handle is not None
        )  # the service knows it no more
        spent = lost or isinstance(error, OperationFailed)
        failed = attrs.evolve(piece, state="failed", problem=explain(error), spent=spent)
        self._show(failed)
        try:
            await self._store.save(failed)
        except sqlite3.Error:  # the database cannot be written; the others go on
            _logger.exception("piece %d: its failure was not stored", piece.id)

    async def _send(self, piece: Piece) -> Piece:
        if piece.parent is not None and not piece.source:
            source = await self._find_source(piece)
            piece = await self._change(piece, source=source.url)  # before it is sent: sent again, it is the same
        try:
            operation: Operation[Any] = await self._session.submit(make_request(piece))
        except DecodeError as error:
            if error.operation is None:
                raise
            operation = error.operation  # accepted and paid for, only oddly answered
        return await self._change(piece, state="making", handle=str(operation.handle), started=time.time())

    async def _find_source(self, piece: Piece) -> Output:
        """Find the file a piece is made from, with a URL that is fresh: outputs come in no promised order."""
        parent = self.pieces[piece.parent or 0]
        operation = await self._session.refresh(Handle.parse(str(parent.handle)))
        known = parent.files[piece.take]
        same = [output for output in operation.outputs if output.path == known["path"]]
        return same[0] if same else operation.outputs[piece.take]

    async def _change(self, piece: Piece, **changes: Any) -> Piece:
        piece = attrs.evolve(piece, **changes)
        await self._store.save(piece)
        self._show(piece)
        return piece

    def _show(self, piece: Piece) -> None:
        self.pieces[piece.id] = piece
        self._ring()
        self._touched[piece.id] = self._revision

    def _ring(self) -> None:
        self._revision += 1
        self._bell.set()
        self._bell = anyio.Event()


def _record(file: SavedFile) -> dict[str, Any]:
    output = file.output
    return {"name": file.name, "path": output.path, "seconds": file.duration, "kind": output.kind}


def _describe(piece: Piece) -> dict[str, Any]:
    """Say of a piece what the page needs; keys and signed URLs stay here."""
    names = ("id", "kind", "wishes", "title", "parent", "take", "state", "problem", "created", "started", "ended")
    files = [
        {"url": f"/audio/{file['name']}", "seconds": file["seconds"], "kind": file["kind"]} for file in piece.files
    ]
    return {**{name: getattr(piece, name) for name in names}, "files": files}


def _count(session: Session) -> dict[str, float]:
    now = session.statistics()
    return {"in_flight": now.in_flight, "requests": now.requests, "bytes": now.bytes}
