"""What travels: the events on Vigil's topics, as they stand on the wire (JSON, one event a Kafka record).

Every event class names its topic and its CloudEvents type. Classes are frozen; unknown fields are ignored on reading, so a newer
producer does not break an older lane; a changed *meaning* gets a new version in the type name (`...note.v2`) and a class of its
own. Times are aware datetimes (ISO 8601, UTC on the wire). Spans are in characters (Unicode code points) of the text as given.
Units are UCUM (https://ucum.org), codes LOINC (https://loinc.org) unless a field says otherwise.

`patient_id` is Vigil's own pseudonym (`processors.identity.patient_id`), the key of every record that has one.

The docstring under a field is its description in the published schema: unit and code system belong there.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

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

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null", use_attribute_docstrings=True)


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
    """Deterministic: a repeat of the same event has the same id, and overwrites. A UUID (version 8) of what identifies it."""


class Source(Part):
    """The record that an output was made from: lets a rebuild of state leave out what lies past the commit."""

    topic: str
    """The input's topic, without the site's prefix."""
    partition: int
    """The input's partition."""
    offset: int
    """The input's offset."""
    event_id: str
    """The input's event id."""


class Origin(Part):
    """The sender's message that an input came from."""

    protocol: Literal["hl7v2", "fhir", "dicom", "file", "vigil"]
    """By which way it came in; `vigil`: made by Vigil or one of its receivers."""
    peer: Name = ""
    """The peer's configured name, never a person's."""
    message_id: Id = ""
    """The message's own id: HL7 MSH-10, FHIR versioned id, DICOM SOP Instance UID."""
    message_type: Code = ""
    """HL7 MSH-9, FHIR resource type, DICOM SOP class UID."""
    digest: Code = ""
    """SHA-256 of the message's bytes, hex."""


class ModelRef(Part):
    """The model that answered."""

    name: str
    """The model's name in the registry."""
    version: str
    """The model's version in the registry."""
    digest: str
    """SHA-256 over the digests of all its files, hex."""


class Coding(Part):
    """A code with its system; `system` is an URI such as http://loinc.org, empty for a sender's own code."""

    system: Name = ""
    """The code's system as an URI, such as http://loinc.org; empty for a sender's own code."""
    code: Code
    """The code in that system."""
    display: Line = ""
    """The code in words, as the sender gives them."""


class ObjectReference(Part):
    """Where the bytes lie (claim check: no pixels in Kafka). `uri` is relative to the configured object store."""

    uri: Line
    """Where the bytes lie, relative to the configured object store."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the bytes, hex."""
    media_type: Code
    """Media type (RFC 6838), such as image/png."""
    bytes: int = Field(ge=0)
    """Size in bytes."""


ProcessingId = Literal["production", "training", "debugging"]  # HL7 table 0103; only production ever alerts live

Relation = Literal["original", "addendum", "replacement", "edit", "cancel"]  # of a document to another, or to its own versions

# ---------------------------------------------------------------------------------------------------------------- inputs


class NoteEvent(Event):
    """One version of one clinical document. `note_id` stays over its versions; `id` names this version."""

    topic: ClassVar[str] = "clinical.notes"
    type: ClassVar[str] = "org.vigil.note.v1"

    patient_id: Id
    """Vigil's pseudonym of the patient: a keyed hash of assigning authority and identifier. The record's key."""
    encounter_id: Id | None = None
    """Vigil's pseudonym of the stay; null where none is known."""
    note_id: Id
    """The document's id, the same over its versions."""
    status: Literal["preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error"] = "final"
    """What the document is by now, as its sender says (after FHIR composition-status; HL7 tables 0271 and 0085)."""
    relation: Relation = "original"
    """To what came before: a first version, something added, another document in its place, a correction, a withdrawal."""
    replaces: Id | None = None
    """`note_id` of the document that this one replaces or adds to."""
    note_type: Coding
    """LOINC document type where the sender gives one."""
    text: str
    """The note's plain text (Unicode). Spans of entities count its code points."""
    authored_at: AwareDatetime
    """When it was written, as its sender says."""
    received_at: AwareDatetime
    """When it was received."""
    processing: ProcessingId = "production"
    """HL7 table 0103; only `production` ever alerts live."""
    origin: Origin
    """The sender's message that it came from."""


