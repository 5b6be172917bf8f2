"""Mutations that know the formats: bytes changed blindly seldom get past a parser.

Each takes bytes and a source of chance and returns bytes; what it cannot read it returns changed blindly. The same arguments give
the same bytes.
"""

import json
import random
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pydicom
from pydicom.datadict import keyword_dict, tag_for_keyword
from pydicom.dataset import Dataset

from tests.fuzz.invariants import CANARY

Mutation = Callable[[bytes, random.Random], bytes]

# Values that have broken parsers: limits of numbers, dates and lengths, other alphabets, escapes, nothing at all
TEXTS = (
    "", " ", "0", "-0", "-1", "1e400", "-1e400", "NaN", "Infinity", "-Infinity", "1e-400", "9" * 5000, "0" * 5000, "1_000",
    "٣", "²", "½",
    "0x10", "1,5", "1.5.2", "+7", "<5", ">=5", "1^2", "1:2", "1/0", "true", "null", '""', "\x00", "\ufeff", "\u2028",
    "\ud7ff", "é" * 300,
    "00010101", "00000000", "99991231235959.9999", "99991231235959-1400", "00010101000000+1400", "20260329023000",
    "20261301", "20260230",
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-02-30", "2026-13-01T25:61:61Z", "2026-06-31", "0000",
    "2016-12-31T23:59:60Z",
    "1900-02-29", "2026-11-23T10:00:00", "2026-11-23", "2026", CANARY, CANARY * 400, "../../etc/passwd", "urn:uuid:0",
    "http://[", "http://[::1",
    "#", "#x", "Patient/", "/", "//", "Patient/7/_history/2", "?", "?a=b", "%s%n", "{}", "{0}", "$(x)", "=cmd", "<a>", "]]>",
    "&lt;",
    "8867-4", "9279-1", "59408-5", "85354-9", "67775-7", "8310-5", "3151-8", "/min", "%", "Cel", "mm[Hg]", "L/min", "[degF]",
    "final", "preliminary", "corrected", "entered-in-error", "cancelled", "unknown", "registered", "amended", "F", "C", "P",
    "R", "W", "X", "D",
)  # fmt: skip
_HL7 = (
    "\\.sp+" + "9" * 5000 + "\\", "\\.sk9\\", "\\X00\\", "\\XFF\\", "\\XD800\\", "\\E\\", "\\Z1\\", "\\C2842\\", "\\H\\",
    "\\", "^", "~", "&", "^^^", "~~~",
    "ED", "NM", "SN", "TX", "FT", "CE", "CWE", "ST", "RP", "TS", "DTM", "Base64", "A", "Hex", "^text^PDF^Base64^JVBERi0=",
    "^application^RTF^Base64^e1xydGYx",
    "UNICODE UTF-8", "8859/1", "ISO IR87", "ASCII~ISO IR87", "UNICODE UTF-16", "AL", "NE", "SU", "ER", "ORU^R01", "MDM^T02",
    "ADT^A01", "ADT^A40",
    "ADT^A08", "ORA^R41", "ACK", "^^ORU_R01", "2.2", "2.5.1", "2.9", "1.0", "T", "P", "AA", "19500321", "M",
    "4711^^^HOSP^MR", "I", "4711^^^&1.2.3&ISO^MR~2^^^X",
)  # fmt: skip
_SEGMENTS = (
    "PID|1||4711^^^HOSP^MR", "PV1|1|I|W1^R2^B3", "OBR|1||F9|VS|||20260302095500", "OBX|1|NM|8867-4^^LN||80|/min|||||F",
    "NTE|1||x",
    "TXA|1|PN|TX|||||||||D1|||||AU", "EVN|A01|20260302", "MRG|815^^^HOSP^MR", "ERR|", "MSA|AA|1", "BHS|^~\\&", "MSH|^~\\&|A",
    "PID|", "ZZZ|1", "DG1|1",
    "PRB|AD|2026", "OBX|1|ED|X||^application^pdf^Base64^AAAA", "ORC|RE", "PDA|", "UAC|", "AL1|1",
)  # fmt: skip
_JSON: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.5, -0.0, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, 10**4200, 1e308, 5e-324, [], {}, [[]],
    [{}], [None], {"": ""}, {"value": 1},
    {"reference": "Patient/7"}, {"reference": "#p"}, {"reference": "urn:uuid:1"}, {"coding": []}, {"coding": [{}]},
    {"extension": [{"url": "x"}]},
    {"start": "2026-11-23T10:00:00Z"}, {"contentType": "text/plain", "data": "!"}, {"contentType": "application/pdf",
    "data": "JVBERi0="},
    {"contentType": "image/png", "data": "iVBORw0KGgo="}, {"system": "urn:x", "value": "1"},
)  # fmt: skip
_NAMES = (
    "resourceType", "id", "status", "code", "coding", "system", "value", "valueQuantity", "valueString", "valueInteger",
    "valueSampledData", "component",
    "subject", "reference", "identifier", "effectivePeriod", "effectiveInstant", "effectiveTiming", "issued", "contained",
    "extension", "_status", "_value",
    "entry", "request", "method", "url", "resource", "fullUrl", "type", "meta", "text", "div", "data", "size", "hash",
    "link", "deceasedBoolean",
    "deceasedDateTime", "birthDate", "_birthDate", "period", "location", "replaces", "relatesTo", "docStatus", "content",
    "attachment", "masterIdentifier",
    "dataAbsentReason", "comparator", "unit", "presentedForm", "conclusion", "payload", "hasMember", "derivedFrom",
    "modifierExtension",
)  # fmt: skip


