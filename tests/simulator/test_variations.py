"""The simulator as another service: each variation, seen by a caller who has nothing to do with the client."""

import base64
import gzip
import hashlib
import hmac
import io
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.lowlevel
import pytest
import soundfile
from helpers.simulator_client import SAMPLE, Answer, Caller, opened
from helpers.webhook_receiver import listening, submit
from standardwebhooks import Webhook

from soundpiece_async.cli.simulate import VARIATIONS_HELP
from soundpiece_async.simulator import Fault, Simulator
from soundpiece_async.simulator.variations import TABLE, Variations, read_variations
from soundpiece_async.simulator.variations.documents import normalise_url

pytestmark = pytest.mark.anyio

SOURCE = {"url": "https://Media.example.com:443/a/../mix.wav"}
STEMS = {"source": SOURCE}
SONG = {"lyrics": "la", "prompt": "folk"}
never_finishes = {"durations": lambda _: float("inf")}


def find(answer: Answer) -> Any:
    """Find the operation object, wherever it is."""

    def search(value: Any) -> Any:
        if not isinstance(value, dict):
            return None
        if "created_at" in value or "status" in value:
            return value
        return next((found for inner in value.values() if (found := search(inner))), None)

    return search(answer.json)


async def finish(variations: Any, route: str = "create.new_fx", *, fail: bool = False, **members: Any) -> Any:
    """Submit to a service with these variations and give the operation object at its end."""
    async with opened(variations=variations, **never_finishes) as caller:
        identity = find(await caller.put(route, **members))["id"]
        caller.sim.finish(identity, failure="sad" if fail else None)
        return find(await caller.get(identity, route))


ECHOES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("strip", "create.new_fx", {"prompt": " door\n", "duration": 1}, {"prompt": "door"}),
    ("nfc", "create.new_fx", {"prompt": "Tu\u0308r", "duration": 1}, {"prompt": "T\u00fcr"}),
    ("crlf", "create.new_song", {"lyrics": "a\r\nb\rc", "prompt": "x"}, {"lyrics": "a\nb\nc"}),
    ("html", "create.new_fx", {"prompt": "<b> & 'c'", "duration": 1}, {"prompt": "&lt;b&gt; &amp; &#x27;c&#x27;"}),
    ("float32", "create.new_fx", {"prompt": "x", "duration": 1.1}, {"duration": 1.100000023841858}),
    ("round", "create.new_fx", {"prompt": "x", "duration": 1.26}, {"duration": 1.3}),
    ("clamp", "create.new_fx", {"prompt": "x", "duration": 0.5}, {"duration": 1}),
    ("numbers-as-text", "create.new_fx", {"prompt": "x", "duration": 1.5}, {"duration": "1.5"}),
    (
        "numbers-as-text",
        "create.new_sample",
        {"prompt": "x", "duration": 1, "loopable": True},
        {"duration": "1", "loopable": True},
    ),
    ("url-normalised", "adapt.separate_stems", STEMS, {"source": {"url": "https://media.example.com/mix.wav"}}),
    ("objects-as-strings", "adapt.separate_stems", STEMS, {"source": SOURCE["url"]}),
    ("defaults-filled", "create.new_fx", SAMPLE, {"loopable": False, "n_variations": 1, "callback_url": None}),
    ("defaults-filled", "create.new_song", {"lyrics": "la", "reference": SOURCE}, {"prompt": "", "lyrics": "la"}),
]


@pytest.mark.parametrize(("value", "route", "members", "echo"), ECHOES)
async def test_echoes(value: str, route: str, members: dict[str, Any], echo: dict[str, Any]) -> None:
    """What was sent comes back otherwise, and the work is that of what was sent."""
    document = await finish([f"echo={value}"], route, **members)
    plain = await finish([], route, **members)
    assert {name: document[name] for name in echo} == echo
    untouched = plain.keys() - echo.keys() - {"id", "idempotency_key", "created_at", "output", "outputs"}
    assert {name: document[name] for name in untouched} == {name: plain[name] for name in untouched}
    durations = [[o["duration"] for o in d.get("outputs") or [d.get("output")]] for d in (document, plain)]
    assert durations[0] == durations[1]


