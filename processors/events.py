"""What travels: the events on Vigil's topics, as they stand on the wire (JSON, one event a Kafka record).

Every event class names its topic and its CloudEvents type. Classes are frozen; unknown fields are ignored on reading, so a newer
producer does not break an older lane; a changed *meaning* gets a new version in the type name (`...note.v2`) and a class of its
own. Times are aware datetimes (ISO 8601, UTC on the wire). Spans are in characters (Unicode code points) of the text as given.
Units are UCUM (https://ucum.org), codes LOINC (https://loinc.org) unless a field says otherwise.

`patient_id` is Vigil's own pseudonym (`processors.identity.patient_id`), the key of every record that has one.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

Probability = Annotated[float, Field(ge=0, le=1)]

# How long what stands in an input may be, in characters. Everything that comes of an event repeats its ids and codes: unbounded, a
# record that just fits its topic makes a score, an audit record or a snapshot that fits none. Far above what the standards allow
# (HL7 v2 ST 199, FHIR id 64, DICOM UI 64, LO 64), so that what is refused is broken and not merely long.
Id = Annotated[str, Field(max_length=512)]
Code = Annotated[str, Field(max_length=256)]
Unit = Annotated[str, Field(max_length=128)]
LONGEST_NAME: Final = 512
Name = Annotated[str, Field(max_length=LONGEST_NAME)]
Line = Annotated[str, Field(max_length=4096)]
MOST_OBSERVATIONS: Final = 2000  # of one set
MOST_IDENTIFIERS: Final = 500  # of one patient


class Part(BaseModel):
    """A part of an event: frozen, tolerant of fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")


P = TypeVar("P", bound=Part)
_set: Final = object.__setattr__


class _Names(dict[type[Part], set[str]]):
    """The names of each kind's fields: pydantic looks them up anew each time."""

    def __missing__(self, kind: type[Part]) -> set[str]:
        self[kind] = names = set(kind.model_fields)
        return names


_names: Final = _Names()


def trusted(kind: type[P], fields: dict[str, Any]) -> P:
    """Make a model of fields that this code has just computed: *all* of them, each of its own type; nothing is checked or copied.

    For the few that are made for every set of vitals, where validation is a third of the work. It does what pydantic's
    `model_construct` does, without its search for aliases and defaults, which costs more than validating. Tests hold that what
    is made so equals what validation makes of it.
    """
    made = kind.__new__(kind)
    _set(made, "__dict__", fields)
    _set(made, "__pydantic_fields_set__", _names[kind])
    _set(made, "__pydantic_extra__", None)
    _set(made, "__pydantic_private__", None)
    return made


@dataclass(frozen=True, slots=True)
class Excess:
    """What of an event is longer than it may be. `value` is patient data: it serves to find its place, never to be shown."""

    field: str
    value: Any
    most: int
    things: str  # that `most` counts: characters, items


def excess(error: ValidationError) -> Excess | None:
    """Return what is too long, None where an event is wrong for another reason."""
    for one in error.errors():
        if one["type"] in ("string_too_long", "too_long"):
            things = "characters" if one["type"] == "string_too_long" else "items"
            return Excess(".".join(map(str, one["loc"])), one["input"], one["ctx"]["max_length"], things)
    return None


def to_json(part: Part) -> bytes:
    """Return the JSON of an event as it stands on the wire, byte for byte what pydantic writes, in a third of its time.

    Raises `TypeError` (orjson's `JSONEncodeError`) for text with lone surrogates, which is not Unicode.
    """
    return orjson.dumps(part, default=_fields, option=orjson.OPT_UTC_Z)


def _fields(part: Part) -> dict[str, Any]:
    return part.__dict__


class Event(Part):
    """What every event has. `id` is deterministic: a repeat of the same event has the same id."""

    topic: ClassVar[str]
    type: ClassVar[str]  # CloudEvents `type`

    id: Id = Field(min_length=1)


class Source(Part):
    """The record that an output was made from: lets a rebuild of state leave out what lies past the commit."""

    topic: str
    partition: int
    offset: int
    event_id: str