def blind(data: bytes, rng: random.Random) -> bytes:
    """Change, take out, double or put in a few bytes."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(made) + 1)
        length = rng.choice((1, 1, 2, 4, 8, 64))
        match rng.randrange(4):
            case 0:
                made[at : at + length] = rng.randbytes(length)
            case 1:
                del made[at : at + length]
            case 2:
                made[at:at] = made[max(0, at - length) : at]
            case _:
                made[at:at] = rng.choice(
                    (b"\x0b", b"\x1c", b"\x1c\r", b"\x0bMSH|", b"\r", b"\n", b"|", b'"', b"\xff", b"\x00", b"\x1b$B", b"\xc3")
                )
    return bytes(made)


def hl7(data: bytes, rng: random.Random) -> bytes:
    """Change fields, components and segments."""
    segments = data.decode("latin-1").split("\r")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(segments))
        match rng.randrange(7):
            case 0:
                segments.insert(at + 1, rng.choice(_SEGMENTS))
            case 1:
                segments.insert(rng.randrange(len(segments) + 1), segments[at])
            case 2 if len(segments) > 1:
                del segments[at]
            case 3:
                return blind(data, rng)
            case _:
                fields = segments[at].split("|")
                place = rng.randrange(len(fields) + 2)
                fields += [""] * (place + 1 - len(fields))
                marks = [mark for mark in "~^&" if mark in fields[place]]
                value = rng.choice(rng.choice((_HL7, TEXTS)))
                if marks and rng.random() < 0.7:
                    parts = fields[place].split(marks[0])
                    parts[rng.randrange(len(parts))] = value
                    fields[place] = marks[0].join(parts)
                else:
                    fields[place] = value
                segments[at] = "|".join(fields)
    return "\r".join(segments).encode("utf-8", "replace")


def frames(data: bytes, rng: random.Random) -> bytes:
    """Messages and marks in any order."""
    return blind(hl7(data, rng) if rng.random() < 0.5 else data, rng)


def tree(data: bytes, rng: random.Random) -> bytes:
    """Change values and names of a JSON text."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return blind(data, rng)
    if rng.random() < 0.05:
        return blind(data, rng)
    holder = [value]
    for _ in range(rng.randint(1, 3)):
        _change(holder, rng)
    try:
        return json.dumps(holder[0], ensure_ascii=rng.random() < 0.5).encode("utf-8", "replace")
    except RecursionError:
        return data


