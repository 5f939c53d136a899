"""The 24 requests of the demo: songs and instrumentals, requests that use them as sources, samples and effects."""

from collections.abc import Callable
from functools import partial

import attrs

from soundpiece_async import (
    AutoCutDown,
    NewFx,
    NewInstrumental,
    NewSample,
    NewSong,
    RemixInstrumental,
    RemixSong,
    Request,
    SeparateStems,
)


@attrs.frozen
class DemoItem:
    """One request of the demo.

    Args:
        name: of its files; no name is a prefix of another.
        make: returns the request, from the first output of ``after`` if that is given.
        after: name of the source item.
    """

    name: str
    make: Callable[..., Request]
    after: str | None = None


_NEON = (
    "[Verse]\nNeon rain on the windscreen glass\nEvery red light lets me pass\n[Chorus]\nDrive until the colours fade"
)
_HARBOUR = "[Verse]\nHarbour lights are coming home\nOne by one across the foam\n[Chorus]\nLeave the door ajar for me"
_KITCHEN = "[Verse]\nRadio on the window sill\nSunlight standing very still\n[Chorus]\nTurn it up and dance with me"
_IRON = "[Verse]\nUnder an iron sky we run\nChasing the last of the morning sun\n[Chorus]\nHold the line"

DEMO_ITEMS = (
    DemoItem("neon-rain-song", partial(NewSong, _NEON, prompt="synthwave, melancholic, night drive, analog pads")),
    DemoItem("harbour-song", partial(NewSong, _HARBOUR, prompt="folk ballad, acoustic guitar, warm, hopeful")),
    DemoItem("kitchen-song", partial(NewSong, _KITCHEN, prompt="disco funk, sunny, upbeat, rhodes")),
    DemoItem("iron-sky-song", partial(NewSong, _IRON, prompt="indie rock, driving, moody, guitar lead")),
    DemoItem("last-train-lofi", partial(NewInstrumental, "lo-fi hip hop, chill, rhodes, rain on a platform roof")),
    DemoItem("glass-garden-ambient", partial(NewInstrumental, "ambient, dreamy, bells and a choir, slow")),
    DemoItem("third-floor-house", partial(NewInstrumental, "house, hypnotic, groovy, organ stabs")),
    DemoItem("neon-rain-cousin", lambda song: NewInstrumental(reference=song), "neon-rain-song"),
    DemoItem("loop-break", partial(NewSample, "jungle drum break, energetic", duration=5.5, loopable=True)),
    DemoItem("loop-bass", partial(NewSample, "techno bassline, hypnotic", duration=3.75, loopable=True)),
    DemoItem("loop-keys", partial(NewSample, "jazz piano chords, relaxed", duration=4.0, loopable=True)),
    DemoItem("choir-phrase", partial(NewSample, "ethereal choir, cinematic", duration=4.0)),
    DemoItem("fx-thunder", partial(NewFx, "distant thunder rolling over the hills", duration=4.0)),
    DemoItem("fx-riser", partial(NewFx, "bright riser into a drop", duration=3.0)),
    DemoItem("fx-door", partial(NewFx, "heavy wooden door slams in a stone hall", duration=2.5)),
    DemoItem("fx-chimes", partial(NewFx, "wind chimes, magic sparkle", duration=3.0)),
    DemoItem(
        "neon-rain-remix",
        lambda song: RemixSong(song, lyrics=_NEON, prompt="drum and bass, bright", n_variations=2),
        "neon-rain-song",
    ),
    DemoItem(
        "harbour-remix",
        lambda song: RemixSong(song, lyrics=_HARBOUR, prompt="bossa nova, summer evening, guitar"),
        "harbour-song",
    ),
    DemoItem("last-train-remix", lambda track: RemixInstrumental(track, n_variations=2), "last-train-lofi"),
    DemoItem("glass-garden-remix", RemixInstrumental, "glass-garden-ambient"),
    DemoItem("neon-rain-stem", SeparateStems, "neon-rain-song"),
    DemoItem("kitchen-stem", SeparateStems, "kitchen-song"),
    DemoItem("iron-sky-teaser", lambda song: AutoCutDown(song, target_duration=6.0), "iron-sky-song"),
    DemoItem("third-floor-jingle", lambda track: AutoCutDown(track, target_duration=5.0), "third-floor-house"),
)
