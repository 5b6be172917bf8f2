"""Which steps of an alert a receiver with a filter gets."""

from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr

from connectors.deliver.settings import WebhookSettings
from processors.events import AlertEvent, Location, Source
from streams.parcels import Filter
from tests.deliveries import alert


def receiver(*routes: str, wards: tuple[str, ...] = ()) -> Filter:
    """A receiver that is told by route, or ward, and has just started: it remembers nothing."""
    secret = SecretStr("s" * 16)
    return Filter(WebhookSettings(kind="webhook", url="https://site.example", secret=secret, routes=routes, wards=wards))


def test_who_was_told_of_an_alert_hears_its_end_whatever_route_it_ends_on() -> None:
    routes = ("default", "nurse-in-charge")
    end = alert("a", sequence=3, state="resolved", route="default", routes=routes)
    assert receiver("nurse-in-charge").takes(end)
    assert receiver("default").takes(end)
    assert receiver().takes(end)
    assert not receiver("rapid-response").takes(end)


def test_a_ward_is_one_of_any_hospital_or_of_the_one_that_is_named() -> None:
    north, south, nowhere = (Location(ward="ICU", facility=name) for name in ("NORTH", "SOUTH", ""))
    for wards, expected in ((("ICU",), [True] * 3), (("NORTH|ICU",), [True, False, False]), (("ED",), [False] * 3)):
        assert [receiver(wards=wards).takes(alert("a", location=at)) for at in (north, south, nowhere)] == expected


def test_steps_of_before_routes_were_listed_go_by_their_own() -> None:
    assert receiver("default").takes(alert("a", route="default"))
    assert not receiver("nurse-in-charge").takes(alert("a", route="default"))


NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def outage(partition: int, minutes: float = 0, *, number: int = 0, kind: str = "feed-stopped", **fields: Any) -> AlertEvent:
    """What one partition tells of an outage or a feed."""
    source = Source(topic="clinical.alerts", partition=partition, offset=number, event_id="tick")
    at = NOON + timedelta(minutes=minutes)
    given = {"kind": kind, "severity": "information", "peer": "monitors", **fields}
    told = alert(f"partition-{partition}-{given['kind']}-{given['peer']}", number, at=at, **given)
    return told.model_copy(update={"source": source})


def test_one_outage_is_one_notice_however_many_partitions_tell_of_it() -> None:
    told = receiver()
    assert [told.takes(outage(number, number / 10)) for number in range(12)] == [True, *[False] * 11]
    assert not told.takes(outage(3, 5)), "told again after a crash"
    assert told.takes(outage(0, 5)), "and who was told is told again"
    ends = [told.takes(outage(number, 30, sequence=1, state="resolved")) for number in range(12)]
    assert ends == [True, *[False] * 11], "its end is the end of that notice"


def test_another_feed_another_time_and_the_same_partition_once_more_are_told_anew() -> None:
    told = receiver()
    assert told.takes(outage(0))
    assert told.takes(outage(1, peer="other"))
    assert told.takes(outage(1, kind="monitoring-blind"))
    assert told.takes(outage(2, 16))
    assert told.takes(outage(2, 18, number=1))
    assert not told.takes(outage(4, 18))
    assert told.takes(alert("a")) and told.takes(alert("b")), "patients' alerts are each their own"
