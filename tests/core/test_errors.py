import copy
import pickle
from typing import Any

import pytest
from helpers.contract import SIGNED, unhurried
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core import errors
from soundpiece_async._core.errors import NotFound, OperationFailed, SoundpieceError
from soundpiece_async._core.operations import Operation, Status
from soundpiece_async._core.redaction import redact_url
from soundpiece_async._core.requests import Handle

TREE = {
    "SettingsError": ("SoundpieceError",),
    "InvalidRequest": ("SoundpieceError", "ValueError"),
    "SessionClosed": ("SoundpieceError",),
    "TransportError": ("SoundpieceError",),
    "ApiError": ("SoundpieceError",),
    "BadRequest": ("ApiError",),
    "AuthenticationError": ("ApiError",),
    "InsufficientCredits": ("ApiError",),
    "NotReady": ("SoundpieceError",),
    "NotFound": ("ApiError",),
    "ValidationError": ("ApiError",),
    "RateLimited": ("ApiError",),
    "ServerError": ("ApiError",),
    "DecodeError": ("SoundpieceError",),
    "OperationFailed": ("SoundpieceError",),
    "WaitTimeout": ("SoundpieceError", "TimeoutError"),
    "DownloadError": ("SoundpieceError",),
    "CorruptAudio": ("DownloadError",),
    "JournalError": ("SoundpieceError",),
    "SharedStoreError": ("SoundpieceError",),
    "WebhookError": ("SoundpieceError",),
}

HANDLE = Handle("create.new_fx", "op_01kd0000000000000000000004")
OPERATION = Operation(route=HANDLE.route, id=HANDLE.id, status=Status.PROCESSING, request=None)
ANSWERED = {"status": 418, "detail": "a teapot", "body": {"detail": "a teapot"}, "headers": {"x-request-id": "r1"}}
FACTS: dict[str, dict[str, Any]] = {
    "InvalidRequest": {"field": "prompt"},
    **{name: ANSWERED for name, parents in TREE.items() if name == "ApiError" or parents == ("ApiError",)},
    "ValidationError": {
        **ANSWERED,
        "fields": (errors.FieldError(("body", "prompt"), "too short", "string_too_short"),),
    },
    "RateLimited": {**ANSWERED, "retry_after": 17.0},
    "DecodeError": {"path": "outputs[0].url", "operation": OPERATION},
    "OperationFailed": {"operation": OPERATION},
    "WaitTimeout": {"handle": HANDLE, "operation": OPERATION},
    "DownloadError": {"url": "https://cdn.example/a.flac", "path": "out/a.flac", "received": 7},
    "CorruptAudio": {"url": "https://cdn.example/a.flac", "path": "out/a.flac", "received": 7},
}


def grow(kind: type[BaseException]) -> dict[str, tuple[str, ...]]:
    children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    grown = {child.__name__: tuple(base.__name__ for base in child.__bases__) for child in children}
    for child in children:
        grown |= grow(child)
    return grown


def make(name: str) -> SoundpieceError:
    error: SoundpieceError = getattr(errors, name)("what was tried", **FACTS.get(name, {}))
    return error


def test_tree() -> None:
    """The tree has exactly these errors, each below these parents, all of them below Exception."""
    assert grow(SoundpieceError) == TREE
    assert SoundpieceError.__bases__ == (Exception,)


def test_tree_is_drawn() -> None:
    """Every error stands in the drawing at the top of the file."""
    drawing = (errors.__doc__ or "").replace(",", " ").split()

    assert {"SoundpieceError", *TREE} - set(drawing) == set()


def test_retry_table() -> None:
    """Only a missing answer, a 429 and a 5xx are worth sending the same bytes again."""
    retryable = {name for name in TREE if getattr(errors, name).retryable}

    assert retryable == {"TransportError", "RateLimited", "ServerError"}
    assert not SoundpieceError.retryable


@pytest.mark.parametrize("name", TREE)
def test_every_error_has_a_docstring(name: str) -> None:
    """Each error says what it means in words of its own."""
    assert getattr(errors, name).__doc__ not in {None, getattr(errors, TREE[name][0], Exception).__doc__}


@pytest.mark.parametrize("name", TREE)
def test_facts(name: str) -> None:
    """An error carries facts as attributes, and its message alone as text."""
    error = make(name)

    assert {fact: getattr(error, fact) for fact in FACTS.get(name, {})} == FACTS.get(name, {})
    assert str(error) == "what was tried"
    assert repr(error) == f"{name}('what was tried')"