async def test_echoes_a_copy() -> None:
    """A source that the service has copied is on another host; the same again is the same copy."""
    urls = [(await finish(["echo=url-copied"], "adapt.separate_stems", **STEMS))["source"]["url"] for _ in range(2)]
    assert urls[0] == urls[1]
    assert urls[0].startswith("https://ingest.example.com/")


async def test_echoes_less() -> None:
    """Members may be missing: those with a default, those that were not sent, or all but the key."""
    dropped = await finish(["echo=defaults-dropped"], "create.new_sample", loopable=False, **SAMPLE)
    assert "loopable" not in dropped
    assert dropped["prompt"] == SAMPLE["prompt"]
    assert "reference" not in await finish(["echo=defaults-dropped"], "create.new_song", **SONG)
    nothing = await finish(["echo=drop"], "create.new_song", **SONG)
    assert set(nothing) == {"id", "status", "created_at", "idempotency_key", "outputs", "error"}


async def test_echoes_the_key() -> None:
    """It is the same UUID, written otherwise."""
    key = "6f0f3d5e-aaaa-4bbb-8ccc-0123456789ab"
    for value, shown in {"key-upper": key.upper(), "key-hex": key.replace("-", "")}.items():
        document = await finish([f"echo={value}"], idempotency_key=key, **SAMPLE)
        assert document["idempotency_key"] == shown


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTPS://B\u00fccher.example", "https://xn--bcher-kva.example/"),
        ("http://[0:0::1]:80/x/./y/", "http://[::1]/x/y/"),
        ("https://u@h.example:8443/a?b=../c#d", "https://u@h.example:8443/a?b=../c#d"),
    ],
)
def test_normalises(url: str, normal: str) -> None:
    """Names, addresses, ports and paths, but not the query."""
    assert normalise_url(url) == normal


TIMES = {
    "epoch": lambda value: value,
    "epoch-ms": lambda value: value / 1000,
    "epoch-text": int,
    "rfc1123": lambda value: parsedate_to_datetime(value).timestamp(),
    "naive": lambda value: datetime.fromisoformat(value).replace(tzinfo=UTC).timestamp(),
    "leap": lambda value: datetime.fromisoformat(re.sub(":60Z$", ":59Z", value)).timestamp() + 1,
    "midnight": lambda value: datetime.fromisoformat(value.replace("T24:", "T23:")).timestamp() + 3600,
}


@pytest.mark.parametrize("value", TIMES)
async def test_writes_times(value: str) -> None:
    """Each form is that of the instant itself, or of the next minute or midnight."""
    document = await finish({"created": value, "expires": value})
    slack = {"leap": 60, "midnight": 86400}.get(value, 1)
    created, expires = (TIMES[value](time) for time in (document["created_at"], document["output"]["expires_at"]))
    assert -2 <= created - time.time() <= slack
    assert -2 <= expires - (time.time() + 900) <= slack
    if value == "naive":
        assert datetime.fromisoformat(document["created_at"]).tzinfo is None


@pytest.mark.parametrize(("value", "shown"), [("empty", ""), ("null", None), ("missing", "not there")])
async def test_writes_no_times(value: str, shown: Any) -> None:
    """Neither when it was made nor when its URL ends."""
    document = await finish([f"created={value}", f"expires={value}"])
    assert document.get("created_at", "not there") == shown
    assert document["output"].get("expires_at", "not there") == shown


@pytest.mark.parametrize(
    ("value", "shown"), [("text", "0.5"), ("iso8601", "PT0.5S"), ("null", None), ("missing", "not there")]
)
async def test_writes_durations(value: str, shown: Any) -> None:
    """The length of an output, while that of the request is echoed as ever."""
    document = await finish([f"duration={value}"], **SAMPLE)
    assert document["output"].get("duration", "not there") == shown
    assert document["duration"] == 0.5


@pytest.mark.parametrize(
    ("value", "shown"), [("object", {"name": "vocals"}), ("upper", "VOCALS"), ("missing", "not there")]
)
async def test_writes_kinds(value: str, shown: Any) -> None:
    """The kind of a stem; other outputs have none."""
    assert "kind" not in (await finish([f"kind={value}"], "create.new_song", **SONG))["outputs"][0]
    document = await finish([f"kind={value}"], "adapt.separate_stems", **STEMS)
    assert shown in [output.get("kind", "not there") for output in document["outputs"]]