class Origin(Part):
    """The sender's message that an input came from."""

    protocol: Literal["hl7v2", "fhir", "dicom", "file", "vigil"]
    peer: Name = ""  # the peer's configured name, never a person's
    message_id: Id = ""  # HL7 MSH-10, FHIR versioned id, DICOM SOP Instance UID
    message_type: Code = ""  # HL7 MSH-9, FHIR resource type, DICOM SOP class
    digest: Code = ""  # SHA-256 of the message's bytes, hex


class ModelRef(Part):
    """The model that answered."""

    name: str
    version: str
    digest: str  # SHA-256 over the digests of all its files, hex


class Coding(Part):
    """A code with its system; `system` is an URI such as http://loinc.org, empty for a sender's own code."""

    system: Name = ""
    code: Code
    display: Line = ""


class ObjectReference(Part):
    """Where the bytes lie (claim check: no pixels in Kafka). `uri` is relative to the configured object store."""

    uri: Line
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    media_type: Code
    bytes: int = Field(ge=0)


ProcessingId = Literal["production", "training", "debugging"]  # HL7 table 0103; only production ever alerts live

# ---------------------------------------------------------------------------------------------------------------- inputs


class NoteEvent(Event):
    """One version of one clinical document. `note_id` stays over its versions; `id` names this version."""

    topic: ClassVar[str] = "clinical.notes"
    type: ClassVar[str] = "org.vigil.note.v1"

    patient_id: Id
    encounter_id: Id | None = None
    note_id: Id
    status: Literal["preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error"] = "final"
    relation: Literal["original", "addendum", "replacement", "edit", "cancel"] = "original"
    replaces: Id | None = None  # note_id of the document that this one replaces or adds to
    note_type: Coding  # LOINC document type where the sender gives one
    text: str
    authored_at: AwareDatetime
    received_at: AwareDatetime
    processing: ProcessingId = "production"
    origin: Origin


class ImageEvent(Event):
    """One image's metadata and the reference to its de-identified pixels."""

    topic: ClassVar[str] = "clinical.images"
    type: ClassVar[str] = "org.vigil.image.v1"

    patient_id: Id
    encounter_id: Id | None = None
    study_uid: Id
    series_uid: Id
    instance_uid: Id
    modality: Code  # DICOM (0008,0060): CR, DX, CT, ...
    body_part: Code = ""  # DICOM (0018,0015)
    view: Code = ""  # DICOM (0018,5101)
    rows: int = Field(gt=0)
    columns: int = Field(gt=0)
    pixels: ObjectReference
    acquired_at: AwareDatetime
    received_at: AwareDatetime
    processing: ProcessingId = "production"
    origin: Origin


ObservationStatus = Literal[
    "final", "preliminary", "amended", "corrected", "entered-in-error", "cancelled", "registered", "unknown"
]  # FHIR observation-status; HL7 table 0085: F P/R C,U W,D X


class Observation(Part):
    """One measured value. `code` is LOINC; `value` is in `unit` (UCUM) as sent, converted by the lane; text for coded ones."""

    code: Code
    value: float | Line | None = None
    unit: Unit = ""
    status: ObservationStatus = "final"
    observed_at: AwareDatetime | None = None  # where it differs from the set's


class VitalsEvent(Event):
    """One set of observations of one patient, observed together."""

    topic: ClassVar[str] = "clinical.vitals"
    type: ClassVar[str] = "org.vigil.vitals.v1"

    patient_id: Id
    encounter_id: Id | None = None
    observed_at: AwareDatetime
    received_at: AwareDatetime
    observations: tuple[Observation, ...] = Field(max_length=MOST_OBSERVATIONS)
    device: Name = ""
    charted: bool = True  # a validated set; False: a monitor's unvalidated stream, which needs persistence before it counts
    moved_from: tuple[str, ...] = ()  # the lane passed it on from a record that was merged into this patient's: under which ids
    processing: ProcessingId = "production"
    origin: Origin


class Identifier(Part):
    """A number of the hospital's for a patient or a visit, as sent. Stands in `clinical.patients` only."""

    authority: Name
    value: Name
    kind: Code = ""  # HL7 table 0203: MR, PI, ...


class Location(Part):
    """Where the patient lies (HL7 PV1-3)."""

    ward: Name = ""
    room: Name = ""
    bed: Name = ""


UNDATED: Final = datetime(1970, 1, 1, tzinfo=UTC)  # `PatientEvent.effective_at` where registration has not spoken yet


