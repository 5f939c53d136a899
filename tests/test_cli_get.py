"""``soundpiece get``: whatever has a handle can be come back to, at no price."""

import json
from pathlib import Path

import pytest
import soundfile
from helpers.simulation import Serve

from soundpiece_async.cli import main

Streams = pytest.CaptureFixture[str]

FX = ["create.new_fx", "--prompt", "thunder", "--duration", "1"]


def submit(capsys: Streams) -> str:
    """Submit an effect that takes longer than this command waits, and return the handle its last line names."""
    assert main(["run", *FX, "--timeout", "0.2"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("soundpiece: operation create.new_fx/op_")
    return last.rpartition("soundpiece get ")[2]


def test_the_command_that_an_error_prints(serve: Serve, tmp_path: Path, capsys: Streams) -> None:
    """It waits for the operation and saves it, and submits nothing."""
    simulator = serve(durations={"create.new_fx": 1e6})
    handle = submit(capsys)
    (operation,) = simulator.operations.values()

    assert main(["get", handle, "--no-wait"]) == 0
    assert capsys.readouterr().out == f"{handle} processing\n"
    assert main(["get", handle, "--timeout", "0.1"]) == 1
    assert f"resume with: soundpiece get {handle}\n" in capsys.readouterr().err
    assert main(["get", handle, "--no-wait", "--save-to", str(tmp_path)]) == 1
    assert "wait for it" in capsys.readouterr().err

    simulator.finish(operation.id)
    assert main(["get", handle]) == 0
    assert capsys.readouterr().out == f"{handle} ready\noutput 0: 1.0 s\n"
    assert main(["get", handle, "--save-to", str(tmp_path), "--name", "thunder"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == tmp_path / "thunder.flac"
    assert len(soundfile.read(path)[0]) > 0
    assert len(simulator.operations) == 1


def test_a_failed_operation(serve: Serve, capsys: Streams) -> None:
    """The reason of the service is printed, exit code 1; there is nothing to resume."""
    simulator = serve(durations={"create.new_fx": 1e6})
    handle = submit(capsys)
    (operation,) = simulator.operations.values()
    simulator.finish(operation.id, failure="internal_error")

    assert main(["get", handle]) == 1
    assert "soundpiece get" not in capsys.readouterr().err
    assert main(["get", handle, "--no-wait"]) == 1
    assert capsys.readouterr().out.startswith(f"{handle} failed: ")
    assert main(["get", handle, "--no-wait", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["id"], found["status"], found["error"]["code"]) == (operation.id, "failed", "internal_error")


def test_json(serve: Serve, tmp_path: Path, capsys: Streams) -> None:
    """One line with status, outputs and files, without signed URLs."""
    simulator = serve()
    assert main(["run", "adapt.separate_stems", "--source", "https://a.example/a.wav", "--save-to", str(tmp_path)]) == 0
    capsys.readouterr()
    (operation,) = simulator.operations.values()
    handle = f"adapt.separate_stems/{operation.id}"
    assert main(["get", handle, "--json", "--save-to", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    found = json.loads(out)
    assert (found["status"], len(found["files"]), found["created_at"][:2]) == ("ready", 4, "20")
    assert {output["kind"] for output in found["outputs"]} == {"vocals", "drums", "bass", "other"}
    assert "http" not in out
    assert main(["get", handle]) == 0
    assert "output 0: vocals, " in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["op_1", "https://cdn.example/a.flac?sig=SECRET", ""])
def test_an_invalid_handle(wrong: str, serve: Serve, capsys: Streams) -> None:
    """A usage error with the expected form; a signature is not repeated."""
    simulator = serve()
    assert main(["get", wrong]) == 2
    said = capsys.readouterr().err
    assert "expected <route>/<operation id>, as create.new_fx/op_" in said
    assert "SECRET" not in said
    assert not simulator.log


def test_a_route_that_is_misspelt(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """It may be a new one: the service is asked, and the most similar route is named."""
    simulator = serve()
    assert main(["get", "create.new_fxx/op_1", "--no-wait"]) == 1
    said = capsys.readouterr().err
    assert "unknown route create.new_fxx (did you mean 'create.new_fx'?); asking the service anyway" in said
    assert len(simulator.log) == 1
