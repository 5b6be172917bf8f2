"""Whom a resource is about over its versions: numbers that change, links that go, stays that move, deaths that are taken back."""

from datetime import timedelta

import pytest

from connectors.contexts import MemoryContexts
from connectors.fhir.handling import Request
from processors.events import Identifier, PatientEvent, VitalsEvent
from tests.fhir_resources import MRN, bundle, encounter, observation, patient, pressure
from tests.unit.connectors.fhir.test_versions import IDS, NOW, P1, P2, Bedside, Feed, letters

P3 = IDS.patient(Identifier(authority=MRN, value="P3"))
BASE = "fhir"  # the peer's name scopes ids where it has no base


def number(value, **more):
    return {"system": MRN, "value": value, **more}


def person(id, value, **more):
    return patient(id=id, identifier=[number(value)], **more)


def stay(id, who, **more):
    """An Encounter of `Patient/who`, in a bed."""
    place = [{"location": {"display": "W1"}, "status": "active"}]
    return encounter(id=id, subject={"reference": f"Patient/{who}"}, location=place, **more)


def alias(id):
    return IDS.patient(Identifier(authority=BASE, value=id, kind="FHIR"))


class Registry(Feed):
    """A feed of whose patients and vital signs is asked."""

    def known(self, patient_id):
        return self.mapper.contexts.get(patient_id)

    def whose(self, who="7", **more):
        outcome = self.take(observation(**{"subject": {"reference": f"Patient/{who}"}} | more))
        found = [event.patient_id for event in outcome.events if isinstance(event, VitalsEvent)]
        return found[0] if found else letters(outcome)[0].message

    def restarted(self):
        """Return a feed that knows no more than the topic of patients."""
        made = Registry()
        for event in [*self.mapper.contexts._known.values()]:
            made.mapper.contexts.remember(event)
        return made


# ------------------------------------------------------------------------------------------------------------------ links


LINKS = [
    ("7", {"type": "replaced-by", "other": {"reference": "Patient/8"}}),
    ("8", {"type": "replaces", "other": {"reference": "Patient/7"}}),
]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize(("says", "link"), LINKS)
def test_an_update_without_the_link_undoes_the_merge(says, link, restart):
    feed = Registry()
    persons = {"7": person("7", "P1"), "8": person("8", "P2")}
    for one in persons.values():
        feed.put(one)
    feed.put(persons[says] | {"link": [link]})
    assert (feed.whose("7"), feed.known(P1).merged_into) == (P2, P2)
    other = "8" if says == "7" else "7"
    feed.put(persons[other])  # what never said it does not take it back
    assert feed.whose("7") == P2
    feed = feed.restarted() if restart else feed
    outcome = feed.put(persons[says])
    assert "the merge is taken back" in outcome.reason
    assert (feed.whose("7"), feed.whose("8")) == (P1, P2)
    assert (feed.known(P1).merged_into, feed.known(P1).merged_by) == (None, None)


@pytest.mark.parametrize("says", ["7", "8"])
def test_a_merge_by_other_words_stands(says):
    feed = Registry()
    feed.put(person("7", "P1"))
    feed.put(person("8", "P2"))
    known = feed.known(P1)
    feed.mapper.contexts.remember(known.model_copy(update={"merged_into": P2}))  # an A40
    feed.put(person("7", "P1") if says == "7" else person("8", "P2"))
    assert feed.whose("7") == P2


def test_an_older_link_does_not_make_a_later_merge_its_own():
    feed = Registry()
    for who, value in (("7", "P1"), ("8", "P2"), ("9", "P3")):
        feed.put(person(who, value))
    feed.mapper.contexts.remember(feed.known(P1).model_copy(update={"merged_into": P2}))  # an A40
    old = {"lastUpdated": "2026-11-23T10:00:00Z"}
    feed.put(person("7", "P1", link=[{"type": "replaced-by", "other": {"reference": "Patient/9"}}], meta=old))
    assert (feed.known(P1).merged_into, feed.known(P1).merged_by) == (P2, None)
    feed.put(person("7", "P1"))
    assert feed.known(P1).merged_into == P2


