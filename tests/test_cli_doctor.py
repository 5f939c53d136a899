"""``soundpiece doctor`` and ``completion``, in this process."""

import json
import resource
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from helpers.simulation import Serve

from soundpiece_async.cli import doctor as examined
from soundpiece_async.cli import main
from soundpiece_async.cli.doctor import check_descriptors, check_extras, read_clock, read_status

Streams = pytest.CaptureFixture[str]


def find(streams: Streams) -> dict[str, dict[str, Any]]:
    """Return the checks by name."""
    out, err = streams.readouterr()
    assert err == ""
    return {check["name"]: check for check in json.loads(out)["checks"]}


def test_all_is_well(serve: Serve, capsys: Streams) -> None:
    """Every line begins with ok; the key is not printed, and nothing is created."""
    simulator = serve()
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert {line.split()[0] for line in out.splitlines()} == {"ok"}
    assert f"base URL {simulator.url}, no proxy" in out
    assert "accepts the key" in out
    assert "in sync with the service" in out
    assert simulator.api_key not in out
    assert [request.method for request in simulator.log] == ["GET"]


def test_no_key(serve: Serve, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service is checked all the same, and the advice is printed."""
    serve()
    monkeypatch.setenv("SOUNDPIECE_API_KEY", "")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "fail  settings: no API key" in out
    assert "\n      export SOUNDPIECE_API_KEY=spk_..., or without a key run: soundpiece simulate\n" in out
    assert "ok    service: responds in " in out
    assert "the key" not in out.partition("ok    service")[2]


def test_an_invalid_key(serve: Serve, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not sent anywhere."""
    simulator = serve()
    monkeypatch.setenv("SOUNDPIECE_API_KEY", "Bearer x")
    assert main(["doctor", "--json"]) == 1
    checks = find(capsys)
    assert checks["settings"]["advice"].startswith("correct SOUNDPIECE_API_KEY")
    assert "service" not in checks
    assert simulator.log == []


def test_no_response(serve: Serve, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """The advice contains the address."""
    serve()
    monkeypatch.setenv("SOUNDPIECE_BASE_URL", "http://127.0.0.1:9")
    assert main(["doctor", "--json"]) == 1
    assert "http://127.0.0.1:9" in find(capsys)["service"]["advice"]


@pytest.mark.parametrize(
    ("status", "has_key", "ok", "says"),
    [
        (404, True, True, "accepts the key"),
        (401, False, True, "responds in 20 ms"),
        (401, True, False, "rejects the key (401)"),
        (403, True, False, "rejects the key (403)"),
        (302, True, False, "with a redirect (302)"),
        (429, True, None, "rate limit reached (429)"),
        (503, True, False, "with a server error (503)"),
    ],
)
def test_what_a_response_means(*, status: int, has_key: bool, ok: bool | None, says: str) -> None:
    """Every problem comes with advice."""
    check = read_status(status, seconds=0.02, has_key=has_key)
    assert check.ok is ok
    assert says in check.found
    assert (check.advice == "") == (ok is True)


def test_a_clock_that_is_wrong() -> None:
    """By more than half a minute; an invalid header has no finding."""
    then = datetime.now(UTC) - timedelta(hours=2)
    (check,) = read_clock(format_datetime(then))
    assert check.ok is None
    assert check.found.endswith("s ahead of the service")
    (check,) = read_clock(format_datetime(then + timedelta(hours=4)))
    assert check.found.endswith("s behind the service")
    assert read_clock(None) == read_clock("yesterday") == []


def test_missing_extras_and_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that helps."""
    monkeypatch.setattr(examined, "find_spec", lambda name: None if name == "obstore" else name)
    (check,) = [check for check in check_extras() if check.ok is None]
    assert (check.name, "(obstore missing)" in check.found) == ("extra obstore", True)
    assert 'pip install "soundpiece-async[obstore]"' in check.advice
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    check = check_descriptors()
    assert check.ok is None
    assert "limits are reduced (polls=" in check.found
    assert check.advice == "raise the limit: ulimit -n 1024"
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, -1))
    assert check_descriptors().found == "no limit"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capsys: Streams) -> None:
    """The script of each shell contains the commands and their flags."""
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("soundpiece", "bulk", "retry-failed"))
    assert main(["completion", "tcsh"]) == 2
