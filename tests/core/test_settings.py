import math
from typing import Any

import attrs
import pytest
from helpers.contract import attempt, unhurried
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async._core.errors import SettingsError
from soundpiece_async._core.settings import BASE_URL, Limits, RetryPolicy, Settings, Timeouts

KEY = "spk_test_0123456789"


def test_defaults() -> None:
    """A key is all it takes; the rest are the defaults the documentation states."""
    settings = Settings(api_key=KEY)

    assert attrs.asdict(settings) == {
        "api_key": KEY,
        "base_url": "https://api.soundpiece.co",
        "limits": {
            "submits": 16,
            "polls": 100,
            "downloads": 8,
            "in_flight": 1000,
            "max_bytes": None,
            "min_bytes_per_second": 1000,
            "requests_per_second": None,
        },
        "timeouts": {"connect": 10, "submit": 30, "poll": 35, "read": 30},
        "retries": {"submit_max_elapsed": 300, "download_max_elapsed": 300},
        "verify": "header",
        "keep_corrupt": False,
        "validate": True,
        "confirm_webhooks": False,
        "poll_cost": 0.05,
        "allow_private_outputs": False,
        "shared": None,
        "proxy": None,
        "ssl_context": None,
    }


def test_frozen() -> None:
    """Settings never change under a running session; a changed copy is checked like a new one."""
    settings = Settings(api_key=KEY)

    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        settings.base_url = "https://elsewhere.example"
    assert attrs.evolve(settings, verify="full").verify == "full"
    with pytest.raises(SettingsError):
        attrs.evolve(settings, verify="maybe")


def test_keyword_only() -> None:
    """Every knob is named where it is set."""
    for kind in (Settings, Limits, Timeouts, RetryPolicy):
        assert all(member.kw_only for member in attrs.fields(kind))


def test_the_key_is_not_shown() -> None:
    """No repr, text or formatted settings show the key."""
    settings = Settings(api_key=KEY)

    assert KEY not in f"{settings!r} {settings} {[settings]}"
    assert "https://api.soundpiece.co" in repr(settings)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "spk_",
        "sk_0123456789",
        " spk_0123",
        "spk_01 23",
        "spk_0123\n",
        "spk_01\r\nX-Evil: 1",
        "spk_ключ",
        None,
        5,
        b"spk_0123",
    ],
    ids=repr,
)
def test_wrong_keys(key: Any) -> None:
    """What cannot be a key is refused before any request, without being repeated."""
    with pytest.raises(SettingsError, match="API key") as caught:
        Settings(api_key=key)

    told = f"{caught.value!r}"
    assert "0123" not in told
    assert "ключ" not in told


@unhurried
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_keys(rest: str) -> None:
    """Beyond the prefix the form of a key is UNKNOWN: any printable one passes, as it is."""
    assert Settings(api_key=f"spk_{rest}").api_key == f"spk_{rest}"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://api.soundpiece.co/", "https://api.soundpiece.co"),
        ("https://proxy.example:8443/soundpiece//", "https://proxy.example:8443/soundpiece"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://LOCALHOST", "http://LOCALHOST"),
    ],
)
def test_base_urls(url: str, kept: str) -> None:
    """Https anywhere, http on this machine; a trailing slash makes no difference."""
    assert Settings(api_key=KEY, base_url=url).base_url == kept


@pytest.mark.parametrize(
    "url",
    [
        "http://api.soundpiece.co",
        "http://localhost.example",
        "http://127.0.0.1.example",
        "http://192.168.1.1",
        "http://0.0.0.0",
        "ftp://api.soundpiece.co",
        "api.soundpiece.co",
        "",
        "https://",
        "https:///v1",
        "https://[",
        "https://api.soundpiece.co:http",
        "https://api.soundpiece.co:99999",
        f"https://user:{KEY}@api.soundpiece.co",
        f"https://@{KEY}",
        f"https://api.soundpiece.co?key={KEY}",
        "https://api.soundpiece.co?",
        "https://api.soundpiece.co#top",
        "https://api.soundpiece.co/#",
        "https://api.soundpiece.co\n",
        "https://api.sound piece.co",
        "https://api.soundpïece.co",
        None,
        b"https://api.soundpiece.co",
        5,
    ],
    ids=repr,
)
def test_wrong_base_urls(url: Any) -> None:
    """Anything that would send the key in the clear, elsewhere or nowhere is refused."""
    with pytest.raises(SettingsError, match="base_url") as caught:
        Settings(api_key=KEY, base_url=url)

    assert KEY not in str(caught.value)