def test_a_create_and_an_older_version_and_a_link_that_cannot_be_read_undo_nothing():
    feed = Registry()
    feed.put(person("8", "P2"))
    linked = person("7", "P1", link=[LINKS[0][1]], meta={"lastUpdated": "2026-11-23T11:00:00Z"})
    feed.put(linked)
    feed.take(person("7", "P1"), Request("create", "Patient"))
    assert feed.whose("7") == P2
    feed.put(person("7", "P1", meta={"lastUpdated": "2026-11-23T10:00:00Z"}))
    assert feed.whose("7") == P2
    feed.put(person("7", "P1", link=[{"type": "replaced-by", "other": {"display": "somebody"}}]))
    assert feed.whose("7") == P2
    feed.put(person("9", "P3"))
    feed.put(person("7", "P1", link=[{"type": "replaced-by", "other": {"reference": "Patient/9"}}]))
    assert feed.whose("7") == P3


def test_a_record_known_by_its_id_alone_is_merged_and_parted_too():
    feed = Registry()
    feed.put(person("8", "P2"))
    feed.put(patient(id="7", identifier=None, link=[LINKS[0][1]]))
    assert feed.whose("7") == P2
    feed.take(patient(id="7", identifier=None), Request("create", "Patient"))
    assert feed.whose("7") == P2
    feed.put(patient(id="7", identifier=None))
    assert feed.whose("7") == alias("7")


def test_the_alert_after_an_undone_merge_is_the_patients_own():
    bedside = Bedside()
    bedside.put(person("7", "P1"))
    bedside.put(person("8", "P2"))
    bedside.put(person("7", "P1", active=False, link=[LINKS[0][1]]))
    bedside.put(person("7", "P1", active=True))
    bedside.put(observation(value=140, id="o1"))
    assert [(alert.patient_id, alert.state) for alert in bedside.alerts] == [(P1, "raised")]


def test_survivors_know_who_was_merged_into_them():
    feed, small = Registry(), MemoryContexts(limit=1)
    feed.put(person("7", "P1"))
    contexts = feed.mapper.contexts
    assert (contexts.merged(P1), contexts.merged(P2)) == ({alias("7")}, frozenset())
    stored, coming = feed.known(alias("7")), feed.known(alias("7")).model_copy(update={"merged_into": P2})
    contexts.remember(coming)
    assert (contexts.merged(P1), contexts.merged(P2)) == (frozenset(), {alias("7")})
    contexts.take_back(coming, stored)
    assert (contexts.merged(P1), contexts.merged(P2)) == ({alias("7")}, frozenset())
    for one in (stored, feed.known(P1)):
        small.remember(one)
    assert (len(small), small.merged(P1)) == (1, frozenset())


# ------------------------------------------------------------------------------------------------------------------ death


@pytest.mark.parametrize("words", [{"deceasedBoolean": True}, {"deceasedDateTime": "2026-11-20"}])
def test_a_death_that_an_update_no_longer_tells_is_taken_back(words):
    bedside = Bedside()
    bedside.put(person("7", "P1", **words))
    bedside.put(observation(value=140, id="o1"))
    assert (bedside.alerts, bedside.scores[-1].flags) == ([], ("not-watched",))
    bedside.put(person("7", "P1"))
    bedside.put(observation(value=141, id="o2", effectiveDateTime="2026-11-23T10:03:00+01:00"))
    assert [(alert.patient_id, alert.state) for alert in bedside.alerts] == [(P1, "raised")]


