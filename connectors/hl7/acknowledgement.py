"""Which answer a message gets, and its bytes (HL7 v2 chapter 2.9; MSA 2.14.8, ERR 2.14.5).

Original mode: MSH-15 and MSH-16 are both empty; one answer AA, AE or AR. Enhanced mode: either is set; an accept acknowledgement
CA, CE or CR as MSH-15 wants it, then the application acknowledgement as MSH-16 wants it, a message of its own. What was not
accepted (CE, CR) has no application acknowledgement, unless the sender wants no accept acknowledgement at all.

| grade       | what happened                                             | original | enhanced |
|-------------|-----------------------------------------------------------|----------|----------|
| ACCEPTED    | stored, or not for us and ignored                         | AA       | CA + AA  |
| ERROR       | the MSH can be read, the structure behind it not          | AE       | CE       |
| REFUSED     | no MSH; type, version or processing id not supported      | AR       | CR       |
| UNCONFIRMED | Kafka did not confirm in time                             | none and close; AR, AE by setting | CE |
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Final, Literal

from connectors.hl7.errors import Condition, Trouble
from connectors.hl7.message import Delimiters, Message
from processors.identity import natural_id


class Grade(Enum):
    """How a message fared."""

    ACCEPTED = "accepted"
    ERROR = "error"
    REFUSED = "refused"


ORIGINAL: Final = {Grade.ACCEPTED: "AA", Grade.ERROR: "AE", Grade.REFUSED: "AR"}
ACCEPT: Final = {Grade.ACCEPTED: "CA", Grade.ERROR: "CE", Grade.REFUSED: "CR"}
# Table 0155, accept/application acknowledgement conditions -> is a positive, a negative answer wanted?
CONDITIONS: Final = {"AL": (True, True), "NE": (False, False), "ER": (False, True), "SU": (True, False), "": (False, False)}
POSITIVE: Final = frozenset({"AA", "CA"})
ERRORS_SHOWN: Final = 5

Code = Literal["AA", "AE", "AR", "CA", "CE", "CR"]


@dataclass(frozen=True, slots=True)
class Header:
    """What an answer needs to know of the message's MSH. Values stand as sent, in the message's own delimiters."""

    delimiters: Delimiters = field(default_factory=Delimiters)
    sender: tuple[str, str] = ("", "")  # MSH-3, MSH-4
    receiver: tuple[str, str] = ("", "")  # MSH-5, MSH-6
    trigger: str = ""
    control_id: str = ""
    processing: str = "P"
    version: str = ""
    message_type: str = ""  # MSH-9
    accept: str = ""  # MSH-15
    application: str = ""  # MSH-16
    charset: str = ""  # MSH-18
    codec: str = "ascii"
    enhanced: bool = False

    @classmethod
    def of(cls, message: Message) -> "Header":
        """Read it from a message."""
        msh = message.header
        accept, application = msh.get(15).upper(), msh.get(16).upper()
        return cls(
            delimiters=message.delimiters,
            sender=(msh.raw(3), msh.raw(4)),
            receiver=(msh.raw(5), msh.raw(6)),
            trigger=msh.get(9, 2),
            control_id=msh.raw(10),
            processing=msh.get(11) or "P",
            version=msh.raw(12),
            message_type=msh.raw(9),
            accept=accept if accept in CONDITIONS else "AL",
            application=application if application in CONDITIONS else "AL",
            charset=msh.raw(18),
            codec=message.codec,
            enhanced=bool(accept or application),
        )

    @classmethod
    def salvaged(cls, raw: bytes) -> "Header":
        """Read what can be read of a header that is no header: the control id, if there is anything like one."""
        text = raw[:4096].lstrip().decode("latin-1")
        fields = text.splitlines()[0].split(text[3]) if text.startswith("MSH") and len(text) > 3 else []
        kind, control_id, version = (fields[n] if len(fields) > n else "" for n in (8, 9, 11))
        safe = "".join(c for c in control_id if c.isascii() and (c.isalnum() or c in "-_.:/ "))[:199]
        return cls(control_id=safe, message_type=kind[:60], version=version[:60])


def answers(
    header: Header,
    grade: Grade,
    troubles: tuple[Trouble, ...],
    *,
    identity: tuple[str, ...],
    at: datetime,
    facility: str,
    codes: dict[Grade, str] | None = None,
) -> tuple[tuple[Code, bytes], ...]:
    """Return the answers in the order in which they are sent, each with its code. `codes` replaces table `ORIGINAL`."""
    application = (codes or ORIGINAL)[grade]
    wanted: list[str] = [application]
    if header.enhanced:
        accept = ACCEPT[grade]
        wanted = [accept] if _wants(header.accept, accept) else []
        if _wants(header.application, application) and (grade is Grade.ACCEPTED or not wanted):
            wanted.append(application)
    return tuple((code, _message(header, code, troubles, identity, at, facility)) for code in wanted)  # type: ignore[misc]


def unconfirmed(
    header: Header, by_setting: str, *, identity: tuple[str, ...], at: datetime, facility: str
) -> tuple[tuple[Code, bytes], ...]:
    """Return the answer for a message whose storing was not confirmed; empty: close the connection."""
    trouble = Trouble("not stored in time, please send again", None, Condition.APPLICATION_ERROR)
    code = by_setting
    if header.enhanced:
        code = "CE" if _wants(header.accept, "CE") else by_setting if _wants(header.application, "AE") else "close"
    if code == "close":
        return ()
    return ((code, _message(header, code, (trouble,), identity, at, facility)),)  # type: ignore[return-value]


def expected_code(header: Header, grade: Grade) -> str:
    """Return the code of the first answer, or the one it would have if the sender wanted answers."""
    return (ACCEPT if header.enhanced and CONDITIONS[header.accept] != (False, False) else ORIGINAL)[grade]


def _wants(condition: str, code: str) -> bool:
    positive, negative = CONDITIONS[condition]
    return positive if code in POSITIVE else negative


def _message(
    header: Header, code: str, troubles: tuple[Trouble, ...], identity: tuple[str, ...], at: datetime, facility: str
) -> bytes:
    marks = header.delimiters
    stamp = at.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")
    own_id = natural_id(*identity, "acknowledgement", code).replace("-", "")[:20]  # MSH-10 holds 20 characters before 2.7
    sender = header.receiver if any(header.receiver) else (escape(facility, marks), "")
    version = _version(header.version)
    kind = marks.component.join(part for part in ("ACK", header.trigger, "ACK" if version >= (2, 4) else "") if part)
    msh = [f"MSH{marks.field}{marks.encoding}", *sender, *header.sender, stamp, "", kind if marks.component else "ACK", own_id]
    msh += [header.processing, header.version or "2.5", "", ""]
    msh += ["NE", "NE"] if header.enhanced and code.startswith("A") else ["", ""]  # nobody acknowledges an acknowledgement
    msh += ["", header.charset]
    msa = ["MSA", code, header.control_id]
    shown = troubles[:ERRORS_SHOWN] if (code not in POSITIVE or version >= (2, 5)) else ()
    if shown and code not in POSITIVE:
        msa.append(escape(str(shown[0]), marks))
    segments = [msh, msa, *_errors(shown, marks, version, "W" if code in POSITIVE else "E")]
    text = "".join(marks.field.join(segment).rstrip(marks.field) + "\r" for segment in segments)
    return text.encode(header.codec, "replace")


def _errors(troubles: tuple[Trouble, ...], marks: Delimiters, version: tuple[int, int], severity: str) -> list[list[str]]:
    if not troubles:
        return []
    join = marks.component.join if marks.component else "".join
    if version < (2, 5):  # ERR-1, ELD: segment, sequence, field, code
        under = marks.subcomponent
        located = [
            join((*_place(trouble)[:3], under.join((str(int(trouble.condition)), "", "HL70357")) if under else ""))
            for trouble in troubles
        ]
        return [["ERR", (marks.repetition or " ").join(located)]]
    return [
        [
            "ERR",
            "",
            join(_place(trouble)).rstrip(marks.component),  # ERR-2, ERL
            join((str(int(trouble.condition)), _words(trouble.condition), "HL70357")),
            severity,
            "",
            "",
            "",
            escape(trouble.reason, marks),  # ERR-8, user message
        ]
        for trouble in troubles
    ]


def _place(trouble: Trouble) -> tuple[str, ...]:
    where = trouble.location
    if where is None:
        return ("MSH", "1")
    numbers = (where.number, where.field, where.repetition or (1 if where.field else 0), where.component)
    return (where.segment, *(str(number) if number else "" for number in numbers))


def _words(condition: Condition) -> str:
    return condition.name.replace("_", " ").capitalize()


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"(\d)\.(\d)", text)
    return (int(found[1]), int(found[2])) if found else (2, 5)


def escape(text: str, marks: Delimiters) -> str:
    """Escape the delimiters that a text of ours happens to hold."""
    letters = (
        (marks.escape, "E"),
        (marks.field, "F"),
        (marks.component, "S"),
        (marks.subcomponent, "T"),
        (marks.repetition, "R"),
    )
    table = {ord(mark): f"{marks.escape}{letter}{marks.escape}" if marks.escape else " " for mark, letter in letters if mark}
    return text.translate(table).replace("\r", " ").replace("\n", " ")
