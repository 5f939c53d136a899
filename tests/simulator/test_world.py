"""The pure world: operations, timelines, idempotency, credits and what is made; numbers in, values out."""

import math
import uuid
from typing import Any

import pytest

from soundpiece_async.simulator.faults import Faults
from soundpiece_async.simulator.music import AudioOptions
from soundpiece_async.simulator.operations import OperationError, RejectionError, ServerOperation
from soundpiece_async.simulator.schema import ROUTES, check_body
from soundpiece_async.simulator.signed_urls import Signer, parse_signed_url, write_time
from soundpiece_async.simulator.tone import cut_down
from soundpiece_async.simulator.variations import read_variations
from soundpiece_async.simulator.world import World

FX: dict[str, Any] = {"prompt": "slam", "duration": 1.5}
SONG: dict[str, Any] = {"lyrics": "la", "prompt": "folk"}
FOREIGN = {"url": "https://media.example.com/mix.wav"}
ORIGIN = "http://127.0.0.1:9"


def make_world(**options: Any) -> World:
    """Build a world in which every operation takes 10 seconds."""
    signer = Signer(secret=b"s", lifetime=60.0, origin=ORIGIN, stable=options.pop("stable", True))
    return World(**{"seed": 0, "signer": signer, "durations": dict.fromkeys(ROUTES, 10.0)} | options)


def put(
    world: World, route: str, members: dict[str, Any], *, now: float = 0.0, key: str | None = None
) -> ServerOperation:
    """Submit a body under a fresh key, or the one given."""
    body = {"idempotency_key": key or str(uuid.uuid4()), **members}
    return world.submit(ROUTES[route], check_body(ROUTES[route], body), body=body, now=now)[0]


def finish(world: World, route: str, members: dict[str, Any], *, now: float = 0.0) -> Any:
    """Submit, wait, and read."""
    operation = put(world, route, members, now=now)
    world.advance(now + 10)
    return world.present(operation, now=now + 10)


def test_lets_time_decide() -> None:
    """An operation is processing until its time has come, then ready, once; its creation is by the wall clock."""
    world = make_world(wall_offset=1_795_000_000.0)
    operation = put(world, "create.new_fx", FX, now=5.0)

    assert world.next_due == 15.0
    assert world.advance(14.999) == []
    assert world.present(operation, now=6.0)["status"] == "processing"
    assert world.advance(15.0) == [operation]
    assert world.advance(99.0) == []
    assert world.next_due == math.inf
    document = world.present(operation, now=15.0)
    assert document["status"] == "ready"
    assert document["created_at"] == write_time(1_795_000_005.0) == "2026-11-18T11:06:45.000Z"
    assert document["output"]["expires_at"] == "2026-11-18T11:07:55.000Z"
    assert repr(world) == "<World 1 operations, {'ready': 1}, 0 replays>"


def test_divides_times_by_the_speed() -> None:
    """The speed divides processing times, drawn, pinned by a mapping or told by a callable."""
    assert put(make_world(speed=5.0), "create.new_fx", FX).due == 2.0
    assert put(make_world(speed=5.0, durations=lambda route: float(len(route))), "create.new_fx", FX).due == 13 / 5
    drawn = [put(make_world(seed=seed, durations={}), "create.new_song", SONG).due for seed in range(200)]
    assert 20 < sorted(drawn)[100] < 40
    assert min(drawn) > 3
    assert max(drawn) > 60


def test_repeats_whatever_the_keys() -> None:
    """Ids, times and music follow from seed and members, not from keys; the same work asked again is another piece."""
    first, second = (make_world(durations=None) for _ in range(2))
    one, again = put(first, "create.new_song", SONG), put(first, "create.new_song", SONG)
    put(second, "create.new_fx", FX)
    other = put(second, "create.new_song", SONG)

    assert (one.id, one.due) == (other.id, other.due)
    assert one.id != again.id
    assert one.make_tracks() == other.make_tracks()
    assert put(make_world(seed=1), "create.new_song", SONG).id != one.id