class PatientEvent(Event):
    """A patient's context as it stands, whole: the newest record of a key replaces the older (compacted topic).

    `None` means unknown, never "no": NEWS2 does not alert for unknown age. Scale 2 only by a clinician's recorded decision.
    """

    topic: ClassVar[str] = "clinical.patients"
    type: ClassVar[str] = "org.vigil.patient.v1"

    patient_id: Id
    identifiers: tuple[Identifier, ...] = Field((), max_length=MOST_IDENTIFIERS)
    birth_date: Code | None = None  # ISO date
    pregnant: bool | None = None
    spo2_scale: Literal[1, 2] = 1
    spo2_scale_decided_by: Id | None = None
    ceiling_of_care: Line | None = None
    encounter_id: Id | None = None
    visit: Identifier | None = None  # the number that encounter_id is the pseudonym of, where the stay has one
    encounter_status: Literal["planned", "in-progress", "finished", "cancelled", "unknown"] = "unknown"
    encounter_class: Literal["inpatient", "emergency", "outpatient"] | None = None
    encounter_since: AwareDatetime | None = None  # when the stay began, as its sender says
    location: Location = Location()
    deceased: bool = False
    merged_into: Id | None = None  # the surviving patient_id
    deleted: bool = False  # by registration; any later word of it takes that back
    effective_at: AwareDatetime
    received_at: AwareDatetime
    origin: Origin


class FeedbackEvent(Event):
    """What came back from people or their systems."""

    topic: ClassVar[str] = "clinical.feedback"
    type: ClassVar[str] = "org.vigil.feedback.v1"

    patient_id: Id
    kind: Literal["alert-acknowledged", "alert-declined", "finding-confirmed", "finding-corrected"]
    target_id: Id  # alert_id, or the id of the event that holds the finding
    by: Id  # the actor's id in the site's directory
    reason: Line = ""
    label: Line = ""  # the corrected label
    given_at: AwareDatetime
    received_at: AwareDatetime
    origin: Origin


# --------------------------------------------------------------------------------------------------------------- outputs


class Output(Event):
    """What a lane made from one input."""

    patient_id: str
    source: Source


Assertion = Literal["present", "negated", "historical", "hypothetical", "family"]


class Entity(Part):
    """A mention: `note.text[start:end] == text`."""

    label: str
    text: str
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    score: Probability
    assertion: Assertion = "present"
    section: str = ""


class EntitiesEvent(Output):
    """The entities of one version of a note. Without entities when the note was cancelled: readers drop what they had."""

    topic: ClassVar[str] = "clinical.entities"
    type: ClassVar[str] = "org.vigil.entities.v1"

    encounter_id: str | None = None
    note_id: str
    note_status: str
    authored_at: AwareDatetime
    entities: tuple[Entity, ...]
    model: ModelRef


class Finding(Part):
    """A label that an image's pixels point at, with a calibrated score."""

    label: str
    score: Probability
    above_threshold: bool = False


class FindingsEvent(Output):
    """The findings of one image. Assistive: never a diagnosis."""

    topic: ClassVar[str] = "clinical.findings"
    type: ClassVar[str] = "org.vigil.findings.v1"

    encounter_id: str | None = None
    study_uid: str
    instance_uid: str
    acquired_at: AwareDatetime
    findings: tuple[Finding, ...]
    model: ModelRef


class Parameter(Part):
    """One NEWS2 parameter as it was scored."""

    name: str  # as in `processors.news2`
    value: float | str
    unit: str
    points: int = Field(ge=0, le=3)
    observed_at: AwareDatetime


class News2(Part):
    """NEWS2 (Royal College of Physicians 2017). `at_least`: parameters are missing, the true total may be higher."""

    total: int = Field(ge=0, le=20)
    at_least: bool
    missing: tuple[str, ...] = ()
    single_three: bool
    scale: Literal[1, 2]
    band: Literal["low", "low-medium", "medium", "high"]
    parameters: tuple[Parameter, ...]


class Driver(Part):
    """How far one vital sign moved the deterioration score (signed, in probability)."""

    name: str
    effect: float


