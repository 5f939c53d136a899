import math
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from helpers.contract import JSON, SAMPLE, STEMS, UNTIDY, Example, decode, decode_operation, every_route, unhurried
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.operations import Operation, OperationError, Status
from soundpiece_async._core.parsing import Notes, ParsedOperation, parse_operation, read_documented, read_leniently
from soundpiece_async._core.redaction import redact_text
from soundpiece_async._core.requests import ROUTES, Handle, Output


@every_route
def test_processing(example: Example) -> None:
    """An answer to a submit is an operation without outputs or error, whose echo gives the request back."""
    members = example.processing[example.envelope]
    operation = decode_operation(members, route=example.route, request=None)

    assert operation == Operation(
        route=example.route,
        id=example.id,
        status=Status.PROCESSING,
        created_at=datetime(2026, 11, 22, 10, tzinfo=UTC),
        idempotency_key=example.body["idempotency_key"],
        request=attrs.evolve(example.request, callback_url=None),
    )
    assert operation.raw == members


@every_route
def test_ready(example: Example) -> None:
    """A ready answer's files are a tuple, a single one too, numbered as they stand and tied to their operation."""
    members = example.ready[example.envelope]
    operation = decode_operation(members, route=example.route, request=None)

    assert operation.status is Status.READY
    assert operation.error is None
    assert operation.outputs == tuple(
        Output(
            url=output["url"],
            expires_at=datetime(2026, 11, 22, 10, 15, 40, tzinfo=UTC),
            duration=output["duration"],
            kind=output.get("kind"),
            handle=operation.handle,
            index=index,
        )
        for index, output in enumerate(members.get("outputs") or [members["output"]])
    )


@every_route
def test_failed(example: Example) -> None:
    """A failed answer says why, in the service's own words."""
    operation = decode_operation(example.failed[example.envelope], route=example.route, request=None)

    assert operation.status is Status.FAILED
    assert operation.outputs == ()
    assert operation.error == OperationError("internal_error", "The operation could not be completed.")


@every_route
def test_request_of_the_caller(example: Example) -> None:
    """The caller's own request object is kept, not rebuilt from the echo."""
    request = example.request
    operation = decode_operation(example.ready[example.envelope], route=example.route, request=request)

    assert operation.request is request


def test_stems_have_kinds() -> None:
    """Each stem says which one it is."""
    assert [output.kind for output in decode(STEMS).outputs] == ["vocals", "drums", "bass", "other"]


@pytest.mark.parametrize(
    ("members", "paths"),
    [
        ({"output": {"url": "https://h/a"}, "outputs": None}, ["/a"]),
        ({"output": ..., "outputs": [{"url": "https://h/a"}]}, ["/a"]),
        ({"output": [{"url": "https://h/a"}, {"url": "https://h/b"}]}, ["/a", "/b"]),
        ({"output": ..., "outputs": {"url": "https://h/a"}}, ["/a"]),
        ({"output": None, "outputs": [{"url": "https://h/a"}, {"url": "https://h/b"}]}, ["/a", "/b"]),
        ({"output": ..., "outputs": []}, []),
        ({"output": None}, []),
        ({"output": ...}, []),
    ],
)
def test_output_or_outputs(members: dict[str, Any], paths: list[str]) -> None:
    """Under either name, one file or a list of any length: which route has which is partly INFERRED."""
    outputs = decode(**members).outputs

    assert [output.path for output in outputs] == paths
    assert [output.index for output in outputs] == list(range(len(paths)))


@every_route
def test_only_the_id_is_required(example: Example) -> None:
    """An id makes an operation; without the echo nobody can rebuild its request."""
    operation = decode_operation({"id": example.id}, route=example.route, request=None)

    assert operation == Operation(route=example.route, id=example.id, status=Status.PROCESSING, request=None)


@every_route
@pytest.mark.parametrize("status", ["processing", "ready", "failed"])
def test_absent_is_null(example: Example, status: str) -> None:
    """A nullable member that is absent means the same as null."""
    members = getattr(example, status)[example.envelope]
    sparse = {name: value for name, value in members.items() if value is not None}

    assert decode_operation(sparse, route=example.route, request=None) == decode_operation(
        members, route=example.route, request=None
    )


