from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from connectors.contexts import MemoryContexts, surviving
from connectors.hl7.handling import Hl7Mapper, Outcome
from connectors.hl7.settings import Hl7Peer, MllpSettings, Peer
from connectors.identity import Identities, IdentitySettings
from processors.events import DeadLetterEvent, Identifier, PatientEvent
from tests import bedside
from tests.bedside import alerts
from tests.edge import identities
from tests.hl7_messages import PULSE, message, vitals

RECEIVED = datetime(2027, 3, 2, 12, tzinfo=UTC)  # after all of these messages were sent, but for those of a wrong clock

SETTINGS = MllpSettings.model_validate(
    {
        "context_codes": {
            "SCALE": {"fact": "spo2_scale"},
            "DNAR^L": {"fact": "ceiling_of_care", "values": {"WARD": "ward-based care", "FULL": None}},
        }
    }
)


class Ward:
    """A mapper with its contexts: each message is published before the next."""

    def __init__(self) -> None:
        self.contexts = MemoryContexts()
        self.mapper = Hl7Mapper(SETTINGS, identities(), self.contexts)
        self.peer = Peer("adt", Hl7Peer())
        self.outcome: Outcome | None = None
        self.received = RECEIVED

    def take(self, raw: bytes) -> list[PatientEvent]:
        self.outcome = self.mapper.handle(raw, self.peer, self.received)
        for context in self.outcome.contexts:
            self.contexts.remember(context)
        return [*self.outcome.contexts]


def pid(number: str = "4711", birth: str = "19500321", deceased: str = "", died: str = "") -> str:
    return f"PID|1||{number}^^^HOSP^MR~999^^^SSA^SS||DOE^JANE||{birth}|F" + "|" * 20 + f"|{died}|{deceased}"


def pv1(ward: str = "W1", room: str = "R2", bed: str = "B3", visit: str = "V77", ambulatory: str = "") -> str:
    return f"PV1|1|I|{ward}^{room}^{bed}" + "|" * 12 + ambulatory + "|" * 4 + visit


def adt(trigger: str, *segments: str, at: str = "202603020900", **header: str) -> bytes:
    return message(f"EVN|{trigger}|{at}", *segments, kind=f"ADT^{trigger}", **header)


def mrg(number: str = "", visit: str = "") -> str:
    return f"MRG|{number}{'^^^HOSP^MR' if number else ''}||||{visit}"


def test_admission() -> None:
    (event,) = Ward().take(adt("A01", pid(), pv1()))
    assert [(one.authority, one.value, one.kind) for one in event.identifiers] == [("HOSP", "4711", "MR"), ("SSA", "999", "SS")]
    assert (event.birth_date, event.deceased, event.pregnant, event.spo2_scale) == ("1950-03-21", False, None, 1)
    assert (event.encounter_status, event.location.ward, event.location.room, event.location.bed) == (
        "in-progress",
        "W1",
        "R2",
        "B3",
    )
    assert (event.effective_at, event.received_at) == (datetime(2026, 3, 2, 9, tzinfo=UTC), RECEIVED)
    assert event.encounter_id
    assert event.patient_id == identities().patient(event.identifiers[0])
    assert event.visit == Identifier(authority="HOSP", value="V77", kind="VN")


@pytest.mark.parametrize(
    ("trigger", "status"),
    [
        ("A01", "in-progress"), ("A02", "in-progress"), ("A03", "finished"), ("A04", "in-progress"), ("A05", "planned"),
        ("A11", "cancelled"), ("A12", "in-progress"), ("A13", "in-progress"), ("A38", "cancelled"), ("A08", "unknown"),
    ],
)  # fmt: skip
def test_encounter_status(trigger: str, status: str) -> None:
    (event,) = Ward().take(adt(trigger, pid(), pv1()))
    assert event.encounter_status == status


def test_a_stay() -> None:
    ward = Ward()
    ward.take(adt("A01", pid(), pv1()))
    (moved,) = ward.take(adt("A02", pid(), pv1("W2", "", ""), at="202603021000"))
    assert (moved.location.ward, moved.location.bed, moved.encounter_status) == ("W2", "", "in-progress")
    (updated,) = ward.take(adt("A08", pid(birth="19500322"), at="202603021100"))
    assert (updated.location.ward, updated.birth_date, updated.encounter_status) == ("W2", "1950-03-22", "in-progress")
    assert updated.encounter_id == moved.encounter_id
    (back,) = ward.take(adt("A12", pid(), pv1(), at="202603021130"))
    assert back.location.ward == "W1"
    (gone,) = ward.take(adt("A03", pid(), pv1(), at="202603021200"))
    assert gone.encounter_status == "finished"
    (late_update,) = ward.take(adt("A08", pid(), pv1(), at="202603021300"))
    assert late_update.encounter_status == "finished"
    (again,) = ward.take(adt("A13", pid(), pv1(), at="202603021400"))
    assert again.encounter_status == "in-progress"


def test_a_late_message_fills_only_what_is_unknown() -> None:
    ward = Ward()
    ward.take(adt("A03", pid(birth=""), pv1("W9"), at="202603021200"))
    (event,) = ward.take(adt("A01", pid(), pv1("W1"), at="202603020900"))
    assert (event.encounter_status, event.location.ward, event.birth_date) == ("finished", "W9", "1950-03-21")
    assert event.effective_at == datetime(2026, 3, 2, 12, tzinfo=UTC)
    assert ward.outcome is not None
    assert "older than what is known" in ward.outcome.reason


def test_a_cancel_counts_by_when_it_was_recorded_not_by_what_it_cancels() -> None:
    ward = Ward()
    ward.take(adt("A03", pid(), pv1(), at="202603021200"))
    (event,) = ward.take(message("EVN|A13|202603021230||||202603021000", pid(), pv1(), kind="ADT^A13"))
    assert event.encounter_status == "in-progress"


def test_a_stamp_in_the_future_counts_as_of_its_receipt() -> None:
    """One mistyped year must not hold off transfers and discharges until then."""
    ward = Ward()
    ward.received = datetime(2026, 3, 2, 9, tzinfo=UTC)
    ward.take(adt("A01", pid(), pv1("W1"), at="202603020900"))
    (wrong,) = ward.take(adt("A08", pid(), pv1("W1"), at="20620101"))
    assert wrong.effective_at == ward.received
    assert ward.outcome is not None
    assert "1 x a time in the future: counts as of its receipt" in ward.outcome.reason
    ward.received = datetime(2026, 3, 2, 10, tzinfo=UTC)
    (moved,) = ward.take(adt("A02", pid(), pv1("W2"), at="202603021000"))
    assert (moved.location.ward, moved.effective_at) == ("W2", ward.received)
    ward.received = datetime(2026, 3, 2, 11, tzinfo=UTC)
    (gone,) = ward.take(adt("A03", pid(), pv1("W2"), at="202603021100"))
    assert (gone.encounter_status, gone.effective_at) == ("finished", ward.received)


def test_clocks_that_differ_by_minutes_keep_their_order() -> None:
    ward = Ward()
    ward.received = datetime(2026, 3, 2, 9, tzinfo=UTC)
    (gone,) = ward.take(adt("A03", pid(), pv1(), at="202603020904"))
    assert gone.effective_at == datetime(2026, 3, 2, 9, 4, tzinfo=UTC)
    (late,) = ward.take(adt("A08", pid(), pv1("W9"), at="202603020903"))
    assert (late.encounter_status, late.location.ward) == ("finished", "W1")


def test_a_context_published_with_a_future_time_is_superseded_by_what_arrives_now() -> None:
    """By an older version, or in the compacted topic since then."""
    ward = Ward()
    ward.received = datetime(2026, 3, 2, 10, tzinfo=UTC)
    (known,) = ward.take(adt("A01", pid(), pv1("W1"), at="202603020900"))
    ward.contexts.remember(known.model_copy(update={"effective_at": datetime(2062, 1, 1, tzinfo=UTC)}))
    (fact, *_) = ward.take(vitals("OBX|1|CWE|82810-3^Pregnancy^LN||LA15173-0^Pregnant^LN||||||F", pid=pid()))
    assert fact.effective_at == ward.received
    (gone,) = ward.take(adt("A03", pid(), pv1("W2"), at="202603021000"))
    assert (gone.encounter_status, gone.location.ward, gone.effective_at) == ("finished", "W2", ward.received)
    assert ward.contexts.get(known.patient_id) == gone


def test_what_a_clinician_decided_survives_registration_updates() -> None:
    ward = Ward()
    ward.take(adt("A01", pid(), pv1()))
    scale = "OBX|1|ST|SCALE^SpO2 scale^L||2||||||F|||||DR7^HOUSE"
    ceiling = "OBX|2|CWE|DNAR^Ceiling^L||WARD^Ward-based^L||||||F"
    (event, *_) = ward.take(vitals(scale, ceiling, PULSE, pid=pid()))
    assert (event.spo2_scale, event.ceiling_of_care) == (2, "ward-based care")
    assert event.spo2_scale_decided_by
    assert "DR7" not in event.model_dump_json()
    (updated,) = ward.take(adt("A08", pid(), pv1("W5"), at="202603021100"))
    assert (updated.spo2_scale, updated.spo2_scale_decided_by) == (2, event.spo2_scale_decided_by)
    assert (updated.ceiling_of_care, updated.location.ward) == ("ward-based care", "W5")
    (lifted,) = ward.take(vitals(ceiling.replace("WARD^Ward-based", "FULL^Full"), pid=pid()))
    assert lifted.ceiling_of_care is None
    (wrong,) = ward.take(vitals(scale.replace("||||||F", "||||||W"), pid=pid()))
    assert (wrong.spo2_scale, wrong.spo2_scale_decided_by) == (1, None)


def test_a_fact_that_is_deleted_or_whose_order_is_cancelled() -> None:
    ward, pregnant = Ward(), "OBX|1|CWE|82810-3^Pregnancy^LN||LA15173-0^Pregnant^LN||||||F"
    ward.take(adt("A01", pid(), pv1()))
    assert ward.take(vitals(pregnant, pid=pid(), obr="OBR|1" + "|" * 24 + "X")) == []
    ward.take(vitals(pregnant, pid=pid()))
    (deleted,) = ward.take(vitals('OBX|1|CWE|82810-3^Pregnancy^LN||""||||||C', pid=pid()))
    assert deleted.pregnant is None


def test_a_fact_does_not_make_older_registration_late() -> None:
    ward = Ward()
    ward.take(adt("A01", pid(), pv1(), at="202603020900"))
    ward.take(vitals("OBX|1|CWE|82810-3^Pregnancy^LN||LA15173-0^Pregnant^LN||||||F", pid=pid(), sent="20260302120000+0000"))
    (moved,) = ward.take(adt("A02", pid(), pv1("W2"), at="202603021000"))
    assert (moved.location.ward, moved.pregnant) == ("W2", True)


def test_a_scale_that_nobody_is_named_for_is_not_taken() -> None:
    ward = Ward()
    assert ward.take(vitals("OBX|1|ST|SCALE^SpO2 scale^L||2||||||F", pid=pid())) == []
    assert ward.outcome is not None
    assert ward.outcome.reason == "OBX-16: an SpO2 scale that nobody is named for (OBX-16)"


@pytest.mark.parametrize(
    ("answer", "pregnant"),
    [
        ("LA15173-0^Pregnant^LN", True),
        ("LA26683-5^Not pregnant^LN", False),
        ("LA4489-6^Unknown^LN", None),
        ("77386006^P^SCT", True),
    ],
)
def test_pregnancy_by_observation(answer: str, pregnant: bool | None) -> None:
    (event,) = Ward().take(adt("A08", pid(), pv1(), f"OBX|1|CWE|82810-3^Pregnancy status^LN||{answer}||||||F"))
    assert event.pregnant is pregnant