async def test_writes_outputs() -> None:
    """Lists and objects of several shapes, or under another name."""
    stems = "adapt.separate_stems"
    assert (await finish(["outputs=nulls"], "create.new_song", **SONG))["outputs"][2:] == [None]
    by_kind = (await finish(["outputs=by-kind"], stems, **STEMS))["outputs"]
    assert all(output["kind"] == kind for kind, output in by_kind.items())
    assert set((await finish(["outputs=by-kind"], "create.new_song", **SONG))["outputs"]) == {"output_1", "output_2"}
    remix = {"source": SOURCE, "n_variations": 1}
    assert "url" in (await finish(["outputs=object"], "create.remix_instrumental", **remix))["outputs"]
    assert len((await finish(["outputs=object"], "create.new_song", **SONG))["outputs"]) == 2
    assert len((await finish(["outputs=list"]))["output"]) == 1
    assert (await finish(["outputs=list"], fail=True))["output"] is None
    assert "url" in (await finish(["outputs=renamed"]))["result"]
    assert len((await finish(["outputs=renamed"], "create.new_song", **SONG))["results"]) == 2


@pytest.mark.parametrize(
    ("value", "one", "several"),
    [("null", None, None), ("empty", {}, []), ("missing", "not there", "not there")],
)
async def test_writes_no_outputs(value: str, one: Any, several: Any) -> None:
    """A ready operation may have none, for ever."""
    document = await finish([f"outputs={value}"])
    assert (document["status"], document.get("output", "not there")) == ("ready", one)
    assert (await finish([f"outputs={value}"], "create.new_song", **SONG)).get("outputs", "not there") == several


async def test_outputs_come_late_or_early() -> None:
    """After the status, or before it; what came early is what is there at the end."""
    async with opened(variations=["outputs=late"]) as caller:
        ready = await caller.run()
        assert (ready["status"], ready["output"]) == ("ready", None)
        assert "url" in (await caller.get(ready["id"])).operation["output"]
    async with opened(variations=["outputs=early"], **never_finishes) as caller:
        identity = (await caller.put("create.new_song", **SONG)).operation["id"]
        early = (await caller.get(identity, "create.new_song")).operation
        assert (early["status"], len(early["outputs"])) == ("processing", 1)
        assert (await caller.fetch(early["outputs"][0]["url"])).status == 200
        caller.sim.finish(identity)
        ready = (await caller.get(identity, "create.new_song")).operation
        assert ready["outputs"][0]["duration"] == early["outputs"][0]["duration"]
        assert len(ready["outputs"]) == 2


def words() -> list[tuple[str, str]]:
    """Return every status word but the cases."""
    return [
        (value, variation.part.removeprefix("status."))
        for value, variation in TABLE["status"].items()
        if variation.part not in ("status", "status.case")
    ]


@pytest.mark.parametrize(("word", "status"), words())
async def test_has_other_words(word: str, status: str) -> None:
    """One status has another word, the rest is as documented; a case is that of any word."""
    async with opened(variations=[f"status={word}", "status=upper"], **never_finishes) as caller:
        for end, failure in {"ready": None, "failed": "sad"}.items():
            begun = (await caller.put()).operation
            caller.sim.finish(begun["id"], failure=failure)
            ended = (await caller.get(begun["id"])).operation
            expected = [word.upper() if known == status else known.upper() for known in ("processing", end)]
            assert [begun["status"], ended["status"]] == expected
    assert (await finish(["status=title"]))["status"] == "Ready"


