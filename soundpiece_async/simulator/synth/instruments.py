"""The pitched instruments: a frequency in Hz and a length in seconds become sound of shape (1 or 2, frames).

Everything is additive or read from a table, so nothing aliases, and every sound begins and ends at zero. What sounds
random (the phases of a pad, a breath) is drawn from the frequency: the same note is the same sound in every track.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from soundpiece_async.simulator.synth.score import SAMPLE_RATE

Sound = npt.NDArray[np.floating[Any]]  # float32 wherever it is long

_TABLE = 8192  # samples of one period: reading the nearest one is then 70 dB below the tone
_PAD = 2**16  # samples of a pad before it repeats: 1.5 s, longer than its slowest beat
_CEILING = 15_000.0  # Hz; no partial above
_SUB_RELEASE = 0.05  # seconds
_FORMANTS = {  # Hz, after Peterson and Barney's mean vowels
    "ah": (730, 1090, 2440),
    "eh": (530, 1840, 2480),
    "ee": (300, 2290, 3010),
    "oh": (570, 840, 2410),
    "oo": (325, 870, 2240),
}


def seconds_of(seconds: float) -> Sound:
    """Return the time of every frame in seconds, from 0."""
    return np.arange(max(2, round(seconds * SAMPLE_RATE)), dtype=np.float32) / np.float32(SAMPLE_RATE)


def cycles(hz: float | Sound, frames: int) -> Sound:
    """Return the phase of every frame in turns, wrapped into [0, 1]; `hz` may change over the frames."""
    # float64 until it is wrapped: a float32 phase is audibly rough after a few seconds
    turns = (np.cumsum(hz, dtype=np.float64) if isinstance(hz, np.ndarray) else np.arange(frames) * hz) / SAMPLE_RATE
    return (turns - np.floor(turns)).astype(np.float32)


def sine(turns: Sound) -> Sound:
    """Return the sine of a phase in turns."""
    wave: Sound = np.sin(turns * np.float32(2 * np.pi))
    return wave


def dying(time: Sound, speed: float) -> Sound:
    """Die away exponentially, `speed` nepers per second."""
    curve: Sound = np.exp(np.float32(-speed) * time)
    return curve


def swell(frames: int, *, attack: float, release: float) -> Sound:
    """Return an envelope with half-cosine attack and release, in seconds, shortened where the sound is shorter."""
    shape = np.ones(frames, dtype=np.float32)
    up = max(1, min(round(attack * SAMPLE_RATE), frames // 2))
    down = max(1, min(round(release * SAMPLE_RATE), frames - up))
    shape[:up] = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, up, endpoint=False))
    shape[frames - down :] = 0.5 + 0.5 * np.cos(np.linspace(0, np.pi, down))
    return shape


def cycle(amplitudes: Sound) -> Sound:
    """Make one period of a wave from the amplitudes of its partials, the first at index 0; its RMS is 0.35."""
    partials = np.arange(1, len(amplitudes) + 1)
    spectrum = np.zeros(_TABLE // 2 + 1, dtype=np.complex64)
    # Schroeder's phases keep the peaks low, so that many voices add up before they clip
    spectrum[1 : len(amplitudes) + 1] = amplitudes * np.exp(-1j * np.pi * partials**2 / len(amplitudes))
    wave = np.fft.irfft(spectrum).astype(np.float32)
    return wave * np.float32(0.35 / np.sqrt(np.mean(wave**2)))


def read(table: Sound, turns: Sound) -> Sound:
    """Read a period at every phase."""
    found: Sound = table[(turns * _TABLE).astype(np.int32) & (_TABLE - 1)]
    return found


def partials_below(ceiling: float, hz: float, most: int) -> Sound:
    """Number the partials of a tone that lie below a frequency, at least one."""
    return np.arange(1, max(1, min(most, int(ceiling / hz))) + 1, dtype=np.float32)


def detune(hz: float, cents: float) -> float:
    """Shift a frequency by hundredths of a semitone."""
    return float(hz * 2.0 ** (cents / 1200))


def active(hz: float, seconds: float, *, partials: Sound, damping: float, decay: float) -> Sound:
    """Render a string: partial k decays with `decay + k * damping` per second, high partials first."""
    time = seconds_of(seconds)
    turns = cycles(hz, len(time))
    turning = np.exp(1j * (2 * np.pi) * turns).astype(np.complex64) * dying(time, damping)
    # Horner: the powers of one decaying oscillator are all the partials, at one multiplication each
    total = np.full(len(time), partials[-1], dtype=np.complex64)
    for amplitude in partials[-2::-1]:
        total *= turning
        total += amplitude
    total *= turning
    ringing: Sound = total.imag * (dying(time, decay) * swell(len(time), attack=0.002, release=0.06))
    return ringing[None]


def _pluck(hz: float, seconds: float) -> Sound:
    """Pluck a nylon string near its bridge."""
    number = partials_below(_CEILING, hz, 12)
    shape = np.abs(np.sin(np.pi * 0.21 * number)) / number
    return 0.55 * active(hz, seconds, partials=shape, damping=1.0 + hz / 300, decay=1.6)


def _round_bass(hz: float, seconds: float) -> Sound:
    """Play a finger bass."""
    number = partials_below(1500, hz, 8)
    return 0.7 * active(hz, seconds, partials=number**-1.4, damping=1.6, decay=0.8)


def _keys(hz: float, seconds: float) -> Sound:
    """Play an electric piano: two operators, brightest when struck, wandering slowly from side to side."""
    time = seconds_of(seconds + 0.35)
    turns = cycles(hz, len(time))
    bright = dying(time, 4) * 1.3 + 0.15
    tine = sine(cycles(7 * hz, len(time))) * dying(time, 14) * 0.12 if 7 * hz < _CEILING else 0
    tone = np.sin(np.float32(2 * np.pi) * turns + bright * sine(turns)) + tine
    tone *= dying(time, 1.1) * swell(len(time), attack=0.003, release=0.3) * 0.5
    side = 0.25 * sine(cycles(4.5, len(time)))
    return np.stack([tone * (1 - side), tone * (1 + side)])


def _bell(hz: float, seconds: float) -> Sound:
    """Strike a soft bell: a modulator at 3.5 times the tone."""
    time = seconds_of(seconds)
    shimmer = sine(cycles(3.5 * hz, len(time))) * dying(time, 3.2) * 1.1
    turns = cycles(hz, len(time))
    tone: Sound = np.sin(np.float32(2 * np.pi) * turns + shimmer) + 0.4 * sine(turns)
    tone *= dying(time, 2.4) * swell(len(time), attack=0.002, release=0.3) * 0.4
    return tone.reshape(1, -1)


def _organ(hz: float, seconds: float) -> Sound:
    """Hold drawbars, with the slow beating of a rotating speaker between the sides."""
    bars = np.array([0.8, 1, 0.6, 0.5, 0, 0.3, 0, 0.25], dtype=np.float32)
    wave = cycle(bars[: len(partials_below(_CEILING, hz, len(bars)))])
    frames = len(seconds_of(seconds + 0.06))
    sides = [read(wave, cycles(detune(hz, cents), frames)) for cents in (-4, 4)]
    return np.stack(sides) * swell(frames, attack=0.008, release=0.06)


def _saw(hz: float, seconds: float) -> Sound:
    """Play two detuned sawtooth oscillators, one a side, whose filter closes as the note goes on."""
    return 0.8 * _filtered_saw(hz, seconds + 0.12, cents=7, closing=6)


def _saw_bass(hz: float, seconds: float) -> Sound:
    """Play a sawtooth bass over a sine that holds the middle."""
    return 0.7 * _filtered_saw(hz, seconds + _SUB_RELEASE, cents=3, closing=9) + 0.35 * _sub(hz, seconds)


def _reese(hz: float, seconds: float) -> Sound:
    """Play the beating bass of drum and bass."""
    saw = _filtered_saw(hz, seconds + _SUB_RELEASE, cents=13, closing=1.5)
    return 0.6 * (saw + 0.5 * saw[::-1]) + 0.3 * _sub(hz, seconds)


def _filtered_saw(hz: float, seconds: float, *, cents: float, closing: float) -> Sound:
    """Cross from a bright period to a dull one, `closing` per second: a filter without its recursion."""
    number = partials_below(9000, hz, 48)
    bright, dull = cycle(1 / number), cycle(number**-2.4)
    time = seconds_of(seconds)
    opened = dying(time, closing) * np.float32(0.9)
    sides = []
    for side in (-cents, cents):
        turns = cycles(detune(hz, side), len(time))
        sides.append(opened * read(bright, turns) + (1 - opened) * read(dull, turns))
    return np.stack(sides) * swell(len(time), attack=0.004, release=0.05)


def _sub(hz: float, seconds: float) -> Sound:
    """Hold a sine with a little of its octave, so that small loudspeakers have something of it."""
    frames = len(seconds_of(seconds + _SUB_RELEASE))
    turns = cycles(hz, frames)
    tone: Sound = 0.6 * sine(turns) + 0.18 * sine(cycles(2 * hz, frames)) + 0.07 * sine(cycles(3 * hz, frames))
    tone *= swell(frames, attack=0.012, release=0.06)
    return tone.reshape(1, -1)


def _pad(hz: float, seconds: float) -> Sound:
    """Breathe a chorus of strings: every partial is a narrow band of random phases, other ones on each side.

    This is Nasca's PADsynth: one inverse transform gives a long period without a seam, to be repeated as needed.
    """
    frames = len(seconds_of(seconds + 0.6))
    held = np.tile(_pad_period(hz), (1, -(-frames // _PAD)))[:, :frames]
    held *= swell(frames, attack=min(0.45, seconds * 0.4), release=0.7)
    return held


@lru_cache(maxsize=32)
def _pad_period(hz: float) -> Sound:
    """Make what a pad repeats, half a megabyte; nobody may write to it."""
    rng = np.random.default_rng(round(hz * 100))
    spectrum = np.zeros((2, _PAD // 2 + 1), dtype=np.complex64)
    for number in partials_below(9000, hz, 20):
        middle = number * hz * _PAD / SAMPLE_RATE
        width = max(2.0, middle * 0.006)  # a band grows with its partial, as it does where many players play
        bins = np.arange(int(middle - 3 * width), int(middle + 3 * width) + 1)
        band = np.exp(-(((bins - middle) / width) ** 2)) / np.sqrt(width) * number**-1.5
        spectrum[:, bins] += band * np.exp(2j * np.pi * rng.random((2, len(bins))))
    wave = np.fft.irfft(spectrum).astype(np.float32)
    wave *= np.float32(0.22 / np.sqrt(np.mean(wave**2)))
    wave.flags.writeable = False
    return wave


def _vowel(name: str, hz: float) -> Sound:
    """Make a period of a vowel: the falling spectrum of vocal folds through three formants."""
    number = partials_below(5500, hz, 60)
    mouth = np.full(len(number), 0.015, dtype=np.float32)
    for formant, weight in zip(_FORMANTS[name], (1.0, 0.6, 0.3), strict=True):
        mouth += weight / (1 + ((number * hz - formant) / (60 + formant * 0.04)) ** 2)
    return cycle(mouth * number**-0.6)


def _sing(name: str, hz: float, seconds: float) -> Sound:
    """Sing a note: a hum opens into the vowel, a scoop at its start, vibrato once it is held, doubled on both sides."""
    time = seconds_of(seconds + 0.09)
    rng = np.random.default_rng(round(hz * 100) + len(time))
    hum, vowel = cycle(partials_below(1200, hz, 4) ** -2.0), _vowel(name, hz)
    opened = np.clip(time / 0.09, 0, 1)
    sides = []
    for cents in (-5, 6):
        vibrato = 0.3 * np.clip((time - 0.2) / 0.4, 0, 1) * sine(cycles(5.2 + cents / 40, len(time)))
        bend = vibrato - 0.7 * dying(time, 33) + cents / 100
        turns = cycles((hz * np.exp2(bend / 12)).astype(np.float32), len(time))
        breath = 0.012 * rng.standard_normal(len(time), dtype=np.float32)
        sides.append((1 - opened) * read(hum, turns) + opened * read(vowel, turns) + breath)
    return np.stack(sides).astype(np.float32) * swell(len(time), attack=0.035, release=0.11)


VOICES: dict[str, Callable[[float, float], Sound]] = {
    "pluck": _pluck,
    "keys": _keys,
    "bell": _bell,
    "organ": _organ,
    "saw": _saw,
    "pad": _pad,
    "round": _round_bass,
    "saw bass": _saw_bass,
    "reese": _reese,
    "sub": _sub,
}


RINGING = {"pluck": 1.0, "bell": 1.6, "round": 2.0}  # seconds: what is struck rings alike, however long its note is


@lru_cache(maxsize=64)
def _ring(voice: str, hz: float) -> Sound:
    """Strike once and keep it, up to 0.35 MB: nobody may write to it."""
    struck = VOICES[voice](hz, RINGING[voice])
    struck.flags.writeable = False
    return struck


def _stop(ringing: Sound, seconds: float) -> Sound:
    """Lay a finger on the string."""
    frames = min(ringing.shape[1], len(seconds_of(seconds + 0.08)))
    return ringing[:, :frames] * swell(frames, attack=0, release=0.06)


def play(voice: str, pitch: int, seconds: float) -> Sound:
    """Play a MIDI pitch for a length on an instrument or, where the voice is a vowel, sing it."""
    hz = 440 * 2.0 ** ((pitch - 69) / 12)
    if voice in _FORMANTS:
        return _sing(voice, hz, seconds)
    if voice not in RINGING:
        return VOICES[voice](hz, seconds)
    ringing = _ring(voice, hz)
    return _stop(ringing, seconds) if voice == "round" else ringing
