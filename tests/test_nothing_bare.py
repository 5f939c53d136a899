"""Nothing a caller, a file system or a service hands over ends a run bare: it is one job's library error."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from helpers.simulation import settings, simulate

from soundpiece_async import (
    AudioSource,
    AutoCutDown,
    Failed,
    Handle,
    InvalidRequest,
    Journal,
    JournalError,
    NewFx,
    NewInstrumental,
    NewSample,
    NewSong,
    Output,
    RemixSong,
    Request,
    RetryPolicy,
    Session,
    Settings,
    SettingsError,
    SoundpieceError,
    Succeeded,
)
from soundpiece_async._core.containment import contain, note_others
from soundpiece_async._core.hosts import find_objection
from soundpiece_async.simulator import Simulator

pytestmark = pytest.mark.anyio

HANDLE = Handle("create.new_fx", "op_1")
SOON = datetime(2020, 1, 1, tzinfo=UTC)


class Text(str):
    """A text of a class of its own."""

    __slots__ = ()


class Evil:
    """Fails at whatever is asked of it."""

    def __repr__(self) -> str:
        raise ZeroDivisionError("repr")

    __str__ = __repr__


def output(**changes: Any) -> Output:
    """Make an output as a program might that stored its members."""
    return Output(**({"url": "https://a/b?sig=1", "handle": HANDLE} | changes))


BROKEN_OUTPUTS: list[Any] = [
    output(expires_at=datetime(2020, 1, 1)),  # noqa: DTZ001 - naive on purpose
    output(expires_at="2020-01-01"),
    output(expires_at=1.5),
    output(handle="create.new_fx/op_1", expires_at=SOON),
    output(handle=None, expires_at=SOON),
    output(handle=Handle(5, None), expires_at=SOON),  # type: ignore[arg-type]  # junk on purpose
    output(index="a", expires_at=SOON),
    output(url=b"x"),
    output(url=None),
    output(duration="long"),
    output(kind=7),
]

ODD: list[Any] = [
    *(b"bytes", "\ud800", "a\x00b", Text("sub"), 10**400, -(10**400), 10**5000, -(10**5000), math.nan, math.inf, True),
    *(None, [], {}, object(), Evil(), 1 + 2j, "", "x" * 5000, 10**20, 1e308, 5e-324),
    *(
        "https://xn--",
        "http://[",
        "https://a:99999/x",
        "https://\ud800.com/",
        f"https://{'a' * 70}.com",
        "https://a..b/",
    ),
    *(output(), output(url="\ud800"), AudioSource("\ud800"), AudioSource(5), AudioSource(None)),  # type: ignore[arg-type]
    *BROKEN_OUTPUTS,
]

PLAIN: dict[type[Request], dict[str, Any]] = {
    NewFx: {"prompt": "a", "duration": 0.1},
    NewSong: {"lyrics": "a", "prompt": "b"},
    NewSample: {"prompt": "a", "duration": 0.1, "loopable": False},
    NewInstrumental: {"reference": "https://a/b"},
    RemixSong: {"source": "https://a/b", "lyrics": "c", "prompt": "d", "n_variations": 1},
    AutoCutDown: {"source": "https://a/b", "target_duration": 0.1},
}


def odd_requests() -> Iterator[Request]:
    """Make requests with every odd value in every member."""
    for kind, members in PLAIN.items():
        for name in (*members, "callback_url", "idempotency_key"):
            for value in ODD:
                try:
                    yield kind(**(members | {name: value}))
                except (SoundpieceError, TypeError, ValueError, ZeroDivisionError):
                    continue  # refused where it is made, in the caller's own hands


@pytest.mark.timeout(120)
@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("recorded", [False, True])
async def test_whatever_a_request_holds_it_is_one_jobs_result(
    tmp_path: Path, *, validate: bool, recorded: bool
) -> None:
    """Each gets a result, and those that are fine are made."""
    retries = RetryPolicy(submit_max_elapsed=1.0)
    async with (
        simulate(speed=2000) as sim,
        Session(settings(sim, validate=validate, retries=retries)) as session,
        Journal.open(tmp_path) if recorded else nullcontext() as journal,
    ):
        requests = [*odd_requests(), NewFx("fine", duration=0.1)]
        async with session.run_many(requests, journal=journal, timeout=20, ordered=True) as results:
            done = [result async for result in results]
    assert len(done) == len(requests)
    assert isinstance(done[-1], Succeeded)
    for result in done:
        if isinstance(result, Failed):
            assert "unexpected" not in str(result.error)


@pytest.mark.parametrize("broken", BROKEN_OUTPUTS)
@pytest.mark.parametrize("validate", [True, False])
async def test_an_output_made_by_hand_is_refused_where_it_is_used(
    sim: Simulator, broken: Output, *, validate: bool
) -> None:
    """At submit by the member it is in, and at once where it is passed itself; nothing is sent."""
    async with Session(settings(sim, validate=validate)) as session:
        with pytest.raises(InvalidRequest) as refused:
            await session.submit(NewInstrumental(reference=broken))
        assert refused.value.field == "reference"
        with pytest.raises(TypeError, match="Output"):
            session.stream(broken)
        with pytest.raises(TypeError, match="Output"):
            await session.download(broken, "nowhere")
        with pytest.raises(TypeError, match="Output"):
            session.stream("https://a/b")  # type: ignore[arg-type]  # junk on purpose
    assert sim.log == []


@pytest.mark.parametrize("host", ["xn--", "XN--", "xn--a-.com", "a..b", f"{'a' * 64}.com", ".", f"{'a.' * 130}com"])
async def test_what_can_be_no_host_is_refused(host: str) -> None:
    """As a base URL, a proxy, or the URL of an output, before a resolver sees it."""
    with pytest.raises(SettingsError, match="base_url"):
        Settings(api_key="spk_1", base_url=f"https://{host}")
    with pytest.raises(SettingsError, match="proxy"):
        Settings(api_key="spk_1", proxy=f"http://{host}:3128")
    assert find_objection(f"https://{host}/x", secure=True, local=False) is not None


@pytest.mark.parametrize("host", ["xn--fa-hia.de", "xn--ls8h.example", "a_b.example", "example.", "[::1]", "10.0.0.1"])
async def test_what_may_be_a_host_is_left_to_the_network(host: str) -> None:
    """Names of every generation of the rules, and addresses."""
    Settings(api_key="spk_1", base_url=f"https://{host}")
    async with Session(Settings(api_key="spk_1", base_url=f"https://{host}")):
        pass


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001", "9999999999", "now"])
async def test_a_date_at_the_end_of_the_calendar_is_junk(date: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no reason to fail, and no time."""
    async with simulate() as sim, Session(settings(sim)) as session:
        clock = session._engine.transport._http._clock
        read = clock.read
        monkeypatch.setattr(clock, "read", lambda _, **times: read(date, **times))
        async with session.run_many([NewFx("door", duration=0.1)]) as results:
            assert [type(result) async for result in results] == [Succeeded]
        assert abs(session._engine.transport.now - datetime.now(UTC)) < timedelta(days=1)


