"""Answers of services that nothing in the documentation rules out: paid work is delivered, or named."""

import gzip
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import anyio
import attrs
import pytest
from helpers.idle import opened, until
from helpers.raw_api import Peer, RawApi, http, raw_settings
from helpers.sample_requests import fx

from soundpiece_async import (
    ApiError,
    DecodeError,
    DownloadError,
    Failed,
    Handle,
    JobState,
    Journal,
    NewFx,
    NotReady,
    Operation,
    OperationFailed,
    Output,
    RetryPolicy,
    SeparateStems,
    Session,
    Settings,
    Status,
    Succeeded,
    WaitTimeout,
    _poller,
)
from soundpiece_async._core import completion
from soundpiece_async._core.attempts import UNREADABLE_TIMES

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("short_pauses")]

Members: TypeAlias = dict[str, Any]
Service: TypeAlias = Callable[[Members], Any]
"""Makes the whole body of the honest operation."""

URL = "http://127.0.0.1:9/a.flac?sig=1"


def padded_fx(number: int = 0, **members: Any) -> NewFx:
    return fx(number, prompt=f" door {number}\n", **members)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two reads need not be ten seconds apart here."""
    monkeypatch.setattr(completion, "AGREE_AFTER", 0.05)


class Api(RawApi):
    """Answers in its own way."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.service = service
        self.always = self._speak

    async def _speak(self, peer: Peer, honest: bytes) -> None:
        members = json.loads(honest.partition(b"\r\n\r\n")[2])["fx"]
        await peer.send(http(json.dumps(self.service(members)).encode()))


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """An honest one, whose ``service`` may be set."""
    async with Api(lambda members: {"fx": members}) as started:
        yield started


@pytest.fixture
async def session(api: Api) -> AsyncIterator[Session]:
    """A session that asks it."""
    async with opened(raw_settings(api.url)) as started:
        yield started


def changing(**changes: Any) -> Service:
    """Replace members of every answer; ``...`` leaves one out."""

    def speak(members: Members) -> Members:
        return {"fx": {name: value for name, value in (members | changes).items() if value is not ...}}

    return speak


def without_id(members: Members) -> Members:
    return {name: value for name, value in members.items() if name != "id"}


def ending(word: object, **changes: Any) -> Service:
    """Replace the status, and more, of what is ready."""
    return lambda members: {"fx": members | ({"status": word, **changes} if members["status"] == "ready" else {})}


def output(**members: Any) -> Service:
    """Replace members of the output."""
    return ending("ready", output={"url": URL, **members})


