"""The command line in this process: exit codes, one line for every failure, every route, and never the key."""

import io
import json
import os
import runpy
import signal
import sys
from pathlib import Path
from uuid import UUID

import attrs
import pytest
import soundfile
from helpers.object_stores import BUCKET, serve_bucket
from helpers.simulation import Serve

import soundpiece_async
from soundpiece_async._core.requests import ROUTES
from soundpiece_async.cli import main
from soundpiece_async.cli.run import RequestFlags
from soundpiece_async.simulator import Fault

SECRET = "spk_a_key_that_nobody_may_ever_see"
SOURCE = "https://media.example.com/track.wav"

FLAGS = {
    "create.new_song": ["--lyrics", "[Verse]\nRain", "--prompt", "synthwave"],
    "create.new_instrumental": ["--reference", SOURCE],
    "create.new_sample": ["--prompt", "drum loop", "--duration", "1.5", "--loopable"],
    "create.new_fx": ["--prompt", "thunder", "--duration", "1"],
    "create.remix_song": ["--source", SOURCE, "--lyrics", "La", "--prompt", "house", "--n-variations", "2"],
    "create.remix_instrumental": ["--source", SOURCE],
    "adapt.separate_stems": ["--source", SOURCE],
    "adapt.auto_cut_down": ["--source", SOURCE, "--target-duration", "1.5"],
}
FILES = {"create.new_song": 2, "create.new_instrumental": 2, "create.remix_song": 2, "adapt.separate_stems": 4}

Streams = pytest.CaptureFixture[str]


def complaint(streams: Streams) -> str:
    """Return the only line on standard error."""
    out, err = streams.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("soundpiece: ")
    return err