def raiser(fault: Exception) -> Callable[..., Any]:
    """Make an async function that raises."""

    async def fail(*_: object, **__: object) -> None:
        raise fault

    return fail


CHAINED = KeyError("a")
CHAINED.__context__ = ValueError("cannot use https://host/a.flac?X-Signature=secret")
GROUP = ExceptionGroup("two", [KeyError("a"), ExceptionGroup("in", [InvalidRequest("b", field="c")])])
SIGNED = ValueError("cannot use https://host/a.flac?X-Signature=secret")


@pytest.mark.parametrize(
    ("fault", "kind", "cause"),
    [
        (OverflowError("too far"), SoundpieceError, OverflowError),
        (SIGNED, SoundpieceError, type(None)),
        (ValueError("Bearer spk_live_123"), SoundpieceError, type(None)),
        (
            ExceptionGroup("two", [KeyError("a"), ExceptionGroup("in", [InvalidRequest("b", field="c")])]),
            InvalidRequest,
            type(None),
        ),
        (ExceptionGroup("one", [RecursionError()]), SoundpieceError, RecursionError),
        (type("Odd", (Exception,), {"__str__": lambda _: 1 / 0})(), SoundpieceError, Exception),
    ],
)
async def test_a_foreign_exception_is_the_failure_of_its_job(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    fault: Exception, kind: type[SoundpieceError], cause: type[Exception],
) -> None:  # fmt: skip
    """With what was known of the operation; the others go on. What may hold a secret is neither shown nor kept."""
    with monkeypatch.context() as broken:
        broken.setattr(session._engine.poller, "wait", raiser(fault))
        async with session.run_many([NewFx("door", duration=0.1)]) as results:
            (result,) = [result async for result in results]
    assert isinstance(result, Failed)
    assert type(result.error) is kind
    assert isinstance(result.error.__cause__, cause)
    assert result.error.operation is result.operation is not None
    assert (kind is SoundpieceError) is bool(caplog.records)
    assert not any(secret in f"{result.error}{caplog.text}" for secret in ("X-Signature", "spk_live"))
    await session.run(NewFx("door", duration=0.1))


@pytest.mark.parametrize("name", ["\ud800", "a\x00b", "x" * 100_000, "", 5, Text("sub")])
async def test_whatever_a_file_is_to_be_called_it_is_one_jobs_result(
    tmp_path: Path, session: Session, name: Any
) -> None:
    """The others of the same transaction are saved."""
    first, second = NewFx("first", duration=0.1), NewFx("second", duration=0.1)
    async with Journal.open(tmp_path) as journal:
        with suppress(SoundpieceError, TypeError, ValueError):
            journal.annotate(first, metadata={"\ud800": 10**400})
        requests = [(first, name), (second, None)]
        async with session.run_many(requests, journal=journal, save_to=tmp_path, ordered=True) as results:
            done = [result async for result in results]
    assert [type(result) for result in done] == [Succeeded if isinstance(name, str) else Failed, Succeeded]


async def test_a_journal_that_breaks_meanwhile_ends_the_run(
    tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loudly: what is shared is no job's."""
    async with Journal.open(tmp_path) as journal:
        monkeypatch.setattr(journal.store, "mark_sending", raiser(JournalError("the disk is gone")))
        with pytest.raises(JournalError, match="the disk is gone"):
            async with session.run_many([NewFx("a", duration=0.1)], journal=journal) as results:
                async for _ in results:
                    pass
    await session.run(NewFx("b", duration=0.1))


def test_of_a_group_the_journals_error_counts_most() -> None:
    """Whatever else is in it is a note."""
    group = ExceptionGroup("three", [KeyError("a"), InvalidRequest("b", field="c"), JournalError("d")])
    error, unexpected = contain(group, what="create.new_fx")
    assert isinstance(error, JournalError)
    assert not unexpected
    assert error.__notes__ == ["and: InvalidRequest: b", "and: KeyError: 'a'"]

    note_others(error, [OSError(str(number)) for number in range(3000)])
    assert error.__notes__[-2:] == ["and: OSError: 4", "and 2995 more"]
