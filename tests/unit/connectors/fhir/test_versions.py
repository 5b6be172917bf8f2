"""What an Observation said before, and its next version no longer says, is taken back."""

import asyncio
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from connectors.fhir.handling import FhirMapper, Request
from connectors.fhir.mapping.versions import Memory, Version
from connectors.fhir.publishing import Publishing, Unconfirmed
from connectors.fhir.settings import FhirSettings
from models.errors import Transient
from processors.events import AlertEvent, DeadLetterEvent, Identifier, PatientEvent, ScoreEvent, Source, VitalsEvent
from processors.monitor import Monitor, MonitorRules
from tests.edge import MemoryStore, RecordingPublisher, identities
from tests.fhir_resources import MRN, bundle, concept, observation, patient, pressure, quantity, without

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
ANY = Request()
TEN = "2026-11-23T10:00:00+01:00"
IDS = identities()
P1, P2 = (IDS.patient(Identifier(authority=MRN, value=value)) for value in ("P1", "P2"))
OTHER = {"identifier": {"system": MRN, "value": "P2"}}


class Feed:
    """One mapper that learns from what it took, as the endpoint does."""

    def __init__(self, **changes):
        self.mapper = FhirMapper(FhirSettings(**changes), IDS)

    def put(self, resource, at=NOW):
        return self.take(resource, Request("update", resource["resourceType"], resource["id"]), at)

    def take(self, resource, request=ANY, at=NOW):
        outcome = self.mapper.handle(orjson.dumps(resource), self.mapper.sender("fhir", at), request)
        self.mapper.learn(outcome)
        return outcome


def told(outcome):
    """What the vitals among the events say: patient, hour and minute, then code, value, status of each."""
    return [
        (event.patient_id, f"{event.observed_at:%H:%M}", *((one.code, one.value, one.status) for one in event.observations))
        for event in outcome.events
        if isinstance(event, VitalsEvent)
    ]


def letters(outcome):
    return [event for event in outcome.events if isinstance(event, DeadLetterEvent)]


def stripped(**more):
    return observation(id="o1", status="entered-in-error", effectiveDateTime=None, valueQuantity=None, **more)


def test_an_update_for_another_patient_takes_the_values_back_from_the_first():
    feed = Feed()
    feed.put(observation(id="o1"))
    moved = observation(id="o1", status="corrected", subject=OTHER)
    outcome = feed.put(moved)
    assert told(outcome) == [
        (P2, "09:00", ("8867-4", 72, "corrected")),
        (P1, "09:00", ("8867-4", 72, "entered-in-error")),
    ]
    assert outcome.verdict == "accepted"
    again = feed.put(moved, NOW + timedelta(minutes=1))
    assert [event.id for event in again.events] == [event.id for event in outcome.events]
    assert len({event.id for event in outcome.events}) == 2


def test_an_update_for_another_time_takes_the_value_of_the_old_time_back():
    feed = Feed()
    feed.put(observation(id="o1"))
    outcome = feed.put(observation(id="o1", value=80, status="corrected", effectiveDateTime="2026-11-23T09:58:00+01:00"))
    assert told(outcome) == [(P1, "08:58", ("8867-4", 80, "corrected")), (P1, "09:00", ("8867-4", 72, "entered-in-error"))]


def test_an_update_with_fewer_codes_takes_the_others_back():
    feed = Feed()
    feed.put(pressure(id="o1"))
    fewer = pressure(id="o1", status="amended")
    del fewer["component"][1]
    outcome = feed.put(fewer)
    assert told(outcome)[1:] == [(P1, "09:00", ("8462-4", 80, "entered-in-error"))]
    gone = feed.put(observation("2339-0", 90, "mg/dL", id="o1", status="amended"))  # no vital sign any more
    assert told(gone) == [(P1, "09:00", ("8480-6", 120, "entered-in-error"))]