class ImageEvent(Event):
    """One image's metadata and the reference to its de-identified pixels; or the word that takes an image back.

    `instance_uid` names the image over its versions, `id` this version. A DICOM SOP Instance UID is one image of one patient: one
    that comes under another patient takes the place of what came before. A word that takes back (`status` not final) has no pixels.
    """

    topic: ClassVar[str] = "clinical.images"
    type: ClassVar[str] = "org.vigil.image.v1"

    patient_id: Id
    """Vigil's pseudonym of the patient: a keyed hash of assigning authority and identifier. The record's key."""
    encounter_id: Id | None = None
    """Vigil's pseudonym of the stay; null where none is known."""
    study_uid: Id
    """DICOM (0020,000D) Study Instance UID."""
    series_uid: Id
    """DICOM (0020,000E) Series Instance UID."""
    instance_uid: Id
    """DICOM (0008,0018) SOP Instance UID."""
    status: Literal["final", "cancelled", "entered-in-error"] = "final"
    """What the image is by now: there; no longer kept by its archive; rejected by it, as of another patient or of no use."""
    reason: Line = ""
    """Why it was taken back: DICOM's words for the code of the rejection note (PS3.16 CID 7010), or what became of a FHIR Media."""
    modality: Code
    """DICOM (0008,0060): CR, DX, CT, ...; empty where it is taken back."""
    body_part: Code = ""
    """DICOM (0018,0015), as sent, else the meaning of the code in (0008,2218) Anatomic Region; empty where neither is."""
    view: Code = ""
    """DICOM (0018,5101), as sent: PA, AP, LL, ..., else the meaning of the code in (0054,0220) View; empty where neither is."""
    described: tuple[Line, ...] = ()
    """DICOM (0008,103E) Series, (0018,1030) Protocol, (0008,1030) Study Description, those that are sent, nearest first."""
    rows: int | None = Field(None, gt=0)
    """Height in pixels; null where it is taken back."""
    columns: int | None = Field(None, gt=0)
    """Width in pixels; null likewise."""
    pixels: ObjectReference | None = None
    """Where the de-identified picture lies; null likewise."""
    acquired_at: AwareDatetime
    """When the picture was taken; of a word that takes back: when it was said."""
    received_at: AwareDatetime
    """When it was received."""
    processing: ProcessingId = "production"
    """HL7 table 0103; only `production` ever alerts live."""
    origin: Origin
    """The sender's message that it came from."""

    @model_validator(mode="after")
    def _pictured(self) -> "ImageEvent":
        if self.status == "final" and None in (self.rows, self.columns, self.pixels):
            raise ValueError("an image has rows, columns and pixels unless it is taken back")
        return self


Comparator = Literal["", "<", "<=", ">=", ">"]
ObservationStatus = Literal[
    "final", "preliminary", "amended", "corrected", "entered-in-error", "cancelled", "registered", "unknown"
]  # FHIR observation-status; HL7 table 0085: F P/R C,U W,D X


class Observation(Part):
    """One measured value. `code` is LOINC; `value` is in `unit` (UCUM) as sent, converted by the lane; text for coded ones."""

    code: Code
    """LOINC code of what was measured; 1104441000000107 (SNOMED CT UK, ACVPU scale) is read too."""
    value: float | Line | None = None
    """A number in `unit`; text where coded: an ACVPU letter, word or answer code (LOINC, SNOMED CT), air, oxygen; null: none."""
    unit: Unit = ""
    """UCUM, as sent (the lane converts it); empty for coded values and where none was sent."""
    comparator: Comparator = ""
    """`value` is a bound (FHIR Quantity.comparator): passed on only where whatever it may mean has the same NEWS2 points."""
    status: ObservationStatus = "final"
    """FHIR observation-status; of HL7 the code of table 0085 in FHIR's words."""
    refused: Line = ""
    """Why what was sent cannot be used, in Vigil's words; `value` is null then, and none of before stands for it. Else empty."""
    observed_at: AwareDatetime | None = None
    """When it was measured, where that differs from the set's time."""
    span: int = Field(0, ge=0, le=3600)
    """Of what takes back or corrects: for how many seconds its time lasts as written (60: to the minute); a value of any of them
    may be meant. 0: exactly that time."""


Severity = Literal["information", "low-medium", "medium", "high"]


class VitalsEvent(Event):
    """One set of observations of one patient, observed together."""

    topic: ClassVar[str] = "clinical.vitals"
    type: ClassVar[str] = "org.vigil.vitals.v1"

    patient_id: Id
    """Vigil's pseudonym of the patient: a keyed hash of assigning authority and identifier. The record's key."""
    encounter_id: Id | None = None
    """Vigil's pseudonym of the stay; null where none is known."""
    observed_at: AwareDatetime
    """When the set was measured, as its sender says."""
    received_at: AwareDatetime
    """When it was received."""
    observations: tuple[Observation, ...] = Field(max_length=MOST_OBSERVATIONS)
    """What was measured together."""
    device: Name = ""
    """The device's name, as sent."""
    charted: bool = True
    """True: a validated set. False: a monitor's unvalidated stream, which needs persistence before it counts."""
    moved_from: tuple[str, ...] = ()
    """The lane passed it on from a record that was merged into this patient's: the patient ids that it came under."""
    standing: Severity | None = None
    """Of what a merge moved: how grave the alert by NEWS2 was that stood there. It stands on here, however old the set is."""
    history: bool = False
    """True: late data whatever its time, so it never alerts live: passed on from a set that was redriven or replayed."""
    processing: ProcessingId = "production"
    """HL7 table 0103; only `production` ever alerts live."""
    origin: Origin
    """The sender's message that it came from."""


