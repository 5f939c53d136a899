"""Verifies files: the header, the announced properties and, on request, every frame.

A file that cannot be decoded has a *fault*, and is not saved. A difference from the announcement or the documentation
is a *warning*: the audio is usable, and was paid for.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs

from soundpiece_async._core import flac
from soundpiece_async._core.errors import SettingsError
from soundpiece_async._core.flac import FlacHeader, HeaderError
from soundpiece_async._core.requests import Output
from soundpiece_async._core.results import SavedFile
from soundpiece_async._core.settings import Settings, Verify


@attrs.frozen
class Verification:
    """Result of a check.

    Attributes:
        header: of the file, if it is valid.
        fault: why the file cannot be used, as a clause for messages, or None.
        warnings: differences from the announcement, as sentences without a full stop.
        verified: the level of checks that the file passed.
    """

    header: FlacHeader | None
    fault: str | None = None
    warnings: tuple[str, ...] = ()
    verified: Verify = "none"


Verifier = Callable[[bytes, Path, float | None], Verification]


def make_verifier(verify: Verify) -> Verifier:
    """Return the function that checks files at a level. Blocks: the decoder is a large import.

    Raises:
        SettingsError: ``verify="full"`` without the extra ``verify``.
    """
    if verify != "full":
        return partial(_verify_file, verify=verify, decode=None)
    try:
        import soundfile  # noqa: F401 - large, and its extra may be missing
    except ImportError as error:
        raise SettingsError(
            f"verify='full' decodes audio and needs {error.name}: pip install 'soundpiece-async[verify]'"
        ) from error
    from soundpiece_async._download.decode import decode_and_check  # it needs soundfile

    return partial(_verify_file, verify=verify, decode=decode_and_check)


def require_decoder(settings: Settings) -> None:
    """Check the settings of a session before any work is paid for.

    Raises:
        SettingsError: not a ``Settings``; or ``verify="full"`` without the extra ``verify``.
    """
    if not isinstance(settings, Settings):
        raise SettingsError(f"a session takes Settings, not {type(settings).__name__}: Session(Settings(api_key=...))")
    if settings.verify == "full" and importlib.util.find_spec("soundfile") is None:
        raise SettingsError("verify='full' decodes audio and needs soundfile: pip install 'soundpiece-async[verify]'")


def require_header_check(verify: Verify) -> None:
    """Refuse a full check where there is no local file, rather than skip it silently.

    Raises:
        SettingsError: ``verify="full"``.
    """
    if verify == "full":
        raise SettingsError(
            "verify='full' decodes local files, not streams or objects: use a session with verify='header', which "
            "checks size and header, or download into a folder"
        )


def check_header(head: bytes, duration: float | None, *, verify: Verify) -> Verification:
    """Check the first bytes of a file; with ``verify="none"`` any bytes pass."""
    try:
        header = flac.read_header(head)
    except HeaderError as error:
        return Verification(None, None if verify == "none" else str(error))
    if verify == "none":
        return Verification(header)
    return Verification(header, warnings=flac.find_differences(header, duration=duration), verified="header")


def make_saved_file(
    path: Path | None, *, size: int, sha256: str, found: Verification, output: Output, url: str | None = None
) -> SavedFile:
    """Build a ``SavedFile``; without a header (``verify="none"``) its duration is the announced one."""
    header = found.header
    duration = None if header is None else header.duration
    return SavedFile(
        path=path,
        bytes=size,
        sha256=sha256,
        duration=duration if duration is not None else output.duration or 0.0,
        sample_rate=0 if header is None else header.sample_rate,
        channels=0 if header is None else header.channels,
        output=output,
        warnings=found.warnings,
        verified=found.verified,
        url=url,
    )


def _verify_file(
    head: bytes,
    path: Path,
    duration: float | None,
    *,
    verify: Verify,
    decode: Callable[[Path, FlacHeader], tuple[str | None, str | None]] | None,
) -> Verification:
    """Check a header, and then the frames, if wanted. Blocks while decoding."""
    found = check_header(head, duration, verify=verify)
    if found.header is None or decode is None:
        return found
    fault, warning = decode(path, found.header)
    if warning is not None:
        return attrs.evolve(found, warnings=(*found.warnings, warning))
    return attrs.evolve(found, fault=fault, verified="header" if fault else "full")