async def test_has_no_word() -> None:
    """The outputs tell the end; a webhook's type does so as ever."""
    for fail in (False, True):
        document = await finish(["status=missing"], fail=fail)
        assert "status" not in document
        assert [document[name] is None for name in ("output", "error")] == [fail, not fail]
    async with (
        listening() as receiver,
        opened(variations=["status=missing"], allow_private_callbacks=True, **never_finishes) as caller,
    ):
        begun = find(await caller.put(callback_url=receiver.url, **SAMPLE))
        caller.sim.finish(begun["id"])
        await receiver.expect(1)
    assert json.loads(receiver.got[0][1])["type"] == "create.new_fx.ready"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("text", "The operation could not be completed."),
        ("list", [{"code": "sad", "message": "The operation could not be completed."}]),
        ("number-code", {"code": 5001, "message": "The operation could not be completed."}),
        ("detail", {"detail": "The operation could not be completed."}),
    ],
)
async def test_fails_in_other_words(value: str, shown: Any) -> None:
    """The error of an operation has another form; without one it is null."""
    assert (await finish([f"error={value}"], fail=True))["error"] == shown
    assert (await finish([f"error={value}"]))["error"] is None


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("renamed", ["operation"]),
        ("beside", ["operation"]),
        ("nested", ["data", "fx"]),
        ("deep", ["response", "data", "operation"]),
        ("bare", []),
    ],
)
async def test_has_other_envelopes(value: str, path: list[str]) -> None:
    """The operation is elsewhere in the answers to PUT and GET."""
    async with opened(variations={"envelope": value}) as caller:
        answer = await caller.put()
        body = answer.json
        for name in path:
            body = body[name]
        assert body["id"] in caller.sim.operations
        assert find(await caller.get(body["id"]))["id"] == body["id"]
        assert ("request" in answer.json) == (value == "beside")


@pytest.mark.parametrize(("value", "form"), [("uuid", r"[0-9a-f-]{36}"), ("base64", r"[+]/[\w+/]{24}==")])
async def test_has_other_ids(value: str, form: str) -> None:
    """An id of another form is as good in every question."""
    async with opened(variations={"id": value}) as caller:
        operation = await caller.run()
        assert re.fullmatch(form, operation["id"])
        assert (await caller.fetch(operation["output"]["url"])).status == 200
        assert (await caller.get("unheard of")).status == 422


@pytest.mark.parametrize(
    ("value", "member", "prefix"),
    [
        *((name, name, "") for name in ("_id", "operation_id", "request_id", "uuid")),
        ("name", "name", "operations/"),
    ],
)
async def test_has_ids_in_other_members(value: str, member: str, prefix: str) -> None:
    """Instead of `id`, in every answer."""
    async with opened(variations={"id-in": value}) as caller:
        operation = (await caller.put()).json["fx"]
        assert "id" not in operation
        assert (await caller.get(operation[member].removeprefix(prefix))).json["fx"][member] == operation[member]


@pytest.mark.parametrize(("value", "change"), [("upper", str.upper), ("urn", "urn:op:{}".format)])
async def test_writes_ids_otherwise(value: str, change: Callable[[str], str]) -> None:
    """In the response to a GET alone."""
    async with opened(variations={"read-id": value}) as caller:
        identity = (await caller.put()).operation["id"]
        assert identity in caller.sim.operations
        assert (await caller.get(identity)).operation["id"] == change(identity)
        assert (await caller.get("unheard of")).status == 422


@pytest.mark.parametrize(
    ("value", "status", "name"),
    [("location", 202, "Location"), ("204", 204, "Content-Location"), ("303", 303, "Location")],
)
async def test_accepts_in_a_header(value: str, status: int, name: str) -> None:
    """An accepted PUT has the path of its GET in a header, and no body."""
    async with opened(variations={"submit": value, "envelope": "beside"}) as caller:
        answer = await caller.put()
        assert (answer.status, answer.body) == (status, b"")
        path, _, identity = answer.headers[name].partition("?id=")
        assert path == "/v1/create.new_fx"
        assert identity in caller.sim.operations
        assert (await caller.get(identity)).status == 200


async def test_names_the_operation_in_a_conflict() -> None:
    """A repeat is refused, and its body is that of the first answer."""
    async with opened(variations={"repeat": "named"}) as caller:
        key = str(uuid.uuid4())
        first, *repeats = [await caller.put(idempotency_key=key, **SAMPLE) for _ in range(3)]
        assert (first.status, first.operation["id"]) == (200, repeats[1].operation["id"])
        assert [repeat.status for repeat in repeats] == [409, 409]