class Identifier(Part):
    """A number of the hospital's for a patient or a visit, as sent. Stands in `clinical.patients` only."""

    authority: Name
    """Who assigned the number: an HL7 assigning authority, or a FHIR system (URI)."""
    value: Name
    """The number, as sent. Identifies a person."""
    kind: Code = ""
    """HL7 table 0203: MR, PI, VN, ..."""


class Location(Part):
    """Where the patient lies (HL7 PV1-3)."""

    ward: Name = ""
    """The site's own name of the ward (PV1-3.1)."""
    room: Name = ""
    """The room (PV1-3.2)."""
    bed: Name = ""
    """The bed (PV1-3.3)."""
    facility: Name = ""
    """The hospital that these are in (PV1-3.4), where it is said: wards of two hospitals may have one name."""

    def other_hospital(self, place: "Location") -> bool:
        """Tell whether two places are of two hospitals: both say which, and not the same."""
        return bool(self.facility and place.facility) and self.facility != place.facility

    @property
    def ward_names(self) -> tuple[str, ...]:
        """What settings may call the ward, the narrower first: `FACILITY|WARD` where the facility is said, `WARD`."""
        return (*([f"{self.facility}|{self.ward}"] if self.facility and self.ward else ()), self.ward)


UNDATED: Final = datetime(1970, 1, 1, tzinfo=UTC)  # `PatientEvent.effective_at` where registration has not spoken yet


class PatientEvent(Event):
    """A patient's context as it stands, whole: the newest record of a key replaces the older (compacted topic).

    `None` means unknown, never "no": NEWS2 does not alert for unknown age. Scale 2 only by a clinician's recorded decision.
    """

    topic: ClassVar[str] = "clinical.patients"
    type: ClassVar[str] = "org.vigil.patient.v1"

    patient_id: Id
    """Vigil's pseudonym of the patient: a keyed hash of assigning authority and identifier. The record's key."""
    identifiers: tuple[Identifier, ...] = Field((), max_length=MOST_IDENTIFIERS)
    """The hospital's numbers for the patient."""
    birth_date: Code | None = None
    """ISO 8601 date, perhaps of year and month or year alone; null: unknown."""
    pregnant: bool | None = None
    """Null: unknown. NEWS2 does not apply in pregnancy."""
    spo2_scale: Literal[1, 2] = 1
    """NEWS2's scale for SpO2. 2 only by a clinician's recorded decision."""
    spo2_scale_decided_by: Id | None = None
    """Who decided for scale 2: their id in the site's directory. Without it scale 1 is used."""
    ceiling_of_care: Line | None = None
    """The recorded ceiling of care in the site's own words; re-routes alerts. Null: none known."""
    encounter_id: Id | None = None
    """Vigil's pseudonym of the stay; null where none is known."""
    visit: Identifier | None = None
    """The number that `encounter_id` is the pseudonym of, where the stay has one."""
    account: Identifier | None = None
    """The number of the stay's account (HL7 PID-18), where it is said."""
    encounter_status: Literal["planned", "in-progress", "finished", "cancelled", "unknown"] = "unknown"
    """How the stay stands (after FHIR encounter-status)."""
    encounter_class: Literal["inpatient", "emergency", "outpatient"] | None = None
    """What kind of stay (HL7 table 0004, FHIR v3-ActCode); null: unknown."""
    encounter_since: AwareDatetime | None = None
    """When the stay began, as its sender says."""
    location: Location = Location()
    """Where the patient lies."""
    deceased: bool = False
    """True once a death was recorded."""
    merged_into: Id | None = None
    """The surviving `patient_id` where this record was merged into another."""
    merged_by: Id | None = None
    """By whose word: the `patient_id` of the FHIR Patient whose link says so; this record's own where its number was corrected in a
    FHIR Patient. Null: not merged, or by another word."""
    deleted: bool = False
    """By registration; any later word of it takes that back."""
    stay_moved_to: Id | None = None
    """Whose record the stay was moved to that was this patient's so far. Said by that move alone: the next context has null."""
    effective_at: AwareDatetime
    """As of when this holds, as registration says; 1970-01-01 where it has not spoken yet."""
    received_at: AwareDatetime
    """When it was received."""
    origin: Origin
    """The sender's message that it came from."""


