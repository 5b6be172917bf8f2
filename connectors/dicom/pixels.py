"""From stored DICOM pixels to the picture that a model sees: 8 bits, grey or RGB, and nothing but pixels.

The order is the standard's (PS3.4 N.2.1): stored values -> modality LUT or rescale -> VOI LUT or window -> presentation
(MONOCHROME1 is inverted). Which frame: see `frame_number`.

What is *not* done: text burned into the pixels stays there. The derivative carries no attribute of the data set, but a
picture of a name is still a picture of a name (CONFORMANCE.md says so, and `BurnedInAnnotation` can be refused by setting).
"""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array
from pydicom.uid import UID, ExplicitVRBigEndian, RLELossless

from connectors.dicom.settings import FramePolicy
from models.errors import Poison

Pixels = NDArray[np.uint8]

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")  # PS3.3 C.7.6.3, C.7.6.24, C.7.6.25
GREY = ("MONOCHROME1", "MONOCHROME2")
PHOTOMETRIC = (
    *GREY, "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420",
    "YBR_ICT", "YBR_RCT", "XYB",
)  # PS3.3 C.7.6.3.1.2  # fmt: skip
_REGISTERED = re.compile(r"[12]\.\d+\.\d+\.\d[\d.]*\Z")  # the form of an object identifier below a registered root
# Attributes that a multi-frame object keeps per frame or shared (PS3.3 C.7.6.16.2): macro sequence -> what is taken from it
FRAME_MACROS = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}
SPREAD = (0.5, 99.5)  # percentiles that become black and white where no window is given: spares collimator edges and markers


@dataclass(frozen=True, slots=True)
class Stored:
    """The decoded stored values, before rescale: what `vigil check-feed` compares with a reference decode."""

    shape: tuple[int, ...]
    dtype: str
    minimum: float
    maximum: float


def has_pixels(dataset: Dataset) -> bool:
    """Tell whether the data set carries pixels of any kind."""
    return any(keyword in dataset for keyword in PIXEL_KEYWORDS)


def frame_count(dataset: Dataset) -> int:
    """Return the number of frames: 1 unless (0028,0008) says more."""
    try:
        return max(1, int(dataset.get("NumberOfFrames") or 1))
    except Exception:  # reading converts lazily, and a broken value may raise anything (an integer string may say 1e999)
        return 1


def frame_number(dataset: Dataset, policy: FramePolicy) -> int:
    """Choose the one frame, counted from 0, that stands for a multi-frame object.

    `first` is what a viewer opens with; `middle` suits volumes (tomosynthesis, enhanced CT), whose first slice shows little.
    """
    return frame_count(dataset) // 2 if policy == "middle" else 0


def check_size(dataset: Dataset, limit: int) -> None:
    """Refuse a frame of more than `limit` samples before anything is decoded: a header can promise any size.

    Raises `Poison` (stage `decode`), also where rows or columns are missing or no numbers.
    """
    try:
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        samples = rows * columns * int(dataset.get("SamplesPerPixel") or 1)
    except Exception as error:  # as above
        raise Poison("(0028,0010) Rows or (0028,0011) Columns is missing or no number", stage="decode") from error
    if not 0 < samples <= limit:
        raise Poison(f"a frame of {rows} x {columns} is outside 1..{limit} samples", stage="decode")


def decode(dataset: Dataset, frame: int | None) -> NDArray[Any]:
    """Decode stored values: one frame [h, w] or [h, w, 3], or with `frame=None` all of them ([n, h, w, ...] where n > 1).

    YBR colour comes back as RGB. Values that do not stand in the lowest bits are moved there (High Bit above Bits Stored - 1,
    retired, of pixels as they are or in RLE: pydicom takes the lowest bits whatever High Bit says). Raises `Poison` (stage
    `decode`) for whatever the codecs cannot do.
    """
    try:
        below = _bits_below(dataset)
        options = {"bits_stored": int(dataset.BitsStored) + below} if below else {}
        array: NDArray[Any] = pixel_array(dataset, index=frame, **options)
        return array >> below if below else array
    except MemoryError:
        raise
    except Exception as error:
        # The codecs raise anything, and quote the data set in it: only the class and the technical attributes go on.
        raise Poison(f"cannot decode pixels ({type(error).__name__}): {_technical(dataset)}", stage="decode") from error


