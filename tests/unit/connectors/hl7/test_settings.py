import pytest
from pydantic import ValidationError

from connectors.hl7.settings import MllpSettings


def who(address: str, *names: str, **peers: dict[str, object]) -> str | None:
    peer = MllpSettings.model_validate({"peers": peers} if peers else {}).peer_of(address, names)
    return peer.name if peer else None


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