FeedbackKind = Literal[
    "alert-acknowledged", "alert-declined", "alert-answer-retracted", "finding-confirmed", "finding-corrected"
]


class FeedbackEvent(Event):
    """What came back from people or their systems."""

    topic: ClassVar[str] = "clinical.feedback"
    type: ClassVar[str] = "org.vigil.feedback.v1"

    patient_id: Id
    """Vigil's pseudonym of the patient: a keyed hash of assigning authority and identifier. The record's key."""
    kind: FeedbackKind
    """What was said: of an alert, or of a finding of an image. A retracted answer was given in error: the alert waits anew."""
    target_id: Id
    """`alert_id` of the alert, or the id of the event that holds the finding."""
    sequence: int | None = Field(None, ge=0)
    """The alert's step that was answered; null where the answer names none: then `given_at` tells."""
    by: Id
    """Who said it: their id in the site's directory."""
    reason: Line = ""
    """Why, in the person's words."""
    label: Line = ""
    """The corrected label, one of the model's; empty for an alert."""
    given_at: AwareDatetime
    """When the person said it. An answer of before an alert got graver (or was asked anew) is noted and stops nothing."""
    received_at: AwareDatetime
    """When it was received."""
    origin: Origin
    """The sender's message that it came from."""


# --------------------------------------------------------------------------------------------------------------- outputs


class Output(Event):
    """What a lane made from one input."""

    patient_id: str
    """Vigil's pseudonym of the patient: a keyed hash of assigning authority and identifier. The record's key.

    Of an alert about a feed or about the monitoring itself: `partition-N`, which it is about."""
    source: Source
    """The record that it was made from."""


Assertion = Literal["present", "negated", "historical", "hypothetical", "family"]


class Entity(Part):
    """A mention: `note.text[start:end] == text`."""

    label: str
    """What it is, by the model's labels (condition, symptom, medication, ...); no code of a terminology."""
    text: str
    """The mention as it stands in the note."""
    start: int = Field(ge=0)
    """Where it begins, in characters (Unicode code points) from 0."""
    end: int = Field(ge=0)
    """Where it ends, exclusive, likewise."""
    score: Probability
    """The model's probability of the span, 0 to 1; 1 for what the vocabulary found."""
    assertion: Assertion = "present"
    """Whether the note says that it is so: of this patient, now."""
    section: str = ""
    """The section of the note that it stands in, by its heading; empty before the first."""
    found_by: Literal["model", "vocabulary"] = "model"
    """Who found it: the model; or a table of terms (`EntitiesEvent.vocabulary`) and the rules for doses and values beside names,
    which are laid over what the model found."""


class EntitiesEvent(Output):
    """The entities of one version of a note, named in `source.event_id`; none where it was withdrawn: readers drop what they had.

    Of a note's versions the one stands that came last, each counted by the earliest `received_at` (then `source.offset`) that was
    seen of it: a sender may repeat an old version behind its correction, under the same ids and received later. One that names
    another note (`replaces`) and whose `relation` is replacement, edit or cancel is a version of that one too, without entities.
    What is not `processing` production is test traffic, and takes the place of nothing that is.
    """

    topic: ClassVar[str] = "clinical.entities"
    type: ClassVar[str] = "org.vigil.entities.v1"

    encounter_id: str | None = None
    """Vigil's pseudonym of the stay; null where none is known."""
    note_id: str
    """The note's `note_id`: what is known of it is replaced as a whole."""
    note_status: str
    """The note's status."""
    relation: Relation = "original"
    """The note's, to what came before: see NoteEvent."""
    replaces: str | None = None
    """`note_id` of the document that the note replaces or adds to."""
    authored_at: AwareDatetime
    """When the note was written."""
    received_at: AwareDatetime | None = None
    """When this copy of the note was received; null in events of before this was said."""
    processing: ProcessingId = "production"
    """The note's: HL7 table 0103; what is not `production` is test traffic."""
    entities: tuple[Entity, ...]
    """In the order of the text."""
    vocabulary: str | None = None
    """SHA-256 (hex) over the tables of terms that were laid over what the model found; null where none was."""
    model: ModelRef
    """Who answered: name, version and digest."""


class Finding(Part):
    """A label that an image's pixels point at, with a calibrated score."""

    label: str
    """What the pixels point at, by the model's labels; no code of a terminology."""
    score: Probability
    """Calibrated probability, 0 to 1."""
    above_threshold: bool = False
    """Whether the score reaches the label's threshold: counts as found."""