def _bits_below(dataset: Dataset) -> int:
    """Return how many bits of a pixel stand below its lowest one (PS3.5 8.1.1)."""
    allocated, kept, high = (dataset.get(keyword) for keyword in ("BitsAllocated", "BitsStored", "HighBit"))
    if not (isinstance(allocated, int) and isinstance(kept, int) and isinstance(high, int)):
        return 0
    if "PixelData" not in dataset or not 0 < kept <= high < allocated <= 32:
        return 0
    syntax = dataset.file_meta.TransferSyntaxUID
    return 0 if syntax.is_encapsulated and syntax != RLELossless else high + 1 - kept


def stored(dataset: Dataset, frame: int | None = None) -> tuple[Stored, NDArray[Any]]:
    """Decode, and describe what was decoded."""
    array = decode(dataset, frame)
    return Stored(array.shape, str(array.dtype), float(array.min()), float(array.max())), array


def render(dataset: Dataset, array: NDArray[Any], frame: int = 0) -> Pixels:
    """Turn one frame of stored values into an 8-bit picture, [h, w] grey or [h, w, 3] RGB.

    Raises `Poison` (stage `render`) where the data set's own tables contradict its pixels.
    """
    try:
        view = _frame_attributes(dataset, frame)
        photometric = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2").strip().upper()
        if photometric == "PALETTE COLOR":
            return _coloured(array, dataset)
        if array.ndim == 3:
            return _eight_bits(array[..., :3], bits=int(dataset.get("BitsStored") or array.dtype.itemsize * 8))
        return _grey(view, array, _words(dataset), invert=_inverted(dataset, photometric))
    except Poison:
        raise
    except Exception as error:
        raise Poison(f"cannot render pixels ({type(error).__name__}): {_technical(dataset)}", stage="render") from error


def to_png(picture: Pixels) -> bytes:
    """Encode losslessly. A new file from pixels alone: no attribute of the data set can be in it."""
    out = BytesIO()
    # level 1: on a 10-megapixel radiograph four times faster than the default and a few per cent larger
    Image.fromarray(picture).save(out, format="PNG", compress_level=1)
    return out.getvalue()


def _grey(view: Dataset, array: NDArray[Any], words: str, *, invert: bool) -> Pixels:
    padding = _padding(view, array)
    if table := view.get("ModalityLUTSequence"):
        values = _looked_up(array, table[0], words)[0]
    else:
        values = np.asarray(apply_modality_lut(array, view), dtype=np.float64)
    values = np.nan_to_num(values, nan=float(np.nanmin(values)) if np.isfinite(values).any() else 0.0)
    levels = _voi(view, array, values, padding, words)
    if invert:
        levels = 1.0 - levels
    if padding is not None:
        levels[padding] = 0.0
    return np.round(levels * 255).astype(np.uint8)


def _voi(
    view: Dataset, array: NDArray[Any], values: NDArray[np.float64], padding: NDArray[np.bool_] | None, words: str
) -> NDArray[np.float64]:
    """Apply the first VOI LUT that can be applied, else the first window, else spread the values; result in [0, 1].

    A table and a window in one object are alternative views, either of which may be shown (PS3.3 C.11.2.1.2).
    """
    for table in view.get("VOILUTSequence") or ():
        with suppress(Exception):  # reading converts lazily, and a broken table may raise anything
            entries, depth = _looked_up(values, table, words)
            levels: NDArray[np.float64] = np.clip(entries / (2**depth - 1), 0, 1)
            if _shows(levels, values):
                return levels
    centre, width = _first(view.get("WindowCenter")), _first(view.get("WindowWidth"))
    if centre is not None and width is not None:
        function = WINDOW_FUNCTIONS.get(str(view.get("VOILUTFunction") or "LINEAR").strip().upper(), linear)
        levels = function(values, centre, width)
        if _shows(levels, values):
            return levels
    if array.dtype == np.uint8 and values.min() >= 0 and 1 < values.max() <= 255:
        # eight bits are a picture already (ultrasound, captures): as it is; a mask of 0 and 1 is spread
        return np.asarray(np.clip(values / float(2 ** int(view.get("BitsStored") or 8) - 1), 0, 1))
    return _spread(values, padding)


def _shows(levels: NDArray[np.float64], values: NDArray[np.float64]) -> bool:
    """Whether a picture is left of the values: a window or table beside all of them is wrong, and would make a black one."""
    return bool(levels.min() < levels.max() or values.min() == values.max())