@pytest.mark.parametrize(
    ("value", "start", "end"),
    [
        ("guarded", b")]}',\n{", b"}"),
        ("padded", b"\xef\xbb\xbf{", b"}\0\0"),
        ("lines", b"{", b"}\n"),
        ("function", b'{"statusCode": 200, "body": "{', b'}"}'),
    ],
)
async def test_writes_bodies(value: str, start: bytes, end: bytes) -> None:
    """There is something around the JSON of what is no refusal."""
    async with opened(variations={"body": value}) as caller:
        body = (await caller.put()).body
        assert (body[: len(start)], body[-len(end) :]) == (start, end)
        assert (await caller.get("unheard of")).json["detail"]


@pytest.mark.parametrize("name", ["download_url", "audio_url", "uri", "link", "href", "file", "url"])
async def test_writes_links(name: str) -> None:
    """The link of an output is elsewhere, or begins with the host."""
    output = (await finish([f"link={name if name != 'url' else 'schemeless'}"]))["output"]
    link = output[name]["url"] if name == "file" else output[name]
    assert link.startswith("//" if name == "url" else "http://")
    assert ("thumbnail_url" in output) == (name == "href")


async def test_writes_links_alone() -> None:
    """Outputs are texts, in a list or by kind."""
    links = (await finish(["outputs=texts"], "create.new_song", **SONG))["outputs"]
    assert all(link.startswith("http://") for link in links)
    by_kind = (await finish(["outputs=texts-by-kind"], "adapt.separate_stems", **STEMS))["outputs"]
    assert by_kind["vocals"].startswith("http://")


@pytest.mark.parametrize("value", ["201", "202"])
async def test_accepts_with_another_status(value: str) -> None:
    """Only PUTs, and only what is accepted."""
    async with opened(variations={"submit": value}) as caller:
        answer = await caller.put()
        assert answer.status == int(value)
        assert (await caller.get(answer.operation["id"])).status == 200
        assert (await caller.put(prompt="")).status == 422


@pytest.mark.parametrize(("value", "made"), [("502", 1), ("503", 0)])
async def test_spoils_the_first_submit(value: str, made: int) -> None:
    """The first PUT of each key, after or before it took effect."""
    async with opened(variations={"submit": value}) as caller:
        for number in (1, 2):
            body = {"idempotency_key": str(uuid.uuid4()), **SAMPLE}
            first = await caller.put(**body)
            assert (first.status, len(caller.sim.operations)) == (int(value), number - 1 + made)
            assert first.headers.get("Retry-After") == ("1" if value == "503" else None)
            assert (await caller.put(**body)).status == 200
            assert len(caller.sim.operations) == number


@pytest.mark.parametrize("value", ["408", "409", "422", "423", "425", "499"])
async def test_refuses_repeats(value: str) -> None:
    """While the operation is in progress; then a repeat gets its state."""
    async with opened(variations={"repeat": value}, **never_finishes) as caller:
        body = {"idempotency_key": str(uuid.uuid4()), **SAMPLE}
        identity = (await caller.put(**body)).operation["id"]
        assert [(await caller.put(**body)).status for _ in range(2)] == [int(value)] * 2
        assert (await caller.put()).status == 200
        caller.sim.finish(identity)
        assert (await caller.put(**body)).operation["status"] == "ready"


async def test_refuses_repeats_for_ever() -> None:
    """A key that was used is used up."""
    async with opened(variations={"repeat": "used"}) as caller:
        key = str(uuid.uuid4())
        await caller.run(idempotency_key=key, **SAMPLE)
        assert (await caller.put(idempotency_key=key, **SAMPLE)).status == 422


@pytest.mark.parametrize(
    "value", ["302", "400", "404", "405", "408", "409", "421", "422", "423", "425", "499", "500", "503"]
)
async def test_refuses_reads_at_first(value: str) -> None:
    """Twice for each operation; an id that nobody has is refused as ever."""
    async with opened(variations={"read": value}) as caller:
        for _ in range(2):
            identity = (await caller.put()).operation["id"]
            answers = [await caller.get(identity) for _ in range(3)]
            assert [answer.status for answer in answers] == [int(value)] * 2 + [200]
            assert answers[0].headers.get("Retry-After") == ("1" if value == "503" else None)
        assert (await caller.get("op_" + "0" * 26)).status == 422


async def test_refuses_reads_for_ever() -> None:
    """The operation is lost to the caller, its audio too."""
    async with opened(variations={"read": "gone"}) as caller:
        identity = (await caller.put()).operation["id"]
        assert {(await caller.get(identity, wait=True)).status for _ in range(5)} == {404}