class FindingsEvent(Output):
    """The findings of one version of an image; none where it was withdrawn: readers drop what they had. Never a diagnosis.

    None either where the model is not meant for such a picture: then `not_judged` says why, and nothing is said of the image.

    A version is withdrawn by an event of its own, under the patient that its findings stand under: `image_status` is not final, and
    `image_id` names the version. That holds for good, whichever of the two is read first: by a rejection note, or because the same
    SOP Instance UID came under another patient (then `source` is that record). A rejection has an event under its own patient too.
    """

    topic: ClassVar[str] = "clinical.findings"
    type: ClassVar[str] = "org.vigil.findings.v1"

    encounter_id: str | None = None
    """Vigil's pseudonym of the stay; null where none is known."""
    study_uid: str
    """DICOM (0020,000D) Study Instance UID."""
    instance_uid: str
    """DICOM (0008,0018) SOP Instance UID."""
    image_id: str = ""
    """Id of the ImageEvent that it is about; empty in events of before this was said: then `source.event_id`."""
    image_status: str = "final"
    """The image's status. Not final: what was found in `image_id` is withdrawn."""
    reason: str = ""
    """Why it was withdrawn; empty where it was not."""
    acquired_at: AwareDatetime
    """When the picture was taken."""
    processing: ProcessingId = "production"
    """The picture's: HL7 table 0103; what is not `production` is test traffic."""
    modality: Code = ""
    """The image's; empty where it was withdrawn, and in events of before this was said."""
    body_part: Code = ""
    """The image's; empty likewise, and where it is not known."""
    view: Code = ""
    """The image's; empty likewise."""
    not_judged: Line = ""
    """Why the model was not asked: what the picture is of, or is not known to be of, is not what it is meant for. Else empty."""
    findings: tuple[Finding, ...]
    """Every label of the model, highest score first; none where it was withdrawn or not judged."""
    model: ModelRef
    """Who answered: name, version and digest; of one withdrawn or not judged who would have."""


class Parameter(Part):
    """One NEWS2 parameter as it was scored."""

    name: str
    """respiratory_rate, spo2, oxygen, systolic, heart_rate, consciousness or temperature."""
    value: float | str
    """As the chart reads it: rounded, in `unit`; a word for oxygen (air, oxygen) and consciousness (A, C, V, P, U)."""
    unit: str
    """UCUM: /min, %, mm[Hg], Cel; empty for words."""
    points: int = Field(ge=0, le=3)
    """NEWS2 points, 0 to 3."""
    observed_at: AwareDatetime
    """When it was measured."""


class RefusedReading(Part):
    """The newest reading of a NEWS2 parameter, where it cannot be used and no usable one has come since."""

    name: str
    """The parameter."""
    reason: str
    """Why it cannot be used, in words: an impossible value, an unknown unit, no answer on the ACVPU scale."""
    observed_at: AwareDatetime
    """When it was measured."""


class News2(Part):
    """NEWS2 (Royal College of Physicians 2017). `at_least`: parameters are missing, the true total may be higher."""

    total: int = Field(ge=0, le=20)
    """The sum of the points, 0 to 20."""
    at_least: bool
    """Parameters are missing: the true total may be higher."""
    missing: tuple[str, ...] = ()
    """The parameters that are not known, by name. Also those of `refused`, though what scored before stands in for them."""
    single_three: bool
    """One parameter alone scores 3: asks for an urgent review by the ward."""
    scale: Literal[1, 2]
    """NEWS2's scale for SpO2 that was used: 2 is for hypercapnic respiratory failure."""
    band: Literal["low", "low-medium", "medium", "high"]
    """The clinical risk by NEWS2's thresholds: low 0 to 4, low-medium a single 3, medium 5 or 6, high 7 and more."""
    parameters: tuple[Parameter, ...]
    """What was scored, in the chart's order."""
    refused: tuple[RefusedReading, ...] = ()
    """The missing parameters whose newest reading was refused: none counts as normal by a reading of before."""


class Driver(Part):
    """How far one vital sign moved the deterioration score (signed, in probability)."""

    name: str
    """The vital sign, by the model's names (respiratory_rate, spo2, ...)."""
    effect: float
    """How far it moved the probability, signed: +0.12 raised it by 12 points of a hundred."""


class Deterioration(Part):
    """The model's probability of deterioration within `horizon_hours`, and what drove it: the strongest three vital signs.

    `drivers` is empty where nobody is likely to ask: NEWS2 is below every threshold (or not known) and the probability below the
    setting `models.drivers_from`; and where no vital sign moved it by 0.0001 or more.
    """

    probability: Probability
    """Of deterioration within the horizon, 0 to 1, to 4 decimals."""
    horizon_hours: int
    """The horizon in hours."""
    drivers: tuple[Driver, ...] = ()
    """The strongest effects, strongest first; when empty: see above."""
    model: ModelRef
    """Who answered: name, version and digest."""


