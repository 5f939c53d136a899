import string
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.errors import (
    ApiError,
    AuthenticationError,
    BadRequest,
    CorruptAudio,
    DecodeError,
    DownloadError,
    InsufficientCredits,
    InvalidRequest,
    JournalError,
    NotFound,
    NotReady,
    OperationFailed,
    RateLimited,
    ServerError,
    SessionClosed,
    SoundpieceError,
    TransportError,
    ValidationError,
    WaitTimeout,
)
from soundpiece_async._core.job_records import (
    EXPIRED,
    KEY_LIFETIME,
    Failure,
    FileRecord,
    JobRecord,
    JobState,
    classify_failure,
    describe_source,
    find_renewal,
    read_files,
    read_outputs,
    read_time,
    restore_error,
    restore_operation,
    unsign_outputs,
    write_files,
    write_outputs,
)
from soundpiece_async._core.operations import Operation, OperationError, Status
from soundpiece_async._core.redaction import redact_url
from soundpiece_async._core.requests import AudioSource, Handle, NewFx, NewInstrumental, Output, SeparateStems


async def never() -> AudioSource:
    """Renew nothing: only whether something could is asked."""
    raise NotImplementedError


REQUEST = NewFx("door", duration=2.5)
HANDLE = Handle("create.new_fx", "op_1")
OUTPUT = Output(
    url="https://out.example.com/a?sig=1", expires_at=datetime(2026, 11, 23, 1, tzinfo=UTC), duration=2.5, handle=HANDLE
)
PIECE = JobRecord(number=1, digest=b"d", key="k", route="create.new_fx", body=b"{}", state=JobState.PLANNED)


def operation(**changes: Any) -> Operation[NewFx]:
    return attrs.evolve(
        Operation(route="create.new_fx", id="op_1", status=Status.PROCESSING, request=REQUEST), **changes
    )


def failed() -> Operation[NewFx]:
    return operation(status=Status.FAILED, error=OperationError("too_loud", "It is too loud."))


def download_error(cause: Exception | None, kind: type[DownloadError] = DownloadError) -> DownloadError:
    error = kind("no file", url="https://out.example.com/a", path="a.flac")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        TransportError("no response"),
        ServerError("500", status=500),
        RateLimited("429", status=429),
        AuthenticationError("401", status=401),
        AuthenticationError("403", status=403),
        InsufficientCredits("402", status=402),
        NotFound("wrong base URL", status=404),
        ApiError("a proxy wants a password", status=407),
        ApiError("a redirect", status=302),
        WaitTimeout("late", handle=HANDLE),
        SessionClosed("closed"),
        InvalidRequest("too long", field="prompt"),
        JournalError("full"),
        DecodeError("no object"),
        DecodeError("another key", path="idempotency_key", operation=operation()),
        NotReady("no outputs").about(operation=operation()),
        download_error(OSError(28, "No space left on device")),
        download_error(TransportError("no response")),
    ],
    ids=repr,
)
@pytest.mark.parametrize("submitted", [False, True])
def test_what_the_same_key_may_mend_ends_nothing(error: SoundpieceError, *, submitted: bool) -> None:
    """An outage, the account, a full disk, a deadline or a wrong setting leave the piece where it stands."""
    assert classify_failure(error, submitted=submitted) is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadRequest("unreadable", status=400), "400"),
        (ApiError("key used for another body", status=409), "409"),
        (ValidationError("too long", status=422), "422"),
    ],
)
def test_what_ends_a_piece_at_its_submit(error: SoundpieceError, code: str) -> None:
    """A refusal of the request itself."""
    expected = Failure(type(error).__name__, code, str(error), retryable=False)

    assert classify_failure(error, submitted=False) == expected


@pytest.mark.parametrize("status", [400, 409, 422])
def test_a_refused_get_ends_nothing(status: int) -> None:
    """Once an operation exists, asking for it again costs nothing."""
    assert classify_failure(ApiError("no", status=status), submitted=True) is None


def test_what_ends_a_submitted_piece() -> None:
    """The operation failed, or its file cannot be downloaded although disk and network work."""
    gave_up = OperationFailed("failed", operation=failed())

    assert classify_failure(gave_up, submitted=True) == Failure(
        "OperationFailed", "too_loud", "It is too loud.", retryable=True
    )
    for error in (download_error(None), download_error(OSError(), CorruptAudio)):
        failure = classify_failure(error, submitted=True)
        assert failure == Failure(type(error).__name__, "", "no file", retryable=True)


