"""Settings: where they come from, what is refused, what never shows."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from models.errors import Permanent
from streams.cli.settings import rows
from streams.kafka import aiokafka_config, confluent_config, faust_config
from streams.settings import KafkaSettings, Settings, load


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_environment_beats_file_and_file_beats_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "vigil.toml").write_text('[kafka]\nbootstrap = "file:1"\nclient_id = "from-file"\n')
    monkeypatch.setenv("VIGIL_KAFKA__BOOTSTRAP", "env:2")
    settings = load()
    assert (settings.kafka.bootstrap, settings.kafka.client_id) == ("env:2", "from-file")
    assert settings.kafka.security_protocol == "PLAINTEXT"


def test_a_typing_error_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "vigil.toml").write_text('[kafka]\nbootstrapp = "x:1"\n')
    with pytest.raises(Permanent, match=r"kafka\.bootstrapp"):
        load()


def test_a_broken_file_and_a_missing_one_are_said_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "vigil.toml").write_text("[kafka\n")
    with pytest.raises(Permanent, match="not TOML"):
        load()
    monkeypatch.setenv("VIGIL_CONFIG", str(tmp_path / "nowhere.toml"))
    with pytest.raises(Permanent, match="not there"):
        load()


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field.description or ""


def test_every_setting_of_the_moving_part_has_its_reason() -> None:
    ours = ("kafka.", "topics.", "engine.", "lanes.", "models.", "state.", "worker.", "clock.", "tracing.", "site.")
    silent = [name for name, reason in _fields(Settings) if name.startswith(ours) and not reason]
    assert not silent


def test_secrets_never_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_IDENTITY__SITE_SECRET", "do-not-show-me-anywhere")
    monkeypatch.setenv("VIGIL_KAFKA__SASL_PASSWORD", "nor-me")
    settings = load()
    shown = " ".join(f"{name} {value}" for name, value, _ in rows(settings)) + repr(settings) + settings.model_dump_json()
    assert "do-not-show" not in shown
    assert "nor-me" not in shown


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_sasl_reaches_all_three_clients(mechanism: str) -> None:
    kafka = KafkaSettings(
        bootstrap="a:1,b:2",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism=mechanism,
        sasl_username="vigil",
        sasl_password="pw",
    )
    one = aiokafka_config(kafka)
    assert (one["sasl_mechanism"], one["sasl_plain_username"], one["sasl_plain_password"]) == (mechanism, "vigil", "pw")
    two = confluent_config(kafka)
    assert (two["sasl.mechanisms"], two["sasl.username"], two["sasl.password"]) == (mechanism, "vigil", "pw")
    three = faust_config(kafka)
    assert three["broker"] == "kafka://a:1;kafka://b:2"
    assert three["broker_credentials"].mechanism.value == mechanism


async def test_an_oauth_token_is_read_anew_at_each_connect(tmp_path: Path) -> None:
    file = tmp_path / "token"
    kafka = KafkaSettings(security_protocol="SASL_PLAINTEXT", sasl_mechanism="OAUTHBEARER", oauth_token_file=file)
    provider = aiokafka_config(kafka)["sasl_oauth_token_provider"]
    for token in ("first", "second"):
        file.write_text(token + "\n")
        assert await provider.token() == token
        assert confluent_config(kafka)["oauth_cb"](None)[0] == token


@pytest.mark.parametrize(
    "wrong",
    [
        {"security_protocol": "SASL_SSL"},
        {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"},
        {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"},
    ],
)
def test_half_a_credential_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="needed"):
        KafkaSettings(**wrong)


def test_a_missing_tls_file_is_named(tmp_path: Path) -> None:
    kafka = KafkaSettings(security_protocol="SSL", ca_file=tmp_path / "nowhere.pem")
    with pytest.raises(Permanent, match=r"nowhere\.pem"):
        aiokafka_config(kafka)


def test_a_site_that_names_its_peers_has_named_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(load().connectors.mllp.peers) == {"loopback"}
    monkeypatch.setenv("VIGIL_CONNECTORS__FHIR__PEERS", '{"portal": {"token": "sixteen characters at least"}}')
    monkeypatch.setenv("VIGIL_CONNECTORS__MLLP__PEERS", '{"ward": {"addresses": ["10.0.0.0/8"]}}')
    connectors = load().connectors
    assert set(connectors.fhir.peers) == {"portal"}
    assert set(connectors.mllp.peers) == {"ward"}, "the default peer is no longer let in"
    assert connectors.mllp.port == 2575


def test_a_section_keeps_the_defaults_of_what_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGIL_LANES__IMAGES__NICE", "3")
    monkeypatch.setenv("VIGIL_TOPICS__RETENTION_HOURS", '{"clinical.notes": 1}')
    settings = load()
    assert (settings.lanes.images.nice, settings.lanes.images.batch_records) == (3, 16)
    assert set(settings.topics.retention_hours) >= {"clinical.notes", "clinical.audit", "clinical.dead-letters"}


def test_nothing_listens_to_the_network_until_a_site_says_so() -> None:
    connectors = load().connectors
    hosts = {name: own.host for name, own in connectors if hasattr(own, "host")}
    assert set(hosts) >= {"mllp", "fhir", "dicom", "stow"}
    assert set(hosts.values()) == {"127.0.0.1"}