async def test_holds_less() -> None:
    """Not at all, or until a proxy has had enough; what ends in time is answered in time."""
    async with opened(variations={"hold": "none"}, **never_finishes) as caller:
        identity = (await caller.put()).operation["id"]
        assert (await caller.get(identity, wait=True)).operation["status"] == "processing"
        assert caller.sim.log[-1].held < 5
    for status in ("408", "504"):
        async with opened(variations={"hold": status}, speed=100, **never_finishes) as caller:
            identity = (await caller.put()).operation["id"]
            assert (await caller.get(identity, wait=True)).status == int(status)
            assert (await caller.get(identity)).status == 200
            caller.sim.finish(identity)
            assert (await caller.get(identity, wait=True)).status == 200
    for status in ("400", "405"):
        async with opened(variations={"hold": status}) as caller:
            identity = (await caller.put()).operation["id"]
            answers = [(await caller.get(identity, wait=wait)).status for wait in (True, False, True)]
            assert answers == [int(status), 200, int(status)]


async def test_has_a_firewall() -> None:
    """It dislikes one word, and answers for itself."""
    async with opened(variations={"firewall": "html"}) as caller:
        blocked = await caller.put(prompt="a <script> on paper", duration=1)
        assert (blocked.status, blocked.headers["Content-Type"]) == (403, "text/html")
        assert (await caller.put()).status == 200
        assert len(caller.sim.operations) == 1


async def download(variations: list[str], **headers: str) -> tuple[Answer, Any]:
    """Download the file of one effect; return it and its operation."""
    async with opened(variations=variations) as caller:
        output = (await caller.run())["output"]
        return await caller.fetch(output["url"], **headers), output


@pytest.mark.parametrize(
    ("value", "rate", "channels", "frames", "subtype"),
    [
        ("48khz", 48000, 2, 24000, "PCM_16"),
        ("longer", 44100, 2, 48510, "PCM_16"),
        ("mono", 44100, 1, 22050, "PCM_16"),
        ("24bit", 44100, 2, 22050, "PCM_24"),
    ],
)
async def test_makes_other_audio(value: str, rate: int, channels: int, frames: int, subtype: str) -> None:
    """Whole and sound, and not as announced."""
    answer, output = await download([f"audio={value}"])
    file = soundfile.SoundFile(io.BytesIO(answer.body))
    assert (file.samplerate, file.channels, file.frames, file.subtype) == (rate, channels, frames, subtype)
    assert output["duration"] == 0.5
    assert abs(file.read()).max() > 0.1


async def test_tags_audio() -> None:
    """An ID3 tag of the size it says comes before the FLAC; ranges count from the tag on."""
    answer, _ = await download(["audio=id3", "audio=mono"])
    size = int.from_bytes(answer.body[8:10]) // 2 + 10  # a synchsafe number below 2 ** 14
    assert (answer.body[:3], answer.body[size : size + 4]) == (b"ID3", b"fLaC")
    assert soundfile.SoundFile(io.BytesIO(answer.body[size:])).channels == 1
    part, _ = await download(["audio=id3", "audio=mono"], Range="bytes=0-2")
    assert (part.status, part.body) == (206, b"ID3")


@pytest.mark.parametrize(
    ("value", "announced"),
    [
        ("empty", ""),
        ("aws-chunked", "aws-chunked"),
        ("utf-8", "UTF-8"),
        ("binary", "binary"),
        ("none", "none"),
        ("identity", "identity, identity"),
        ("gzip", "gzip"),
    ],
)
async def test_announces_encodings(value: str, announced: str) -> None:
    """Files only, whole or in parts; the bytes are plain, but for the one real encoding."""
    async with opened(variations={"encoding": value}) as caller:
        raw = aiohttp.ClientSession(auto_decompress=False)
        async with raw:
            output = (await caller.run())["output"]
            answer = await Caller(caller.sim, raw).fetch(output["url"])
            part = await Caller(caller.sim, raw).fetch(output["url"], Range="bytes=0-3")
        assert answer.headers["Content-Encoding"] == part.headers["Content-Encoding"] == announced
        assert int(answer.headers["Content-Length"]) == len(answer.body)
        audio = gzip.decompress(answer.body) if value == "gzip" else answer.body
        assert soundfile.SoundFile(io.BytesIO(audio)).frames == 22050
        assert part.body == answer.body[:4]
        assert "Content-Encoding" not in (await caller.fetch(caller.sim.output_url + "/audio/none.flac")).headers


