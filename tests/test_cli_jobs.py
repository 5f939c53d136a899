"""What may stand in a jobs file, and what is said of what may not."""

import codecs
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from soundpiece_async import AudioSource, NewFx, NewSample, NewSong, RemixSong, SeparateStems
from soundpiece_async.cli.jobs_file import InvalidLine, Job, iterate_in_thread, read_jobs
from soundpiece_async.cli.jobs_formats import MAX_LINE_BYTES

FX = '{"route": "create.new_fx", "prompt": "door", "duration": 2.5}'
URL = "https://media.example.com/mix.wav"
KEY = "7a1f0c52-3b9e-4d6a-9c40-5e2d8b7f1a03"


def read(folder: Path, content: bytes | str, name: str = "jobs.jsonl") -> list[Job | InvalidLine]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_jobs(path))


def only(found: list[Job | InvalidLine]) -> str:
    """Return the message about the only line, which is invalid."""
    (bad,) = found
    assert isinstance(bad, InvalidLine), bad
    return bad.fault


def line(**members: Any) -> str:
    return json.dumps({"route": "create.new_fx", "prompt": "door", "duration": 2.5} | members)


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_jsonl(tmp_path: Path, mark: bytes, end: bytes) -> None:
    """With a byte order mark, Windows line ends and blank lines; line numbers are those of an editor."""
    found = read(tmp_path, mark + end.join([FX.encode(), b"", b"  \t", FX.encode()]), "jobs.txt")

    assert [(type(job), job.line) for job in found] == [(Job, 1), (Job, 4)]
    assert isinstance(found[0], Job)
    assert isinstance(found[0].request, NewFx)
    assert (found[0].request.prompt, found[0].request.duration) == ("door", 2.5)


def test_a_line_that_is_not_an_object(tmp_path: Path) -> None:
    """After the first line, which decides on the format, it is one invalid line."""
    assert read(tmp_path, f"{FX}\n[1]\n")[1:] == [InvalidLine(2, "expected a JSON object, got list")]


def test_jsonl_with_the_line_ends_of_old_macs(tmp_path: Path) -> None:
    """CR alone ends a line (E5), and blank lines count."""
    assert [job.line for job in read(tmp_path, f"{FX}\r\r{FX}\r")] == [1, 3]


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    """And no faults."""
    assert read(tmp_path, "") == read(tmp_path, "", "jobs.csv") == read(tmp_path, codecs.BOM_UTF8) == []


def test_name_and_metadata(tmp_path: Path) -> None:
    """They are not fields of the request; null is the same as absent."""
    wanted = {"name": "../x", "metadata": {"a": [1, None]}, "callback_url": None, "idempotency_key": KEY}
    (job,) = read(tmp_path, line(**wanted))

    assert isinstance(job, Job)
    assert (job.name, job.metadata) == ("../x", {"a": [1, None]})
    assert job.request == NewFx("door", duration=2.5, idempotency_key=KEY)


