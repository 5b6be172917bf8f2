"""What results and documents say of the person, where registration has not."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from connectors.contexts import MemoryContexts
from connectors.hl7.handling import Hl7Mapper
from connectors.hl7.publishing import Publishing, Unconfirmed
from connectors.hl7.settings import Hl7Peer, MllpSettings, Peer
from models.errors import Poison, Transient
from processors.events import UNDATED, Event, PatientEvent, VitalsEvent
from processors.rules import CeilingPolicy, MonitorRules
from tests import bedside
from tests.bedside import alerts
from tests.edge import identities
from tests.hl7_messages import PID, PULSE, PV1, message, obx, vitals

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
REPORT = "TXA|1|PN^Progress note|TX||||||||D1||||||AU"
TEXT = "OBX|1|TX|||Stable.||||||F"


class Ward:
    """A mapper with its contexts: each message is published before the next."""

    def __init__(self, **peer: object) -> None:
        self.contexts = MemoryContexts()
        self.mapper = Hl7Mapper(MllpSettings(), identities(), self.contexts)
        self.peer = Peer("gateway", Hl7Peer.model_validate(peer))
        self.reason = ""

    def take(self, raw: bytes, at: datetime = NOW) -> list[Event]:
        outcome = self.mapper.handle(raw, self.peer, at)
        for context in outcome.contexts:
            self.contexts.remember(context)
        self.reason = outcome.reason
        return [*outcome.events]

    def known(self, raw: bytes, at: datetime = NOW) -> PatientEvent | None:
        return next((event for event in self.take(raw, at) if isinstance(event, PatientEvent)), None)


def adt(trigger: str, *segments: str, at: str = "202603020900") -> bytes:
    return message(f"EVN|{trigger}|{at}", *segments, kind=f"ADT^{trigger}")


def born(date: str, number: str = "4711") -> str:
    return f"PID|1||{number}^^^HOSP^MR||DOE^JANE||{date}|F"


def test_a_patient_known_by_results_alone_has_an_age_and_a_place() -> None:
    context, told = Ward().take(vitals(PULSE))  # the context first
    assert isinstance(context, PatientEvent)
    assert isinstance(told, VitalsEvent)
    assert (context.birth_date, context.location.ward, context.location.bed) == ("1950-03-21", "W1", "B3")
    assert (context.encounter_status, context.encounter_id, context.deceased) == ("unknown", None, False)
    assert (context.effective_at, context.received_at) == (UNDATED, NOW)
    assert [one.value for one in context.identifiers] == ["4711"]


@pytest.mark.parametrize(
    "raw", [vitals(PULSE, control_id="M2"), vitals(PULSE, pid=born("19600101"), pv1=PV1.replace("W1", "W2"))]
)
def test_nothing_is_published_that_adds_nothing_or_says_otherwise(raw: bytes) -> None:
    ward = Ward()
    ward.take(vitals(PULSE))
    assert [event.type for event in ward.take(raw)] == [VitalsEvent.type]


def test_what_comes_later_fills_the_rest() -> None:
    ward = Ward()
    assert ward.known(vitals(PULSE, pid=born(""), pv1="")) is None
    first = ward.known(vitals(PULSE, pid=born("")))
    assert first is not None
    assert (first.birth_date, first.location.ward) == (None, "W1")
    second = ward.known(vitals(PULSE, pv1=PV1.replace("W1", "W2")))
    assert second is not None
    assert (second.birth_date, second.location.ward) == ("1950-03-21", "W1")


@pytest.mark.parametrize("at", ["202603011000", "202603021100"])
def test_registration_says_it_better_even_where_it_was_recorded_before(at: str) -> None:
    ward = Ward()
    ward.take(vitals(PULSE))
    context = ward.known(adt("A01", born("19600101"), PV1.replace("W1", "W5"), at=at))
    assert context is not None
    assert (context.birth_date, context.location.ward, context.encounter_status) == ("1960-01-01", "W5", "in-progress")
    assert ward.known(vitals(PULSE)) is None


def measured(minutes: float, *, ward: str = "W2", lines: Sequence[str] = (PULSE,)) -> tuple[bytes, datetime]:
    """A set from another bed, so long after the first message, and when it came."""
    at = NOW + timedelta(minutes=minutes)
    obr = f"OBR|1||F{minutes}|VS^Vitals|||{at:%Y%m%d%H%M%S}+0000"
    return vitals(*lines, pv1=PV1.replace("W1", ward), obr=obr, control_id=f"T{minutes}"), at


def test_vital_signs_from_another_bed_move_a_patient_whom_registration_has_not_placed() -> None:
    ward, watch = Ward(), bedside.Ward(admit=False)
    context = ward.known(vitals(PULSE))
    assert context is not None
    watch.say(context)
    watch.chart(0, bedside.ILL, patient=context.patient_id)
    assert ward.known(*measured(4)) is None  # a transport monitor beside the bed's: nobody is moved with every set
    late, _ = measured(-30, ward="W0")
    assert ward.known(late, NOW + timedelta(minutes=20)) is None  # it was long on its way
    assert ward.known(*measured(20, ward="W1")) is None  # there already
    moved = ward.known(*measured(21))
    assert moved is not None
    assert (moved.location.ward, moved.effective_at, moved.birth_date) == ("W2", UNDATED, context.birth_date)
    (step,) = alerts(watch.say(moved))
    assert (step.state, step.location.ward) == ("updated", "W2")
    assert ward.known(*measured(22, ward="W1")) is None


def test_what_is_no_sign_of_where_a_patient_is_moves_nobody() -> None:
    ward = Ward()
    ward.take(vitals(PULSE))
    elsewhere = PV1.replace("W1", "RADIOLOGY")
    at = NOW + timedelta(hours=1)
    report = message(PID, elsewhere, REPORT, TEXT, kind="MDM^T02", control_id="D1")
    assert ward.known(report, at) is None
    back = obx("8867-4^Heart rate^LN", "80", "/min^^UCUM", status="W")
    assert ward.known(*measured(60, lines=(back,))) is None  # the device had the wrong patient
    admitted = ward.known(adt("A01", PID, PV1), at)
    assert admitted is not None
    assert ward.known(*measured(120)) is None  # registration says where from now on


def test_registration_that_says_nothing_of_it_leaves_it() -> None:
    ward = Ward()
    ward.take(vitals(PULSE))
    context = ward.known(adt("A03", born(""), "PV1|1|I|"))
    assert context is not None
    assert (context.birth_date, context.location.ward, context.encounter_status) == ("1950-03-21", "W1", "finished")


@pytest.mark.parametrize("trigger", ["A01", "A03", "A11"])
def test_a_stay_of_registration_is_neither_moved_nor_opened_again(trigger: str) -> None:
    """An age is filled in; the place of the device is not taken, even where a cancelled admission left none."""
    ward = Ward()
    before = ward.known(adt(trigger, born(""), PV1))
    after = ward.known(vitals(PULSE, pv1=PV1.replace("W1", "W9")))
    assert before is not None
    assert after is not None
    assert after.model_dump(exclude={"id", "birth_date", "received_at", "origin"}) == before.model_dump(
        exclude={"id", "birth_date", "received_at", "origin"}
    )
    assert after.birth_date == "1950-03-21"


def test_a_fact_about_somebody_whom_registration_has_not_named_does_not_make_it_late() -> None:
    ward = Ward()
    pregnant = "OBX|1|CWE|82810-3^Pregnancy^LN||LA15173-0^Pregnant^LN||||||F"
    fact = ward.known(vitals(pregnant, PULSE))
    assert fact is not None
    assert (fact.pregnant, fact.birth_date, fact.effective_at) == (True, "1950-03-21", UNDATED)
    admitted = ward.known(adt("A01", born("19600101"), PV1.replace("W1", "W5"), at="202603010900"))
    assert admitted is not None
    assert (admitted.location.ward, admitted.birth_date) == ("W5", "1960-01-01")


def test_an_old_number_fills_the_surviving_record() -> None:
    ward = Ward()
    survivor, _ = ward.take(adt("A40", born("", "2"), "MRG|4711^^^HOSP^MR"))
    context = ward.known(vitals(PULSE))
    assert isinstance(survivor, PatientEvent)
    assert context is not None
    assert (context.patient_id, context.birth_date) == (survivor.patient_id, "1950-03-21")
    assert [one.value for one in context.identifiers] == ["2"]


@pytest.mark.parametrize(
    "raw",
    [
        vitals(obx("8867-4^Heart rate^LN", "80", "/min^^UCUM", status="W")),
        vitals(obx("718-7^Haemoglobin^LN", "8", "g/dL")),
        vitals("OBX|1|ST|18748-4^Report^LN||Wrong.||||||W"),
        message(PID, PV1, REPORT, TEXT, kind="MDM^T11"),
    ],
)
def test_what_is_taken_back_or_not_for_us_says_nothing_of_the_person(raw: bytes) -> None:
    assert Ward().known(raw) is None


def test_a_document_says_it_too() -> None:
    context, _ = Ward().take(message(PID, PV1, REPORT, TEXT, kind="MDM^T02"))
    assert isinstance(context, PatientEvent)
    assert (context.birth_date, context.location.ward) == ("1950-03-21", "W1")


@pytest.mark.parametrize(("date", "reason"), [("31.02.1950", "1 x a date of birth that cannot be read"), ('""', "")])
def test_a_date_of_birth_that_cannot_be_used_keeps_no_vitals_apart(date: str, reason: str) -> None:
    ward = Ward()
    assert [event.type for event in ward.take(vitals(PULSE, pid=born(date), pv1=""))] == [VitalsEvent.type]
    assert ward.reason == reason


def test_a_place_that_is_too_long_keeps_no_vitals_apart() -> None:
    ward = Ward()
    assert [event.type for event in ward.take(vitals(PULSE, pid=born(""), pv1=f"PV1|1|I|{'W' * 5000}"))] == [VitalsEvent.type]
    assert ward.reason == "1 x a place that cannot be read"


def test_test_traffic_fills_nothing() -> None:
    assert Ward().known(vitals(PULSE, processing="T")) is None
    assert Ward(test_contexts=True).known(vitals(PULSE, processing="T")) is not None


class Broker:
    """A publisher that fails as it is told."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.stored: list[Event] = []

    async def publish(self, events: Sequence[Event], *, timeout: float | None = None) -> None:
        if self.failure:
            raise self.failure
        self.stored += events


