"""How to reach the vector store, and what its collections are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from processors.durations import Seconds


class QdrantSettings(BaseModel):
    """Where vectors go: a Qdrant server, a cluster, or the embedded store; the client code is the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(
        "http://localhost:6333", pattern=r"^https?://", description="a Qdrant server, cluster or the embedded store"
    )
    api_key: SecretStr | None = Field(None, description="of a Qdrant server")
    timeout: Seconds = Field(10.0, gt=0, description="seconds of one call before it counts as transient trouble")
    prefer_grpc: bool = Field(False, description="half the client's work per point; Qdrant servers only")
    grpc_port: int = Field(6334, ge=1, le=65535, description="beside the URL's port, for gRPC")
    ca_file: Path | None = Field(None, description="PEM of the server's authority over https; the system's store if unset")
    points_per_call: int = Field(
        128, ge=1, le=10_000, description="bounds a request: 128 points of 384 numbers are 1 MB of JSON"
    )


IndexKind = Literal["keyword", "datetime", "integer", "float", "bool", "uuid"]

PAYLOAD_INDEXES: Final[Mapping[str, IndexKind]] = {
    "patient_id": "keyword",
    "encounter_id": "keyword",
    "note_id": "keyword",
    "type": "keyword",
    "time": "datetime",
    "processing": "keyword",
    "model_digest": "keyword",
}
"""The payload fields that every point of every collection may be filtered by (those it has)."""


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """One collection: its name, its one dense vector's name and length (cosine), its payload indexes.

    `words` names the payload field whose words are indexed too, as the sparse vector `WORDS`: none unless given. `served`: the name
    is an alias, by which lanes write and readers ask, so that a rebuild can put another collection in its place.
    """

    name: str
    vector: str
    dimensions: int
    indexes: Mapping[str, IndexKind] = field(default_factory=lambda: PAYLOAD_INDEXES)
    served: bool = True
    words: str = ""


WORDS: Final = "words"  # the sparse vector's name
NOTES: Final = CollectionSpec("notes", vector="text", dimensions=384, words="passage")
# What is remembered of notes whose newest version is not told by their points alone (`processors.versions`): found by ids, never by
# its vectors, and beside the alias, so that what a rebuild makes is guarded by it too.
VERSIONS: Final = CollectionSpec("notes-versions", vector="none", dimensions=1, indexes={}, served=False)


# What is remembered of images (`processors.instances`): likewise.
INSTANCES: Final = CollectionSpec(
    "images-versions", vector="none", dimensions=1, indexes={"instance_uid": "keyword"}, served=False
)


def images(dimensions: int) -> CollectionSpec:
    """Describe the images' collection for an image-text model of that many dimensions."""
    indexes: Mapping[str, IndexKind] = {**PAYLOAD_INDEXES, "instance_uid": "keyword"}
    return CollectionSpec("images", vector="image", dimensions=dimensions, indexes=indexes)