@pytest.mark.parametrize("name", ["submits", "polls", "downloads", "in_flight"])
@pytest.mark.parametrize("wrong", [0, -1, 1.0, True, "8", None, math.inf], ids=repr)
def test_wrong_limits(name: str, wrong: Any) -> None:
    """A limit is a whole number of at least 1."""
    assert getattr(Limits(**{name: 1}), name) == 1
    with pytest.raises(SettingsError, match=rf"limits\.{name} must be a whole number of at least 1"):
        Limits(**{name: wrong})


@pytest.mark.parametrize("right", [None, 0.1, 5, 1e308], ids=lambda value: str(value)[:5])
def test_rate(right: Any) -> None:
    """A ceiling on the rate is any number above 0, or none."""
    assert Limits(requests_per_second=right).requests_per_second == right


@pytest.mark.parametrize(
    "wrong", [0, -1, 0.0, math.nan, math.inf, -math.inf, 10**400, True, "5"], ids=lambda value: str(value)[:9]
)
def test_wrong_rates(wrong: Any) -> None:
    """No rate at all would stop every request, and a switch is no rate."""
    with pytest.raises(SettingsError, match=r"limits\.requests_per_second must be a number above 0"):
        Limits(requests_per_second=wrong)


@pytest.mark.parametrize("name", ["connect", "submit", "poll", "read"])
@pytest.mark.parametrize(
    "wrong", [0, -1, math.nan, math.inf, 10**400, True, "5", None], ids=lambda value: str(value)[:9]
)
def test_wrong_timeouts(name: str, wrong: Any) -> None:
    """A timeout is a finite number of seconds above 0."""
    assert getattr(Timeouts(**{name: 0.5}), name) == 0.5
    with pytest.raises(SettingsError, match=rf"timeouts\.{name} must be a number above 0"):
        Timeouts(**{name: wrong})


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, True, "5", None], ids=repr)
def test_wrong_poll_costs(wrong: Any) -> None:
    """A poll costs a finite number of seconds above 0."""
    assert Settings(api_key=KEY, poll_cost=2).poll_cost == 2
    with pytest.raises(SettingsError, match=r"^poll_cost must be a number above 0"):
        Settings(api_key=KEY, poll_cost=wrong)


@pytest.mark.parametrize("name", ["submit_max_elapsed", "download_max_elapsed"])
@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, True, "5", None], ids=repr)
def test_wrong_budgets(name: str, wrong: Any) -> None:
    """The time for trying again is a number of seconds; 0 means one attempt."""
    assert getattr(RetryPolicy(**{name: 0}), name) == 0
    with pytest.raises(SettingsError, match=rf"retries\.{name} must be a number of seconds of at least 0"):
        RetryPolicy(**{name: wrong})


@pytest.mark.parametrize("right", ["header", "full", "none"])
def test_verify(right: Any) -> None:
    """A file is checked by its header, in full, or by its size."""
    assert Settings(api_key=KEY, verify=right).verify == right


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("verify", "md5"),
        ("verify", None),
        ("verify", True),
        ("validate", "no"),
        ("validate", 0),
        ("confirm_webhooks", None),
        ("confirm_webhooks", "yes"),
        ("limits", None),
        ("limits", {"polls": 5}),
        ("timeouts", 30),
        ("retries", Limits()),
    ],
)
def test_wrong_kinds(name: str, wrong: Any) -> None:
    """A knob of another kind is refused here, not found out hours later."""
    with pytest.raises(SettingsError, match=f"^{name} must be "):
        Settings(api_key=KEY, **{name: wrong})


