"""A Model Context Protocol server over stdio, with tools for songs, effects, stems and cut-downs.

    pip install soundpiece-async "mcp>=2"
    SOUNDPIECE_API_KEY=spk_... python examples/mcp_server.py out

Configure an assistant with that command line. Every tool returns links to local files and a handle, which other tools
accept. Each call that creates something costs credits. Nothing is lost when a call is cancelled or exceeds the
assistant's timeout: `fetch` returns its result by handle.
"""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeAlias

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, ResourceLink, TextContent

from soundpiece_async import (
    AutoCutDown,
    Handle,
    NewFx,
    NewSong,
    Output,
    SavedFile,
    SeparateStems,
    Session,
    SoundpieceError,
    WaitTimeout,
)
from soundpiece_async import Request as SoundRequest

Call: TypeAlias = Context[Session]
STEP = 5.0
"""Seconds between two progress reports, which reset an assistant's timeout."""


@asynccontextmanager
async def open_session(_: MCPServer[Session]) -> AsyncIterator[Session]:
    """Open one session for as long as the server runs."""
    async with Session() as session:
        yield session


server = MCPServer("soundpiece", lifespan=open_session)


@server.tool()
async def make_song(prompt: str, lyrics: str, call: Call) -> CallToolResult:
    """Make a song from a description of its style, and lyrics with lines such as [Verse] and [Chorus]."""
    return await make(NewSong(lyrics=lyrics, prompt=prompt), call)


@server.tool()
async def make_effect(prompt: str, seconds: float, call: Call) -> CallToolResult:
    """Make a sound effect from a description of it, so many seconds long."""
    return await make(NewFx(prompt, duration=seconds), call)


@server.tool()
async def separate_stems(handle: str, call: Call, output: int = 0) -> CallToolResult:
    """Separate a result into stems: vocals, drums, bass and others. `output` counts its files from 0."""
    return await make(SeparateStems(await find(handle, output, call)), call)


@server.tool()
async def cut_down(handle: str, seconds: float, call: Call, output: int = 0) -> CallToolResult:
    """Cut a result down to so many seconds. `output` counts its files from 0."""
    return await make(AutoCutDown(await find(handle, output, call), target_duration=seconds), call)


@server.tool()
async def fetch(handle: str, call: Call) -> CallToolResult:
    """Fetch the files of an earlier result by its handle, at no cost."""
    return await finish(handle, call)


async def make(request: SoundRequest, call: Call) -> CallToolResult:
    """Submit a request, and wait for its files."""
    with in_words():
        operation = await session_of(call).submit(request)
    return await finish(str(operation.handle), call)


async def finish(handle: str, call: Call) -> CallToolResult:
    """Wait for an operation, and save its files."""
    session, waited = session_of(call), 0.0
    with in_words(f" (handle: {handle})"):
        operation = None
        while operation is None:
            await call.report_progress(waited, message=f"{handle} has been running for {waited:.0f} s")
            try:
                operation = await session.wait(Handle.parse(handle), timeout=STEP)
            except WaitTimeout:
                waited += STEP
        files = await session.download(operation, folder())
    return CallToolResult(content=[TextContent(text=f"handle: {handle}"), *map(link, files)])


@contextmanager
def in_words(more: str = "") -> Iterator[None]:
    """Convert errors to text for the assistant; other exceptions are hidden from it."""
    try:
        yield
    except (SoundpieceError, ValueError) as error:
        raise ToolError(f"{error}{more}") from error


async def find(handle: str, output: int, call: Call) -> Output:
    """Return an output of an earlier result."""
    with in_words():
        operation = await session_of(call).wait(Handle.parse(handle))
        if not 0 <= output < len(operation.outputs):
            raise ValueError(f"{handle} has {len(operation.outputs)} files: output counts them from 0")
        return operation.outputs[output]


def link(file: SavedFile) -> ResourceLink:
    """Describe a file for an assistant."""
    path = (file.path or Path()).resolve()
    about = f"{file.output.kind or 'audio'}, {file.duration:.1f} s"
    return ResourceLink(name=path.name, uri=path.as_uri(), mime_type="audio/flac", size=file.bytes, description=about)


def session_of(call: Call) -> Session:
    """Return the session of the server."""
    return call.request_context.lifespan_context


def folder() -> Path:
    """Return the folder for the files, from the command line."""
    return Path(sys.argv[1] if len(sys.argv) > 1 else "out")


if __name__ == "__main__":
    server.run("stdio")
