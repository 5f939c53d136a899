"""The experiments of the probe, in an order in which each can use the results of the one before.

1. ``run_free`` creates nothing. ``run_with_operations`` creates ``OPERATIONS`` operations, and up to
   ``EXTRA_OPERATIONS`` more if the service accepts requests that it should reject.
2. Requests are sent raw, so that the parser of the library hides nothing. Any response is a finding, never an error.
"""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit
from uuid import uuid4

import anyio

from soundpiece_async._core import completion, fields, signing
from soundpiece_async._core.codec import decode_json
from soundpiece_async._core.completion import Ending
from soundpiece_async._core.errors import SettingsError, SoundpieceError
from soundpiece_async._core.flac import FlacHeader
from soundpiece_async._core.json_types import JsonObject, JsonValue
from soundpiece_async._core.operations import Status
from soundpiece_async._core.requests import SOURCE_FIELDS
from soundpiece_async.cli.probe.client import Client, Download, Reply
from soundpiece_async.cli.probe.findings import Findings
from soundpiece_async.cli.probe.forms import MISSING, PROMPT, compare, show_form, show_time
from soundpiece_async.cli.probe.listener import Delivery

OPERATIONS = 9
EXTRA_OPERATIONS = 8
UNKNOWN_ID = "op_00000000000000000000000000"
UNREACHABLE_URL = "https://soundpiece-probe.invalid/nothing.wav"
FX, SAMPLE, SONG = "create.new_fx", "create.new_sample", "create.new_song"
INSTRUMENTAL, STEMS, CUT = "create.new_instrumental", "adapt.separate_stems", "adapt.auto_cut_down"
REMIX = "create.remix_instrumental"
ROUTES = (FX, SAMPLE, SONG, INSTRUMENTAL, STEMS, CUT, REMIX)
ENVELOPES = {
    FX: "fx",
    SAMPLE: "sample",
    SONG: "song",
    INSTRUMENTAL: "instrumental",
    STEMS: "stems",
    CUT: "auto_cut",
    REMIX: REMIX.partition(".")[2],
}
RESULTS = {FX: "output", SAMPLE: "output", CUT: "output"}
_TRIES = 6
"""Attempts of a request that is rejected."""


