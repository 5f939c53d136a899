import pytest
from hypothesis import given
from hypothesis import strategies as st

from soundpiece_async.simulator.synth.notes import SCALES, Note, chord_at, energy_of, place, write
from soundpiece_async.simulator.synth.patterns import BASSES, GROOVES
from soundpiece_async.simulator.synth.score import LAYERS, SAMPLE_RATE, Score, SeededRng, decide, fit, words_of
from soundpiece_async.simulator.synth.vocabulary import EFFECTS, GENRES, Genre


def score_of(prompt: str, *, seconds: float = 40, style: str = "song", loop: bool = False) -> Score:
    frames = round(seconds * SAMPLE_RATE)
    plan = fit(decide(prompt, seed=1, style=style), seconds=seconds, loop=loop)
    return Score(
        prompt=prompt, seed=1, style=style, frames=frames, plan=plan, whole=frames, parts=plan.layers, loop=loop
    )


def notes_of(score: Score) -> list[Note]:
    return [note for layer in LAYERS for note in write(score, layer)]


@pytest.mark.parametrize(
    ("prompt", "groove", "tempo"),
    [
        ("Drum & Bass", "breaks", (168, 176)),
        ("a fast jungle chase", "breaks", (168, 184)),
        ("lo-fi study beats", "lazy", (70, 90)),
        ("ambient drones for sleep", "breath", (55, 75)),
        ("slow house", "four", (90, 105)),
        ("house, 127bpm", "four", (127, 127)),
        ("techno at 300 BPM", "four", (220, 220)),
        ("doom, 20 bpm, rock", "rock", (40, 40)),
    ],
)
def test_the_words_of_a_prompt_choose_groove_and_tempo(prompt: str, groove: str, tempo: tuple[int, int]) -> None:
    """Known genres have their groove and tempo; a tempo that is named counts, within reason."""
    plan = decide(prompt, seed=3, style="instrumental")

    assert plan.groove == groove
    assert tempo[0] <= plan.tempo <= tempo[1]


@pytest.mark.parametrize(
    ("prompt", "tonic", "mode"),
    [
        ("in C minor", 0, "minor"),
        ("F# major, happy", 6, "major"),
        ("Bb minor", 10, "minor"),
        ("g sharp dorian", 8, "dorian"),
    ],
)
def test_a_key_that_is_named_is_kept(prompt: str, tonic: int, mode: str) -> None:
    """The prompt may name its key in the usual spellings."""
    plan = decide(prompt, seed=3, style="song")

    assert (plan.tonic, plan.mode) == (tonic, mode)


@pytest.mark.parametrize(
    ("prompt", "mode"), [("melancholic", "minor"), ("SAD, train", "minor"), ("sunny day", "major"), ("moody", "dorian")]
)
def test_moods_choose_the_mode(prompt: str, mode: str) -> None:
    """Sad words are minor, happy ones major, whatever the seed."""
    assert {decide(prompt, seed=seed, style="song").mode for seed in range(20)} == {mode}


@pytest.mark.parametrize(
    ("prompt", "layers"),
    [
        ("lofi drum loop", ("drums",)),
        ("deep bassline", ("bass",)),
        ("female vocals", ("vocals",)),
        ("warm piano chords", ("other",)),
        ("drum and bass", ("drums", "bass", "other")),
        ("something", ("drums", "bass", "other")),
    ],
)
def test_a_sample_that_names_a_part_is_that_part(prompt: str, layers: tuple[str, ...]) -> None:
    """A drum loop is drums; anything else is the band without a singer."""
    assert decide(prompt, seed=1, style="sample").layers == layers


@pytest.mark.parametrize(
    ("prompt", "effect"),
    [
        ("door slams", "impact"),
        ("a long riser, then an impact", "riser"),
        ("RAIN on a tin roof", "rain"),
        ("ocean waves", "wind"),
        ("whoosh", "whoosh"),
        ("distant thunder", "thunder"),
        ("magic chimes", "chime"),
        ("UI click", "blip"),
        ("spaceship engine", "drone"),
    ],
)
def test_the_first_known_word_chooses_the_effect(prompt: str, effect: str) -> None:
    """The first word that names an effect decides which it is."""
    assert decide(prompt, seed=1, style="fx").effect == effect


def test_an_unknown_effect_is_left_to_the_dice() -> None:
    """A word nobody knows is still some effect, and the seed decides which."""
    effects = {decide("quux", seed=seed, style="fx").effect for seed in range(60)}

    assert effects <= set(EFFECTS)
    assert len(effects) > 4


def test_it_rains_in_music_that_asks_for_it() -> None:
    """Rain is a texture under music, but a train is not rain."""
    assert decide("ambient, rain", seed=1, style="instrumental").rain
    assert not decide("ambient, train", seed=1, style="instrumental").rain
    assert not decide("ambient, rain", seed=1, style="sample").rain


def test_instruments_are_heard() -> None:
    """An instrument that is named carries the melody, in any genre."""
    assert decide("synthwave with harp", seed=1, style="song").arp == "pluck"
    assert decide("synthwave with music box", seed=1, style="song").arp == "bell"


