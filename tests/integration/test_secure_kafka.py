"""A Kafka with TLS and SASL: one `KafkaSettings` serves aiokafka, librdkafka and Faust, and what is wrong is said.

One broker with four listeners: PLAINTEXT (for setting it up), SASL_SSL (PLAIN, SCRAM and OAUTHBEARER, the last with Kafka's own
unsecured tokens, which no site should use), and SSL that wants a client's certificate. The certificates are made here.
"""

import json
import logging
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import faust
import pytest
from confluent_kafka.admin import AdminClient, NewTopic, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra.kafka.host import free_ports, require_free
from infra.kafka.jars import why_not
from infra.kafka.kafka import LocalKafka
from models.errors import Permanent, Transient
from streams import topics
from streams.cli.settings import rows
from streams.edge import read_contexts
from streams.kafka import faust_config, require_broker
from streams.outbox import Outbox
from streams.reader import Reader
from streams.settings import EngineSettings, KafkaSettings, Settings, TopicSettings, WorkerSettings
from tests.lanes import note, running, until

pytestmark = [pytest.mark.kafka, pytest.mark.real_kafka, pytest.mark.slow]

USER, PASSWORD, KEY_PASSWORD = "vigil", "right, and with 'quotes'", "key-password"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
WAYS = (*MECHANISMS, "mTLS")


# ------------------------------------------------------------------------------------------------------------ certificates


class Authority:
    """A certificate authority in memory."""

    def __init__(self, folder: Path, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self.file = folder / f"{name}.pem"
        certificate = self._sign(self._name, self._key.public_key(), x509.BasicConstraints(ca=True, path_length=0))
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, folder: Path, name: str, host: str, *, password: str = "") -> tuple[Path, Path]:
        """Make a certificate for a host and its key (PKCS 8); returns the files."""
        key = ec.generate_private_key(ec.SECP256R1())
        extension = x509.SubjectAlternativeName([x509.DNSName(host)])
        certificate = self._sign(_name(name), key.public_key(), extension)
        locked: Any = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
        crt, pem = folder / f"{name}.crt", folder / f"{name}.key"
        crt.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pem.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
        return crt, pem

    def _sign(self, subject: x509.Name, key: Any, extension: x509.ExtensionType) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        return builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints)).sign(
            self._key, hashes.SHA256()
        )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


# ------------------------------------------------------------------------------------------------------------- the broker


@dataclass(frozen=True)
class Secure:
    """The broker's ports and the files that a client gets."""

    folder: Path
    plain: int
    sasl: int
    tls: int

    def settings(self, way: str, **other: Any) -> KafkaSettings:
        """How to reach it in one of `WAYS`; `other` replaces single settings."""
        given: dict[str, Any] = {"bootstrap": f"localhost:{self.sasl}", "security_protocol": "SASL_SSL", "sasl_mechanism": way}
        if way == "mTLS":
            given = {"bootstrap": f"localhost:{self.tls}", "security_protocol": "SSL", "key_password": KEY_PASSWORD}
            given |= {"certificate_file": self.folder / "lane.crt", "key_file": self.folder / "lane.key"}
        elif way == "OAUTHBEARER":
            given["oauth_token_file"] = self.folder / "token"
        else:
            given |= {"sasl_username": USER, "sasl_password": PASSWORD}
        return KafkaSettings(**{**given, "ca_file": self.folder / "authority.pem", **other})


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    if reason := why_not():
        pytest.skip(f"needs the local Kafka, and there is {reason}")
    folder = tmp_path_factory.mktemp("secure")
    authority = Authority(folder, "authority")
    Authority(folder, "stranger")
    crt, key = authority.issue(folder, "broker", "localhost")
    authority.issue(folder, "lane", "lane", password=KEY_PASSWORD)
    (folder / "broker.pem").write_bytes(key.read_bytes() + crt.read_bytes())
    (folder / "token").write_text(_token())
    plain = _two_ports()
    sasl, tls = free_ports(2)
    broker = LocalKafka(
        folder / "kafka", brokers=1, port=plain, settings=_listeners(folder, plain, sasl, tls), die_with_parent=True
    )
    broker.start()
    try:
        _add_scram_users(f"127.0.0.1:{plain}")
        yield Secure(folder, plain, sasl, tls)
    finally:
        broker.kill()


def _listeners(folder: Path, plain: int, sasl: int, tls: int) -> dict[str, str]:
    module, listener = "org.apache.kafka.common.security", "listener.name.sasl_ssl"
    return {
        "listeners": f"PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{plain + 1},"
        f"SASL_SSL://localhost:{sasl},SSL://localhost:{tls}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "broker.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "authority.pem"),
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        f"{listener}.plain.sasl.jaas.config": f'{module}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
        f"{listener}.scram-sha-256.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
        f"{listener}.scram-sha-512.sasl.jaas.config": f"{module}.scram.ScramLoginModule required;",
        f"{listener}.oauthbearer.sasl.jaas.config": (
            f'{module}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";'
        ),
    }