async def test_what_was_not_confirmed_is_published_with_the_resend() -> None:
    ward, broker = Ward(), Broker()
    publishing = Publishing(ward.mapper, broker, 1.0, 10)

    async def send(raw: bytes) -> None:
        task = publishing.start(raw, ward.peer, NOW, ward.mapper.handle(raw, ward.peer, NOW))
        await task  # type: ignore[misc]  # these messages have events

    raw = vitals(PULSE)
    broker.failure = Transient("down")
    with pytest.raises(Unconfirmed):
        await send(raw)
    with pytest.raises(Unconfirmed):
        await send(vitals(PULSE, control_id="M2"))
    broker.failure = None
    await send(raw)
    assert [event.type for event in broker.stored] == [PatientEvent.type, VitalsEvent.type]
    broker.failure = Transient("down")
    with pytest.raises(Unconfirmed):
        await send(adt("A01", PID, PV1))
    broker.failure = None
    (known,) = (event for event in broker.stored if isinstance(event, PatientEvent))
    assert ward.contexts.get(known.patient_id) is known


async def test_several_on_their_way_are_taken_back_together() -> None:
    ward, broker = Ward(), Broker()
    publishing = Publishing(ward.mapper, broker, 1.0, 10)
    broker.failure = Transient("down")
    raws = [vitals(PULSE), adt("A01", born(""), PV1), vitals(PULSE, control_id="M3")]
    tasks = [publishing.start(raw, ward.peer, NOW, ward.mapper.handle(raw, ward.peer, NOW)) for raw in raws]
    for task in tasks:
        with pytest.raises(Unconfirmed):
            await task  # type: ignore[misc]  # these messages have events
    await asyncio.sleep(0)
    assert len(ward.contexts) == 0