def test_pregnancy_by_ambulatory_status_ends_with_the_stay() -> None:
    ward = Ward()
    (event,) = ward.take(adt("A01", pid(), pv1(ambulatory="A1~B6")))
    assert event.pregnant is True
    (kept,) = ward.take(adt("A08", pid(), pv1(), at="202603021000"))
    assert kept.pregnant is True
    (next_stay,) = ward.take(adt("A01", pid(), pv1(visit="V99"), at="202703021000"))
    assert next_stay.pregnant is None


@pytest.mark.parametrize(
    ("segment", "deceased"), [(pid(deceased="Y"), True), (pid(died="202603020100"), True), (pid(deceased="N"), False)]
)
def test_death(segment: str, deceased: bool) -> None:
    (event,) = Ward().take(adt("A08", segment, pv1()))
    assert event.deceased is deceased


@pytest.mark.parametrize(
    ("sent", "known"),
    [("19500321", "1950-03-21"), ("195003211200", "1950-03-21"), ("195003", "1950-03"), ("1950", "1950"), ("", None)],
)
def test_birth_date_as_far_as_it_is_known(sent: str, known: str | None) -> None:
    (event,) = Ward().take(adt("A08", pid(birth=sent)))
    assert event.birth_date == known


def test_null_deletes_and_nonsense_is_kept_apart() -> None:
    ward = Ward()
    ward.take(adt("A01", pid(), pv1()))
    (event,) = ward.take(adt("A08", pid(birth="31.02.1950"), at="202603021000"))
    assert event.birth_date == "1950-03-21"
    assert ward.outcome is not None
    assert isinstance(ward.outcome.events[-1], DeadLetterEvent)
    assert "31.02" not in ward.outcome.reason
    (event,) = ward.take(adt("A08", pid(birth='""'), at="202603021100"))
    assert event.birth_date is None


# ---------------------------------------------------------------------------------------------------------- another visit

PASSED_OVER = "1 x about another visit than the patient's stay: that visit is not used"


def visit(number: str, ward: str = "DIAL", kind: str = "O", *, begins: str = "", ends: str = "") -> str:
    fields = ["PV1", "1", kind, f"{ward}^^"] + [""] * 15 + [number] + [""] * 24 + [begins, ends]
    return "|".join(fields)


IN_BED = visit("V1", "W1", "I", begins="202603020900")


def stay(event: PatientEvent | None) -> tuple[str, str]:
    assert event is not None
    return event.encounter_status, event.location.ward


@pytest.mark.parametrize(
    ("trigger", "other"),
    [
        ("A03", visit("V0", "OLD", "I", ends="202601011200")),
        ("A04", visit("V3")),
        ("A03", visit("V3")),
        ("A05", visit("V9", "SURG", "P")),
        ("A11", visit("V9", "SURG", "I")),
        ("A38", visit("V9", "SURG", "P")),
        ("A23", visit("V0", "OLD", "I")),
        ("A14", visit("V9", "SURG", "I")),
        ("A02", visit("V3")),
        ("A02", visit("V0", "OLD", "I", begins="202601010900")),
        ("A06", visit("V3")),  # which is told again after its end
        ("A07", visit("V3")),
        ("A12", visit("V0", "OLD", "I")),
        ("A13", visit("V0", "OLD", "I")),
        ("A08", visit("V0", "OLD", "I")),
        ("A10", visit("V3")),
        ("A31", visit("V3", kind="N")),
        ("A01", visit("V3", kind="R")),
        ("A01", visit("V3", begins="202603021000")),  # a day case
        ("A01", visit("V0", "OLD", "I", begins="202601010900")),  # entered late
        ("A01", visit("V0", "OLD", "I", begins="202603021000", ends="202603021030")),
        ("A04", visit("V0", "ED", "E", begins="202603020700")),
    ],
)
def test_another_visit_neither_ends_nor_moves_the_stay_in_progress(trigger: str, other: str) -> None:
    ward = Ward()
    (here,) = ward.take(adt("A01", pid(), IN_BED))
    assert ward.take(adt(trigger, pid(), other, at="202603021100")) == []
    assert ward.outcome is not None
    assert (ward.outcome.code, ward.outcome.verdict, ward.outcome.reason) == ("AA", "ignored", PASSED_OVER)
    assert ward.contexts.get(here.patient_id) == here
    (moved,) = ward.take(adt("A02", pid(), visit("V1", "W2", "I"), at="202603021045"))  # recorded before the other
    assert (stay(moved), moved.encounter_id) == (("in-progress", "W2"), here.encounter_id)
    (gone,) = ward.take(adt("A03", pid(), visit("V1", "W2", "I"), at="202603021200"))
    assert gone.encounter_status == "finished"


@pytest.mark.parametrize("trigger", ["A01", "A02", "A04"])
def test_a_visit_of_an_unknown_class_does_not_displace_an_inpatient_and_says_why(trigger: str) -> None:
    ward = Ward()
    (here,) = ward.take(adt("A01", pid(), IN_BED))
    assert ward.take(adt(trigger, pid(), visit("V3", "RAD", "HOV", begins="202603021100"), at="202603021100")) == []
    assert ward.outcome is not None
    assert "of a class that is not known (`classes`)" in ward.outcome.reason
    assert ward.take(adt("A03", pid(), visit("V3", "RAD", "HOV"), at="202603021130")) == []
    assert (ward.contexts.get(here.patient_id), ward.outcome.reason) == (here, PASSED_OVER)


@pytest.mark.parametrize(
    ("trigger", "kind", "read"),
    [
        ("A01", "HOV", None),  # not an inpatient's for being an A01
        ("A01", "", "inpatient"),
        ("A01", "B", "inpatient"),  # obstetrics: in a bed or not, and the trigger tells
        ("A06", "HOV", "inpatient"),
        ("A07", "HOV", "outpatient"),
        ("A04", "ed", "emergency"),
        ("A01", "day", "outpatient"),  # as the site says
        ("A04", "M", "inpatient"),
        ("A01", "O", "emergency"),
    ],
)
def test_what_a_class_is(trigger: str, kind: str, read: str | None) -> None:
    ward = Ward()
    classes = {"DAY": "outpatient", "M": "inpatient", "O": "emergency"}
    ward.peer = Peer("adt", Hl7Peer.model_validate({"classes": classes}))
    (event,) = ward.take(adt(trigger, pid(), visit("V1", "W1", kind)))
    assert event.encounter_class == read


def test_an_admission_of_a_class_that_the_site_explains_takes_over() -> None:
    ward = Ward()
    ward.peer = Peer("adt", Hl7Peer.model_validate({"classes": {"HOV": "outpatient", "M": "inpatient"}}))
    ward.take(adt("A01", pid(), IN_BED))
    assert ward.take(adt("A01", pid(), visit("V3", "RAD", "HOV"), at="202603021100")) == []
    (moved,) = ward.take(adt("A01", pid(), visit("V9", "W9", "M"), at="202603021130"))
    assert (stay(moved), moved.encounter_class) == (("in-progress", "W9"), "inpatient")


def test_a_number_that_one_sender_calls_mrn_is_anothers_mr() -> None:
    """Else one patient is two records, and the discharge ends the watch over neither."""
    ward = Ward()
    person = "PID|1||E5555^^^EPIC^EPI~4711^^^HOSP^MRN||DOE^JANE||19500321|F"
    (event,) = ward.take(adt("A01", person, IN_BED))
    assert [one.kind for one in event.identifiers] == ["EPI", "MR"]
    assert event.patient_id == identities().patient(Identifier(authority="HOSP", value="4711"))
    ward.take(vitals(PULSE, pid="PID|1||4711^^^HOSP^MR||DOE^JANE||19500321|F"))
    assert ward.outcome is not None
    assert {getattr(one, "patient_id", "") for one in ward.outcome.events} == {event.patient_id}


def test_an_inpatient_stays_watched_on_the_ward_through_dialysis_and_the_paper_work_of_other_visits() -> None:
    ward, watch = Ward(), bedside.Ward(admit=False)

    def told(raw: bytes) -> list[tuple[str, str, str]]:
        return [(one.state, one.reason, one.location.ward) for event in ward.take(raw) for one in alerts(watch.say(event))]

    (here,) = ward.take(adt("A01", pid(), IN_BED))
    watch.say(here)
    assert [one.state for one in watch.chart(0, bedside.ILL, patient=here.patient_id)[1]] == ["raised"]
    others = [("A04", "V3", "DIAL"), ("A03", "V3", "DIAL"), ("A38", "V9", "SURG"), ("A05", "V9", "SURG"), ("A03", "V0", "OLD")]
    assert [told(adt(trigger, pid(), visit(number, place), at="202603021100")) for trigger, number, place in others] == [[]] * 5
    xray = visit("V4", "RAD", "HOV")  # of a class of the site's own
    assert [told(adt(trigger, pid(), xray, at="202603021110")) for trigger in ("A01", "A03")] == [[]] * 2
    assert watch.chart(1, bedside.ILL, patient=here.patient_id)[0].flags == ()
    assert told(adt("A02", pid(), visit("V1", "W2", "I"), at="202603021200")) == [("updated", "transferred", "W2")]
    assert told(adt("A03", pid(), visit("V1", "W2", "I"), at="202603021300")) == [("resolved", "discharged", "W2")]


@pytest.mark.parametrize(
    ("trigger", "other"),
    [
        ("A01", visit("V9", "NEW", "I", begins="202603021000")),
        ("A01", visit("V9", "NEW", "I", begins="20260302")),  # the day alone: may be later
        ("A01", visit("V9", "NEW", "I")),
        ("A01", visit("V9", "NEW", "")),
        ("A01", visit("V9", "NEW", "B")),
        ("A06", visit("V9", "NEW", "I")),
        ("A06", visit("V9", "NEW", "")),
        ("A04", visit("V9", "NEW", "E", begins="202603021000")),
        ("A04", visit("V9", "NEW", "I")),
        ("A02", visit("V9", "NEW", "I", begins="202603021000")),
    ],
)
def test_a_new_admission_takes_over_from_a_stay_whose_end_was_lost(trigger: str, other: str) -> None:
    ward = Ward()
    (old,) = ward.take(adt("A01", pid(), IN_BED.replace("W1^", "W1^R2^B3^")))
    ward.take(vitals("OBX|1|CWE|DNAR^Ceiling^L||WARD^Ward-based^L||||||F", pid=pid()))
    (new,) = ward.take(adt(trigger, pid(), other, at="202603021100"))
    assert (stay(new), new.location.bed, new.ceiling_of_care) == (("in-progress", "NEW"), "", None)
    assert new.encounter_id != old.encounter_id
    assert ward.take(adt("A03", pid(), IN_BED, at="202603021200")) == []  # the old stay's end, at last
    (gone,) = ward.take(adt("A03", pid(), visit("V9", "NEW", "I"), at="202603021300"))
    assert gone.encounter_status == "finished"


