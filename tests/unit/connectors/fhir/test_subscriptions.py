import orjson
import pytest

from connectors.fhir.handling import FhirMapper, Request
from connectors.fhir.settings import FhirSettings
from connectors.fhir.subscriptions import Counts, Lost, Status, status_of
from tests.edge import identities
from tests.fhir_resources import observation
from tests.unit.connectors.fhir.test_handling import NOW

SUBSCRIPTION = "https://ehr.example/fhir/Subscription/vitals"


def parameters(kind, since, *numbers, focus=()):
    return {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "subscription", "valueReference": {"reference": SUBSCRIPTION}},
            {"name": "topic", "valueCanonical": "http://ehr.example/topic"},
            {"name": "status", "valueCode": "active"},
            {"name": "type", "valueCode": kind},
            {"name": "events-since-subscription-start", "valueString": str(since)},
            *(
                {
                    "name": "notification-event",
                    "part": [
                        {"name": "event-number", "valueString": str(number)},
                        *({"name": "focus", "valueReference": {"reference": one}} for one in focus),
                    ],
                }
                for number in numbers
            ),
        ],
    }


def status_resource(kind, since, *numbers, focus=()):
    return {
        "resourceType": "SubscriptionStatus",
        "status": "active",
        "type": kind,
        "subscription": {"reference": SUBSCRIPTION},
        "eventsSinceSubscriptionStart": str(since),
        "notificationEvent": [
            {"eventNumber": str(number)} | ({"focus": {"reference": focus[0]}} if focus else {}) for number in numbers
        ],
    }


def basic(kind, since, *numbers, focus=()):
    events = [
        {
            "url": "notificationEvent",
            "extension": [
                {"url": "eventNumber", "valueString": str(number)},
                *({"url": "focus", "valueReference": {"reference": one}} for one in focus),
            ],
        }
        for number in numbers
    ]
    extension = [
        {"url": "type", "valueCode": kind},
        {"url": "subscription", "valueReference": {"reference": SUBSCRIPTION}},
        {"url": "eventsSinceSubscriptionStart", "valueString": str(since)},
        *events,
    ]
    url = "http://hl7.org/fhir/5.0/StructureDefinition/extension-SubscriptionStatus"
    return {
        "resourceType": "Basic",
        "code": {"coding": [{"system": "http://hl7.org/fhir/fhir-types", "code": "SubscriptionStatus"}]},
        "extension": [{"url": url, "extension": extension}],
    }


SHAPES = pytest.mark.parametrize("shape", [parameters, status_resource, basic])


def history(status, *resources, **more):
    entries = [{"fullUrl": "urn:uuid:1", "resource": status}, *({"resource": one} for one in resources)]
    return {"resourceType": "Bundle", "type": "history", "entry": entries} | more


def handle(bundle):
    using = FhirMapper(FhirSettings(), identities())
    return using.handle(orjson.dumps(bundle), using.sender("fhir", NOW), Request("hook"))


@SHAPES
def test_every_shape_says_the_same(shape):
    found = status_of(history(shape("event-notification", 7, 6, 7, focus=("Observation/o1",))))
    assert found.kind == "event-notification"
    assert found.subscription == SUBSCRIPTION
    assert (found.since_start, found.numbers, found.newest) == (7, (6, 7), 7)
    assert set(found.focus) == {"Observation/o1"}


@SHAPES
def test_full_resources_are_taken(shape):
    outcome = handle(history(shape("event-notification", 2, 2, focus=("Observation/o1",)), observation(id="o1")))
    assert (outcome.verdict, outcome.code, len(outcome.events), outcome.announced) == ("accepted", 200, 1, ())
    assert outcome.notification.newest == 2


@SHAPES
@pytest.mark.parametrize("kind", ["handshake", "heartbeat", "query-status"])
def test_what_carries_no_events_is_answered(shape, kind):
    outcome = handle(history(shape(kind, 0)))
    assert (outcome.verdict, outcome.code, outcome.events, outcome.announced) == ("ignored", 200, (), ())


@SHAPES
def test_ids_only_are_announced(shape):
    bundle = history(shape("event-notification", 3, 3, focus=("https://ehr.example/fhir/Observation/o1",)))
    bundle["entry"].append({"fullUrl": "https://ehr.example/fhir/Observation/o1"})
    assert handle(bundle).announced == ("https://ehr.example/fhir/Observation/o1",)


@pytest.mark.parametrize(
    "bundle",
    [
        {"resourceType": "Bundle", "type": "history"},
        history({"resourceType": "Parameters"}),
        history({"resourceType": "Parameters", "parameter": [{"name": "type", "valueCode": "nonsense"}]}),
        history({"resourceType": "Basic", "code": {"text": "x"}, "extension": [{"url": "type"}]}),
        history(observation()),
    ],
)
def test_what_is_no_notification(bundle):
    assert status_of(bundle) is None
    assert handle(bundle).notification is None


def test_gaps():
    counts = Counts()

    def arrives(kind, *numbers, since=None):
        status = Status(kind, SUBSCRIPTION, since, numbers)
        lost = counts.lost("ehr", status)
        counts.confirmed("ehr", status)
        return lost and (lost.first, lost.last)

    assert arrives("handshake", since=0) is None
    assert arrives("event-notification", 1) is None
    assert arrives("event-notification", 2, 3) is None
    assert arrives("event-notification", 6) == (4, 5)
    assert arrives("heartbeat", since=6) is None
    assert arrives("heartbeat", since=8) == (7, 8)
    assert arrives("event-notification", 9) is None
    assert arrives("event-notification", 9) is None  # sent again
    assert arrives("handshake", since=0) is None  # the subscription was made anew
    assert arrives("event-notification", 1) is None
    assert arrives("event-notification", 3, 5) == (2, 4)  # one of them between its own
    assert arrives("event-notification", 6, since=8) is None  # 7 and 8 are still to come
    assert arrives("event-notification", 9, since=9) == (7, 8)
    assert arrives("event-notification", 20_000) == (None, None)
    assert counts.lost("other", Status("event-notification", SUBSCRIPTION, None, (50,))) is None  # nothing is known of it


class Notes:
    """A fetcher's memory, which outlives the process."""

    def __init__(self, **known):
        self.known = known

    def noted(self, subscription):
        return self.known.get(subscription)

    def note(self, subscription, number):
        self.known[subscription] = number


def test_what_was_lost_while_nobody_was_there_is_known_by_the_number_before():
    status = Status("event-notification", "s", None, (9,))
    assert Counts().lost("ehr", status, Notes(s=5)) == Lost(6, 8)
    assert Counts().lost("ehr", status, Notes(s=8)) is None
    assert Counts().lost("ehr", status, Notes()) == Lost()  # what has changed is fetched
    assert Counts().lost("ehr", Status("event-notification", "s", None, (1,)), Notes()) is None
    assert Counts().lost("ehr", Status("heartbeat", "s", 9), Notes(s=5)) == Lost(6, 9)
    counts, notes = Counts(), Notes()
    counts.confirmed("ehr", status, notes)
    assert notes.known == {"s": 9}


def test_one_that_cannot_be_taken_leaves_the_others_of_its_notification():
    """An EHR does not repeat what was refused, and may end a subscription that is."""
    bad = observation() | {"id": "o2", "status": "nonsense"}
    outcome = handle(history(parameters("event-notification", 2, 1, 2), observation(), bad))
    assert (outcome.verdict, outcome.code) == ("accepted", 200)
    kinds = [type(event).__name__ for event in outcome.events]
    assert kinds.count("VitalsEvent") == 1 and kinds.count("DeadLetterEvent") == 1
