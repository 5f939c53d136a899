import io

import numpy as np
import pytest
import soundfile

from soundpiece_async.simulator.tone import LAYERS, SAMPLE_RATE, Score, compose, cut_down, encode, remix, samples, stems

STYLES = ("song", "instrumental", "sample", "fx")


def mixed(score: Score) -> np.ndarray:
    """Add the decoded stems in integers wide enough to show an overflow."""
    files = (soundfile.read(io.BytesIO(encode(stem)), dtype="int16")[0] for stem in stems(score).values())
    return sum((pcm.astype(np.int64) for pcm in files), start=np.int64(0))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seconds", [0.3, 4.99])
def test_a_cut_is_a_window_on_its_source(style: str, seconds: float) -> None:
    """A cut has its exact length and, away from its fades, the very samples of its source."""
    source = compose("synthwave", seed=7, style=style, seconds=6)
    cut = cut_down(source, seconds=seconds)
    pcm, whole = samples(cut), samples(source)
    middle = slice(len(pcm) // 8, len(pcm) // 2)

    assert len(pcm) == round(seconds * SAMPLE_RATE)
    assert np.array_equal(pcm[middle], whole[cut.start : cut.start + len(pcm)][middle])
    assert np.abs(pcm[[0, -1]]).max() <= 1
    assert np.array_equal(mixed(cut), pcm)


def test_a_cut_of_a_cut_stays_inside_it() -> None:
    """Cuts nest: the second is a part of the first."""
    source = compose("pop", seed=7, style="song", seconds=40)
    first = cut_down(source, seconds=15)
    second = cut_down(first, seconds=5)

    assert first.start <= second.start
    assert second.start + second.frames <= first.start + first.frames


def test_a_cut_begins_where_everyone_plays() -> None:
    """The intro is what a cut-down leaves out, if enough follows it; the start is on a bar."""
    source = compose("pop", seed=7, style="song", seconds=60)
    short, long = (cut_down(source, seconds=seconds) for seconds in (10, 59))
    bar = source.plan.step_frames * 16

    assert short.start > 0
    assert short.start == round(round(short.start / bar) * bar)
    assert long.start == 0


def test_a_cut_of_something_shorter_is_the_whole() -> None:
    """Cutting down never makes longer, and never touches what is short enough."""
    loop = compose("drum loop", seed=7, style="sample", seconds=4, loop=True)

    assert cut_down(loop, seconds=4) is loop
    assert cut_down(loop, seconds=60) is loop


def test_a_cut_loop_fades_like_any_cut() -> None:
    """A part of a loop does not loop, so it ends in a fade."""
    cut = cut_down(compose("drum loop", seed=7, style="sample", seconds=8, loop=True), seconds=3)

    assert np.abs(samples(cut)[[0, -1]]).max() <= 1


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("prompt", ["", "jazz, slow", "drum and bass"])
def test_a_remix_is_related_and_different(style: str, prompt: str) -> None:
    """A remix keeps length, layers and harmony, and changes key, timbre and sound with each seed."""
    source = compose("synthwave", seed=1, style=style, seconds=4)
    one, other = (remix(source, seed=seed, prompt=prompt) for seed in (5, 6))
    turns = [source.plan.progression[at:] + source.plan.progression[:at] for at in range(4)]

    assert one == remix(source, seed=5, prompt=prompt)
    assert one.frames == source.frames
    assert (one.plan.layers, one.plan.mode, one.plan.effect) == (
        source.plan.layers,
        source.plan.mode,
        source.plan.effect,
    )
    assert one.plan.progression in turns
    assert (one.plan.tonic - source.plan.tonic) % 12 in {0, 5, 7}
    assert one.plan.arp != source.plan.arp
    assert len({encode(source), encode(one), encode(other)}) == 3


@pytest.mark.parametrize("seed", range(6))
def test_a_remix_of_a_longer_piece_has_another_tempo(seed: int) -> None:
    """Where the length allows it, the tempo audibly changes, whatever the prompt."""
    source = compose("synthwave", seed=1, style="song", seconds=60)

    assert abs(remix(source, seed=seed, prompt="").plan.tempo / source.plan.tempo - 1) > 0.02


def test_the_remix_of_a_cut_stem_is_a_whole_piece() -> None:
    """A remix arranges everything anew, as long as what it was given."""
    stem = stems(cut_down(compose("pop", seed=1, style="song", seconds=20), seconds=5))["bass"]
    remixed = remix(stem, seed=2, prompt="")

    assert (remixed.layer, remixed.start, remixed.frames, remixed.whole) == (None, 0, stem.frames, stem.frames)
    assert remixed.parts == LAYERS
