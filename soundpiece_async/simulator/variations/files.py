"""Variations of the output host: the audio in its files, and how they are sent."""

import gzip
import io
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import soundfile

from soundpiece_async.simulator.operations import ServerOperation
from soundpiece_async.simulator.request_log import ReceivedRequest
from soundpiece_async.simulator.responses import Response, xml_response
from soundpiece_async.simulator.variations.variation import Table, Variation

Samples = npt.NDArray[np.float64]
_OTHER_RATE = 48_000
_EXCESS = 0.6
"""Seconds by which a file may be longer than its operation says."""
_FILE = (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT)


def _audio(
    change: Callable[[Samples, int], tuple[Samples, int]], *, subtype: str | None = None
) -> Callable[[bytes], bytes]:
    """Decode, change the samples or their rate, and encode as before."""

    def apply(audio: bytes) -> bytes:
        with soundfile.SoundFile(io.BytesIO(audio)) as file:
            read: Samples = np.asarray(file.read(always_2d=True), dtype=np.float64)
            samples, rate = change(read, file.samplerate)
            kept = file.subtype
        written = io.BytesIO()
        soundfile.write(written, samples, rate, format="FLAC", subtype=subtype or kept)
        return written.getvalue()

    return apply


def _resample(samples: Samples, rate: int) -> tuple[Samples, int]:
    times = np.arange(round(len(samples) * _OTHER_RATE / rate)) / _OTHER_RATE
    known = np.arange(len(samples)) / rate
    return np.stack([np.interp(times, known, channel) for channel in samples.T], axis=1), _OTHER_RATE


def _lengthen(samples: Samples, rate: int) -> tuple[Samples, int]:
    silence = np.zeros((round(_EXCESS * rate), samples.shape[1]))
    return np.concatenate([samples, silence]), rate


def _mix(samples: Samples, rate: int) -> tuple[Samples, int]:
    return samples.mean(axis=1, keepdims=True), rate


def _keep(samples: Samples, rate: int) -> tuple[Samples, int]:
    return samples, rate


def _tag(audio: bytes) -> bytes:
    """Put an empty ID3v2.4 tag of 256 bytes in front, as some taggers do."""
    return b"ID3\x04\x00\x00" + bytes((0, 0, 2, 0)) + bytes(256) + audio


def _send(**changes: Any) -> Callable[[Response, ReceivedRequest], Response]:
    """Change how a file, or a part of one, is sent."""

    def change(response: Response, request: ReceivedRequest) -> Response:
        return attrs.evolve(response, **changes) if _is_file(response, request) else response

    return change


def _encode(name: str) -> Callable[[Response, ReceivedRequest], Response]:
    """Announce a Content-Encoding."""

    def change(response: Response, request: ReceivedRequest) -> Response:
        headers = {**response.headers, "Content-Encoding": name}
        return attrs.evolve(response, headers=headers) if _is_file(response, request) else response

    return change


def _is_file(response: Response, request: ReceivedRequest) -> bool:
    return request.host == "output" and response.status in _FILE


def _transform(response: Response, request: ReceivedRequest) -> Response:
    """Answer as a proxy that changed the body does: 203."""
    whole = request.host == "output" and response.status == HTTPStatus.OK
    return attrs.evolve(response, status=HTTPStatus.NON_AUTHORITATIVE_INFORMATION) if whole else response


def _reject_first(status: int) -> Callable[[ReceivedRequest, ServerOperation | None], Response | None]:
    def reject(request: ReceivedRequest, _: ServerOperation | None) -> Response | None:
        if request.host != "output" or request.earlier > 0:
            return None
        return xml_response(status, "SlowDown", "Please reduce your request rate.", headers={"Retry-After": "1"})

    return reject


_NAMES = {
    "empty": "",
    "aws-chunked": "aws-chunked",
    "utf-8": "UTF-8",
    "binary": "binary",
    "none": "none",
    "identity": "identity, identity",
}

FILES: Table = {
    "audio": {
        "48khz": Variation(part="audio.rate", meaning="48 kHz instead of 44.1", audio=_audio(_resample)),
        "longer": Variation(part="audio.length", meaning="0.6 s longer than announced", audio=_audio(_lengthen)),
        "mono": Variation(part="audio.channels", meaning="one channel", audio=_audio(_mix)),
        "24bit": Variation(part="audio.depth", meaning="24 bits a sample", audio=_audio(_keep, subtype="PCM_24")),
        "id3": Variation(part="audio.tag", meaning="an ID3 tag before the FLAC", audio=_tag),
    },
    "encoding": {
        **{
            value: Variation(
                part="encoding",
                meaning=f"`Content-Encoding: {name}`".replace(": `", ":`, empty"),
                response=_encode(name),
            )
            for value, name in _NAMES.items()
        },
        "gzip": Variation(
            part="encoding",
            meaning="really compressed",
            audio=lambda audio: gzip.compress(audio, compresslevel=1, mtime=0),
            response=_encode("gzip"),
        ),
    },
    "length": {
        "chunked": Variation(part="length", meaning="no Content-Length", response=_send(framing="chunked")),
        "closed": Variation(
            part="length",
            meaning="no Content-Length, no ranges: the connection closes at the end",
            response=_send(framing="closed"),
        ),
    },
    "download": {
        "203": Variation(part="download.status", meaning="203 instead of 200", response=_transform),
        **{
            str(status): Variation(
                part="download.first",
                meaning="the first GET of a file is rejected, with `Retry-After: 1`",
                instead=_reject_first(status),
            )
            for status in (429, 503)
        },
    },
}
"""A file that is compressed is tagged before: the order is that of the work."""