def test_a_correction_in_its_place_takes_nothing_back():
    feed = Feed()
    feed.put(observation("59408-5", 91, "%", id="o1"))
    # another code of the same parameter is the same value to a lane
    assert told(feed.put(observation("2708-6", 97, "%", id="o1", status="corrected"))) == [
        (P1, "09:00", ("2708-6", 97, "corrected"))
    ]


def test_a_stripped_retraction_takes_back_what_its_id_said():
    feed = Feed()
    feed.put(observation(id="o1"))
    outcome = feed.put(stripped())
    assert told(outcome) == [(P1, "09:00", ("8867-4", 72, "entered-in-error"))]
    assert (outcome.code, letters(outcome)) == (200, [])
    assert [event.id for event in feed.put(stripped()).events] == [event.id for event in outcome.events]
    nobody = Feed()
    nobody.put(pressure(id="o1"))
    whole = {"resourceType": "Observation", "id": "o1", "status": "entered-in-error", "code": concept("85354-9")}
    (event,) = nobody.put(whole).events  # nor does it need to say of whom
    assert [(one.code, one.value) for one in event.observations] == [("8480-6", 120), ("8462-4", 80)]


def test_what_was_moved_is_retracted_where_it_is():
    feed = Feed()
    feed.put(observation(id="o1"))
    feed.put(observation(id="o1", status="corrected", subject=OTHER))
    assert told(feed.put(stripped())) == [(P2, "09:00", ("8867-4", 72, "entered-in-error"))]
    again = feed.put(stripped(note=[{"text": "sorry"}]))  # another version, and nothing of it stands
    assert (again.verdict, again.events, "taken back before" in again.reason) == ("ignored", (), True)


def test_a_whole_retraction_is_not_doubled():
    feed = Feed()
    feed.put(observation(id="o1"))
    assert told(feed.put(observation(id="o1", status="entered-in-error"))) == [
        (P1, "09:00", ("8867-4", 72, "entered-in-error"))
    ]


@pytest.mark.parametrize("status", ["entered-in-error", "cancelled"])
@pytest.mark.parametrize(
    "resource",
    [
        observation(id="o1", effectiveDateTime=None, valueQuantity=None),
        observation(id="o1", effectiveDateTime=None),
        observation("85354-9", id="o1", valueQuantity=None),
        observation(effectiveDateTime=None, valueQuantity=None),
    ],
)
def test_a_stripped_retraction_of_what_is_not_remembered_is_a_dead_letter(resource, status):
    outcome = Feed().take(resource | {"status": status})
    assert (outcome.verdict, outcome.code, told(outcome)) == ("dead-letter", 201, [])
    (letter,) = letters(outcome)
    assert (letter.stage, "nothing is remembered under its id" in letter.message) == ("map", True)
    assert outcome.answer.body["issue"][0]["severity"] == "warning"


def test_a_retraction_with_issued_alone_is_tried_and_looked_at():
    # the original may have had no other time either
    outcome = Feed().put(stripped(issued=TEN))
    assert told(outcome) == [(P1, "09:00", ("8867-4", None, "entered-in-error"))]
    assert len(letters(outcome)) == 1


def test_a_panel_of_members_retracts_none_of_them():
    members = observation(
        "85353-1", id="o1", status="entered-in-error", valueQuantity=None, hasMember=[{"reference": "Observation/2"}]
    )
    assert (Feed().put(members).verdict, letters(Feed().put(members))) == ("ignored", [])


def test_what_cannot_be_read_takes_back_what_it_stands_for_and_what_is_not_there_nothing():
    feed = Feed()
    feed.put(pressure(id="o1"))
    unread = pressure(id="o1", status="amended", effectiveDateTime="2026-11-23T10:05:00+01:00")
    unread["component"][1]["valueQuantity"]["comparator"] = ">"
    outcome = feed.put(unread)
    assert told(outcome) == [
        (P1, "09:05", ("8480-6", 120, "amended"), ("8462-4", None, "amended")),
        (P1, "09:00", ("8480-6", 120, "entered-in-error"), ("8462-4", 80, "entered-in-error")),
    ]
    assert len(letters(outcome)) == 1
    assert told(feed.put(observation(id="o1", status="amended", subject={"display": "Petra"}))) == []
    # but a retraction takes all that stands
    assert told(feed.put(stripped())) == [
        (P1, "09:05", ("8480-6", 120, "entered-in-error"), ("8462-4", None, "entered-in-error"))
    ]


