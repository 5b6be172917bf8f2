"""Settings of the receivers of alerts, each with its default and the reason for it."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from connectors.deliver.signing import key_of
from processors.durations import Seconds
from processors.events import Severity


class Section(BaseModel):
    """A group of settings: unknown names are refused, so that a typing error is seen at start."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ReceiverSettings(Section):
    """What every receiver has."""

    severities: tuple[Severity, ...] = Field(
        (), description="only these; empty: all. The end of an alert, and what follows a step that was sent, is always sent"
    )
    wards: tuple[str, ...] = Field(
        (), description="only patients of these wards (FACILITY|WARD by PV1-3.4: that hospital's); empty: all"
    )
    routes: tuple[str, ...] = Field(
        (),
        description="only alerts that the site's policy sends here (`monitor` has routes and escalation), and what becomes of them "
        "then; empty: all",
    )
    identify: bool = Field(
        True,
        description="name patient and visit in the hospital's own numbers (never by name): an EHR or alert manager has them "
        "already, and cannot look up Vigil's pseudonyms",
    )
    timeout: Seconds = Field(10.0, gt=0, le=45, description="seconds to wait for a receiver's answer, below the watchdog's 60")
    fallback: str = Field("", description="another receiver, told when this one refuses or stays silent")
    silent_after: Seconds = Field(
        120.0, gt=0, description="seconds without a confirmation after which the fallback is told; without one we go on trying"
    )
    refused_tries: int = Field(
        4,
        ge=1,
        description="a refusal (401, 404, AR, ...) is tried this often, then the fallback is told and a dead letter kept",
    )
    backoff_first: Seconds = Field(0.5, gt=0, description="seconds before the first repetition; doubles, with jitter")
    backoff_most: Seconds = Field(30.0, gt=0, description="seconds between repetitions at most")
    retry_after_most: Seconds = Field(300.0, gt=0, description="a receiver's Retry-After is honoured up to this many seconds")
    concurrency: int = Field(16, ge=1, description="patients told at once; one patient's alerts go one after the other")
    late_after: Seconds = Field(
        300.0, gt=0, description="seconds: older steps are marked late, and of several of one alert the newest is sent"
    )
    heartbeat_every: Seconds = Field(60.0, gt=0, description="webhook: seconds between `vigil.heartbeat` while all is well")
    dead_after: Seconds = Field(
        180.0, gt=0, description="seconds without a heartbeat on clinical.alerts until the receiver is told (three are lost)"
    )

    @model_validator(mode="after")
    def _backs_off(self) -> Self:
        if self.backoff_first > self.backoff_most:
            raise ValueError(f"backoff_first ({self.backoff_first:g}) must not be above backoff_most ({self.backoff_most:g})")
        return self


