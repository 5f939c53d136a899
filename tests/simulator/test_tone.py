import importlib.util
import io
import sys

import attrs
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from soundpiece_async.simulator import tone
from soundpiece_async.simulator.tone import LAYERS, SAMPLE_RATE, Score, compose, cut_down, encode, samples, stems

STYLES = ("song", "instrumental", "sample", "fx")
STRANGE = (
    "",
    " \n\t",
    "雨の夜 🎹",
    "\ud800",
    "a" * 1024,
    "drum & bass, " * 78,
    "0",
    "no ' \" \\ % { }",
    "200 bpm 999bpm c# minor",
)
FULL_SCALE = 32767


def decode(data: bytes) -> np.ndarray:
    pcm, rate = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    assert rate == SAMPLE_RATE
    return pcm


def mixed(score: Score) -> np.ndarray:
    """Add the decoded stems in integers wide enough to show an overflow."""
    return sum((decode(encode(stem)).astype(np.int64) for stem in stems(score).values()), start=np.int64(0))


def steps_of(pcm: np.ndarray) -> np.ndarray:
    return np.abs(np.diff(pcm.astype(np.int64), axis=0))


@pytest.mark.parametrize("style", STYLES)
def test_the_same_score_gives_the_same_bytes(style: str) -> None:
    """Prompt, seed, style and length decide every byte, and each of them matters."""
    first, again = (encode(compose("lofi, rain", seed=3, style=style, seconds=2.5)) for _ in range(2))
    others = {
        encode(compose("lofi, snow", seed=3, style=style, seconds=2.5)),
        encode(compose("lofi, rain", seed=4, style=style, seconds=2.5)),
        encode(compose("lofi, rain", seed=3, style=style, seconds=2.6)),
    }

    assert first == again
    assert len({first, *others}) == 4


def test_what_was_rendered_before_does_not_matter() -> None:
    """Instruments kept from earlier pieces sound as new ones do."""
    score = compose("ambient pads", seed=1, style="instrumental", seconds=3)
    before = encode(score)
    for seed in range(3):
        samples(compose("ambient pads", seed=seed, style="song", seconds=2))

    assert encode(score) == before


@pytest.mark.parametrize("style", STYLES)
def test_a_file_is_what_a_flac_reader_expects(style: str) -> None:
    """FLAC, 44.1 kHz, stereo, 16 bit, of exactly the frames of the score, decoding to exactly its samples."""
    score = compose("dark cinematic", seed=5, style=style, seconds=1.2345)
    data = encode(score)
    info = soundfile.info(io.BytesIO(data))

    assert data[:4] == b"fLaC"
    assert data[26:42] != bytes(16)  # the MD5 of the audio in STREAMINFO
    assert (info.samplerate, info.channels, info.subtype, info.frames) == (SAMPLE_RATE, 2, "PCM_16", score.frames)
    assert score.frames == round(1.2345 * SAMPLE_RATE)
    assert score.seconds == score.frames / SAMPLE_RATE
    assert np.array_equal(decode(data), samples(score))


@settings(max_examples=15, deadline=None)
@given(
    prompt=st.one_of(st.text(max_size=60), st.sampled_from(STRANGE)),
    seed=st.integers(-(2**70), 2**70),
    style=st.sampled_from(STYLES),
    seconds=st.floats(0.00001, 3),
    loop=st.booleans(),
)
def test_any_prompt_seed_and_length_will_do(prompt: str, seed: int, style: str, seconds: float, *, loop: bool) -> None:
    """Whatever is asked for has its exact length, does not clip, and is the sum of its stems."""
    score = compose(prompt, seed=seed, style=style, seconds=seconds, loop=loop)
    pcm = samples(score)

    assert pcm.shape == (max(1, round(seconds * SAMPLE_RATE)), 2)
    assert pcm.dtype == np.int16
    assert np.abs(pcm.astype(int)).max() < FULL_SCALE
    assert np.array_equal(mixed(score), pcm)


@pytest.mark.parametrize("prompt", STRANGE)
@pytest.mark.parametrize("style", STYLES)
def test_a_strange_prompt_still_sounds(prompt: str, style: str) -> None:
    """No prompt is silence, and none breaks the composer."""
    assert np.abs(samples(compose(prompt, seed=0, style=style, seconds=1.5)).astype(int)).max() > 2000