DELIVERED: dict[str, Service] = {
    "trimmed": lambda members: {"fx": members | {"prompt": members.get("prompt", "").strip() or None}},
    "escaped": changing(prompt="&#32;door"),
    "clamped": changing(duration=30),
    "numbers as text": changing(duration="0.2"),
    "float32": changing(duration=0.20000000298023224),
    "other words": changing(prompt="window"),
    "no echo": lambda members: {"fx": {name: members.get(name) for name in ("id", "status", "output")}},
    "echo of another type": changing(prompt={"text": "door"}, duration=[0.2]),
    "created_at as a number": changing(created_at=1795341600),
    "created_at as nonsense": changing(created_at={"at": 5}),
    "key as a number": changing(idempotency_key=5),
    "expires_at as a number": output(expires_at=1795341600000),
    "expires_at in words": output(expires_at="Sun, 22 Nov 2026 10:00:00 GMT"),
    "expires_at empty": output(expires_at=""),
    "duration as text": output(duration="PT2S"),
    "duration as nonsense": output(duration=[]),
    "kind an object": output(kind={"name": "x"}),
    "outputs with a null": ending("ready", output=None, outputs=[{"url": URL}, None]),
    "outputs by kind": ending("ready", output={"vocals": {"url": URL}}),
    "outputs empty beside output": lambda members: {"fx": members | {"outputs": []}},
    "an error beside it": ending("ready", error={"code": "slow", "message": "It took long."}),
    "completed": ending("completed"),
    "READY": ending("READY"),
    "cancelled too late": ending("cancelled"),
    "an unknown word": ending("archived"),
    "no status": ending(None),
    "in another envelope": lambda members: {"data": {"effect": members}, "request_id": "r1"},
    "bare": lambda members: members,
    "in a list": lambda members: [members],
    "as JSON:API": lambda members: {"id": "req_1", "status": "ok", "data": members},
    "with an id of its own": lambda members: {"fx": members | {"id": members["id"].replace("op_", "x-")}},
    "as attributes of JSON:API": lambda members: {
        "data": {"type": "operation", "id": members["id"], "attributes": without_id(members)},
        "meta": {"id": "req_1"},
    },
    "beside its id": lambda members: {"id": members["id"], "fx": without_id(members)},
    "an id with blanks": lambda members: {"fx": members | {"id": f" {members['id'].strip()}\n"}},
    "an id in capitals in a poll": lambda members: {
        "fx": members | ({"id": members["id"].upper()} if members["status"] == "ready" else {})
    },
    "as JSON in a text": lambda members: json.dumps({"fx": members}),
    "an id otherwise in a poll": lambda members: {
        "fx": members | ({"id": f"urn:x:{members['id'][3:]}"} if members["status"] == "ready" else {})
    },
    "an id of its own beside it": lambda members: (
        {"fx": members | {"id": 7, "operation_id": members["id"]}} if members["status"] == "ready" else {"fx": members}
    ),
    "under _id": lambda members: {**without_id(members), "_id": {"$oid": members["id"]}},
    "as a long-running operation": lambda members: {
        "name": f"operations/{members['id']}",
        "done": members["status"] == "ready",
        "response": without_id(members),
    },
    "as a function's answer": lambda members: {"statusCode": 200, "body": json.dumps({"fx": members})},
    "under href": output(url=None, href=URL, self="https://h/x", thumbnail_url="https://h/y"),
    "in a file": output(url=None, file={"download_url": URL}),
    "by kind, as texts": ending("ready", output=None, outputs={"vocals": URL}),
    "as texts": ending("ready", output=None, outputs=[URL]),
    "under another member": ending("ready", output=None, result={"url": URL}),
    "relative to the scheme": output(url=URL.removeprefix("http:")),
    "in clips": ending("ready", output=None, clips=[{"audio_url": URL, "image_url": "https://h/y.png"}]),
    "beside the operation": lambda members: {
        "fx": {"id": members["id"], "status": members["status"]},
        "result": {"output": members.get("output")},
    },
    "names in capitals": lambda members: {
        "Fx": {"Id": members["id"], "Status": members["status"].title(), "Output": members.get("output")}
    },
    "a state": lambda members: {
        "Job": {"job_id": members["id"], "state": {"name": members["status"]}, "result": members.get("output")}
    },
    "no id nor envelope in a poll": lambda members: (
        without_id(members) if members["status"] == "ready" else {"fx": members}
    ),
    "no id in a poll": lambda members: {"fx": members | ({"id": None} if members["status"] == "ready" else {})},
}


def packed(*, headers: str = "", pack: Callable[[bytes], bytes] = gzip.compress) -> Callable[[str], bytes]:
    """Write an answer in gzip, or with a header that says so."""
    return lambda identity: http(pack(f'{{"id": "{identity}"}}'.encode()), headers=headers)


def accepted(body: bytes = b"", *, status: str = "202 Accepted", headers: str = "") -> Callable[[str], bytes]:
    """Write a response to a PUT; ``ID`` stands for the operation's id."""
    return lambda identity: http(
        body.replace(b"ID", identity.encode()), status=status, headers=headers.replace("ID", identity)
    )


PATH = "/v1/create.new_fx?id=ID"

