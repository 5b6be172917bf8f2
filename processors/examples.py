"""One example of each event, as published beside its schema. All people, ids and texts in them are invented."""

from datetime import UTC, datetime
from typing import Final

from processors.events import (
    AlertEvent,
    AuditEntry,
    AuditEvent,
    Coding,
    DeadLetterEvent,
    DeadLetterMarkEvent,
    Deterioration,
    Driver,
    EntitiesEvent,
    Entity,
    Event,
    FeedbackEvent,
    Finding,
    FindingsEvent,
    Header,
    HeartbeatEvent,
    Identifier,
    ImageEvent,
    Location,
    ModelRef,
    News2,
    NoteEvent,
    ObjectReference,
    Observation,
    Origin,
    Parameter,
    PatientEvent,
    Rejected,
    ScoreEvent,
    ShadowEvent,
    Source,
    VitalsEvent,
)
from processors.identity import content_hash, natural_id, patient_id

_AT: Final = datetime(2026, 1, 31, 8, 0, tzinfo=UTC)
_RECEIVED: Final = datetime(2026, 1, 31, 8, 0, 2, tzinfo=UTC)
_DECIDED: Final = datetime(2026, 1, 31, 8, 0, 3, tzinfo=UTC)
_PATIENT: Final = patient_id(b"an example secret", "EXAMPLE", "0001")
_ENCOUNTER: Final = "enc-0001"
_ORIGIN: Final = Origin(
    protocol="hl7v2", peer="ward-gateway", message_id="MSG00001", message_type="ORU^R01", digest=content_hash(b"example")
)
_TEXT: Final = "Patient reports chest pain since this morning. No fever."
_LOCATION: Final = Location(ward="3B", room="12", bed="A")
_REPORT: Final = Coding(system="http://loinc.org", code="11506-3", display="Progress note")


def _model(name: str) -> ModelRef:
    return ModelRef(name=name, version="1", digest=content_hash(name.encode()))


def _source(topic: str, what: str) -> Source:
    return Source(topic=topic, partition=0, offset=4711, event_id=natural_id("example", what))


_NEWS2: Final = News2(
    total=7,
    at_least=False,
    single_three=True,
    scale=1,
    band="high",
    parameters=(
        Parameter(name="respiratory_rate", value=26.0, unit="/min", points=3, observed_at=_AT),
        Parameter(name="spo2", value=93.0, unit="%", points=2, observed_at=_AT),
        Parameter(name="oxygen", value="oxygen", unit="", points=2, observed_at=_AT),
    ),
)

