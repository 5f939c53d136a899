"""The musical decisions for a prompt: by its words where they are known, else by its seed."""

import hashlib
import re
from collections.abc import Sequence
from typing import Literal, TypeVar

import attrs

from soundpiece_async.simulator.synth.vocabulary import (
    EFFECTS,
    GENRES,
    MOODS,
    PACES,
    PROGRESSIONS,
    SOLOS,
    TIMBRES,
    Genre,
    Layer,
    Mode,
)

SAMPLE_RATE = 44100
STEPS_PER_BAR = 16  # every bar is 4/4, in sixteenths

Style = Literal["song", "instrumental", "sample", "fx"]
LAYERS: tuple[Layer, ...] = ("vocals", "drums", "bass", "other")

T = TypeVar("T")


@attrs.frozen
class SeededRng:
    """Choices that follow from a prompt, a seed and a label alone: the same in every process and on every Python."""

    prompt: str
    seed: int

    def number(self, label: object) -> int:
        """Return 64 bits for a label."""
        # surrogatepass: JSON can carry half a surrogate pair, and a strange prompt still has its music
        text = f"{self.seed}\0{label}\0{self.prompt}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")

    def roll(self, label: object) -> float:
        """Return a number in [0, 1) for a label."""
        return (self.number(label) >> 11) / 2**53

    def pick(self, label: object, options: Sequence[T]) -> T:
        """Choose one of the options for a label."""
        return options[self.number(label) % len(options)]


@attrs.frozen
class Plan:
    """Every musical decision of a track, none of its notes; `tempo` is in beats per minute, `steps` in sixteenths."""

    tempo: float
    steps: int
    tonic: int
    mode: Mode
    progression: tuple[int, ...]
    groove: str
    swing: float
    sevenths: bool
    bass: str
    chords: str
    arp: str
    layers: tuple[Layer, ...]
    effect: str = ""
    rain: bool = False

    @property
    def step_frames(self) -> float:
        """Frames of one sixteenth, not rounded: rounding is for each note, or a loop would drift off its seam."""
        return SAMPLE_RATE * 15 / self.tempo


@attrs.frozen(kw_only=True)
class Score:
    """One file to be rendered: the frames `start` to `start + frames` of a composition of `whole` frames.

    `layer` names a stem; `parts` are the layers that sound, so the stem of a layer that is not there has none.
    A `loop` is seamless as long as it is not cut.
    """

    prompt: str
    seed: int
    style: Style
    frames: int
    plan: Plan
    whole: int
    parts: tuple[Layer, ...]
    loop: bool = False
    layer: Layer | None = None
    start: int = 0

    @property
    def seconds(self) -> float:
        """The exact length in seconds."""
        return self.frames / SAMPLE_RATE

    @property
    def rng(self) -> SeededRng:
        """The random choices of this track."""
        return SeededRng(self.prompt, self.seed)


_NOTES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_FASTEST = 184.0  # beats per minute, unless the prompt names more
_WORD = re.compile(r"[^\W_]+#?")
_KEY = re.compile(r" ([a-g])(#|b| sharp| flat)? (major|minor|dorian) ")
_BPM = re.compile(r" (\d{2,3}) ?bpm ")


def words_of(prompt: str) -> str:
    """Return the prompt in lower case with single spaces around words, so that "train" does not contain "rain"."""
    words = _WORD.findall(prompt.casefold().replace("&", " and "))
    return f" {' '.join(words)} "


def find_word(text: str, table: dict[T, tuple[str, ...]]) -> T | None:
    """Return the entry whose word comes first in the text."""
    places = ((text.find(f" {word} "), key) for key, words in table.items() for word in words)
    return min(((at, key) for at, key in places if at >= 0), key=lambda found: found[0], default=(0, None))[1]


def decide(prompt: str, *, seed: int, style: Style) -> Plan:
    """Decide everything but the length."""
    text, rng = words_of(prompt), SeededRng(prompt, seed)
    genre = find_word(text, {genre: genre.words for genre in GENRES}) or rng.pick("genre", GENRES)
    tonic, mode = _choose_key(text, rng)
    return Plan(
        tempo=_choose_tempo(text, rng, genre),
        steps=STEPS_PER_BAR,
        tonic=tonic,
        mode=mode,
        progression=rng.pick("progression", PROGRESSIONS[mode]),
        groove=genre.groove,
        swing=genre.swing,
        sevenths=genre.sevenths,
        bass=genre.bass,
        chords=genre.chords,
        arp=find_word(text, TIMBRES) or genre.arp,
        layers=_choose_layers(text, style),
        effect=(find_word(text, EFFECTS) or rng.pick("effect", tuple(EFFECTS))) if style == "fx" else "",
        rain=" rain " in text and style in {"song", "instrumental"},
    )


def _choose_key(text: str, rng: SeededRng) -> tuple[int, Mode]:
    """Return the key in the prompt, else the mode of its mood with a random tonic."""
    if found := _KEY.search(text):
        sign = {"#": 1, " sharp": 1, "b": -1, " flat": -1}.get(found[2], 0)
        return (_NOTES[found[1]] + sign) % 12, next(mode for mode in PROGRESSIONS if mode == found[3])
    chance = rng.pick("mode", tuple(PROGRESSIONS))
    return rng.number("tonic") % 12, find_word(text, MOODS) or chance


def _choose_tempo(text: str, rng: SeededRng, genre: Genre) -> float:
    """Return the tempo in the prompt, else one of its genre, changed by words such as "slow"; beats per minute."""
    if found := _BPM.search(text):
        return min(max(float(found[1]), 40.0), 220.0)
    low, high = genre.tempo
    pace = find_word(text, {factor: (word,) for word, factor in PACES.items()}) or 1.0
    return min((low + (high - low) * rng.roll("tempo")) * pace, _FASTEST)


def _choose_layers(text: str, style: Style) -> tuple[Layer, ...]:
    """Return the audible layers: an effect is one sound, and a sample that names one part is that part alone."""
    match style:
        case "song":
            return LAYERS
        case "fx":
            return ("other",)
        case "sample" if solo := find_word(text.replace(" drum and bass ", "  "), SOLOS):
            return (solo,)
    return tuple(layer for layer in LAYERS if layer != "vocals")


def fit(plan: Plan, *, seconds: float, loop: bool) -> Plan:
    """Bend the tempo so that the music ends where the file does: whole bars, or a part of one where a bar is too long.

    A loop is filled to the frame. Anything else keeps up to 2.5 s for its last chord to ring, and its tempo within 8 %.
    """
    sounding = seconds if loop else seconds - min(2.5, seconds / 6)
    wanted = sounding * plan.tempo / 15
    counts = (1, 2, 4, 8, STEPS_PER_BAR * max(1, round(wanted / STEPS_PER_BAR)))
    steps = min(counts, key=lambda count: abs(count - wanted))
    tempo = 15 * steps / sounding
    if not loop:
        tempo = min(max(tempo, plan.tempo * 0.92), plan.tempo * 1.08)
    return attrs.evolve(plan, steps=steps, tempo=tempo)
