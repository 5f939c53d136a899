"""Composes the scores of an operation; nothing is rendered here."""

import random
from collections.abc import Callable

import attrs

from soundpiece_async.simulator.schema import JsonObject, Route
from soundpiece_async.simulator.tone import Score, Style, compose, cut_down, remix, stems


@attrs.frozen
class ComposedTrack:
    """One result of an operation; stems have a `kind` (docs/api.md#outputs)."""

    score: Score
    kind: str | None = None


@attrs.frozen(kw_only=True)
class AudioOptions:
    """The shortest and longest track in seconds, and the number of outputs of a new song or instrumental.

    The service's own numbers are unknown (docs/api.md#new-song).
    """

    track_seconds: tuple[float, float] = (8.0, 20.0)
    n_variations: int = 2


def compose_tracks(
    route: Route, echo: JsonObject, *, source: Score | None, audio_options: AudioOptions, rng: random.Random
) -> tuple[ComposedTrack, ...]:
    """Compose what a request asks for from its fields, its source and the random numbers."""
    if source is not None:
        return _adapt(route, echo, source, variations=audio_options.n_variations, rng=rng)
    match route.name:
        case "create.new_sample":
            return (_shape(echo, "sample", rng=rng),)
        case "create.new_fx":
            return (_shape(echo, "fx", rng=rng),)
        case "create.new_song":
            style: Style = "song"
        case _:
            style = "instrumental"
    return _vary(
        audio_options.n_variations,
        lambda seed: compose(echo["prompt"], seed=seed, style=style, seconds=rng.uniform(*audio_options.track_seconds)),
        rng=rng,
    )


def track_for_foreign_url(url: str, *, audio_options: AudioOptions) -> Score:
    """Return the track that stands for the audio at a foreign URL, never fetched: the same for the same URL."""
    rng = random.Random(url)
    return compose(url, seed=rng.getrandbits(32), style="song", seconds=rng.uniform(*audio_options.track_seconds))


def _adapt(
    route: Route, echo: JsonObject, source: Score, *, variations: int, rng: random.Random
) -> tuple[ComposedTrack, ...]:
    """Compose from a source, or from a reference when the request has no prompt."""
    match route.name:
        case "adapt.separate_stems":
            return tuple(ComposedTrack(score, kind) for kind, score in stems(source).items())
        case "adapt.auto_cut_down":
            return (ComposedTrack(cut_down(source, seconds=echo["target_duration"])),)
        case _:
            prompt = echo.get("prompt") or source.prompt
            count = echo.get("n_variations", variations)
            return _vary(count, lambda seed: remix(source, seed=seed, prompt=prompt), rng=rng)


def _shape(echo: JsonObject, style: Style, *, rng: random.Random) -> ComposedTrack:
    """Compose one sample or effect of the requested length."""
    loop = echo.get("loopable", False)
    return ComposedTrack(
        compose(echo["prompt"], seed=rng.getrandbits(32), style=style, seconds=echo["duration"], loop=loop)
    )


def _vary(count: int, make: Callable[[int], Score], *, rng: random.Random) -> tuple[ComposedTrack, ...]:
    return tuple(ComposedTrack(make(rng.getrandbits(32))) for _ in range(count))
