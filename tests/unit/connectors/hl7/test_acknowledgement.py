"""The answers: which code when (clinical.md's table of troubles), and their bytes."""

import pytest

from connectors.hl7.handling import Outcome
from connectors.hl7.message import Message, parse
from tests.hl7_messages import NOW, PULSE, message, obx, reader, vitals

BAD = obx("8867-4^Heart rate^LN", "fast", "/min")
OTHER = message("PID|1||4711", kind="SIU^S12")
BROKEN = message(kind="ADT^A01")  # an ADT without PID
WRONG_VERSION = vitals(PULSE, version="3.0")


def codes(outcome: Outcome) -> list[str]:
    return [code for code, _ in outcome.answers]


def answer(outcome: Outcome, n: int = 0) -> Message:
    return parse(outcome.answers[n][1])


@pytest.mark.parametrize(
    ("raw", "verdict", "code"),
    [
        (vitals(PULSE), "accepted", "AA"),
        (vitals(PULSE, BAD), "accepted", "AA"),  # one value cannot be used: the rest is
        (vitals(BAD), "accepted", "AA"),  # that it cannot be used is passed on
        (vitals(PULSE, pid="PID|1"), "dead-letter", "AA"),  # device data without a patient: held apart
        (OTHER, "ignored", "AA"),
        (BROKEN, "refused", "AE"),
        (message(kind=""), "refused", "AE"),
        (message(kind="ORU^R01"), "refused", "AE"),
        (message(kind="MDM^T02"), "refused", "AE"),
        (b"MSH|&&&&|A|B|||1||ORU^R01|X1|P|2.5", "refused", "AE"),  # an MSH that cannot be followed
        (b"PID|1||4711", "refused", "AR"),
        (b"\x00\x01 nothing", "refused", "AR"),
        (b"", "refused", "AR"),
        (WRONG_VERSION, "refused", "AR"),
        (vitals(PULSE, version="2.3.z"), "refused", "AR"),
        (vitals(PULSE, processing="X"), "refused", "AR"),
        (vitals(PULSE, version=""), "accepted", "AA"),
        (vitals(PULSE, processing=""), "accepted", "AA"),
        (vitals(PULSE, control_id=""), "accepted", "AA"),
    ],
)
def test_original_mode(raw: bytes, verdict: str, code: str) -> None:
    outcome = reader()(raw)
    assert (outcome.verdict, outcome.code, codes(outcome)) == (verdict, code, [code])
    assert bool(outcome.events) == (verdict in ("accepted", "dead-letter"))


ACCEPTED, REFUSED = vitals, BROKEN


@pytest.mark.parametrize(
    ("accept", "application", "good", "bad"),
    [
        ("AL", "AL", ["CA", "AA"], ["CE"]),
        ("AL", "NE", ["CA"], ["CE"]),
        ("AL", "", ["CA"], ["CE"]),
        ("AL", "ER", ["CA"], ["CE"]),
        ("AL", "SU", ["CA", "AA"], ["CE"]),
        ("ER", "AL", ["AA"], ["CE"]),
        ("ER", "NE", [], ["CE"]),
        ("SU", "NE", ["CA"], []),
        ("SU", "AL", ["CA", "AA"], ["AE"]),  # no accept acknowledgement was sent, so the application one says it
        ("NE", "AL", ["AA"], ["AE"]),
        ("NE", "ER", [], ["AE"]),
        ("NE", "SU", ["AA"], []),
        ("", "AL", ["AA"], ["AE"]),
        ("NE", "NE", [], []),
        ("XX", "NE", ["CA"], ["CE"]),  # a condition that is none: better one answer too many
    ],
)
def test_enhanced_mode(accept: str, application: str, good: list[str], bad: list[str]) -> None:
    read = reader()
    assert codes(read(vitals(PULSE, accept=accept, application=application))) == good
    assert codes(read(message(kind="ADT^A01", accept=accept, application=application))) == bad


def test_enhanced_refusal_of_type_version_or_processing_is_cr() -> None:
    outcome = reader()(vitals(PULSE, version="9.9", accept="AL", application="AL"))
    assert (outcome.code, codes(outcome)) == ("CR", ["CR"])


@pytest.mark.parametrize(("accept", "application"), [("NE", "NE"), ("", "NE"), ("NE", "")])
def test_no_promise_to_who_wants_no_answers(accept: str, application: str) -> None:
    assert reader()(vitals(PULSE, accept=accept, application=application)).promise is False
    assert reader()(vitals(PULSE)).promise is True


@pytest.mark.parametrize(
    ("setting", "accept", "application", "expected"),
    [
        ("close", "", "", []),
        ("AR", "", "", ["AR"]),
        ("AE", "", "", ["AE"]),
        ("close", "AL", "AL", ["CE"]),
        ("AR", "ER", "", ["CE"]),
        ("close", "NE", "AL", []),
        ("AR", "NE", "AL", ["AR"]),
        ("AR", "NE", "NE", []),
        ("AR", "SU", "SU", []),
    ],
)
def test_unconfirmed(setting: str, accept: str, application: str, expected: list[str]) -> None:
    outcome = reader(unconfirmed=setting)(vitals(PULSE, accept=accept, application=application))
    assert [code for code, _ in outcome.unconfirmed] == expected
    for _, raw in outcome.unconfirmed:
        error = parse(raw).first("ERR")
        assert error is not None
        assert error.get(3) == "207"