def _two_ports() -> int:
    for port in free_ports(20):
        try:
            require_free(port + 1)
        except Exception:
            continue
        return port
    raise RuntimeError("no two free ports side by side")


def _add_scram_users(bootstrap: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
        user = UserScramCredentialUpsertion(USER, ScramCredentialInfo(mechanism, 4096), PASSWORD.encode())
        admin.alter_user_scram_credentials([user])[USER].result()


def _token(*, valid: float = 3600.0) -> str:
    """An unsecured JSON web token (RFC 7519 section 6)."""
    claims = {"sub": USER, "iat": time.time() - 7200, "exp": time.time() + valid}
    parts = [urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "none"}, claims)]
    return ".".join((*parts, ""))


def _site(kafka: KafkaSettings) -> Settings:
    return Settings(
        kafka=kafka,
        topics=TopicSettings(partitions=2, replication=1),
        engine=EngineSettings(session_timeout=6.0, heartbeat_interval=1.0, backoff_most=0.5),
        worker=WorkerSettings(host="test"),
    )


# ------------------------------------------------------------------------------------------------------------ what works


@pytest.mark.parametrize("way", WAYS)
async def test_every_client_gets_in_with_the_same_settings(secure: Secure, way: str) -> None:
    prefix = f"{way.lower()}."
    settings = _site(secure.settings(way, topic_prefix=prefix))
    await require_broker(settings.kafka)

    made = await topics.create(settings)  # librdkafka
    assert {change.done for change in made} == {"created"}
    assert {change.done for change in await topics.create(settings)} == {"unchanged"}
    assert set((await topics.partition_counts(settings)).values()) == {2}

    sent = [note(number) for number in range(20)]
    outbox = Outbox(settings, source="/test")  # aiokafka's producer
    await outbox.start()
    await outbox.send([outbox.encode(event) for event in sent])
    assert await outbox.answers()

    async with running(settings) as (app, engine, lane):  # aiokafka's consumer; Faust's app around it
        await until(lambda: len(set(lane.seen)) == len(sent), what="the lane has seen every note")
        await until(lambda: sum(engine.intake.lag().values()) == 0, what="all is settled")
        assert app.conf.broker_credentials.protocol.value == settings.kafka.security_protocol
    await outbox.stop()

    async with Reader(settings.kafka) as reader:  # aiokafka without a group
        outputs = 0
        for partition in await reader.partitions(prefix + "clinical.entities"):
            begin, end = await reader.bounds(prefix + "clinical.entities", partition)
            async for records in reader.read(prefix + "clinical.entities", partition, begin, end):
                outputs += len(records)
    assert outputs == len(sent)


@pytest.mark.parametrize("way", WAYS)
async def test_a_plain_faust_app_works_with_the_same_settings(secure: Secure, way: str) -> None:
    """Faust's own consumer and producer, which the lanes do not use: an operator's own app may."""
    settings = _site(secure.settings(way))
    name = f"plain-{way.lower()}"
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{secure.plain}", "log_level": 2})
    admin.create_topics([NewTopic(name, 1)])[name].result()
    arguments: dict[str, Any] = {
        "store": "memory://",
        "web_enabled": False,
        "datadir": secure.folder,
        "topic_disable_leader": True,
    }
    app = faust.App(name, **faust_config(settings.kafka), **arguments)
    topic, seen = app.topic(name, value_type=bytes, value_serializer="raw"), []

    async def read(stream: Any) -> None:
        async for value in stream:
            seen.append(value)

    app.agent(topic)(read)
    app.finalize()
    await app.start()
    try:
        await (await topic.send(value=b"word"))
        await until(lambda: seen == [b"word"], what="the agent has the record")
    finally:
        await app.stop()


async def test_a_token_is_renewed_by_writing_the_file(secure: Secure, tmp_path: Path) -> None:
    token = tmp_path / "token"
    kafka = secure.settings("OAUTHBEARER", oauth_token_file=token)
    token.write_text(_token(valid=-60))
    outbox = Outbox(_site(kafka), source="/test")
    with pytest.raises(Transient, match="refuses the token"):
        await outbox.start()
    with pytest.raises(Transient, match="refuses the token"):
        await topics.partition_counts(_site(kafka))
    token.write_text(_token())
    await outbox.start()
    await outbox.stop()


# ------------------------------------------------------------------------------------------------------------- what is said

