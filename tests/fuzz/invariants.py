"""What holds for whatever comes in: an outcome always, nothing positive for nothing, no patient text where operators look."""

import logging
from collections.abc import Sequence
from typing import Any

from processors.events import DeadLetterEvent, Event
from streams.wire import encode, key_of

# Stands in every seed wherever a patient's data may stand: names, numbers, values, codes, free text. No identifier of ours has it.
CANARY = "qZ7xjW"
VERDICTS = ("accepted", "refused", "ignored", "dead-letter")
UNFORESEEN = (
    "the mapping failed with",
    "unforeseen ",
)  # the words of the nets under the mappings: what falls into one is a bug


class Violation(AssertionError):
    """An invariant that did not hold."""


def hold(condition: object, words: str) -> None:
    """Raise `Violation` unless the condition is true; unlike `assert` also under `python -O`."""
    if not condition:
        raise Violation(words)


def no_patient_text(*texts: str) -> None:
    """No text that operators read (reasons, logs, metrics) may quote what was sent."""
    for text in texts:
        hold(CANARY.lower() not in text.lower(), f"patient text in {text!r}")


def outcome(verdict: str, reason: str, events: Sequence[Event], *, positive: bool) -> None:
    """An outcome that may stand: a positive answer has events or says why there are none."""
    hold(verdict in VERDICTS, f"verdict {verdict!r}")
    hold(not positive or events or reason, "a positive answer for nothing, and no reason")
    hold(verdict != "refused" or not events, "refused, and stored all the same")
    hold(verdict != "refused" or reason, "refused without a reason")
    hold(not any(words in reason for words in UNFORESEEN), reason)
    no_patient_text(reason)


def storable(events: Sequence[Event]) -> None:
    """Every event goes to the wire and comes back the same; what `vigil dead-letters list` shows of a letter is nobody's."""
    for event in events:
        if isinstance(event, DeadLetterEvent):
            no_patient_text(event.message, event.message_type, event.stage, event.error)
        written = encode(event, source="fuzz")
        hold(written.value, "an event without bytes")
        hold(
            type(event).model_validate_json(written.value or b"") == event,
            f"{type(event).__name__} does not come back the same",
        )
        key_of(event)


class Listening(logging.Handler):
    """Hears every log line of ours and holds it against `no_patient_text`."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())

    def check(self) -> None:
        """Judge what was heard since the last call."""
        heard, self.heard = self.heard, []
        no_patient_text(*heard)


def listen() -> Listening:
    """Return a listener to the logs of the four floors; they are shown nowhere else."""
    handler = Listening()
    for name in ("connectors", "processors", "models", "streams"):
        logger: Any = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    return handler