def test_ignored_type_by_setting() -> None:
    outcome = reader(not_for_us="AR")(OTHER)
    assert (outcome.verdict, outcome.code) == ("ignored", "AR")
    error = answer(outcome).first("ERR")
    assert error is not None
    assert (error.get(2), error.get(2, 3), error.get(3)) == ("MSH", "9", "200")


@pytest.mark.parametrize("kind", ["ACK", "ACK^R01^ACK", "MCF^A01", "NAK"])
def test_an_acknowledgement_is_never_acknowledged(kind: str) -> None:
    outcome = reader()(message("MSA|CA|17", kind=kind, accept="AL", application="AL"))
    assert (outcome.verdict, outcome.code, outcome.answers, outcome.unconfirmed) == ("ignored", "", (), ())


def test_the_message_of_an_answer() -> None:
    read = answer(reader()(vitals(PULSE, control_id="ABC\\F\\1", charset="UNICODE UTF-8")))
    msh, msa = read.header, read.first("MSA")
    assert (msh.get(3), msh.get(4), msh.get(5), msh.get(6)) == ("VIGIL", "HOSP", "MON", "ICU")  # turned round
    assert (msh.get(7), msh.get(9), msh.get(9, 2), msh.get(9, 3)) == ("20260302100000+0000", "ACK", "R01", "ACK")
    assert (msh.get(11), msh.get(12), msh.get(18)) == ("P", "2.6", "UNICODE UTF-8")
    assert 0 < len(msh.get(10)) <= 20
    assert msa is not None
    assert (msa.get(1), msa.raw(2)) == ("AA", "ABC\\F\\1")
    assert read.first("ERR") is None


def test_two_answers_have_control_ids_of_their_own_and_ask_for_none() -> None:
    outcome = reader()(vitals(PULSE, accept="AL", application="AL"))
    commit, application = answer(outcome, 0), answer(outcome, 1)
    assert len({commit.header.get(10), application.header.get(10), "M1"}) == 3
    assert (application.header.get(15), application.header.get(16)) == ("NE", "NE")
    for one in (commit, application):
        msa = one.first("MSA")
        assert msa is not None
        assert msa.get(2) == "M1"


def test_error_with_location() -> None:
    read = answer(reader()(BROKEN))
    msa, error = read.first("MSA"), read.first("ERR")
    assert msa is not None
    assert error is not None
    assert (msa.get(1), msa.get(2), msa.get(3)) == ("AE", "M1", "PID: an ADT message without PID")
    assert (error.get(2), error.get(2, 2), error.get(3), error.get(3, 3), error.get(4)) == ("PID", "1", "100", "HL70357", "E")


def test_a_value_that_cannot_be_used_is_a_warning_at_its_place() -> None:
    error = answer(reader()(vitals(PULSE, obx("8310-5^T^LN", "warm", number=2)))).first("ERR")
    assert error is not None
    assert [error.get(2, n) for n in (1, 2, 3)] == ["OBX", "2", "5"]
    assert (error.get(3), error.get(4), error.get(8)) == ("102", "W", "not a number")


def test_error_segment_before_version_2_5_is_eld() -> None:
    error = answer(reader()(message(kind="ADT^A01", version="2.3"))).first("ERR")
    assert error is not None
    assert (error.get(1), error.get(1, 2), error.get(1, 4), error.get(1, 4, 3)) == ("PID", "1", "100", "HL70357")


def test_answer_in_the_senders_delimiters() -> None:
    raw = b"MSH#*!\\&#A#B#C#D#20260302##ADT*A01#Z9#P#2.5\rPID#1##4711***HOSP"
    outcome = reader()(raw)
    assert outcome.verdict == "accepted"
    assert outcome.answers[0][1].startswith(b"MSH#*!\\&#C#D#A#B#")
    assert b"MSA#AA#Z9\r" in outcome.answers[0][1]


def test_control_id_is_salvaged_from_a_header_that_cannot_be_followed() -> None:
    outcome = reader()(b"MSH|&&&&|A|B|||1||ORU^R01^ORU_R01|X1|P|2.5.1")
    assert (outcome.message_type, outcome.version, outcome.control_id) == ("ORU^R01^ORU_R01", "2.5.1", "X1")
    msa = answer(outcome).first("MSA")
    assert msa is not None
    assert msa.get(2) == "X1"


def test_the_same_message_gets_the_same_answer() -> None:
    read = reader()
    assert read(vitals(PULSE)) == read(vitals(PULSE))
    assert NOW.tzinfo is not None
