import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async.simulator.synth import drums, effects, mixing
from soundpiece_async.simulator.synth.instruments import RINGING, VOICES, play, seconds_of, swell
from soundpiece_async.simulator.synth.mixing import Placed
from soundpiece_async.simulator.synth.score import SAMPLE_RATE, SeededRng
from soundpiece_async.simulator.synth.vocabulary import EFFECTS, GENRES, TIMBRES

VOWELS = ("ah", "eh", "ee", "oh", "oo")


def click(frames: int = 1) -> np.ndarray:
    sound = np.zeros((1, frames), dtype=np.float32)
    sound[0, 0] = 1
    return sound


@pytest.mark.parametrize("voice", [*VOICES, *VOWELS])
@pytest.mark.parametrize("pitch", [52, 60, 69, 84])
def test_a_voice_plays_the_pitch_it_is_given(voice: str, pitch: int) -> None:
    """Nearly all of the sound lies on the partials of its pitch."""
    sound = play(voice, pitch, 1.2).sum(axis=0)
    hz = 440 * 2 ** ((pitch - 69) / 12)
    power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
    number = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE) / (
        hz / 2 if voice == "bell" else hz
    )  # its modulator is at 3.5
    near = np.abs(number - np.round(number)) < 0.1 + 4 / hz

    assert power[near & (number > 0.5)].sum() > 0.9 * power.sum()


@pytest.mark.parametrize("voice", [*VOICES, *VOWELS])
@pytest.mark.parametrize("pitch", [24, 60, 108])
@pytest.mark.parametrize("seconds", [0.01, 1.8])
def test_a_voice_begins_and_ends_in_silence(voice: str, pitch: int, seconds: float) -> None:
    """Any note is finite, not silent, has one or two sides, and starts and stops without a click."""
    sound = play(voice, pitch, seconds)

    assert sound.shape[0] in {1, 2}
    assert np.isfinite(sound).all()
    assert 0.01 < np.abs(sound).max() < 3
    assert np.abs(sound[:, [0, -1]]).max() < 0.02
    assert sound.shape[1] >= min(seconds, RINGING.get(voice, seconds)) * SAMPLE_RATE - 1


def test_a_bass_stops_with_its_note_and_what_rings_is_kept() -> None:
    """A finger ends a bass note, while a plucked string rings on and is the same sound for any length."""
    assert play("round", 40, 0.2).shape[1] < play("round", 40, 0.4).shape[1] < SAMPLE_RATE
    assert play("pluck", 60, 0.2) is play("pluck", 60, 2)


def test_every_instrument_exists() -> None:
    """Whatever a genre or a prompt asks for can be played."""
    asked = {voice for genre in GENRES for voice in (genre.bass, genre.chords, genre.arp)} | set(TIMBRES)

    assert asked <= set(VOICES)


@pytest.mark.parametrize("piece", drums.KIT)
def test_a_drum_is_hit_once_and_kept(piece: str) -> None:
    """A drum starts at once, dies away, is the same object each time and cannot be changed."""
    sound = drums.hit(piece, 1.0)
    early, late = np.array_split(np.abs(sound), 2, axis=1)

    assert drums.hit(piece, 1.0) is sound
    assert early.sum() > late.sum()
    assert 0.05 < np.abs(sound).max() < 2
    assert np.abs(sound[:, -1]).max() < 0.001
    with pytest.raises(ValueError, match="read-only"):
        sound[0, 0] = 1


@given(st.integers(2, 2000), st.floats(0, 1), st.floats(0, 1))
def test_an_envelope_stays_between_nothing_and_everything(frames: int, attack: float, release: float) -> None:
    """An envelope fits into any sound, however short, and begins at zero."""
    shape = swell(frames, attack=attack, release=release)

    assert len(shape) == frames
    assert shape[0] == 0
    assert 0 <= shape.min() <= shape.max() <= 1


def test_sounds_are_laid_where_they_belong() -> None:
    """Sounds add up at their frame, panned with even power, and are cut off at the end of the buffer."""
    mix = mixing.lay([Placed(click(), 3), Placed(click(), 3, 0.5), Placed(click(9), 8, 1, -1), Placed(click(), 99)], 10)

    assert mix.shape == (2, 10)
    assert mix[:, 3] == pytest.approx([1.5, 1.5])
    assert mix[:, 8] == pytest.approx([np.sqrt(2), 0], abs=1e-6)
    assert np.count_nonzero(np.abs(mix) > 1e-6) == 3


def test_an_echo_goes_from_side_to_side_and_fades() -> None:
    """Each repeat comes one delay later, on the other side, softer; what passes the end is left out."""
    wet = mixing.echo(np.repeat(click(250), 2, axis=0), delay=100, loud=0.5)

    assert [np.flatnonzero(side).tolist() for side in wet] == [[0, 200], [0, 100]]
    assert wet[1, 100] == pytest.approx(0.7)
    assert wet[0, 200] == pytest.approx(0.35)