def refused(outcome):
    return [
        (f"{event.observed_at:%H:%M}", *((one.value, one.refused, one.status) for one in event.observations))
        for event in outcome.events
        if isinstance(event, VitalsEvent)
    ]


OPEN = "a comparator leaves the value open"


def test_an_update_to_a_value_that_cannot_be_read_corrects_and_is_corrected():
    feed, lower = Feed(), quantity(72, comparator="<")
    feed.put(observation(id="o1"))
    assert refused(feed.put(observation(id="o1", valueQuantity=lower))) == [("09:00", (None, OPEN, "corrected"))]
    assert refused(feed.put(observation(id="o1", value=74))) == [("09:00", (74, "", "corrected"))]


def test_a_value_that_cannot_be_read_is_taken_back_as_that():
    """Of that time what another feed said stands: the lane is told that none of its values is meant."""
    lower = quantity(72, comparator="<")
    for update in (
        observation(id="o1", status="entered-in-error", valueQuantity=lower),
        stripped(),
        observation(id="o1", valueQuantity=lower, effectiveDateTime="2026-11-23T10:05:00+01:00"),
    ):
        feed = Feed()
        feed.put(observation(id="o1", valueQuantity=lower))
        assert ("09:00", (None, OPEN, "entered-in-error")) in refused(feed.put(update))


def test_a_retraction_that_cannot_be_read_takes_back_what_stands_all_the_same():
    feed = Feed()
    feed.put(observation(id="o1"))
    wrong = observation(id="o1", status="entered-in-error", valueQuantity=quantity(72, comparator="<"))
    assert told(feed.put(wrong)) == [
        (P1, "09:00", ("8867-4", None, "entered-in-error")),
        (P1, "09:00", ("8867-4", 72, "entered-in-error")),
    ]


def test_an_id_on_a_create_is_no_promise():
    feed = Feed()
    feed.take(observation(id="template"))
    assert len(told(feed.take(observation(id="template", effectiveDateTime="2026-11-23T10:05:00+01:00")))) == 1
    corrected = observation(id="template", status="corrected", effectiveDateTime="2026-11-23T10:06:00+01:00")
    assert told(feed.take(corrected))[1:] == [(P1, "09:05", ("8867-4", 72, "entered-in-error"))]  # says what it is


def test_a_rest_hook_and_a_bundle_are_updates_too():
    feed = Feed()
    feed.take(observation(id="o1"), Request("hook"))
    assert len(told(feed.take(observation(id="o1", subject=OTHER), Request("hook")))) == 2
    feed.take(bundle(observation(id="o2"), method="PUT"))
    assert len(told(feed.take(bundle(observation(id="o2", subject=OTHER), method="PUT")))) == 2


def test_versions_in_one_request_follow_each_other():
    feed = Feed()
    both = bundle(observation(id="o1"), observation(id="o1", subject=OTHER), kind="batch", method="PUT")
    assert sorted(told(feed.take(both))) == sorted(
        [
            (P1, "09:00", ("8867-4", 72, "final")),
            (P2, "09:00", ("8867-4", 72, "final")),
            (P1, "09:00", ("8867-4", 72, "entered-in-error")),
        ]
    )


