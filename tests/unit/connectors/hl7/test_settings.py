import pytest
from pydantic import ValidationError

from connectors.hl7.settings import MllpSettings


def who(address: str, *names: str, msh: tuple[str, str] = ("", ""), **peers: dict[str, object]) -> str | None:
    found = MllpSettings.model_validate({"peers": peers} if peers else {}).peers_of(address, names)
    return next((peer.name for peer in found if peer.settings.sends_as(*msh)), None)


def test_only_this_machine_by_default() -> None:
    assert who("127.0.0.1") == who("::1") == who("::ffff:127.0.0.1") == "loopback"
    assert who("10.0.0.1") is None
    assert who("not an address") is None
    assert MllpSettings().host == "127.0.0.1"


def test_the_narrowest_network_wins() -> None:
    peers = {"ward": {"addresses": ["10.0.0.0/8"]}, "monitor": {"addresses": ["10.1.2.3"]}, "six": {"addresses": ["fd00::/8"]}}
    assert who("10.1.2.3", **peers) == "monitor"
    assert who("10.1.2.4", **peers) == "ward"
    assert who("fd00::1%eth0", **peers) == "six"


def test_a_certificate_must_match_where_the_peer_has_one() -> None:
    peers = {"a": {"certificates": ["mon-a"]}, "b": {"certificates": ["mon-b"], "addresses": ["10.0.0.0/8"]}}
    assert who("10.0.0.1", "mon-b", **peers) == "b"
    assert who("192.168.0.1", "mon-b", **peers) is None
    assert who("192.168.0.1", "mon-a", "other", **peers) == "a"
    assert who("10.0.0.1", **peers) is None


HERE = {"addresses": ["10.0.0.5"]}


def test_peers_of_one_address_are_told_apart_by_application_and_facility() -> None:
    peers = {
        "rest": HERE,
        "adt": HERE | {"applications": ["EPIC^1.2^ISO", "EPICADT"]},
        "north": HERE | {"facilities": ["NORTH"]},
        "north-adt": HERE | {"applications": ["EPICADT"], "facilities": ["NORTH"]},
        "wide": {"addresses": ["10.0.0.0/8"], "applications": ["LAB"]},
    }
    assert who("10.0.0.5", msh=("EPIC^1.2^ISO", "SOUTH"), **peers) == "adt"
    assert who("10.0.0.5", msh=("EPIC", "SOUTH"), **peers) == "rest"  # the whole field, as sent
    assert who("10.0.0.5", msh=("EPICADT", "NORTH"), **peers) == "north-adt"
    assert who("10.0.0.5", msh=("EPICADT", "SOUTH"), **peers) == "adt"
    assert who("10.0.0.5", msh=("MON", "NORTH"), **peers) == "north"
    assert who("10.0.0.5", msh=("LAB", ""), **peers) == "rest"  # the narrowest network first
    assert who("10.0.0.6", msh=("LAB", ""), **peers) == "wide"
    assert who("10.0.0.6", msh=("MON", ""), **peers) is None


def test_of_two_at_one_address_the_one_with_a_certificate_comes_first() -> None:
    peers = {"any": HERE, "sure": HERE | {"certificates": ["mon"]}}
    assert (who("10.0.0.5", **peers), who("10.0.0.5", "mon", **peers)) == ("any", "sure")


MON, LAB = {"applications": ["MON", "MON2"]}, {"applications": ["LAB"]}


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (HERE, HERE, False),
        (HERE, {"addresses": ["10.0.0.0/24"]}, True),
        (HERE, {"addresses": ["10.0.0.0/24", "10.0.0.5/32"]}, False),
        (HERE, HERE | MON, True),
        (HERE | LAB, HERE | MON, True),
        (HERE | {"applications": ["MON2"]}, HERE | MON, False),
        (HERE | MON | {"facilities": ["A"]}, HERE | MON | {"facilities": ["B"]}, True),
        (HERE | MON, HERE | {"facilities": ["B"]}, True),  # the application comes first
        (HERE | {"certificates": ["a"]}, HERE | {"certificates": ["b"]}, True),
        (HERE | {"certificates": ["a"]}, HERE | {"certificates": ["b", "a"]}, False),
        ({"certificates": ["a"]}, {"certificates": ["a"]}, False),
        ({"certificates": ["a"]} | MON, {"certificates": ["a"]} | LAB, True),
        ({"certificates": ["a"]}, {"certificates": ["a"], "addresses": ["0.0.0.0/0"]}, False),
    ],
)
def test_peers_that_cannot_be_told_apart_are_refused(one: dict[str, object], other: dict[str, object], apart: bool) -> None:
    peers = {"peers": {"adt": one, "monitors": other}}
    if apart:
        MllpSettings.model_validate(peers)
        return
    with pytest.raises(ValidationError, match=r"adt and monitors cannot be told apart.*`applications` \(MSH-3"):
        MllpSettings.model_validate(peers)


@pytest.mark.parametrize(
    "wrong",
    [
        {"peers": {"x": {}}},  # can never connect
        {"peers": {"x": {"addresses": ["10.0.0.1"], "zone": "Europe/Atlantis"}}},
        {"peers": {"x": {"addresses": ["10.0.0.1"], "charset": "klingon"}}},
        {"peers": {"x": {"addresses": ["10.0.0.1"], "codes": {"HR": {"loinc": "heart"}}}}},
        {"peers": {"x": {"addresses": ["ten"]}}},
        {"prot": 1},
        {"in_flight": 0},
    ],
)
def test_what_cannot_be_meant_is_refused_at_start(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MllpSettings.model_validate(wrong)
