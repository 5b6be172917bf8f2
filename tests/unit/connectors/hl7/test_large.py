"""Large and legal messages: what they take grows with their size, not with its square."""

from time import process_time

import pytest

from connectors.hl7.message import parse
from connectors.hl7.settings import Hl7Peer, Peer
from processors.events import MOST_IDENTIFIERS, DeadLetterEvent
from tests.hl7_messages import NOW, PULSE, mapper, message, reader
from tests.work import calls


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


def numbers(count: int, authority: str = "H{n}") -> str:
    return "~".join(f"{n + 1000}^^^{authority.format(n=n)}^MR" for n in range(count))


def pid(identifiers: str) -> str:
    return f"PID|1||{identifiers}||DOE^JANE||19500321|F"


def admission(count: int, authority: str) -> bytes:
    return message("EVN|A08|202603020900", pid(numbers(count, authority)), "PV1|1|I|W1^R2^B3", kind="ADT^A08")


def merge(count: int, authority: str) -> bytes:
    return message(pid(numbers(count, authority)), f"MRG|{numbers(count, authority)}", kind="ADT^A40")


def link(count: int, authority: str) -> bytes:
    return message(pid(numbers(count, authority)), pid(numbers(count, f"G{authority}")), kind="ADT^A24")


def result(count: int, authority: str) -> bytes:
    return message(pid(numbers(count, authority)), "OBR|1|||VITALS|||202603020900", PULSE)


@pytest.mark.parametrize("make", [admission, merge, link, result])
@pytest.mark.parametrize("authority", ["H{n}", "HOSP"], ids=["of-many", "of-one"])
def test_many_numbers_of_a_patient_take_as_much_more_as_there_are_more_of_them(make, authority) -> None:
    """Each was compared with each: a PID-3 of 4,000 took 13 s and held up every other sender."""

    def work(count: int) -> int:
        using, peer = mapper(), Peer("adt", Hl7Peer())
        raws = [make(count, authority), make(count, authority) + b"NTE|1||twice\r"]
        return calls(lambda: [using.learn(using.handle(raw, peer, NOW)) for raw in raws])

    assert work(MOST_IDENTIFIERS) < 3 * work(MOST_IDENTIFIERS // 2)  # with the square four times


@pytest.mark.parametrize("make", [admission, merge, link, result])
def test_more_numbers_than_anybody_has_are_refused_before_they_are_compared(make) -> None:
    outcome = reader()(make(MOST_IDENTIFIERS + 1, "H{n}"))
    assert (outcome.verdict, outcome.code, outcome.events) == ("refused", "AE", ())
    assert outcome.reason == "PID-3: more than the 500 identifiers that are taken"
    assert calls(lambda: reader()(make(8000, "H{n}"))) < 5 * calls(lambda: reader()(make(2000, "H{n}")))


def test_empty_repetitions_are_no_numbers() -> None:
    outcome = reader()(result(1, "HOSP").replace(b"^MR|", b"^MR" + b"~" * 2000 + b"|"))
    assert (outcome.verdict, outcome.code) == ("accepted", "AA")


def test_repetitions_are_read_in_one_pass() -> None:
    def took(count: int) -> float:
        segment = parse(message(pid(numbers(count)))).first("PID")
        assert segment is not None
        began = process_time()
        values = [segment.get(3, repetition=n) for n in range(1, count + 1)]
        assert (values[0], values[-1]) == ("1000", str(count + 999))
        return process_time() - began

    assert took(40_000) < 20 * took(5000)  # eight times as many; with the square 64
