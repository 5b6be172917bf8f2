"""One description of a Kafka cluster, in the words of each client: aiokafka, confluent-kafka, Faust."""

import asyncio
import ssl
import time
from collections.abc import Mapping
from typing import Any

import faust
from aiokafka.abc import AbstractTokenProvider

from models.errors import Permanent
from streams.settings import KafkaSettings

# Of the aiokafka loggers; while a broker is down they write about 80 lines a second (`streams.log` rate-limits them).
NOISY_LOGGERS = ("aiokafka", "kafka", "aiokafka.conn", "aiokafka.cluster", "aiokafka.consumer.group_coordinator")


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


def _secret(settings: KafkaSettings) -> str:
    assert settings.sasl_password is not None  # the settings' own check
    return settings.sasl_password.get_secret_value()