class Rejected(Part):
    """An observation that was not used, and why (impossible value, unknown unit, not final, ...)."""

    code: str
    """LOINC code as sent; empty in a last entry that counts further ones."""
    reason: str
    """Why, in words."""


class ScoreEvent(Output):
    """The scores of one patient after one set of vitals; where the patient's age was read after it, once more after that context.

    `news2` is None with `news2_reason` where NEWS2 does not apply; `deterioration` is None with `deterioration_reason` when the
    model is absent or late: then NEWS2 stands alone, and says so.
    """

    topic: ClassVar[str] = "clinical.scores"
    type: ClassVar[str] = "org.vigil.scores.v1"

    encounter_id: str | None = None
    """The set's stay, Vigil's pseudonym; null where none was sent."""
    observed_at: AwareDatetime
    """When the set was measured."""
    received_at: AwareDatetime
    """When the connector received the set."""
    late: bool = False
    """History: older than what is already known or than the staleness limit; never alerts."""
    news2: News2 | None = None
    """NEWS2 of the patient's state as of this set; null where it does not apply."""
    news2_reason: str = ""
    """Why NEWS2 is null; empty otherwise."""
    deterioration: Deterioration | None = None
    """The model's answer; null where there is none."""
    deterioration_reason: str = ""
    """Why `deterioration` is null; empty otherwise."""
    rejected: tuple[Rejected, ...] = ()
    """What of the set was not used, and why."""
    processing: ProcessingId = "production"
    """HL7 table 0103; only `production` ever alerts live."""
    flags: tuple[str, ...] = ()
    """future-stamp (observed later than received: used as of receipt), scale-2-without-decision (scale 1 was used), not-watched
    (discharged or deceased: never alerts), moved (came under a record that was merged away: goes on to the surviving one),
    catching-up (from an outage's backlog, or out of a sender's queue), test-traffic, age-learned (of the newest set, scored anew
    with NEWS2 by what `source` names, a context on clinical.patients: the set's own score said that the age is unknown); a value
    that was sent as a bound and scored as the bound itself: `bound: 59408-5 <80 %`."""


AlertState = Literal["raised", "updated", "acknowledged", "declined", "escalated", "resolved", "withdrawn"]
AlertKind = Literal[
    "news2", "deterioration", "no-observations", "observed-after-end", "feed-stopped", "feed-late", "monitoring-blind"
]


class Answering(Part):
    """How an alert stands with those who were told of it, after this step. Times are the lane's logged time.

    The lane itself goes on from this, should its own memory be lost.
    """

    waiting_since: AwareDatetime | None = None
    """Since when an answer is waited for; null: none is (it was answered, it is over, the quiet route, a ceiling of care)."""
    links: int = 0
    """Links of the chain that were told since then."""
    escalated_at: AwareDatetime | None = None
    """When the last of them was told, or told again; null: none was."""
    asked: int = 0
    """`sequence` of the last step that had to be answered anew: an answer that names an older one is noted and stops nothing."""
    asked_at: AwareDatetime | None = None
    """When that was; null where only the first step had to be answered."""
    acknowledged_at: AwareDatetime | None = None
    """When the acknowledgement was taken that holds; null: none does."""
    quiet: bool = False
    """Beyond the ward's budget, or the patient's share of it: on the quiet route, and nobody is waited for."""
    held_until: AwareDatetime | None = None
    """Of an alert that is over: until when a like one that is no graver is held back; null: it is not."""


class AlertEvent(Output):
    """One step in an alert's life. `alert_id` stays over its life, `sequence` counts its steps from 0, `id` names this step.

    The wording assists and never diagnoses. Receivers act on `observed_at` and show `received_at`. One that chooses by route takes
    what names its route in `routes`: all that were told of the alert so far, so that whoever heard of it hears of its end.
    """

    topic: ClassVar[str] = "clinical.alerts"
    type: ClassVar[str] = "org.vigil.alert.v1"

    alert_id: str
    """Stays over the alert's life: what feedback names."""
    sequence: int = Field(ge=0)
    """Counts the steps of the alert's life from 0."""
    kind: AlertKind
    """What it rests on: NEWS2, the model, silence about a patient, observations of one who is recorded as gone, a feed's silence,
    a feed whose sets come too late to alert, a gap in the monitoring itself."""
    state: AlertState
    """The step that was taken."""
    severity: Severity
    """After NEWS2's bands; `information` where nothing is said of a patient's risk."""
    title: str
    """One line for a small screen."""
    detail: str
    """What was seen, in words."""
    reason: str = ""
    """Why this step: hysteresis met, corrected value, discharged, an answer's words, an answer that came too early to count ..."""
    encounter_id: str | None = None
    """The patient's stay, Vigil's pseudonym; null where none is known."""
    location: Location = Location()
    """Where the patient lies."""
    route: str = "default"
    """Where the site's policy sends it; a ceiling of care re-routes, visibly."""
    routes: tuple[str, ...] = ()
    """All routes that were told of the alert, in order, this step's too: who chooses by route hears the end of what they heard."""
    score_id: str | None = None
    """Id of the ScoreEvent that it rests on; null where it rests on silence."""
    news2: News2 | None = None
    """NEWS2 as of this step, where it is about it."""
    observed_at: AwareDatetime
    """When what it rests on was measured; of silence: since when."""
    received_at: AwareDatetime
    """When what it rests on was received; of silence: since when."""
    decided_at: AwareDatetime
    """The lane's logged time."""
    by: str = ""
    """Whose answer led to this step, or who took theirs back: their id in the site's directory."""
    peer: str = ""
    """The feed that it is about; empty where it is about none."""
    answering: Answering | None = None
    """Who is waited for, and since when; null where an alert climbs no chain: of a feed, or of the monitoring itself."""