def test_a_death_stands_that_a_create_or_an_older_version_does_not_tell():
    feed = Registry()
    feed.put(person("7", "P1", deceasedBoolean=True, meta={"lastUpdated": "2026-11-23T11:00:00Z"}))
    feed.take(person("7", "P1"), Request("create", "Patient"))
    feed.put(person("7", "P1", meta={"lastUpdated": "2026-11-23T10:00:00Z"}))
    assert feed.known(P1).deceased
    unknown = {"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]}
    for words in ({"_deceasedBoolean": unknown}, {"_deceasedDateTime": unknown}):  # dead, and nobody knows when
        feed.put(person("7", "P1", **words))
        assert feed.known(P1).deceased
    feed.put(person("7", "P1", birthDate=None))
    assert (feed.known(P1).deceased, feed.known(P1).birth_date) == (False, "1950-02-03")  # nobody becomes ageless


# ---------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("restart", [False, True])
def test_a_corrected_number_takes_stay_and_alert_along(restart):
    bedside = Bedside()
    bedside.put(person("7", "P1"))
    bedside.put(stay("e1", "7"))
    bedside.put(observation(value=140, id="o1", subject={"reference": "Patient/7"}))
    if restart:
        bedside.feed = Registry.restarted(bedside.feed)
    outcome = bedside.put(person("7", "P2"))
    assert "merged into that of the new one" in outcome.reason
    contexts = bedside.feed.mapper.contexts
    old, new = contexts.get(P1), contexts.get(P2)
    assert (old.merged_into, new.merged_into) == (P2, None)
    assert (new.encounter_status, new.location.ward, new.birth_date) == ("in-progress", "W1", "1950-02-03")
    bedside.put(
        observation(value=145, id="o2", effectiveDateTime="2026-11-23T10:04:00+01:00", subject={"reference": "Patient/7"})
    )
    states = [(alert.patient_id, alert.state) for alert in bedside.alerts]
    assert states[:1] == [(P1, "raised")]
    assert (P2, "raised") in states
    assert states[-1][0] == P2
    assert {state for who, state in states if who == P1} & {"resolved", "withdrawn"}


def test_a_number_that_is_corrected_back_takes_everything_back():
    feed = Registry()
    feed.put(person("7", "P1"))
    feed.put(stay("e1", "7"))
    feed.put(person("7", "P2"))
    feed.put(stay("e1", "7", status="finished"))
    feed.put(person("7", "P1"))
    assert (feed.known(P1).merged_into, feed.known(P2).merged_into, feed.whose("7")) == (None, P1, P1)
    assert (feed.known(P1).encounter_status, feed.known(P1).identifiers[0].value) == ("finished", "P1")


def test_another_patient_under_a_number_that_was_corrected_away_is_somebody_else():
    feed = Registry()
    feed.put(person("7", "P1"))
    feed.put(person("7", "P2"))
    assert feed.known(P1).merged_into == P2
    feed.put(person("8", "P1"))
    assert (feed.known(P1).merged_into, feed.whose("8"), feed.whose("7")) == (None, P1, P2)
    known = Registry()  # and where they were there before, their record is not merged
    known.put(person("7", "P1"))
    known.put(person("8", "P1"))
    outcome = known.put(person("7", "P2"))
    assert "the records are not merged" in outcome.reason
    assert (known.known(P1).merged_into, known.whose("8"), known.whose("7")) == (None, P1, P2)


def test_an_older_version_and_a_create_change_no_number():
    feed = Registry()
    feed.put(person("7", "P1", meta={"lastUpdated": "2026-11-23T10:00:00Z"}))
    feed.put(person("7", "P2", meta={"lastUpdated": "2026-11-23T11:00:00Z"}))
    feed.put(person("7", "P1", meta={"lastUpdated": "2026-11-23T10:00:00Z"}))  # the first one, resent
    assert (feed.known(P1).merged_into, feed.known(P2).merged_into, feed.whose("7")) == (P2, None, P2)
    posted = Registry()
    for value in ("P1", "P2"):  # an id on a create is no promise
        posted.take(person("7", value), Request("create", "Patient"))
    assert (posted.known(P1).merged_into, posted.known(P2).merged_into) == (None, None)


def test_a_patient_without_a_number_any_more_keeps_the_record():
    feed = Registry()
    feed.put(person("7", "P1"))
    outcome = feed.put(patient(id="7", identifier=None, deceasedBoolean=True))
    assert "filed under the one that it had" in outcome.reason
    assert (feed.known(P1).deceased, feed.known(P1).identifiers[0].value, feed.whose("7")) == (True, "P1", P1)


OFFICIAL, TEMPORARY = number("P1", use="official"), number("P2", use="temp")
MR = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]}