def _change(holder: list[Any], rng: random.Random) -> None:
    places: list[tuple[Any, Any]] = [(holder, 0)]
    for box, name in places:  # grows as it goes
        inside = box[name]
        if isinstance(inside, dict):
            places += [(inside, key) for key in inside]
        elif isinstance(inside, list):
            places += [(inside, number) for number in range(len(inside))]
        if len(places) > 4000:
            break
    box, name = rng.choice(places)
    found = box[name]
    match rng.randrange(8):
        case 0 if box is not holder:
            del box[name]
        case 1:
            other, key = rng.choice(places)
            box[name] = json.loads(json.dumps(other[key]))
        case 2 if isinstance(found, dict):
            found[rng.choice(_NAMES)] = rng.choice(rng.choice((TEXTS, _JSON)))
        case 3 if isinstance(found, list):
            found += found[:8]
        case 4 if isinstance(box, dict):
            box[rng.choice(_NAMES)] = box.pop(name)
        case 5:
            box[name] = [found]
        case 6 if isinstance(found, (int, float)):
            box[name] = rng.choice((found * 10, -found, found // 7, str(found)[:5000], 0.1, 1e6, 400, 30))
        case _:
            box[name] = json.loads(json.dumps(rng.choice(rng.choice((TEXTS, _JSON)))))


def lines(data: bytes, rng: random.Random) -> bytes:
    """Change JSON texts, one a line, each behind a letter; their order too."""
    rows = data.split(b"\n")
    at = rng.randrange(len(rows))
    match rng.randrange(8):
        case 0:
            rows.insert(rng.randrange(len(rows) + 1), rows[at])
        case 1 if len(rows) > 1:
            del rows[at]
        case 2:
            rng.shuffle(rows)
        case _:
            rows[at] = rows[at][:1] + tree(rows[at][1:], rng)
    return b"\n".join(rows)


def fhir(data: bytes, rng: random.Random) -> bytes:
    """JSON as a tree; XML blindly, and by its quoted values."""
    if data.lstrip()[:1] != b"<":
        return tree(data, rng)
    parts = data.decode("utf-8", "replace").split('"')
    if len(parts) < 3 or rng.random() < 0.2:
        return blind(data, rng)
    at = rng.randrange(1, len(parts) - 1, 2)
    parts[at] = rng.choice(TEXTS)
    return '"'.join(parts).encode("utf-8", "replace")


_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "PatientID", "IssuerOfPatientID", "OtherPatientIDsSequence",
    "AdmissionID", "Rows", "Columns",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PlanarConfiguration", "PixelData",
    "NumberOfFrames", "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "VOILUTSequence",
    "ModalityLUTSequence", "LUTDescriptor", "LUTData",
    "PixelPaddingValue", "PresentationLUTShape", "VOILUTFunction", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "FrameVOILUTSequence",
    "PixelValueTransformationSequence", "SpecificCharacterSet", "TimezoneOffsetFromUTC", "AcquisitionDateTime",
    "AcquisitionDate", "AcquisitionTime",
    "StudyDate", "RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "BurnedInAnnotation",
    "FloatPixelData", "ExtendedOffsetTable",
    "Modality", "BodyPartExamined", "ViewPosition", "IssuerOfAdmissionIDSequence",
)  # fmt: skip
_SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.100", "1.2.3",
)  # fmt: skip
_RAW = (
    b"", b"\0\0", b"\xff\xff", b"\1\0", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"1e9999", b"NaN", b"-1", b"inf", b"0", b"9" * 600,
    b"1\\2", b"\\", b"MONOCHROME1",
    b"PALETTE COLOR", b"YBR_FULL", b"YBR_FULL_422", b"RGB", b"ISO_IR 192", b"ISO 2022 IR 87", b"SIGMOID", b"20260230",
    b"99991231", b"+1400", b"-9999",
    CANARY.encode(), b"\x1b$B\x1b", b"\0" * 256, b"\xfe\xff\x00\xe0\x00\x00\x00\x00",
)  # fmt: skip


def dicom(data: bytes, rng: random.Random) -> bytes:
    """Give elements of the data set other bytes, or another transfer syntax; half of the time change bytes blindly."""
    if rng.random() < 0.4:
        return blind(data, rng)
    try:
        dataset = pydicom.dcmread(BytesIO(data), force=True)
        for _ in range(rng.randint(1, 3)):
            keyword = rng.choice(_KEYWORDS)
            tag = tag_for_keyword(keyword)
            assert tag is not None and keyword in keyword_dict
            match rng.randrange(6):
                case 0:
                    dataset.file_meta.TransferSyntaxUID = rng.choice(_SYNTAXES)
                case 1 if keyword in dataset:
                    del dataset[keyword]
                case 2:
                    items = [Dataset() for _ in range(rng.randrange(3))]
                    dataset.add_new(tag, "SQ", items)
                case _:
                    kind = rng.choice(("OB", "OW", "UN", "LO", "UN", "US", "UT"))
                    raw = rng.choice(_RAW)
                    dataset.add_new(tag, "UN" if kind in ("LO", "UT", "US") else kind, raw + b"\0" * (len(raw) % 2))
        out = BytesIO()
        pydicom.dcmwrite(out, dataset)
        return out.getvalue()
    except Exception:  # what pydicom cannot write any more is changed blindly
        return blind(data, rng)