@pytest.mark.parametrize(
    "command",
    [
        [],
        *([name] for name in ("bulk", "completion", "demo", "doctor", "get", "probe", "resume", "run", "simulate")),
        *([name] for name in ("status", "verify")),
    ],
)
def test_help(command: list[str], capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command has a help text, exits with 0, and prints no key."""
    monkeypatch.setenv("SOUNDPIECE_API_KEY", SECRET)
    assert main([*command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert "Usage: soundpiece" in out
    assert err == ""
    assert SECRET not in out


def test_version(capsys: Streams) -> None:
    """``--version`` prints the version of the package."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sing"], "Unknown command"),
        (["run"], "ROUTE"),
        (["run", "create.new_opera"], "create.new_song"),
        (["run", "create.new_fx", "--prompt", "x", "--duration", "long"], "--duration"),
        (["run", "create.new_fx"], "create.new_fx requires --prompt; its flags are --prompt --duration"),
        (
            ["run", "adapt.auto_cut_down", SOURCE],
            "adapt.auto_cut_down requires --target-duration; its flags are --source",
        ),
        (["run", "create.new_fx", "x", "--prompt", "y"], "create.new_fx has two values for --prompt"),
        (["run", "create.new_fx", "x", "y"], "Unused Tokens: ['y']"),
        (["run", "create.new_fx", "x" * 1025], "create.new_fx: --prompt has 1025 characters, and must have 1 to 1024"),
        (["run", "create.new_fxx", "x"], 'Did you mean "create.new_fx"?'),
        (["run", "create.new_fx", "--promt", "x"], "Did you mean --prompt?"),
        (["run", "create.new_song", "@/nowhere/words.txt", "--prompt", "x"], "/nowhere/words.txt"),
        (
            ["run", "adapt.separate_stems", "--source", SOURCE, "--prompt", "x"],
            "adapt.separate_stems does not accept --prompt; its flags are --source --callback-url --idempotency-key",
        ),
        (["run", "create.new_song", "--lyrics", "@/nowhere/words.txt"], "/nowhere/words.txt"),
        (["run", "create.new_fx", "--api-key", SECRET], "--api-key"),
        (["run", "create.new_fx", "x", SECRET], "spk_…"),
        (["run", "create.new_fx", "--timeout", "-1"], "--timeout"),
        (["simulate", "--speed", "0"], "--speed"),
        (["simulate", "--speed", "nan"], "--speed"),
        (["simulate", "--port", "70000"], "--port"),
        (
            ["simulate", "--fault", "sever_error=1"],
            "unknown kind 'sever_error' (did you mean 'server_error'?); known kinds:",
        ),
        (["simulate", "--fault", "cut"], "'cut' has no share; cut=0.1 is a tenth of all requests"),
        (["simulate", "--fault", "cut=2"], "'cut' must be a share from 0 to 1"),
        (["simulate", "--variation", "ehco=strip"], "no variation 'ehco' (did you mean 'echo'?)"),
        (["simulate", "--variation", "expires=epoch", "--variation", "expires=empty"], "contradict each other"),
        (["demo", "here", "there"], "there"),
        (["sing"], "See: soundpiece --help"),
        (["run"], "See: soundpiece run --help"),
        (["run", "create.new_fx", "--api-key", SECRET], "See: soundpiece run --help"),
        (["run", "create.new_fx", "--prompt"], "--prompt requires an argument. See:"),
        (["run", "create.new_fx", "--prompt", "--duration", "1"], "--prompt requires an argument. See:"),
        (["run", "create.new_fx", "--prompt", "--duration=1"], "--prompt requires an argument. See:"),
        (["run", "create.new_fx", "--prompt", "- la la"], "If - la la is the value, write '--prompt=- la la'. See:"),
        (["run", "create.new_fx", "--name", "x", "--prompt", "-x"], "If -x is the value, write --prompt=-x. See:"),
        (["run", "create.new_fx", "--prompt", f"-{SECRET}"], "write --prompt=-spk_…"),
        (
            ["run", "create.new_fx", *FLAGS["create.new_fx"], "--save-to", ""],
            "--save-to: The name of the folder is",
        ),
        (["demo", ""], 'The name of the folder is empty; use "."'),
        (["bulk", __file__, ""], "The name of the folder is empty"),
        (["resume", ""], "The name of the folder is empty"),
        (["status", ""], "The name of the folder is empty"),
        (["verify", ""], "The name of the folder is empty"),
        (["run", "create.new_fx", "--save-to", "ftp://host/x"], "unsupported destination URL"),
        (["run", "create.new_fx", "--save-to", "s3:/songs"], "a slash is missing, as s3://"),
        (["get", "create.new_fx/op_1", "--save-to", "file://songs"], "on the machine 'songs'"),
        (["bulk", __file__, "s3://songs/x"], "s3://songs/x is not a local folder"),
        (["demo", "s3://songs/x"], "s3://songs/x is not a local folder"),
        (["resume", "az://songs/x"], "az://songs/x is not a local folder"),
        (["status", "gs://songs/x"], "gs://songs/x is not a local folder"),
        (["verify", "memory://x"], "memory://x is not a local folder"),
    ],
)
def test_wrong_usage(arguments: list[str], says: str, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """A usage error is one line with the fault, and exit code 2; a key that was typed is not repeated."""
    monkeypatch.setenv("SOUNDPIECE_API_KEY", SECRET)
    assert main(arguments) == 2
    said = complaint(capsys)
    assert says in said
    assert SECRET not in said


def test_a_value_may_begin_with_a_dash(serve: Serve, tmp_path: Path) -> None:
    """As the message advises; and the folder may be the current one."""
    simulator = serve()
    assert main(["run", "create.new_fx", "--prompt=-x", "--duration", "1", "--save-to", str(tmp_path)]) == 0
    (operation,) = simulator.operations.values()
    assert operation.submission.echo["prompt"] == "-x"


def test_every_field_has_a_flag() -> None:
    """``run`` accepts exactly the fields of the request classes."""
    members = {name for kind in ROUTES.values() for name in attrs.fields_dict(kind)}
    assert set(attrs.fields_dict(RequestFlags)) == members
    assert set(FLAGS) == set(ROUTES)


@pytest.mark.parametrize(
    "arguments", [["adapt.separate_stems", "mix.wav"], ["create.new_song", "La", "--reference", "mix.wav"]]
)
def test_run_with_a_local_file(
    arguments: list[str], serve: Serve, tmp_path: Path, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is uploaded to the bucket of --via and stays there; faults are found before anything is sent."""
    simulator = serve()
    monkeypatch.chdir(tmp_path)
    Path("mix.wav").write_bytes(b"RIFF")
    with serve_bucket() as bucket:
        for variable, value in bucket.environ.items():
            monkeypatch.setenv(variable, value)
        assert main(["run", *arguments, "--via", f"s3://{BUCKET}/inbox", "--save-to", "out"]) == 0
        (key,) = (name for name in bucket.objects)
        assert key.startswith("inbox/")
        assert key.endswith(".wav")
        assert f"mix.wav uploading to s3://{BUCKET}/inbox\n" in capsys.readouterr().err
        (body,) = [request.body for request in simulator.log if request.method == "PUT"]
        assert f"/{BUCKET}/{key}?X-Amz-".encode() in body

        bucket.objects.clear()
        for wrong, reason in (
            ([*arguments, "--via", "inbox"], "name a folder in a bucket"),
            ([*arguments[:-1], "mox.wav", "--via", f"s3://{BUCKET}"], "mox.wav: no such file; nothing was sent"),
            ([*arguments[:-1], SOURCE, "--via", f"s3://{BUCKET}"], "--via is for a local file as --source or"),
            (arguments, "URL with a host; to upload a local file, add --via s3://bucket/folder; nothing was sent"),
        ):
            assert main(["run", *wrong]) == 2
            assert reason in complaint(capsys)
        assert not bucket.objects
    assert len(simulator.operations) == 1


@pytest.mark.parametrize("route", FLAGS)
def test_run(route: str, serve: Serve, tmp_path: Path, capsys: Streams) -> None:
    """Each route ends in complete audio files, whose paths go to standard output; progress goes to standard error."""
    simulator = serve()
    assert main(["run", route, *FLAGS[route], "--save-to", str(tmp_path), "--name", "mine"]) == 0
    out, err = capsys.readouterr()
    paths = [Path(line) for line in out.splitlines()]
    assert len(paths) == FILES.get(route, 1)
    for path in paths:
        assert path.parent == tmp_path
        assert path.name.startswith("mine")
        assert len(soundfile.read(path)[0]) > 0
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert [operation.route.name for operation in simulator.operations.values()] == [route]
    assert f"{route}/op_" in err
    assert simulator.api_key not in out + err


def test_run_without_flags(serve: Serve, tmp_path: Path, capsys: Streams) -> None:
    """The first field needs no flag, and an effect no duration (E8)."""
    simulator = serve()
    words = tmp_path / "words.txt"
    words.write_text("[Verse]\nla")
    for route, first, more in (
        ("create.new_fx", "door slams", []),
        ("create.new_song", f"@{words}", ["--prompt", "folk"]),
        ("adapt.separate_stems", SOURCE, []),
    ):
        assert main(["run", route, first, *more, "--save-to", str(tmp_path)]) == 0
    fx, song, stems = (operation.submission.echo for operation in simulator.operations.values())
    assert (fx["prompt"], fx["duration"], song["lyrics"]) == ("door slams", 5.0, "[Verse]\nla")
    assert stems["source"] == {"url": SOURCE}
    capsys.readouterr()


def test_run_json(serve: Serve, tmp_path: Path, capsys: Streams) -> None:
    """``--json`` prints one line; the same key returns the same operation and is charged once."""
    simulator = serve()
    key = "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a01"
    flags = [*FLAGS["create.new_fx"], "--idempotency-key", key, "--timeout", "20", "--json"]
    seen = []
    for _ in range(2):
        assert main(["run", "create.new_fx", *flags, "--save-to", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert out.count("\n") == 1
        seen.append(json.loads(out))
    assert seen[0]["id"] == seen[1]["id"]
    assert len(simulator.operations) == 1
    assert seen[0]["idempotency_key"] == key
    (file,) = seen[0]["files"]
    assert Path(file["path"]).stat().st_size == file["bytes"]
    assert (file["sample_rate"], file["channels"], file["kind"]) == (44100, 2, None)


def test_lyrics_from_a_file(serve: Serve, tmp_path: Path, capsys: Streams) -> None:
    """``--lyrics @FILE`` sends the content of the file."""
    simulator = serve()
    words = tmp_path / "words.txt"
    words.write_text("[Verse]\nÄpfel und Öl\n", encoding="utf-8")
    out = tmp_path / "out"
    assert main(["run", "create.new_song", "--prompt", "folk", "--lyrics", f"@{words}", "--save-to", str(out)]) == 0
    (operation,) = simulator.operations.values()
    assert operation.submission.echo["lyrics"] == "[Verse]\nÄpfel und Öl\n"
    assert str(out) in capsys.readouterr().out


def test_a_path_that_the_encoding_lacks(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is printed with escapes."""
    serve()
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["run", "create.new_fx", *FLAGS["create.new_fx"], "--save-to", str(tmp_path / "é\udcff")]) == 0
    assert b"\\xe9\\udcff/op_" in written.getvalue()


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"SOUNDPIECE_API_KEY": ""}, 2, "set SOUNDPIECE_API_KEY, or try a local simulation: soundpiece sim"),
        ({"SOUNDPIECE_API_KEY": "Bearer " + SECRET}, 2, "malformed"),
        ({"SOUNDPIECE_API_KEY": SECRET}, 3, "401"),
        ({"SOUNDPIECE_BASE_URL": "http://api.soundpiece.co"}, 2, "https"),
        ({"SOUNDPIECE_BASE_URL": "http://127.0.0.1:9"}, 1, "127.0.0.1:9"),
    ],
)
def test_rejected_submits(
    changes: dict[str, str],
    code: int,
    says: str,
    *,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Streams,
) -> None:
    """A failed submit is one line without the key; its exit code says whether the input can be corrected."""
    serve()
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    assert main(["run", "create.new_fx", "--prompt", "x", "--duration", "1", "--timeout", "0.1"]) == code
    said = complaint(capsys)
    assert says in said
    assert SECRET not in said