def test_an_outpatient_stay_in_progress_gives_way_because_it_is_often_never_ended() -> None:
    ward = Ward()
    ward.take(adt("A04", pid(), visit("V1", "CLINIC")))
    assert ward.take(adt("A03", pid(), visit("V0", "OLD"), at="202603020930")) == []
    (next_day,) = ward.take(adt("A04", pid(), visit("V2"), at="202603030900"))
    assert stay(next_day) == ("in-progress", "DIAL")
    (admitted,) = ward.take(adt("A06", pid(), visit("V2", "W1", "I"), at="202603031000"))  # of the same visit
    assert (stay(admitted), admitted.encounter_class) == (("in-progress", "W1"), "inpatient")
    assert ward.take(adt("A04", pid(), visit("V3"), at="202603031100")) == []
    (still,) = ward.take(adt("A08", pid(birth="19500322"), visit("V2", "W1", "O"), at="202603031200"))
    assert still.encounter_class == "inpatient"
    (left,) = ward.take(adt("A07", pid(), visit("V2", "W1", "O"), at="202603031300"))
    assert left.encounter_class == "outpatient"


def test_a_mistyped_year_of_admission_does_not_hold_off_the_next_one() -> None:
    ward = Ward()
    (wrong,) = ward.take(adt("A01", pid(), visit("V1", "W1", "I", begins="20620302")))
    assert wrong.encounter_since is None
    (new,) = ward.take(adt("A01", pid(), visit("V9", "NEW", "I", begins="202603021000"), at="202603021000"))
    assert stay(new) == ("in-progress", "NEW")


def test_what_another_visits_message_says_of_the_person_is_used() -> None:
    ward = Ward()
    (here,) = ward.take(adt("A01", pid(), IN_BED))
    (event,) = ward.take(adt("A03", pid(birth="19500322"), visit("V3"), at="202603021100"))
    assert (event.birth_date, stay(event), event.effective_at) == ("1950-03-22", ("in-progress", "W1"), here.effective_at)
    assert ward.outcome is not None
    assert (ward.outcome.verdict, ward.outcome.reason) == ("accepted", PASSED_OVER)
    assert ward.take(adt("A03", pid(birth="19500101"), visit("V3"), at="202603020800")) == []  # older than what is known
    (died,) = ward.take(adt("A03", pid(deceased="Y"), visit("V3"), at="202603021200"))
    assert died.deceased


@pytest.mark.parametrize(("first", "second"), [("", "V3"), ("V1", ""), ("", "")])
def test_without_a_visit_number_on_either_side_there_is_one_stay(first: str, second: str) -> None:
    ward = Ward()
    ward.take(adt("A01", pid(), visit(first, "W1", "I")))
    (gone,) = ward.take(adt("A03", pid(), visit(second, "W1", "I"), at="202603021100"))
    assert gone.encounter_status == "finished"


def of_account(number: str) -> str:
    return pid()[: pid().index("|F|") + 2] + "|" * 10 + number + "|" * 12


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ((of_account("1001"), visit("", "W1", "I")), (of_account("0990"), visit("", "DIAL", "I"))),
        ((of_account("1001"), visit("V1", "W1", "I")), (of_account("0990"), visit("", "DIAL", "I"))),
        ((pid(), visit("V1", "W1", "I")), (pid(), visit("", "DIAL", "O"))),
        ((pid(), visit("", "W1", "I")), (pid(), visit("V0", "DIAL", "R"))),
        ((pid(), visit("", "W1", "B")), (pid(), visit("", "DIAL", "O"))),  # a class that is not known protects the stay
        ((of_account("1001"), visit("", "W1", "I")), (pid(), visit("", "DIAL", "P"))),
    ],
)
@pytest.mark.parametrize("trigger", ["A03", "A04", "A05", "A08", "A11", "A38"])
def test_a_message_without_a_visit_number_is_told_by_the_account_or_the_class(
    first: tuple[str, str], other: tuple[str, str], trigger: str
) -> None:
    if trigger == "A04" and other[1].split("|")[2] == "I":
        return  # an admission
    ward = Ward()
    (here,) = ward.take(adt("A01", *first))
    assert ward.take(adt(trigger, *other, at="202603021100")) == []
    assert ward.outcome is not None
    assert ward.outcome.reason == PASSED_OVER
    (gone,) = ward.take(adt("A03", *first, at="202603021200"))
    assert (gone.encounter_status, gone.encounter_id) == ("finished", here.encounter_id)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((of_account("1001"), visit("V1", "W1", "I")), (of_account("1001"), visit("", "W1", "O"))),
        ((of_account("1001"), visit("", "W1", "I")), (of_account("1001"), visit("V1", "W1", "O"))),
        ((of_account("1001"), visit("", "W1", "I")), (pid(), visit("1001", "W1", "O"))),  # one number in both places
        ((of_account("1001"), visit("", "W1", "I")), (pid(), visit("V1", "W1", "I"))),  # nothing to compare
        ((pid(), visit("V1^^^FIN", "W1", "I")), (pid(), visit("V1", "W1", "I"))),  # which does not say whose it is
    ],
)
def test_what_names_the_same_account_is_of_the_same_stay(first: tuple[str, str], second: tuple[str, str]) -> None:
    ward = Ward()
    (here,) = ward.take(adt("A01", *first))
    (gone,) = ward.take(adt("A03", *second, at="202603021200"))
    assert (gone.encounter_status, gone.encounter_id, gone.visit) == ("finished", here.encounter_id, here.visit)
    ward.take(vitals(PULSE, pid=second[0], pv1=second[1]))
    assert ward.outcome is not None
    assert {getattr(event, "encounter_id", None) for event in ward.outcome.events} == {here.encounter_id}


def test_what_stands_in_for_an_account_is_none() -> None:
    (here,) = Ward().take(adt("A01", of_account("0"), visit("", "W1", "I")))
    assert (here.account, here.encounter_id) == (None, None)


def test_an_admission_by_another_account_begins_a_stay() -> None:
    ward = Ward()
    ward.take(adt("A01", of_account("1001"), visit("", "W1", "I")))
    (new,) = ward.take(adt("A01", of_account("1002"), visit("", "W2", "I"), at="202603021100"))
    assert (stay(new), new.visit) == (("in-progress", "W2"), Identifier(authority="HOSP", value="1002", kind="AN"))
    ward.take(adt("A03", of_account("1002"), visit("", "W2", "I"), at="202603021200"))
    (next_stay,) = ward.take(adt("A01", pid(), visit("V3", "W3", "I"), at="202703021200"))  # nothing to compare, but it is over
    assert (stay(next_stay), next_stay.visit, next_stay.account) == (
        ("in-progress", "W3"),
        Identifier(authority="HOSP", value="V3", kind="VN"),
        None,
    )


@pytest.mark.parametrize("trigger", ["A05", "A14", "A38"])
@pytest.mark.parametrize("begun", ["A04", "A08"])
def test_a_plan_of_the_visit_that_is_in_progress_moves_nobody_to_where_it_is_planned(begun: str, trigger: str) -> None:
    ward = Ward()
    (here,) = ward.take(adt(begun, pid(), visit("V1", "ED", "E")))
    assert ward.take(adt(trigger, pid(), visit("V1", "W5", "I"), at="202603021000")) == []
    assert ward.outcome is not None
    assert (ward.outcome.verdict, ward.outcome.reason) == (
        "ignored",
        "1 x a plan of the visit that is in progress: not used",
    )
    (moved,) = ward.take(adt("A01", pid(), visit("V1", "W5", "I"), at="202603021100"))
    assert (stay(moved), moved.encounter_id) == (("in-progress", "W5"), here.encounter_id)


def test_a_plan_does_not_move_who_is_known_by_vital_signs_alone() -> None:
    ward = Ward()
    ward.take(vitals(PULSE, pid=pid()))
    (planned,) = ward.take(adt("A05", pid(), visit("V9", "SURG", "P")))
    assert stay(planned) == ("planned", "W1")


@pytest.mark.parametrize(
    ("place", "facility"),
    [("W1^R2^B3^NORTH", "NORTH"), ("W1^R2^B3^NORTH&1.2.3&ISO", "NORTH"), ("W1^R2^B3^&1.2.3&ISO", "1.2.3"), ("W1^R2^B3", "")],
)
def test_the_hospital_that_a_place_is_in(place: str, facility: str) -> None:
    ward = Ward()
    (event,) = ward.take(adt("A01", pid(), f"PV1|1|I|{place}"))
    assert (event.location.ward, event.location.bed, event.location.facility) == ("W1", "B3", facility)
    (kept,) = ward.take(adt("A08", pid(), "PV1|1|I|^^^NORTH", at="202603021000"))  # no place by itself
    assert kept.location == event.location


def test_a_visit_number_without_an_authority_goes_through_a_merge_into_a_number_of_another() -> None:
    ward = Ward()
    temporary = "PID|1||T99^^^EDTEMP^MR||DOE||19500321"
    (here,) = ward.take(adt("A01", temporary, visit("V1", "ED", "E")))
    survivor, _ = ward.take(adt("A40", pid(), "MRG|T99^^^EDTEMP^MR", visit("V1", "ED", "E"), at="202603021000"))
    assert (stay(survivor), survivor.encounter_id) == (("in-progress", "ED"), here.encounter_id)
    (moved,) = ward.take(adt("A02", pid(), visit("V1", "ICU", "I"), at="202603021100"))
    assert (stay(moved), moved.encounter_id) == (("in-progress", "ICU"), here.encounter_id)
    ward.take(vitals(PULSE, pid=pid(), pv1=visit("V1", "ICU", "I")))
    assert ward.outcome is not None
    assert {getattr(event, "encounter_id", None) for event in ward.outcome.events} == {here.encounter_id}
    left, right = ward.take(adt("A45", "PID|1||8^^^OTHER^MR||DOE", mrg("4711", "V1"), at="202603021130"))
    assert (left.encounter_id, right.encounter_id, right.visit) == (None, here.encounter_id, here.visit)
    (gone,) = ward.take(adt("A03", "PID|1||8^^^OTHER^MR||DOE", visit("V1", "ICU", "I"), at="202603021200"))
    assert gone.encounter_status == "finished"


def test_an_account_moves_to_another_patient() -> None:
    ward = Ward()
    (wrong,) = ward.take(adt("A01", of_account("1001"), visit("", "W7", "I")))
    left, right = ward.take(adt("A44", pid("2"), "MRG|4711^^^HOSP^MR||1001", at="202603021000"))
    assert (left.encounter_id, left.account) == (None, None)
    assert (stay(right), right.encounter_id, right.account) == (("in-progress", "W7"), wrong.encounter_id, wrong.account)


def test_a_stay_of_unknown_status_is_not_ended_by_another_visit_either() -> None:
    ward = Ward()
    ward.take(adt("A08", pid(), IN_BED))  # the feed began while the patient lay there
    assert ward.take(adt("A03", pid(), visit("V0", "OLD", "I"), at="202603021100")) == []
    (moved,) = ward.take(adt("A02", pid(), visit("V1", "W2", "I"), at="202603021200"))
    assert stay(moved) == ("in-progress", "W2")


def test_an_update_of_another_visit_after_a_discharge() -> None:
    """A new stay whose A01 was lost is watched; an old one that is tidied up is not taken for it."""
    ward = Ward()
    ward.take(adt("A01", pid(), IN_BED))
    (gone,) = ward.take(adt("A03", pid(), IN_BED, at="202603021100"))
    for tidied in (visit("V0", "OLD", "I", ends="202601011200"), visit("V3"), visit("V3", kind="N")):
        assert ward.take(adt("A08", pid(), tidied, at="202603021200")) == []
    assert ward.contexts.get(gone.patient_id) == gone
    (new,) = ward.take(adt("A08", pid(), visit("V9", "NEW", "I"), at="202603021300"))
    assert stay(new) == ("unknown", "NEW")