@pytest.mark.parametrize("source", [URL, {"url": URL}])
def test_a_source_is_a_url_or_an_object(tmp_path: Path, source: object) -> None:
    """As in Python, and as in the API."""
    text = json.dumps({"route": "adapt.separate_stems", "source": source})
    (job,) = read(tmp_path, text)

    assert isinstance(job, Job)
    assert isinstance(job.request, SeparateStems)
    assert job.request.source in (URL, AudioSource(URL))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "JSON array instead of JSON Lines (one object per line); convert with: jq -c '.[]' FILE"),
        ("[\n{},\n{}\n]", "JSON array instead"),
        ("null", "expected a JSON object on each line, or a CSV header with a column 'route'"),
        ('{\n"route": "create.new_fx"\n}', "JSON object over several lines instead of JSON Lines"),
        ("{", "convert with: jq -c . FILE > jobs.jsonl"),
        ('{"a": ' + "[" * 100_000, "invalid JSON: "),
        (FX + ",", "invalid JSON: Extra data (column 62): extra comma"),
        (FX[:-1] + ",}", ": extra comma"),
        (FX + FX, ": put each object on its own line"),
        (FX + " and", "invalid JSON: Extra data (column 63)"),
        ("{“route”: 1}", "“ is a typographic quote; use straight quotes"),
        ("{'route': 1}", "JSON uses double quotes (Python: json.dumps)"),
        (FX[:-1] + ', "x": NaN}', "NaN is not a JSON number"),
        (FX[:-1] + ', "metadata": {"a": 1, "a": 2}}', "duplicate field 'a'"),
        ('{"a": ' + "9" * 5000 + "}", "invalid JSON: "),
        (b'{"route": "create.new_fx", "prompt": "\xff"}', "invalid UTF-8 at byte 39; save the file as UTF-8"),
        (FX.encode("utf-16"), "UTF-16 instead of UTF-8"),
        (gzip.compress(FX.encode(), mtime=0), "compressed file; unpack it first, for example: gunzip FILE"),
        (b"PK\x03\x04\x14\0\x06\0", "spreadsheet or archive; save it as CSV"),
        ('{"prompt": "x"}', "missing field: route; known routes: create.new_song, "),
        (line(route="create.new_opera"), "unknown route 'create.new_opera'; known routes:"),
        (line(route=["create.new_fx"]), "unknown route ['create.new_fx']"),
        ('{"Route": "create.new_fx"}', "missing field: route ('Route' must be lower case); known routes:"),
        ('{"a": }', "invalid JSON: Expecting value (column 7)"),
        (line(route="new_fx"), "unknown route 'new_fx' (did you mean 'create.new_fx'?); known routes:"),
        (
            line(promt="x"),
            "unknown field 'promt' for create.new_fx (did you mean 'prompt'?); known fields: idempotency_key",
        ),
        (
            line(metadata=[1.5, {"x": "1e999"}]).replace('"1e999"', "1e999"),
            "metadata: contains a number that is too large",
        ),
        (
            line(metadata="deep").replace('"deep"', "[" * 202 + "]" * 202),
            "metadata: nested deeper than 200 levels",
        ),
        (
            line(colour="red"),
            "unknown field 'colour' for create.new_fx; known fields: idempotency_key, callback_url, prompt",
        ),
        (line(duration=None), "missing field: duration"),
        (line(prompt="x" * 1025, duration=-1), "prompt: has 1025 characters"),
        (line(prompt="x" * 1025, duration=-1), "; duration: must be a number of seconds above 0, not -1"),
        (line(prompt={"url": URL}), "prompt: must be text, not dict"),
        (line(prompt="\ud800"), "prompt: invalid UTF-8"),
        (line(duration="2.5"), "duration: must be a number of seconds, not str"),
        (line(duration=True), "duration: must be a number of seconds, not bool"),
        (line(idempotency_key="mine"), "idempotency_key: must be a UUID"),
        (line(name=""), "name: must be text that is not blank"),
        (line(name=7), "name: must be text that is not blank"),
        ('{"route": "create.new_song", "lyrics": "la"}', "prompt: is missing: pass either prompt or reference"),
        ('{"route": "adapt.separate_stems", "source": {"URL": 1}}', 'source: must be a URL, {"url": "..."}, {"job":'),
        ('{"route": "adapt.separate_stems", "source": {"url": 1}}', "source: must be a URL"),
        ('{"route": "adapt.separate_stems", "source": "ftp://a/b"}', "source: must be an http(s) URL"),
        ('{"route": "\\u001b[2Jx"}', "unknown route '\\x1b[2Jx'"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_invalid_lines_have_a_message(tmp_path: Path, text: bytes | str, says: str) -> None:
    """All faults of a line in one message."""
    assert says in only(read(tmp_path, text))


def test_messages_are_short_and_printable(tmp_path: Path) -> None:
    """A line may contain control characters of a terminal."""
    fault = only(read(tmp_path, line(**{"\x1b[2J\n" + "x" * 9000: 1})))

    assert fault.isprintable()
    assert len(fault) < 500


def test_a_line_that_never_ends_is_not_held(tmp_path: Path) -> None:
    """A line over a mebibyte is skipped, one byte less is read, and line numbers stay correct."""
    longest = line(metadata="x" * (MAX_LINE_BYTES - len(line(metadata="")) - 1))
    found = read(tmp_path, f"{longest}\n{longest}xx\n{'y' * 3 * MAX_LINE_BYTES}\n{FX}\n{'z' * 2 * MAX_LINE_BYTES}")

    assert [(type(job), job.line) for job in found] == [
        (Job, 1),
        (InvalidLine, 2),
        (InvalidLine, 3),
        (Job, 4),
        (InvalidLine, 5),
    ]
    assert isinstance(found[1], InvalidLine)
    assert found[1].fault == f"line longer than {MAX_LINE_BYTES} bytes"


@pytest.mark.parametrize("second", [KEY, KEY.upper()])
def test_a_key_may_be_used_once(tmp_path: Path, second: str) -> None:
    """Two lines with one key would be one operation."""
    first, twin = read(tmp_path, f"\n{line(idempotency_key=KEY)}\n{line(idempotency_key=second)}")

    assert isinstance(first, Job)
    assert twin == InvalidLine(3, "idempotency_key: already used on line 2; each job needs its own")


CSV = "route,prompt,duration,loopable,n_variations,source,lyrics,name,metadata\r\n"


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_csv(tmp_path: Path, mark: bytes) -> None:
    """Quotes, line breaks in cells, blank lines; cells are typed as the request has them, empty ones are absent."""
    rows = (
        'create.new_fx,"a ""loud"", wet\r\ndoor",2.5,,,,,door 1,"{""a"": [1]}"\r\n'
        "\r\n"
        " create.new_sample ,kick,1,TRUE,,,,,plain text\r\n"
        ",,,,,,,,\r\n"
        f'create.remix_song,house,,,2,{URL},"[Verse]\nla\n",,\n'
        "create.new_sample,kick,1,no,,,,,"
    )
    found = read(tmp_path, mark + (CSV + rows).encode(), "jobs.CSV")

    assert [job.line for job in found] == [2, 5, 7, 10]
    fx, sample, remix, other = (job for job in found if isinstance(job, Job))
    assert (fx.request.prompt, fx.request.duration) == ('a "loud", wet\r\ndoor', 2.5)  # type: ignore[attr-defined]
    assert (fx.name, fx.metadata) == ("door 1", {"a": [1]})
    assert isinstance(sample.request, NewSample)
    assert isinstance(other.request, NewSample)
    assert (sample.request.loopable, sample.request.duration, other.request.loopable) == (True, 1.0, False)
    assert (sample.name, sample.metadata) == (None, "plain text")
    assert isinstance(remix.request, RemixSong)
    assert (remix.request.n_variations, remix.request.lyrics) == (2, "[Verse]\nla\n")


def test_a_csv_needs_only_the_columns_it_uses(tmp_path: Path) -> None:
    """In any order, with blanks around their names."""
    (job,) = read(tmp_path, "prompt , route,lyrics\npop,create.new_song,la\n", "jobs.csv")

    assert isinstance(job, Job)
    assert isinstance(job.request, NewSong)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["jobs.csv", "jobs.tsv", "jobs.txt"])