async def test_a_context_that_no_broker_takes_is_taken_back() -> None:
    class Small(Broker):
        async def publish(self, events: Sequence[Event], *, timeout: float | None = None) -> None:
            if any(isinstance(event, PatientEvent) for event in events):
                raise Poison("too large")
            self.stored += events

    ward, broker = Ward(), Small()
    publishing = Publishing(ward.mapper, broker, 1.0, 10)
    raw = vitals(PULSE)
    await publishing.start(raw, ward.peer, NOW, ward.mapper.handle(raw, ward.peer, NOW))  # type: ignore[misc]  # it has events
    assert [event.type for event in broker.stored] == ["org.vigil.dead-letter.v1"]
    assert len(ward.contexts) == 0


def test_a_ward_of_which_only_results_come_is_watched() -> None:
    ward, watch = Ward(), bedside.Ward(admit=False)
    context = ward.known(vitals(PULSE))
    assert context is not None
    scored, steps = watch.chart(0, bedside.ILL, patient=context.patient_id)
    assert (scored.news2_reason, steps) == ("age unknown", [])
    (raised,) = alerts(watch.say(context))
    assert (raised.state, raised.location.ward) == ("raised", "W1")


def test_what_is_decided_for_a_patient_known_by_results_alone_counts() -> None:
    settings = MllpSettings.model_validate({"context_codes": {"CEILING": {"fact": "ceiling_of_care"}}})
    rules = MonitorRules(ceilings={"ward-based": CeilingPolicy(route="outreach")})
    ward, watch = Ward(), bedside.Ward(rules, admit=False)
    ward.mapper = Hl7Mapper(settings, identities(), ward.contexts)
    for lines in ((PULSE,), (obx("CEILING^^L", "ward-based", kind="ST"), PULSE)):
        context = ward.known(vitals(*lines))
        assert context is not None
        assert context.effective_at == UNDATED
        watch.say(context)
    (raised,) = watch.chart(0, bedside.ILL, patient=context.patient_id)[1]
    assert (raised.state, raised.route) == ("raised", "outreach")


