"""The drum kit, synthesised once per process: every drum is sound of shape (1 or 2, frames), read only."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from soundpiece_async.simulator.synth.instruments import Sound, cycles, dying, seconds_of, sine, swell

TUNINGS = (0.94, 1.0, 1.07)  # three kits that differ in pitch


def _drop(time: Sound, *, low: float, high: float, speed: float) -> Sound:
    """Swing a skin: a sine that falls from one frequency (Hz) to another."""
    return sine(cycles(low + (high - low) * dying(time, speed), len(time)))


def _noise(time: Sound, *, seed: int, order: int) -> Sound:
    """Return noise of RMS 1 on two channels; each order adds 6 dB per octave towards the treble."""
    white = np.random.default_rng(seed).standard_normal((2, len(time) + order), dtype=np.float32)
    shaped = np.diff(white, n=order, axis=1)
    even: Sound = shaped / np.sqrt(np.mean(shaped**2))
    return even


def _kick(tune: float) -> Sound:
    time = seconds_of(0.5)
    body = _drop(time, low=46 * tune, high=210 * tune, speed=38) * dying(time, 7)
    click = _noise(time, seed=1, order=1)[:1] * dying(time, 500) * 0.2
    return body + click


def _snare(tune: float) -> Sound:
    time = seconds_of(0.35)
    body = _drop(time, low=175 * tune, high=290 * tune, speed=60) * dying(time, 20) * 0.6
    return body + _noise(time, seed=2, order=1) * dying(time, 15) * 0.24


def _clap(tune: float) -> Sound:
    time = seconds_of(0.3)
    hands = sum(np.where(time >= at, dying(time - at, 170), 0) for at in (0, 0.011, 0.023))
    body = _drop(time, low=1050 * tune, high=1050 * tune, speed=1) * 0.25 + 1
    clapped: Sound = _noise(time, seed=3, order=1) * body * (hands + 0.55 * dying(time, 20)) * 0.2
    return clapped


def _hat(_: float) -> Sound:
    time = seconds_of(0.09)
    return _noise(time, seed=4, order=3) * dying(time, 65) * 0.2


def _open(_: float) -> Sound:
    time = seconds_of(0.4)
    return _noise(time, seed=5, order=3) * dying(time, 11) * 0.16


def _shaker(_: float) -> Sound:
    time = seconds_of(0.12)
    return _noise(time, seed=6, order=2) * swell(len(time), attack=0.03, release=0.09) * 0.14


def _rim(tune: float) -> Sound:
    time = seconds_of(0.08)
    wood = _drop(time, low=820 * tune, high=1700 * tune, speed=160)
    return (wood + 0.5 * _drop(time, low=460 * tune, high=460, speed=1))[None] * dying(time, 60) * 0.5


def _tom(tune: float) -> Sound:
    time = seconds_of(0.55)
    skin = _drop(time, low=88 * tune, high=150 * tune, speed=22) * dying(time, 7)
    return skin * 0.75 + _noise(time, seed=7, order=1) * dying(time, 60) * 0.06


def _ride(tune: float) -> Sound:
    time = seconds_of(0.9)
    metal = sum(sine(cycles(hz * tune, len(time))) for hz in (3127, 4211, 5408, 6877, 8123)) * np.float32(0.05)
    return (metal + _noise(time, seed=8, order=3) * 0.06) * dying(time, 5)


def _crash(_: float) -> Sound:
    time = seconds_of(1.8)
    return _noise(time, seed=9, order=2) * dying(time, 2.6) * 0.16


KIT: dict[str, Callable[[float], Sound]] = {
    "kick": _kick,
    "snare": _snare,
    "clap": _clap,
    "hat": _hat,
    "open": _open,
    "shaker": _shaker,
    "rim": _rim,
    "tom": _tom,
    "ride": _ride,
    "crash": _crash,
}


@lru_cache(maxsize=128)
def hit(drum: str, tune: float, semitones: int = 0) -> Sound:
    """Hit a drum in a tuning; a tom may be some semitones away from it."""
    sound = KIT[drum](tune * 2.0 ** (semitones / 12))
    struck = (sound * swell(sound.shape[1], attack=0.0008, release=0.02)).astype(np.float32)
    struck.flags.writeable = False  # shared by every track and every thread
    return struck