def test_uncertain_is_what_was_sent_long_ago_and_never_answered() -> None:
    """A day after the first PUT nobody knows whether the service still knows the key; an answer ends the doubt."""
    sending = attrs.evolve(PIECE, state=JobState.SENDING, sent_at=1000.0)

    assert not sending.is_uncertain(now=1000.0 + KEY_LIFETIME)
    assert sending.is_uncertain(now=1001.0 + KEY_LIFETIME)
    assert not sending.is_uncertain(now=0.0)
    for state in (JobState.PLANNED, JobState.SUBMITTED, JobState.SAVED):
        assert not attrs.evolve(sending, state=state).is_uncertain(now=1e9)
    assert not attrs.evolve(sending, sent_at=None).is_uncertain(now=1e9)


def test_a_piece_without_its_files_has_not_ended() -> None:
    """Failed downloads are tried again: the operation is paid for, and a download is free."""
    failure = Failure("CorruptAudio", "", "damaged", retryable=True)

    assert attrs.evolve(PIECE, state=JobState.FAILED, failure=failure).ended
    assert not attrs.evolve(PIECE, state=JobState.FAILED, failure=failure, outputs=(OUTPUT,)).ended
    assert not PIECE.ended


def test_an_operation_comes_back_as_far_as_it_was_known() -> None:
    """Submitted it is processing, with outputs it is ready, with its failure it failed; the request is the caller's."""
    submitted = attrs.evolve(PIECE, state=JobState.SUBMITTED, operation="op_1", created_at=OUTPUT.expires_at)
    ready = attrs.evolve(submitted, state=JobState.READY, outputs=(OUTPUT,))
    gave_up = attrs.evolve(submitted, failure=Failure("OperationFailed", "c", "m", retryable=True))
    torn = attrs.evolve(ready, failure=Failure("CorruptAudio", "", "m", retryable=True))

    submitted = attrs.evolve(submitted, echo_differences=("prompt",))
    ready, gave_up, torn = (attrs.evolve(one, echo_differences=("prompt",)) for one in (ready, gave_up, torn))
    expected = operation(idempotency_key="k", created_at=OUTPUT.expires_at, echo_differences=("prompt",))
    assert restore_operation(submitted, REQUEST) == expected
    assert restore_operation(submitted, REQUEST).request is REQUEST
    assert restore_operation(ready, REQUEST) == attrs.evolve(expected, status=Status.READY, outputs=(OUTPUT,))
    assert restore_operation(gave_up, REQUEST) == attrs.evolve(
        expected, status=Status.FAILED, error=OperationError("c", "m")
    )
    assert restore_operation(torn, REQUEST) == restore_operation(ready, REQUEST)
    with pytest.raises(ValueError, match="no operation"):
        restore_operation(PIECE, REQUEST)


@pytest.mark.parametrize(
    "error",
    [
        BadRequest("unreadable", status=400),
        ApiError("key used for another body", status=409),
        ValidationError("too long", status=422),
    ],
)
def test_an_error_comes_back_as_what_it_was(error: SoundpieceError) -> None:
    """Class, text and status are those of the run in which it happened."""
    failure = classify_failure(error, submitted=False)
    assert failure is not None
    again = restore_error(failure, operation=failed())

    assert (type(again), str(again)) == (type(error), str(error))
    assert getattr(again, "status", None) == getattr(error, "status", None)
    assert getattr(again, "operation", None) == getattr(error, "operation", None)


def test_a_failed_operation_comes_back_with_its_error() -> None:
    """The code and the words of the service, and what to do next."""
    failure = Failure("OperationFailed", "too_loud", "It is too loud.", retryable=True)
    again = restore_error(failure, operation=failed())

    assert isinstance(again, OperationFailed)
    assert again.operation == failed()
    assert "too_loud: It is too loud." in str(again)
    assert "make a new request" in str(again)


def test_an_error_of_an_unknown_class_keeps_its_text() -> None:
    """A journal edited by hand still tells why."""
    again = restore_error(Failure("Strange", "", "because", retryable=False), operation=None)

    assert (type(again), str(again)) == (SoundpieceError, "because")