def test_replays_a_key() -> None:
    """A used key with the same body gives its operation and costs nothing; with another body or route it is a 409."""
    world, key = make_world(credits=1), str(uuid.uuid4())
    operation = put(world, "create.new_fx", FX, key=key)

    assert put(world, "create.new_fx", dict(reversed(FX.items())), key=key) is operation
    assert (operation.puts, world.replays, world.credits) == (2, 1, 0)
    for route, members in (("create.new_fx", FX | {"duration": 2}), ("create.new_sample", FX)):
        with pytest.raises(RejectionError) as refusal:
            put(world, route, members, key=key)
        assert refusal.value.status == 409


def test_charges_credits() -> None:
    """An empty account refuses with 402 and without using the key up."""
    world, key = make_world(credits=0), str(uuid.uuid4())
    with pytest.raises(RejectionError) as refusal:
        put(world, "create.new_fx", FX, key=key)
    assert refusal.value.status == 402
    assert "detail" in refusal.value.body

    world.credits = 1

    assert put(world, "create.new_fx", FX, key=key).puts == 1
    assert world.credits == 0


def test_finds_by_id_and_route() -> None:
    """An id belongs to the route that made it."""
    world = make_world()
    operation = put(world, "create.new_fx", FX)

    assert world.find(ROUTES["create.new_fx"], operation.id) is operation
    assert world.find(ROUTES["create.new_song"], operation.id) is None
    assert world.find(ROUTES["create.new_fx"], "op_" + "0" * 26) is None


@pytest.mark.parametrize(
    ("route", "members", "lengths"),
    [
        ("create.new_sample", {"prompt": "riff", "duration": 2, "loopable": True}, [2.0]),
        ("create.new_fx", FX, [1.5]),
        ("create.new_song", SONG, [4.0, 4.0, 4.0]),
        ("create.new_instrumental", {"prompt": "jazz"}, [4.0, 4.0, 4.0]),
        ("create.new_song", {"lyrics": "la", "reference": FOREIGN}, [4.0, 4.0, 4.0]),
        ("create.remix_song", {"source": FOREIGN, "lyrics": "la", "prompt": "dub", "n_variations": 2}, [4.0, 4.0]),
        ("create.remix_instrumental", {"source": FOREIGN}, [4.0]),
        ("adapt.separate_stems", {"source": FOREIGN}, [4.0, 4.0, 4.0, 4.0]),
        ("adapt.auto_cut_down", {"source": FOREIGN, "target_duration": 3}, [3.0]),
    ],
)
def test_makes_what_was_asked(route: str, members: dict[str, Any], lengths: list[float]) -> None:
    """Each route gives its number of outputs, of the lengths asked for."""
    document = finish(make_world(audio_options=AudioOptions(track_seconds=(4.0, 4.0), n_variations=3)), route, members)

    outputs = document["outputs"] if "outputs" in document else [document["output"]]
    assert [output["duration"] for output in outputs] == lengths
    assert document["error"] is None


def test_adapts_its_own_outputs() -> None:
    """A source that is an output of this service is that very track: its stems, its cut, its length."""
    world = make_world()
    song = finish(world, "create.new_song", SONG)
    url = song["outputs"][1]["url"]
    mix = world.operations[song["id"]].tracks[1].composed.score

    stems = finish(world, "adapt.separate_stems", {"source": {"url": url}}, now=20.0)
    cut = put(world, "adapt.auto_cut_down", {"source": {"url": url}, "target_duration": 3}, now=20.0)

    tracks = world.operations[stems["id"]].tracks
    assert [output["kind"] for output in stems["outputs"]] == ["vocals", "drums", "bass", "other"]
    assert [track.composed.score.layer for track in tracks] == ["vocals", "drums", "bass", "other"]
    assert {track.composed.score.seed for track in tracks} == {mix.seed}
    assert cut.make_tracks()[0].score == cut_down(mix, seconds=3)


def test_cannot_fetch_expired_sources() -> None:
    """A source that is an expired or altered URL of ours lets the operation fail, not the request."""
    world = make_world()
    url = finish(world, "create.new_fx", FX)["output"]["url"]

    for source in (url, url.replace("signature=", "signature=0"), f"{ORIGIN}/audio/none.flac"):
        document = finish(world, "adapt.separate_stems", {"source": {"url": source}}, now=80.0)
        assert document["status"] == "failed"
        assert document["outputs"] is None
        assert document["error"]["code"] == "internal_error"