ACCEPTED: dict[str, Callable[[str], bytes]] = {
    "a location": accepted(headers=f"Location: https://api.example{PATH}\r\n"),
    "a relative location": accepted(headers="Location: ../operations/ID\r\n"),
    "a location of the content": accepted(b"Accepted", headers="Content-Location: /v1/jobs/ID/status\r\n"),
    "204": accepted(status="204 No Content", headers=f"Location: {PATH}\r\n"),
    "a location beside JSON": accepted(b'{"status": "queued"}', status="200 OK", headers="Location: /op/ID\r\n"),
    "a header of its own": accepted(b"{}", headers="X-Operation-Id: ID\r\n"),
    "a link": accepted(f'{{"links": {{"self": "{PATH}"}}}}'.encode()),
    **{
        name: accepted(f'{{"{name}": "ID"}}'.encode())
        for name in ("_id", "oid", "operation_id", "operationId", "request_id", "job_id", "uuid")
    },
    "lines": accepted(b'{"id": "ID", "status": "received"}\n{"id": "ID", "status": "queued"}\n'),
    "a guard": accepted(b""")]}',\n{"id": "ID"}"""),
    "gzip": packed(headers="Content-Encoding: gzip\r\n"),
    "gzip without a label": packed(),
    "gzip with another label": packed(headers="Content-Encoding: br\r\n"),
    "a false label": packed(headers="Content-Encoding: gzip\r\n", pack=bytes),
    "the bare id": accepted(b"ID\n", status="200 OK"),
    "names in capitals": accepted(b'{"Fx": {"Id": "ID", "Status": "Queued"}}', status="200 OK"),
    "see other": accepted(status="303 See Other", headers=f"Location: {PATH}\r\n"),
    "a redirect to the job": accepted(b"<html>", status="302 Found", headers="Location: /jobs/ID\r\n"),
    "a redirect with a body": accepted(b'{"operation_id": "ID"}', status="303 See Other"),
    "padding": accepted(b'\xef\xbb\xbf{"id": "ID"}\0\0'),
}

UNNAMED: dict[str, Callable[[str], bytes]] = {
    "nothing": accepted(status="204 No Content"),
    "a location of the queue": accepted(headers="Location: /v1/create.new_fx\r\n"),
    "a word": accepted(b'"accepted"', status="200 OK"),
    "a user": accepted(b'{"user": {"id": "u1", "status": "active"}}', status="200 OK"),
}


@pytest.mark.parametrize("answer", ACCEPTED.values(), ids=ACCEPTED)
async def test_an_accepted_submit_has_its_id(api: Api, session: Session, tmp_path: Path, answer: Any) -> None:
    """Wherever the answer names it: the operation goes on, and a job is submitted with its id."""
    spoken = api.always

    async def speak(peer: Peer, honest: bytes) -> None:
        assert spoken is not None
        asked = api.requests[-1]
        if asked.method == "GET":
            return await spoken(peer, honest)
        return await peer.send(answer(api.created[json.loads(asked.body)["idempotency_key"]]))

    api.always = speak
    operation = await session.submit(padded_fx(1))
    done = await session.run(padded_fx(2), timeout=20)
    async with session.run_many([padded_fx(3)], timeout=20) as results:
        (plain,) = [result async for result in results]
    async with (
        Journal.open(tmp_path) as journal,
        session.run_many([padded_fx(4)], journal=journal, timeout=20) as results,
    ):
        (recorded,) = [result async for result in results]

    found = [operation, done.operation, plain.operation, recorded.operation]
    assert [one.id for one in found if one] == list(api.created.values())
    assert isinstance(plain, Succeeded)
    assert isinstance(recorded, Succeeded)
    assert len(api.puts) == 4


@pytest.mark.parametrize("answer", UNNAMED.values(), ids=UNNAMED)
async def test_an_accepted_submit_without_an_id_is_asked_for_it(api: Api, answer: Any, tmp_path: Path) -> None:
    """With the same key, which is free: then it has an id, or an error keeps the key, and a job resumes with it."""

    async def speak(peer: Peer, _: bytes) -> None:
        await peer.send(answer(""))

    patient = Settings(api_key="spk_for_tests", base_url=api.url, retries=RetryPolicy(submit_max_elapsed=30))
    async with opened(patient) as session, Journal.open(tmp_path) as journal:
        api.script.extend([speak] * 2)
        assert (await session.submit(padded_fx(1))).id in api.created.values()
        api.script.extend([speak] * UNREADABLE_TIMES)
        with pytest.raises(DecodeError, match="idempotency key") as caught:
            await session.submit(request := padded_fx(2))
        assert caught.value.handle is None
        assert (await session.submit(request)).id
        api.script.extend([speak] * UNREADABLE_TIMES)
        for expected in (Failed, Succeeded):
            async with session.run_many([padded_fx(3)], journal=journal, timeout=20) as results:
                (result,) = [result async for result in results]
            assert isinstance(result, expected)

    assert len(api.created) == 3
    assert len(set(api.puts)) == 3


