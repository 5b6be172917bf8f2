"""Large and legal messages: what they take grows with their size, not with its square."""

from time import process_time

from processors.events import DeadLetterEvent
from tests.hl7_messages import message, reader


def test_many_orders_of_nobody_take_no_more_than_seconds() -> None:
    """A gateway's message without PID, one device after the other: a search of the whole for each took 14 s."""
    pulse = "OBX|1|NM|8867-4^HR^LN||80|/min|||||F|||||||M-"
    orders = ((f"OBR|{n}|||x|||20260302080000+0000", f"{pulse}{n}", "PRT|||||||||DOE JANE") for n in range(6000))
    raw = message(*(segment for order in orders for segment in order))
    began = process_time()
    outcome = reader()(raw)
    assert process_time() - began < 5
    (letter,) = outcome.events
    assert isinstance(letter, DeadLetterEvent)
    assert letter.message.startswith("PID: nobody to file this under: device M-0; ")
    assert letter.message.endswith("more")
    assert "DOE" not in letter.message
