"""Pictures that look a little like frontal chest radiographs, drawn by numpy, as DICOM objects. No patient stands behind them.

`draw` gives brightness in [0, 1] (bright: dense); `dicom` wraps it as a modality would: 12 bits in 16, MONOCHROME2 or MONOCHROME1,
uncompressed or JPEG 2000 lossless.
"""

from datetime import datetime
from io import BytesIO
from typing import Any, Final, Literal
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmwrite
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, JPEG2000Lossless

from processors.identity import natural_id
from streams.demo.people import AUTHORITY, HOSPITAL, Patient

Picture = NDArray[np.float32]
Form = Literal["plain", "monochrome1", "jpeg2000", "damaged"]
SIDE: Final = 320  # pixels
SIGNS: Final = ("clear", "consolidation", "effusion", "congestion", "hyperinflation")
_FULL: Final = 4095  # 12 bits


def draw(seed: int, sign: str, side: int = SIDE) -> Picture:
    """Draw a chest, [side, side] in [0, 1]: body, lungs, heart, spine, ribs, and what `sign` (one of `SIGNS`) adds."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    shift = np.float32(rng.normal(0, 0.012))
    x = x - shift
    low = 0.06 if sign == "hyperinflation" else 0.0
    body = _soft(1 - ((x - 0.5) / 0.47) ** 2 - ((y - 0.56) / 0.62) ** 2, 0.05)
    right = _soft(1 - ((x - 0.305) / 0.165) ** 2 - ((y - 0.47 - low / 2) / (0.315 + low)) ** 2, 0.10)
    left = _soft(1 - ((x - 0.695) / 0.155) ** 2 - ((y - 0.46 - low / 2) / (0.305 + low)) ** 2, 0.10)
    wide = 0.05 if sign == "congestion" else 0.0
    heart = _soft(1 - ((x - 0.555) / (0.125 + wide)) ** 2 - ((y - 0.63) / (0.15 + wide / 2)) ** 2, 0.12)
    image = 0.12 + 0.55 * body - 0.46 * np.maximum(right, left) + 0.34 * heart
    image += 0.22 * np.exp(-(((x - 0.5) / 0.035) ** 2)) * body  # the spine
    image += _ribs(x, y, rng) * body
    lungs = np.maximum(right, left)
    image += _added(sign, x, y, rng) * np.maximum(lungs, 0.25)
    image += _haze(rng, side) * 0.05
    image += rng.normal(0, 0.012, image.shape).astype(np.float32)
    return np.asarray(np.clip(image, 0, 1), dtype=np.float32)


def _soft(value: Any, width: float) -> Any:
    return 1 / (1 + np.exp(np.clip(-value / width, -30, 30)))


def _ribs(x: Any, y: Any, rng: np.random.Generator) -> Any:
    arcs = np.sin((y * 10.5 + np.abs(x - 0.5) * 4.2 - ((x - 0.5) ** 2) * 9 + rng.uniform(0, 0.2)) * 2 * np.pi)
    collar = np.exp(-(((y - 0.17 - np.abs(x - 0.5) * 0.16) / 0.012) ** 2)) * (np.abs(x - 0.5) > 0.06)
    return 0.055 * np.clip(arcs, 0, 1) ** 2 + 0.10 * collar


def _added(sign: str, x: Any, y: Any, rng: np.random.Generator) -> Any:
    if sign == "consolidation":
        spot = np.exp(-(((x - 0.31) / 0.085) ** 2) - ((y - 0.66 - rng.normal(0, 0.02)) / 0.08) ** 2)
        return 0.36 * spot * (1 - 0.3 * np.clip(np.sin(x * 90) * np.sin(y * 80), 0, 1))
    if sign == "effusion":
        level = 0.66 - 0.10 * ((x - 0.62) / 0.2) ** 2 * (x > 0.62) + rng.normal(0, 0.01)
        return 0.44 * _soft(y - level, 0.012) * (x > 0.5)
    if sign == "congestion":
        hila = np.exp(-(((np.abs(x - 0.5) - 0.13) / 0.07) ** 2) - ((y - 0.5) / 0.16) ** 2)
        lines = np.clip(np.sin(y * 160), 0, 1) * (y > 0.6) * 0.05
        return 0.22 * hila + lines
    if sign == "hyperinflation":
        return np.full_like(x, -0.06)
    return np.zeros_like(x)


def _haze(rng: np.random.Generator, side: int) -> Any:
    coarse = Image.fromarray(rng.normal(0, 1, (12, 12)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def png(picture: Picture) -> bytes:
    """Write a picture as an 8-bit PNG, as the connector's derivative is one."""
    stream = BytesIO()
    Image.fromarray((picture * 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def uid(*parts: str | int) -> str:
    """Derive a DICOM UID from what identifies the thing (PS3.5 B.2: 2.25 and a UUID as a number)."""
    return f"2.25.{UUID(natural_id(*parts)).int}"


def dicom(
    picture: Picture, patient: Patient, at: datetime, *, accession: str, form: Form = "plain", named: bool = True
) -> bytes:
    """Wrap a picture as a digital radiograph in the DICOM file format.

    `damaged`: JPEG 2000 whose code stream broke off. Not `named`: without any patient id.
    """
    names = (patient.mrn, accession)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = uid("instance", *names)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.update(_attributes(patient, at, accession, names))
    values = np.round(picture * _FULL).astype(np.uint16)
    if form == "monochrome1":
        values = (_FULL - values).astype(np.uint16)
    dataset.PhotometricInterpretation = "MONOCHROME1" if form == "monochrome1" else "MONOCHROME2"
    dataset.PresentationLUTShape = "INVERSE" if form == "monochrome1" else "IDENTITY"
    dataset.Rows, dataset.Columns = values.shape
    dataset.PixelData = values.tobytes()
    if form in ("jpeg2000", "damaged"):
        dataset.compress(JPEG2000Lossless, values, generate_instance_uid=False)
    if form == "damaged":
        dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51 the code stream broke off here"])
    if not named:
        dataset.PatientID = dataset.IssuerOfPatientID = ""
    stream = BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def _attributes(patient: Patient, at: datetime, accession: str, names: tuple[str, ...]) -> FileDataset:
    part = FileDataset("", {})
    part.SOPClassUID = DigitalXRayImageStorageForPresentation
    part.SOPInstanceUID = uid("instance", *names)
    part.StudyInstanceUID, part.SeriesInstanceUID = uid("study", *names), uid("series", *names)
    day, clock = at.strftime("%Y%m%d"), at.strftime("%H%M%S")
    part.StudyDate = part.SeriesDate = part.ContentDate = part.AcquisitionDate = day
    part.StudyTime = part.SeriesTime = part.ContentTime = part.AcquisitionTime = clock
    part.TimezoneOffsetFromUTC = at.strftime("%z")
    part.AccessionNumber, part.Modality, part.BodyPartExamined, part.ViewPosition = accession, "DX", "CHEST", "PA"
    part.Manufacturer, part.InstitutionName, part.StationName = "Imaginary Imaging", HOSPITAL, "DX1"
    part.PatientID, part.IssuerOfPatientID = patient.mrn, AUTHORITY
    part.PatientName = f"{patient.family}^{patient.given}"
    part.PatientBirthDate = "" if "unknown-age" in patient.quirks else patient.born(at.date()).strftime("%Y%m%d")
    part.PatientSex, part.AdmissionID = "F" if patient.female else "M", patient.visit
    part.StudyID, part.SeriesNumber, part.InstanceNumber = "1", "1", "1"
    part.SamplesPerPixel, part.PixelRepresentation = 1, 0
    part.BitsAllocated, part.BitsStored, part.HighBit = 16, 12, 11
    part.WindowCenter, part.WindowWidth = "2048", "4096"
    part.PixelSpacing = ["1.2", "1.2"]
    part.BurnedInAnnotation = "NO"
    return part
