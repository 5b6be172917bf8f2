"""What holds for every message: an outcome, no patient data in its words, the same for the same; fuzzed."""

import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.contexts import MemoryContexts
from connectors.hl7.handling import Hl7Mapper, Outcome
from connectors.hl7.mapping import patients, results
from connectors.hl7.message import parse
from connectors.hl7.settings import Hl7Peer, MllpSettings, Peer
from processors.events import DeadLetterEvent, PatientEvent, VitalsEvent
from tests.edge import identities
from tests.hl7_messages import NOW, PID, PULSE, PV1, message, obx, reader, vitals

SECRET = "Zq7SECRET"

SEGMENTS = [
    PID,
    PV1,
    "PID|1",
    "MRG|1^^^HOSP||||V1",
    "EVN|A08|20260302",
    "OBR|1|P1|F1|VS^Vitals^L|||20260302095500",
    PULSE,
    obx("85354-9^BP^LN", "120/80", "mmHg", kind="ST"),
    obx("67775-7^ACVPU^LN", "LA9340-6^Alert^LN", kind="CWE"),
    obx("150456^MDC_PULS_OXIM_SAT_O2^MDC", "97", "262688^MDC_DIM_PERCENT^MDC", status="R", at="202603020950+0100"),
    obx("82810-3^Pregnancy^LN", "LA15173-0^Pregnant^LN", kind="CWE"),
    "OBX|9|TX|18842-5^DS^LN||Text\\.br\\more~and more||||||F",
    "OBX|9|ED|18842-5^DS^LN||^TEXT^PLAIN^Base64^SGVsbG8=||||||F",
    "OBX|9|ED|18842-5^DS^LN||^text^html^Base64^PHA+T25lPC9wPjwhW3g=||||||C",
    "OBX|9|ED|18842-5^DS^LN||^application^rtf^Base64^e1xydGYxIEhlbGxvfQ==||||||D",
    "NTE|1||A comment",
    "TXA|1|DS|TX|20260302|||||||DOC|PARENT||||LA",
    "ZZZ|whatever",
]
KINDS = (
    ["ORU^R01"]
    + [f"MDM^T{n}" for n in ("02", "06", "10", "11")]
    + [f"ADT^A{n}" for n in ("01", "03", "08", "17", "24", "40", "45")]
)
VALUES = ["", '""', "x", "~", "^^^", "&", "\\F\\", "\\X00\\", "1e309", "-", "9" * 40, "20260230"]
VALUES += ["\x0b", "é", SECRET, "W", "\\", "a^b~c&d"]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A message of the types that are mapped, with fields replaced by trouble."""
    start = draw(st.sampled_from([[PID], [PID, PV1], [PID, "MRG|1^^^HOSP"], [PID, "TXA|1|DS|TX|20260302|||||||DOC"], []]))
    chosen = start + draw(st.lists(st.sampled_from(SEGMENTS), max_size=7))
    lines = []
    for segment in chosen:
        fields = segment.split("|")
        for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
            place = draw(st.integers(1, 30))
            fields += [""] * (place + 1 - len(fields))
            fields[place] = draw(st.one_of(st.sampled_from(VALUES), st.text("0123456789.^~&\\|+-ABXr\r\n ", max_size=12)))
        lines.append("|".join(fields))
    kind = draw(st.sampled_from(KINDS))
    accept = draw(st.sampled_from(["", "AL", "NE", "ER", "SU", "??"]))
    return message(
        *lines, kind=kind, accept=accept, sent=draw(st.sampled_from(["20260302100000+0000", "", "20260302", "soon"]))
    )


def check(outcome: Outcome) -> None:
    assert outcome.verdict in ("accepted", "refused", "ignored", "dead-letter")
    assert (outcome.verdict in ("accepted", "dead-letter")) == bool(outcome.events)
    assert outcome.code in ("AA", "AE", "AR", "CA", "CE", "CR", "")
    assert (outcome.verdict == "refused") == (outcome.code in ("AE", "AR", "CE", "CR"))
    assert SECRET not in outcome.reason
    for event in outcome.events:
        if isinstance(event, DeadLetterEvent):
            assert SECRET not in event.message
            assert event.original_value
    assert len({(type(event), event.id) for event in outcome.events}) == len(outcome.events)
    for _, raw in (*outcome.answers, *outcome.unconfirmed):
        msa = parse(raw).first("MSA")
        assert msa is not None
        assert msa.get(2) == outcome.control_id


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=200, deadline=None)
@given(raw=mutated())
def test_any_message_has_an_outcome_that_is_complete_and_repeats(raw: bytes) -> None:
    outcome = reader(zone="Europe/Berlin")(raw)
    check(outcome)
    assert "mapping failed" not in outcome.reason
    assert reader(zone="Europe/Berlin")(raw) == outcome


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=100, deadline=None)
@given(raws=st.lists(mutated(), max_size=5))
def test_contexts_grow_from_whatever_comes(raws: list[bytes]) -> None:
    contexts = MemoryContexts()
    read = reader(contexts)
    for raw in raws:
        outcome = read(raw)
        check(outcome)
        assert "mapping failed" not in outcome.reason
        for context in outcome.contexts:
            contexts.remember(context)


PEERS = [
    Peer("plain", Hl7Peer()),
    Peer("plain", Hl7Peer(statuses={"F": "P", "Done": "F"}, charted=False)),
    Peer("own", Hl7Peer(zone="Europe/Berlin", units={"/min": "Cel"}, text_types={"NM"})),
]

SAID = [
    "NM|8867-4^Heart rate^LN||70|/min^^UCUM",
    "NM|8867-4^Heart rate^LN~X||70|/min",
    "NM|8310-5^T^LN||36,8|Cel",
    "ST|85354-9^BP^LN||120/80|mmHg",
    "NM|149530^MDC_PULS_OXIM_PULS_RATE^MDC|1.2.3|88|264864^MDC_DIM_BEAT_PER_MIN^MDC",
    "CWE|67775-7^ACVPU^LN||LA9340-6^Alert^LN|",
    "NM|8867-4^Heart rate^LN|||/min",
]


@st.composite
def results_again(draw: st.DrawFn) -> bytes:
    """A result message of a few observations that differ little, as wards repeat them."""

    def mostly(usual: str, *others: str) -> str:
        return draw(st.sampled_from([*[usual] * (2 * len(others)), *others]))

    lines = [f"OBR|1|P1|F1|VS^Vitals^L|||{mostly('20260302095500', '', 'soon')}{'|' * 18}{mostly('F', 'X', 'C', '?')}"]
    for number in range(1, draw(st.integers(1, 4)) + 1):
        said = draw(st.sampled_from(SAID)).split("|")
        status, flag = mostly("F", "", "P", "R", "C", "D", "X", "Done"), mostly("", "INV", "QUES")
        observed = mostly("20260302095000", "", "20260302", "202610250230", "soon")
        lines.append("|".join(["OBX", str(number), *said, "", flag, "", "", status, "", "", observed, "", "", "", "MON-1"]))
    return message(PID, PV1, *lines, kind="ORU^R01")


BEFORE = Hl7Mapper(MllpSettings(), identities())  # reads whatever the examples below have


@settings(deadline=None, max_examples=300)
@given(raw=st.one_of(results_again(), mutated()), peer=st.sampled_from(PEERS))
def test_a_message_means_the_same_whatever_was_read_before(raw: bytes, peer: Peer) -> None:
    """What observations said before is remembered by their text: by all of it, and by who sends it."""
    assert BEFORE.handle(raw, peer, NOW) == Hl7Mapper(MllpSettings(), identities()).handle(raw, peer, NOW)


@pytest.mark.parametrize("order", ["X", "C", "?"])
@pytest.mark.parametrize("peer", PEERS)
def test_an_observation_that_was_read_before_stands_as_its_order_and_peer_say(order: str, peer: Peer) -> None:
    def raw(order: str) -> bytes:
        line = f"OBX|1|{SAID[0]}|||||F|||20260302095000"
        return message(PID, PV1, f"OBR|1|P1|F1|VS|||20260302095500{'|' * 18}{order}", line, kind="ORU^R01")

    mapper, fresh = (Hl7Mapper(MllpSettings(), identities()) for _ in range(2))
    mapper.handle(raw("F"), PEERS[0], NOW)
    assert mapper.tables.plain
    assert mapper.handle(raw(order), peer, NOW) == fresh.handle(raw(order), peer, NOW)


def test_what_is_remembered_of_observations_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.hl7.mapping.vitals._REMEMBERED", 10)
    mapper = Hl7Mapper(MllpSettings(), identities())
    for rate in range(60, 90):
        mapper.handle(vitals(obx("8867-4^HR^LN", str(rate), "/min")), PEERS[0], NOW)
    assert 0 < len(mapper.tables.plain) <= 10
    mapper.handle(vitals(obx("8867-4^HR^LN", "70", "/min") + "|" * 12 + "x" * 1000), PEERS[0], NOW)
    assert not any("x" * 1000 in map(str, key[-1]) for key in mapper.tables.plain)  # type: ignore[call-overload]


@settings(deadline=None)
@given(noise=st.binary(max_size=200), at=st.integers(0, 400), length=st.integers(0, 50))
def test_bytes_overwritten_anywhere(noise: bytes, at: int, length: int) -> None:
    raw = vitals(PULSE, "OBX|2|TX|x||text||||||F")
    outcome = reader()(raw[:at] + noise + raw[at + length :])
    assert outcome.code or not outcome.answers
    assert "mapping failed" not in outcome.reason


def test_what_nobody_foresaw_becomes_a_dead_letter_and_its_words_stay_out_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise KeyError(SECRET)

    monkeypatch.setattr(results, "orders", broken)
    monkeypatch.setattr(patients, "_groups", broken)
    with caplog.at_level(logging.DEBUG):
        for raw in (vitals(PULSE), message(PID, kind="ADT^A01")):
            outcome = reader()(raw)
            assert (outcome.verdict, outcome.code, outcome.reason) == ("dead-letter", "AA", "the mapping failed with KeyError")
            (letter,) = outcome.events
            assert isinstance(letter, DeadLetterEvent)
            assert letter.message == "the mapping failed with KeyError"
    assert "KeyError" in caplog.text
    assert SECRET not in caplog.text


def test_reasons_are_listed_up_to_a_bound() -> None:
    lines = [obx("8867-4^HR^LN", "bad", number=n) for n in range(1, 30)]
    outcome = reader()(vitals(*lines))
    assert outcome.reason.endswith("and 21 more")
    assert len(outcome.reason) < 600


def test_trigger_from_evn_where_msh_9_leaves_it_out() -> None:
    outcome = reader()(message("EVN|A01|202603020900", PID, PV1, kind="ADT"))
    assert [type(event).__name__ for event in outcome.events] == ["PatientEvent"]
    assert [type(event) for event in reader()(vitals(PULSE, kind="ORU")).events] == [PatientEvent, VitalsEvent]


def test_identifier_order_of_the_site() -> None:
    pid = "PID|1||111^^^A^MR~222^^^B&1.2.3&ISO^PI~333^^^C^SS"
    made = {}
    for order in (("A", "B"), ("B", "A"), ("1.2.3",), ("D",)):
        mapper = Hl7Mapper(MllpSettings(), identities(*order))
        events = mapper.handle(vitals(PULSE, pid=pid, pv1=""), Peer("p", Hl7Peer()), NOW).events
        made[order] = events[0].patient_id if isinstance(events[0], VitalsEvent) else "held apart"
    assert made["A", "B"] != made["B", "A"]
    assert made["D",] == "held apart"
    aliased = Hl7Mapper(MllpSettings(), identities("B", **{"1.2.3": "B"}))
    by_oid = aliased.handle(vitals(PULSE, pid="PID|1||222^^^&1.2.3&ISO", pv1=""), Peer("p", Hl7Peer()), NOW).events[0]
    assert isinstance(by_oid, VitalsEvent)
    assert by_oid.patient_id == made["B", "A"]


def test_an_identifier_without_authority_is_the_peers_or_the_facilitys() -> None:
    def patient(**peer: object) -> str:
        (event,) = reader(**peer)(vitals(PULSE, pid="PID|1||4711", pv1="")).events
        assert isinstance(event, VitalsEvent)
        return event.patient_id

    _, named = reader()(vitals(PULSE)).events  # 4711^^^HOSP
    assert isinstance(named, VitalsEvent)
    assert patient(authority="HOSP") == named.patient_id
    assert patient() != named.patient_id


LONG = "W" * 3_998_300


@pytest.mark.parametrize(
    ("place", "segments"),
    [
        ("PV1-3.1", [PID, f"PV1|1|I|{LONG}^1^1"]),
        ("PID-3.1", [f"PID|1||{LONG}^^^HOSP^MR", PV1]),
        ("PID-3.5", [f"PID|1||1^^^HOSP^{LONG}", PV1]),
    ],
)
def test_a_value_that_no_event_has_room_for_is_refused_and_its_place_named(place: str, segments: list[str]) -> None:
    """Taken, it stops the lane behind: what comes of it would fit no topic."""
    outcome = reader()(message(*segments, kind="ADT^A01"))
    assert (outcome.verdict, outcome.code, outcome.events) == ("refused", "AE", ())
    assert place in outcome.reason and "WW" not in outcome.reason
    assert b"|104^" in outcome.answers[0][1]  # table 0357: value too long


def test_a_control_id_that_no_event_has_room_for_is_refused() -> None:
    raw = message(PID, PV1, kind="ADT^A01")
    head, _, rest = raw.partition(b"\r")
    fields = head.split(b"|")
    fields[9] = b"C" * 100_000
    outcome = reader()(b"|".join(fields) + b"\r" + rest)
    assert (outcome.verdict, outcome.events) == ("refused", ())
    assert "MSH-10" in outcome.reason