ACCOUNT = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "AN"}]}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([TEMPORARY, OFFICIAL], P1),
        ([TEMPORARY | {"type": MR}, OFFICIAL], P1),
        ([number("P2", use="secondary"), number("P1")], P1),
        ([number("P2"), number("P1", use="official")], P1),
        ([number("P2", use="usual"), {"system": "urn:other", "value": "P9", "use": "official"}], P2),
        ([number("P2", use="old"), number("P1")], P1),
        ([TEMPORARY], P2),
        ([TEMPORARY, number("P1", period={"end": "2026-11-22"})], P2),
        ([number("P2", period={"end": "2020-01-01"}), number("P1", use="temp")], P1),
        ([number("P2", period={"end": "2020"}), number("P1")], P1),
        ([number("P1", period={"end": "2026"}), number("P2")], P1),  # the year is not over
        ([number("P1", period={"end": "2026-11"}), number("P2")], P1),
        ([number("P1", period={"end": "2026-11-23"}), number("P2")], P1),
        ([number("P2", period={"end": "2026-11-23T11:59:59Z"}), number("P1")], P1),
        ([number("P1", period={"start": "2020-01-01"}), number("P2")], P1),
        ([number("P2", period={"start": "2026-11-24"}), number("P1")], P1),
        ([number("P1", period={"end": "9999-12-31"}), number("P2")], P1),
        ([number("P2", period={"end": "2020-01-01"})], P2),  # better than nobody
        ([{"system": MRN, "value": "A1", "type": ACCOUNT}, number("P2", period={"end": "2020-01-01"})], P2),
    ],
)
def test_which_number_counts(given, expected):
    feed = Registry()
    feed.put(patient(id="7", identifier=given))
    assert feed.whose("7") == expected
    assert expected in map(IDS.patient, feed.known(expected).identifiers)
    contained = patient(id="p", identifier=given)
    assert Registry().whose(subject={"reference": "#p"}, contained=[contained]) == expected


def test_numbers_that_are_over_are_not_the_patients_any_more():
    feed = Registry()
    feed.put(patient(id="7", identifier=[number("P1"), number("P2", period={"end": "2020-01-01"})]))
    assert [one.value for one in feed.known(P1).identifiers] == ["P1", "7"]


TWO = "Observation.subject: names no patient that is known, or two: held apart, not guessed"


def test_a_reference_and_an_identifier_that_are_two_patients_are_held_apart():
    feed = Registry()
    feed.put(person("7", "P1"))
    feed.put(person("8", "P2"))
    for seven in (number("P1"), number("P1", type=MR)):
        assert TWO in feed.whose(subject={"reference": "Patient/8", "identifier": seven})
    assert feed.whose(subject={"reference": "Patient/7", "identifier": number("P1")}) == P1
    bundled = bundle(person("9", "P3"), pressure(subject={"reference": "Patient/9", "identifier": number("P1")}))
    outcome = feed.take(bundled)
    assert [event for event in outcome.events if isinstance(event, VitalsEvent)] == []
    assert TWO in letters(outcome)[0].message


def test_a_second_number_of_the_referred_patient_is_no_contradiction():
    feed = Registry()
    national = {"system": "urn:national", "value": "N1"}
    feed.put(patient(id="7", identifier=[number("P1"), national]))
    both = {"reference": "Patient/7", "identifier": national}
    assert feed.whose(subject=both) == P1
    assert feed.whose(subject={"reference": "Patient/7", "identifier": {"system": "urn:else", "value": "E1"}}) == P1
    feed.put(person("8", "P2", link=[{"type": "replaced-by", "other": {"reference": "Patient/7"}}]))
    assert feed.whose(subject={"reference": "Patient/7", "identifier": number("P2")}) == P1  # two records, merged
    feed.put(patient(id="9", identifier=[{"system": "urn:else", "value": "E1"}]))  # a number that is somebody else's after all
    assert TWO in feed.whose(subject={"reference": "Patient/7", "identifier": {"system": "urn:else", "value": "E1"}})
    unheard = {"reference": "Patient/99", "identifier": number("P3")}
    assert feed.whose(subject=unheard) == P3


# ------------------------------------------------------------------------------------------------------------------ stays


