"""What can be wrong with a message, and where: the places and codes that an ERR segment names."""

from dataclasses import dataclass
from enum import IntEnum

from models.errors import Poison


class Condition(IntEnum):
    """HL7 table 0357, message error condition codes."""

    SEGMENT_SEQUENCE = 100
    REQUIRED_FIELD_MISSING = 101
    DATA_TYPE = 102
    TABLE_VALUE_NOT_FOUND = 103
    VALUE_TOO_LONG = 104
    UNSUPPORTED_MESSAGE_TYPE = 200
    UNSUPPORTED_EVENT_CODE = 201
    UNSUPPORTED_PROCESSING_ID = 202
    UNSUPPORTED_VERSION_ID = 203
    UNKNOWN_KEY = 204
    APPLICATION_ERROR = 207


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a message; 0 where there is none. Reads as `OBX[3]-5.1`: third OBX, field 5, component 1."""

    segment: str
    number: int = 1
    field: int = 0
    repetition: int = 0
    component: int = 0

    def __str__(self) -> str:
        text = f"{self.segment}[{self.number}]" if self.number > 1 else self.segment
        if self.field:
            text += f"-{self.field}"
        if self.repetition > 1:
            text += f"({self.repetition})"
        return f"{text}.{self.component}" if self.component else text


@dataclass(frozen=True, slots=True)
class Trouble:
    """A value, or a whole message, that cannot be used. `reason` names the fault in words that carry no patient text."""

    reason: str
    location: Location | None = None
    condition: Condition = Condition.DATA_TYPE
    stage: str = "map"  # of the dead letter; `identify`: nobody knows whose data this is

    def __str__(self) -> str:
        return f"{self.location}: {self.reason}" if self.location else self.reason


class Unreadable(Poison):
    """The message has no structure to work with: it is refused, and stays with its sender."""

    def __init__(
        self, reason: str, location: Location | None = None, condition: Condition = Condition.SEGMENT_SEQUENCE
    ) -> None:
        self.trouble = Trouble(reason, location, condition)
        super().__init__(str(self.trouble), stage="decode")
