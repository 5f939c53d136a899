"""From a plan to its notes: drums, bass, harmony and melody as plain data, before any sound is made.

1. Time is counted in sixteenths from the first beat; a bar has 16. Swing delays every second sixteenth.
2. A track grows: its energy per bar goes from an intro (harmony alone) over a verse to everyone playing. Samples and
   loops are full throughout.
3. Harmony follows the progression, one chord per bar. Chord tones come from `chord_at`.
4. Music that does not loop ends on its first chord, on the beat after its last bar.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import attrs

from soundpiece_async.simulator.synth.patterns import BASSES, COMPS, GROOVES, TUNES
from soundpiece_async.simulator.synth.score import STEPS_PER_BAR, Plan, Score, SeededRng
from soundpiece_async.simulator.synth.vocabulary import Layer

INTRO, VERSE, FULL = 1, 2, 3  # how full a bar is
_ARC = (
    INTRO,
    VERSE,
    FULL,
    FULL,
    VERSE,
    FULL,
    FULL,
    FULL,
)  # the energy of the sections, from the start again after eight
_ONE_NOTE = 4  # sixteenths in which no tune fits
_CALM_TEMPO = 130  # beats per minute below which sixteenths are no hurry

SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
}
VOWELS = ("ah", "oh", "eh", "oo", "ee")


@attrs.frozen
class Note:
    """One sound: who plays it, its MIDI pitch, when and how long in sixteenths; `loud` 0 to 1, `pan` -1 to 1."""

    voice: str
    pitch: int
    step: float
    steps: float
    loud: float = 0.7
    pan: float = 0.0


def energy_of(score: Score, bar: int) -> int:
    """Return the density of a bar (rule 2)."""
    bars = score.plan.steps // STEPS_PER_BAR
    if score.style == "sample" or score.loop or bars < FULL:
        return FULL
    return _ARC[bar // max(1, min(4, bars // 4)) % len(_ARC)]


def chord_at(plan: Plan, bar: int) -> tuple[int, ...]:
    """Return the pitch classes of a bar's chord, its root first (rule 3)."""
    degree = plan.progression[bar % len(plan.progression)]
    scale = SCALES[plan.mode]
    return tuple((plan.tonic + scale[(degree + third) % 7]) % 12 for third in (0, 2, 4, 6)[: 3 + plan.sevenths])


def place(pitch_class: int, near: float) -> int:
    """Put a pitch class into the octave that lies nearest to a MIDI pitch: what keeps chords close to each other."""
    return pitch_class + 12 * round((near - pitch_class) / 12)


def _swing(note: Note, swing: float) -> Note:
    """Delay a note that stands on an odd sixteenth (rule 1)."""
    return attrs.evolve(note, step=note.step + swing) if note.step % 2 == 1 else note