EXAMPLES: Final[tuple[Event, ...]] = (
    NoteEvent(
        id=natural_id("example", "note"),
        patient_id=_PATIENT,
        encounter_id=_ENCOUNTER,
        note_id="note-0001",
        note_type=_REPORT,
        text=_TEXT,
        authored_at=_AT,
        received_at=_RECEIVED,
        origin=_ORIGIN,
    ),
    ImageEvent(
        id=natural_id("example", "image"),
        patient_id=_PATIENT,
        encounter_id=_ENCOUNTER,
        study_uid="2.25.1",
        series_uid="2.25.2",
        instance_uid="2.25.3",
        modality="DX",
        body_part="CHEST",
        view="PA",
        described=("PA", "XR CHEST"),
        rows=2048,
        columns=2048,
        pixels=ObjectReference(uri="ab/cd/example.png", sha256=content_hash(b"pixels"), media_type="image/png", bytes=4096),
        acquired_at=_AT,
        received_at=_RECEIVED,
        origin=Origin(protocol="dicom", peer="CR1", message_id="2.25.3", message_type="1.2.840.10008.5.1.4.1.1.1.1"),
    ),
    VitalsEvent(
        id=natural_id("example", "vitals"),
        patient_id=_PATIENT,
        encounter_id=_ENCOUNTER,
        observed_at=_AT,
        received_at=_RECEIVED,
        observations=(
            Observation(code="9279-1", value=26, unit="/min"),
            Observation(code="59408-5", value=93, unit="%"),
            Observation(code="3151-8", value=4, unit="L/min"),
        ),
        origin=_ORIGIN,
    ),
    PatientEvent(
        id=natural_id("example", "patient"),
        patient_id=_PATIENT,
        identifiers=(Identifier(authority="EXAMPLE", value="0001", kind="MR"),),
        birth_date="1950-06-01",
        pregnant=False,
        encounter_id=_ENCOUNTER,
        visit=Identifier(authority="EXAMPLE", value="V-0001", kind="VN"),
        encounter_status="in-progress",
        encounter_class="inpatient",
        encounter_since=_AT,
        location=_LOCATION,
        effective_at=_AT,
        received_at=_RECEIVED,
        origin=_ORIGIN,
    ),
    FeedbackEvent(
        id=natural_id("example", "feedback"),
        patient_id=_PATIENT,
        kind="alert-acknowledged",
        target_id=natural_id("example", "alert"),
        by="staff-17",
        given_at=_DECIDED,
        received_at=_DECIDED,
        origin=Origin(protocol="vigil", peer="rapid-response-app"),
    ),
    EntitiesEvent(
        id=natural_id("example", "entities"),
        patient_id=_PATIENT,
        source=_source("clinical.notes", "note"),
        encounter_id=_ENCOUNTER,
        note_id="note-0001",
        note_status="final",
        authored_at=_AT,
        received_at=_RECEIVED,
        entities=(
            Entity(label="symptom", text="chest pain", start=16, end=26, score=0.97),
            Entity(label="symptom", text="fever", start=50, end=55, score=1.0, assertion="negated", found_by="vocabulary"),
        ),
        vocabulary="cd" * 32,
        model=_model("clinical-ner"),
    ),
    FindingsEvent(
        id=natural_id("example", "findings"),
        patient_id=_PATIENT,
        source=_source("clinical.images", "image"),
        encounter_id=_ENCOUNTER,
        study_uid="2.25.1",
        instance_uid="2.25.3",
        acquired_at=_AT,
        modality="DX",
        body_part="CHEST",
        view="PA",
        findings=(
            Finding(label="pneumonia", score=0.71, above_threshold=True),
            Finding(label="no finding", score=0.29),
        ),
        model=_model("chest-xray"),
    ),
    ScoreEvent(
        id=natural_id("example", "score"),
        patient_id=_PATIENT,
        source=_source("clinical.vitals", "vitals"),
        encounter_id=_ENCOUNTER,
        observed_at=_AT,
        received_at=_RECEIVED,
        news2=_NEWS2,
        deterioration=Deterioration(
            probability=0.31,
            horizon_hours=6,
            drivers=(Driver(name="respiratory_rate", effect=0.12), Driver(name="spo2", effect=0.05)),
            model=_model("deterioration"),
        ),
        rejected=(Rejected(code="8867-4", reason="impossible value: 0 /min"),),
    ),
    AlertEvent(
        id=natural_id("example", "alert", 0),
        patient_id=_PATIENT,
        source=_source("clinical.vitals", "vitals"),
        alert_id=natural_id("example", "alert"),
        sequence=0,
        kind="news2",
        state="raised",
        severity="high",
        title="NEWS2 7 (was 4): respirations 26/min (3), SpO2 93% (2), on oxygen (2)",
        detail="NEWS2 rose from 4 to 7. Emergency assessment is suggested by the NEWS2 chart.",
        encounter_id=_ENCOUNTER,
        location=_LOCATION,
        routes=("default",),
        score_id=natural_id("example", "score"),
        news2=_NEWS2,
        observed_at=_AT,
        received_at=_RECEIVED,
        decided_at=_DECIDED,
    ),
    HeartbeatEvent(
        id=natural_id("example", "heartbeat"),
        lane="vitals",
        partition=0,
        decided_at=_DECIDED,
        newest_observed_at=_AT,
        patients=24,
        observed=22,
        cannot_alert={"age-unknown": 2},
        active_alerts=1,
    ),
    ShadowEvent(
        id=natural_id("example", "shadow"),
        patient_id=_PATIENT,
        source=_source("clinical.notes", "note"),
        task="ner",
        champion=_model("clinical-ner"),
        challenger=_model("site-bert"),
        disagreement=0.25,
        entities=(Entity(label="symptom", text="chest pain", start=16, end=26, score=0.97),),
        compared_at=_DECIDED,
    ),
    AuditEvent(
        id=natural_id("example", "audit"),
        action="predict",
        agent="vitals@vigil-1-0",
        subject="clinical.vitals/0",
        model=_model("deterioration"),
        entries=(
            AuditEntry(
                event_id=natural_id("example", "score"),
                input_id=natural_id("example", "vitals"),
                input_digest=content_hash(b"vitals"),
                outcome="ok",
                patient_id=_PATIENT,
            ),
        ),
        recorded_at=_DECIDED,
    ),
    DeadLetterEvent(
        id=natural_id("example", "dead-letter"),
        lane="notes-entities",
        stage="decode",
        error_class="Poison",
        error="Poison",
        message="not a NoteEvent: text: missing",
        attempts=1,
        original_topic="clinical.notes",
        original_partition=0,
        original_offset=4712,
        original_timestamp=_RECEIVED,
        original_key="cGF0aWVudA==",
        original_value="e30=",
        original_headers=(Header(name="ce_type", value="b3JnLnZpZ2lsLm5vdGUudjE="),),
        tried_offset=4712,
        failed_at=_DECIDED,
    ),
    DeadLetterMarkEvent(
        id=natural_id("example", "dead-letter-mark"),
        letter_id=natural_id("example", "dead-letter"),
        state="redriven",
        attempts=1,
        tried_offset=4712,
        failed_at=_DECIDED,
        by="ops-7",
        marked_at=_DECIDED,
    ),
)