class Deterioration(Part):
    """The model's probability of deterioration within `horizon_hours`, and what drove it: the strongest three vital signs.

    `drivers` is empty where nobody is likely to ask: NEWS2 is below every threshold (or not known) and the probability below the
    setting `models.drivers_from`; and where no vital sign moved it by 0.0001 or more.
    """

    probability: Probability
    horizon_hours: int
    drivers: tuple[Driver, ...] = ()
    model: ModelRef


class Rejected(Part):
    """An observation that was not used, and why (impossible value, unknown unit, not final, ...)."""

    code: str
    reason: str


class ScoreEvent(Output):
    """The scores of one patient after one set of vitals.

    `news2` is None with `news2_reason` where NEWS2 does not apply; `deterioration` is None with `deterioration_reason` when the
    model is absent or late: then NEWS2 stands alone, and says so.
    """

    topic: ClassVar[str] = "clinical.scores"
    type: ClassVar[str] = "org.vigil.scores.v1"

    encounter_id: str | None = None
    observed_at: AwareDatetime
    received_at: AwareDatetime
    late: bool = False  # history: older than what is already known or than the staleness limit; never alerts
    news2: News2 | None = None
    news2_reason: str = ""
    deterioration: Deterioration | None = None
    deterioration_reason: str = ""
    rejected: tuple[Rejected, ...] = ()
    processing: ProcessingId = "production"
    # future-stamp (observed later than received: used as of receipt), scale-2-without-decision (scale 1 was used), not-watched
    # (discharged or deceased: never alerts), moved (came under a record that was merged away: goes on to the surviving one),
    # catching-up (from an outage's backlog), test-traffic
    flags: tuple[str, ...] = ()


AlertState = Literal["raised", "updated", "acknowledged", "declined", "escalated", "resolved", "withdrawn"]
AlertKind = Literal["news2", "deterioration", "no-observations", "feed-stopped", "monitoring-blind"]
Severity = Literal["information", "low-medium", "medium", "high"]


class AlertEvent(Output):
    """One step in an alert's life. `alert_id` stays over its life, `sequence` counts its steps from 0, `id` names this step.

    The wording assists and never diagnoses. Receivers act on `observed_at` and show `received_at`. One that chooses by route takes
    what names its route in `routes`: all that were told of the alert so far, so that whoever heard of it hears of its end.
    """

    topic: ClassVar[str] = "clinical.alerts"
    type: ClassVar[str] = "org.vigil.alert.v1"

    alert_id: str
    sequence: int = Field(ge=0)
    kind: AlertKind
    state: AlertState
    severity: Severity
    title: str  # one line for a small screen
    detail: str  # what was seen, in words
    reason: str = ""  # why this step: hysteresis met, corrected value, discharged, acknowledged by ...
    encounter_id: str | None = None
    location: Location = Location()
    route: str = "default"  # where the site's policy sends it; a ceiling of care re-routes, visibly
    routes: tuple[str, ...] = ()  # in order, this step's too
    score_id: str | None = None
    news2: News2 | None = None
    observed_at: AwareDatetime
    received_at: AwareDatetime
    decided_at: AwareDatetime  # the lane's logged time
    by: str = ""  # who acknowledged or declined


class HeartbeatEvent(Event):
    """Said regularly on `clinical.alerts` by each partition of the vitals lane: silence means that the lane is down."""

    topic: ClassVar[str] = "clinical.alerts"
    type: ClassVar[str] = "org.vigil.heartbeat.v1"

    lane: str
    partition: int
    decided_at: AwareDatetime
    newest_observed_at: AwareDatetime | None = None
    patients: int = 0  # watched in this partition
    active_alerts: int = 0
    set_back_seconds: float = (
        0.0  # logged time went back by so much: a clock was, or is, wrong; earlier `decided_at` may lie ahead
    )
    alerts_per_100_patient_days: float | None = None  # of the last 24 hours; None before an hour was watched in all


class ShadowEvent(Event):
    """What a challenger answered beside the champion, for comparison only: nothing acts on it, no alert, no chart, no search.

    `disagreement` is 0 where both said the same and 1 where nothing of it was (`processors.comparing`); None where the challenger
    failed (`error` is the error's class) or the two cannot be compared. Made at most once for an input, and left out under load.
    """

    topic: ClassVar[str] = "clinical.shadow"
    type: ClassVar[str] = "org.vigil.shadow.v1"

    patient_id: str
    source: Source
    task: str
    champion: ModelRef
    challenger: ModelRef
    disagreement: Probability | None = None
    error: str = ""
    entities: tuple[Entity, ...] = ()  # the challenger's
    findings: tuple[Finding, ...] = ()  # the challenger's
    compared_at: AwareDatetime