def test_a_process_that_had_not_heard_of_the_stay_does_not_undo_it() -> None:
    """Two processes: the admission came by the other a moment before."""
    ward, late, watch = Ward(), Ward(), bedside.Ward(admit=False)
    admitted = ward.known(adt("A01", born(""), PV1))
    pregnant = "OBX|1|CWE|82810-3^Pregnancy^LN||LA15173-0^Pregnant^LN||||||F"
    passing = late.known(vitals(PULSE, pregnant, pv1=PV1.replace("W1", "W9")))
    assert admitted is not None
    assert passing is not None
    watch.say(admitted)
    watch.say(passing)
    assert watch.chart(0, bedside.ILL, patient=admitted.patient_id)[0].news2_reason == "pregnancy recorded"
    (raised,) = alerts(watch.say(admitted.model_copy(update={"id": "not pregnant", "birth_date": "1950-03-21"})))
    assert (raised.state, raised.location.ward) == ("raised", "W1")
    gone = admitted.model_copy(
        update={"id": "gone", "encounter_status": "finished", "effective_at": NOW, "received_at": NOW + timedelta(hours=1)}
    )
    assert [one.reason for one in alerts(watch.say(gone))] == ["discharged"]
    assert alerts(watch.say(passing.model_copy(update={"id": "again"}))) == []
    ward.contexts.remember(passing)
    assert ward.contexts.get(admitted.patient_id) is admitted