def _bars(score: Score) -> range:
    """Count the bars that begin; a very short loop has a part of one."""
    return range(-(-score.plan.steps // STEPS_PER_BAR))


def _hits(pattern: str, score: Score, bar: int) -> Iterator[tuple[int, str]]:
    """Yield the steps of a bar at which a pattern has a mark, up to the end of the music."""
    first = bar * STEPS_PER_BAR
    return ((first + at, mark) for at, mark in enumerate(pattern) if mark != "-" and first + at < score.plan.steps)


def _drum(score: Score) -> Iterator[Note]:
    """Beat the groove, with a fill before the energy changes and a crash when it does."""
    groove = GROOVES[score.plan.groove]
    loud = not groove.keys().isdisjoint({"snare", "clap", "tom"})
    for bar in _bars(score):
        energy = energy_of(score, bar)
        fill = loud and bar + 1 in _bars(score) and energy > INTRO and (bar + 1) % 4 == 0
        for drum, pattern in groove.items():
            if energy == INTRO and drum not in {"hat", "shaker", "ride"}:
                continue
            for step, mark in _hits(pattern[:12] if fill else pattern, score, bar):
                human = 0.9 + 0.2 * score.rng.roll(("hit", drum, step))
                yield Note(drum, 0, step, 1, int(mark) / 9 * human, _PLACES.get(drum, 0.0))
        if fill:
            for at in range(4):
                yield Note("tom", 4 - 3 * at, bar * STEPS_PER_BAR + 12 + at, 1, 0.5 + 0.1 * at, 0.4 - 0.25 * at)
        if loud and bar and energy > energy_of(score, bar - 1):
            yield Note("crash", 0, bar * STEPS_PER_BAR, 1, 0.5, 0.2)
    if not score.loop:
        yield Note("kick", 0, score.plan.steps, 1, 0.8)
        yield Note("crash", 0, score.plan.steps, 1, 0.4 if loud else 0.15, -0.2)


_PLACES = {"hat": 0.3, "open": 0.3, "shaker": -0.4, "ride": 0.35, "rim": -0.25, "tom": -0.15}


def _bass(score: Score) -> Iterator[Note]:
    """Walk on root, octave and fifth; silent in an intro."""
    plan = score.plan
    patterns = BASSES[plan.groove]
    marks: list[tuple[int, int]] = []
    for bar in _bars(score):
        if energy_of(score, bar) == INTRO:
            continue
        root = place(chord_at(plan, bar)[0], 36)
        pattern = score.rng.pick(("bass", bar % 2), patterns)
        marks += [(step, root + {"r": 0, "f": 7, "o": 12}[mark]) for step, mark in _hits(pattern, score, bar)]
    home = place(chord_at(plan, 0)[0], 36)
    for (step, pitch), (end, _) in pairwise([*(marks or [(0, home)]), (plan.steps, home)]):
        yield Note(plan.bass, pitch, step, min(end - step, STEPS_PER_BAR) * 0.92, 0.8)
    if not score.loop:
        yield Note(plan.bass, home, plan.steps, 8, 0.8)


def _accompany(score: Score) -> Iterator[Note]:
    """Spread the harmony, break it into an arpeggio, and carry the tune where nobody sings."""
    plan = score.plan
    for bar in _bars(score):
        energy, first = energy_of(score, bar), bar * STEPS_PER_BAR
        length = min(STEPS_PER_BAR, plan.steps - first)
        yield from _spread(plan, bar, "pad", first, steps=length, loud=0.5)
        if plan.chords != "pad" and energy > INTRO:
            comp = score.rng.pick("comp", COMPS)
            for step, _ in _hits(comp, score, bar):
                yield from _spread(plan, bar, plan.chords, step, steps=2.5, loud=0.4)
        if energy != VERSE:
            yield from _arpeggiate(score, bar)
    if "vocals" not in plan.layers:
        yield from (attrs.evolve(note, voice=plan.arp, loud=0.75) for note in _tune(score, score.rng, near=74))
    if not score.loop:
        for voice in dict.fromkeys(("pad", plan.chords, plan.arp)):
            yield from _spread(plan, 0, voice, plan.steps, steps=6, loud=0.6)


def _spread(plan: Plan, bar: int, voice: str, step: float, *, steps: float, loud: float) -> Iterator[Note]:
    """Sound the chord of a bar from left to right."""
    chord = chord_at(plan, bar)
    for index, pitch in enumerate(sorted(place(tone, 60) for tone in chord)):
        yield Note(voice, pitch, step, steps, loud, -0.5 + index / (len(chord) - 1))


def _arpeggiate(score: Score, bar: int) -> Iterator[Note]:
    """Walk through the chord over two octaves, in eighths or sixteenths at random."""
    chord = sorted(place(tone, 67) for tone in chord_at(score.plan, bar))
    ladder = (*chord, *(pitch + 12 for pitch in chord))
    path = score.rng.pick("path", (ladder, ladder[::-1], ladder + ladder[-2:0:-1]))
    stride = score.rng.pick("stride", (2, 2, 1) if score.plan.tempo < _CALM_TEMPO else (2,))
    for index, step in enumerate(range(bar * STEPS_PER_BAR, min((bar + 1) * STEPS_PER_BAR, score.plan.steps), stride)):
        loud = 0.5 if index % 4 == 0 else 0.36
        yield Note(score.plan.arp, path[index % len(path)], step, stride * 1.5, loud, 0.5 if index % 2 else -0.5)


def _sing(score: Score) -> Iterator[Note]:
    """Sing the tune on open vowels, high or low at random."""
    near = score.rng.pick("register", (69, 57))
    for number, note in enumerate(_tune(score, score.rng, near=near)):
        yield attrs.evolve(note, voice=score.rng.pick(("vowel", number), VOWELS))


def _tune(score: Score, rng: SeededRng, *, near: int) -> Iterator[Note]:
    """Make phrases of two bars, A A B A: small steps along the scale, chord tones where the beat is strong."""
    plan = score.plan
    scale = [plan.tonic + 12 * octave + tone for octave in range(10) for tone in SCALES[plan.mode]]
    for bar in _bars(score)[::2]:
        letter = "AABA"[bar // 2 % 4]
        at = min(range(len(scale)), key=lambda index: abs(scale[index] - near))
        for offset, steps in rng.pick(("tune", letter), TUNES) if plan.steps > _ONE_NOTE else ((0, plan.steps),):
            step = bar * STEPS_PER_BAR + offset
            at += rng.pick(("leap", letter, offset), (-2, -1, -1, 1, 1, 2)) + round((near - scale[at]) / 6)
            pitch = scale[at]
            if offset % 4 == 0:
                chord = chord_at(plan, step // STEPS_PER_BAR)
                pitch = min((place(tone, pitch) for tone in chord), key=lambda tone: abs(tone - scale[at]))
            if step < plan.steps and energy_of(score, step // STEPS_PER_BAR) > INTRO:
                yield Note("tune", pitch, step, min(steps, plan.steps - step), 0.7)


_PLAYERS: dict[Layer, Callable[[Score], Iterator[Note]]] = {
    "vocals": _sing,
    "drums": _drum,
    "bass": _bass,
    "other": _accompany,
}


def write(score: Score, layer: Layer) -> list[Note]:
    """Write the notes of one layer, in no promised order."""
    return [_swing(note, score.plan.swing) for note in _PLAYERS[layer](score)]
