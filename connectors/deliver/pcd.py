"""An alert as ORU^R40 (IHE PCD TF-2, PCD-04 Report Alert; HL7 v2.6), over MLLP to an Alert Manager.

The facets are OBX segments that share one containment (OBX-4 1.0.0.0.n) and carry codes of ISO/IEEE 11073-10101 (MDC):

| facet | OBX-3 | here |
|---|---|---|
| 1 event identification | 196616 MDC_EVT_ALARM | kind of alert and title, codes of Vigil's own (99VIGIL) |
| 2 source | 68480 MDC_ATTR_ALERT_SOURCE | Vigil; the alert is derived from charted sets, no device raised it |
| 3 event phase | 68481 MDC_ATTR_EVENT_PHASE | start, update, escalate, end |
| 4 alert state | 68482 MDC_ATTR_ALARM_STATE | active; inactive at its end |
| 5 inactivation state | 68483 MDC_ATTR_ALARM_INACTIVATION_STATE | enabled; alert-acknowledged |
| 6 priority | 68484 MDC_ATTR_ALARM_PRIORITY | PN, PL, PM, PH |
| 7 alert type | 68485 MDC_ATTR_ALERT_TYPE | SA advisory; ST technical for missing data |
| 8 alert text | 68546 MDC_ATTR_ALERT_TEXT | the title, marked where it is late or a test |

OBX-8 of the first facet repeats priority and type; the profile wants them there and on no other facet, so that they have one place.
PID-3 has the hospital's numbers of the patient, where they are known, before Vigil's own; PV1-19 the hospital's visit number.
MSH-10 names alert, step and patient (`connectors.hl7.mapping.answers`), so that PCD-05 needs no memory of ours.
"""

import asyncio
import ssl
from datetime import UTC, datetime
from typing import Final

from connectors.deliver.acknowledgement import judge_hl7
from connectors.deliver.errors import Unavailable
from connectors.deliver.notice import Notice
from connectors.deliver.person import Number
from connectors.deliver.settings import PcdSettings
from connectors.hl7.acknowledgement import escape
from connectors.hl7.mapping.answers import control_id
from connectors.hl7.message import Delimiters
from connectors.hl7.sender import MllpSender
from models.errors import Permanent
from processors.events import AlertEvent, AlertState, Severity

PHASES: Final[dict[AlertState, str]] = {
    "raised": "start",
    "updated": "update",
    "acknowledged": "update",
    "escalated": "escalate",
    "declined": "end",
    "resolved": "end",
    "withdrawn": "end",
}
PRIORITIES: Final[dict[Severity, str]] = {"information": "PN", "low-medium": "PL", "medium": "PM", "high": "PH"}
TECHNICAL: Final = frozenset({"no-observations", "observed-after-end", "feed-stopped", "feed-late", "monitoring-blind"})
_MARKS: Final = Delimiters()
_PROFILE: Final = "IHE_PCD_ACM_001^IHE PCD^1.3.6.1.4.1.19376.1.6.1.4.1^ISO"  # MSH-21
_INTERNAL: Final = "PI"  # table 0203, for a number whose sender named no type
_EVENT: Final = "196616^MDC_EVT_ALARM^MDC"


def message_of(notice: Notice, settings: PcdSettings) -> bytes:
    """Return the message, without its MLLP frame."""
    alert = notice.alert
    segments = [_header(notice, settings)]
    if alert is not None:
        numbers = notice.person.numbers if notice.person else ()
        at = alert.location
        place = "^".join(map(_text, (at.ward, at.room, at.bed, *((at.facility,) if at.facility else ()))))
        segments += [
            ["PID", "", "", "~".join([*map(_number, numbers), f"{_text(alert.patient_id)}^^^VIGIL^PI"])],
            ["PV1", "", "I", place, *[""] * 15, _visit(notice, alert)],
        ]
    segments += [_order(notice), *_facets(notice)]
    detail = alert.detail if alert is not None else ""
    if alert is not None and notice.passed_over:
        detail = f"{detail} Stands for {len(notice.passed_over)} earlier steps that were not sent."
    if detail:
        segments.append(["NTE", "1", "", _text(detail)])
    return "".join("|".join(segment).rstrip("|") + "\r" for segment in segments).encode()


def _visit(notice: Notice, alert: AlertEvent) -> str:
    """PV1-19, which does not repeat: the hospital's number where it is known, else Vigil's pseudonym of it."""
    if notice.person and notice.person.visit:
        return _number(notice.person.visit)
    return f"{_text(alert.encounter_id)}^^^VIGIL^VN" if alert.encounter_id else ""