def _looked_up(values: NDArray[Any], table: Dataset, words: str) -> tuple[NDArray[np.float64], int]:
    """Return the entries of a LUT Sequence's item for values, and how many bits an entry has (PS3.3 C.11.1.1, C.11.2.1.1).

    Values below the first mapped one get the first entry, those beyond the last the last. LUT Data comes as numbers (US) or as
    16-bit `words` (OW); entries of 8 bits stand in bytes or, as some write them, in words, which their number tells apart. Own
    code: pydicom asks the data set around the table for its encoding, takes only depths of 8 and 16 in a modality LUT, and looks up
    modulo 256 in a VOI LUT of 8 bits. Raises `ValueError` where entries are missing, and whatever reading a broken table does.
    """
    entries, first, depth = _entries(table, words, signed=bool(values.min() < 0))
    return _at(entries, values, first), depth


def _entries(table: Dataset, words: str, *, signed: bool) -> tuple[NDArray[Any], int, int]:
    """Return a table's entries, the first value that it maps, and how many bits an entry has."""
    count, first, depth = (int(one) for one in table.LUTDescriptor)
    count, depth = count or 2**16, _lut_bits(depth)
    if first >= 2**15 and signed:
        first -= 2**16  # read as unsigned, where the values that it maps are signed
    data = table.LUTData
    if isinstance(data, bytes):
        data += b"\0" * (len(data) % 2) if depth == 8 else b""
        entries = np.frombuffer(data[: len(data) // 2 * 2], words).astype("<u2")
    else:
        entries = np.atleast_1d(np.asarray(data)).astype("<u2")
    if len(entries) < count and depth == 8:
        entries = entries.view(np.uint8)
    if len(entries) < count:
        raise ValueError("a LUT with fewer entries than its descriptor says")
    return entries[:count], first, depth


def _at(entries: NDArray[Any], values: NDArray[Any], first: int) -> NDArray[np.float64]:
    return entries[np.clip(values.astype(np.int64) - first, 0, len(entries) - 1)].astype(np.float64)


def linear(values: NDArray[np.float64], centre: float, width: float) -> NDArray[np.float64]:
    """LINEAR, the default (PS3.3 C.11.2.1.2.1), to [0, 1]. A width below 1 is no window: treated as 1, a threshold."""
    if width <= 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def linear_exact(values: NDArray[np.float64], centre: float, width: float) -> NDArray[np.float64]:
    """LINEAR_EXACT (PS3.3 C.11.2.1.3.2), to [0, 1]."""
    if width <= 0:
        return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def sigmoid(values: NDArray[np.float64], centre: float, width: float) -> NDArray[np.float64]:
    """SIGMOID (PS3.3 C.11.2.1.3.1), to (0, 1)."""
    exponent = np.clip(-4 * (values - centre) / (width or 1), -700, 700)  # exp overflows a float beyond
    return 1 / (1 + np.exp(exponent))


WINDOW_FUNCTIONS: dict[str, Callable[[NDArray[np.float64], float, float], NDArray[np.float64]]] = {
    "LINEAR": linear,
    "LINEAR_EXACT": linear_exact,
    "SIGMOID": sigmoid,
}


def _coloured(array: NDArray[Any], dataset: Dataset) -> Pixels:
    """Look values up in the palette (PS3.3 C.7.6.3.1.5, .6). Raises whatever a table does that cannot be read."""
    if "RedPaletteColorLookupTableData" not in dataset:  # segmented (PS3.3 C.7.9.2)
        return _eight_bits(apply_color_lut(array, dataset), bits=None)
    shown, most = [], 0.0
    for colour in ("Red", "Green", "Blue"):
        table = Dataset()
        count, start, bits = dataset[f"{colour}PaletteColorLookupTableDescriptor"].value
        data = dataset[f"{colour}PaletteColorLookupTableData"].value
        packed = isinstance(data, bytes) and len(data) <= (count or 2**16) + 1  # a byte each, whatever is said of them
        table.LUTDescriptor, table.LUTData = [count, start, 8 if packed else bits], data
        entries, first, depth = _entries(table, _words(dataset), signed=bool(array.min() < 0))
        shown.append(_at(entries, array, first))
        most = max(most, float(entries.max()))
    if most <= 255:  # entries of 8 bits under a descriptor that says 16, as some write them: by it all would be black
        depth = 8
    return np.asarray(np.round(np.stack(shown, axis=-1) / (2**depth - 1) * 255).clip(0, 255).astype(np.uint8))


def _spread(values: NDArray[np.float64], padding: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    seen = values if padding is None or padding.all() else values[~padding]
    low, high = (float(v) for v in np.percentile(seen, SPREAD))
    if low >= high:
        low, high = float(seen.min()), float(seen.max())
    if low >= high:
        return np.zeros_like(values)
    return np.clip((values - low) / (high - low), 0, 1)


def _eight_bits(array: NDArray[Any], bits: int | None) -> Pixels:
    if array.dtype == np.uint8 and bits in (None, 8):
        return np.asarray(array)
    depth = bits or array.dtype.itemsize * 8
    return np.asarray(np.round(np.clip(array.astype(np.float64) / (2**depth - 1), 0, 1) * 255).astype(np.uint8))


def _frame_attributes(dataset: Dataset, frame: int) -> Dataset:
    """Return what the grey pipeline reads, with a multi-frame object's shared and per-frame macros laid over it."""
    view = Dataset()
    for keyword in (
        "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth",
        "VOILUTFunction", "BitsStored", "PixelRepresentation", "PhotometricInterpretation", "PixelPaddingValue",
        "PixelPaddingRangeLimit",
    ):  # fmt: skip
        if keyword in dataset:
            view[keyword] = dataset[keyword]
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for group in (*shared[:1], *per_frame[frame : frame + 1]):
        for macro, keywords in FRAME_MACROS.items():
            for item in (group.get(macro) or [])[:1]:
                for keyword in keywords:
                    if keyword in item:
                        view[keyword] = item[keyword]
    return view


def _words(dataset: Dataset) -> str:
    """Return the numpy type of the 16-bit words in which the object is encoded."""
    meta = getattr(dataset, "file_meta", None) or Dataset()
    return ">u2" if meta.get("TransferSyntaxUID") == ExplicitVRBigEndian else "<u2"


def _inverted(dataset: Dataset, photometric: str) -> bool:
    """Tell whether low values are white: MONOCHROME1, or the presentation LUT shape says so (PS3.3 C.11.6)."""
    shape = str(dataset.get("PresentationLUTShape") or "").strip().upper()
    return shape == "INVERSE" if shape in ("INVERSE", "IDENTITY") else photometric == "MONOCHROME1"


def _padding(view: Dataset, array: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return the mask of pixels that are no image (PS3.3 C.7.5.1.1.2), or None where nothing is padded."""
    value, limit = view.get("PixelPaddingValue"), view.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return None
    ends = [_represented(view, array, one) for one in (value, limit) if isinstance(one, int)]
    low, high = min(ends), max(ends)
    mask: NDArray[np.bool_] = (array >= low) & (array <= high)
    return mask if mask.any() and not mask.all() else None


def _represented(view: Dataset, array: NDArray[Any], value: int) -> int:
    """Return a padding value as the pixels have it: some write a signed one as unsigned (63536 for -2000), or the reverse."""
    if array.dtype.kind not in "iu":
        return value
    signed, bits = array.dtype.kind == "i", int(view.get("BitsStored") or array.dtype.itemsize * 8)
    if signed and value >= 2 ** (bits - 1):
        value %= 2**bits
        return value - 2**bits if value >= 2 ** (bits - 1) else value
    return value % 2**bits if value < 0 and not signed else value


def _first(value: Any) -> float | None:
    try:
        number = float(value if isinstance(value, (int, float, str)) else value[0])
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return number if np.isfinite(number) else None


def _lut_bits(descriptor: int) -> int:
    return descriptor if 8 <= descriptor <= 16 else 16


def _technical(dataset: Dataset) -> str:
    """Describe an object by what cannot be patient text: registered transfer syntaxes, the standard's terms, small numbers."""
    parts = []
    meta = getattr(dataset, "file_meta", None) or Dataset()
    attributes: tuple[tuple[Dataset, str, Callable[[Any], str]], ...] = (
        (meta, "TransferSyntaxUID", _syntax),
        (dataset, "PhotometricInterpretation", lambda value: value if value in PHOTOMETRIC else "other"),
        (dataset, "BitsAllocated", _small),
        (dataset, "BitsStored", _small),
        (dataset, "SamplesPerPixel", _small),
    )
    for holder, keyword, shown in attributes:
        try:
            parts.append(f"{keyword} {shown(holder[keyword].value)}")
        except KeyError:
            parts.append(f"no {keyword}")
        except Exception:  # reading converts lazily, and a broken value may raise anything
            parts.append(f"{keyword} unreadable")
    return ", ".join(parts)


def _syntax(value: Any) -> str:
    uid = UID(str(value))
    return uid.name if uid.name != uid or _REGISTERED.match(uid) else "other"


def _small(value: Any) -> str:
    return str(value) if isinstance(value, int) and 0 <= value <= 64 else "other"