def test_imagines_foreign_sources() -> None:
    """The audio behind a foreign URL follows from the URL alone: two routes work on the same track."""
    world = make_world()
    stems = put(world, "adapt.separate_stems", {"source": FOREIGN})
    cut = put(world, "adapt.auto_cut_down", {"source": FOREIGN, "target_duration": 3})

    assert stems.make_tracks()[0].score.plan == cut.make_tracks()[0].score.plan


def test_lets_operations_fail() -> None:
    """A share of operations fails, each with one of the codes given; a code may be absent."""
    world = make_world(faults=Faults(fail=0.5, failure_codes=("internal_error", None)))
    errors = [finish(world, "create.new_fx", FX | {"prompt": str(n)})["error"] for n in range(60)]

    codes = [error.get("code", "absent") if error else None for error in errors]
    assert set(codes) == {None, "internal_error", "absent"}
    assert 15 < codes.count(None) < 45
    assert all(error["message"] for error in errors if error)


def test_finishes_on_demand() -> None:
    """An operation can be ended at any moment, well or badly; one that has ended stays as it is."""
    world = make_world(durations={"create.new_fx": math.inf})
    good, bad = put(world, "create.new_fx", FX), put(world, "create.new_fx", FX)

    world.finish(good.id, now=3.0)
    world.finish(bad.id, now=3.0, failure=OperationError(code="sad"))
    assert world.advance(3.0) == sorted([good, bad], key=lambda operation: operation.id)
    world.finish(good.id, now=4.0, failure=OperationError(code="late"))

    assert world.advance(4.0) == []
    assert world.present(good, now=4.0)["status"] == "ready"
    assert world.present(bad, now=4.0)["error"] == {
        "code": "sad",
        "message": "The operation could not be completed.",
    }


def test_keeps_its_tracks() -> None:
    """Outputs keep path and audio from one GET to the next, while their URLs are signed afresh."""
    world = make_world()
    operation = put(world, "create.new_song", SONG)
    world.advance(10.0)
    first, second = (world.present(operation, now=now)["outputs"] for now in (10.0, 20.0))

    assert [parse_signed_url(o["url"]).path for o in first] == [parse_signed_url(o["url"]).path for o in second]
    assert all(a["url"] != b["url"] and a["expires_at"] < b["expires_at"] for a, b in zip(first, second, strict=True))


def test_retakes() -> None:
    """A retake has the same names and lengths, and other music."""
    world = make_world()
    document = finish(world, "create.new_song", SONG)
    before = world.operations[document["id"]].tracks

    world.replace_audio(document["id"])

    after = world.operations[document["id"]].tracks
    assert [track.name for track in before] == [track.name for track in after]
    assert [track.composed.score.frames for track in before] == [track.composed.score.frames for track in after]
    assert all(a.composed.score != b.composed.score for a, b in zip(before, after, strict=True))
    assert world.find_track(after[0].name) is after[0]


def test_shuffles_outputs() -> None:
    """With `outputs=shuffled` the outputs come in different orders, and are the same ones."""
    world = make_world(variations=read_variations(["outputs=shuffled"]), audio_options=AudioOptions(n_variations=3))
    operation = put(world, "create.new_song", SONG)
    world.advance(10.0)
    orders = {tuple(o["duration"] for o in world.present(operation, now=10.0)["outputs"]) for _ in range(40)}

    assert len(orders) > 1
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_speaks_of_the_future() -> None:
    """With `forward` there are unknown fields at every level, an unknown status at first and an unknown stem."""
    world = make_world(forward=True)
    operation = put(world, "adapt.separate_stems", {"source": FOREIGN})

    assert world.present(operation, now=4.0)["status"] == "queued"
    assert world.present(operation, now=6.0)["status"] == "processing"
    world.advance(10.0)
    document = world.present(operation, now=10.0)
    assert "added_since" in document
    assert all("added_since" in output for output in document["outputs"])
    assert document["outputs"][-1]["kind"] == "mix"
    failed = put(world, "create.new_fx", FX)
    world.finish(failed.id, now=1.0, failure=OperationError(code="sad"))
    world.advance(1.0)
    assert "added_since" in world.present(failed, now=1.0)["error"]