def _number(number: Number) -> str:
    """Return a CX: the authority as a namespace, or as the universal id that it is."""
    authority = number.authority
    if number.system == authority or number.system == f"urn:oid:{authority}":  # its name is a URI or an OID
        oid = number.system.removeprefix("urn:oid:")
        kind = "ISO" if oid != number.system else "URI"
        return f"{_text(number.value)}^^^&{_text(oid)}&{kind}^{_text(number.kind or _INTERNAL)}"
    return f"{_text(number.value)}^^^{_text(authority)}^{_text(number.kind or _INTERNAL)}"


def _header(notice: Notice, settings: PcdSettings) -> list[str]:
    names = (settings.application, settings.facility, settings.receiving_application, settings.receiving_facility)
    key = control_id(notice.alert) if notice.alert is not None else notice.id
    return [
        "MSH|^~\\&",
        *map(_text, names),
        _time(notice.at),
        "",
        "ORU^R40^ORU_R40",
        _text(key),
        "T" if notice.kind == "test" else "P",
        "2.6",
        "",
        "",
        "AL",
        "NE",
        "",
        "UNICODE UTF-8",
        "",
        "",
        _PROFILE,
    ]


def _order(notice: Notice) -> list[str]:
    """OBR: OBR-3 names this message's step, OBR-29 the alert that it goes on with."""
    alert = notice.alert
    if alert is None:
        key, parent, at = f"silence-{notice.since:%Y%m%d%H%M%S}", "", notice.since or notice.at
    else:
        first = alert.sequence == 0
        key, parent, at = (alert.alert_id if first else alert.id), ("" if first else alert.alert_id), alert.observed_at
    segment = ["OBR", "1", "", f"{key}^VIGIL", _EVENT, "", "", _time(at)]
    return segment + ([*[""] * 21, f"^{parent}&VIGIL"] if parent else [])


def _facets(notice: Notice) -> list[list[str]]:
    alert = notice.alert
    if alert is None:
        event, phase = f"{notice.kind}^{_text(notice.title)}^99VIGIL", "start" if notice.kind == "silence" else "end"
        priority, kind, acknowledged, at = "PH", "ST", False, notice.at
    else:
        event, phase = f"{alert.kind}^{_text(alert.title)}^99VIGIL", PHASES[alert.state]
        priority, kind = PRIORITIES[alert.severity], "ST" if alert.kind in TECHNICAL else "SA"
        acknowledged, at = alert.state == "acknowledged", alert.decided_at
    facets = (
        ("CWE", _EVENT, event),
        ("CWE", "68480^MDC_ATTR_ALERT_SOURCE^MDC", "VIGIL^Vigil^99VIGIL"),
        ("ST", "68481^MDC_ATTR_EVENT_PHASE^MDC", phase),
        ("ST", "68482^MDC_ATTR_ALARM_STATE^MDC", "inactive" if phase == "end" else "active"),
        ("ST", "68483^MDC_ATTR_ALARM_INACTIVATION_STATE^MDC", "alert-acknowledged" if acknowledged else "enabled"),
        ("ST", "68484^MDC_ATTR_ALARM_PRIORITY^MDC", priority),
        ("ST", "68485^MDC_ATTR_ALERT_TYPE^MDC", kind),
        ("ST", "68546^MDC_ATTR_ALERT_TEXT^MDC", _text(notice.title)),
    )
    flags = f"{priority}~{kind}"  # OBX-8 of the first facet, and of no other
    return [
        ["OBX", str(n), form, code, f"1.0.0.0.{n}", value, "", "", flags if n == 1 else "", "", "", "F", "", "", _time(at)]
        for n, (form, code, value) in enumerate(facets, 1)
    ]


def _text(value: str) -> str:
    return escape(value, _MARKS)


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")


class PcdReceiver:
    """One Alert Manager; a few connections, each with one message at a time."""

    def __init__(self, settings: PcdSettings) -> None:
        self._settings = settings
        context = _tls(settings)
        self._free: asyncio.Queue[MllpSender] = asyncio.Queue()
        for _ in range(settings.connections):
            self._free.put_nowait(MllpSender(settings.host, settings.port, timeout=settings.timeout, tls=context))

    async def send(self, notice: Notice) -> None:
        """Send it and judge the answer. Raises `Unavailable` or `Refused`."""
        message = message_of(notice, self._settings)
        sender = await self._free.get()
        try:
            answer = await sender.once(message)
        finally:
            self._free.put_nowait(sender)
        if answer is None:
            raise Unavailable("no answer")
        judge_hl7(answer.code)

    async def close(self) -> None:
        """Close the connections."""
        while not self._free.empty():
            await self._free.get_nowait().close()


def _tls(settings: PcdSettings) -> ssl.SSLContext | None:
    if settings.ca_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=str(settings.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate_file is not None and settings.key_file is not None:
            context.load_cert_chain(settings.certificate_file, settings.key_file)
    except (OSError, ssl.SSLError):
        raise Permanent("the PEM files of the Alert Manager cannot be used", hint="deliver.NAME.ca_file and the like") from None
    return context
