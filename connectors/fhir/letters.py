"""Dead letters of the FHIR connector.

A value that cannot be used leaves its resource in a letter, and the sender is told. What the mapping refuses stays with the sender,
who was told too; of what was *fetched* there is no sender who could send it again, so that goes into a letter whole.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from typing import Final

import orjson

from connectors.deadletters import dead_letter
from connectors.fhir.acknowledgement import MEDIA_TYPE, Issue
from connectors.fhir.mapping.reading import Reading
from connectors.fhir.structure import is_known
from processors.events import Cut, DeadLetterEvent, ObjectReference

REASONS_SHOWN: Final = 8
_BEGINNING: Final = 64 * 1024  # bytes kept of what neither a record nor the object store takes
_NAME: Final = re.compile(r"_?[a-z][A-Za-z0-9]{0,63}")  # as the standard's elements are called


def in_words(reasons: Sequence[object]) -> str:
    """Write the first of some reasons, and how many more there are."""
    more = [f"and {len(reasons) - REASONS_SHOWN} more"] if len(reasons) > REASONS_SHOWN else []
    return "; ".join((*map(str, reasons[:REASONS_SHOWN]), *more))


def discreet(issue: Issue) -> Issue:
    """Return an issue as it may be written where others than its sender read it: logs, dead letters, reports.

    A name in its place that is called like no element, and a type that there is none of, are not shown: they may be anything.
    """
    kind, *steps = issue.expression.split(".")
    shown = [one if _NAME.fullmatch(one.partition("[")[0]) else "?" for one in steps]
    return replace(issue, expression=".".join((kind if not kind or is_known(kind) or _NAME.fullmatch(kind) else "?", *shown)))


def letters_of(reading: Reading) -> list[DeadLetterEvent]:
    """Return the letters of a resource that was mapped: one for each stage at which something could not be used."""
    patient = next((event.patient_id for event in reading.events if hasattr(event, "patient_id")), None)
    letters: list[DeadLetterEvent] = []
    for stage in dict.fromkeys(stage for stage, _ in reading.troubles):
        letters.append(
            dead_letter(
                orjson.dumps(reading.resource),
                connector="fhir",
                stage=stage,
                message=in_words([issue for at, issue in reading.troubles if at == stage]),
                failed_at=reading.sender.received_at,
                media_type=MEDIA_TYPE,
                key=patient,
                identity=reading.identity,
                peer=reading.sender.name,
                message_type=str(reading.resource.get("resourceType", "")),  # one that is mapped
            )
        )
    return letters


def letter_of_refused(original: bytes | ObjectReference, peer: str, reason: str, failed_at: datetime) -> DeadLetterEvent:
    """Return the letter of a resource (or a line that is none) that was fetched and refused. `reason` carries no patient text."""
    return dead_letter(
        original,
        connector="fhir",
        stage="decode",
        message=reason,
        failed_at=failed_at,
        media_type=MEDIA_TYPE,
        identity=("fhir", peer),
        peer=peer,
    )


def beginning_of_refused(original: bytes, peer: str, reason: str, failed_at: datetime) -> DeadLetterEvent:
    """Return the letter of what is too large to be kept: its beginning, and what it is known by. Its server has the whole."""
    letter = letter_of_refused(original[:_BEGINNING], peer, reason, failed_at)
    headers = sum(len(header.name) + len(MEDIA_TYPE) for header in letter.original_headers)
    cut = Cut(
        key_bytes=0,
        value_bytes=len(original),
        headers=len(letter.original_headers),
        header_bytes=headers,
        sha256=sha256(original).hexdigest(),
    )
    return letter.model_copy(update={"cut": cut})