class Experiments:
    """One run of the probe.

    Args:
        client: sends the requests.
        findings: collects the results.
        pause: seconds between two requests for the same operation.
        patience: maximum seconds to wait for an operation.
    """

    def __init__(self, client: Client, findings: Findings, *, pause: float, patience: float) -> None:
        self._client = client
        self._findings = findings
        self._pause = pause
        self._patience = patience
        self._round_trip = 0.0
        """Seconds of a round trip."""

    async def run_free(self) -> None:
        """Run the experiments that create nothing: ids of no operation."""
        for what, identity, assumed in (
            ("an unknown id of the documented form (U4)", UNKNOWN_ID, (404, 422)),
            ("an id of another form (U4)", "nonsense", (422,)),
        ):
            reply = await self._client.get(FX, identity)
            expected = " or ".join(map(str, assumed))
            self._findings.add(f"GET of {what}", reply.describe(), expected, agrees=reply.status in assumed)
            self._note_headers(what, reply)

    async def run_with_operations(self, callback: str | None) -> None:
        """Run the experiments that create operations; ``callback``: webhook URL of the first one."""
        extra = {} if callback is None else {"callback_url": callback}
        effect = {"prompt": PROMPT, "duration": 1.23456789, **extra}
        key = str(uuid4())
        accepted = await self._submit(FX, effect, key=key)
        if accepted is not None:
            await self._check_repeats(FX, effect, key, accepted)
            await self._check_reads(FX, accepted)
        final = await self._poll_to_end(FX, accepted, hold=True)
        if accepted is not None and final:
            await self._check_late_repeat(effect, key)
            await self._check_outputs(FX, accepted, final)
            await self._check_file(final)
        await self._run(SAMPLE, {"prompt": "short drum loop", "duration": 40})
        await self._run(INSTRUMENTAL, {"prompt": "ambient, slow"})
        song = await self._run(SONG, {"lyrics": "[Verse]\nRain again", "prompt": "folk, warm"})
        await self._check_sources(song)
        await self._check_failure()
        await self._check_rejections()

    async def _run(self, route: str, body: Mapping[str, JsonValue]) -> JsonObject:
        """Run an operation to its end, add findings about its route, and return its fields; empty if it failed."""
        accepted = await self._submit(route, body)
        final = await self._poll_to_end(route, accepted)
        if accepted is not None and final:
            await self._check_outputs(route, accepted, final)
        return final

    async def _submit(self, route: str, body: Mapping[str, JsonValue], *, key: str | None = None) -> Reply | None:
        """Submit until accepted, and add findings about the responses."""
        key = key or str(uuid4())
        replies: list[Reply] = []
        for _ in range(_TRIES):
            replies.append(await self._client.put(route, body, key=key))
            if replies[-1].accepted:
                break
            await anyio.sleep(self._pause)
        observed = ", then ".join(reply.describe() for reply in replies)
        self._findings.add(f"responses to a PUT of {route}", observed, "200")
        if not replies[-1].accepted:
            return None
        self._describe_operation(route, body, key, replies[-1])
        return replies[-1]

    def _describe_operation(self, route: str, body: Mapping[str, JsonValue], key: str, reply: Reply) -> None:
        found, add = reply.members, self._findings.add
        add(f"where the operation of {route} is (U1)", _find_path(reply.data, found.get("id")), ENVELOPES[route])
        add(f"id of {route}", _show_id(found.get("id", MISSING)), "op_ and 26 characters")
        add(f"created_at of {route}", show_time(found.get("created_at", MISSING)), "ISO 8601 with a zone")
        add(f"status of {route} at first", str(found.get("status")), "processing")
        changes = list(compare(body, found))
        add(f"fields of {route} that come back changed", "; ".join(changes) or "none", "none")
        filled = sorted(found.keys() - body.keys() - _OWN)
        add(f"fields of {route} that were not sent", ", ".join(filled) or "none", _EXTRA.get(route, "none"))
        echoed = found.get("idempotency_key")
        same = "the same" if echoed == key else show_form(found.get("idempotency_key", MISSING))
        add(f"idempotency_key of {route}", same, "the same")

    async def _check_repeats(self, route: str, body: Mapping[str, JsonValue], key: str, first: Reply) -> None:
        """Repeat a PUT with the same and with other content (U2, U3)."""
        again = await self._client.put(route, body, key=key)
        self._findings.add(
            "the same PUT again, in progress (U3)", _compare_ids(first, again), "200, the same operation"
        )
        other = await self._client.put(route, {**body, "prompt": "a door creaks"}, key=key)
        self._findings.note("the same key with another body (U2)", _compare_ids(first, other), "never done")
        elsewhere = await self._client.put(SAMPLE, {"prompt": "a door creaks", "duration": 1}, key=key)
        self._findings.note("the same key on another route (U2)", _compare_ids(first, elsewhere), "never done")

    async def _check_late_repeat(self, body: Mapping[str, JsonValue], key: str) -> None:
        again = await self._client.put(FX, body, key=key)
        state = str(again.members.get("status")) if again.accepted else again.describe()
        self._findings.add("the same PUT again, once it is over (U3)", state, "ready")

    async def _check_reads(self, route: str, accepted: Reply) -> None:
        """Read an operation right after its submit, and on another route (U4)."""
        identity = str(accepted.members.get("id"))
        statuses: list[str] = []
        reply = accepted
        for _ in range(_TRIES):
            reply = await self._client.get(route, identity)
            statuses.append(reply.describe())
            self._round_trip = reply.seconds
            if reply.accepted:
                break
            await anyio.sleep(self._pause)
        self._findings.add("GETs just after the PUT", ", then ".join(statuses), "200")
        echoed = str(reply.members.get("id", MISSING))
        same = "as in the response to the PUT" if echoed == identity else show_form(echoed)
        self._findings.add("id in a GET", same, "as in the response to the PUT")
        elsewhere = await self._client.get(SAMPLE, identity)
        self._findings.add(
            "GET of an id on another route (U4)",
            elsewhere.describe(),
            "404 or 422",
            agrees=elsewhere.status in (404, 422),
        )

    async def _poll_to_end(self, route: str, accepted: Reply | None, *, hold: bool = False) -> JsonObject:
        """Poll an operation to its end, add findings about its statuses, and return its fields; empty unless ready."""
        if accepted is None:
            return {}
        replies = [accepted]
        with anyio.move_on_after(self._patience):
            await self._poll(route, str(accepted.members.get("id")), replies)
        if hold and len(replies) > 1:
            self._findings.add("wait=true on an operation in progress", self._describe_hold(replies[1]), _HELD)
        self._describe_course(route, replies)
        ending = _state_of(replies[-1].members)
        return replies[-1].members if ending.status is Status.READY else {}

    async def _poll(self, route: str, identity: str, replies: list[Reply]) -> None:
        """Append polls until one is final, or several are final without outputs or unreadable."""
        doubts = 0
        while True:
            replies.append(await self._client.get(route, identity, wait=True))
            ending = _state_of(replies[-1].members)
            doubts += ending.status.final and not ending.certain
            unreadable = len(replies) > _TRIES and not any(reply.accepted for reply in replies[-_TRIES:])
            if unreadable or (ending.status.final and (ending.certain or doubts > _TRIES)):
                return
            await anyio.sleep(self._pause)

    def _describe_course(self, route: str, replies: list[Reply]) -> None:
        """Add findings about the statuses of an operation, and about outputs that are early or late."""
        words: list[str] = []
        for reply in replies:
            word = str(reply.members.get("status")) if reply.accepted else reply.describe()
            words += [word] if words[-1:] != [word] else []
        endings_of = [_state_of(reply.members) for reply in replies]
        observed, end = ", then ".join(words), "failed" if endings_of[-1].status is Status.FAILED else "ready"
        usual = observed in (f"processing, then {end}", end)
        self._findings.add(f"status words of {route}", observed, f"processing, then {end}", agrees=usual)
        early = sum(
            completion.is_running(reply.members.get("status")) and bool(_find_outputs(reply.members))
            for reply in replies
        )
        self._findings.add(f"outputs of {route} in progress", f"some in {early} reads" if early else "none", "none")
        late = sum(ending.status.final and not ending.certain for ending in endings_of)
        filled = "" if not late else ", then filled" if _find_outputs(replies[-1].members) else ""
        self._findings.add(
            f"outputs of {route} once it is over", f"none in {late} reads{filled}" if late else "at once", "at once"
        )

    async def _check_outputs(self, route: str, accepted: Reply, final: Mapping[str, JsonValue]) -> None:
        """Add findings about the outputs of a final operation, and read it once more (U1, U5)."""
        name = RESULTS.get(route, "outputs")
        value = final.get(name, MISSING)
        outputs = _find_outputs(final)
        shape = (
            f"{name}: {show_form(value)}"
            if value is not MISSING and not fields.is_empty(value)
            else _other_member(final)
        )
        wanted = (
            f"{name}: an object with duration, expires_at, url"
            if name == "output"
            else f"{name}: a list of {len(outputs)}"
        )
        self._findings.add(f"outputs of {route} (U1, U5)", shape, wanted)
        for member, show, assumed in (
            ("expires_at", show_time, "ISO 8601 with a zone"),
            ("duration", show_form, "a number"),
        ):
            forms = sorted({show(output.get(member, MISSING)) for output in outputs}) or ["no outputs"]
            self._findings.add(f"{member} of the outputs of {route}", " or ".join(forms), assumed)
        if route == STEMS:
            kinds = ", ".join(sorted(str(output.get("kind", "missing")) for output in outputs))
            self._findings.add("kinds of stems (U1)", kinds, "bass, drums, other, vocals")
        again = _find_outputs((await self._client.get(route, str(accepted.members.get("id")))).members)
        before, after = ([urlsplit(str(output.get("url"))).path for output in each] for each in (outputs, again))
        order = "the same" if before == after else "another order" if sorted(before) == sorted(after) else "other paths"
        self._findings.add(f"order of the outputs of {route} in another GET", order, "the same")

    async def _check_file(self, final: Mapping[str, JsonValue]) -> None:
        """Download a file, and a range of it (U11)."""
        output = next(iter(_find_outputs(final)), {})
        url, add = str(output.get("url")), self._findings.add
        statuses: list[str] = []
        file: Download | None = None
        for _ in range(_TRIES):
            try:
                file = await self._client.download(url)
            except SoundpieceError as error:
                statuses.append(str(error).partition(": ")[2])
            else:
                statuses.append(str(file.status))
                if file.status < 400:  # what a refusal is
                    break
            await anyio.sleep(self._pause)
        add("GETs of a file (U11)", ", then ".join(statuses), "200")
        if file is None or statuses[-1] not in ("200", "203"):
            return
        length = file.headers.get("content-length")
        add("Content-Length of a file", "the length" if length == str(file.bytes) else show_form(length), "the length")
        add("Content-Encoding of a file", repr(file.headers.get("content-encoding")), "None")
        try:
            part = await self._client.download(url, part="bytes=0-9")
            add("a part of a file", f"{part.status}, {part.bytes} bytes", "206, 10 bytes")
        except SoundpieceError as error:
            add("a part of a file", str(error).partition(": ")[2], "206, 10 bytes")
        self._describe_audio(output, file.header)

    def _describe_audio(self, output: Mapping[str, JsonValue], header: FlacHeader | None) -> None:
        if header is None:
            self._findings.add("the audio in a file", "no FLAC header", "FLAC at 44100 Hz")
            return
        tag = ", behind an ID3 tag" if header.tag else ""
        self._findings.add("the audio in a file", f"FLAC at {header.sample_rate} Hz{tag}", "FLAC at 44100 Hz")
        self._findings.add(
            "channels and bits", f"{header.channels} channels, {header.bits} bits", "2 channels, 16 bits"
        )
        announced, _ = fields.read_duration(output.get("duration"))
        if announced is not None and header.duration is not None:
            difference = header.duration - announced
            near = abs(difference) <= 0.5  # as ``flac.TOLERANCE``
            self._findings.add(
                "length of the audio", f"{difference:+.1f} s", "as announced, to half a second", agrees=near
            )

    async def _check_sources(self, song: Mapping[str, JsonValue]) -> None:
        """Use an output as a source: stems, a remix, and a cut-down by a URL of another spelling (U1, U14)."""
        url = next((str(output.get("url")) for output in _find_outputs(song)), None)
        if url is None:
            self._findings.skip(f"{STEMS} and {CUT} (U1)", "there was no song to take")
            return
        await self._run(STEMS, {"source": {"url": url}})
        await self._run(REMIX, {"source": {"url": url}, "n_variations": 1})
        await self._run(CUT, {"source": {"url": _respell(url)}, "target_duration": 4.5})

    async def _check_failure(self) -> None:
        """Submit a source that cannot be fetched (U7)."""
        reply = await self._client.put(STEMS, {"source": {"url": UNREACHABLE_URL}})
        question = "a source that cannot be fetched (U7)"
        if not reply.accepted:
            self._findings.note(question, reply.describe(), "refused or failed: both are handled")
            return
        replies = [reply]
        with anyio.move_on_after(self._patience):
            await self._poll(STEMS, str(reply.members.get("id")), replies)
        found = replies[-1].members
        self._findings.note(question, f"status {found.get('status')}", "refused or failed: both are handled")
        if (error := found.get("error")) is not None:
            members_of = {name: show_form(value) for name, value in error.items()} if isinstance(error, dict) else {}
            form = ", ".join(f"{name} {text}" for name, text in sorted(members_of.items())) or show_form(error)
            known = {"code", "message"} <= members_of.keys() and members_of["code"].startswith('"')
            self._findings.add("error of a failed operation", form, "an object with code and message", agrees=known)

    async def _check_rejections(self) -> None:
        """Submit requests that the documentation excludes or does not mention (U8, U9), and one for a firewall."""
        effect = {"prompt": "a door", "duration": 1}
        for question, route, body, assumed in (
            ("a duration of 0 (U8)", FX, {**effect, "duration": 0}, "422"),
            ("a duration of a million seconds (U8)", FX, {**effect, "duration": 1e6}, "422"),
            ("neither prompt nor reference (U9)", INSTRUMENTAL, {}, "422"),
            ("prompt and reference (U9)", INSTRUMENTAL, {"prompt": "a", "reference": {"url": UNREACHABLE_URL}}, "422"),
            ("a field nobody documented (U9)", FX, {**effect, "probe": 1}, ""),
            ("an explicit null (U9)", SAMPLE, {**effect, "loopable": None}, ""),
            ("markup in a prompt", FX, {**effect, "prompt": "<script>door</script>"}, "200"),
        ):
            reply = await self._client.put(route, body)
            if assumed:
                self._findings.add(question, reply.describe(), assumed, agrees=str(reply.status) == assumed)
            else:
                self._findings.note(question, reply.describe(), "never sent")

    def describe_webhook(self, delivered: Delivery | None, secret: str) -> None:
        """Add findings about a webhook (U10), or its absence."""
        add = self._findings.add
        if delivered is None:
            add("a webhook for callback_url (U10)", "none received", "one received")
            return
        prefixes = [prefix for prefix in ("webhook", "svix") if f"{prefix}-id" in delivered.headers]
        add("headers of a webhook (U10)", " and ".join(prefixes) or "neither webhook-id nor svix-id", "webhook")
        signed = {name: delivered.headers.get(f"{(prefixes or ['webhook'])[0]}-{name}", "") for name in _SIGNED}
        digits = len(signed["timestamp"].partition(".")[0])
        fraction = ", with a fraction" if "." in signed["timestamp"] else ""
        add("timestamp of a webhook (U10)", f"{digits} digits{fraction}", "10 digits")
        try:
            body = decode_json(delivered.body)
        except ValueError:
            body = None
        body = body if isinstance(body, dict) else {}
        kind, data = body.get("type", MISSING), body.get("data")
        usual = isinstance(kind, str) and kind.rpartition(".")[0] in ROUTES
        add("type of a webhook", _TYPE if usual else show_form(kind), _TYPE)
        bare = isinstance(data, dict) and isinstance(data.get("id"), str)
        add("data of a webhook", "the operation itself" if bare else show_form(data), "the operation itself")
        if secret:
            add("key of a webhook's signature (U10)", _find_key(secret, signed, delivered.body), "base64 behind whsec_")
        else:
            self._findings.skip("key of a webhook's signature (U10)", "SOUNDPIECE_WEBHOOK_SECRET is not set")

    def _describe_hold(self, reply: Reply) -> str:
        if not reply.accepted:
            return f"{reply.describe()} after {reply.seconds:.1f} s"
        at_once = reply.seconds < 3 * self._round_trip + 0.05
        return "answered at once" if at_once and completion.is_running(reply.members.get("status")) else _HELD

    def _note_headers(self, what: str, reply: Reply) -> None:
        names = sorted(
            name for name in reply.headers if "request-id" in name or "ratelimit" in name or "rate-limit" in name
        )
        self._findings.note(
            f"headers with ids or limits on {what}", ", ".join(names) or "none", "used where they are there"
        )


