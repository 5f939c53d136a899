"""Real music and effects for the simulator, from a prompt and a seed: 44.1 kHz, stereo, 16 bit FLAC.

1. The same score gives the same samples and, with the same libraries on the same kind of machine, the same bytes.
2. The stems of a score add up to its mix, sample for sample: every layer is brought to 16 bit by itself and the mix is
   their sum in integers. The ceilings of the layers add up to less than full scale, so that nothing can clip.
3. A cut is a window on its source: what it holds is the source's very samples, but for the fades at the cut.
4. Rendering blocks, mostly with the GIL released: call it from a worker thread.
"""

import io
import math
from typing import get_args

import attrs

from soundpiece_async.simulator.synth.notes import FULL, energy_of, write
from soundpiece_async.simulator.synth.score import (
    LAYERS,
    SAMPLE_RATE,
    STEPS_PER_BAR,
    Score,
    SeededRng,
    Style,
    decide,
    fit,
)
from soundpiece_async.simulator.synth.vocabulary import TIMBRES, Layer

try:
    import numpy as np
    import numpy.typing as npt
    import soundfile

    from soundpiece_async.simulator.synth import drums, effects, instruments, mixing
except ModuleNotFoundError as _missing:
    raise ModuleNotFoundError(
        f"the simulator makes its audio with numpy and soundfile, and {_missing.name} is not installed: "
        "pip install 'soundpiece-async[simulator]'",
        name=_missing.name,
    ) from _missing

__all__ = [
    "LAYERS",
    "SAMPLE_RATE",
    "Layer",
    "Score",
    "Style",
    "compose",
    "cut_down",
    "encode",
    "remix",
    "samples",
    "stems",
]

Pcm = npt.NDArray[np.int16]

_ALONE, _TOGETHER = 0.7, 0.95  # ceilings: -3 dBFS, which several layers stay below too, as their peaks do not coincide
_SHARES = {"vocals": 3.0, "drums": 4.0, "bass": 2.6, "other": 3.4}  # of the ceiling, between the layers that are there
_CRESTS = {"vocals": 3.2, "drums": 5.0, "bass": 2.6, "other": 3.2}  # how far peaks stand out before they are rounded
_ECHOES = {"vocals": 0.3, "other": 0.25}
_ROOMS = {"vocals": 0.35, "drums": 0.12, "other": 0.4}  # reverb on a bass is a rumble
_SAME_TEMPO = 0.05  # tempi closer than this sound the same
_BENDS = (0.85, 0.92, 1.1, 1.18)


def compose(prompt: str, *, seed: int, style: Style, seconds: float, loop: bool = False) -> Score:
    """Decide what a prompt sounds like; nothing is rendered yet.

    The length is `seconds` rounded to a whole frame, at least one. Any prompt will do, the empty one too.

    Raises:
        ValueError: `style` is unknown, or `seconds` is not a positive, finite number.

    """
    if style not in get_args(Style):
        raise ValueError(f"style must be one of {', '.join(get_args(Style))}, got {style!r}")
    frames = _frames_of(seconds)
    plan = fit(decide(prompt, seed=seed, style=style), seconds=frames / SAMPLE_RATE, loop=loop)
    return Score(
        prompt=prompt, seed=seed, style=style, frames=frames, plan=plan, whole=frames, parts=plan.layers, loop=loop
    )


def stems(score: Score) -> dict[str, Score]:
    """Split a score into vocals, drums, bass and other, which add up to it exactly (rule 2).

    All four are always there; a layer that does not sound in the score, or in the stem it already is, is silent.
    """
    return {
        layer: attrs.evolve(score, layer=layer, parts=tuple(part for part in score.parts if part == layer))
        for layer in LAYERS
    }


def cut_down(score: Score, *, seconds: float) -> Score:
    """Cut a score to a length, exact to a frame; a score that is no longer than that comes back as it is.

    The cut starts on a bar, the first at which everyone plays if enough follows it, and fades where it cuts.
    """
    frames = _frames_of(seconds)
    if frames >= score.frames:
        return score
    return attrs.evolve(score, frames=frames, start=_find_entry(score, score.start + score.frames - frames))


