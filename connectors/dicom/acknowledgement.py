"""What a sender is told, and when: the statuses of C-STORE as a table (PS3.4 Table B.2-1, PS3.7 Annex C).

0x0000 means that the object store *and* Kafka have confirmed. pynetdicom answers an exception in a handler with C211, which
senders take as "never again": whatever goes wrong on our side must leave as A700 ("try later").
"""

from typing import Final, Literal

from models.errors import Poison

Verdict = Literal["accepted", "refused", "ignored", "dead-letter"]

SUCCESS: Final = 0x0000
INVALID_INSTANCE: Final = 0x0117  # PS3.7 C.5.6: the SOP Instance UID violates the UID rules
NOT_SUPPORTED: Final = 0x0122  # PS3.7 C.5.22: the SOP class is not supported
NOT_AUTHORISED: Final = 0x0124  # PS3.7 C.5.17
OUT_OF_RESOURCES: Final = 0xA700  # PS3.4 B.2.3: refused, out of resources; senders try again
MISMATCH: Final = 0xA900  # PS3.4 B.2.3: the data set does not match its SOP class
CANNOT_UNDERSTAND: Final = 0xC000  # PS3.4 B.2.3: the data set cannot be parsed
MISSING_ATTRIBUTE: Final = 0xC001  # ours, inside Cxxx: SOP class or instance UID is absent
TOO_DEEP: Final = 0xC002  # ours, inside Cxxx: sequences nested beyond reading, or a deflate bomb
TOO_LONG: Final = 0xC003  # ours, inside Cxxx: larger than what is taken

STATUSES: dict[int, tuple[Verdict, str]] = {
    SUCCESS: ("accepted", "object store and Kafka have confirmed; also for what was kept as dead letter or ignored"),
    INVALID_INSTANCE: ("refused", "SOP Instance UID is malformed, or differs from the command's"),
    NOT_SUPPORTED: ("refused", "SOP class is no picture and `unmapped` is `refuse`"),
    NOT_AUTHORISED: ("refused", "sender is not allowed to store"),
    OUT_OF_RESOURCES: ("refused", "object store or Kafka did not confirm in time, or anything unforeseen: try again"),
    MISMATCH: ("refused", "SOP class of the data set differs from the command's"),
    CANNOT_UNDERSTAND: ("refused", "data set cannot be parsed"),
    MISSING_ATTRIBUTE: ("refused", "data set has no SOP class or instance UID"),
    TOO_DEEP: ("refused", "data set is nested or inflates beyond the limits"),
    TOO_LONG: ("refused", "longer than the limit: one object of a STOW-RS request (over C-STORE it is cut off)"),
}

# Association rejection (PS3.8 Table 9-21): result 2 transient, source 3 presentation-related provider
CONGESTED: Final = (0x02, 0x03, 0x01)  # temporary congestion
LIMIT_EXCEEDED: Final = (0x02, 0x03, 0x02)  # local limit exceeded


def status_of(error: BaseException) -> int:
    """Return the status for what went wrong after an object was understood.

    `Poison` (no broker will ever take this event) cannot be mended by a resend: Cxxx. Everything else, foreseen or not, is our
    trouble and not the object's: A700, and the sender keeps it.
    """
    return CANNOT_UNDERSTAND if isinstance(error, Poison) else OUT_OF_RESOURCES