def test_an_inpatient_who_comes_back_from_the_emergency_room_is_watched_again() -> None:
    ward = Ward()
    ward.take(adt("A01", pid(), IN_BED))
    ward.take(adt("A04", pid(), visit("V2", "ED", "E", begins="202603021100"), at="202603021100"))
    ward.take(adt("A03", pid(), visit("V2", "ED", "E"), at="202603021200"))
    (back,) = ward.take(adt("A08", pid(), IN_BED, at="202603021210"))
    assert stay(back) == ("unknown", "W1")
    assert ward.take(adt("A08", pid(), visit("V0", "OLD", "I", begins="202601010900"), at="202603021220")) == []


def test_a_change_of_the_visit_number_is_no_other_visit() -> None:
    ward = Ward()
    (here,) = ward.take(adt("A01", pid(), IN_BED))
    (renumbered,) = ward.take(adt("A50", pid(), mrg("4711", "V1"), visit("V2", "W1", "I"), at="202603021100"))
    assert (stay(renumbered), renumbered.encounter_since) == (("in-progress", "W1"), here.encounter_since)
    (gone,) = ward.take(adt("A03", pid(), visit("V2", "W1", "I"), at="202603021200"))
    assert gone.encounter_status == "finished"


def test_a_merge_or_move_that_names_another_visit_does_not_move_the_stay_in_progress() -> None:
    ward = Ward()
    (here,) = ward.take(adt("A01", pid("2"), IN_BED))
    survivor, _ = ward.take(adt("A40", pid("2"), mrg("1"), visit("V0", "OLD"), at="202603021000"))
    assert (stay(survivor), survivor.encounter_id) == (("in-progress", "W1"), here.encounter_id)
    ward.take(adt("A01", pid("3"), visit("V5", "W5", "I", begins="202601010900")))
    left, right = ward.take(adt("A44", pid("2"), mrg("3", "V5"), at="202603021100"))
    assert (left.encounter_id, stay(right), right.encounter_id) == (None, ("in-progress", "W1"), here.encounter_id)
    ward.take(adt("A01", pid("4"), visit("V6", "W6", "I", begins="202603021100"), at="202603021130"))
    _, right = ward.take(adt("A44", pid("2"), mrg("4", "V6"), at="202603021200"))
    assert stay(right) == ("in-progress", "W6")


def test_a_context_of_before_the_class_was_kept_is_protected() -> None:
    ward = Ward()
    (here,) = ward.take(adt("A01", pid(), IN_BED))
    old = here.model_dump(mode="json", exclude={"encounter_class", "encounter_since"})
    ward.contexts.remember(PatientEvent.model_validate(old))
    assert ward.take(adt("A04", pid(), visit("V3"), at="202603021100")) == []
    (new,) = ward.take(adt("A01", pid(), visit("V9", "NEW", "I", begins="202603021000"), at="202603021100"))
    assert stay(new) == ("in-progress", "NEW")


# ----------------------------------------------------------------------------------------------- merges, moves and links


MERGES = ["A18", "A30", "A34", "A36", "A39", "A40", "A43", "A46", "A47"]


@pytest.mark.parametrize("trigger", MERGES)
def test_merge(trigger: str) -> None:
    ward = Ward()
    (old,) = ward.take(adt("A01", pid("1"), pv1("W7", visit="V1", ambulatory="B6")))
    (new,) = ward.take(adt("A28", pid("2", birth=""), at="202603020930"))
    survivor, prior = ward.take(adt(trigger, pid("2", birth=""), mrg("1"), at="202603021000"))
    assert (survivor.patient_id, survivor.merged_into) == (new.patient_id, None)
    assert (prior.patient_id, prior.merged_into) == (old.patient_id, new.patient_id)
    assert (survivor.encounter_id, survivor.encounter_status, survivor.location) == (
        old.encounter_id,
        "in-progress",
        old.location,
    )
    assert (survivor.birth_date, survivor.pregnant) == ("1950-03-21", True)


def test_merge_keeps_what_the_survivor_knows_itself() -> None:
    ward = Ward()
    ward.take(adt("A01", pid("1"), pv1("W7", visit="V1")))
    (new,) = ward.take(adt("A01", pid("2", birth="19600101"), pv1("W8", visit="V2")))
    survivor, _ = ward.take(adt("A40", pid("2", birth=""), mrg("1"), at="202603021000"))
    assert (survivor.encounter_id, survivor.location.ward, survivor.birth_date) == (new.encounter_id, "W8", "1960-01-01")


def test_a_stay_in_progress_goes_over_to_a_survivor_whose_own_is_over_and_once_only() -> None:
    """Admitted under a temporary number, discharged last year under the lasting one."""
    ward = Ward()
    ward.take(adt("A03", pid("2"), pv1("W8", visit="V2"), at="202503020900"))
    (here,) = ward.take(adt("A01", pid("1"), pv1("W7", visit="V1"), at="202603020900"))
    survivor, _ = ward.take(adt("A40", pid("2"), mrg("1"), at="202603021000"))
    assert (survivor.encounter_id, survivor.encounter_status, survivor.location) == (
        here.encounter_id,
        "in-progress",
        here.location,
    )
    ward.take(adt("A03", pid("2"), pv1("W7", visit="V1"), at="202603021100"))
    again, _ = ward.take(adt("A40", pid("2"), mrg("1"), at="202603021200"))
    assert again.encounter_status == "finished"


def test_a_merge_that_names_another_stay_than_the_survivors_does_not_end_it() -> None:
    ward = Ward()
    ward.take(adt("A03", pid("2"), pv1("W8", visit="V2"), at="202503020900"))
    survivor, _ = ward.take(adt("A40", pid("2"), pv1("W7", visit="V1").replace("PV1|1|I", "PV1|1|E"), mrg("1")))
    assert survivor.encounter_status == "unknown"


def test_what_a_device_sends_under_a_merged_number_is_filed_under_the_survivor() -> None:
    ward = Ward()
    ward.take(adt("A01", pid("1"), pv1("W7", visit="V1")))
    survivor, prior = ward.take(adt("A40", pid("2"), mrg("1"), at="202603021000"))
    scale = "OBX|1|ST|SCALE^SpO2 scale^L||2||||||F|||||DR7^HOUSE"
    (fact,) = ward.take(vitals(scale, PULSE, pid=pid("1")))
    assert ward.outcome is not None
    assert {event.patient_id for event in ward.outcome.events} == {survivor.patient_id}  # type: ignore[attr-defined]  # all are a patient's
    assert (fact.spo2_scale, fact.merged_into) == (2, None)
    assert "1 x a number that was merged away: filed under the surviving record" in ward.outcome.reason
    ward.take(adt("A40", pid("3"), mrg("2"), at="202603021100"))
    ward.take(vitals(PULSE, pid=pid("1")))
    assert [one.patient_id for one in ward.outcome.events] == [ward.take(adt("A08", pid("3")))[0].patient_id]  # type: ignore[attr-defined]  # all are a patient's
    report = "TXA|1|PN^Progress note|TX||||||||D1||||||AU"
    ward.take(message(pid("1"), report, "OBX|1|TX|||Stable.||||||F", kind="MDM^T02"))
    assert ward.outcome.verdict == "accepted"
    assert prior.patient_id not in {getattr(event, "patient_id", "") for event in ward.outcome.events}


def test_an_unlinked_number_is_filed_under_its_own_record_again() -> None:
    ward = Ward()
    _, second = ward.take(adt("A24", pid("1"), pid("2")))
    ward.take(adt("A37", pid("1"), pid("2"), at="202603021000"))
    ward.take(vitals(PULSE, pid=pid("2")))
    assert ward.outcome is not None
    assert {one.patient_id for one in ward.outcome.events} == {second.patient_id}  # type: ignore[attr-defined]  # all are a patient's


def test_records_merged_in_a_circle_have_no_survivor() -> None:
    ward = Ward()
    one, two = ward.take(adt("A24", pid("1"), pid("2")))
    ward.contexts.remember(one.model_copy(update={"merged_into": two.patient_id}))
    assert [surviving(ward.contexts, each.patient_id) for each in (one, two)] == [one.patient_id, two.patient_id]


def test_several_merges_in_one_message() -> None:
    found = Ward().take(adt("A40", pid("2"), mrg("1"), pid("2"), mrg("3")))
    assert len(found) == 3
    assert [one.merged_into for one in found] == [None, found[0].patient_id, found[0].patient_id]
    assert len({one.id for one in found}) == 3


def test_a_merged_record_stays_merged_when_its_old_number_is_updated() -> None:
    ward = Ward()
    survivor, _ = ward.take(adt("A40", pid("2"), mrg("1")))
    (event,) = ward.take(adt("A08", pid("1"), pv1(), at="202603021000"))
    assert event.merged_into == survivor.patient_id


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (("A40", "MRG|1^^^HOSP^MR"), "MRG-1: a merge of a record into itself"),
        (("A24", "PID|2||1^^^HOSP^MR"), "PID[2]-3: a link of a record with itself"),
    ],
)
def test_a_merge_of_a_record_with_itself_is_told(raw: tuple[str, str], reason: str) -> None:
    ward = Ward()
    assert ward.take(adt(raw[0], pid("1"), raw[1])) == []
    assert ward.outcome is not None
    assert (ward.outcome.code, ward.outcome.verdict, ward.outcome.reason) == ("AA", "dead-letter", reason)


def test_a_survivors_pid_may_list_the_number_that_goes_away_and_first() -> None:
    ward = Ward()
    (old,) = ward.take(adt("A01", pid("1"), pv1(visit="V1")))
    (new,) = ward.take(adt("A28", pid("2")))
    survivor, prior = ward.take(adt("A40", "PID|1||1^^^HOSP^MR~2^^^HOSP^MR", "MRG|1^^^HOSP^MR", at="202603021000"))
    assert (survivor.patient_id, prior.patient_id, prior.merged_into) == (new.patient_id, old.patient_id, new.patient_id)
    assert survivor.encounter_id == old.encounter_id


def test_a_survivor_that_the_record_which_goes_away_has_listed_before() -> None:
    ward = Ward()
    (old,) = ward.take(adt("A01", "PID|1||1^^^HOSP^MR~2^^^HOSP^MR", pv1(visit="V1")))
    survivor, prior = ward.take(adt("A40", pid("2"), mrg("1"), at="202603021000"))
    assert (prior.patient_id, prior.merged_into) == (old.patient_id, survivor.patient_id)


def with_enterprise(number: str, enterprise: str) -> str:
    return f"PID|1||{number}^^^HOSP^MR~{enterprise}^^^EMPI^PI||DOE^JANE||19500321|F"


@pytest.mark.parametrize(
    ("trigger", "mrg_segment"), [("A40", "MRG|E1^^^EMPI^PI"), ("A18", "MRG|E1^^^EMPI"), ("A34", "MRG||||E1^^^EMPI^PI")]
)
def test_a_merge_by_the_second_number_is_of_the_record_that_lists_it(trigger: str, mrg_segment: str) -> None:
    ward = Ward()
    (old,) = ward.take(adt("A01", with_enterprise("1", "E1"), pv1(visit="V1")))
    (new,) = ward.take(adt("A28", with_enterprise("2", "E2")))
    survivor, prior = ward.take(adt(trigger, "PID|1||E2^^^EMPI^PI", mrg_segment, at="202603021000"))
    assert (survivor.patient_id, survivor.encounter_id) == (new.patient_id, old.encounter_id)
    assert (prior.patient_id, prior.merged_into) == (old.patient_id, new.patient_id)
    assert [[one.value for one in event.identifiers] for event in (survivor, prior)] == [["2", "E2"], ["1", "E1"]]
    ward.take(vitals(PULSE, pid="PID|1||E1^^^EMPI^PI"))
    assert ward.outcome is not None
    assert {getattr(event, "patient_id", "") for event in ward.outcome.events} == {new.patient_id}


