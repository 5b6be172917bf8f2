"""One description of a Kafka cluster, in the words of each client: aiokafka, confluent-kafka, Faust."""

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any

import faust
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.protocol.metadata import MetadataRequest

from models.errors import Permanent, Transient
from streams.settings import KafkaSettings

_quiet = logging.getLogger("vigil.librdkafka")
_quiet.setLevel(logging.CRITICAL)

# Of the aiokafka loggers; while a broker is down they write about 80 lines a second (`streams.log` rate-limits them).
NOISY_LOGGERS = ("aiokafka", "kafka", "aiokafka.conn", "aiokafka.cluster", "aiokafka.consumer.group_coordinator")

_reached = set[str]()  # addresses of brokers that name addresses which answer too
_DENIED = (ClusterAuthorizationFailedError, GroupAuthorizationFailedError, TopicAuthorizationFailedError)


class FileToken(AbstractTokenProvider):  # type: ignore[misc]
    """An OAUTHBEARER token from a file, read at each connect: whatever renews it writes the file anew."""

    def __init__(self, settings: KafkaSettings) -> None:
        assert settings.oauth_token_file is not None
        self._file = settings.oauth_token_file

    async def token(self) -> str:
        """Return the token as it stands in the file now."""
        return (await asyncio.to_thread(self._file.read_text)).strip()


def ssl_context(settings: KafkaSettings) -> ssl.SSLContext | None:
    """Return the TLS context, or None for a plain connection; a missing or unfit file raises `Permanent` that names it."""
    if "SSL" not in settings.security_protocol:
        return None
    try:
        context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
        context.check_hostname = settings.check_hostname
        if settings.certificate_file:
            password = settings.key_password.get_secret_value() if settings.key_password else None
            context.load_cert_chain(settings.certificate_file, settings.key_file, password)
    except (OSError, ssl.SSLError) as error:
        names = f"{settings.ca_file}, {settings.certificate_file}, {settings.key_file}"
        raise Permanent(f"kafka: cannot use the TLS files ({names}): {error}") from error
    return context


def aiokafka_config(settings: KafkaSettings) -> dict[str, Any]:
    """Return the connection arguments of `AIOKafkaConsumer`, `AIOKafkaProducer` and aiokafka's admin client."""
    config: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap,
        "client_id": settings.client_id,
        "security_protocol": settings.security_protocol,
        "ssl_context": ssl_context(settings),
    }
    if settings.sasl_mechanism:
        config["sasl_mechanism"] = settings.sasl_mechanism
        if settings.sasl_mechanism == "OAUTHBEARER":
            config["sasl_oauth_token_provider"] = FileToken(settings)
        else:
            config["sasl_plain_username"] = settings.sasl_username
            config["sasl_plain_password"] = _secret(settings)
    return config


