"""From a note and the spans that a model found in it to the event on `clinical.entities`."""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Final

from models.errors import Poison
from models.tasks import ModelIdentity, Span
from models.vocabulary import Vocabulary
from processors.assertion import TESTS, Asserter
from processors.events import EntitiesEvent, Entity, ModelRef, NoteEvent, Source
from processors.identity import natural_id
from processors.sections import Sectioner, in_heading, section_at

STAGE: Final = "entities"
WITHDRAWN: Final = frozenset({"cancelled", "entered-in-error"})


@cache
def _standard() -> tuple[Sectioner, Asserter]:
    # Made on first use: the tables take 0.2 s, which a command that finds no entities should not pay.
    return Sectioner(), Asserter()


def _is_test(span: Span) -> bool:
    return span.label.lower() in TESTS


def entities_event(
    note: NoteEvent,
    source: Source,
    spans: Sequence[Span],
    model: ModelIdentity,
    *,
    vocabulary: Vocabulary | None = None,
    labels: Collection[str] = (),
    sectioner: Sectioner | None = None,
    asserter: Asserter | None = None,
) -> EntitiesEvent:
    """Give each span its text, section and assertion. A withdrawn note gives an event without entities, whatever the spans.

    A heading is no entity: what a model marks in "Allergies:" is left out, but for tests, which stand there as done ("ECG: ...").
    The terms of a `vocabulary` are laid over the spans, under those of the model's `labels` that they have.

    `spans` are in characters of `note.text`; the event's entities stand in order of start. The id derives from the note version,
    the stage, the model and the vocabulary, so a rerun gives the same event. Raises `Poison` (stage "model") for a span outside the
    text or a score that is no probability: that is the model's fault, and an invented entity would be worse than none.
    """
    entities: tuple[Entity, ...] = ()
    if note.status not in WITHDRAWN:
        text = note.text
        for span in spans:
            if not (0 <= span.start < span.end <= len(text) and 0.0 <= span.score <= 1.0):
                raise Poison(f"the model {model.name} gave a span outside the text or a score outside 0..1", stage="model")
        ordered, terms = sorted(spans, key=lambda span: (span.start, span.end)), frozenset[tuple[int, int]]()
        if vocabulary is not None:
            ordered, terms = vocabulary.join(text, ordered, labels)
        standard = _standard()
        sections = (sectioner or standard[0]).split(text)
        ordered = [span for span in ordered if _is_test(span) or not in_heading(sections, span.start, span.end)]
        labels = [span.label for span in ordered]
        assertions = (asserter or standard[1]).decide(text, [(span.start, span.end) for span in ordered], sections, labels)
        entities = tuple(
            Entity(
                label=span.label,
                text=text[span.start : span.end],
                start=span.start,
                end=span.end,
                score=span.score,
                assertion=assertion,
                section=section_at(sections, span.start),
                found_by="vocabulary" if (span.start, span.end) in terms else "model",
            )
            for span, assertion in zip(ordered, assertions, strict=True)
        )
    return EntitiesEvent(
        id=natural_id(note.id, STAGE, model.digest, *(() if vocabulary is None else (vocabulary.digest,))),
        patient_id=note.patient_id,
        source=source,
        encounter_id=note.encounter_id,
        note_id=note.note_id,
        note_status=note.status,
        relation=note.relation,
        replaces=note.replaces,
        authored_at=note.authored_at,
        received_at=note.received_at,
        processing=note.processing,
        entities=entities,
        vocabulary=None if vocabulary is None else vocabulary.digest,
        model=ModelRef(name=model.name, version=model.version, digest=model.digest),
    )