WRONG: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "password": ("PLAIN", {"sasl_password": "hunter2"}, "refuses user 'vigil' or its password", "sasl_password"),
    "password, SCRAM": ("SCRAM-SHA-512", {"sasl_password": "hunter2"}, "refuses user 'vigil' or its password", "sasl_password"),
    "user, SCRAM": ("SCRAM-SHA-256", {"sasl_username": "nobody"}, "refuses user 'nobody'", "sasl_username"),
    "authority": ("PLAIN", {"ca_file": "stranger.pem"}, "certificate is not trusted", "kafka.ca_file"),
    "system's authorities": ("PLAIN", {"ca_file": None}, "certificate is not trusted", "kafka.ca_file"),
    "host's name": ("PLAIN", {"bootstrap": "nowhere.invalid:9092"}, "name is not known", "kafka.bootstrap"),
    "no certificate of ours": ("mTLS", {"certificate_file": None, "key_file": None}, "ends the connection", "certificate"),
    "plain to a TLS port": ("PLAIN", {"security_protocol": "SASL_PLAINTEXT"}, "ends the connection", "security_protocol"),
    "TLS to a plain port": ("PLAIN", {"bootstrap": "plain"}, "ends the connection|not speak TLS", "security_protocol"),
    "no token": ("OAUTHBEARER", {"oauth_token_file": "none"}, "none is not there", "oauth_token_file"),
    "nobody there": ("PLAIN", {"bootstrap": "localhost:1"}, "nothing listens there", "kafka.bootstrap"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_wrong_is_said_in_words(secure: Secure, wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vigil")
    way, other, words, hint = WRONG[wrong]
    if isinstance(other.get("ca_file"), str):
        other = {**other, "ca_file": secure.folder / other["ca_file"]}
    if "oauth_token_file" in other:
        other = {**other, "oauth_token_file": secure.folder / other["oauth_token_file"]}
    if other.get("bootstrap") == "plain":
        other = {**other, "bootstrap": f"localhost:{secure.plain}"}
    settings = _site(secure.settings(way, **other))
    outbox, began = Outbox(settings, source="/test"), time.monotonic()
    for ask in (outbox.start, lambda: topics.create(settings), lambda: read_contexts(settings, None)):  # type: ignore[arg-type]
        with pytest.raises(Transient, match=words) as caught:
            await ask()
        assert hint in (caught.value.hint or "")
        assert "hunter2" not in str(caught.value)
    assert time.monotonic() - began < 15, "an operator waits for the answer"
    assert "hunter2" not in caplog.text


async def test_a_broker_under_another_name_is_refused_unless_told(secure: Secure) -> None:
    address = f"127.0.0.1:{secure.sasl}"  # its certificate says localhost
    with pytest.raises(Transient, match=r"not trusted .*mismatch"):
        await require_broker(secure.settings("PLAIN", bootstrap=address))
    loose = _site(secure.settings("PLAIN", bootstrap=address, check_hostname=False, topic_prefix="loose."))
    await require_broker(loose.kafka)
    assert {change.done for change in await topics.create(loose)} == {"created"}


async def test_files_that_cannot_be_used_are_named(secure: Secure) -> None:
    for other in ({"key_password": "wrong"}, {"key_file": secure.folder / "broker.key"}, {"ca_file": secure.folder / "token"}):
        with pytest.raises(Permanent, match=r"cannot use the TLS files .*\.(pem|key|crt)"):
            await topics.create(_site(secure.settings("mTLS", **other)))


async def test_a_lane_waits_for_its_password_to_be_right(secure: Secure) -> None:
    """A password that is being rotated is trouble that passes: the lane holds, says why, and goes on."""
    settings = _site(secure.settings("SCRAM-SHA-512", sasl_username="late", topic_prefix="late."))
    owner = _site(secure.settings("PLAIN", topic_prefix="late."))
    await topics.create(owner)
    async with running(settings) as (_, engine, _lane):
        await until(lambda: engine.metrics.registry.get_sample_value(
            "vigil_retries_total", {"lane": "echo", "step": "connect to Kafka"}), what="a first attempt")  # fmt: skip
        assert engine.unready().startswith("connecting")
        await until(lambda: "user 'late' or its password" in engine.unready(), what="the reason is said")
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{secure.plain}"})
        user = UserScramCredentialUpsertion("late", ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), PASSWORD.encode())
        admin.alter_user_scram_credentials([user])["late"].result()
        await until(lambda: not engine.unready(), what="the lane is ready")


def test_settings_show_no_secret(secure: Secure) -> None:
    shown = " ".join(row.value for way in WAYS for row in rows(_site(secure.settings(way))))
    assert PASSWORD not in shown
    assert KEY_PASSWORD not in shown