@pytest.mark.parametrize(
    ("trigger", "segments", "reason"),
    [
        (
            "A40",
            (with_enterprise("3", "E3"), "MRG|E1^^^EMPI^PI"),
            "MRG-1: a number that several records list: nobody can tell which",
        ),
        ("A40", ("PID|1||E1^^^EMPI^PI", mrg("3")), "PID-3: a number that several records list: nobody can tell which"),
        ("A45", ("PID|1||E1^^^EMPI^PI", mrg("3", "V77")), "PID-3: a number that several records list: nobody can tell which"),
        ("A24", (pid("3"), "PID|2||E1^^^EMPI^PI"), "PID[2]-3: a number that several records list: nobody can tell which"),
        ("A24", ("PID|1||E1^^^EMPI^PI", pid("3")), "PID-3: a number that several records list: nobody can tell which"),
    ],
)
def test_a_merge_by_a_number_that_several_records_list_is_told(trigger: str, segments: tuple[str, ...], reason: str) -> None:
    ward = Ward()
    ward.take(adt("A01", with_enterprise("1", "E1"), pv1()))
    ward.take(adt("A28", with_enterprise("2", "E1")))
    assert ward.take(adt(trigger, *segments, at="202603021000")) == []
    assert ward.outcome is not None
    assert (ward.outcome.code, ward.outcome.verdict) == ("AA", "dead-letter")
    assert reason in ward.outcome.reason


def test_a_move_that_was_recorded_before_what_is_known_takes_no_stay_away() -> None:
    ward = Ward()
    ward.take(adt("A01", pid("1"), IN_BED, at="202603021100"))
    left, _ = ward.take(adt("A45", pid("2"), mrg("1", "V1"), at="202603021000"))
    assert (left.encounter_status, left.stay_moved_to) == ("in-progress", None)


def test_a_second_number_that_changes_stays_the_patients() -> None:
    """A47 of the enterprise's number: devices may send the old one for hours."""
    ward = Ward()
    (here,) = ward.take(adt("A01", with_enterprise("1", "E1"), pv1()))
    survivor, prior = ward.take(adt("A47", with_enterprise("1", "E9"), "MRG|E1^^^EMPI^PI", at="202603021000"))
    assert (survivor.patient_id, prior.merged_into) == (here.patient_id, here.patient_id)
    assert [one.value for one in survivor.identifiers] == ["1", "E9"]


def test_a_visit_moves_from_a_record_that_is_named_by_its_second_number() -> None:
    ward = Ward()
    (wrong,) = ward.take(adt("A01", with_enterprise("1", "E1"), pv1("W7", visit="V1^^^HOSP")))
    left, right = ward.take(adt("A45", pid("2"), "MRG|E1^^^EMPI^PI||||V1^^^HOSP", at="202603021000"))
    assert (left.patient_id, left.encounter_id, right.encounter_id) == (wrong.patient_id, None, wrong.encounter_id)


# ------------------------------------------------------------------------------------ a number that is given out anew


TEMPORARY = visit("V1", "ED", "E")


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("trigger", "segments"),
    [
        ("A04", (pid("T1", birth="19900101"), visit("V9", "ED", "E"))),
        ("A01", (pid("T1", birth=""), visit("V9", "W3", "I"))),
        ("A01", (pid("T1"), visit("V9", "W3", "I"))),
        ("A04", (pid("T1", birth="19900101"),)),
        ("A28", (pid("T1", birth="19900101"),)),
        ("A05", (pid("T1", birth="1990"), visit("V9", "SURG", "I"))),
    ],
)
def test_an_admission_under_a_number_that_was_merged_away_is_somebody_elses(
    known: bool, trigger: str, segments: tuple[str, ...]
) -> None:
    ward = Ward()
    if known:
        ward.take(adt("A04", pid("T1"), TEMPORARY))
        ward.take(vitals("OBX|1|CWE|82810-3^Pregnancy^LN||LA15173-0^Pregnant^LN||||||F", pid=pid("T1")))
    survivor, old = ward.take(adt("A40", pid("7"), mrg("T1"), at="202603021000"))
    (anew,) = ward.take(adt(trigger, *segments, at="202603021100"))
    assert (anew.patient_id, anew.merged_into, anew.pregnant) == (old.patient_id, None, None)
    assert ward.outcome is not None
    assert ward.outcome.reason == "1 x a number that was merged away is registered anew: somebody else's from now on"
    assert filed(ward, pid("T1")) == {old.patient_id}
    assert filed(ward, pid("7")) == {survivor.patient_id}


@pytest.mark.parametrize(
    ("trigger", "segments", "at"),
    [
        ("A04", (pid("T1", birth="19900101"), TEMPORARY), "202603021100"),  # the same visit: a birth date that is mended
        ("A04", (pid("T1", birth="19900101"), visit("V9", "ED", "E")), "202603020930"),  # recorded before the merge
        ("A01", (pid("T1"), visit("V7", "W7", "I")), "202603021100"),  # the survivor's visit, by a system that lags behind
        ("A08", (pid("T1", birth="19900101"), visit("V9", "ED", "E")), "202603021100"),
        ("A28", (pid("T1", birth="195003"),), "202603021100"),
        ("A05", (pid("T1"), visit("V9", "SURG", "I")), "202603021100"),  # the same person's plan
    ],
)
def test_what_else_registration_says_under_a_merged_number_is_of_the_old_record(
    trigger: str, segments: tuple[str, ...], at: str
) -> None:
    ward = Ward()
    ward.take(adt("A04", pid("T1"), TEMPORARY))
    ward.take(adt("A01", pid("7"), visit("V7", "W7", "I")))
    survivor, _ = ward.take(adt("A40", pid("7"), mrg("T1"), at="202603021000"))
    assert [one.merged_into for one in ward.take(adt(trigger, *segments, at=at))] in ([], [survivor.patient_id])
    assert filed(ward, pid("T1")) == {survivor.patient_id}


def test_nothing_of_the_former_holder_of_a_number_is_the_new_ones() -> None:
    ward, watch = Ward(), bedside.Ward(admit=False)

    def told(raw: bytes) -> list[tuple[str, str, str]]:
        return [(one.patient_id, one.state, one.location.ward) for event in ward.take(raw) for one in alerts(watch.say(event))]

    told(adt("A04", pid("T1"), TEMPORARY))
    told(adt("A28", pid("7")))
    survivor, old = (identities().patient(Identifier(authority="HOSP", value=one)) for one in ("7", "T1"))
    watch.chart(0, bedside.ILL, patient=old)
    assert told(adt("A40", pid("7"), mrg("T1"), at="202603021000")) == [(old, "withdrawn", "ED")]
    told(adt("A04", pid("T1", birth="19900101"), visit("V9", "ED2", "E"), at="202603021100"))
    score, steps = watch.chart(5, {"hr": 95}, patient=old)
    assert (score.news2 and score.news2.total, score.flags, steps) == (1, (), [])  # of the pulse alone
    _, steps = watch.chart(6, bedside.ILL, patient=old)
    assert [(one.patient_id, one.state, one.location.ward) for one in steps] == [(old, "raised", "ED2")]
    assert survivor != old


def test_a_visit_that_moves_takes_the_alerts_that_rest_on_it_from_the_old_record() -> None:
    ward, watch = Ward(), bedside.Ward(admit=False)
    (wrong,) = ward.take(adt("A01", pid("1"), IN_BED))
    watch.say(wrong)
    watch.chart(0, bedside.ILL, patient=wrong.patient_id)
    left, right = ward.take(adt("A45", pid("2"), mrg("1", "V1"), at="202603021000"))
    assert (left.stay_moved_to, right.stay_moved_to) == (right.patient_id, None)
    (step,) = alerts([*watch.say(left), *watch.say(right)])
    reason = f"the visit was moved to another record, {right.patient_id}: watched there from now on"
    assert (step.patient_id, step.state, step.reason, step.location.ward) == (wrong.patient_id, "withdrawn", reason, "W1")
    assert not [one for one in watch.wait(300) if one.patient_id == wrong.patient_id]  # neither escalated nor missed
    score, steps = watch.chart(301, {"hr": 95}, patient=wrong.patient_id)
    assert (score.news2 and score.news2.total, steps) == (1, [])
    _, steps = watch.chart(302, bedside.ILL, patient=right.patient_id)
    assert [(one.state, one.location.ward) for one in steps] == [("raised", "W1")]
    (next_word,) = ward.take(adt("A08", pid("1"), at="202603021100"))
    assert next_word.stay_moved_to is None


def test_a_move_of_a_visit_that_is_not_the_records_stay_says_so() -> None:
    ward = Ward()
    (here,) = ward.take(adt("A01", pid("1"), IN_BED))
    (right,) = ward.take(adt("A45", pid("2"), mrg("1", "V0"), at="202603021000"))
    assert right.patient_id != here.patient_id
    assert ward.outcome is not None
    assert ward.outcome.reason == "1 x a move of a visit that is not the stay of the record it moves from"


# ---------------------------------------------------------------------------------------------- how long a number is valid


@pytest.mark.parametrize(
    ("given", "chosen", "listed"),
    [
        ("1^^^HOSP^MR^^^20260301~2^^^HOSP^MR", "2", ["2"]),
        ("1^^^HOSP^MR^^20200101^20260301~2^^^EMPI^PI", "2", ["2"]),  # before the order of types
        ("1^^^HOSP^MR^^^20260302095959+0000~2^^^HOSP^MR", "2", ["2"]),
        ("1^^^HOSP^MR^^^20260302100001+0000~2^^^HOSP^MR", "1", ["1", "2"]),
        ("1^^^HOSP^MR^^^20260302~2^^^HOSP^MR", "1", ["1", "2"]),  # a day, month or year lasts to its end
        ("1^^^HOSP^MR^^^202603~2^^^HOSP^MR", "1", ["1", "2"]),
        ("1^^^HOSP^MR^^^2025~2^^^HOSP^MR", "2", ["2"]),
        ("1^^^HOSP^MR^^^99991231~2^^^HOSP^MR", "1", ["1", "2"]),
        ('1^^^HOSP^MR^^^""~2^^^HOSP^MR', "1", ["1", "2"]),
        ("1^^^HOSP^MR^^20260401~2^^^HOSP^MR", "2", ["2"]),  # has not begun
        ("1^^^HOSP^MR^^20260301~2^^^HOSP^MR", "1", ["1", "2"]),
        ("1^^^HOSP^MR^^^20260301", "1", ["1"]),  # better than nobody
        ("1^^^HOSP^MR^^^20260301~A1^^^HOSP^AN", "1", ["1", "A1"]),
    ],
)
def test_a_number_whose_validity_is_over_names_the_patient_only_where_no_other_does(
    given: str, chosen: str, listed: list[str]
) -> None:
    ward = Ward()
    (event,) = ward.take(adt("A01", f"PID|1||{given}||DOE", pv1()))
    own = next(one for one in event.identifiers if one.value == chosen)
    assert (event.patient_id, [one.value for one in event.identifiers]) == (identities().patient(own), listed)
    assert filed(ward, f"PID|1||{given}||DOE") == {event.patient_id}


def test_a_validity_that_is_no_time_counts_as_none() -> None:
    ward = Ward()
    (event,) = ward.take(adt("A01", "PID|1||1^^^HOSP^MR^^^soon~2^^^HOSP^MR||DOE", pv1()))
    assert [one.value for one in event.identifiers] == ["1", "2"]
    assert ward.outcome is not None
    assert "something that is no timestamp in the place of one" in ward.outcome.reason