def test_an_older_version_that_comes_late_takes_nothing_back():
    feed = Feed()

    def version(number, **more):
        return observation(id="o1", meta={"versionId": str(number), "lastUpdated": f"2026-11-23T11:0{number}:00Z"}, **more)

    first, second = version(1), version(2, subject=OTHER)
    feed.put(second)
    late = feed.put(first)
    assert told(late) == [(P1, "09:00", ("8867-4", 72, "final"))]
    assert "older than the version that stands" in late.reason
    assert len(told(feed.put(second))) == 1
    # resent after another one stands: its own event again, nothing is taken back a second time
    third = version(3)
    assert len(told(feed.put(third))) == 2
    assert told(feed.put(second)) == [(P2, "09:00", ("8867-4", 72, "final"))]
    assert told(feed.put(stripped(meta={"versionId": "4"}))) == [(P1, "09:00", ("8867-4", 72, "entered-in-error"))]


def test_a_merge_is_no_move():
    feed = Feed()
    feed.put(observation(id="o1"))
    feed.take(patient(id="1", link=[{"other": OTHER, "type": "replaced-by"}]))
    outcome = feed.put(observation(id="o1", status="amended"))
    assert told(outcome) == [(P2, "09:00", ("8867-4", 72, "amended"))]


def test_an_update_with_another_value_is_a_correction_whatever_its_status():
    feed = Feed()
    feed.put(observation(id="o1"))
    replaced = observation(id="o1", value=90)
    outcome = feed.put(replaced)
    assert told(outcome) == [(P1, "09:00", ("8867-4", 90, "corrected"))]
    assert "passed on as a correction" in outcome.reason
    again = feed.put(replaced, NOW + timedelta(minutes=1))
    assert (told(again), [event.id for event in again.events]) == (told(outcome), [event.id for event in outcome.events])
    assert told(feed.put(observation(id="o1", value=90, note=[{"text": "seen"}]))) == [
        (P1, "09:00", ("8867-4", 90, "final"))  # another version that says the same
    ]
    assert told(feed.put(replaced)) == [(P1, "09:00", ("8867-4", 90, "final"))]  # resent after another one stands
    assert told(feed.put(stripped())) == [(P1, "09:00", ("8867-4", 90, "entered-in-error"))]


def test_only_the_parts_that_an_update_changes_are_corrections():
    feed = Feed()
    feed.put(pressure(id="o1"))
    changed = pressure(id="o1")
    changed["component"][0]["valueQuantity"]["value"] = 95
    assert told(feed.put(changed)) == [(P1, "09:00", ("8480-6", 95, "corrected"), ("8462-4", 80, "final"))]
    alone = Feed()
    alone.put(observation("59408-5", 91, "%", id="o1"))  # another code of the same parameter is the same value
    assert told(alone.put(observation("2708-6", 97, "%", id="o1"))) == [(P1, "09:00", ("2708-6", 97, "corrected"))]


def test_a_bundle_and_versions_in_one_request_correct_too():
    feed = Feed()
    feed.take(bundle(observation(id="o1"), observation("9279-1", 30, id="o2"), method="PUT"))
    better = bundle(observation(id="o1", value=80), observation("9279-1", 16, id="o2"), method="PUT")
    assert told(feed.take(better)) == [(P1, "09:00", ("8867-4", 80, "corrected"), ("9279-1", 16, "corrected"))]
    both = bundle(observation(id="o3"), observation(id="o3", value=90), kind="batch", method="PUT")
    assert told(Feed().take(both)) == [(P1, "09:00", ("8867-4", 72, "final")), (P1, "09:00", ("8867-4", 90, "corrected"))]


def test_a_create_under_a_known_id_corrects_nothing():
    feed = Feed()
    feed.take(observation(id="template"))
    assert told(feed.take(observation(id="template", value=90))) == [(P1, "09:00", ("8867-4", 90, "final"))]


def test_an_update_that_is_not_validated_takes_back_what_was_before_it():
    feed = Feed()
    feed.put(observation(id="o1"))
    outcome = feed.put(observation(id="o1", value=90, status="preliminary"))
    assert told(outcome) == [(P1, "09:00", ("8867-4", 72, "entered-in-error")), (P1, "09:00", ("8867-4", 90, "preliminary"))]
    assert told(feed.put(observation(id="o1", value=91, status="preliminary"))) == [
        (P1, "09:00", ("8867-4", 91, "preliminary"))  # nothing that counts stands
    ]
    seen = observation(id="o1", note=[{"text": "seen"}])
    assert told(feed.put(seen)) == [(P1, "09:00", ("8867-4", 72, "corrected"))]


