"""The example application, asked over plain sockets: strangers get nothing, and no request makes it fail."""

import http.client
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from anyio import to_thread
from helpers.ports import reserved_port
from helpers.raw_api import Peer, RawApi
from helpers.raw_api import http as write_http

STUDIO = Path(__file__).parent.parent / "examples" / "studio"
FOREIGN = "http://elsewhere.example"


@attrs.frozen
class Answer:
    """What came back."""

    status: int
    body: bytes


@attrs.frozen
class Studio:
    """One studio in a process of its own."""

    port: int
    log: Path

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send one request with just these headers; ``Host`` is the right one if none is given, and "" means none."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in ({"Host": f"127.0.0.1:{self.port}"} | named).items():
                if value:
                    connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return Answer(answer.status, answer.read() if path != "/events" else answer.fp.readline())
        finally:
            connection.close()

    def post_form(self, form: object, **headers: str) -> Answer:
        """Post a form; text goes as it is."""
        return self.ask("POST", "/sounds", (form if isinstance(form, str) else json.dumps(form)).encode(), **headers)

    def news(self) -> dict[str, Any]:
        """Read the first event of a page that connects, as strictly as a browser."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", "/events")
            lines = iter(connection.getresponse().readline, b"")
            event = next(line for line in lines if line.startswith(b"data:"))
        finally:
            connection.close()
        news: dict[str, Any] = json.loads(
            event[5:], parse_constant=lambda word: pytest.fail(f"the page dies of {word}")
        )
        return news


@contextmanager
def open_studio(folder: Path, *options: str, **environ: str) -> Iterator[Studio]:
    """Run one, with every warning an error, until the end of the block."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("SOUNDPIECE", "STUDIO"))}
    command = [sys.executable, "-W", "error", STUDIO, "--data", folder, "--speed", "60", *options]
    log = folder.with_suffix(".log")
    with reserved_port() as port, log.open("wb") as stderr:
        process = subprocess.Popen(  # noqa: S603 - our own example
            [*command, "--port", str(port)], stdout=subprocess.PIPE, stderr=stderr, env=ours | environ
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"The studio is running"), log.read_text()
            yield Studio(port, log)
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A studio for tests that do no harm to it, nor it to them: at the end it has logged no fault of its own."""
    with open_studio(tmp_path_factory.mktemp("studio") / "data") as opened:
        yield opened
    assert not re.findall("ERROR|Traceback|internal error", opened.log.read_text())


def effect(**fields: Any) -> dict[str, Any]:
    """A good form, or not."""
    return {"kind": "create.new_fx", "fields": {"prompt": "door slams", "duration": 0.5, **fields}}


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LocalHost", "[::1]"])
def test_the_studio_answers_to_its_own_names(studio: Studio, name: str) -> None:
    """And to pages of its own, from which every browser sends ``Origin``."""
    host = f"{name}:{studio.port}"
    assert studio.ask("GET", "/", Host=host).status == 200
    assert studio.post_form(effect(), Host=host, Origin=f"http://{host}", Sec_Fetch_Site="same-origin").status == 201


ROUTES = [
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "/events"),
    ("POST", "/sounds"),
    ("POST", "/sounds/1/again"),
    ("DELETE", "/sounds/1"),
    ("PATCH", "/sounds/1"),
    ("GET", "/audio/x.flac"),
    ("GET", "/static/studio.js"),
    ("POST", "/hooks/soundpiece"),
    ("OPTIONS", "/sounds"),
    ("PUT", "/nowhere"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_route_answers_another_site(studio: Studio, method: str, path: str) -> None:
    """Neither under another name (a rebound DNS name is of one origin with it), nor for a page of another site."""
    body = json.dumps(effect()).encode() if method in {"POST", "PUT"} else None
    before = len(studio.news()["ids"])
    for host in (f"rebound.example:{studio.port}", "127.0.0.1", f"127.0.0.1:{studio.port}.rebound.example", "x@y:1 z"):
        assert studio.ask(method, path, body, Host=host).status == 421, host
    for origin in (FOREIGN, "null", f"https://127.0.0.1:{studio.port}", f"http://127.0.0.1:{studio.port}.x.example"):
        assert studio.ask(method, path, body, Origin=origin).status == 403, origin
    for site in ("cross-site", "same-site"):
        assert studio.ask(method, path, body, Sec_Fetch_Site=site).status == 403, site
    assert len(studio.news()["ids"]) == before


def test_a_link_from_another_site_opens_the_page(studio: Studio) -> None:
    """That reads nothing, and spends nothing."""
    assert studio.ask("GET", "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status == 200
    posted = studio.ask("POST", "/sounds", b"{}", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    assert posted.status == 403  # a form that is sent by itself


def test_a_proxy_in_front_has_a_name_of_its_own(tmp_path: Path) -> None:
    """``STUDIO_PUBLIC_URL`` adds one, and no more."""
    with open_studio(tmp_path / "data", STUDIO_PUBLIC_URL="https://studio.example/") as studio:
        assert studio.ask("GET", "/", Host="studio.example").status == 200
        assert studio.post_form(effect(), Host="studio.example", Origin="https://studio.example").status == 201
        assert studio.post_form(effect(), Host="studio.example", Origin="http://studio.example").status == 403
        assert studio.ask("GET", "/", Host="other.example").status == 421
        assert studio.ask("GET", "/", Host="").status in {400, 421}


FORMS = [
    '{"kind": "create.new_fx", "fields": {"prompt": "x", "duration": 1e400}}',
    '{"kind": "create.new_fx", "fields": {"prompt": "x", "duration": -1e400}}',
    '{"kind": "create.new_fx", "fields": {"prompt": "x", "duration": Infinity}}',
    '{"kind": "create.new_fx", "fields": {"prompt": "x", "duration": NaN}}',
    '{"kind": "create.new_fx", "fields": {"prompt": "x", "duration": %s}}' % ("9" * 4000),
    '{"kind": "create.new_fx", "fields": {"prompt": "x", "duration": %s}}' % ("9" * 5000),
    '{"kind": "create.new_fx", "fields": {"prompt": "\\ud800", "duration": 1}}',
    '{"kind": "adapt.separate_stems", "fields": {}, "parent": 1e400}',
    '{"kind": "adapt.separate_stems", "fields": {}, "parent": 1, "take": 1e400}',
    '{"kind": "adapt.separate_stems", "fields": {}, "parent": 1, "take": -1}',
    '{"kind": "adapt.separate_stems", "fields": {}, "parent": %s}' % ("1" * 5000),
    '{"kind": "adapt.separate_stems", "fields": {}, "parent": NaN}',
    '{"kind": "adapt.separate_stems", "fields": {}, "parent": true}',
    '{"kind": "adapt.separate_stems", "fields": {}, "parent": "1"}',
    '{"kind": "create.new_fx", "key": 1e400, "fields": {"prompt": "x", "duration": 1}}',
    '{"kind": 1e400, "fields": {}}',
    '{"kind": "create.new_fx", "fields": 1e400}',
    "1e400",
    "[" * 60_000,
    "\0",
    *(
        json.dumps({"kind": kind, "fields": {"prompt": "x", "duration": 1, "lyrics": "y", **fields}})
        for kind in ("create.new_fx", "create.new_sample", "create.new_song", "create.new_instrumental")
        for fields in (
            {"prompt": {"a": 1}},
            {"prompt": 5},
            {"prompt": ["x"]},
            {"prompt": True},
            {"prompt": "x" * 20_000},
        )
    ),
    *(json.dumps(effect(duration=value)) for value in (True, None, "1", [1], {"a": 1}, 1e300)),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[:80])
def test_an_invalid_form_is_refused(studio: Studio, form: str) -> None:
    """400 and a word of what to do; nothing is stored, and the page of everybody lives on."""
    before = studio.news()["ids"]
    answer = studio.post_form(form)
    assert (answer.status, list(json.loads(answer.body))) == (400, ["problem"])
    assert studio.news()["ids"] == before


def test_a_form_that_is_too_large_is_refused(studio: Studio) -> None:
    """Before it is read."""
    assert studio.post_form(effect(prompt="x" * 2_000_000)).status == 413


LONG = "1" * 5000


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *((method, f"/sounds/{number}{end}") for number in (LONG, "-1", "1e400", "%31%00", "٣", "", "NaN")
          for method, end in (("POST", "/again"), ("DELETE", ""), ("PATCH", ""))),
        *(("GET", f"/audio/{name}") for name in (f"{LONG}.flac", "%00.flac", "..%2fstudio.sqlite", "%ff.flac", "x")),
        *(("GET", f"/static/{name}") for name in (LONG, f"{LONG}.js", "%00", "..%2fapp.py", "../app.py", "", "%ff")),
        ("GET", "/%00"),
        ("PATCH", "/sounds"),
        ("GET", "/sounds/1"),
    ],
    ids=lambda part: part[:40],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_refused(studio: Studio, method: str, path: str) -> None:
    """4xx, however long its numbers are."""
    from urllib.parse import quote  # used once

    assert 400 <= studio.ask(method, quote(path, safe="/%")).status < 500


@pytest.mark.parametrize(
    "header", ["Range", "If_Range", "If_Modified_Since", "If_None_Match", "Last_Event_ID", "Cookie"]
)
@pytest.mark.parametrize("value", ["x", "bytes=9-1", f"bytes={LONG}-", "1e400", '"'])
def test_no_header_makes_it_fail(studio: Studio, header: str, value: str) -> None:
    """The page and its parts are sent, or the request is refused."""
    for path in ("/", "/static/studio.js"):
        assert studio.ask("GET", path, **{header: value}).status < 500


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{}", b'{"title": 5}', b'{"title": "\\ud83d"}', b'{"title": NaN}', b"[" * 100_000]
)
def test_an_invalid_title_is_refused(studio: Studio, body: bytes) -> None:
    """400, and a long one is cut."""
    assert studio.ask("PATCH", "/sounds/1", body).status == 400
    assert studio.ask("PATCH", "/sounds/999", json.dumps({"title": "x" * 500}).encode()).status == 204


def test_a_sound_in_use_is_not_deleted(tmp_path: Path) -> None:
    """What is being made would be lost; an older studio's database has no titles, and is read all the same."""
    folder = tmp_path / "data"
    with open_studio(folder, "--speed", "0.001") as studio:
        assert studio.post_form(effect()).status == 201
        assert studio.ask("DELETE", "/sounds/1").status == 409
        assert studio.ask("DELETE", "/sounds/2").status == 204
        assert studio.ask("PATCH", "/sounds/1", b'{"title": "mine"}').status == 204
        (sound,) = studio.news()["sounds"]
        assert sound["title"] == ""
    database = sqlite3.connect(folder / "studio.sqlite")
    with database:
        database.execute("alter table sounds drop column title")
        database.execute("update sounds set state = 'failed', problem = 'none'")
    database.close()
    with open_studio(folder) as studio:
        (sound,) = studio.news()["sounds"]
        assert (sound["title"], sound["state"]) == ("", "failed")
        assert studio.ask("PATCH", "/sounds/1", b'{"title": "  mine  now "}').status == 204
        assert studio.news()["sounds"][0]["title"] == "mine now"
        assert studio.ask("DELETE", "/sounds/1").status == 204
        assert studio.news()["ids"] == []