CONFLICTS: dict[str, tuple[Members, bool]] = {
    "the operation": ({"fx": {"status": "processing"}}, True),
    "its id and key": ({"detail": "in progress", "operation": {"status": "queued"}}, True),
    "only its id": ({"detail": "in progress", "operation": {"idempotency_key": None}}, False),
}


@pytest.mark.parametrize(("body", "taken"), CONFLICTS.values(), ids=CONFLICTS)
async def test_a_conflict_with_the_existing_operation(
    api: Api, session: Session, tmp_path: Path, *, body: Members, taken: bool
) -> None:
    """With the key it is the answer; without, it may be another's: the error names it, and nothing is bought again."""

    async def speak(peer: Peer, honest: bytes) -> None:
        found = json.loads(honest.partition(b"\r\n\r\n")[2])["fx"]
        known = {"id": found["id"], "idempotency_key": found["idempotency_key"]}
        told = {name: known | value if isinstance(value, dict) else value for name, value in body.items()}
        await peer.send(http(json.dumps(told).encode(), status="409 Conflict"))

    api.script.append(speak)
    if taken:
        assert (await session.run(padded_fx(1), timeout=20)).operation.id in api.created.values()
        return
    with pytest.raises(ApiError, match="409") as caught:
        await session.submit(request := padded_fx(1))
    assert caught.value.handle == Handle("create.new_fx", next(iter(api.created.values())))
    assert (await session.submit(request)).handle == caught.value.handle
    async with Journal.open(tmp_path) as journal:
        api.script.append(speak)
        for expected in (Failed, Succeeded):
            async with session.run_many([padded_fx(2)], journal=journal, timeout=20) as results:
                (result,) = [result async for result in results]
            assert isinstance(result, expected)
    assert len(api.created) == 2


@pytest.mark.parametrize(
    "body", [{"id": "err_1", "status": "error"}, {"fx": {"id": "op_" + "1" * 26, "idempotency_key": str(UUID(int=7))}}]
)
async def test_a_conflict_about_something_else(api: Api, session: Session, body: Members) -> None:
    """An error with an id of its own, or another's operation, is not an operation of ours."""

    async def refuse(peer: Peer, _: bytes) -> None:
        await peer.send(http(json.dumps(body).encode(), status="409 Conflict"))

    api.script.append(refuse)
    with pytest.raises(ApiError, match="409") as caught:
        await session.submit(padded_fx(1))
    assert caught.value.handle is None


FAILED: dict[str, tuple[Service, str]] = {
    "text": (ending("failed", output=None, error="no luck"), "internal_error: no luck"),
    "list": (ending("failed", output=None, error=["no", "luck"]), "internal_error: no; luck"),
    "a number as code": (ending("failed", output=None, error={"code": 500, "message": "no luck"}), "500: no luck"),
    "none": (ending("failed", output=None), "internal_error"),
    "cancelled": (ending("cancelled", output=None), "internal_error"),
    "a reason beside": (ending("failed", output=None, failure_reason="no luck"), "internal_error: no luck"),
    "expired": (ending("Expired", output=None, error={"code": "late"}), "late"),
    "an unknown word": (ending("abandoned", output=None, error={"code": "late"}), "late"),
    "ready": (ending("ready", output=None, error={"code": "late"}), "late"),
}

EMPTY: dict[str, Service] = {
    "null": ending("ready", output=None),
    "empty list": ending("ready", output=[]),
    "empty object": ending("completed", output={}),
    "outputs empty": ending("ready", output=None, outputs=[]),
    "another link": ending("ready", output=None, links={"self": URL}, callback_url=URL, source={"url": URL}),
    "no URL": ending("ready", output={"duration": 1.0}),
    "junk": ending("ready", output=5),
    "empty error": ending("ready", output=None, error={"code": None, "message": ""}),
}