def test_an_older_version_that_comes_late_does_not_count():
    feed = Feed()

    def version(number, **more):
        return observation(id="o1", meta={"versionId": str(number), "lastUpdated": f"2026-11-23T11:0{number}:00Z"}, **more)

    feed.put(version(2))
    late = feed.put(version(1, value=140))
    assert (late.verdict, late.code, told(late)) == ("ignored", 200, [])
    assert "a newer version" in late.reason
    assert told(feed.put(version(3, value=80))) == [(P1, "09:00", ("8867-4", 80, "corrected"))]


def test_a_correction_of_what_is_not_remembered_says_so():
    outcome = Feed().put(observation(id="o1", status="corrected"))
    assert (outcome.verdict, "not remembered" in outcome.reason) == ("accepted", True)


def test_what_nothing_is_used_of_is_not_refused_where_it_takes_something_back():
    feed = Feed(not_for_us="refuse")
    feed.put(observation(id="o1"))
    outcome = feed.put(observation("2339-0", 90, "mg/dL", id="o1"))
    assert (outcome.code, len(told(outcome))) == (200, 1)


def test_the_memory_is_bounded_and_forgets_what_was_not_heard_of_longest():
    memory = Memory(2)
    version = Version(("", "x"), (), (), frozenset(), None)
    for name in ("a", "b", "a", "c"):
        memory.remember({name: (version,)})
    assert (len(memory), bool(memory.get("a")), bool(memory.get("b")), bool(memory.get("c"))) == (2, True, False, True)
    feed = Feed(remembered_observations=1)
    feed.put(observation(id="o1"))
    feed.put(observation(id="o2"))
    assert feed.put(stripped()).verdict == "dead-letter"
    lab = Feed()
    lab.put(observation("2339-0", 90, "mg/dL", id="lab"))  # no vital sign: nothing to remember
    assert len(lab.mapper._versions) == 0


def test_only_what_was_confirmed_is_remembered():
    publisher = RecordingPublisher()
    mapper = FhirMapper(FhirSettings(), IDS)
    publishing = Publishing(mapper, publisher, MemoryStore(), now=lambda: NOW, seconds=5)

    def take(resource):
        return asyncio.run(publishing.take(orjson.dumps(resource), "fhir", Request("update", "Observation", "o1")))

    publisher.trouble = Transient("broker down")
    with pytest.raises(Unconfirmed):
        take(observation(id="o1"))
    publisher.trouble = None
    assert len(mapper._versions) == 0
    take(observation(id="o1"))
    assert told(take(stripped())) == [(P1, "09:00", ("8867-4", 72, "entered-in-error"))]


class Bedside:
    """A feed, the monitor behind it, and what it made."""

    def __init__(self):
        self.feed, self.monitor = Feed(), Monitor(MonitorRules())
        self.alerts, self.scores = list[AlertEvent](), list[ScoreEvent]()
        self.at, self.offset = datetime(2026, 11, 23, 9, 1, tzinfo=UTC), 0

    def source(self):
        self.offset += 1
        return Source(topic="clinical.vitals", partition=0, offset=self.offset, event_id="x")

    def put(self, resource):
        return self.take(resource, Request("update", resource["resourceType"], resource["id"]))

    def take(self, resource, request=ANY):
        self.at += timedelta(minutes=1)
        self.monitor.tick(self.at, self.source())
        outcome = self.feed.take(resource, request, self.at)
        for event in outcome.events:
            self.follow(event)
        return outcome

    def follow(self, event):
        if isinstance(event, PatientEvent):
            out = self.monitor.patient(event, self.source())
        else:
            out = self.monitor.decide(self.monitor.observe(event, self.source()), None, "absent")
        self.alerts.extend(one for one in out if isinstance(one, AlertEvent))
        self.scores.extend(one for one in out if isinstance(one, ScoreEvent))
        for moved in out:
            if isinstance(moved, VitalsEvent):  # what a merge passes on
                self.follow(moved)