def _plain_allowed(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def checked_url(url: str, plain: bool) -> str:
    """Return a URL that alerts may be sent to. Raises `ValueError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ValueError("must be an http or https URL")
    if parts.username or parts.password:
        raise ValueError("a password in a URL would stand in logs")
    if parts.scheme == "http" and not plain and not _plain_allowed(parts.hostname):
        raise ValueError("alerts are about patients: https, or plain_http = true inside a protected network")
    return url


class HttpReceiver(ReceiverSettings):
    """What receivers over HTTP have."""

    url: str = Field(description="where alerts go (FHIR: the server's base)")
    plain_http: bool = Field(False, description="allow http to another host: only inside a protected network")
    ca_file: Path | None = Field(None, description="PEM authorities of the receiver; unset: the usual ones")

    @model_validator(mode="after")
    def _url(self) -> "HttpReceiver":
        checked_url(self.url, self.plain_http)
        return self


class WebhookSettings(HttpReceiver):
    """A signed HTTP POST (Standard Webhooks)."""

    kind: Literal["webhook"]
    identify: bool = Field(
        False,
        description="carry the hospital's own numbers of patient and visit: off, since what is behind a webhook (chat, paging) may "
        "show and keep what it gets",
    )
    secret: SecretStr = Field(
        description="signs what is sent and what is called back; `whsec_` and base64, or 16 characters on"
    )
    previous_secret: SecretStr | None = Field(None, description="while it is exchanged: signs, and is believed, too")

    @field_validator("secret", "previous_secret")
    @classmethod
    def _long_enough(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            key_of(secret.get_secret_value())
        return secret

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The signing keys, the present one first."""
        both = (self.secret, self.previous_secret)
        return tuple(key_of(secret.get_secret_value()) for secret in both if secret is not None)


class FhirReceiverSettings(HttpReceiver):
    """A FHIR R4 server that takes Communication and Flag."""

    kind: Literal["fhir"]
    token_file: Path | None = Field(None, description="a file with a bearer token, read anew at each request")
    flag: bool = Field(True, description="also keep a Flag per alert, active while the alert stands")


class FhirScoresSettings(HttpReceiver):
    """A FHIR R4 server that takes scores as RiskAssessment; a delivery of its own, so that no alert waits behind scores."""

    kind: Literal["fhir-scores"]
    token_file: Path | None = Field(None, description="a file with a bearer token, read anew at each request")

    @model_validator(mode="after")
    def _no_filter_by_alert(self) -> "FhirScoresSettings":
        if self.severities or self.wards or self.routes:
            raise ValueError("severities, wards and routes choose among alerts; a receiver of scores gets all scores")
        return self


class PcdSettings(ReceiverSettings):
    """An IHE ACM Alert Manager (PCD-04 over MLLP)."""

    kind: Literal["pcd04"]
    host: str = Field(description="where its MLLP listener is")
    port: int = Field(ge=1, le=65535)
    ca_file: Path | None = Field(None, description="PEM authorities of the receiver: given, TLS is spoken")
    certificate_file: Path | None = Field(None, description="our PEM certificate, where it asks for one")
    key_file: Path | None = Field(None, description="the PEM key of our certificate")
    connections: int = Field(1, ge=1, le=64, description="connections at once; each carries one message until its answer")
    application: str = Field("VIGIL", description="MSH-3")
    facility: str = Field("VIGIL", description="MSH-4")
    receiving_application: str = Field("", description="MSH-5")
    receiving_facility: str = Field("", description="MSH-6")

    @model_validator(mode="after")
    def _certificate(self) -> "PcdSettings":
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together")
        if self.certificate_file is not None and self.ca_file is None:
            raise ValueError("certificate_file needs ca_file: without it no TLS is spoken")
        return self


AnyReceiver = Annotated[WebhookSettings | FhirReceiverSettings | FhirScoresSettings | PcdSettings, Field(discriminator="kind")]


class CallbackSettings(Section):
    """Where webhook receivers answer: POST /deliver/NAME/feedback."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8087, ge=0, le=65535, description="0: any free one")
    certificate_file: Path | None = Field(None, description="PEM certificate chain; unset: plain HTTP, behind a proxy")
    key_file: Path | None = Field(None, description="PEM key of the certificate")
    tolerance: Seconds = Field(
        300.0, gt=0, description="seconds that a call's timestamp may differ from our clock (replay window)"
    )
    body_bytes: int = Field(16_384, ge=256, description="largest body")
    connections: int = Field(256, ge=1, description="open connections at most")
    publish_seconds: Seconds = Field(10.0, gt=0, description="wait this long for Kafka, then 503")

    @model_validator(mode="after")
    def _both(self) -> "CallbackSettings":
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together")
        return self


def chain(receivers: dict[str, AnyReceiver], name: str) -> tuple[str, ...]:
    """Return a receiver and its fallbacks, in order. Raises `ValueError` for an unknown name or a circle."""
    found: list[str] = []
    while name:
        if name not in receivers:
            raise ValueError(f"there is no receiver {name!r} to fall back to")
        if name in found:
            raise ValueError(f"the fallbacks go in a circle: {' -> '.join([*found, name])}")
        found.append(name)
        name = receivers[name].fallback
    if len({isinstance(receivers[one], FhirScoresSettings) for one in found}) > 1:
        raise ValueError(f"a receiver of scores and one of alerts cannot stand in for each other: {' -> '.join(found)}")
    return tuple(found)