_OWN = frozenset({"id", "status", "created_at", "idempotency_key", "output", "outputs", "error"})
_EXTRA = {SAMPLE: "loopable", SONG: "reference", INSTRUMENTAL: "reference"}
_SIGNED = ("id", "timestamp", "signature")
_TYPE = "route and status, with dots"
_HELD = "held until it is over, or 20 s"


def _find_key(secret: str, signed: Mapping[str, str], body: bytes) -> str:
    """Return which interpretation of a secret matches a signature."""
    try:
        keys = signing.read_secret(secret)
    except SettingsError:
        return "SOUNDPIECE_WEBHOOK_SECRET is not a secret"
    offered = signed["signature"].encode().split()
    fitting = [
        number
        for number, key in enumerate(keys)
        if signing.sign(key, identity=signed["id"], timestamp=signed["timestamp"], body=body) in offered
    ]
    return ("base64 behind whsec_" if fitting[0] == 0 else "the secret's text") if fitting else "none fits"


def _find_path(data: JsonValue, identity: object, *, depth: int = 3) -> str:
    """Return the dotted path of the object with an id; ``(bare)`` for the response itself."""
    if isinstance(data, dict):
        if data.get("id") == identity:
            return "(bare)"
        for name, value in data.items():
            if depth and (path := _find_path(value, identity, depth=depth - 1)):
                return name if path == "(bare)" else f"{name}.{path}"
    return ""


def _find_outputs(found: Mapping[str, JsonValue]) -> list[JsonObject]:
    return [one for name, value in found.items() if name not in SOURCE_FIELDS for one in fields.find_outputs(value)]


def _state_of(found: Mapping[str, JsonValue]) -> Ending:
    error = fields.read_error(found.get("error")) is not None
    return completion.decide(found.get("status"), outputs=bool(_find_outputs(found)), error=error)


def _other_member(found: Mapping[str, JsonValue]) -> str:
    names = [name for name, value in found.items() if name not in SOURCE_FIELDS and fields.find_outputs(value)]
    return ", ".join(f"{name}: {show_form(found[name])}" for name in names) or "nothing"


def _compare_ids(first: Reply, again: Reply) -> str:
    if not again.accepted:
        return again.describe()
    same = first.members.get("id") == again.members.get("id")
    return f"{again.status}, {'the same operation' if same else 'another operation'}"


def _show_id(identity: object) -> str:
    known = isinstance(identity, str) and re.fullmatch("op_[0-9a-z]{26}", identity)
    return "op_ and 26 characters" if known else show_form(identity)


def _respell(url: str) -> str:
    """Return another spelling of a URL, which normalisation changes."""
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}/./{path}"
