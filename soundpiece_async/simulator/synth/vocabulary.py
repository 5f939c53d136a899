"""The words of prompts and their musical meaning: genres, moods, paces, instruments, effects. Data alone."""

from typing import Literal

import attrs

Layer = Literal["vocals", "drums", "bass", "other"]
Mode = Literal["major", "minor", "dorian"]


@attrs.frozen
class Genre:
    """What the words of a genre imply; `tempo` is the span of its beats per minute."""

    words: tuple[str, ...]
    tempo: tuple[int, int]
    groove: str
    bass: str
    chords: str
    arp: str
    swing: float = attrs.field(default=0.0, kw_only=True)
    sevenths: bool = attrs.field(default=False, kw_only=True)


GENRES = (
    Genre(("drum and bass", "dnb", "jungle", "breakbeat", "breakcore"), (170, 174), "breaks", "reese", "pad", "keys"),
    Genre(("synthwave", "retrowave", "80s", "outrun", "vaporwave"), (96, 112), "drive", "saw bass", "pad", "saw"),
    Genre(
        ("lo fi", "lofi", "hip hop", "boom bap", "chill", "chillhop"),
        (74, 86),
        "lazy",
        "round",
        "keys",
        "bell",
        swing=0.3,
        sevenths=True,
    ),
    Genre(("trap", "drill", "808"), (136, 146), "half", "sub", "pad", "bell"),
    Genre(("house", "techno", "trance", "edm", "dance", "electronic"), (120, 128), "four", "saw bass", "organ", "saw"),
    Genre(
        ("ambient", "drone", "meditation", "sleep", "ethereal", "soundscape"),
        (60, 72),
        "breath",
        "sub",
        "pad",
        "bell",
        sevenths=True,
    ),
    Genre(("rock", "punk", "metal", "indie", "grunge"), (118, 140), "rock", "round", "saw", "pluck"),
    Genre(
        ("jazz", "blues", "bossa", "bossa nova", "swing"),
        (104, 124),
        "ride",
        "round",
        "keys",
        "keys",
        swing=0.33,
        sevenths=True,
    ),
    Genre(("orchestral", "cinematic", "epic", "classical", "trailer"), (72, 92), "toms", "sub", "pad", "pluck"),
    Genre(("folk", "acoustic", "country", "ballad"), (90, 108), "soft", "round", "pluck", "pluck"),
    Genre(("pop", "funk", "disco", "soul", "upbeat"), (104, 120), "pop", "round", "keys", "pluck"),
)
PROGRESSIONS: dict[Mode, tuple[tuple[int, ...], ...]] = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 2, 3, 4), (0, 3, 5, 4)),
    "minor": ((0, 5, 2, 6), (0, 3, 5, 6), (0, 6, 5, 6), (5, 6, 0, 0), (0, 2, 6, 3)),
    "dorian": ((0, 3, 0, 6), (0, 2, 3, 6), (0, 6, 3, 0)),
}
MOODS: dict[Mode, tuple[str, ...]] = {
    "minor": (
        "melancholic",
        "melancholy",
        "sad",
        "dark",
        "lonely",
        "tense",
        "eerie",
        "rain",
        "night",
        "sorrow",
        "minor",
    ),
    "major": ("happy", "bright", "joyful", "uplifting", "sunny", "summer", "cheerful", "playful", "hopeful", "major"),
    "dorian": ("moody", "groovy", "mysterious", "cool", "hypnotic", "dorian"),
}
PACES = {"fast": 1.25, "energetic": 1.15, "driving": 1.1, "slow": 0.8, "calm": 0.85, "relaxed": 0.9, "dreamy": 0.9}
TIMBRES: dict[str, tuple[str, ...]] = {
    "keys": ("piano", "rhodes", "keys", "keyboard"),
    "pluck": ("guitar", "harp", "kalimba", "ukulele", "banjo", "pizzicato"),
    "bell": ("bell", "bells", "music box", "marimba", "vibraphone", "celesta"),
    "pad": ("strings", "pad", "pads", "choir"),
    "organ": ("organ",),
    "saw": ("synth", "arpeggio", "lead"),
}
SOLOS: dict[Layer, tuple[str, ...]] = {  # a sample that names one part is that part alone
    "drums": ("drums", "drum loop", "drum break", "beat", "percussion", "hats", "hi hats"),
    "bass": ("bass", "bassline", "bass line"),
    "vocals": ("vocal", "vocals", "acapella", "a cappella", "choir", "voice"),
    "other": ("riff", "melody", "arpeggio", "chords", "pad", "piano", "guitar", "strings", "texture"),
}
EFFECTS: dict[str, tuple[str, ...]] = {
    "riser": ("riser", "rise", "rising", "build up", "buildup", "uplifter", "swell"),
    "impact": ("impact", "hit", "boom", "slam", "slams", "door", "explosion", "thud", "punch", "crash", "stomp"),
    "whoosh": ("whoosh", "swoosh", "swish", "pass by", "sweep", "transition", "flyby"),
    "rain": ("rain", "rainfall", "drizzle", "downpour"),
    "wind": ("wind", "breeze", "gust", "ocean", "waves", "sea", "surf"),
    "thunder": ("thunder", "storm", "rumble", "earthquake", "avalanche"),
    "chime": ("chime", "chimes", "bell", "bells", "magic", "sparkle", "shimmer"),
    "blip": ("click", "beep", "notification", "blip", "coin", "button", "laser", "zap", "ui", "alert"),
    "drone": ("drone", "engine", "hum", "machine", "spaceship"),
}
