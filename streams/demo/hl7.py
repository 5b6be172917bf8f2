"""HL7 v2.5.1 messages of the demo ward, as its systems write them: registration (ADT), charting and monitors (ORU), the EHR (MDM).

LOINC and IEEE 11073 codes, UCUM units, the delimiters and escapes of the standard. Times carry their offset.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from streams.demo.notes import Kind
from streams.demo.people import AUTHORITY, HOSPITAL, Patient
from streams.demo.physiology import Vitals

WARD: Final = "7 NORTH"
# Codes of the ward's own for what has no LOINC code that senders agree on; the receiver maps them (`ward.SETTINGS`).
SCALE_CODE: Final = "SPO2-SCALE^SpO2 scale for NEWS2^L"
CEILING_CODE: Final = "CEILING^Ceiling of care^L"

_ANSWERS: Final = {
    "A": "LA9340-6^Alert^LN",
    "C": "LA6560-2^Confused^LN",
    "V": "LA17108-4^Responds to voice^LN",
}
# sign -> OBX-3, OBX-6
_LOINC: Final[Mapping[str, tuple[str, str]]] = {
    "heart_rate": ("8867-4^Heart rate^LN", "/min^^UCUM"),
    "respiratory_rate": ("9279-1^Respiratory rate^LN", "/min^^UCUM"),
    "spo2": ("59408-5^Oxygen saturation by pulse oximetry^LN", "%^^UCUM"),
    "systolic": ("8480-6^Systolic blood pressure^LN", "mm[Hg]^^UCUM"),
    "diastolic": ("8462-4^Diastolic blood pressure^LN", "mm[Hg]^^UCUM"),
    "temperature": ("8310-5^Body temperature^LN", "Cel^^UCUM"),
}
_MDC: Final[Mapping[str, tuple[str, str]]] = {
    "heart_rate": ("147842^MDC_ECG_HEART_RATE^MDC", "264864^MDC_DIM_BEAT_PER_MIN^MDC"),
    "respiratory_rate": ("151578^MDC_TTHOR_RESP_RATE^MDC", "264928^MDC_DIM_RESP_PER_MIN^MDC"),
    "spo2": ("150456^MDC_PULS_OXIM_SAT_O2^MDC", "262688^MDC_DIM_PERCENT^MDC"),
}
_ESCAPES: Final = str.maketrans({mark: f"\\{letter}\\" for mark, letter in zip("\\|^&~", "EFSTR", strict=True)})


@dataclass(frozen=True, slots=True)
class Charting:
    """How a set is sent: which codes and units, which status, what is left out or replaced."""

    device: str = ""  # a monitor's name: MDC codes and no order of values by a person
    fahrenheit: bool = False
    comma: bool = False  # a decimal comma and a degree sign in ISO 8859-1
    status: str = "F"  # table 0085
    without: tuple[str, ...] = ()
    instead: Mapping[str, str] | None = None  # sign -> the text in OBX-5
    processing: str = "P"


PLAIN: Final = Charting()


def stamp(at: datetime) -> str:
    """Write a time with its offset (DTM)."""
    return at.strftime("%Y%m%d%H%M%S%z")


def escape(text: str) -> str:
    """Escape the delimiters."""
    return text.translate(_ESCAPES)


def segment(name: str, fields: Mapping[int, str]) -> str:
    """Write a segment from its numbered fields."""
    last = max(fields)
    return "|".join([name, *(fields.get(number, "") for number in range(1, last + 1))])


class Writer:
    """Writes messages about one patient; counts their control ids."""

    def __init__(self, patient: Patient, epoch: datetime) -> None:
        self._patient = patient
        self._count = 0
        unknown = "unknown-age" in patient.quirks
        born = "" if unknown else patient.born(epoch.date()).strftime("%Y%m%d")
        sex = "F" if patient.female else "M"
        name = f"{escape(patient.family)}^{patient.given}"
        self._pid = segment("PID", {1: "1", 3: f"{patient.mrn}^^^{AUTHORITY}^MR", 5: name, 7: born, 8: sex})

    def _message(
        self, kind: str, at: datetime, body: Iterable[str], *, sender: str, processing: str = "P", charset: str = "utf-8"
    ) -> bytes:
        self._count += 1
        control = f"{sender[:3]}{self._patient.number:05d}{self._count:05d}"
        header = {
            3: sender, 4: AUTHORITY, 5: "VIGIL", 6: "VIGIL", 7: stamp(at), 9: kind, 10: control, 11: processing, 12: "2.5.1",
            18: "8859/1" if charset == "latin-1" else "UNICODE UTF-8",
        }  # fmt: skip
        msh = "MSH|^~\\&|" + "|".join(header.get(number, "") for number in range(3, 19))
        return ("\r".join([msh, *body]) + "\r").encode(charset)

    def _pv1(self, ward: str = WARD) -> str:
        patient = self._patient
        place = f"{ward}^{patient.room}^{patient.bed}^{HOSPITAL}"
        fields = {1: "1", 2: "I", 3: place, 19: f"{patient.visit}^^^{AUTHORITY}^VN"}
        if patient.pregnant:
            fields[15] = "B6"
        return segment("PV1", fields)

    # ------------------------------------------------------------------------------------------------------- registration

    def adt(self, trigger: str, at: datetime, *, ward: str = WARD, facts: Sequence[tuple[str, str, str]] = ()) -> bytes:
        """Write an ADT message; `facts` are (OBX-3, OBX-5, observer) that hold for the patient as such."""
        structure = {"A08": "ADT_A01", "A01": "ADT_A01", "A02": "ADT_A02", "A03": "ADT_A03"}[trigger]
        body = [segment("EVN", {1: trigger, 2: stamp(at)}), self._pid, self._pv1(ward)]
        body += [
            segment("OBX", {1: str(n), 2: "ST", 3: code, 5: escape(value), 11: "F", 14: stamp(at), 16: observer})
            for n, (code, value, observer) in enumerate(facts, 1)
        ]
        return self._message(f"ADT^{trigger}^{structure}", at, body, sender="REGISTRY")

    # ------------------------------------------------------------------------------------------------------------- vitals

    def oru(self, sets: Sequence[tuple[datetime, Vitals]], at: datetime, *, order: str, how: Charting = PLAIN) -> bytes:
        """Write one message of one or several sets of vitals, each an order of its own."""
        body = [self._pid, self._pv1()]
        for number, (observed, vitals) in enumerate(sets, 1):
            filler = f"{order}-{number}^WARDCHART"
            body.append(
                segment(
                    "OBR",
                    {1: str(number), 3: filler, 4: "85353-1^Vital signs^LN", 7: stamp(observed), 22: stamp(at), 25: how.status},
                )
            )
            body += self._obx(vitals, observed, how)
        sender = "MONITORS" if how.device else "WARDCHART"
        charset = "latin-1" if how.comma else "utf-8"
        return self._message("ORU^R01^ORU_R01", at, body, sender=sender, processing=how.processing, charset=charset)

    def _obx(self, vitals: Vitals, observed: datetime, how: Charting) -> list[str]:
        table = _MDC if how.device else _LOINC
        rows: list[tuple[str, str, str, str]] = []
        for sign, (code, unit) in table.items():
            if sign in how.without:
                continue
            value = str(getattr(vitals, sign))
            if sign == "temperature" and how.fahrenheit:
                value, unit = f"{vitals.temperature * 9 / 5 + 32:.1f}", "[degF]^^UCUM"
            if sign == "temperature" and how.comma:
                value, unit = value.replace(".", ","), "°C"
            rows.append(("NM", code, (how.instead or {}).get(sign, value), unit))
        if not how.device and "consciousness" not in how.without:
            rows.append(("CWE", "67775-7^Level of responsiveness^LN", _ANSWERS[vitals.consciousness], ""))
        if not how.device and "oxygen" not in how.without:
            flow = ("NM", f"{vitals.oxygen:g}", "L/min^^UCUM") if vitals.oxygen else ("CWE", "RA^room air^L", "")
            rows.append((flow[0], "3151-8^Inhaled oxygen flow rate^LN", flow[1], flow[2]))
        return [
            segment(
                "OBX",
                {1: str(n), 2: kind, 3: code, 5: value, 6: unit, 11: how.status, 14: stamp(observed), 18: how.device},
            )
            for n, (kind, code, value, unit) in enumerate(rows, 1)
        ]

    # -------------------------------------------------------------------------------------------------------------- notes

    def mdm(
        self, trigger: str, at: datetime, text: str, kind: Kind, *, number: str, parent: str = "", lines: bool = True
    ) -> bytes:
        """Write a document. `lines`: one OBX a line, else all in one with line break escapes."""
        coded = f"{kind.loinc}^{kind.display}^LN"
        txa = {1: "1", 2: kind.table_0270 or coded, 3: "TX", 4: stamp(at), 6: stamp(at), 12: f"{number}^EHR", 17: "AU"}
        if parent:
            txa[13] = f"{parent}^EHR"
        body = [segment("EVN", {1: trigger, 2: stamp(at)}), self._pid, self._pv1(), segment("TXA", txa)]
        body += self._text(text, coded, lines)
        return self._message(f"MDM^{trigger}^MDM_T02", at, body, sender="EHR")

    def report(self, at: datetime, text: str, kind: Kind, *, order: str) -> bytes:
        """Write a radiologist's report as a text result."""
        coded = f"{kind.loinc}^{kind.display}^LN"
        obr = segment("OBR", {1: "1", 3: f"{order}^RIS", 4: coded, 7: stamp(at), 22: stamp(at), 25: "F"})
        body = [self._pid, self._pv1(), obr, *self._text(text, coded, lines=True)]
        return self._message("ORU^R01^ORU_R01", at, body, sender="RIS")

    @staticmethod
    def _text(text: str, coded: str, lines: bool) -> list[str]:
        parts = [escape(line) for line in text.split("\n")]
        if not lines:
            parts = ["\\.br\\".join(parts)]
        kind = "TX" if lines else "FT"
        return [segment("OBX", {1: str(n), 2: kind, 3: coded, 5: part, 11: "F"}) for n, part in enumerate(parts, 1)]