def remix(score: Score, *, seed: int, prompt: str) -> Score:
    """Rearrange a whole track: its length, layers and harmony, in a related key, another timbre and another tempo.

    The prompt decides the genre; without one, the source's prompt does. The remix of a cut is as long as the cut, that
    of a stem has every layer. A loop of few bars may have to keep its tempo.
    """
    prompt = prompt or score.prompt
    rng, source = SeededRng(prompt, seed), score.plan
    told = decide(prompt, seed=seed, style=score.style)
    turn = rng.number("turn") % len(source.progression)
    plan = attrs.evolve(
        told,
        tonic=(source.tonic + rng.pick("key", (0, 5, 7))) % 12,
        mode=source.mode,
        progression=source.progression[turn:] + source.progression[:turn],
        tempo=told.tempo
        if abs(told.tempo / source.tempo - 1) > _SAME_TEMPO
        else source.tempo * rng.pick("tempo", _BENDS),
        arp=told.arp if told.arp != source.arp else rng.pick("arp", [arp for arp in TIMBRES if arp != source.arp]),
        effect=source.effect,
        layers=source.layers,
    )
    return attrs.evolve(
        compose(prompt, seed=seed, style=score.style, seconds=score.seconds, loop=score.loop),
        plan=fit(plan, seconds=score.seconds, loop=score.loop),
        parts=plan.layers,
    )


def samples(score: Score) -> Pcm:
    """Render a score: int16 of shape (frames, 2)."""
    mix = np.zeros((2, score.frames), dtype=np.int16)
    for layer in score.parts:
        mix += _render(score, layer)
    return np.ascontiguousarray(mix.T)


def encode(score: Score) -> bytes:
    """Render a score into the bytes of a FLAC file."""
    file = io.BytesIO()
    soundfile.write(file, samples(score), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _frames_of(seconds: float) -> int:
    """Round a length to whole frames, at least one."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds must be a positive, finite number, got {seconds!r}")
    return max(1, round(seconds * SAMPLE_RATE))


def _find_entry(score: Score, latest: int) -> int:
    """Find where a cut begins, not after the frame `latest`: at the first full bar, else where the source begins."""
    bar_frames = score.plan.step_frames * STEPS_PER_BAR
    for bar in range(score.plan.steps // STEPS_PER_BAR):
        at = round(bar * bar_frames)
        if score.start <= at <= latest and energy_of(score, bar) == FULL:
            return at
    return score.start


def _render(score: Score, layer: Layer) -> Pcm:
    """Render one layer of a score to 16 bit (rule 2), of shape (2, frames)."""
    wet = _perform_effect(score) if score.style == "fx" else _perform(score, layer)
    ceiling = _ALONE if score.plan.layers == (layer,) else _TOGETHER
    share = _SHARES[layer] / sum(_SHARES[other] for other in score.plan.layers)
    whole = mixing.level(wet, ceiling=ceiling * share, crest=_CRESTS[layer])
    window = _fade(score, whole[:, score.start : score.start + score.frames])
    return np.rint(window * 32767).astype(np.int16)


def _perform_effect(score: Score) -> instruments.Sound:
    """Make the sound of an effect, which has but one layer."""
    make = effects.make_loop if score.loop else effects.make
    return make(score.plan.effect, rng=score.rng, frames=score.whole)


def _perform(score: Score, layer: Layer) -> instruments.Sound:
    """Render the notes of a layer with its reverb, with the tails of a loop wrapped around its seam."""
    sounds, delay = _play(score, layer), round(score.plan.step_frames * 3)
    wet = mixing.lay(sounds, mixing.reach(sounds, delay=delay) if score.loop else score.whole)
    if layer in _ECHOES:
        wet = mixing.echo(wet, delay=delay, loud=_ECHOES[layer])
    if layer in _ROOMS:
        wet = mixing.reverb(wet, loud=_ROOMS[layer])
    folded = mixing.fold(wet, score.whole) if score.loop else wet
    if score.plan.rain and layer == "other":
        return folded + 0.1 * effects.make_loop("rain", rng=score.rng, frames=score.whole)
    return folded


def _play(score: Score, layer: Layer) -> list[mixing.Placed]:
    """Yield the sound of every note of a layer; equal notes share one, which makes long tracks cheap."""
    step, tune = score.plan.step_frames, SeededRng("kit", score.seed).pick("tuning", drums.TUNINGS)
    known: dict[tuple[str, int, float], instruments.Sound] = {}
    placed = []
    for note in write(score, layer):
        key = (note.voice, note.pitch, note.steps)
        if key not in known:
            struck = layer == "drums"
            seconds = note.steps * step / SAMPLE_RATE
            known[key] = (
                drums.hit(note.voice, tune, note.pitch) if struck else instruments.play(note.voice, note.pitch, seconds)
            )
        placed.append(mixing.Placed(known[key], round(note.step * step), note.loud, note.pan))
    return placed


def _fade(score: Score, window: instruments.Sound) -> instruments.Sound:
    """Fade a cut at its ends, any other track at its own; a whole loop has no fades."""
    cut = score.frames < score.whole
    if score.loop and not cut:
        return window
    ending = 0.012 if score.style == "fx" and not cut else min(1.5, 0.12 * score.seconds)
    return mixing.fade(window, attack=0.01 if score.start else 0.002, release=ending)