async def test_tells_no_length() -> None:
    """The body ends with its last chunk, or with its connection; then there are no ranges either."""
    whole, _ = await download([])
    chunked, _ = await download(["length=chunked"])
    assert chunked.headers["Transfer-Encoding"] == "chunked"
    closed, _ = await download(["length=closed"], Range="bytes=0-3")
    assert closed.headers["Accept-Ranges"] == "none"
    assert "Transfer-Encoding" not in closed.headers
    for answer in (chunked, closed):
        assert (answer.status, answer.body) == (200, whole.body)
        assert "Content-Length" not in answer.headers
    assert (await download(["length=chunked"], Range="bytes=0-3"))[0].body == whole.body[:4]


async def test_downloads_with_another_status() -> None:
    """Whole files are 203; the first GET of each may be refused for a second."""
    assert (await download(["download=203"]))[0].status == 203
    assert (await download(["download=203"], Range="bytes=0-3"))[0].status == 206
    for value in ("429", "503"):
        async with opened(variations={"download": value}) as caller:
            for output in (await caller.run("create.new_song", **SONG))["outputs"]:
                answers = [await caller.fetch(output["url"]) for _ in range(2)]
                assert [answer.status for answer in answers] == [int(value), 200]
                assert answers[0].headers["Retry-After"] == "1"


SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


async def receive(variations: list[str]) -> tuple[dict[str, str], Any]:
    """Return the headers (lower case, documented names) and the body of one webhook; check its signature."""
    async with (
        listening() as receiver,
        opened(variations=variations, webhook_secret=SECRET, allow_private_callbacks=True) as caller,
    ):
        await submit(caller, receiver.url)
        await receiver.expect(1)
    headers, body = receiver.got[0]
    named = {name.lower().replace("svix-", "webhook-"): value for name, value in headers.items()}
    assert ("svix-id" in {name.lower() for name in headers}) == ("webhook=svix" in variations)
    key = SECRET.encode() if "webhook=raw-secret" in variations else SECRET
    verifier = Webhook(key)
    signed = f"{named['webhook-id']}.{named['webhook-timestamp']}.{body.decode()}"
    assert named["webhook-signature"] == sign(verifier, signed)
    return named, json.loads(body)


def sign(verifier: Webhook, signed: str) -> str:
    """Sign with the key that the standard's own library has read."""
    return "v1," + base64.b64encode(hmac.new(verifier._whsecret, signed.encode(), hashlib.sha256).digest()).decode()


async def test_sends_other_webhooks() -> None:
    """An envelope, other units, other names, another key; and all of it at once."""
    plain, body = await receive([])
    assert body["data"]["status"] == "ready"
    _, body = await receive(["webhook=enveloped"])
    assert body["type"] == "create.new_fx.ready"
    assert body["data"]["fx"]["status"] == "ready"
    _, body = await receive(["webhook=flat", "webhook=capitals", "webhook=event"])
    assert (body["event"], body["status"], "data" in body) == ("CREATE:NEW_FX:READY", "ready", False)
    milliseconds, _ = await receive(["webhook=ms"])
    assert int(milliseconds["webhook-timestamp"]) // 1000 - int(plain["webhook-timestamp"]) in range(10)
    fraction, _ = await receive(["webhook=fraction", "webhook=svix"])
    assert re.fullmatch(r"\d+\.\d{3}", fraction["webhook-timestamp"])
    _, body = await receive(["webhook=raw-secret", "webhook=enveloped", "echo=drop"])
    assert "prompt" not in body["data"]["fx"]