def confluent_config(settings: KafkaSettings) -> dict[str, Any]:
    """Return the same for librdkafka (admin client)."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap,
        "client.id": settings.client_id,
        "security.protocol": settings.security_protocol,
        "log_level": 2,
        "logger": _quiet,  # what fails is said by `no_broker`, once
    }
    if "SSL" in settings.security_protocol:
        config["ssl.endpoint.identification.algorithm"] = "https" if settings.check_hostname else "none"
        for name, file in (
            ("ssl.ca.location", settings.ca_file),
            ("ssl.certificate.location", settings.certificate_file),
            ("ssl.key.location", settings.key_file),
        ):
            if file:
                config[name] = str(file)
        if settings.key_password:
            config["ssl.key.password"] = settings.key_password.get_secret_value()
    if settings.sasl_mechanism:
        config["sasl.mechanisms"] = settings.sasl_mechanism
        if settings.sasl_mechanism == "OAUTHBEARER":
            file = settings.oauth_token_file
            assert file is not None
            # librdkafka asks again before the time given; the file holds a fresh token by then
            config["oauth_cb"] = lambda _: (file.read_text().strip(), time.time() + 300)
        else:
            config["sasl.username"] = settings.sasl_username
            config["sasl.password"] = _secret(settings)
    return config


def faust_config(settings: KafkaSettings) -> Mapping[str, Any]:
    """Return the same for a Faust app.

    A lane's Faust app opens no connection of its own (the intake does), but an operator who adds a plain Faust app beside it,
    or a tool that reads `app.conf`, finds the cluster's address and credentials as Faust has them.
    """
    config: dict[str, Any] = {"broker": ";".join(f"kafka://{host}" for host in settings.bootstrap.split(","))}
    context = ssl_context(settings)
    if settings.sasl_mechanism == "OAUTHBEARER":
        config["broker_credentials"] = faust.OAuthCredentials(oauth_cb=FileToken(settings), ssl_context=context)
    elif settings.sasl_mechanism:
        config["broker_credentials"] = faust.SASLCredentials(
            username=settings.sasl_username, password=_secret(settings), mechanism=settings.sasl_mechanism, ssl_context=context
        )
    elif context is not None:
        config["broker_credentials"] = faust.SSLCredentials(context)
    return config


async def no_broker(settings: KafkaSettings) -> Transient:
    """Return the error to raise when a client could not connect, with the reason in words and how to mend it.

    The clients swallow the reason: each broker of `bootstrap`, and each that these name, is asked once more, 5 s at most, and what
    happens is said.
    """
    addresses = [address.strip() for address in settings.bootstrap.split(",")]
    said = await asyncio.gather(*(_trouble(settings, address) for address in addresses))
    words, hint = next((one for one in said if one[0]), ("", ""))
    if not words:
        words, hint = await _advertised(settings, addresses[0])
    if not words:
        words = "the connection failed a moment ago, and works now"
    return Transient(f"no broker answers at {settings.bootstrap}: {words}", hint=hint or None)


async def _advertised(settings: KafkaSettings, address: str) -> tuple[str, str]:
    """Say where none of the addresses answers that a broker names for itself and the others: clients go there next."""
    host, _, port = address.rpartition(":")
    config = {**aiokafka_config(settings), "request_timeout_ms": 5000}
    del config["bootstrap_servers"]
    named: list[str] = []
    with contextlib.suppress(OSError, KafkaError, TimeoutError, ValueError):
        connection = await create_conn(host.strip("[]"), int(port), **config)
        try:
            answer = await connection.send(MetadataRequest([]))
            named = [f"{broker[1]}:{broker[2]}" for broker in answer.brokers]
        finally:
            connection.close()
    said = [words for words, _ in await asyncio.gather(*(_trouble(settings, one) for one in named))]
    if not named or not all(said):
        return "", ""
    return (
        f"it answers, and says that it is to be reached at {named[0]}, where {said[0]}",
        "set the brokers' advertised.listeners to addresses that this host can reach and resolve",
    )


async def start_client(client: Any, settings: KafkaSettings) -> None:
    """Start an aiokafka client. One that does not come up, or whose start is cancelled, is stopped: it would hold its connections.

    Raises `Transient`, as `no_broker` says it, when no broker answers.
    """
    try:
        await client.start()
    except BaseException as error:
        await client.stop()
        if isinstance(error, _DENIED):
            raise Permanent(
                f"Kafka does not let this account in ({type(error).__name__})",
                hint="an idempotent producer needs WRITE on a topic at least (or IDEMPOTENT_WRITE on the cluster), a consumer "
                "READ on its topics and its group",
            ) from error
        if isinstance(error, KafkaError | OSError):
            raise await no_broker(settings) from error
        raise


async def require_broker(settings: KafkaSettings) -> None:
    """Raise `Transient`, as `no_broker` says it, unless one of the brokers of `bootstrap` takes us now."""
    said = await asyncio.gather(*(_trouble(settings, address.strip()) for address in settings.bootstrap.split(",")))
    words, hint = said[0] if all(words for words, _ in said) else ("", "")
    if not words and settings.bootstrap not in _reached:
        # Once in a process: a client would go to the addresses that the brokers name, and try for ever where it reaches none.
        well = next(address for address, (trouble, _) in zip(settings.bootstrap.split(","), said, strict=True) if not trouble)
        words, hint = await _advertised(settings, well.strip())
    if words:
        raise Transient(f"no broker answers at {settings.bootstrap}: {words}", hint=hint or None)
    _reached.add(settings.bootstrap)


async def _trouble(settings: KafkaSettings, address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return f"{address!r} is no host:port", "set kafka.bootstrap to host:port, comma separated"
    config = {**aiokafka_config(settings), "request_timeout_ms": 5000}
    del config["bootstrap_servers"]
    try:
        connection = await create_conn(host.strip("[]"), int(port), **config)
        try:
            # A refused token looks like an accepted one until the next request (aiokafka 0.14, `_do_sasl_handshake`: the
            # broker's challenge is taken for its blessing); a producer would then try to connect for ever.
            if (await connection.send(ApiVersionRequest())).error_code:
                raise SaslAuthenticationFailed("the broker still waits for credentials")
        finally:
            connection.close()
    except (OSError, KafkaError, TimeoutError, ssl.CertificateError, ValueError) as error:
        return _in_words(settings, error)
    return "", ""


def _in_words(settings: KafkaSettings, error: Exception) -> tuple[str, str]:
    """Say what a failed connection means, and how to mend it; never with a password or a token."""
    protocol, mechanism = settings.security_protocol, settings.sasl_mechanism
    match error:
        case ssl.SSLCertVerificationError():
            return (
                f"its certificate is not trusted ({error.verify_message or error.reason})",
                "kafka.ca_file must hold the authority that signed it, and it must name the host in kafka.bootstrap",
            )
        case ssl.SSLError() if "WRONG_VERSION" in str(error.reason) or "RECORD_LAYER" in str(error.reason):
            return "it does not speak TLS", f"is this its plaintext port? kafka.security_protocol is {protocol}"
        case ssl.SSLError():
            return (
                f"TLS fails ({error.reason})",
                "if it asks for a client's certificate: kafka.certificate_file and kafka.key_file, signed by an authority it knows",
            )
        case SaslAuthenticationFailed() | AuthenticationFailedError():
            who = "the token" if mechanism == "OAUTHBEARER" else f"user {settings.sasl_username!r} or its password"
            return (
                f"it refuses {who} ({mechanism})",
                "kafka.sasl_username and kafka.sasl_password, or the token file, must be right",
            )
        case UnsupportedSaslMechanismError():
            return f"it does not offer {mechanism} on this port", "set kafka.sasl_mechanism to one that it offers"
        case IllegalSaslStateError():
            return (
                "it wants no user or password on this port",
                f"kafka.security_protocol is {protocol}: is this the right port?",
            )
        case socket.gaierror():
            return "the host's name is not known", "is kafka.bootstrap its address?"
        case ConnectionRefusedError():
            return "nothing listens there", "is Kafka up, and is kafka.bootstrap its address?"
        case FileNotFoundError():
            return f"{error.filename} is not there", "kafka.oauth_token_file must name a file that holds the token"
        case TimeoutError():
            return "it does not answer within 5 s", "is it Kafka, is it well, and does a firewall stand between?"
    other = "SSL or SASL_SSL" if "SSL" not in protocol else "another one"
    return (
        f"it ends the connection ({type(error).__name__})",
        f"kafka.security_protocol is {protocol}: does this port want {other}, or a client's certificate?",
    )


def _secret(settings: KafkaSettings) -> str:
    assert settings.sasl_password is not None  # the settings' own check
    return settings.sasl_password.get_secret_value()