@unhurried
@given(st.dictionaries(st.sampled_from(["route", "request", "raw", "handle", "index", "seed", "ünknown"]), JSON))
def test_unknown_members(more: dict[str, Any]) -> None:
    """Members this version does not know change nothing, whatever their names, and stay readable in raw."""
    output = {**SAMPLE.ready["sample"]["output"], **more}
    error = {"code": "c", "message": "m", **more}
    plain = decode(error={"code": "c", "message": "m"})
    operation = decode(**more, output=output, error=error)

    assert operation == plain
    assert repr(operation.raw["output"]) == repr(output)
    assert all(repr(operation.raw[name]) == repr(value) for name, value in more.items())


@unhurried
@given(UNTIDY)
def test_open_sets(word: str) -> None:
    """Statuses, kinds and codes this version does not know are passed through as they are."""
    status = f"x{word}"
    operation = decode(status=status, output={"url": "https://h/a", "kind": status}, error={"code": f" x{word} "})

    assert operation.status == status
    assert not operation.status.final
    assert operation.outputs[0].kind == redact_text(status)
    assert operation.error == OperationError(f"x{word}".strip(), "")


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"error": None}, ("internal_error", "")),
        ({"error": ...}, ("internal_error", "")),
        ({"error": {}}, ("internal_error", "")),
        ({"error": {"message": "No luck."}}, ("internal_error", "No luck.")),
        ({"error": {"code": None, "message": "No luck."}}, ("internal_error", "No luck.")),
        ({"error": {"code": "bad_source"}}, ("bad_source", "")),
        ({"error": {"code": "bad_source", "message": None}}, ("bad_source", "")),
    ],
)
def test_failed_without_a_reason(members: dict[str, Any], error: tuple[str, str]) -> None:
    """A failed operation always has an error: where the service leaves out the code, it is an internal one."""
    operation = decode(status="failed", output=None, **members)

    assert operation.error == OperationError(*error)


def read(**changes: Any) -> ParsedOperation:
    """Read a ready answer with some members replaced."""
    return parse_operation({**SAMPLE.ready["sample"], **changes}, Handle(SAMPLE.route, SAMPLE.id), request=None)


@pytest.mark.parametrize(
    ("changes", "about"),
    [
        ({"created_at": "yesterday"}, ["created_at"]),
        ({"created_at": []}, ["created_at"]),
        ({"idempotency_key": 5}, ["idempotency_key"]),
        ({"output": {"url": "https://h/a", "duration": True}}, ["outputs[].duration"]),
        ({"output": {"url": "https://h/a", "duration": math.nan}}, ["outputs[].duration"]),
        ({"output": {"url": "https://h/a", "kind": {"name": "x"}}}, ["outputs[].kind"]),
        ({"output": {"url": "https://h/a", "expires_at": ""}}, ["outputs[].expires_at"]),
        ({"output": [{"url": "https://h/a"}, {"url": None, "duration": 1}]}, ["output[].url"]),
        ({"output": [{"url": "https://h/a", "kind": 5}, {"url": "https://h/b", "kind": 6}]}, ["outputs[].kind"]),
        ({"output": [], "results": [{"href": "https://h/a"}]}, ["outputs in results"]),
        ({"output": None, "audio_url": "https://h/a", "page_url": "https://h/b"}, ["outputs in audio_url"]),
        ({"output": None, "data": [], "audio_url": "https://h/a"}, ["outputs in audio_url"]),
        ({"error": "no luck"}, ["outputs and error"]),
        ({"output": [{"url": "https://h/a"}, None, {}]}, []),
        ({"output": {"url": "https://h/a", "duration": "2.0", "expires_at": 1795341600}}, []),
        ({"prompt": 5, "seed": {}}, []),
    ],
    ids=str,
)
def test_advisory_members_never_hide_the_audio(changes: dict[str, Any], about: list[str]) -> None:
    """What cannot be read is left out and noted, once for each member; the operation is ready all the same."""
    reading = read(**changes)

    assert reading.over
    assert reading.operation.status is Status.READY
    assert reading.operation.outputs
    assert reading.operation.error is None
    assert [note.about for note in reading.notes] == about
    assert all("https" not in note.text for note in reading.notes)


@pytest.mark.parametrize(
    ("changes", "about"),
    [
        ({"output": None}, ["no outputs"]),
        ({"output": {}}, ["no outputs"]),
        ({"output": []}, ["no outputs"]),
        ({"output": 5}, ["output[].url", "no outputs"]),
        ({"output": {"url": 5}}, ["output[].url", "no outputs"]),
        ({"output": None, "links": {"url": "https://h/a"}, "source": {"url": "https://h/b"}}, ["no outputs"]),
        ({"status": "archived"}, ["status archived"]),
        ({"status": None}, ["status missing"]),
    ],
    ids=str,
)
def test_ends_that_are_not_certain(changes: dict[str, Any], about: list[str]) -> None:
    """They are noted, and end only when a later answer says the same."""
    reading = read(**changes)

    assert (reading.over, reading.undecided) == (False, True)
    assert [note.about for note in reading.notes] == about
    assert reading.settle().status is Status.READY
    assert reading.settle().outputs == reading.operation.outputs