@given(st.text())
def test_words_stand_alone(prompt: str) -> None:
    """Every word has a blank on both sides, so that words are found whole."""
    text = words_of(prompt)

    assert text.startswith(" ")
    assert text.endswith(" ")
    assert not set(text) & set(",.;!?\n\t")


@given(st.text(), st.integers(), st.text())
def test_dice_are_fair_game(prompt: str, seed: int, label: str) -> None:
    """A roll lies in [0, 1) and is the same each time."""
    rng = SeededRng(prompt, seed)

    assert 0 <= rng.roll(label) < 1
    assert rng.roll(label) == SeededRng(prompt, seed).roll(label)


def test_dice_do_not_depend_on_this_python() -> None:
    """The numbers are those of BLAKE2b, so a seed sounds the same everywhere."""
    assert SeededRng("pop", 1).number("genre") == 7015761466356058371


@given(seconds=st.floats(0.001, 600), loop=st.booleans(), genre=st.sampled_from(GENRES))
def test_music_is_fitted_to_its_length(seconds: float, *, loop: bool, genre: Genre) -> None:
    """A loop is filled to the frame; anything else keeps its tempo within 8 %."""
    plan = decide(genre.words[0], seed=1, style="song")
    fitted = fit(plan, seconds=seconds, loop=loop)

    assert fitted.steps % 16 == 0 or fitted.steps in {1, 2, 4, 8}
    if loop:
        assert fitted.steps * fitted.step_frames == pytest.approx(seconds * SAMPLE_RATE)
    else:
        assert 0.919 < fitted.tempo / plan.tempo < 1.081


@pytest.mark.parametrize("genre", GENRES, ids=lambda genre: genre.groove)
@pytest.mark.parametrize("loop", [False, True])
def test_notes_keep_to_the_key_and_to_the_time(genre: Genre, *, loop: bool) -> None:
    """Every pitch belongs to the scale or the fifth of its chord, and every note of a loop begins inside it."""
    score = score_of(genre.words[0], loop=loop)
    scale = {(score.plan.tonic + tone) % 12 for tone in SCALES[score.plan.mode]}
    notes = notes_of(score)
    fifths = {(tone + 7) % 12 for tone in scale}

    assert {note.pitch % 12 for layer in ("vocals", "other") for note in write(score, layer)} <= scale
    assert {note.pitch % 12 for note in write(score, "bass")} <= scale | fifths
    assert all(0 <= note.step < score.plan.steps + (not loop) for note in notes)
    assert all(0 < note.loud <= 1.1 and -1 <= note.pan <= 1 and note.steps > 0 for note in notes)


@pytest.mark.parametrize("genre", GENRES, ids=lambda genre: genre.groove)
def test_a_piece_grows_and_ends_at_home(genre: Genre) -> None:
    """An intro has neither bass nor singer; the last notes are those of the first chord, after the last bar."""
    score = score_of(genre.words[0])
    end = score.plan.steps
    last = [note for note in write(score, "other") if note.step >= end]

    assert energy_of(score, 0) < energy_of(score, score.plan.steps // 16 - 1)
    assert min(note.step for layer in ("bass", "vocals") for note in write(score, layer)) >= 16
    assert {note.pitch % 12 for note in last} == set(chord_at(score.plan, 0))


def test_loops_and_samples_are_full_from_the_start() -> None:
    """A sample has no time for an intro."""
    assert {energy_of(score_of("pop", style="sample"), bar) for bar in range(8)} == {3}
    assert {energy_of(score_of("pop", loop=True), bar) for bar in range(8)} == {3}


@pytest.mark.parametrize("genre", GENRES, ids=lambda genre: genre.groove)
@pytest.mark.parametrize("loop", [False, True])
def test_even_the_shortest_piece_has_every_layer(genre: Genre, *, loop: bool) -> None:
    """A sixteenth is time enough for everyone to be heard at once."""
    score = score_of(genre.words[0], seconds=0.05, loop=loop)

    assert score.plan.steps == 1
    assert all(min(note.step for note in write(score, layer)) == 0 for layer in LAYERS)


def test_swing_delays_every_second_sixteenth() -> None:
    """Lofi limps, techno does not."""
    assert any(note.step % 1 for note in write(score_of("lofi"), "drums"))
    assert not any(note.step % 1 for note in write(score_of("techno"), "drums"))


def test_the_grooves_are_whole() -> None:
    """Every genre has a groove and a bass, and every pattern is one bar of known marks."""
    assert {genre.groove for genre in GENRES} == set(GROOVES) == set(BASSES)
    assert all(
        len(pattern) == 16 and set(pattern) <= set("-123456789") for kit in GROOVES.values() for pattern in kit.values()
    )
    assert all(
        len(pattern) == 16 and set(pattern) <= set("-rof") for patterns in BASSES.values() for pattern in patterns
    )


@given(st.integers(0, 11), st.floats(20, 100))
def test_a_tone_is_placed_near(pitch_class: int, near: float) -> None:
    """A pitch class goes into the octave nearest to what is asked, at most a tritone away."""
    pitch = place(pitch_class, near)

    assert pitch % 12 == pitch_class
    assert abs(pitch - near) <= 6