@pytest.mark.parametrize("style", ["song", "fx"])
@pytest.mark.parametrize("seconds", [0.05, 60.0])
def test_a_length_may_be_extreme(style: str, seconds: float) -> None:
    """From a twentieth of a second to a minute: exact, audible at every stage, not clipped."""
    pcm = samples(compose("upbeat pop", seed=8, style=style, seconds=seconds))
    parts = np.array_split(pcm[: -len(pcm) // 8], 4)

    assert len(pcm) == round(seconds * SAMPLE_RATE)
    assert np.abs(pcm.astype(int)).max() < FULL_SCALE
    assert all(part.astype(float).std() > 20 for part in parts)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_a_length_must_be_positive_and_finite(seconds: float) -> None:
    """An invalid length is refused, in compose as in cut_down."""
    score = compose("x", seed=1, style="fx", seconds=1)
    with pytest.raises(ValueError, match="positive, finite"):
        compose("x", seed=1, style="fx", seconds=seconds)
    with pytest.raises(ValueError, match="positive, finite"):
        cut_down(score, seconds=seconds)


def test_a_style_must_be_known() -> None:
    """An unknown style is refused by name."""
    with pytest.raises(ValueError, match="song, instrumental, sample, fx, got 'opera'"):
        compose("x", seed=1, style="opera", seconds=1)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("prompt", ["synthwave", "ambient", "drum and bass", "folk", "jazz", "orchestral"])
def test_a_piece_is_loud_clean_and_centred(prompt: str, style: str) -> None:
    """Peaks stay around -3 dBFS, the level is that of music, there is no DC, and both ends are silent."""
    wave = samples(compose(prompt, seed=2, style=style, seconds=5)).astype(float) / FULL_SCALE
    peak, loudness = np.abs(wave).max(), wave.std()

    assert 0.3 < peak < 0.85
    assert 0.05 < loudness < 0.3
    assert np.abs(wave.mean(axis=0)).max() < 0.002
    assert np.abs(wave[[0, -1]]).max() < 0.0005


@pytest.mark.parametrize("prompt", ["synthwave", "ambient", "folk", "house"])
def test_music_is_stereo_and_not_noise(prompt: str) -> None:
    """The two sides differ but belong together, and the spectrum has peaks where noise is flat."""
    wave = samples(compose(prompt, seed=6, style="song", seconds=6)).astype(float)
    left, right = wave.T
    spectrum = np.abs(np.fft.rfft(wave.sum(axis=1)))[300:60000] ** 2  # 50 Hz to 10 kHz
    flatness = np.exp(np.log(spectrum + 1e-9).mean()) / spectrum.mean()

    assert 0.2 < np.corrcoef(left, right)[0, 1] < 0.99
    assert flatness < 0.02  # white noise has 0.56


def test_the_beat_is_heard_at_the_tempo_the_prompt_names() -> None:
    """The drums of a piece in 120 bpm repeat after half a second, and not after a third of that."""
    score = compose("house, 120 bpm", seed=1, style="sample", seconds=8, loop=True)
    envelope = np.abs(samples(stems(score)["drums"]).astype(float)).sum(axis=1).reshape(-1, 441).sum(axis=1)
    envelope -= envelope.mean()

    def likeness(frames: int) -> float:
        return float(np.dot(envelope, np.roll(envelope, frames)) / np.dot(envelope, envelope))

    assert score.plan.tempo == pytest.approx(120)
    assert likeness(50) > 0.6  # in hundredths of a second
    assert likeness(50) > likeness(17) + 0.3


@pytest.mark.parametrize(
    ("style", "silent"),
    [("song", set()), ("instrumental", {"vocals"}), ("sample", {"vocals"}), ("fx", {"vocals", "drums", "bass"})],
)
def test_stems_add_up_exactly_and_are_what_they_say(style: str, silent: set[str]) -> None:
    """All four stems are there, sum to the mix sample for sample, and only the layers that play sound."""
    score = compose("rock, energetic", seed=9, style=style, seconds=6)
    parts = stems(score)

    assert tuple(parts) == LAYERS
    assert all(part.layer == name and part.frames == score.frames for name, part in parts.items())
    assert {name for name, part in parts.items() if not samples(part).any()} == silent
    assert np.array_equal(mixed(score), decode(encode(score)))


def test_the_stems_of_a_stem_are_itself_and_silence() -> None:
    """Nothing that was taken out comes back."""
    drums = stems(compose("pop", seed=1, style="song", seconds=2))["drums"]
    again = stems(drums)

    assert again["drums"] == drums
    assert np.array_equal(mixed(drums), samples(drums))
    assert not any(samples(again[layer]).any() for layer in LAYERS if layer != "drums")


@pytest.mark.parametrize("seconds", [0.05, 0.7, 4.0, 8.0])
@pytest.mark.parametrize(
    "prompt", ["drum loop", "warm piano chords", "ambient pads", "choir vocals", "trap 808", "bassline"]
)
def test_a_loop_has_no_seam(prompt: str, seconds: float) -> None:
    """The step across the seam, and its bend, are no larger than those between ordinary neighbours."""
    score = compose(prompt, seed=4, style="sample", seconds=seconds, loop=True)
    pcm = samples(score)
    steps = steps_of(pcm)
    around = steps_of(np.concatenate([pcm[-1:], pcm[:1]]))
    bends, seam_bend = (
        np.abs(np.diff(part.astype(int), n=2, axis=0)).max() for part in (pcm, np.roll(pcm, 2, axis=0)[:4])
    )

    assert len(pcm) == round(seconds * SAMPLE_RATE)
    assert pcm.any()
    assert around.max() <= steps.max()
    assert seam_bend <= bends


def test_rain_is_heard_under_the_music() -> None:
    """A prompt with rain has the same notes over the hiss of it."""
    wet = stems(compose("ambient, rain", seed=4, style="instrumental", seconds=6))["other"]
    dry = attrs.evolve(wet, plan=attrs.evolve(wet.plan, rain=False))
    hiss = [(np.abs(np.fft.rfft(samples(score)[:, 0]))[60_000:] ** 2).sum() for score in (wet, dry)]  # above 10 kHz

    assert hiss[0] > 10 * hiss[1]


@pytest.mark.parametrize("effect", ["rain", "wind", "engine drone"])
def test_an_effect_loops_too(effect: str) -> None:
    """What runs on can run on for ever."""
    pcm = samples(compose(effect, seed=4, style="fx", seconds=2, loop=True))

    assert steps_of(np.concatenate([pcm[-1:], pcm[:1]])).max() <= steps_of(pcm).max()
    assert np.abs(pcm[:2000].astype(float)).mean() > np.abs(pcm.astype(float)).mean() / 4  # no fade at its start


def test_a_loop_holds_whole_bars_and_its_tails_are_wrapped_around() -> None:
    """A loop is whole bars in its exact length, and begins in the reverberation of its end."""
    loop = compose("warm piano chords", seed=4, style="sample", seconds=8, loop=True)
    plain = compose("warm piano chords", seed=4, style="sample", seconds=8)
    heads = [np.abs(samples(score)[:40].astype(float)).mean() for score in (loop, plain)]

    assert loop.plan.steps % 16 == 0
    assert loop.plan.steps * loop.plan.step_frames == pytest.approx(loop.frames)
    assert heads[0] > 20 * heads[1]


def test_scores_are_values() -> None:
    """Scores are hashable and comparable, so that they can be keys and be rendered once."""
    one, same = (compose("pop", seed=1, style="song", seconds=2) for _ in range(2))

    assert len({one, same, attrs.evolve(one, seed=2)}) == 2


@pytest.mark.parametrize("package", ["numpy", "soundfile"])
def test_without_its_extra_the_error_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numpy or soundfile the import fails with the command that installs them."""
    monkeypatch.setitem(sys.modules, package, None)
    spec = importlib.util.spec_from_file_location("tone_without_its_extra", tone.__file__)
    assert spec is not None
    assert spec.loader is not None

    with pytest.raises(ModuleNotFoundError, match=r"pip install 'soundpiece-async\[simulator\]'") as caught:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

    assert caught.value.name == package
    assert package in str(caught.value)