async def test_combines() -> None:
    """Variations with one another, and with a fault: what is shown of the work is changed, the work is not."""
    variations = ["outputs=by-kind", "expires=epoch", "kind=upper", "envelope=bare", "status=done", "echo=drop"]
    async with opened(variations=variations) as caller:
        caller.sim.inject(Fault.CUT, host="output", at=9)
        caller.sim.inject(Fault.RESET_AFTER, method="PUT")
        body = {"idempotency_key": str(uuid.uuid4()), "source": SOURCE}
        with pytest.raises(aiohttp.ClientConnectionError):
            await caller.put("adapt.separate_stems", **body)
        identity = (await caller.put("adapt.separate_stems", **body)).json["id"]
        while (document := (await caller.get(identity, "adapt.separate_stems", wait=True)).json)["status"] != "done":
            await anyio.lowlevel.checkpoint()
        assert set(document["outputs"]) == {"VOCALS", "DRUMS", "BASS", "OTHER"}
        assert all(isinstance(output["expires_at"], int) for output in document["outputs"].values())
        assert len(caller.sim.operations) == 1
        with pytest.raises(aiohttp.ClientPayloadError):
            await caller.fetch(document["outputs"]["BASS"]["url"])
        assert (await caller.fetch(document["outputs"]["BASS"]["url"])).status == 200


@pytest.mark.parametrize("written", [f"{name}={value}" for name, values in TABLE.items() for value in values])
async def test_each_alone_makes_one_operation(written: str) -> None:
    """With any of them the service still works: a PUT is accepted at last, and its operation comes to its end."""
    async with opened(variations=[written], **never_finishes) as caller:
        body = {"idempotency_key": str(uuid.uuid4()), **SAMPLE}
        while (await caller.put(**body)).status >= 500:
            pass
        (identity,) = caller.sim.operations
        caller.sim.finish(identity)
        assert [operation.status for operation in caller.sim.operations.values()] == ["ready"]


class TestReading:
    """What a caller writes."""

    @pytest.mark.parametrize(
        "given",
        [
            {"echo": ["nfc", "strip"], "status": "done"},
            ["status=done", "echo=nfc", "echo=strip", "echo=strip"],
            ("echo=strip", "echo=nfc", "status=done"),
            iter(["echo=strip", "echo=nfc", "status=done"]),
            read_variations(["echo=strip", "echo=nfc", "status=done"]),
        ],
    )
    def test_reads_every_form(self, given: Any) -> None:
        """In the order of the tables, each once."""
        assert repr(Simulator(variations=given).variations) == "<Variations echo=strip echo=nfc status=done>"
        assert repr(Variations()) == "<Variations none>"

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            (["ehco=strip"], "no variation 'ehco' (did you mean 'echo'?); there are audio, "),
            (["echo=stripp"], "'echo' has no value 'stripp' (did you mean 'strip'?); there are clamp, "),
            ({"zzz": "x"}, "no variation 'zzz'; there are audio"),
            (["echo"], "NAME=VALUE, such as echo=strip: 'echo'"),
            (["expires=epoch", "expires=empty"], "expires=epoch and expires=empty contradict"),
            ({"outputs": ["null", "by-kind"]}, "outputs=null and outputs=by-kind contradict"),
            ({"echo": ["drop", "strip"]}, "echo=strip and echo=drop contradict"),
            (["status=done", "status=ready"], "'ready'"),
            (["status=done", "status=finished"], "contradict"),
            (["audio=48khz", "repeat=used", "repeat=409"], "repeat=409 and repeat=used contradict"),
        ],
    )
    def test_refuses(self, given: Any, told: str) -> None:
        """By name, with a guess at what was meant."""
        with pytest.raises(ValueError, match=re.escape(told)):
            Simulator(variations=given)


def test_is_documented() -> None:
    """The page on testing has every variation with its meaning, and no other; so has the help every name."""
    root = Path(__file__).parent.parent.parent
    text = (root / "docs" / "testing.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \| (`.+) \|$", text, re.MULTILINE)
    assert {name: values for name, _, values in rows} == {name: "; ".join(describe(name)) for name in TABLE}
    named = VARIATIONS_HELP.partition("Names: ")[2].partition(".")[0]
    assert named.split(", ") == sorted(TABLE)


def describe(name: str) -> Iterator[str]:
    """Yield a variation's values in the page's words; those with the same meaning in one."""
    for meaning, group in groupby(TABLE[name].items(), key=lambda item: item[1].meaning):
        yield f"{', '.join(f'`{value}`' for value, _ in group)}: {meaning}"