def test_a_failure_under_an_unknown_word() -> None:
    """Once it is settled, it is failed, with its error; the word stays in ``raw``."""
    reading = read(status="gone", output=None, error={"code": "lost"})
    settled = reading.settle()

    assert reading.operation.status == "gone"
    assert (settled.status, settled.error) == (Status.FAILED, OperationError("lost", ""))
    assert settled.raw["status"] == "gone"
    assert read(status="failed", output=None, file={"url": "https://h/a"}).operation.status is Status.FAILED
    assert read(status="FAILED", output=None).operation.error == OperationError("internal_error", "")


def test_unknown_words_are_shown_clipped() -> None:
    """A status is foreign text: its note is one printable line, without what signs a URL."""
    (note,) = read(status="https://h/a?sig=SECRET \n" + "x" * 1000, output=None).notes

    assert "SECRET" not in note.text
    assert note.text.isprintable()
    assert len(note.text) < 800


@unhurried
@given(st.dictionaries(st.sampled_from([*SAMPLE.ready["sample"], "outputs"]), JSON), st.sampled_from(tuple(ROUTES)))
def test_any_value_anywhere(members: dict[str, Any], route: str) -> None:
    """Any JSON at any member gives the operation: nothing but its id can be missing."""
    whole = {**SAMPLE.ready["sample"], **members}
    reading = parse_operation(whole, Handle(route, "op_1"), request=None)

    assert (reading.operation.route, reading.operation.id) == (route, "op_1")
    assert repr(reading.operation)
    assert all(note.text.isprintable() for note in reading.notes)
    assert reading.settle().handle == reading.operation.handle


@unhurried
@given(JSON, st.sampled_from(["expires_at", "duration", "kind", "more"]))
def test_any_value_in_an_output(value: Any, name: str) -> None:
    """Any JSON in a member of a file leaves the file: its URL is all it needs."""
    outputs = [{**output, name: value} for output in STEMS.ready["stems"]["outputs"]]

    assert [output.url for output in decode(STEMS, outputs=outputs).outputs] == [output["url"] for output in outputs]


URL = "https://outputs.example.com/op/0.flac?signature=abc"
OUTPUT = st.fixed_dictionaries(
    {},
    optional={
        "url": st.sampled_from(
            [URL, "/op/1.flac", "", "  ", "https://a.example/b.PNG?c", "https://a.example/#.pdf", 5]
        ),
        "download_url": st.just(URL),
        "expires_at": st.sampled_from(["2026-11-22T10:15:40Z", "soon", 1_795_341_940, None]),
        "duration": st.sampled_from([2.5, 3, -1, "PT1S", "long", None]),
        "kind": st.sampled_from(["vocals", "", "  ", 0, 7, None]),
    },
)
OPERATION = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["ready", "processing", "failed", "READY", "done", "queued", "odd", "", 5, []]),
        "outputs": st.lists(OUTPUT, max_size=3) | OUTPUT | st.sampled_from([None, "", 0, URL, [URL], [[]]]),
        "output": OUTPUT | st.sampled_from([None, {}, [], URL]),
        "audio_url": st.just(URL),
        "error": st.sampled_from([None, {}, "", {"code": "internal_error", "message": "sorry"}]),
        "detail": st.just("because"),
    },
)


@given(OPERATION)
def test_what_is_documented_is_read_as_anything_else(found: dict[str, Any]) -> None:
    """The short way comes to the same as the long one, notes included, wherever it is taken."""
    handle, short, long = Handle("create.new_song", "op_1"), Notes(), Notes()
    documented = read_documented(found, handle, short)
    if documented is not None:
        assert (documented, short) == (read_leniently(found, handle, long), long)


@every_route
def test_the_examples_are_documented(example: Example) -> None:
    """The short way is taken for an operation that runs, and for one that is ready; why one failed may be anywhere."""
    taken = [
        read_documented(envelope[example.envelope], Handle(example.route, example.id), Notes()) is not None
        for envelope in (example.processing, example.ready, example.failed)
    ]
    assert taken == [True, True, False]