@pytest.mark.parametrize("service", DELIVERED.values(), ids=DELIVERED)
async def test_paid_work_is_delivered(api: Api, session: Session, tmp_path: Path, service: Service) -> None:
    """By every way there is, at the price of one; the status is ready, and ``raw`` has what came."""
    api.service = service
    operation = await session.submit(padded_fx(1))
    ready = await session.wait(operation, timeout=20)
    again = await session.wait(operation.handle, timeout=20)
    read = await session.refresh(ready)
    done = await session.run(padded_fx(2), timeout=20)
    async with session.run_many([padded_fx(3), padded_fx(4)], timeout=20) as results:
        many = [result async for result in results]
    for _ in range(2):
        async with Journal.open(tmp_path) as journal:
            async with session.run_many([padded_fx(5), padded_fx(6)], journal=journal, timeout=20) as results:
                recorded = [result async for result in results]
            assert await journal.count() == {JobState.READY: 2}

    finals = [ready, again, done.operation, *(result.operation for result in many + recorded)]
    assert all(isinstance(result, Succeeded) for result in many + recorded)
    assert [(one.status, [one.url for one in one.outputs]) for one in finals if one] == [(Status.READY, [URL])] * 7
    assert read.outputs == ready.outputs
    assert read.echo_differences == ready.echo_differences == operation.echo_differences
    assert len(api.puts) == len(api.created) == 6


@pytest.mark.parametrize(("service", "why"), FAILED.values(), ids=FAILED)
async def test_failures_say_what_can_be_read(api: Api, session: Session, service: Service, why: str) -> None:
    """However the error looks, and whatever the word: failed, with the operation."""
    api.service = service
    with pytest.raises(OperationFailed, match=f"failed: {why}; to try again") as caught:
        await session.run(padded_fx(), timeout=20)

    assert caught.value.operation.status is Status.FAILED
    assert caught.value.operation.error is not None
    assert caught.value.handle.id in api.created.values()


@pytest.mark.parametrize("service", EMPTY.values(), ids=EMPTY)
async def test_ready_without_outputs_is_neither_success_nor_failure(
    api: Api, session: Session, tmp_path: Path, service: Service
) -> None:
    """Two reads agree: ``NotReady``, with the way back. A job stays submitted, and the next run has its outputs."""
    api.service = service
    operation = await session.submit(padded_fx(1))
    for waiting in (session.wait(operation), session.wait(operation.handle), session.run(padded_fx(2))):
        with pytest.raises(NotReady, match="has no outputs; it is paid for") as caught:
            await waiting
        assert caught.value.handle is not None
        assert caught.value.operation is not None
        assert caught.value.operation.status is Status.READY
    with pytest.raises(NotReady):
        await session.download(operation, tmp_path)
    read = await session.refresh(operation)
    assert (read.status, read.outputs) == (Status.READY, ())
    asked = len(api.requests)
    with pytest.raises(NotReady):
        await session.wait(read)  # it is asked for again: outputs may have come
    assert len(api.requests) > asked

    requests = [padded_fx(3)]
    async with Journal.open(tmp_path) as journal:
        async with session.run_many(requests, journal=journal) as results:
            (result,) = [result async for result in results]
        assert isinstance(result, Failed)
        assert isinstance(result.error, NotReady)
        assert result.operation is not None
        assert await journal.count() == {JobState.SUBMITTED: 1}
    api.service = changing()
    async with Journal.open(tmp_path) as journal:
        async with session.run_many([padded_fx(3)], journal=journal) as results:
            (result,) = [result async for result in results]
        assert isinstance(result, Succeeded)
        assert await journal.count() == {JobState.READY: 1}
    assert [one.url for one in (await session.wait(operation)).outputs] == [URL]
    assert len(api.puts) == 3


