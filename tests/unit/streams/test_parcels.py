"""Which steps of an alert a receiver with a filter gets."""

from pydantic import SecretStr

from connectors.deliver.settings import WebhookSettings
from processors.events import Location
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