def test_a_room_dies_away_within_its_tail() -> None:
    """The reverberation of a click is heard on both sides, differently, and is gone when a loop's tail ends."""
    wet = mixing.reverb(np.repeat(click(3 * SAMPLE_RATE), 2, axis=0), loud=1)
    energy = (wet[:, 1:] ** 2).sum(axis=0)
    tail = mixing.reach([Placed(click(), 0)], delay=0)

    assert energy[: SAMPLE_RATE // 2].sum() > 0.01
    assert not np.array_equal(*wet)
    assert np.abs(wet[:, tail:]).max() < 1e-4


@given(st.integers(1, 50), st.integers(1, 400))
def test_what_passes_the_end_of_a_loop_comes_in_at_its_start(frames: int, length: int) -> None:
    """Folding keeps every sample, at its place modulo the loop."""
    sound = np.arange(2 * length, dtype=np.float32).reshape(2, length)
    folded = mixing.fold(sound, frames)

    assert folded.shape == (2, frames)
    assert folded[1, 0] == sound[1, ::frames].sum()
    assert folded.sum() == pytest.approx(sound.sum())


@given(st.integers(0, 2**32), st.floats(0.0001, 1000), st.floats(0.05, 0.9), st.floats(1, 8))
def test_no_level_passes_its_ceiling(seed: int, gain: float, ceiling: float, crest: float) -> None:
    """However loud a sound comes in, it goes out under its ceiling and without DC."""
    noise = (np.random.default_rng(seed).standard_normal((2, 999)) ** 3 * gain + 0.1).astype(np.float32)
    out = mixing.level(noise, ceiling=ceiling, crest=crest)

    assert np.abs(out).max() <= ceiling * 1.00001
    assert np.abs(out.mean(axis=1)).max() < 1e-5
    assert out.std() > 0


def test_silence_has_no_level() -> None:
    """Silence stays silent, and is not divided by."""
    assert not mixing.level(np.zeros((2, 10), dtype=np.float32), ceiling=0.5, crest=3).any()


@given(st.integers(1, 3000), st.floats(0, 2), st.floats(0, 2))
def test_a_fade_begins_and_ends_at_zero(frames: int, attack: float, release: float) -> None:
    """Fades share a short sound between them, and never make it louder or longer."""
    faded = mixing.fade(np.ones((2, frames), dtype=np.float32), attack=attack, release=release)

    assert faded.shape == (2, frames)
    assert 0 <= faded.min() <= faded.max() <= 1
    if frames > 1 and attack > 0.001:
        assert faded[0, 0] == 0
    if frames > 3 and release > 0.001:
        assert faded[0, -1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("make", [effects.make, effects.make_loop])
@pytest.mark.parametrize("frames", [1, 2, 700, 60_000])
def test_an_effect_has_any_length(effect: str, make: object, frames: int) -> None:
    """Every effect is finite stereo of exactly the frames that are asked for, and is heard when it has time."""
    sound = make(effect, rng=SeededRng(effect, 1), frames=frames)

    assert sound.shape == (2, frames)
    assert np.isfinite(sound).all()
    assert frames < 3 or np.abs(sound).max() > 0.001


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("frames", [700, 60_000])
def test_a_looped_effect_begins_with_what_would_come_next(effect: str, frames: int) -> None:
    """The first frame of a loop continues its last one, as if the effect had just run on."""
    blend = min(frames, SAMPLE_RATE // 2)
    longer = effects.make(effect, rng=SeededRng(effect, 1), frames=frames + blend)
    looped = effects.make_loop(effect, rng=SeededRng(effect, 1), frames=frames)

    assert looped[:, 0] == pytest.approx(longer[:, frames], abs=1e-6)
    assert looped[:, -1] == pytest.approx(longer[:, frames - 1], abs=1e-5)


def test_a_riser_rises_and_an_impact_falls() -> None:
    """The energy of a riser is at its end, that of an impact at its start, that of a whoosh in between."""
    riser, impact, whoosh = (
        effects.make(name, rng=SeededRng("x", 1), frames=90_000) for name in ("riser", "impact", "whoosh")
    )
    thirds = {
        name: [float((part**2).sum()) for part in np.array_split(sound, 3, axis=1)]
        for name, sound in (("riser", riser), ("impact", impact), ("whoosh", whoosh))
    }

    assert thirds["riser"] == sorted(thirds["riser"])
    assert thirds["impact"] == sorted(thirds["impact"], reverse=True)
    assert max(thirds["whoosh"]) == thirds["whoosh"][1]


def test_noise_has_the_spectrum_it_is_given() -> None:
    """Shaped noise lies in its band, with even power over its length."""
    noise = effects.hiss(SeededRng("x", 1), 4 * SAMPLE_RATE, lambda hz, _: effects.band(hz, 2000.0, 0.3))
    power = np.abs(np.fft.rfft(noise[0])) ** 2
    hz = np.fft.rfftfreq(noise.shape[1], 1 / SAMPLE_RATE)
    quarters = [part.std() for part in np.array_split(noise[0], 4)]

    assert power[(hz > 1400) & (hz < 2900)].sum() > 0.95 * power.sum()
    assert max(quarters) < 1.25 * min(quarters)


def test_time_is_counted_in_frames() -> None:
    """A sound has at least two frames, however short it is asked to be."""
    assert len(seconds_of(0)) == 2
    assert seconds_of(1)[-1] == pytest.approx(1 - 1 / SAMPLE_RATE)