def test_the_number_that_a_merge_takes_away_may_have_ended() -> None:
    ward = Ward()
    (old,) = ward.take(adt("A01", pid("1"), pv1()))
    survivor, prior = ward.take(adt("A40", pid("2"), "MRG|1^^^HOSP^MR^^^20260301", at="202603021000"))
    assert (prior.patient_id, prior.merged_into) == (old.patient_id, survivor.patient_id)


# ------------------------------------------------------------------------------------------------------- a second number


def filed(ward: Ward, pid_segment: str) -> set[str]:
    ward.take(vitals(PULSE, pid=pid_segment))
    assert ward.outcome is not None
    return {getattr(event, "patient_id", "") for event in ward.outcome.events}


@pytest.mark.parametrize("number", ["E1^^^EMPI^PI", "E1^^^empi", "E1^^^EMPI&1.2.3&ISO^PI"])
def test_what_a_feed_sends_under_the_second_number_alone_is_filed_under_the_record_that_lists_it(number: str) -> None:
    ward = Ward()
    (here,) = ward.take(adt("A01", with_enterprise("1", "E1"), pv1(visit="V1")))
    assert filed(ward, f"PID|1||{number}||DOE^JANE") == {here.patient_id}
    assert ward.outcome is not None
    (event,) = ward.outcome.events
    assert getattr(event, "encounter_id", None) == identities().encounter(
        "HOSP", "V77"
    )  # a number of the hospital's, as in ADT
    assert "1 x a number that a record lists beside its own: read as that record's" in ward.outcome.reason


@pytest.mark.parametrize(
    ("listed", "sent"),
    [
        ("5^^^HOSP^AN", "5^^^HOSP^MR"),  # an account has another row of numbers
        ("5^^^HOSP^AN", "5^^^HOSP"),
        ("5^^^HOSP^PI", "5^^^OTHER^PI"),
    ],
)
def test_another_number_that_only_looks_alike_is_another_patients(listed: str, sent: str) -> None:
    ward = Ward()
    (here,) = ward.take(adt("A01", f"PID|1||1^^^HOSP^MR~{listed}||DOE", pv1()))
    assert here.patient_id not in filed(ward, f"PID|1||{sent}")


def test_a_number_that_two_records_list_or_that_is_registered_itself_is_filed_under_itself() -> None:
    ward = Ward()
    (one,) = ward.take(adt("A01", with_enterprise("1", "E1"), pv1()))
    (two,) = ward.take(adt("A28", with_enterprise("2", "E1")))
    found = filed(ward, "PID|1||E1^^^EMPI^PI")
    assert not found & {one.patient_id, two.patient_id}
    assert ward.outcome is not None
    assert "1 x a number that several records list beside their own" in ward.outcome.reason
    ward.take(adt("A40", pid("2"), mrg("1"), at="202603021000"))  # now both are one record
    assert filed(ward, "PID|1||E1^^^EMPI^PI") == {two.patient_id}
    (own,) = ward.take(adt("A01", "PID|1||E1^^^EMPI^PI", pv1(visit="V9"), at="202603021100"))
    assert filed(ward, "PID|1||E1^^^EMPI^PI") == {own.patient_id}


E1 = "PID|1||E1^^^EMPI^PI||DOE^JANE||"


@pytest.mark.parametrize(
    ("trigger", "born", "theirs"),
    [
        ("A08", "19500321", True),
        ("A08", "1950", True),
        ("A08", "", True),  # an update registers nobody
        ("A03", "", True),
        ("A08", "19770707", False),  # somebody else
        ("A01", "19500321", True),
        ("A28", "195003", True),
        ("A01", "", False),  # it may be anybody
        ("A04", "19770707", False),
    ],
)
def test_registration_under_the_second_number_alone_is_of_the_record_unless_it_may_be_given_out_anew(
    trigger: str, born: str, theirs: bool
) -> None:
    ward = Ward()
    (here,) = ward.take(adt("A01", with_enterprise("1", "E1"), pv1(visit="V1^^^HOSP")))
    (said,) = ward.take(adt(trigger, f"{E1}{born}~9^^^NHS^NI", pv1("W9", visit="V1^^^HOSP"), at="202603021000"))
    assert (said.patient_id == here.patient_id) is theirs
    assert [one.value for one in said.identifiers] == (["1", "E1"] if theirs else ["E1"])
    assert said.location.ward == "W9"
    assert filed(ward, f"{E1}{born}") == {said.patient_id}


def test_registration_under_a_second_number_adds_the_others_that_it_names() -> None:
    ward = Ward()
    (here,) = ward.take(adt("A01", with_enterprise("1", "E1"), pv1()))
    (said,) = ward.take(adt("A31", "PID|1||E1^^^EMPI^PI~7^^^NHS^NI||DOE||19500321", at="202603021000"))
    assert said.patient_id == here.patient_id
    assert [one.value for one in said.identifiers] == ["1", "E1", "7"]


def test_registration_under_another_number_of_the_records_own_row_is_somebody_elses() -> None:
    ward = Ward()
    (here,) = ward.take(adt("A01", "PID|1||1^^^HOSP^MR~2^^^HOSP^MR||DOE||19500321", pv1()))
    (said,) = ward.take(adt("A08", "PID|1||2^^^HOSP^MR||DOE||19500321", pv1("W9"), at="202603021000"))
    assert said.patient_id != here.patient_id


def test_registration_under_a_number_that_several_records_list_is_held_apart() -> None:
    ward = Ward()
    (one,) = ward.take(adt("A01", with_enterprise("1", "E1"), pv1()))
    ward.take(adt("A28", with_enterprise("2", "E1").replace("~", "~7^^^NHS^NI~")))
    assert ward.take(adt("A03", f"{E1}19500321", pv1(), at="202603021000")) == []
    assert ward.outcome is not None
    assert (ward.outcome.code, ward.outcome.verdict) == ("AA", "dead-letter")
    assert "PID-3: a number that several records list: nobody can tell which" in ward.outcome.reason
    (other,) = ward.take(adt("A08", "PID|1||E1^^^EMPI^PI~7^^^NHS^NI||DOE||19500321", pv1(), at="202603021000"))
    assert other.patient_id not in (one.patient_id, "")  # of the two the one that lists the other number too
    assert [one.value for one in other.identifiers] == ["2", "7", "E1"]


# ------------------------------------------------------------------------------------- a better number that comes later


def both(number: str = "4711", enterprise: str = "E77", born: str = "19500321", more: str = "") -> str:
    return f"PID|1||{number}^^^HOSP^MR~{enterprise}^^^EMPI^PI{more}||DOE^JANE||{born}|F"


def of_hospital(number: str = "4711", born: str = "19500321") -> str:
    return f"PID|1||{number}^^^HOSP^MR||DOE^JANE||{born}|F"


def of_enterprise(number: str = "E77", born: str = "19500321") -> str:
    return f"PID|1||{number}^^^EMPI^PI||DOE^JANE||{born}|F"


class Preferring(Ward):
    """A site to which the enterprise's number counts most."""

    def __init__(self) -> None:
        super().__init__()
        settings = IdentitySettings(site_secret=SecretStr("tests: not a secret"), authorities=("EMPI", "HOSP", "T"))
        self.mapper = Hl7Mapper(SETTINGS, Identities(settings), self.contexts)

    def reason(self) -> str:
        assert self.outcome is not None
        return self.outcome.reason


NOT_MERGED = "1 x numbers of records that may be two patients': not merged"
MERGED = "1 x numbers of two records that are one patient's: merged"


def test_a_better_number_that_comes_later_is_the_records() -> None:
    """The monitor goes on by the hospital's number, and nobody is watched twice."""
    ward, watch = Preferring(), bedside.Ward(admit=False)

    def told(raw: bytes) -> list[tuple[str, str, str]]:
        return [(one.patient_id, one.state, one.location.ward) for event in ward.take(raw) for one in alerts(watch.say(event))]

    (here,) = ward.take(adt("A01", of_hospital(), pv1(visit="V1^^^FIN")))
    watch.say(here)
    (known,) = ward.take(adt("A08", both(), pv1(visit="V1^^^FIN"), at="202603021000"))
    assert (known.patient_id, [one.value for one in known.identifiers]) == (here.patient_id, ["4711", "E77"])
    assert ward.reason() == "1 x a number that nobody had, beside a record's own: read as that record's"
    told(adt("A02", both(), pv1("ICU", visit="V1^^^FIN"), at="202603021100"))
    watch.chart(0, bedside.ILL, patient=here.patient_id)
    for segment in (of_hospital(), of_enterprise(), both()):
        assert filed(ward, segment) == {here.patient_id}
    assert told(adt("A03", of_enterprise(), pv1("ICU", visit="V1^^^FIN"), at="202603021200")) == [
        (here.patient_id, "resolved", "ICU")
    ]
    (again,) = ward.take(adt("A01", both(born=""), pv1(visit="V2^^^FIN"), at="202703021000"))  # is its own number
    assert again.patient_id == here.patient_id


def test_what_comes_with_both_numbers_before_registration_lists_them_is_the_records() -> None:
    ward = Preferring()
    (here,) = ward.take(adt("A01", of_hospital(), pv1()))
    assert filed(ward, both()) == {here.patient_id}
    assert here.patient_id not in filed(ward, both(born="19600101"))
    survivor, prior = ward.take(adt("A40", of_hospital("9"), "MRG|4711^^^HOSP^MR~E77^^^EMPI^PI", at="202603021000"))
    assert (prior.patient_id, prior.merged_into) == (here.patient_id, survivor.patient_id)


@pytest.mark.parametrize(
    ("trigger", "segment"),
    [
        ("A08", both(born="19600101")),
        ("A08", both("4712")),  # another number of the hospital's
        ("A01", both(born="")),  # may be given out anew
        ("A28", both(born="")),
        ("A08", both(more="~4712^^^HOSP^MR")),  # whose is which?
        ("A08", both(more="~E78^^^EMPI^PI")),
        ("A08", both(more="~77^^^T^MR")),  # another record's too
        ("A08", both().replace("4711^^^HOSP^MR", "4711^^^HOSP^MR^^^20260101")),  # it is over
        ("A08", both().replace("4711^^^HOSP^MR", "4711^^^HOSP^AN")),  # an account's
        ("A08", both(more="~8^^^SSA^SS")),  # of the record it is another
    ],
)
def test_a_better_number_of_what_may_be_somebody_else_makes_a_record_of_its_own(trigger: str, segment: str) -> None:
    ward = Preferring()
    (here,) = ward.take(adt("A01", "PID|1||4711^^^HOSP^MR~9^^^SSA^SS||DOE||19500321", pv1()))
    (other,) = ward.take(adt("A28", "PID|1||77^^^T^MR||DOE||19500321"))
    (said,) = ward.take(adt(trigger, segment, pv1(visit="V9"), at="202603021000"))
    assert said.patient_id not in (here.patient_id, other.patient_id)
    assert ward.contexts.get(here.patient_id) == here


def test_whose_numbers_are_not_certain_to_be_one_patients_is_told() -> None:
    ward = Preferring()
    ward.take(adt("A01", of_hospital(), pv1()))
    ward.take(adt("A08", both(born="19600101"), at="202603021000"))
    assert ward.reason() == NOT_MERGED


def two_records(ward: Ward, born: str = "19500321", enterprises: str = "19500321", *, visit_: str = "V1^^^FIN") -> list[str]:
    (first,) = ward.take(adt("A01", of_hospital(born=born), pv1("5W", visit="V1^^^FIN")))
    (second,) = ward.take(adt("A01", of_enterprise(born=enterprises), pv1("ICU", visit=visit_), at="202603020930"))
    return [first.patient_id, second.patient_id]