def test_from_environ() -> None:
    """The environment gives the key and, when it is set, the base URL; nothing else of it is read."""
    environ = {"SOUNDPIECE_API_KEY": KEY, "PATH": "/bin", "SOUNDPIECE_VERIFY": "none"}

    assert Settings.from_environ(environ) == Settings(api_key=KEY)
    assert Settings.from_environ({**environ, "SOUNDPIECE_BASE_URL": ""}) == Settings(api_key=KEY)
    local = Settings.from_environ({**environ, "SOUNDPIECE_BASE_URL": "http://localhost:8000/"})
    assert local == Settings(api_key=KEY, base_url="http://localhost:8000")


@pytest.mark.parametrize("environ", [{}, {"SOUNDPIECE_API_KEY": ""}, {"SOUNDPIECE_BASE_URL": "http://localhost"}])
def test_environ_without_a_key(environ: dict[str, str]) -> None:
    """Without a key the message says how to give one."""
    with pytest.raises(SettingsError, match=r"set SOUNDPIECE_API_KEY, or pass Session\(api_key=\.\.\.\)"):
        Settings.from_environ(environ)


@pytest.mark.parametrize(
    "wrong",
    [{"SOUNDPIECE_API_KEY": "0123"}, {"SOUNDPIECE_API_KEY": KEY, "SOUNDPIECE_BASE_URL": "http://elsewhere.example"}],
)
def test_environ_that_is_wrong(wrong: dict[str, str]) -> None:
    """What the environment says is checked like anything else."""
    with pytest.raises(SettingsError):
        Settings.from_environ(wrong)


NUMBERS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())


@unhurried
@given(st.sampled_from([Limits, Timeouts, RetryPolicy]), st.data())
def test_any_value_is_taken_or_refused(kind: Any, data: st.DataObject) -> None:
    """Whatever a knob is set to, it is kept as it is or is a SettingsError that names it."""
    name = data.draw(st.sampled_from([member.name for member in attrs.fields(kind)]))
    value = data.draw(NUMBERS)
    knobs = attempt(lambda: kind(**{name: value}))

    if isinstance(knobs, SettingsError):
        assert name in str(knobs)
    else:
        assert getattr(knobs, name) is value


@pytest.mark.parametrize(
    "shared",
    ["redis://:pw@cache.example/0", "rediss://cache.example", "postgresql://u:pw@db.example/jobs?account=band"],
)
def test_a_shared_store_has_a_url(shared: str) -> None:
    """Its password is shown nowhere."""
    assert Settings(api_key=KEY, shared=shared).shared == shared
    assert "pw" not in repr(Settings(api_key=KEY, shared=shared))


@pytest.mark.parametrize(
    "shared", ["", "cache.example", "http://pw@cache.example", "redis:///0", "redis://[pw", 5, b"x"]
)
def test_a_wrong_shared_store_is_refused(shared: Any) -> None:
    """Before any request, and without repeating it."""
    with pytest.raises(SettingsError, match="shared must be the URL of a store") as caught:
        Settings(api_key=KEY, shared=shared)
    assert "pw" not in str(caught.value)


def test_what_is_not_given_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when other members are given; what is given wins, and an explicit None is no proxy."""
    monkeypatch.setenv("SOUNDPIECE_API_KEY", "spk_environ")
    monkeypatch.setenv("SOUNDPIECE_BASE_URL", "https://environ.example")
    monkeypatch.setenv("SOUNDPIECE_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("SOUNDPIECE_SHARED", "redis://cache.example/0")
    found = Settings(validate=False)
    assert (found.api_key, found.base_url, found.proxy) == (
        "spk_environ",
        "https://environ.example",
        "http://proxy.example:3128",
    )
    assert found.shared == "redis://cache.example/0"
    given = Settings(api_key="spk_given", base_url=BASE_URL, proxy=None, shared=None)
    assert (given.api_key, given.base_url, given.proxy, given.shared) == ("spk_given", BASE_URL, None, None)
    other = Settings.from_environ({"SOUNDPIECE_API_KEY": "spk_other"})
    assert (other.api_key, other.base_url, other.proxy) == ("spk_other", BASE_URL, None)