def test_the_alert_of_the_wrong_patient_is_withdrawn():
    bedside = Bedside()
    bedside.put(patient(id="1"))
    bedside.put(patient(id="2", identifier=[OTHER["identifier"]]))
    fast = observation(value=140, id="o1")
    bedside.put(fast)
    made = bedside.alerts
    assert [(alert.patient_id, alert.state) for alert in made] == [(P1, "raised")]
    bedside.put(fast | {"status": "corrected", "subject": OTHER})
    assert [(alert.patient_id, alert.state) for alert in made[1:]] == [(P2, "raised"), (P1, "withdrawn")]
    bedside.put(
        without(fast | {"status": "entered-in-error", "subject": OTHER, "effectiveDateTime": None, "valueQuantity": None})
    )
    assert [(alert.patient_id, alert.state) for alert in made[3:]] == [(P2, "withdrawn")]


def test_updates_with_the_right_values_withdraw_the_alert_of_the_wrong_ones():
    bedside = Bedside()

    def charted(*values, status="final"):
        codes = (("9279-1", "/min"), ("59408-5", "%"), ("8480-6", "mm[Hg]"), ("8867-4", "/min"), ("8310-5", "Cel"))
        return bundle(
            *(
                observation(code, value, unit, id=f"ob{n}", status=status)
                for n, ((code, unit), value) in enumerate(zip(codes, values, strict=True))
            ),
            method="PUT",
        )

    bedside.put(patient(id="1"))
    bedside.take(charted(32, 85, 85, 140, 39.5))
    assert [(alert.state, bedside.scores[-1].news2.total) for alert in bedside.alerts] == [("raised", 14)]
    outcome = bedside.take(charted(16, 98, 120, 72, 37.0))
    assert outcome.code == 200
    assert (bedside.scores[-1].news2.total, bedside.scores[-1].rejected) == (0, ())
    assert [alert.state for alert in bedside.alerts] == ["raised", "withdrawn"]
    assert "corrected" in bedside.alerts[-1].reason
    bedside.take(charted(32, 85, 85, 140, 39.5))  # the first ones resent late undo nothing
    assert [alert.state for alert in bedside.alerts] == ["raised", "withdrawn"]


FETUS = [{"reference": "RelatedPerson/fetus"}]


def test_a_value_that_turns_out_to_be_about_somebody_else_is_taken_back():
    feed = Feed()
    feed.put(observation(id="o1", value=150))
    outcome = feed.put(observation(id="o1", value=150, focus=FETUS))
    assert told(outcome) == [(P1, "09:00", ("8867-4", 150, "entered-in-error"))]
    assert "somebody or something else than the subject" in letters(outcome)[0].message


def test_a_panel_that_contains_its_members_corrects_and_retracts_them():
    feed = Feed()

    def panel(value, **more):
        return observation(
            "85353-1",
            valueQuantity=None,
            id="o1",
            contained=[without(observation(value=value, id="m", subject=None, effectiveDateTime=None))],
            hasMember=[{"reference": "#m"}],
            **more,
        )

    assert told(feed.put(panel(140))) == [(P1, "09:00", ("8867-4", 140, "final"))]
    assert told(feed.put(panel(72))) == [(P1, "09:00", ("8867-4", 72, "corrected"))]
    assert told(feed.put(panel(72, status="entered-in-error"))) == [(P1, "09:00", ("8867-4", 72, "entered-in-error"))]
    feed.put(panel(73))
    assert told(feed.put(stripped())) == [(P1, "09:00", ("8867-4", 73, "entered-in-error"))]