def test_csv_of_spreadsheet_programs(tmp_path: Path, separator: str, name: str) -> None:
    """Semicolons as separators, columns without names at the end, names with capital letters."""
    text = "Route,Prompt,Duration,,\r\ncreate.new_fx,door,2.5,,\r\n,,,,\r\n".replace(",", separator)
    (job,) = read(tmp_path, text, name)

    assert isinstance(job, Job)
    assert job.request.duration == 2.5  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("sep=;\r\nroute;prompt;duration\r\ncreate.new_fx;door;2,5\r\n", 3),
        ('"sep=|"\nroute|prompt|duration\ncreate.new_fx|door|2.5\n', 3),
        ("\n \nroute;prompt;duration\ncreate.new_fx;door; 2,5 \n", 4),
        ("route\tprompt\tduration\rcreate.new_fx\tdoor\t2.50\r", 2),
        ("route,prompt,duration\ncreate.new_fx,door,25e-1\n", 2),
    ],
)
def test_numbers_and_marks_of_spreadsheet_programs(tmp_path: Path, text: str, at: int) -> None:
    """A decimal comma, a line that names the separator, blank lines before the header, CR as line end (E5)."""
    (job,) = read(tmp_path, text, "jobs.csv")

    assert isinstance(job, Job), job
    assert (job.line, job.request.duration) == (at, 2.5)  # type: ignore[attr-defined]


def test_a_whole_number_may_have_a_decimal_point(tmp_path: Path) -> None:
    """Pandas writes 2.0 where a column has gaps (E5)."""
    (job,) = read(tmp_path, f"route,source,n_variations\ncreate.remix_instrumental,{URL},2.0\n", "jobs.csv")

    assert isinstance(job, Job)
    assert repr(job.request.n_variations) == "2"  # type: ignore[attr-defined]