def test_one_bad_record_hides_no_other(tmp_path: Path) -> None:
    """Whatever an earlier version, or a hand, has left in the database: the others are shown, and more can be made."""
    folder = tmp_path / "data"
    with open_studio(folder) as studio:
        for _ in range(8):
            assert studio.post_form(effect()).status == 201
    bad = {
        1: ("fields", '{"prompt": "x", "duration": Infinity}'),
        2: ("fields", "not JSON"),
        3: ("fields", '"text"'),
        4: ("files", "[5]"),
        5: ("created", "yesterday"),
        6: ("kind", "create.nothing"),
        7: ("handle", "nonsense"),
    }
    database = sqlite3.connect(folder / "studio.sqlite")
    with database:
        for number, (column, value) in bad.items():
            database.execute(f"update sounds set {column} = ?, state = 'making' where id = ?", (value, number))  # noqa: S608 - our names
    database.close()
    with open_studio(folder) as studio:
        assert studio.post_form(effect(prompt="a new one")).status == 201
        news = studio.news()
        assert {8, 9} <= set(news["ids"])
        assert {8, 9} <= {sound["id"] for sound in news["sounds"]}


@pytest.mark.anyio
async def test_what_the_service_says_ends_no_page(tmp_path: Path) -> None:
    """Its reasons are shown in the page, whatever they are: a megabyte, halves of characters, escape codes."""
    words = "no\ud83d \x1b[2J " + "x" * 1_000_000

    async def fail(peer: Peer, honest: bytes) -> None:
        members = json.loads(honest.partition(b"\r\n\r\n")[2])["fx"]
        members |= {"status": "failed", "output": None, "error": {"code": words, "message": words}}
        await peer.send(write_http(json.dumps({"fx": members}).encode()))

    async with RawApi() as api:
        api.always = fail
        with open_studio(tmp_path / "data", SOUNDPIECE_API_KEY="spk_x", SOUNDPIECE_BASE_URL=api.url) as studio:
            assert (await to_thread.run_sync(studio.post_form, effect())).status == 201

            def look() -> Any:
                (sound,) = studio.news()["sounds"]
                return sound

            sound = await to_thread.run_sync(look)
            while sound["state"] != "failed":
                sound = await to_thread.run_sync(look)
            assert "The operation failed: no?" in sound["problem"]
            assert len(sound["problem"]) < 1000
            assert (await to_thread.run_sync(studio.post_form, effect(prompt="another one"))).status == 201