def test_an_encounter_of_another_patient_moves_and_withdraws_the_first_ones_alerts():
    bedside = Bedside()
    bedside.put(person("7", "P1"))
    bedside.put(person("8", "P2"))
    bedside.put(stay("e1", "7"))
    bedside.put(observation(value=140, id="o1"))
    outcome = bedside.put(encounter(id="e1", subject={"reference": "Patient/8"}))
    contexts = bedside.feed.mapper.contexts
    old, new = contexts.get(P1), contexts.get(P2)
    assert "the stay moves" in outcome.reason
    assert (old.encounter_status, old.location.ward, old.encounter_id) == ("unknown", "", None)
    assert (new.encounter_status, new.location.ward, new.visit.value) == ("in-progress", "W1", "V1")
    assert [(alert.patient_id, alert.state) for alert in bedside.alerts] == [(P1, "raised"), (P1, "withdrawn")]
    bedside.put(encounter(id="e1", subject={"reference": "Patient/7"}))  # and back
    assert (contexts.get(P1).encounter_status, contexts.get(P2).encounter_status) == ("in-progress", "unknown")


def test_what_moves_no_stay():
    def ward():
        feed, at = Registry(), {"lastUpdated": "2026-11-23T10:00:00Z"}
        feed.put(person("7", "P1", meta=at))
        feed.put(person("8", "P2", meta=at))
        feed.put(stay("e1", "7", meta=at))
        return feed

    created = ward()
    created.take(stay("e1", "8"), Request("create", "Encounter"))  # an id on a create is no promise
    assert created.known(P1).encounter_status == "in-progress"
    merged = ward()
    merged.put(person("7", "P1", link=[LINKS[0][1]]))
    merged.put(stay("e1", "8"))
    assert merged.known(P1).encounter_status == "in-progress"  # that record is not watched any more
    older = ward()
    older.put(stay("e1", "8", meta={"lastUpdated": "2026-11-23T10:30:00Z"}))
    outcome = older.put(stay("e1", "7", meta={"lastUpdated": "2026-11-23T10:10:00Z"}))
    assert "another patient's than a newer version says" in outcome.reason
    assert (older.known(P1).encounter_status, older.known(P2).encounter_status) == ("unknown", "in-progress")
    another = ward()
    another.put(stay("e2", "7", identifier=[{"value": "V2"}], period={"start": "2026-11-23T10:00:00Z"}))
    another.put(stay("e1", "8"))
    assert another.known(P1).encounter_status == "in-progress"  # the stay that went on is not the one that moved


def test_a_stay_leaves_the_survivor_of_a_merge_too():
    feed = Registry()
    for who, value in (("7", "P1"), ("8", "P2"), ("9", "P3")):
        feed.put(person(who, value))
    feed.put(stay("e1", "7"))
    feed.put(person("7", "P1", link=[{"type": "replaced-by", "other": {"reference": "Patient/9"}}]))
    assert feed.known(P3).encounter_status == "in-progress"
    feed.put(stay("e1", "8"))
    assert [feed.known(one).encounter_status for one in (P1, P2, P3)] == ["unknown", "in-progress", "unknown"]


def test_a_part_takes_only_itself_along():
    feed = Registry()
    feed.put(person("7", "P1"))
    feed.put(person("8", "P2"))
    feed.put(stay("e1", "7"))
    part = {"partOf": {"reference": "Encounter/e1"}, "identifier": [{"value": "V2"}]}
    feed.put(stay("e2", "7", **part))
    feed.put(stay("e2", "8", **part))
    assert feed.known(P1).encounter_status == "in-progress"


# ---------------------------------------------------------------------------------------------------- conditional updates


def test_a_conditional_update_is_one_of_what_its_identifier_names():
    def put(value, **more):
        made = bundle(observation(value=value, identifier=[{"system": "urn:x", "value": "1"}], **more))
        made["entry"][0]["request"] = {"method": "PUT", "url": "Observation?identifier=urn:x|1"}
        return made

    bedside = Bedside()
    bedside.put(person("7", "P1"))
    bedside.put(person("8", "P2"))
    bedside.take(put(140))
    outcome = bedside.take(put(72))
    assert [one.status for event in outcome.events for one in event.observations] == ["corrected"]
    assert [(alert.patient_id, alert.state) for alert in bedside.alerts] == [(P1, "raised"), (P1, "withdrawn")]
    outcome = bedside.take(put(72, subject={"reference": "Patient/8"}))
    assert [(event.patient_id, event.observations[0].status) for event in outcome.events] == [
        (P2, "final"),
        (P1, "entered-in-error"),
    ]