class HeartbeatEvent(Event):
    """Said regularly on `clinical.alerts` by each partition of the vitals lane: silence means that the lane is down.

    It lies in the partition of that number, counted round where `clinical.alerts` has fewer.
    """

    topic: ClassVar[str] = "clinical.alerts"
    type: ClassVar[str] = "org.vigil.heartbeat.v1"

    lane: str
    """The lane that lives."""
    partition: int
    """The partition of its input that this is about."""
    decided_at: AwareDatetime
    """The lane's logged time."""
    newest_observed_at: AwareDatetime | None = None
    """When the newest set of this partition was measured."""
    patients: int = 0
    """Patients watched in this partition."""
    observed: int = 0
    """Patients of whom a set came lately (within 12.5 hours, unless the site says otherwise)."""
    cannot_alert: dict[str, int] = {}
    """Of those observed, how many no score can alert on, by reason: age-unknown; not-applicable (under 16, pregnant); not-watched
    (recorded as gone, and observed all the same); nothing-counts (no usable value); late (their sets come too old)."""
    active_alerts: int = 0
    """Alerts that stand in this partition."""
    set_back_seconds: float = 0.0
    """Logged time went back by so many seconds: a clock was, or is, wrong; earlier `decided_at` may lie ahead."""
    alerts_per_100_patient_days: float | None = None
    """Of the last 24 hours; null before an hour was watched in all."""


class ShadowEvent(Event):
    """What a challenger answered beside the champion, for comparison only: nothing acts on it, no alert, no chart, no search.

    `disagreement` is 0 where both said the same and 1 where nothing of it was (`processors.comparing`); None where the challenger
    failed (`error` is the error's class) or the two cannot be compared. Made at most once for an input, and left out under load.
    """

    topic: ClassVar[str] = "clinical.shadow"
    type: ClassVar[str] = "org.vigil.shadow.v1"

    patient_id: str
    """Vigil's pseudonym of the patient: a keyed hash of assigning authority and identifier. The record's key."""
    source: Source
    """The record that both answered to."""
    task: str
    """The registry's task: ner, image-text, ..."""
    champion: ModelRef
    """The model that serves."""
    challenger: ModelRef
    """The model on trial."""
    disagreement: Probability | None = None
    """0: both said the same; 1: nothing of it was. Null: not comparable, or the challenger failed."""
    error: str = ""
    """The class of the error that the challenger failed with; empty otherwise."""
    entities: tuple[Entity, ...] = ()
    """The challenger's, of a note."""
    findings: tuple[Finding, ...] = ()
    """The challenger's, of an image."""
    compared_at: AwareDatetime
    """When they were compared."""


class AuditEntry(Part):
    """One prediction or access."""

    event_id: str
    """The output's id, or the request's."""
    input_id: str = ""
    """The input's event id; of a redrive the dead letter's."""
    input_digest: str = ""
    """SHA-256 of the input as it was used, hex."""
    outcome: str
    """ok, dead-letter, refused, ..."""
    patient_id: str = ""
    """Vigil's pseudonym of the patient; empty where it is about none."""


class SettingChange(Part):
    """One of the things that a lane decides by, before and after: a setting, the version, the code or the model."""

    name: str
    """As `vigil settings` has it (`monitor.medium_total`); `version`, `code` (its digest) or `model`."""
    before: str | None = None
    """The value before, a text as it is and all else as JSON; null where there was none, or it is not known."""
    after: str | None = None
    """The value from now on, likewise."""


