"""DICOM objects made for tests: nothing in them comes from a patient."""

from io import BytesIO
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage, generate_uid


def make(pixels: np.ndarray | None = None, *, syntax: str = ExplicitVRLittleEndian, **attributes: Any) -> FileDataset:
    """A data set with unsigned 16-bit grey pixels by default; `attributes` set or (None) remove any keyword."""
    dataset = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.Modality, dataset.PatientID, dataset.PatientName = "CT", "P0001", "Probe^Petra"
    dataset.StudyDate, dataset.StudyTime = "20260102", "030405"
    if pixels is None:
        pixels = np.linspace(0, 4095, 64 * 48).astype(np.uint16).reshape(64, 48)
    fill(dataset, pixels)
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def fill(dataset: FileDataset, pixels: np.ndarray, photometric: str = "") -> None:
    colour = pixels.ndim == 3
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = photometric or ("RGB" if colour else "MONOCHROME2")
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if colour:
        dataset.PlanarConfiguration = 0
    data = pixels.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)


def encode(dataset: FileDataset) -> bytes:
    out = BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def rejection(*images: FileDataset, code: str = "113037", scheme: str = "DCM", **attributes: Any) -> FileDataset:
    """A rejection note (IHE IOCM) about images, of the patient of the first: a Key Object Selection document with such a title."""
    note = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    note.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    note.file_meta.MediaStorageSOPClassUID = note.SOPClassUID = KeyObjectSelectionDocumentStorage
    note.file_meta.MediaStorageSOPInstanceUID = note.SOPInstanceUID = generate_uid()
    note.StudyInstanceUID, note.SeriesInstanceUID = images[0].StudyInstanceUID, generate_uid()
    note.Modality, note.PatientID, note.ContentDate, note.ContentTime = "KO", images[0].PatientID, "20260103", "040506"
    if "IssuerOfPatientID" in images[0]:
        note.IssuerOfPatientID = images[0].IssuerOfPatientID
    note.ConceptNameCodeSequence = [item(CodeValue=code, CodingSchemeDesignator=scheme, CodeMeaning="Title")]
    note.CurrentRequestedProcedureEvidenceSequence = [
        item(
            StudyInstanceUID=one.StudyInstanceUID,
            ReferencedSeriesSequence=[
                item(
                    SeriesInstanceUID=one.SeriesInstanceUID,
                    ReferencedSOPSequence=[
                        item(ReferencedSOPClassUID=one.SOPClassUID, ReferencedSOPInstanceUID=one.SOPInstanceUID)
                    ],
                )
            ],
        )
        for one in images
    ]
    for keyword, value in attributes.items():
        setattr(note, keyword, value)
    return note


def item(**attributes: Any) -> Dataset:
    """An item of a sequence."""
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made