def test_a_conditional_update_of_a_patient_replaces_too():
    def put(**more):
        made = bundle(patient(**more))
        made["entry"][0]["request"] = {"method": "PUT", "url": f"Patient?identifier={MRN}|P1"}
        return made

    feed = Registry()
    feed.put(person("8", "P2"))
    feed.take(put(deceasedBoolean=True, link=[LINKS[0][1]]))
    assert (feed.known(P1).deceased, feed.known(P1).merged_into) == (True, P2)
    feed.take(put(), at=NOW + timedelta(minutes=1))
    assert (feed.known(P1).deceased, feed.known(P1).merged_into) == (False, None)
    assert len([one for one in feed.take(put()).events if isinstance(one, PatientEvent)]) == 1


# --------------------------------------------------------------------------------------------------------- a second number


EMPI = "https://region.example/empi"
E1 = {"system": EMPI, "value": "E1"}
BY_E1 = IDS.patient(Identifier(authority=EMPI, value="E1"))


def listed(feed, *values, born="1950-02-03"):
    """What ADT or a Patient says: a record number, and the enterprise's beside it."""
    for n, value in enumerate(values):
        feed.put(patient(id=f"local-{n}", identifier=[number(value), E1], birthDate=born))


def test_what_is_sent_under_the_second_number_alone_is_filed_under_the_record_that_lists_it():
    feed = Registry()
    listed(feed, "P1")
    assert feed.whose(subject={"identifier": E1}) == P1
    assert feed.whose(subject={"reference": "#p"}, contained=[patient(id="p", identifier=[E1], birthDate=None)]) == P1
    assert feed.whose(subject={"reference": "Patient/local-0", "identifier": E1}) == P1
    feed.put(encounter(id="e1", subject={"identifier": E1}))
    assert feed.known(P1).encounter_status == "in-progress"
    assert feed.known(BY_E1) is None


def test_a_contained_patient_of_another_age_is_not_the_record():
    feed = Registry()
    listed(feed, "P1")
    child = patient(id="p", identifier=[E1], birthDate="2020-01-01")
    assert feed.whose(subject={"reference": "#p"}, contained=[child]) == BY_E1


def test_a_number_that_several_records_list_is_held_apart():
    feed = Registry()
    listed(feed, "P1", "P2")
    assert TWO in feed.whose(subject={"identifier": E1})
    for n, expected in enumerate((P1, P2)):  # by their references they are told apart
        assert feed.whose(subject={"reference": f"Patient/local-{n}", "identifier": E1}) == expected
    outcome = feed.put(patient(id="e", identifier=[E1]))
    assert (outcome.verdict, letters(outcome)[0].stage) == ("dead-letter", "identify")
    assert "a number that several records list: nobody can tell which" in outcome.reason
    both = [E1, number("P2")]
    assert feed.whose(subject={"reference": "#p"}, contained=[patient(id="p", identifier=both)]) == P2


@pytest.mark.parametrize(("born", "theirs"), [("1950-02-03", True), ("1950", True), ("1977-07-07", False), (None, False)])
def test_a_patient_of_the_second_number_alone_is_the_record_where_the_date_of_birth_says_so(born, theirs):
    feed = Registry()
    listed(feed, "P1")
    feed.put(stay("e1", "local-0"))
    mine = patient(id="9", identifier=[E1], birthDate=born)
    together = feed.take(bundle(mine, observation(id="o1", subject={"identifier": E1}), method="PUT"))
    (event,) = [event for event in together.events if isinstance(event, VitalsEvent)]
    expected = P1 if theirs else BY_E1
    assert (feed.whose("9"), event.patient_id) == (expected, expected)
    assert feed.known(P1).encounter_status == "in-progress"
    numbers = [one.value for one in feed.known(P1).identifiers]
    assert numbers == ["P1", "E1", "local-0", *(["9"] if theirs else [])]
    feed = feed.restarted()
    feed.put(mine)
    assert (feed.whose("9"), feed.known(expected).merged_into) == (expected, None)
    assert [one.value for one in feed.known(P1).identifiers] == numbers
    feed.put(mine | {"identifier": [number("P2"), E1]})  # what it was by the enterprise's number alone stays
    assert (feed.whose("9"), feed.known(P1).merged_into) == (P2, None)