def pickle_and_back(error: SoundpieceError) -> object:
    return pickle.loads(pickle.dumps(error))  # noqa: S301 - pickled right here


@pytest.mark.parametrize("name", TREE)
@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, pickle_and_back, errors.copy_error])
def test_errors_travel(name: str, clone: Any) -> None:
    """An error survives copying and pickling with its facts and notes, so that worker processes can raise it."""
    error = make(name)
    error.add_note("gave up")
    twin = clone(error)

    assert type(twin) is type(error)
    assert (str(twin), vars(twin)) == (str(error), vars(error))


def test_a_duplicate_goes_its_own_way() -> None:
    """It has the cause of the error, but neither its traceback nor any note that comes later."""
    error = make("TransportError")
    error.add_note("gave up")
    error.__cause__ = OSError("reset")
    with pytest.raises(SoundpieceError):
        raise error
    twin = errors.copy_error(error)
    twin.add_note("of this one")

    assert (twin.__cause__, twin.__traceback__) == (error.__cause__, None)
    assert error.__notes__ == ["gave up"]
    assert not hasattr(errors.copy_error(make("TransportError")), "__notes__")


@pytest.mark.parametrize(
    ("name", "facts", "left_out"),
    [
        ("ApiError", {"status": 500}, {"detail": None, "body": None, "headers": {}}),
        ("ValidationError", {"status": 422}, {"detail": None, "body": None, "headers": {}, "fields": ()}),
        ("RateLimited", {"status": 429}, {"detail": None, "body": None, "headers": {}, "retry_after": None}),
        ("DecodeError", {}, {"path": "", "operation": None}),
        ("WaitTimeout", {"handle": HANDLE}, {"operation": None}),
        ("DownloadError", {"url": "", "path": ""}, {"received": 0}),
    ],
)
def test_facts_that_are_unknown(name: str, facts: dict[str, Any], left_out: dict[str, Any]) -> None:
    """A fact nobody knows is None, zero or empty, never missing."""
    error = getattr(errors, name)("", **facts)

    assert {fact: getattr(error, fact) for fact in left_out} == left_out


@pytest.mark.parametrize("kind", [errors.DownloadError, errors.CorruptAudio])
def test_download_errors_keep_no_secret(kind: type[errors.DownloadError]) -> None:
    """A download's error knows where from, and never what signed it."""
    error = kind("broken", url=SIGNED, path="a.flac")

    assert error.url == "https://cdn.example/a/b.flac?…"
    assert "SECRET" not in f"{error!r} {vars(error)}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://cdn.example/a.flac", "https://cdn.example/a.flac"),
        ("https://cdn.example:8443/a.flac?x", "https://cdn.example:8443/a.flac?…"),
        ("https://cdn.example/a.flac?", "https://cdn.example/a.flac"),
        ("https://user:p@ss@cdn.example/a", "https://cdn.example/a"),
        ("https://cdn.example/a#secret", "https://cdn.example/a"),
        ("//cdn.example/a?secret", "//cdn.example/a?…"),
        ("just words?secret", "just words?…"),
        ("", ""),
        ("http://[?secret", "http://[?…"),
        ("\x9b?]secret", "?…"),
        ("\x1b[#qsecret", ""),
    ],
)
def test_redact(url: str, shown: str) -> None:
    """User, query and fragment of a URL are secrets; the rest says where it points."""
    assert redact_url(url) == shown


@unhurried
@given(st.text(), st.text("abc./:[]@%&=", max_size=12))
def test_redact_takes_anything(start: str, secret: str) -> None:
    """Whatever stands before it, what follows a question mark is never shown."""
    assert "SECRET" not in redact_url(f"{start}?{secret}SECRET")


def test_an_error_names_its_operation() -> None:
    """By its handle, and by the operation where that is known; what it names already stays."""
    handle, other = Handle("create.new_fx", "op_1"), Handle("create.new_fx", "op_2")
    operation: Operation[None] = Operation(route="create.new_fx", id="op_3", status=Status.READY, request=None)
    assert SoundpieceError("x").handle is None
    error = NotFound("x", status=404)
    assert error.about(handle) is error
    assert error.about(other).handle == handle
    assert (
        error.about(operation=operation).handle == operation.handle == OperationFailed("x", operation=operation).handle
    )
    assert pickle.loads(pickle.dumps(SoundpieceError("x").about(handle))).handle == handle  # noqa: S301 - our own bytes
