"""Where the bytes lie and how they are kept."""

import base64
import binascii

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from processors.durations import Seconds

KEY_BYTES = 32


class ObjectSettings(BaseModel):
    """Where pixels lie."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field("objects", min_length=1, description="a folder, file:// or s3:// URL (extra `s3`)")
    encryption_key: SecretStr | None = Field(None, description="base64 of 32 bytes: objects are encrypted with AES-256-GCM")
    previous_keys: tuple[SecretStr, ...] = Field((), description="keys of before, to read what was stored under them")
    largest_bytes: int = Field(
        256 * 2**20, gt=0, description="of one object; a larger one is refused, on storing and on reading"
    )
    timeout: Seconds = Field(
        20.0, gt=0, description="seconds of one call to a remote store before it counts as transient trouble"
    )
    s3_endpoint: str = Field(
        "", pattern=r"^(https?://\S+)?$", description="URL of an S3-compatible store on site (MinIO, Ceph); empty: AWS"
    )
    s3_region: str = Field("", description="region, where the store asks for one")
    s3_key: str = Field("", description="access key; empty: the usual AWS chain (environment, profile, role)")
    s3_secret: SecretStr | None = Field(None, description="secret of the access key")

    @field_validator("encryption_key", "previous_keys")
    @classmethod
    def _is_a_key(cls, value: SecretStr | tuple[SecretStr, ...] | None) -> SecretStr | tuple[SecretStr, ...] | None:
        for secret in (value,) if isinstance(value, SecretStr) else value or ():
            key_bytes(secret)
        return value


def key_bytes(secret: SecretStr) -> bytes:
    """Return the key; raises `ValueError` where it is not base64 of 32 bytes."""
    try:
        key = base64.b64decode(secret.get_secret_value(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError("must be base64 of 32 bytes (openssl rand -base64 32)")
    return key