moments = st.none() | st.datetimes(timezones=st.just(UTC))
outputs = st.builds(
    Output,
    url=st.text(),
    expires_at=moments,
    duration=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    kind=st.none() | st.text(),
    handle=st.just(HANDLE),
    index=st.integers(0, 9),
)
records = st.builds(
    FileRecord,
    path=st.text(),
    bytes=st.integers(0),
    sha256=st.text(string.hexdigits),
    duration=st.floats(0, 1e6),
    sample_rate=st.integers(0),
    channels=st.integers(0, 8),
    index=st.integers(0, 9),
)


@given(st.lists(outputs))
def test_outputs_come_back_as_they_were(found: list[Output]) -> None:
    """Numbers, kinds, lengths, times and URLs; the operation is the piece's."""
    assert read_outputs(write_outputs(tuple(found)), handle=HANDLE) == tuple(found)


@given(st.lists(outputs))
def test_stored_outputs_forget_what_signs_them(found: list[Output]) -> None:
    """Those that have lost something count as expired, so that they are renewed; once is enough."""
    text = unsign_outputs(write_outputs(tuple(found)))
    assert unsign_outputs(text) == text
    for before, after in zip(found, read_outputs(text, handle=HANDLE), strict=True):
        url = redact_url(before.url)
        assert after == (before if url == before.url else attrs.evolve(before, url=url, expires_at=EXPIRED))


@given(st.lists(records))
def test_files_come_back_as_they_were(found: list[FileRecord]) -> None:
    """Everything a saved file is known by."""
    assert read_files(write_files(tuple(found))) == tuple(found)


def test_times_may_be_missing() -> None:
    """The service need not say when an operation was made."""
    assert read_time(None) is None
    assert read_time("2026-11-23T01:00:00+00:00") == OUTPUT.expires_at


def test_a_piece_hides_what_is_long_or_secret() -> None:
    """A body may hold a signed URL, so it is not in the repr; and neither are the URLs of outputs."""
    shown = repr(attrs.evolve(PIECE, body=b'{"source":"sig=1"}', outputs=(OUTPUT,)))

    assert "sig=1" not in shown


SOON = timedelta(seconds=59)
LATER = timedelta(seconds=61)
NOW = datetime(2026, 11, 23, tzinfo=UTC)
NAIVE = (NOW + SOON).replace(tzinfo=None)


@pytest.mark.parametrize(
    ("source", "outputs", "expired"),
    [
        ("https://a.example.com/x?sig=1", (), False),
        (attrs.evolve(OUTPUT, url="https://a.example.com/x?sig=1", expires_at=NOW + LATER), (), False),
        (attrs.evolve(OUTPUT, url="https://a.example.com/x?sig=1", expires_at=NOW + SOON), (), True),
        (attrs.evolve(OUTPUT, url="https://a.example.com/x?sig=1", expires_at=None), (), False),
        (attrs.evolve(OUTPUT, url="https://a.example.com/x?sig=2", expires_at=NOW + LATER), (), True),
        (OUTPUT, (attrs.evolve(OUTPUT, url="https://a.example.com/x?sig=1", expires_at=NOW + LATER),), False),
        (AudioSource("https://a.example.com/x?sig=1", expires_at=NOW + SOON), (), False),
        (AudioSource("https://a.example.com/x?sig=1", expires_at=NOW + SOON, renew=never), (), True),
        (
            AudioSource("https://a.example.com/x?sig=1", expires_at=(NOW + SOON).replace(tzinfo=None), renew=never),
            (),
            True,
        ),
        (AudioSource("https://a.example.com/x?sig=2", expires_at=NOW + LATER), (), False),
        (AudioSource("https://a.example.com/x?sig=2", expires_at=NOW + LATER, sha256="ab"), (), True),
        (AudioSource("https://a.example.com/x?sig=2", expires_at=NOW + SOON, sha256="ab"), (), False),
    ],
)
def test_bytes_expire_with_the_url_in_them(
    source: str | Output | AudioSource, outputs: tuple[Output, ...], *, expired: bool
) -> None:
    """If its expiry is known, and it can be renewed: that of an output, or of a file that is known by its content."""
    request = SeparateStems(source)
    body = b'{"source":{"url":"https://a.example.com/x?sig=1"}}'
    renewal = find_renewal(request, body, outputs=outputs, now=NOW)
    assert (renewal is not None and renewal <= NOW) is expired


def test_the_output_that_a_request_is_made_from_is_told() -> None:
    assert describe_source(NewInstrumental(reference=OUTPUT)) == f"{HANDLE}#0"
    assert describe_source(SeparateStems("https://a.example.com/x")) is None
    assert describe_source(REQUEST) is None