class AuditEvent(Event):
    """Who or what did what: after FHIR AuditEvent / IHE BALP. One record may carry the entries of a micro-batch.

    The topic is protected health information itself.
    """

    topic: ClassVar[str] = "clinical.audit"
    type: ClassVar[str] = "org.vigil.audit.v1"

    action: Literal["predict", "access", "replay", "redrive", "discard", "model-change", "configuration-change", "lifecycle"]
    """What was done."""
    agent: str
    """Lane and worker, or the user."""
    subject: str
    """What it is about: the lane's input topic and partition, a model, a patient. The record's key."""
    model: ModelRef | None = None
    """The model that answered, or that was changed."""
    entries: tuple[AuditEntry, ...] = ()
    """The predictions or accesses of one micro-batch or request; none where the record says it all."""
    changes: tuple[SettingChange, ...] = ()
    """Of a configuration-change: what a lane decides by otherwise from now on."""
    reason: str = ""
    """Why, as the user gave it, or what happened, in words."""
    source: Source | None = None
    """The record that it is about, where it is about one."""
    recorded_at: AwareDatetime
    """When it was recorded."""


class Header(Part):
    """One Kafka header; the value base64."""

    name: str
    """The header's name."""
    value: str | None
    """The header's value, base64; null where it has none."""


class Cut(Part):
    """What a dead letter had no room for: the original's sizes in bytes, and the digest by which the whole is known again.

    The letter's key, value and headers are then the original's beginnings. The whole stands at its place for as long as the
    topic keeps it.
    """

    key_bytes: int = Field(ge=0)
    """Size of the original's key in bytes."""
    value_bytes: int = Field(ge=0)
    """Size of the original's value in bytes."""
    headers: int = Field(ge=0)
    """How many headers the original has."""
    header_bytes: int = Field(ge=0)
    """Size of the original's headers, names and values, in bytes."""
    sha256: str
    """SHA-256 of the original's value, hex."""


class DeadLetterEvent(Event):
    """What could not be processed: whole, so that it can be redriven byte for byte. `message` carries no patient text.

    Of an original that fits no letter it holds the beginnings, and says so in `cut`.
    """

    topic: ClassVar[str] = "clinical.dead-letters"
    type: ClassVar[str] = "org.vigil.dead-letter.v1"

    lane: str
    """The lane that could not process it; `connector.NAME` of a connector's letter."""
    stage: str
    """Where it failed: decode, fetch, model, produce, store, map, ..."""
    error_class: Literal["Poison", "Permanent"]
    """Poison: the input is at fault. Permanent: the surroundings are, for good."""
    error: str
    """The exception's class."""
    message: str
    """What was wrong, in words; no patient text."""
    attempts: int = Field(ge=1)
    """How often it was tried, over all redrives."""
    model_digest: str = ""
    """Digest of the model that served, as in `ModelRef`; empty where none did."""
    peer: Name = ""
    """The sender's configured name, or the file's; of a lane's letter as the event's `origin` says."""
    message_type: Code = ""
    """Likewise, where it is known: HL7 type and trigger, FHIR resource type, DICOM SOP class."""
    original_topic: str
    """The original's topic; `connector.NAME` where it never was a Kafka record."""
    original_partition: int
    """The original's partition; -1 where it never was a Kafka record."""
    original_offset: int
    """The original's offset; -1 likewise."""
    original_timestamp: datetime | None = None
    """The original record's timestamp; null where it has none."""
    original_key: str | None = None
    """The original's key, base64. The letter's record has the same key."""
    original_value: str | None = None
    """The original's value, base64."""
    original_headers: tuple[Header, ...] = ()
    """The original's headers."""
    cut: Cut | None = None
    """What had no room; null where the original is whole."""
    tried_offset: int | None = None
    """Offset of the record that was read then: the original, or a copy of it in the same partition."""
    failed_at: AwareDatetime
    """When it failed."""


class DeadLetterMarkEvent(Event):
    """What an operator did about a dead letter, on its own topic and partition; the topic keeps both until their time is over.

    It names the failure that it is about. A letter of the same id about a later copy is another failure, whenever the mark came:
    the letter is open.
    """

    topic: ClassVar[str] = "clinical.dead-letters"
    type: ClassVar[str] = "org.vigil.dead-letter-mark.v1"

    letter_id: str
    """The dead letter's id."""
    state: Literal["redriven", "discarded"]
    """What was done about it."""
    attempts: int = Field(ge=1)
    """Of the letter as it stood."""
    tried_offset: int | None = None
    """Of the letter as it stood; a connector's letter has none, its time names the failure."""
    failed_at: AwareDatetime | None = None
    """Of the letter as it stood."""
    by: str
    """The operator, as the site's directory knows them."""
    marked_at: AwareDatetime
    """When it was done."""


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