def test_a_patient_that_loses_its_own_number_changes_to_the_second_one():
    feed = Registry()
    listed(feed, "P1")
    outcome = feed.put(patient(id="local-0", identifier=[E1]))
    assert "the record of the old one is merged into that of the new one" in outcome.reason
    assert (feed.whose("local-0"), feed.known(P1).merged_into) == (BY_E1, BY_E1)


def test_a_fact_about_somebody_whom_registration_has_not_named_makes_the_number_nobodys_own():
    feed = Registry()
    feed.put(observation("82810-3", id="o", subject={"identifier": E1}, valueQuantity=None, valueBoolean=True))
    assert feed.known(BY_E1).pregnant is True
    listed(feed, "P1")
    assert feed.whose(subject={"identifier": E1}) == P1


# --------------------------------------------------------------------------------------- a better number that comes later


EPIC = [
    {"use": "usual", "type": {"text": "EPI"}, "system": EMPI, "value": "E1"},
    {"use": "usual", "type": {"text": "MRN"}, "system": MRN, "value": "P1"},
]


@pytest.mark.parametrize("kind", [{"text": "MRN"}, {"text": "Medical record number"}, {"coding": [{"code": "MRN"}]},
                                  {"coding": [{"code": "MR"}], "text": "MRN"}])  # fmt: skip
def test_the_type_of_a_number_may_be_said_in_words(kind):
    feed = Registry()
    feed.put(
        patient(id="7", identifier=[EPIC[0], EPIC[1] | {"type": kind}])
    )  # a record number counts more than one without a type
    assert feed.whose("7") == P1
    assert [one.kind for one in feed.known(P1).identifiers] == ["", "MR", "FHIR"]


UNTYPED = [one | {"type": None} for one in EPIC]


@pytest.mark.parametrize(("born", "theirs"), [("1950-02-03", True), ("1960-01-01", False), (None, False)])
def test_a_patient_with_another_number_of_a_known_record_is_filed_there(born, theirs):
    """As ADT registered it, by the hospital's number alone."""
    feed = Registry()
    feed.put(person("adt", "P1"))
    feed.put(stay("e1", "adt"))
    outcome = feed.put(patient(id="7", identifier=UNTYPED, birthDate=born))
    assert (feed.whose("7"), feed.whose(subject={"identifier": UNTYPED[0]})) == ((P1, P1) if theirs else (BY_E1, BY_E1))
    assert feed.known(P1).encounter_status == "in-progress"
    assert ("not merged" in outcome.reason) is not theirs
    assert ("another number of a record's" in outcome.reason) is theirs


@pytest.mark.parametrize(
    ("born", "period", "merged"),
    [
        ("1950-02-03", None, True),
        ("1960-01-01", None, False),
        (None, None, False),
        ("1950-02-03", {"end": "2020-01-01"}, False),
    ],
)
def test_two_records_of_one_patient_are_merged_by_a_patient_with_both_numbers(born, period, merged):
    feed = Registry()
    feed.put(person("adt", "P1"))
    feed.put(stay("e1", "adt"))
    feed.put(patient(id="7", identifier=UNTYPED[:1], birthDate=born))
    outcome = feed.put(patient(id="7", identifier=[UNTYPED[0], UNTYPED[1] | {"period": period}], birthDate=born))
    assert ("that are one patient's: merged" in outcome.reason) is merged
    assert (feed.whose("7"), feed.whose("adt")) == (BY_E1, BY_E1 if merged else P1)
    assert feed.known(BY_E1).encounter_status == ("in-progress" if merged else "unknown")
    feed.put(stay("e1", "adt", status="finished"))
    assert feed.known(BY_E1 if merged else P1).encounter_status == "finished"
    assert feed.known(P1).merged_into == (BY_E1 if merged else None)
