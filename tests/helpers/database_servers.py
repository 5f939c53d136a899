"""A Redis or Valkey server and a Postgres server for tests, on free ports, stopped by pid."""

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from helpers.open_folder import make_open_folder
from helpers.ports import reserved_port

PASSWORD = "open sesame"
_QUOTED = "open%20sesame"


def find_program(*names: str) -> str:
    """Find a server where Debian and its like put it."""
    newest = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    places = [os.environ["PATH"], "/usr/sbin", "/usr/local/sbin", *newest]
    for name in names:
        if (found := shutil.which(name, path=os.pathsep.join(places))) is not None:
            return found
    raise AssertionError(f"no {' or '.join(names)} on this machine: nox installs it")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@attrs.define
class Server:
    """A server process that can be killed, paused, and started again on its port, empty."""

    url: str
    command: list[str]
    port: int
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)  # noqa: S603 - our own
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as link:
                if self._answers(link):
                    return
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def _answers(self, link: socket.socket) -> bool:
        """Ask for what every version answers: a refusal of Redis, or the question of Postgres for the password."""
        if self.url.startswith("redis"):
            link.sendall(b"PING\r\n")
            return link.recv(1) in (b"-", b"+")
        names = b"user\0soundpiece\0database\0postgres\0\0"
        link.sendall(struct.pack("!ii", 8 + len(names), 3 << 16) + names)
        return link.recv(1) == b"R"  # an error: it is starting up

    @property
    def pids(self) -> list[int]:
        """The server and its children, which it may have made groups of their own."""
        assert self.process is not None
        return [self.process.pid, *_children(self.process.pid)]

    def _signal(self, number: signal.Signals) -> None:
        """Signal all of them; a child may have ended since it was listed."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def pause(self) -> None:
        """Stop it in its tracks: connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume it."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a chance to save anything."""
        if self.process is not None:
            self._signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@contextmanager
def serve_redis(*words: str) -> Iterator[Server]:
    """Run a Redis or Valkey that asks for a password."""
    with make_open_folder() as folder, reserved_port() as port:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
        command = [find_program("valkey-server", "redis-server"), *options, "--requirepass", PASSWORD, *words]
        server = Server(f"redis://:{_QUOTED}@127.0.0.1:{port}/0", command, port, folder / "redis.log")
        with _run(server):
            yield server


@contextmanager
def serve_postgres(cache: Path, **changes: str) -> Iterator[Server]:
    """Run a Postgres that asks for a password. It refuses to run as root, so it does not.

    Args:
        cache: a folder that the processes of a test run share: a cluster takes a second to make, and no time to copy.
        changes: of the settings, which are those of a test: nothing is left on the disk for certain.
    """
    user = _find_servant()
    with make_open_folder() as folder, reserved_port() as port:
        with (cache / "cluster.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (cache / "cluster").exists():
                _make_cluster(folder, user)
                shutil.move(folder / "cluster", cache / "cluster")
        data = folder / "data"
        shutil.copytree(cache / "cluster", data)
        _give(data, user)
        options = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        options |= {"shared_buffers": "16MB", "max_connections": 60, "autovacuum": "off"} | changes
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = [*_become(user), find_program("postgres"), "-D", str(data), *words]
        url = f"postgresql://soundpiece:{_QUOTED}@127.0.0.1:{port}/postgres"
        server = Server(url, command, port, folder / "postgres.log")
        with _run(server):
            yield server


@contextmanager
def _run(server: Server) -> Iterator[None]:
    try:
        server.start()
        yield
    finally:
        server.kill()


def _find_servant() -> str | None:
    """Return the user that runs Postgres when we are root."""
    if os.geteuid() != 0:
        return None
    return "postgres" if any(one.pw_name == "postgres" for one in pwd.getpwall()) else "nobody"


def _become(user: str | None) -> list[str]:
    if user is None:
        return []
    entry = pwd.getpwnam(user)
    return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups", "--"]


def _give(folder: Path, user: str | None) -> None:
    if user is not None:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, user)


def _make_cluster(folder: Path, user: str | None) -> None:
    password, made = folder / "password", folder / "cluster"
    password.write_text(PASSWORD)
    made.mkdir(mode=0o700)
    _give(password, user)
    _give(made, user)
    options = ["--no-sync", "-A", "scram-sha-256", "-U", "soundpiece", f"--pwfile={password}", "-E", "UTF8"]
    command = [*_become(user), find_program("initdb"), "-D", str(made), "--locale=C", *options]
    subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=folder)  # noqa: S603 - our own