def test_empty_account(serve: Serve, capsys: Streams) -> None:
    """An account without credits is one line and exit code 3, as in a bulk run."""
    serve(credits=0)
    assert main(["run", "create.new_fx", *FLAGS["create.new_fx"]]) == 3
    assert "credits" in complaint(capsys)


@pytest.mark.parametrize("folder", [__file__, "/proc/self"])
def test_an_unwritable_folder(folder: str, serve: Serve, capsys: Streams) -> None:
    """It is found before anything is paid for (here not even root can write to it)."""
    simulator = serve()
    assert main(["run", "create.new_fx", *FLAGS["create.new_fx"], "--save-to", folder]) == 2
    said = complaint(capsys)
    assert f"{folder} is not writable (" in said
    assert "; choose another folder (nothing was sent)" in said
    assert not simulator.operations


def test_run_into_a_bucket(serve: Serve, tmp_path: Path, capsys: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL is saved to; an unwritable store is found before anything is paid for (E3)."""
    monkeypatch.chdir(tmp_path)
    simulator = serve()
    flags = ["run", "create.new_fx", *FLAGS["create.new_fx"], "--save-to", f"s3://{BUCKET}/x"]
    with serve_bucket(error="InvalidAccessKeyId") as bucket:
        for name, value in bucket.environ.items():
            monkeypatch.setenv(name, value)
        assert main(flags) == 2
        assert f"s3://{BUCKET}/x/: nothing can be saved there: " in complaint(capsys)
        assert not simulator.operations

        bucket.error = None
        assert main([*flags, "--name", "door"]) == 0
        assert capsys.readouterr().out == f"s3://{BUCKET}/x/door.flac\n"
        assert list(bucket.objects) == ["x/door.flac"]
        assert main([*flags, "--name", "door"]) == 2
        assert "door.flac already exists, and nothing was sent" in complaint(capsys)
        assert len(simulator.operations) == 1
        bucket.rights = {"put"}
        assert main([*flags, "--name", "door", "--overwrite"]) == 0
        assert len(simulator.operations) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("route", FLAGS)
def test_a_name_that_is_taken(route: str, serve: Serve, tmp_path: Path, capsys: Streams) -> None:
    """The same command twice is charged once: the second one prints what to do, and doing it helps (E4)."""
    simulator = serve()
    flags = ["run", route, *FLAGS[route], "--save-to", str(tmp_path), "--name", "door"]
    assert main(flags) == 0
    capsys.readouterr()
    files = sorted(tmp_path.iterdir())

    assert main(flags) == 2
    said = complaint(capsys)
    assert "already exists, and nothing was sent; choose another --name, or replace it with --overwrite" in said
    assert len(simulator.operations) == 1

    assert main([*flags, "--overwrite"]) == 0
    assert sorted(tmp_path.iterdir()) == files
    assert main([*flags[:-1], "gate"]) == 0
    assert len(simulator.operations) == 3


def test_an_explicit_key_finds_its_own_files(serve: Serve, tmp_path: Path, capsys: Streams) -> None:
    """With an explicit key the same command twice is the same operation with the same files."""
    simulator = serve()
    flags = [*FLAGS["create.new_fx"], "--save-to", str(tmp_path), "--name", "door"]
    for _ in range(2):
        assert main(["run", "create.new_fx", *flags, "--idempotency-key", str(UUID(int=7, version=4))]) == 0
    assert len(simulator.operations) == 1
    capsys.readouterr()


def test_get_with_an_existing_file(serve: Serve, tmp_path: Path, capsys: Streams) -> None:
    """The message advises a flag of the command line, which helps."""
    (tmp_path / "door.flac").write_bytes(b"something else")
    simulator = serve()
    assert main(["run", "create.new_fx", *FLAGS["create.new_fx"], "--save-to", str(tmp_path)]) == 0
    (operation,) = simulator.operations.values()
    flags = ["get", f"create.new_fx/{operation.id}", "--save-to", str(tmp_path), "--name", "door"]
    capsys.readouterr()
    assert main(flags) == 1
    assert (
        "it already exists with different content; choose another name or folder, remove it, or pass --overwrite"
        in (capsys.readouterr().err)
    )
    assert main([*flags, "--overwrite"]) == 0
    assert (tmp_path / "door.flac").read_bytes()[:4] == b"fLaC"


def test_a_folder_that_is_nested_too_deeply(serve: Serve, tmp_path: Path, capsys: Streams) -> None:
    """Python creates folders recursively: thousands of levels are an error, and nothing is paid for."""
    simulator = serve()
    folder = str(tmp_path / ("d/" * 1900))
    for command in (["run", "create.new_fx", *FLAGS["create.new_fx"], "--save-to", folder], ["demo", folder]):
        assert main(command) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "it is nested too deeply" in err.splitlines()[-1]
    assert not simulator.operations
    assert list(tmp_path.iterdir()) == []


def test_failures_after_the_submit(serve: Serve, capsys: Streams) -> None:
    """The error is the last line, exit code 1; the command that resumes is printed above it."""
    serve(durations={"create.new_fx": 1e6})
    assert main(["run", "create.new_fx", *FLAGS["create.new_fx"], "--timeout", "0.2"]) == 1
    *progress, last = capsys.readouterr().err.splitlines()
    assert "resume with: soundpiece get create.new_fx/op_" in progress[0]
    assert last.startswith("soundpiece: ")
    assert "create.new_fx/op_" in last


def test_failed_operation(serve: Serve, capsys: Streams) -> None:
    """Code and message of the service are printed."""
    serve().inject(Fault.FAIL, route="create.new_fx")
    assert main(["run", "create.new_fx", *FLAGS["create.new_fx"]]) == 1
    assert "internal_error" in capsys.readouterr().err.splitlines()[-1]


def test_interrupted_submission(serve: Serve, capsys: Streams) -> None:
    """Interrupting a submit prints the key, because the request may have been accepted."""
    serve(on_request=lambda _: os.kill(os.getpid(), signal.SIGINT)).inject(Fault.STALL, method="PUT", seconds=5.0)
    key = "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a02"
    assert main(["run", "create.new_fx", *FLAGS["create.new_fx"], "--idempotency-key", key]) == 130
    hint, last = capsys.readouterr().err.splitlines()
    assert hint.endswith(f"--idempotency-key {key}")
    assert last == "interrupted"


def test_the_package_is_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m soundpiece_async`` is the command ``soundpiece``, with its exit code."""
    monkeypatch.setattr("soundpiece_async.cli.main", lambda: 7)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(Path(soundpiece_async.__file__).with_name("__main__.py")), run_name="__main__")
    assert ended.value.code == 7