@pytest.mark.parametrize("dates", [("19500321", "19500321"), ("", "19500321"), ("", "")])
@pytest.mark.parametrize("trigger", ["A08", "A02", "A01", "A31"])
def test_two_records_of_one_patient_are_merged_by_the_message_that_lists_both_numbers(
    trigger: str, dates: tuple[str, str]
) -> None:
    ward, watch = Preferring(), bedside.Ward(admit=False)
    first, second = two_records(ward, *dates)
    for patient in (first, second):
        known = ward.contexts.get(patient)
        assert known is not None
        watch.say(known)
    watch.chart(0, bedside.ILL, patient=first)
    found = ward.take(adt(trigger, both(born=dates[1]), pv1("ICU", visit="V1^^^FIN"), at="202603021000"))
    assert [(one.patient_id, one.merged_into) for one in found] == [(second, None), (first, second)]
    assert (stay(found[0]), ward.reason()) == (("in-progress", "ICU"), MERGED)
    steps = [(one.patient_id, one.state) for context in found for one in alerts(watch.say(context))]
    assert steps == ([(first, "withdrawn")] if dates[0] else [])  # without an age there was none
    for segment in (of_hospital(), of_enterprise(), both()):
        assert filed(ward, segment) == {second}
    (known,) = ward.take(adt("A31", of_enterprise(born=dates[1]), at="202603021130"))  # a feed that lists one
    assert [one.value for one in known.identifiers] == ["E77", "4711"]
    (gone,) = ward.take(adt("A03", of_hospital(), pv1("ICU", visit="V1^^^FIN"), at="202603021200"))  # and one the other
    assert (gone.patient_id, stay(gone)) == (second, ("finished", "ICU"))
    assert len(ward.take(adt("A08", both(), at="202603021300"))) == 1


@pytest.mark.parametrize(
    ("born", "enterprises", "visit_", "segment", "at"),
    [
        ("19500321", "19600101", "V1^^^FIN", both(born=""), "202603021000"),
        ("19500321", "19500321", "V1^^^FIN", both(born="19600101"), "202603021000"),
        ("19500321", "1950", "V2^^^FIN", both(), "202603021000"),
        ("", "", "V2^^^FIN", both(born=""), "202603021000"),
        ("19500321", "19500321", "V2^^^FIN", both(), "202603021000"),  # in two beds at once
        ("19500321", "19500321", "V1^^^FIN", both(more="~4712^^^HOSP^MR"), "202603021000"),
        ("19500321", "19500321", "V1^^^FIN", both(), "202603020915"),  # older than what is known
        ("19500321", "19500321", "V1^^^FIN", both().replace("HOSP^MR", "HOSP^MR^^^20260101"), "202603021000"),
    ],
)
def test_two_records_that_may_be_two_patients_stay_two(born: str, enterprises: str, visit_: str, segment: str, at: str) -> None:
    ward = Preferring()
    first, second = two_records(ward, born, enterprises, visit_=visit_)
    ward.take(adt("A08", segment, pv1("ICU", visit=visit_), at=at))
    records = [ward.contexts.get(one) for one in (first, second)]
    assert [one and one.merged_into for one in records] == [None, None]
    assert MERGED not in ward.reason()


def test_a_record_with_another_number_of_the_same_row_is_not_merged() -> None:
    ward = Preferring()
    (first,) = ward.take(adt("A01", both("4711", "E70"), pv1("5W", visit="V1^^^FIN")))
    (second,) = ward.take(adt("A28", of_enterprise("E77"), at="202603020930"))
    (mrn,) = ward.take(adt("A28", "PID|1||4711^^^HOSP^MR||DOE||19600101", at="202603020945"))
    assert len({first.patient_id, second.patient_id, mrn.patient_id}) == 3
    (said,) = ward.take(adt("A08", both("4711", "E77"), at="202603021000"))
    assert (said.patient_id, ward.reason()) == (second.patient_id, NOT_MERGED)


@pytest.mark.parametrize("says", ["4712^^^HOSP^MR", "4711^^^HOSP^MR^^^20260101"])
def test_a_merged_number_is_the_survivors_no_longer_where_registration_says_otherwise(says: str) -> None:
    ward = Preferring()
    two_records(ward)
    ward.take(adt("A08", both(), at="202603021000"))
    (known,) = ward.take(adt("A31", f"PID|1||E77^^^EMPI^PI~{says}||DOE||19500321", at="202603021100"))
    assert "4711" not in [one.value for one in known.identifiers]


def test_an_admission_by_a_merged_number_of_another_age_is_somebody_elses() -> None:
    ward = Preferring()
    first, second = two_records(ward)
    ward.take(adt("A08", both(), at="202603021000"))
    (said,) = ward.take(adt("A01", of_hospital(born="19900101"), pv1("W9", visit="V9^^^FIN"), at="202603021100"))
    assert (said.patient_id, said.merged_into) == (first, None)
    assert filed(ward, of_enterprise()) == {second}


PERSONS = {"one": ("4711", "E77", "19500321"), "two": ("4712", "E78", "19600101")}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["one", "two"]),
            st.sampled_from(["hospital", "enterprise", "both"]),
            st.sampled_from(["A01", "A08", "A02", "A31", "ORU"]),
            st.booleans(),
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_two_persons_never_share_a_record_and_one_ends_with_one(
    said: list[tuple[str, str, str, bool]], preferring: bool
) -> None:
    ward = Preferring() if preferring else Ward()
    owners: dict[str, str] = {}

    def say(who: str, how: str, trigger: str, minute: int, *, dated: bool) -> set[str]:
        number, enterprise, born = PERSONS[who]
        born = born if dated else ""
        segment = {"hospital": of_hospital(number, born), "enterprise": of_enterprise(enterprise, born)}.get(how) or both(
            number, enterprise, born
        )
        place = pv1(who, visit=f"V-{who}^^^FIN")
        if trigger == "ORU":
            return filed(ward, segment)
        return {one.patient_id for one in ward.take(adt(trigger, segment, place, at=f"2026030209{minute:02}"))}

    for minute, (who, how, trigger, dated) in enumerate(said):
        for patient in say(who, how, trigger, minute, dated=dated):
            assert owners.setdefault(patient, who) == who
    for who in PERSONS:
        say(who, "both", "A08", 30, dated=True)
        say(who, "both", "A08", 31, dated=True)
        found = {
            one for how in ("hospital", "enterprise", "both") for one in filed_as(ward, say(who, how, "ORU", 40, dated=True))
        }
        assert len(found) == 1
        assert all(owners.setdefault(one, who) == who for one in found)
        if not ward.contexts.merged(next(iter(found))):
            continue
        say(who, "hospital", "A02", 50, dated=False)  # a feed that knows the one number, and one that knows the other
        assert stay(ward.contexts.get(next(iter(found)))) == ("in-progress", who)
        say(who, "enterprise", "A03", 51, dated=False)
        assert stay(ward.contexts.get(next(iter(found)))) == ("finished", who)


def filed_as(ward: Ward, patients: set[str]) -> set[str]:
    return {surviving(ward.contexts, one) for one in patients}


def test_a_deletion_of_the_second_number_deletes_nobody_else() -> None:
    ward = Ward()
    (here,) = ward.take(adt("A01", with_enterprise("1", "E1"), pv1()))
    (gone,) = ward.take(adt("A29", f"{E1}19500321", at="202603021000"))
    assert (gone.deleted, gone.patient_id == here.patient_id) == (True, False)


def test_what_came_under_a_second_number_before_registration_listed_it_goes_over_to_the_record() -> None:
    ward = Ward()
    (alone,) = ward.take(vitals(PULSE, pid="PID|1||E1^^^EMPI^PI||DOE^JANE||19500321|F"))
    here, gone = ward.take(adt("A01", with_enterprise("1", "E1").replace("19500321", ""), pv1()))
    assert (gone.patient_id, gone.merged_into) == (alone.patient_id, here.patient_id)
    assert (here.birth_date, stay(here)) == ("1950-03-21", ("in-progress", "W1"))
    assert filed(ward, "PID|1||E1^^^EMPI^PI") == {here.patient_id}


def test_a_late_message_that_lists_a_second_number_is_late_all_the_same() -> None:
    ward = Ward()
    (here,) = ward.take(adt("A03", pid("1"), pv1("W9"), at="202603021200"))
    (alone,) = ward.take(vitals(PULSE, pid="PID|1||E1^^^EMPI^PI||DOE^JANE||19500321|F"))
    late, gone = ward.take(adt("A01", with_enterprise("1", "E1"), pv1("W1"), at="202603020900"))
    assert (late.patient_id, stay(late), gone.patient_id) == (here.patient_id, ("finished", "W9"), alone.patient_id)


def test_who_lists_a_number_is_forgotten_with_the_context() -> None:
    contexts = MemoryContexts(limit=1)
    ward = Ward()
    (first,) = ward.take(adt("A01", with_enterprise("1", "E1"), pv1()))
    (second,) = ward.take(adt("A01", with_enterprise("2", "E2"), pv1()))
    e1, e2 = first.identifiers[1], second.identifiers[1]
    contexts.remember(first)
    assert [*contexts.listing(e1)] == [first]
    contexts.remember(second)  # above the limit the oldest goes
    assert ([*contexts.listing(e1)], [*contexts.listing(e2)]) == ([], [second])
    moved = second.model_copy(update={"identifiers": first.identifiers})
    contexts.remember(moved)
    assert ([*contexts.listing(e1)], [*contexts.listing(e2)]) == ([moved], [])
    contexts.take_back(moved, second)
    assert ([*contexts.listing(e1)], [*contexts.listing(e2)]) == ([], [second])
    contexts.take_back(second, None)
    assert [*contexts.listing(e2)] == []
    assert contexts._holders == {}


def test_the_visit_number_goes_with_its_pseudonym() -> None:
    """Through another stay, one without a number, a renumbering, a move and a merge: a delivery names no other visit."""
    ward = Ward()
    steps = [
        adt("A01", pid(), pv1(visit="V1^^^VISITS")),
        adt("A08", pid(), at="202603020930"),
        adt("A03", pid(), pv1(visit="V1^^^VISITS"), at="202603020945"),
        adt("A01", pid(), pv1(visit="V2"), at="202603021000"),
        adt("A50", pid(), mrg("4711", "V2"), pv1(visit="V3"), at="202603021100"),
        adt("A45", pid("12"), mrg("4711", "V3"), at="202603021200"),
        adt("A40", pid("13"), mrg("12"), at="202603021300"),
    ]
    numbers = []
    for raw in steps:
        for event in ward.take(raw):
            numbers.append(event.visit.value if event.visit else None)
            hashed = identities().encounter(event.visit.authority, event.visit.value) if event.visit else None
            assert hashed == event.encounter_id
    assert numbers == ["V1", "V1", "V1", "V2", "V3", None, "V3", "V3", "V3"]


def test_merge_that_does_not_say_with_whom() -> None:
    ward = Ward()
    assert ward.take(adt("A40", pid("1"))) == []
    assert ward.outcome is not None
    assert (ward.outcome.code, ward.outcome.reason) == ("AE", "MRG: a merge or move without MRG")
    assert ward.take(adt("A40", pid("1"), mrg())) == []
    assert (ward.outcome.verdict, ward.outcome.code) == ("dead-letter", "AA")


