"""Sound effects of any length: noise whose spectrum moves, and a few struck or swept tones."""

from collections.abc import Callable

import numpy as np

from soundpiece_async.simulator.synth.drums import hit
from soundpiece_async.simulator.synth.instruments import (
    Sound,
    cycle,
    cycles,
    dying,
    partials_below,
    play,
    read,
    seconds_of,
    sine,
)
from soundpiece_async.simulator.synth.mixing import Placed, echo, lay, reverb
from soundpiece_async.simulator.synth.score import SAMPLE_RATE, SeededRng

_GRAIN = 2048  # frames of one grain of noise: 46 ms, half of it shared with the next
_SUBSONIC = 25  # Hz; below it is only rumble
# one random byte is enough for a phase
_PHASORS = np.exp(2j * np.pi * np.arange(256) / 256).astype(np.complex64)
_PENTATONIC = (0, 2, 4, 7, 9)
Shape = Callable[[Sound, Sound], Sound]


def hiss(rng: SeededRng, frames: int, shape: Shape) -> Sound:
    """Make stereo noise whose spectrum follows `shape(hz, progress)`, with progress from 0 to 1 over the sound."""
    hop = _GRAIN // 2
    count = -(-frames // hop) + 1
    hz = np.fft.rfftfreq(_GRAIN, 1 / SAMPLE_RATE).astype(np.float32)[None]
    progress = np.linspace(0, 1, count, dtype=np.float32)[:, None]
    generator = np.random.default_rng(rng.number("noise"))
    phases = _PHASORS[generator.integers(0, len(_PHASORS), (2, count, hz.shape[1]), dtype=np.uint8)]
    magnitude = (shape(np.maximum(hz, 1), progress) * (hz > _SUBSONIC)).astype(np.float32)
    # the window's square adds up to 1 over the overlap, and neighbours are independent: so the power is even
    window = (np.sin(np.pi * (np.arange(_GRAIN) + 0.5) / _GRAIN) * np.sqrt(_GRAIN)).astype(np.float32)
    grains = np.fft.irfft(phases * magnitude) * window
    noise = np.zeros((2, count + 1, hop), dtype=np.float32)
    noise[:, :-1] += grains[..., :hop]
    noise[:, 1:] += grains[..., hop:]
    return noise.reshape(2, -1)[:, hop : hop + frames]


def band(hz: Sound, middle: Sound | float, octaves: float) -> Sound:
    """Band-pass noise, so many octaves wide, with the same power at any frequency."""
    passed: Sound = np.exp(-((np.log2(hz / middle) / octaves) ** 2)) * np.sqrt(1000 / middle)
    return passed


def _progress(frames: int) -> Sound:
    return np.linspace(0, 1, frames, dtype=np.float32)


def _riser(rng: SeededRng, frames: int) -> Sound:
    """Rise in pitch, brightness, loudness and haste, and stop at the top."""
    along = _progress(frames)
    air = hiss(rng, frames, lambda hz, p: band(hz, 250 * 2 ** (5 * p), 0.7))
    base = 110 * 2.0 ** (rng.number("base") % 8 / 12)
    wave = cycle(1 / partials_below(15000, base * 4, 30))
    haste = 0.6 + 0.4 * sine(cycles(3 + 13 * along**2, frames))
    tones = [
        read(wave, cycles(base * np.exp2(2 * along**1.5 + bend).astype(np.float32), frames)) for bend in (-0.006, 0.006)
    ]
    return reverb((air * 0.5 + np.stack(tones) * haste * 0.7) * (0.03 + along**2), loud=0.3)


def _impact(rng: SeededRng, frames: int) -> Sound:
    """Hit something large in a hall: a drop, a crack, debris, and what the hall says."""
    time = seconds_of(frames / SAMPLE_RATE)[:frames]
    length = max(0.08, min(1.2, frames / SAMPLE_RATE / 3))
    low = 34 + 14 * rng.roll("low")
    drop = sine(cycles(low + 110 * dying(time, 20), len(time))) * dying(time, 1 / length)
    wood = sum(
        sine(cycles(hz * (0.9 + low / 200), len(time))) / (2 + number) for number, hz in enumerate((212, 391, 655))
    )
    crack = hiss(rng, len(time), lambda hz, _: (hz + 200) ** -0.6 * 60) * dying(time, 29)
    debris = hiss(rng, len(time), lambda hz, p: band(hz, 900 - 500 * p, 1.2)) * dying(time, 2 / length)
    return reverb(drop + wood * dying(time, 17) * 0.8 + crack * 0.5 + debris * 0.12, loud=0.7)


def _whoosh(rng: SeededRng, frames: int) -> Sound:
    """Pass by from one side to the other."""
    along = _progress(frames)
    top = 1800 + 2500 * rng.roll("top")
    air = hiss(rng, frames, lambda hz, p: band(hz, 250 + (top - 250) * np.sin(np.pi * p**0.8) ** 2, 0.8))
    gains = np.stack([np.cos(along * np.pi / 2), np.sin(along * np.pi / 2)])
    passing: Sound = air * gains[:: rng.pick("way", (1, -1))] * np.sin(np.pi * along**0.8) ** 2
    return passing


def _rain(rng: SeededRng, frames: int) -> Sound:
    """Render rain on leaves: a bed of noise with single drops."""
    bed = hiss(rng, frames, lambda hz, p: band(hz, 4500, 1.8) * (1 + 0.15 * np.sin(9 * p)))
    generator = np.random.default_rng(rng.number("drops"))
    count = max(1, int(frames / SAMPLE_RATE * 45))
    drops = [_drop(hz) for hz in (900, 1250, 1600, 2100, 2900)]
    places = zip(
        generator.integers(0, frames, count), generator.integers(0, 5, count), generator.random(count), strict=True
    )
    return bed * 0.25 + lay(
        (Placed(drops[i], int(at), 0.15 + 0.6 * r**3, 2 * (r * 7 % 1) - 1) for at, i, r in places), frames
    )


def _drop(hz: float) -> Sound:
    """Render one drop: a short rising tone, as the bubble under it shrinks."""
    time = seconds_of(0.05)
    drop: Sound = sine(cycles(hz * (1 + 6 * time), len(time))) * dying(time, 125) * np.minimum(1, time / 0.001)
    return drop.reshape(1, -1)


def _wind(rng: SeededRng, frames: int) -> Sound:
    """Blow in gusts of some seconds, or roll in as waves do."""
    gusts = max(1, round(frames / SAMPLE_RATE / 3.5))
    shift = rng.roll("shift")

    def shape(hz: Sound, p: Sound) -> Sound:
        gust = 0.5 - 0.5 * np.cos(2 * np.pi * gusts * p) * (0.7 + 0.3 * np.sin(7 * p + 6 * shift))
        blown: Sound = (band(hz, 280 + 700 * gust, 0.9) + 0.35 * band(hz, 2600, 1.5) * gust) * (0.2 + 0.8 * gust)
        return blown

    return hiss(rng, frames, shape)


def _thunder(rng: SeededRng, frames: int) -> Sound:
    """Crack, then roll away over the hills."""
    rolls = [(rng.roll(("roll", number)), rng.roll(("force", number))) for number in range(6)]

    def shape(hz: Sound, p: Sound) -> Sound:
        far = sum(force * np.exp(-(((p - at) / 0.07) ** 2)) for at, force in rolls)
        rolled: Sound = (band(hz, 90, 1.3) * (0.4 + far) + band(hz, 700, 2) * dying(p, 17)) * dying(p, 2.2)
        return rolled

    return reverb(hiss(rng, frames, shape), loud=0.5)


def _chime(rng: SeededRng, frames: int) -> Sound:
    """Render a rising run of small bells."""
    count = max(3, min(24, int(frames / SAMPLE_RATE * 6)))
    notes = (_PENTATONIC[number % 5] + 12 * (number // 5 % 3) for number in range(count))
    base, gap = 67 + rng.number("base") % 7, min(0.11, frames / SAMPLE_RATE / count / 2)
    bells = [
        Placed(play("bell", base + note, 0.4), round(number * gap * SAMPLE_RATE), 0.8, np.sin(number * 1.3))
        for number, note in enumerate(notes)
    ]
    return reverb(echo(lay(bells, frames), delay=round(0.23 * SAMPLE_RATE), loud=0.4), loud=0.5)


def _blip(rng: SeededRng, frames: int) -> Sound:
    """Answer a touch: two or three short bright notes and their echo."""
    base = 76 + rng.number("base") % 9
    steps = rng.pick("steps", ((0, 7), (0, 4, 7), (7, 0), (0, 12), (0, 5, 12)))
    voice = rng.pick("voice", ("keys", "bell", "saw"))
    notes = [Placed(play(voice, base + step, 0.05), round(at * 0.075 * SAMPLE_RATE)) for at, step in enumerate(steps)]
    click = Placed(hit("rim", 1.0), 0, 0.4)
    return reverb(echo(lay([*notes, click], frames), delay=round(0.13 * SAMPLE_RATE), loud=0.3), loud=0.2)


def _drone(rng: SeededRng, frames: int) -> Sound:
    """Run an engine: a low chord, its slow beat, and the air around it."""
    root = 30 + rng.number("root") % 8
    chord = [Placed(play("pad", root + step, frames / SAMPLE_RATE), 0) for step in (0, 7, 12, 19)]
    air = hiss(rng, frames, lambda hz, p: band(hz, 160 + 60 * np.sin(11 * p), 0.9))
    motor = _progress(frames) * frames / SAMPLE_RATE
    hum: Sound = (lay(chord, frames) + air * 0.25) * (0.8 + 0.2 * sine(cycles(1.7 + 0.1 * np.sin(motor), frames)))
    return hum


_EFFECTS: dict[str, Callable[[SeededRng, int], Sound]] = {
    "riser": _riser,
    "impact": _impact,
    "whoosh": _whoosh,
    "rain": _rain,
    "wind": _wind,
    "thunder": _thunder,
    "chime": _chime,
    "blip": _blip,
    "drone": _drone,
}


def make(effect: str, *, rng: SeededRng, frames: int) -> Sound:
    """Make an effect that lasts so many frames."""
    return _EFFECTS[effect](rng, frames)


def make_loop(effect: str, *, rng: SeededRng, frames: int) -> Sound:
    """Make an effect that runs on without a seam: what comes after its end is blended into its start."""
    blend = min(frames, SAMPLE_RATE // 2)
    longer = make(effect, rng=rng, frames=frames + blend)
    rising = np.sin(_progress(blend) * (np.pi / 2))
    looped = longer[:, :frames].copy()
    looped[:, :blend] = looped[:, :blend] * rising + longer[:, frames:] * rising[::-1]
    return looped