ODD: dict[str, bytes] = {
    "nothing": b"{}",
    "null": b"null",
    "an empty envelope": b'{"fx": null}',
    "an error": b'{"error": {"code": "busy"}}',
    "a detail": b'{"detail": "upstream request timeout"}',
    "errors": b'{"errors": [{"message": "internal"}], "data": null}',
    "another operation": b'{"fx": {"id": "op_of_a_neighbour", "status": "ready"}}',
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
@pytest.mark.parametrize("method", ["PUT", "GET"])
async def test_one_odd_answer_is_no_end(api: Api, tmp_path: Path, method: str, body: bytes) -> None:
    """It is asked again, with the same key: each is delivered, at the price of one."""
    spoken = api.always
    seen = set[str]()

    async def speak(peer: Peer, honest: bytes) -> None:
        assert spoken is not None
        asked = api.requests[-1]
        name = asked.target if asked.method == "GET" else json.loads(asked.body)["idempotency_key"]
        odd = asked.method == method and name not in seen and not (method == "PUT" and b"neighbour" in body)
        seen.add(name)
        await (peer.send(http(body)) if odd else spoken(peer, honest))

    api.always = speak
    patient = Settings(api_key="spk_for_tests", base_url=api.url, retries=RetryPolicy(submit_max_elapsed=30))
    async with opened(patient) as session, Journal.open(tmp_path) as journal:
        ready = await session.wait((await session.submit(padded_fx(1))).handle, timeout=20)
        done = await session.run(padded_fx(2), timeout=20)
        async with session.run_many([padded_fx(3)], journal=journal, timeout=20) as results:
            (result,) = [result async for result in results]

    assert all(operation.outputs for operation in (ready, done.operation))
    assert isinstance(result, Succeeded)
    assert len(api.created) == 3


async def test_odd_answers_again_and_again_are_an_error(api: Api) -> None:
    """A submit is sent a few times; a wait has read them for a while. The way back is there, and nothing is bought."""
    patient = Settings(api_key="spk_for_tests", base_url=api.url, retries=RetryPolicy(submit_max_elapsed=0.3))
    async with opened(patient) as session:
        operation = await session.submit(padded_fx(1))
        api.service = lambda _: {"detail": "quota"}
        with pytest.raises(DecodeError, match="has no operation") as caught:
            await session.wait(operation, timeout=20)
        assert caught.value.handle == operation.handle
    async with opened(attrs.evolve(patient, retries=RetryPolicy(submit_max_elapsed=60))) as session:
        with pytest.raises(DecodeError) as caught:
            await session.submit(request := padded_fx(2))
        assert len(api.puts) == 1 + UNREADABLE_TIMES
        api.service = changing()
        assert (await session.run(request, timeout=20)).operation.outputs

    assert len(api.created) == 2


@pytest.mark.parametrize("timeout", [0, 1])
async def test_a_wait_that_was_too_short_says_what_came(api: Api, timeout: float) -> None:
    """Else an answer that nobody can read looks like work that takes long."""
    patient = Settings(api_key="spk_for_tests", base_url=api.url, retries=RetryPolicy(submit_max_elapsed=60))
    async with opened(patient) as session:
        operation = await session.submit(padded_fx())
        api.service = lambda _: {"detail": "quota"}
        with pytest.raises(
            WaitTimeout, match=r"no usable response; the latest failure: GET .*'quota'.*; it is still running"
        ) as caught:
            await session.wait(operation, timeout=timeout)

    assert caught.value.handle == operation.handle


async def test_a_download_that_fails_names_the_operation(api: Api, session: Session, tmp_path: Path) -> None:
    """As a run knows it; and what helps nothing is not advised."""
    api.service = output(url="/files/a.flac?sig=1")
    with pytest.raises(DownloadError, match=r"was not saved: .*, http://127\.0\.0\.1:\d+/files/a\.flac\)") as caught:
        await session.run(padded_fx(), save_to=tmp_path, timeout=20)

    assert caught.value.operation is not None
    assert caught.value.operation.outputs


async def test_another_id_under_the_same_key_is_the_operation(api: Api, session: Session) -> None:
    """A service may number its operations in several ways; the handle alone does not decide."""
    api.service = lambda members: {
        "fx": {**members, "id": 7, "idempotency_key": key} if members["status"] == "ready" else members
    }
    operation = await session.submit(request := padded_fx())
    key = request.idempotency_key.upper()

    assert (await session.wait(operation, timeout=20)).handle == operation.handle
    assert (await session.refresh(operation)).outputs
    with pytest.raises(DecodeError, match="for another operation, 7") as caught:
        await session.refresh(operation.handle)
    assert caught.value.handle == operation.handle
    key = padded_fx().idempotency_key
    with pytest.raises(DecodeError, match="for another operation, 7"):
        await session.refresh(operation)


async def test_an_echo_cut_inside_a_letter(api: Api, session: Session) -> None:
    """What is no UTF-8 hides nothing."""
    body = b'{"fx": {"id": "op_1", "status": "ready", "prompt": "caf\xc3", "output": {"url": "%b"}}}' % URL.encode()

    async def speak(peer: Peer, _: bytes) -> None:
        await peer.send(http(body))

    api.always = speak
    done = await session.run(padded_fx(), timeout=20)

    assert [one.url for one in done.operation.outputs] == [URL]
    assert done.operation.echo_differences == ("prompt",)


async def test_outputs_that_come_late_are_awaited(api: Api, session: Session) -> None:
    """A first read without them ends nothing."""
    answers = iter([{"output": None}, {}])
    api.service = lambda members: {"fx": members | (next(answers, {}) if members["status"] == "ready" else {})}

    assert (await session.run(padded_fx(), timeout=20)).operation.outputs
    assert [asked.method for asked in api.requests] == ["PUT", "GET", "GET"]


async def test_a_put_answered_with_an_empty_success_is_awaited(api: Api, session: Session) -> None:
    """As is any other answer that is no end."""
    api.service = lambda members: {"fx": members if "output" in members else members | {"status": "ready"}}
    operation = await session.submit(padded_fx())

    assert (operation.status, operation.outputs) == (Status.READY, ())
    assert (await session.wait(operation, timeout=20)).outputs


@pytest.mark.parametrize("word", ["processing", "queued", "Pending", "running", "in_progress", "generating"])
async def test_what_runs_is_never_final(api: Api, session: Session, word: str) -> None:
    """Whatever else is there: outputs may be partial, and an error passing."""
    api.service = ending(word, output={"url": URL}, error={"code": "x"})
    operation = await session.submit(padded_fx())
    with pytest.raises(WaitTimeout) as caught:
        await session.wait(operation, timeout=0.4)

    assert caught.value.handle == operation.handle
    assert session.statistics().unknown_statuses == ()
    assert not (await session.refresh(operation)).status.final


async def test_waiting_again_and_again_ends_too(api: Api, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one waiter read counts for the next: a loop over short timeouts sees the end."""
    monkeypatch.setattr(completion, "AGREE_AFTER", 0.5)
    api.service = ending("archived")
    operation = await session.submit(padded_fx())
    ready: Operation[NewFx] | None = None
    with anyio.fail_after(30):
        while ready is None:
            try:
                ready = await session.wait(operation, timeout=0.1)
            except WaitTimeout:
                continue

    assert ready.status is Status.READY
    assert ready.raw["status"] == "archived"


async def test_undecided_operations_are_remembered_up_to_a_bound(
    api: Api, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest is forgotten, and read twice again."""
    monkeypatch.setattr(_poller, "MAX_UNDECIDED", 1)
    monkeypatch.setattr(completion, "AGREE_AFTER", 60.0)
    api.service = ending("archived")
    for number in range(3):
        with pytest.raises(WaitTimeout):
            await session.wait(await session.submit(padded_fx(number)), timeout=0.4)

    assert len(session._engine.poller._undecided) == 1


async def test_an_unknown_status_is_shown(api: Api, session: Session, caplog: pytest.LogCaptureFixture) -> None:
    """Once in the log, and in the statistics; it is waited out."""
    caplog.set_level(logging.WARNING, "soundpiece_async")
    api.service = ending("archiving", output=None)
    with pytest.raises(WaitTimeout):
        await session.wait(await session.submit(padded_fx(1)), timeout=0.3)
    with pytest.raises(WaitTimeout):
        await session.wait(await session.submit(padded_fx(2)), timeout=0.3)

    assert session.statistics().unknown_statuses == ("archiving",)
    (warned,) = (record.message for record in caplog.records if "unknown" in record.message)
    assert "its status, 'archiving', is unknown to this version: it counts as running (logged once)" in warned


async def test_differences_are_warned_of_once_and_shown_always(
    api: Api, session: Session, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """500 lines whose lyrics end in a newline are one warning, and 500 results; the journal keeps the names."""
    caplog.set_level(logging.WARNING, "soundpiece_async")
    api.service = changing(prompt="door", duration="0.2")
    async with Journal.open(tmp_path) as journal:
        async with session.run_many([padded_fx(number) for number in range(20)], journal=journal) as results:
            done = [result async for result in results]
        assert {job.echo_differences for job in await journal.jobs()} == {("prompt", "duration")}
    async with Journal.open(tmp_path) as journal:
        async with session.run_many([padded_fx(number) for number in range(20)], journal=journal) as results:
            done += [result async for result in results]

    assert all(isinstance(result, Succeeded) for result in done)
    assert {result.operation.echo_differences for result in done if result.operation} == {("prompt", "duration")}
    warned = [record.message.partition(": ")[2] for record in caplog.records]
    assert warned == [
        f"{name} is echoed with another value than was sent; the operation continues (logged once)"
        for name in ("prompt", "duration")
    ]


@pytest.mark.parametrize("recorded", [False, True])
async def test_work_under_a_key_of_the_callers_may_be_other_work(
    api: Api, session: Session, caplog: pytest.LogCaptureFixture, tmp_path: Path, *, recorded: bool
) -> None:
    """An error in the log for each job whose echo is other work; not for what is trimmed, nor under keys made here."""
    caplog.set_level(logging.ERROR, "soundpiece_async")
    keys = [f"4c1c0c3e-0000-4000-8000-00000000000{number}" for number in range(3)]
    requests = [
        padded_fx(0, idempotency_key=keys[0]),
        padded_fx(1, idempotency_key=keys[1]),
        padded_fx(2),
        padded_fx(1, idempotency_key=keys[2]),
    ]
    api.service = changing(prompt="door 1")
    async with Journal.open(tmp_path) as journal:
        async with session.run_many(requests, journal=journal if recorded else None) as results:
            done = [result async for result in results]
    if recorded:  # a key that was made here, and comes out of the journal, was made here
        async with Journal.open(tmp_path) as journal:
            await journal.store.mark_unsent((await journal.jobs())[2])
            async with session.run_many([padded_fx(2)], journal=journal) as results:
                done += [result async for result in results]

    assert all(isinstance(result, Succeeded) for result in done)
    (record,) = caplog.records
    assert f"prompt is echoed differently: the explicit idempotency key {keys[0]}" in record.message
    assert "may have been used for another request" in record.message


async def test_oddities_are_warned_of_once(api: Api, session: Session, caplog: pytest.LogCaptureFixture) -> None:
    """Not for each operation, and never with what came."""
    caplog.set_level(logging.WARNING, "soundpiece_async")
    api.service = output(expires_at="https://h/a?sig=SECRET", duration="soon", kind=5)
    for number in range(3):
        await session.run(padded_fx(number), timeout=20)

    assert [record.message.partition(": ")[2].partition(" ")[0] for record in caplog.records] == [
        f"outputs[].{name}" for name in ("expires_at", "duration", "kind")
    ]
    assert "SECRET" not in caplog.text


async def test_a_webhook_without_outputs_is_looked_into(api: Api, session: Session) -> None:
    """News that show nothing wake nobody: one read decides, and brings the outputs."""
    api.ready = False
    operation = await session.submit(padded_fx())
    async with anyio.create_task_group() as group:

        async def wait() -> None:
            assert (await session.wait(operation)).outputs

        group.start_soon(wait)
        await until(lambda: len(api.requests) > 1)
        api.ready = True
        session.deliver(Operation(route=padded_fx().route, id=operation.id, status=Status.READY, request=None))


async def test_a_delivered_operation_keeps_what_the_submit_saw(api: Api, session: Session) -> None:
    """Webhooks bring no echo that could be compared: the differences are those of the submit."""
    api.service = changing(prompt="door")
    operation = await session.submit(padded_fx())
    made = Output(url=URL, handle=operation.handle)
    session.deliver(
        Operation(route=operation.route, id=operation.id, status=Status.READY, outputs=(made,), request=None)
    )

    assert (await session.wait(operation)).echo_differences == ("prompt",)
    assert (await session.submit(operation.request)).echo_differences == ("prompt",)
    assert len(api.puts) == 1


async def test_a_source_echoed_as_text(api: Api, session: Session) -> None:
    """An object may come back as its URL, which may be a copy's."""
    api.service = lambda members: {"stems": members | {"source": "https://cdn.example/copy.wav"}}
    operation = await session.submit(SeparateStems("https://example.com/mix.wav"))

    assert operation.echo_differences == ("source",)
    again = await session.wait(Handle(operation.route, operation.id), timeout=20)
    assert [one.url for one in again.outputs] == [URL]