@pytest.mark.parametrize("trigger", ["A44", "A45"])
def test_a_visit_moves_to_another_patient(trigger: str) -> None:
    ward = Ward()
    (wrong,) = ward.take(adt("A01", pid("1"), pv1("W7", visit="V1")))
    left, right = ward.take(adt(trigger, pid("2"), mrg("1", "V1"), at="202603021000"))
    assert (left.patient_id, left.encounter_id, left.location.ward, left.merged_into) == (wrong.patient_id, None, "", None)
    assert (right.encounter_id, right.location.ward, right.encounter_status) == (wrong.encounter_id, "W7", "in-progress")
    assert (left.visit, right.visit) == (None, wrong.visit)


@pytest.mark.parametrize("first", [True, False])
def test_several_visits_move_in_one_message(first: bool) -> None:
    """{MRG PV1} repeats under one PID: here from two records, only one of which has its stay in progress."""
    ward = Ward()
    (over,) = ward.take(adt("A03", pid("1"), visit("V1", "W1", "I")))
    (here,) = ward.take(adt("A01", pid("3"), visit("V3", "W3", "I")))
    groups = [(mrg("1", "V1"), visit("V1", "W1", "I")), (mrg("3", "V3"), visit("V3", "W3", "I"))]
    moves = [segment for group in (groups if first else groups[::-1]) for segment in group]
    found = ward.take(adt("A45", pid("2"), *moves, at="202603021000"))
    by_record = {event.patient_id: event for event in found}
    assert len(by_record) == len(found) == 3
    assert (by_record[over.patient_id].encounter_id, by_record[here.patient_id].encounter_id) == (None, None)
    (taker,) = by_record.keys() - {over.patient_id, here.patient_id}
    assert (by_record[taker].encounter_id, stay(by_record[taker])) == (here.encounter_id, ("in-progress", "W3"))


def test_several_numbers_merge_into_one_record_in_one_message() -> None:
    found = Ward().take(adt("A40", pid("2"), mrg("1"), mrg("3")))
    assert [one.merged_into for one in found] == [None, found[0].patient_id, found[0].patient_id]


@pytest.mark.parametrize("trigger", MERGES)
@pytest.mark.parametrize("segment", ["MRG|1", "MRG|1^^^^MR", "MRG||||1"])
def test_a_number_in_mrg_without_an_authority_is_of_the_index_that_numbers_pid(trigger: str, segment: str) -> None:
    """MSH-4 (here ICU) sends for many: whose number it is stands in PID-3."""
    ward = Ward()
    (old,) = ward.take(adt("A01", pid("1"), pv1()))
    _, prior = ward.take(adt(trigger, pid("2"), segment, at="202603021000"))
    assert (prior.patient_id, prior.identifiers[0].authority) == (old.patient_id, "HOSP")
    assert ward.outcome is not None
    assert ward.outcome.reason == ""


def test_a_number_in_mrg_of_another_type_is_of_the_authority_that_gives_that_type() -> None:
    _, prior = Ward().take(adt("A40", pid("2"), "MRG|1^^^^MR~998^^^^SS"))
    assert [(one.authority, one.value) for one in prior.identifiers] == [("HOSP", "1"), ("SSA", "998")]


def test_a_visit_moves_from_a_number_without_an_authority() -> None:
    ward = Ward()
    (wrong,) = ward.take(adt("A01", pid("1"), pv1("W7", visit="V1")))
    left, right = ward.take(adt("A44", pid("2"), "MRG|1||||V1", at="202603021000"))
    assert (left.patient_id, left.encounter_id, right.encounter_id) == (wrong.patient_id, None, wrong.encounter_id)


def test_two_numbers_of_one_index_in_mrg_are_two_records() -> None:
    ward = Ward()
    (first,) = ward.take(adt("A01", pid("301"), pv1(visit="V1")))
    (second,) = ward.take(adt("A28", pid("302")))
    found = ward.take(adt("A40", pid("300", birth=""), "MRG|301^^^HOSP^MR~302^^^HOSP^MR~P9^^^HOSP^PI", at="202603021000"))
    survivor, *priors = found
    assert [one.patient_id for one in priors] == [first.patient_id, second.patient_id]
    assert [one.merged_into for one in found] == [None, survivor.patient_id, survivor.patient_id]
    assert [[each.value for each in one.identifiers] for one in priors] == [["301", "999"], ["302", "999"]]
    assert (survivor.encounter_id, survivor.birth_date) == (first.encounter_id, "1950-03-21")


def test_a_record_with_several_numbers_in_mrg_is_one() -> None:
    _, prior = Ward().take(adt("A40", pid("300"), "MRG|301^^^HOSP^MR~P9^^^HOSP^PI~999^^^SSA^SS~301^^^hosp^MR"))
    assert len(prior.identifiers) == 4


def test_a_merge_whose_prior_number_is_the_survivors_too() -> None:
    survivor, prior = Ward().take(adt("A40", pid("300"), "MRG|300^^^HOSP^MR~302^^^HOSP^MR"))
    assert (prior.identifiers[0].value, prior.merged_into) == ("302", survivor.patient_id)


def test_a_visit_moves_from_the_one_of_two_records_that_has_it() -> None:
    ward = Ward()
    ward.take(adt("A01", pid("1"), pv1(visit="V1")))
    (wrong,) = ward.take(adt("A01", pid("3"), pv1("W7", visit="V3")))
    left, right = ward.take(adt("A44", pid("2"), "MRG|1^^^HOSP^MR~3^^^HOSP^MR||||V3", at="202603021000"))
    assert (left.patient_id, left.encounter_id, stay(right)) == (wrong.patient_id, None, ("in-progress", "W7"))


def test_link_and_unlink() -> None:
    ward = Ward()
    first, second = ward.take(adt("A24", pid("1"), pid("2")))
    assert (first.merged_into, second.merged_into) == (None, first.patient_id)
    _, apart = ward.take(adt("A37", pid("1"), pid("2"), at="202603021000"))
    assert (apart.patient_id, apart.merged_into) == (second.patient_id, None)


def test_a_deletion_ends_the_watch_until_registration_speaks_again() -> None:
    ward, watch = Ward(), bedside.Ward(admit=False)
    (here,) = ward.take(adt("A01", pid(), IN_BED))
    watch.say(here)
    watch.chart(0, bedside.ILL, patient=here.patient_id)
    (gone,) = ward.take(adt("A29", pid(), at="202603021000"))
    assert (gone.patient_id, gone.deleted, gone.encounter_id, gone.birth_date, stay(gone)) == (
        here.patient_id,
        True,
        None,
        None,
        ("unknown", ""),
    )
    assert [(one.state, one.reason) for one in alerts(watch.say(gone))] == [("resolved", "record deleted by registration")]
    assert watch.chart(1, bedside.ILL, patient=here.patient_id)[1] == []
    ward.take(vitals(PULSE, pid=pid()))  # a device is no registration
    assert ward.contexts.get(here.patient_id) == gone
    (late,) = ward.take(adt("A01", pid(), IN_BED, at="202603020930"))
    assert late.deleted
    (again,) = ward.take(adt("A08", pid(), IN_BED, at="202603021100"))
    assert (again.deleted, again.birth_date, again.location.ward) == (False, "1950-03-21", "W1")
    assert [one.state for one in alerts(watch.say(again))] == ["raised"]


def test_a_deletion_that_was_recorded_before_what_is_known_deletes_nothing() -> None:
    ward = Ward()
    ward.take(adt("A01", pid(), IN_BED))
    assert ward.take(adt("A29", pid(), at="202603020800")) == []
    assert ward.outcome is not None
    assert ward.outcome.reason == "1 x a deletion recorded before what is known of the patient: not used"


def test_a_deleted_number_that_was_merged_away_is_still_filed_under_the_survivor() -> None:
    ward = Ward()
    survivor, _ = ward.take(adt("A40", pid("2"), mrg("1")))
    ward.take(adt("A29", pid("1"), at="202603021000"))
    ward.take(vitals(PULSE, pid=pid("1")))
    assert ward.outcome is not None
    assert {event.patient_id for event in ward.outcome.events} == {survivor.patient_id}  # type: ignore[attr-defined]  # all are a patient's


def test_bed_swap_is_two_snapshots() -> None:
    found = Ward().take(adt("A17", pid("1"), pv1("W1"), pid("2"), pv1("W2", visit="V2")))
    assert [one.location.ward for one in found] == ["W1", "W2"]


def test_no_identifier_that_may_be_used_is_held_apart() -> None:
    ward = Ward()
    assert ward.take(adt("A01", "PID|1||||DOE", pv1())) == []
    assert ward.outcome is not None
    (letter,) = ward.outcome.events
    assert isinstance(letter, DeadLetterEvent)
    assert letter.stage == "identify"


@pytest.mark.parametrize("number", ["UNKNOWN", "0", "n/a"])
def test_two_beds_without_a_number_are_not_pooled_into_one_patient(number: str) -> None:
    ward = Ward()
    for raw in (vitals(PULSE, pid=f"PID|1||{number}^^^HOSP^MR"), adt("A01", f"PID|1||{number}^^^HOSP^MR", pv1())):
        assert ward.take(raw) == []
        assert ward.outcome is not None
        (letter,) = ward.outcome.events
        assert isinstance(letter, DeadLetterEvent)
        assert (ward.outcome.code, letter.stage) == ("AA", "identify")
    assert ward.take(adt("A40", pid("1"), mrg(number))) == []
    (event,) = ward.take(adt("A01", f"PID|1||{number}^^^HOSP^MR~P7^^^HOSP^PI", pv1()))
    assert [one.value for one in event.identifiers] == ["P7"]
    (event,) = ward.take(adt("A01", f"PID|1|P8^^^HOSP|{number}^^^HOSP^MR", pv1()))
    assert [one.value for one in event.identifiers] == ["P8"]


@pytest.mark.parametrize("letter", ["T", "D"])
def test_test_traffic_does_not_change_contexts_unless_the_peer_is_a_test_system(letter: str) -> None:
    ward = Ward()
    raw = adt("A03", pid(), pv1(), processing=letter)
    assert ward.take(raw) == []
    assert ward.outcome is not None
    assert (ward.outcome.verdict, ward.outcome.code) == ("ignored", "AA")
    assert ward.outcome.reason == "1 x test traffic (MSH-11) does not change patients' contexts"
    ward.peer = Peer("test-system", Hl7Peer(test_contexts=True))
    assert [one.encounter_status for one in ward.take(raw)] == ["finished"]


def test_older_messages_with_the_number_in_pid_2() -> None:
    (event,) = Ward().take(adt("A01", "PID||4711^^^HOSP", pv1(), version="2.2"))
    assert event.identifiers[0].value == "4711"


@given(order=st.permutations(["A01", "A02", "A08", "A03"]))
def test_whatever_the_order_of_arrival_the_discharge_stands(order: list[str]) -> None:
    hours = {"A01": "08", "A02": "09", "A08": "10", "A03": "11"}
    ward = Ward()
    for trigger in order:
        (event,) = ward.take(adt(trigger, pid(), pv1(), at=f"20260302{hours[trigger]}00"))
    assert (event.encounter_status, event.effective_at) == ("finished", datetime(2026, 3, 2, 11, tzinfo=UTC))


def test_memory_of_contexts_is_bounded_and_not_turned_back_by_an_echo() -> None:
    ward = Ward()
    (first,) = ward.take(adt("A01", pid(), pv1("W1")))
    (second,) = ward.take(adt("A02", pid(), pv1("W2"), at="202603021000"))
    ward.contexts.remember(first)
    assert ward.contexts.get(first.patient_id) == second
    small = MemoryContexts(limit=2)
    for number in "123":
        small.remember(first.model_copy(update={"patient_id": number}))
    assert len(small) == 2
    assert small.get("1") is None
