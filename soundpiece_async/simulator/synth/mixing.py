"""Mixing: notes placed in a buffer, echo and reverb, tails wrapped around a loop, level and fades.

Nothing here but the level is nonlinear, and that has no memory: so a loop whose tails are folded is exactly periodic.
"""

from collections.abc import Iterable

import attrs
import numpy as np

from soundpiece_async.simulator.synth.instruments import Sound
from soundpiece_async.simulator.synth.score import SAMPLE_RATE

_COMBS = ((1617, 0.81), (1873, 0.78), (2141, 0.76))  # frames and feedback: delays without a common beat, 1 s of reverb
_SPREAD = 37  # frames by which the right channel's delays are longer, for stereo width
_ECHOES = 3
_TAIL = 2.0  # seconds after which the reverb is silent


@attrs.frozen(eq=False)
class Placed:
    """A sound at a frame; `pan` from -1 to 1."""

    sound: Sound
    at: int
    loud: float = 1.0
    pan: float = 0.0


def lay(sounds: Iterable[Placed], frames: int) -> Sound:
    """Add sounds into a buffer of a length; what passes its end is left out."""
    buffer = np.zeros((2, frames), dtype=np.float32)
    for placed in sounds:
        space = max(0, frames - placed.at)
        angle = (placed.pan + 1) * np.pi / 4
        gains = np.array([[np.cos(angle)], [np.sin(angle)]], dtype=np.float32) * np.float32(placed.loud * np.sqrt(2))
        heard = placed.sound[:, :space]
        buffer[:, placed.at : placed.at + heard.shape[1]] += gains * heard
    return buffer


def reach(sounds: Iterable[Placed], *, delay: int) -> int:
    """Return the frame at which the last sound, its echoes and its reverb are silent."""
    ends = (placed.at + placed.sound.shape[1] for placed in sounds)
    return max(ends, default=0) + _ECHOES * delay + round(_TAIL * SAMPLE_RATE)


def echo(dry: Sound, *, delay: int, loud: float) -> Sound:
    """Repeat a sound, from side to side, each at `loud` of the one before; `delay` in frames."""
    wet = dry.copy()
    for turn in range(1, _ECHOES + 1):
        at = turn * delay
        if at < dry.shape[1]:
            wet[turn % 2, at:] += dry.sum(axis=0)[: dry.shape[1] - at] * np.float32(loud**turn * 0.7)
    return wet


def reverb(dry: Sound, *, loud: float) -> Sound:
    """Add reverb: three damped comb filters per channel (Schroeder, Moorer)."""
    wet = np.zeros_like(dry)
    mono = dry.sum(axis=0) * np.float32(0.2)
    for side in (0, 1):
        for delay, feedback in _COMBS:
            wet[side] += _comb(mono, delay + side * _SPREAD, feedback)
    return dry + np.float32(loud) * wet


def _comb(dry: Sound, delay: int, feedback: float) -> Sound:
    """Feed a delay line back into itself, a block of its own length at a time: that is what makes it fast."""
    line = np.concatenate([np.zeros(delay + 1, dtype=np.float32), dry])
    for at in range(2 * delay + 1, len(line), delay):
        end = min(at + delay, len(line))
        line[at:end] += (line[at - delay : end - delay] + line[at - delay - 1 : end - delay - 1]) * (feedback * 0.5)
    heard: Sound = line[1 : len(dry) + 1]  # `delay` frames late, as a reflection is
    return heard


def fold(sound: Sound, frames: int) -> Sound:
    """Wrap what sounds after the end around to the start, as often as it takes."""
    turns = -(-sound.shape[1] // frames)
    padded = np.pad(sound, ((0, 0), (0, turns * frames - sound.shape[1])))
    folded: Sound = padded.reshape(2, turns, frames).sum(axis=1)
    return folded


def level(sound: Sound, *, ceiling: float, crest: float) -> Sound:
    """Scale a sound to a loudness below the ceiling; peaks above `crest` times its RMS are rounded."""
    loudness = float(np.sqrt(np.mean(sound**2, dtype=np.float64)))
    if loudness == 0:
        return sound
    rounded = np.tanh(sound * np.float32(1 / (crest * loudness)))
    centred: Sound = rounded - rounded.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    return centred * np.float32(ceiling / max(1.0, float(np.abs(centred).max())))


def fade(sound: Sound, *, attack: float, release: float) -> Sound:
    """Begin and end at zero on half cosines, in seconds."""
    frames = sound.shape[1]
    up, down = min(round(attack * SAMPLE_RATE), frames // 2), min(round(release * SAMPLE_RATE), frames // 2)
    faded = sound.copy()
    faded[:, :up] *= (0.5 - 0.5 * np.cos(np.linspace(0, np.pi, up))).astype(np.float32)
    faded[:, frames - down :] *= (0.5 + 0.5 * np.cos(np.linspace(0, np.pi, down))).astype(np.float32)
    return faded