class AuditEntry(Part):
    """One prediction or access."""

    event_id: str  # the output's id, or the request's
    input_id: str = ""
    input_digest: str = ""  # SHA-256 of the input as it was used, hex
    outcome: str  # ok, dead-letter, refused, ...
    patient_id: str = ""


class AuditEvent(Event):
    """Who or what did what: after FHIR AuditEvent / IHE BALP. One record may carry the entries of a micro-batch.

    The topic is protected health information itself.
    """

    topic: ClassVar[str] = "clinical.audit"
    type: ClassVar[str] = "org.vigil.audit.v1"

    action: Literal["predict", "access", "replay", "redrive", "discard", "model-change", "configuration-change", "lifecycle"]
    agent: str  # lane and worker, or the user
    subject: str  # what it is about: the lane's input topic-partition, a model, a patient
    model: ModelRef | None = None
    entries: tuple[AuditEntry, ...] = ()
    reason: str = ""
    source: Source | None = None
    recorded_at: AwareDatetime


class Header(Part):
    """One Kafka header; the value base64."""

    name: str
    value: str | None


class Cut(Part):
    """What a dead letter had no room for: the original's sizes in bytes, and the digest by which the whole is known again.

    The letter's key, value and headers are then the original's beginnings. The whole stands at its place for as long as the
    topic keeps it.
    """

    key_bytes: int = Field(ge=0)
    value_bytes: int = Field(ge=0)
    headers: int = Field(ge=0)  # how many
    header_bytes: int = Field(ge=0)  # names and values
    sha256: str  # of the original's value, hex


class DeadLetterEvent(Event):
    """What could not be processed: whole, so that it can be redriven byte for byte. `message` carries no patient text.

    Of an original that fits no letter it holds the beginnings, and says so in `cut`.
    """

    topic: ClassVar[str] = "clinical.dead-letters"
    type: ClassVar[str] = "org.vigil.dead-letter.v1"

    lane: str
    stage: str  # decode, fetch, model, produce, store, map, ...
    error_class: Literal["Poison", "Permanent"]
    error: str  # the exception's class
    message: str
    attempts: int = Field(ge=1)
    model_digest: str = ""
    peer: Name = ""  # of a connector's letter: the sender's configured name, or the file's
    message_type: Code = ""  # likewise, where it is known: HL7 type and trigger, FHIR resource type, DICOM SOP class
    original_topic: str
    original_partition: int
    original_offset: int
    original_timestamp: datetime | None = None
    original_key: str | None = None  # base64
    original_value: str | None = None  # base64
    original_headers: tuple[Header, ...] = ()
    cut: Cut | None = None
    tried_offset: int | None = None  # of the record that was read then: the original, or a copy of it in the same partition
    failed_at: AwareDatetime


class DeadLetterMarkEvent(Event):
    """What an operator did about a dead letter, on its own topic and partition; the topic keeps both until their time is over.

    It names the failure that it is about. A letter of the same id about a later copy is another failure, whenever the mark came:
    the letter is open.
    """

    topic: ClassVar[str] = "clinical.dead-letters"
    type: ClassVar[str] = "org.vigil.dead-letter-mark.v1"

    letter_id: str
    state: Literal["redriven", "discarded"]
    attempts: int = Field(ge=1)  # of the letter as it stood
    tried_offset: int | None = None  # of the letter as it stood; a connector's letter has none, its time names the failure
    failed_at: AwareDatetime | None = None  # of the letter as it stood
    by: str  # the operator, as the site's directory knows them
    marked_at: AwareDatetime


EVENTS: tuple[type[Event], ...] = (
    NoteEvent,
    ImageEvent,
    VitalsEvent,
    PatientEvent,
    FeedbackEvent,
    EntitiesEvent,
    FindingsEvent,
    ScoreEvent,
    AlertEvent,
    HeartbeatEvent,
    ShadowEvent,
    AuditEvent,
    DeadLetterEvent,
    DeadLetterMarkEvent,
)
TOPICS: tuple[str, ...] = tuple(dict.fromkeys(event.topic for event in EVENTS))