@pytest.mark.parametrize("cell", ["1,000", "1.000", "1.000,50", "12 000", "1'000", "1_000", "2.125"])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_ambiguous_numbers_are_rejected(tmp_path: Path, separator: str, cell: str) -> None:
    """Whether 1.000 is one second or a thousand is never guessed (E5)."""
    text = f"route,prompt,duration\ncreate.new_fx,door,{cell.replace(',', '%')}\n"
    text = text.replace(",", separator).replace("%", ",")

    assert "without thousands separators, and not with exactly three decimals" in only(read(tmp_path, text, "jobs.csv"))


@pytest.mark.parametrize(
    ("text", "at", "says"),
    [
        (
            "prompt,duration\nx,1\n",
            1,
            "no column 'route' in the header (separate columns with commas, semicolons or tabs)",
        ),
        ("route|prompt\nx|1\n", 1, "no column 'route' in the header"),
        ("route;prompt\n".encode("utf-16"), 1, "UTF-16 instead of UTF-8"),
        (b"route;pr\xf6mpt\n", 1, "invalid UTF-8; save the file as UTF-8"),
        ("route,prompt,duration\ncreate.new_fx,door,1_0\n", 2, "duration: must be a number, not '1_0'"),
        ('route,prompt,duration\ncreate.new_fx,door,"0,5"\n', 2, "'0,5'; decimal commas require semicolons or tabs"),
        (f"{CSV}create.new_fx,door,1e999,,,,,,\n", 2, "duration: must be a number of seconds above 0, not inf"),
        ('route,metadata\nadapt.separate_stems,"[1e999]"\n', 2, "metadata: contains a number that is too large"),
        ("route,prompt,,\ncreate.new_fx,door,,hm\n", 2, "value 'hm' in a column without a name"),
        ("route,colour,prompt\nx,1,2\n", 1, "unknown columns: 'colour'; rename or remove them"),
        ("route,promt,prompt\nx,1,2\n", 1, "unknown columns: 'promt' (did you mean 'prompt'?); rename or"),
        ("\n\nroute,prompt,prompt\nx,1,2\n", 3, "duplicate columns: prompt"),
        (f"{CSV}create.new_fx,door\n", 2, "2 cells, but the header has 9"),
        (f"{CSV}create.new_fx,door,long,,,,,,\n", 2, "duration: must be a number, not 'long'"),
        (f"{CSV}create.new_fx,door,nan,,,,,,\n", 2, "duration: must be a number of seconds above 0, not nan"),
        (f"{CSV}create.new_fx,door,2,yes,,,,,\n", 2, "unknown field 'loopable' for create.new_fx"),
        (f"{CSV}create.new_sample,kick,2,maybe,,,,,\n", 2, "loopable: must be true or false, not 'maybe'"),
        (f"{CSV}create.remix_song,a,,,2.5,{URL},la,,\n", 2, "n_variations: must be a whole number, not '2.5'"),
        (f"{CSV}create.new_fx,door,2,,,,,,{{\n", 2, "metadata: invalid JSON"),
        (f"{CSV},door,2,,,,,,\n", 2, "missing field: route"),
        (f'{CSV}create.new_fx,"do"or,2,,,,,,\n', 2, "invalid CSV: ',' expected after '\"'"),
        (f'{CSV}create.new_fx,"door,2,,,,,,\n\n', 2, "invalid CSV: unexpected end of data"),
        (CSV.encode() + b"create.new_fx,t\xfcr,2,,,,,,\n", 2, "prompt: invalid UTF-8"),
        (CSV.encode() + b"create.new_fx,tor,2,,,,,,t\xfcr\n", 2, "metadata: invalid UTF-8"),
    ],
)
def test_invalid_csv_has_a_message(tmp_path: Path, text: bytes | str, at: int, says: str) -> None:
    """With the line in which its record begins."""
    found = read(tmp_path, text, "jobs.csv")

    assert says in only(found)
    assert found[0].line == at


def test_csv_continues_after_an_invalid_record(tmp_path: Path) -> None:
    """All faults are reported."""
    found = read(tmp_path, f'{CSV}create.new_fx,"do"or,2,,,,,,\ncreate.new_fx,door,2,,,,,,\n', "jobs.csv")

    assert [(type(job), job.line) for job in found] == [(InvalidLine, 2), (Job, 3)]


@pytest.mark.anyio
async def test_a_file_is_read_in_a_thread(tmp_path: Path) -> None:
    """A chunk at a time, on demand."""
    path = tmp_path / "jobs.jsonl"
    path.write_text(f"{FX}\n" * 450)
    chunks = [len(chunk) async for chunk in iterate_in_thread(read_jobs(path))]

    assert chunks == [200, 200, 50]
