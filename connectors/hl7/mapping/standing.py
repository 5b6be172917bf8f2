"""How a document stands, from what its parts say (OBX-11, table 0085) and what is said of the whole (OBR-25, table 0123; TXA).

The standard ranks neither over the other, and senders fill in one of them with care. So what takes text back wins, from wherever it
comes, then what says that text is not final. The first row that fits:

| OBX-11 of the parts | the whole | status |
|---|---|---|
| every one D or W | any | entered-in-error |
| every one X (D and W beside it) | any | cancelled |
| any | cancelled: OBR-25 X, TXA-19 CA, MDM T11 | cancelled |
| a P, R, S or I among them | any | preliminary |
| any | not final: OBR-25 A, I, M, N, P, R, S; TXA-17 neither AU nor LA | preliminary |
| a word among them that is no letter of the table | any | preliminary |
| any | such a word in OBR-25 | preliminary |
| a C among them | any | corrected |
| any | OBR-25 C | corrected |
| an A or B among them | any | amended |
| any | any | final |

Whether it corrects an earlier version (`relation` `edit`) is another matter, and a preliminary one may: any part C, A or B, or
OBR-25 C or M (corrected, not final).

Letters count in either case, and a sender's own words (`In Error`, `Auth (Verified)`) as what its setting `statuses` says. Any
other word is a trouble, since it may take back as well as confirm: nothing becomes final by it, a text or a value.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from connectors.hl7.errors import Condition
from connectors.hl7.mapping.codes import NO_RESULT, OBSERVATION_STATUS, RETRACTED
from connectors.hl7.mapping.reading import Reading
from connectors.hl7.message import Segment

Status = Literal["preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error"]

UNKNOWN: Final = "?"  # a status that is no letter of its table

_LETTERS: Final = frozenset(OBSERVATION_STATUS) | NO_RESULT  # table 0085
_UNFINISHED: Final = frozenset({"P", "R", "S", "I", UNKNOWN})
_CORRECTED: Final = frozenset({"C"})
_AMENDED: Final = frozenset({"A", "B"})
_ORDER_LETTERS: Final = frozenset("ACFIMNOPRSXYZ") | RETRACTED | {""}  # table 0123, and what `statuses` may make of a word
_ORDER_UNFINISHED: Final = frozenset({"A", "I", "M", "N", "P", "R", "S", UNKNOWN})
_ORDER_CORRECTED: Final = frozenset({"C", "M"})
_ORDER_CANCELLED: Final = frozenset({"X"}) | RETRACTED
NO_LETTER: Final = "a status that no table knows: a word of the sender's own needs the setting `statuses`"
_COMPLETE: Final = frozenset({"AU", "LA", ""})  # table 0271: authenticated; the others are stages before


@dataclass(frozen=True, slots=True)
class Whole:
    """What is said of a document as a whole."""

    cancelled: bool = False
    unfinished: bool = False
    corrected: bool = False


def own_letter(reading: Reading, obx: Segment) -> str:
    """Return the letter of table 0085 in OBX-11, `UNKNOWN` for none."""
    return _letter(reading, obx, 11, _LETTERS)


def letter_of(reading: Reading, obx: Segment, obr: Segment | None = None) -> str:
    """Return the letter of table 0085 by which an observation stands: OBX-11, but for what says more; for none `UNKNOWN`, noted.

    D where a correction has HL7's null in OBX-5, which deletes (chapter 2.5.3): what it corrects is taken back. X where OBR-25 says
    that the whole order is cancelled.
    """
    letter = own_letter(reading, obx)
    if letter == UNKNOWN:
        reading.trouble(NO_LETTER, obx.at(11), Condition.TABLE_VALUE_NOT_FOUND)
    if letter in _CORRECTED | _AMENDED and obx.is_null(5):
        return "D"
    return "X" if letter not in RETRACTED | NO_RESULT and of_order(reading, obr).cancelled else letter


def of_order(reading: Reading, obr: Segment | None) -> Whole:
    """Return what OBR-25 says; of a letter that says nothing about text (O, Y, Z), as of none, the parts alone count."""
    letter = _letter(reading, obr, 25, _ORDER_LETTERS) if obr else ""
    return Whole(letter in _ORDER_CANCELLED, letter in _ORDER_UNFINISHED, letter in _ORDER_CORRECTED)


def check_order(reading: Reading, obr: Segment | None) -> None:
    """Note an OBR-25 that is no letter of its table: once for an order that something is made of."""
    if obr and _letter(reading, obr, 25, _ORDER_LETTERS) == UNKNOWN:
        reading.trouble(NO_LETTER, obr.at(25), Condition.TABLE_VALUE_NOT_FOUND)


def _letter(reading: Reading, segment: Segment, field: int, letters: Collection[str]) -> str:
    sent = segment.get(field)
    letter = reading.peer.settings.statuses.get(sent, sent.upper())
    return letter if letter in letters else UNKNOWN


def of_document(txa: Segment | None, *, cancelled: bool) -> Whole:
    """Return what TXA-17 and TXA-19 (table 0273: CA, deleted) say. `cancelled`: the message itself cancels it."""
    if txa is None:
        return Whole(cancelled)
    return Whole(cancelled or txa.get(19).upper() == "CA", txa.get(17).upper() not in _COMPLETE)


def standing(parts: Collection[str], whole: Whole) -> tuple[Status, bool]:
    """Return a document's status, and whether it corrects an earlier version. `parts`: OBX-11 of each, without order detail."""
    letters = set(parts)
    corrects = whole.corrected or bool(letters & (_CORRECTED | _AMENDED))
    if letters and letters <= RETRACTED:
        return "entered-in-error", corrects
    if whole.cancelled or (letters and letters <= RETRACTED | {"X"}):
        return "cancelled", corrects
    if whole.unfinished or letters & _UNFINISHED:
        return "preliminary", corrects
    if whole.corrected or letters & _CORRECTED:
        return "corrected", corrects
    return ("amended" if letters & _AMENDED else "final"), corrects
