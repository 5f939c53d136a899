import attrs
import pytest
from helpers.contract import SAMPLE, poll

from soundpiece_async._core.completion import AGREE_AFTER, Agreement, Ending, decide, is_over, is_running, read_status
from soundpiece_async._core.operations import OperationError, Status

READY, FAILED, PROCESSING = Status.READY, Status.FAILED, Status.PROCESSING
SUCCESS = ["ready", "READY", "completed", "Complete", "succeeded", "success", "done", "finished", " done "]
FAILURE = ["failed", "Failed", "cancelled", "canceled", "expired", "error", "errored", "rejected", "aborted"]
RUNNING = ["processing", "PROCESSING", "queued", "pending", "running", "in_progress", "In Progress", "generating"]


@pytest.mark.parametrize("word", SUCCESS + FAILURE)
def test_known_final_words(word: str) -> None:
    """Content says which end it is; with both filled the outputs win, with a remark."""
    assert decide(word, outputs=True, error=False) == Ending(READY, READY)
    assert decide(word, outputs=False, error=True) == Ending(FAILED, FAILED)
    both = decide(word, outputs=True, error=True)
    assert (both.status, both.certain, bool(both.remark)) == (READY, True, True)


@pytest.mark.parametrize("word", FAILURE)
def test_failure_needs_no_reason(word: str) -> None:
    """A word that means failure is one, also without an error."""
    assert decide(word, outputs=False, error=False) == Ending(FAILED, FAILED)
    assert read_status(word) is FAILED


@pytest.mark.parametrize("word", SUCCESS)
def test_success_without_outputs_is_not_certain(word: str) -> None:
    """A success that shows nothing is no success, and no end by itself."""
    assert decide(word, outputs=False, error=False) == Ending(READY, READY, certain=False)
    assert read_status(word) is READY


@pytest.mark.parametrize("word", RUNNING)
@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize("error", [False, True])
def test_running_words_are_never_final(word: str, *, outputs: bool, error: bool) -> None:
    """Outputs may be partial, and an error may be passing: it goes on."""
    ending = decide(word, outputs=outputs, error=error)

    assert is_running(word)
    assert (ending.certain, ending.status.final, ending.unknown) == (True, False, "")
    assert ending.status == (PROCESSING if word.casefold() == "processing" else word)


@pytest.mark.parametrize("word", ["archiving", "ready!?", "", None, 5, [], True, "partial"])
def test_unknown_words(word: object) -> None:
    """They go on; with content they may be an end, which a second read decides."""
    running = decide(word, outputs=False, error=False)
    shown = word if isinstance(word, str) and word not in ("", "ready!?") else None
    if word == "ready!?":  # the marks do not count
        assert running == Ending(READY, READY, certain=False)
        return
    assert not is_running(word)
    assert (running.status, running.certain) == (shown or PROCESSING, True)
    assert running.unknown == (shown or "missing")
    for outputs, error, end in ((True, False, READY), (False, True, FAILED), (True, True, READY)):
        ending = decide(word, outputs=outputs, error=error)
        assert (ending.status, ending.certain, ending.shown) == (end, False, shown or PROCESSING)


def test_words_of_types() -> None:
    """The last part of a webhook's type is read likewise; an unknown one stays as it is."""
    assert read_status("processing") is PROCESSING
    assert read_status("progress") == "progress"
    assert not read_status("progress").final


def test_over() -> None:
    """Failed is over, and ready with outputs; ready without is not."""
    ready = poll(SAMPLE, SAMPLE.ready)

    assert is_over(ready)
    assert is_over(poll(SAMPLE, SAMPLE.failed))
    assert not is_over(poll(SAMPLE, SAMPLE.processing))
    assert not is_over(attrs.evolve(ready, outputs=()))


def test_two_reads_agree_when_they_are_far_enough_apart() -> None:
    """Nothing else may have changed between them, but URLs, which are signed afresh."""
    ready = poll(SAMPLE, SAMPLE.ready)
    fresh = attrs.evolve(ready, outputs=(attrs.evolve(ready.outputs[0], url="https://elsewhere/b?sig=2"),))
    agreement = Agreement()

    assert not agreement.add(READY, ready, now=100.0)
    assert not agreement.add(READY, fresh, now=100.0 + AGREE_AFTER / 2)
    assert "since 100.0" in repr(agreement)
    assert agreement.add(READY, fresh, now=100.0 + AGREE_AFTER)


@pytest.mark.parametrize("change", ["more outputs", "no outputs", "an error", "another end"])
def test_what_changes_begins_anew(change: str) -> None:
    """A read that says something else starts the time again."""
    ready = poll(SAMPLE, SAMPLE.ready)
    other = {
        "more outputs": attrs.evolve(ready, outputs=ready.outputs * 2),
        "no outputs": attrs.evolve(ready, outputs=()),
        "an error": attrs.evolve(ready, error=OperationError("c", "m")),
        "another end": ready,
    }[change]
    agreement = Agreement()
    agreement.add(READY, ready, now=0.0)

    assert not agreement.add(FAILED if change == "another end" else READY, other, now=2 * AGREE_AFTER)
    assert not agreement.add(READY, ready, now=2.5 * AGREE_AFTER)
    assert agreement.add(READY, ready, now=4 * AGREE_AFTER)
