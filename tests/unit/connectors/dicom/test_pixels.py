from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from connectors.dicom import pixels
from models.errors import Poison
from tests.dicom_objects import encode, fill, make


def picture(dataset, frame=0):
    return pixels.render(dataset, pixels.decode(dataset, frame), frame)


RAMP = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)


def test_a_linear_window_is_the_standards_formula():
    # PS3.3 C.11.2.1.2.1 gives c=2048, w=4096: below 0 black, 4095 white, ((x - 2047.5) / 4095 + 0.5) between
    shown = picture(make(RAMP, WindowCenter=2048, WindowWidth=4096))
    assert shown[0, 0] == 0
    assert shown[-1, -1] == 255
    expected = np.round(((RAMP - 2047.5) / 4095 + 0.5) * 255)
    assert np.array_equal(shown, expected)


def test_a_window_works_on_rescaled_values():
    # CT: stored 0..4095, rescale -1024; lung window -600/1500 shows -1350..150 HU
    shown = picture(make(RAMP, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=-600, WindowWidth=1500))
    hounsfield = RAMP.astype(int) - 1024
    assert (shown[hounsfield < -1351] == 0).all()
    assert (shown[hounsfield > 151] == 255).all()
    assert 120 <= shown.flat[1024 - 600] <= 135


def test_monochrome1_is_inverted_after_the_window():
    straight = picture(make(RAMP, WindowCenter=1000, WindowWidth=500))
    inverted = picture(make(RAMP, WindowCenter=1000, WindowWidth=500, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(inverted, 255 - straight)


def test_the_presentation_lut_shape_decides_over_the_photometric_interpretation():
    plain = picture(make(RAMP, WindowCenter=1000, WindowWidth=500))
    shaped = picture(make(RAMP, WindowCenter=1000, WindowWidth=500, PresentationLUTShape="INVERSE"))
    assert np.array_equal(shaped, 255 - plain)


def test_signed_values_keep_their_sign():
    signed = np.linspace(-1000, 1000, 64 * 64).astype(np.int16).reshape(64, 64)
    shown = picture(make(signed, WindowCenter=0, WindowWidth=2000))
    assert shown[0, 0] == 0
    assert shown[-1, -1] >= 254
    assert abs(int(shown[32, 0]) - 127) <= 2


def test_without_a_window_the_values_are_spread_by_percentiles():
    values = np.full((100, 100), 1000, np.uint16) + np.arange(100, dtype=np.uint16)
    values[0, 0] = 65535  # one burnt pixel must not make the rest black
    shown = picture(make(values))
    assert shown[:, 50].mean() == pytest.approx(127, abs=3)
    assert shown[0, 0] == 255


def test_a_window_beside_all_values_is_not_believed():
    shown = picture(make(RAMP, WindowCenter=60000, WindowWidth=10))
    assert shown.min() == 0
    assert shown.max() == 255


def test_padding_is_black_and_does_not_count():
    values = RAMP.copy()
    values[:, :8] = 63000
    shown = picture(make(values, PixelPaddingValue=63000, PhotometricInterpretation="MONOCHROME1"))
    assert (shown[:, :8] == 0).all()
    assert shown[0, 8:].mean() > 250  # lowest value, inverted: white


@pytest.mark.parametrize(
    ("signed", "stored", "padding"),
    [(True, 16, 63536), (True, 12, 63536), (True, 12, 2096), (True, 16, -2000), (False, 16, -2000), (False, 12, -2000)],
)
def test_padding_is_known_however_its_sign_is_written(signed, stored, padding):
    values = np.tile(np.linspace(-900, 900, 64), (64, 1)).astype(np.int32) + (0 if signed else 1000)
    values[:, :8] = -2000 if signed else -2000 % 2**stored
    dataset = make(values.astype(np.int16 if signed else np.uint16), BitsStored=stored, HighBit=stored - 1)
    dataset.add_new("PixelPaddingValue", "SS" if padding < 0 else "US", padding)
    shown = picture(dataset)
    assert (shown[:, :8] == 0).all()
    assert shown[0, 8] < 3  # the contrast is spread over what is image
    assert shown[0, 40] > 100
    dataset.add_new("PixelPaddingRangeLimit", dataset["PixelPaddingValue"].VR, padding + 100)
    assert (picture(dataset)[:, :8] == 0).all()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
@pytest.mark.parametrize("signed", [False, True])
def test_values_above_the_lowest_bits_are_moved_there(signed, syntax):
    values = RAMP.astype(np.int16) - 2048 if signed else RAMP
    window = {"WindowCenter": 0 if signed else 2048, "WindowWidth": 4096}
    usual = make(values, BitsStored=12, HighBit=11, **window)
    left = make(values << 4 | 0b1010, BitsStored=12, HighBit=15, **window)  # an overlay's bits below
    middle = make((values & 0xFFF).astype(values.dtype) << 2, BitsStored=12, HighBit=13, **window)
    for one in (usual, left, middle):
        if syntax == RLELossless:
            one.compress(RLELossless)
        elif syntax == ExplicitVRBigEndian:
            one.PixelData = np.frombuffer(one.PixelData, "<u2").astype(">u2").tobytes()
        one.file_meta.TransferSyntaxUID = syntax
        assert np.array_equal(pixels.decode(one, 0), values)
        assert np.array_equal(picture(one), picture(usual))


@pytest.mark.parametrize("high", [0, 10, 16, 40, None])
def test_a_high_bit_that_cannot_be_changes_nothing(high):
    assert np.array_equal(pixels.decode(make(RAMP, BitsStored=12, HighBit=high), 0), RAMP)


def lut(entries, bits, vr="US", first=0, count=None, packed=False, order="<"):
    """A LUT Sequence's item. `packed`: entries of 8 bits in bytes, as the standard has them, instead of in words."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [count or len(entries), first, bits])
    data = np.asarray(entries, "u1" if packed else f"{order}u2").tobytes()
    data += b"\0" * (len(data) % 2)
    item.add_new("LUTData", vr, data if vr == "OW" else np.frombuffer(data, f"{order}u2").tolist())
    return Sequence([item])


def read(dataset, syntax):
    """The data set as it is read from a file in that encoding."""
    dataset.file_meta.TransferSyntaxUID = syntax
    return dcmread(BytesIO(encode(dataset)))


def test_a_voi_lut_is_looked_up():
    dataset = make(np.array([[0, 1], [2, 3]], dtype=np.uint16), VOILUTSequence=lut([255, 10, 20, 0], 8))
    assert picture(dataset).tolist() == [[255, 10], [20, 0]]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("kind", ["VOILUTSequence", "ModalityLUTSequence"])
def test_a_lut_is_looked_up_however_it_is_encoded(kind, bits, vr, syntax):
    table = np.arange(4095, -1, -1) * (2**bits - 1) // 4095
    shown = picture(read(make(RAMP, BitsStored=12, HighBit=11, **{kind: lut(table, bits, vr)}), syntax))
    if kind == "VOILUTSequence":
        assert np.array_equal(shown, np.round(table[RAMP] / (2**bits - 1) * 255))
    else:  # what it gives is spread, as values without a window are
        assert np.array_equal(shown, picture(make(table[RAMP].astype(np.uint16))))


def test_a_lut_in_words_of_the_other_byte_order():
    dataset = make(VOILUTSequence=lut([0, 0x0FFF, 0, 0x07FF], 12, "OW", order=">"))
    fill(dataset, np.array([[0, 1], [2, 3]], ">u2"))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    assert picture(dataset).tolist() == [[0, 255], [0, 127]]


@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("packed", [True, False])
def test_entries_of_eight_bits_stand_in_bytes_or_in_words(packed, vr):
    dataset = make(np.array([[0, 1, 4]], np.uint16), VOILUTSequence=lut([255, 10, 20, 30, 0], 8, vr, packed=packed))
    assert picture(dataset).tolist() == [[255, 10, 0]]


def test_a_lut_begins_at_its_first_value():
    dataset = make(np.array([[0, 100, 101, 5000]], np.uint16), VOILUTSequence=lut([1, 2, 255], 8, first=100))
    assert picture(dataset).tolist() == [[1, 1, 2, 255]]
    signed = make(np.array([[-3, -2, 0, 9]], np.int16), VOILUTSequence=lut([1, 2, 255], 8, first=-2))
    assert picture(signed).tolist() == [[1, 1, 255, 255]]
    signed.VOILUTSequence[0].add_new("LUTDescriptor", "US", [3, 2**16 - 2, 8])
    assert picture(signed).tolist() == [[1, 1, 255, 255]]


@pytest.mark.parametrize(
    "broken",
    [
        lut([0] * 10, 12, count=4096),
        lut([0] * 10, 12, "OW", count=4096),
        lut([4095] * 4096, 12, "OW"),  # nothing is left of the picture
        Sequence([Dataset()]),
    ],
)
def test_a_voi_lut_that_cannot_be_applied_gives_way(broken):
    window = {"WindowCenter": 2048, "WindowWidth": 1000}
    assert np.array_equal(picture(make(RAMP, VOILUTSequence=broken, **window)), picture(make(RAMP, **window)))
    assert np.array_equal(picture(make(RAMP, VOILUTSequence=broken)), picture(make(RAMP)))
    other = lut(np.arange(4095, -1, -1), 12, "OW")
    both = make(RAMP, VOILUTSequence=Sequence([*broken, *other]), **window)
    assert np.array_equal(picture(both), picture(make(RAMP, VOILUTSequence=other)))


def test_a_modality_lut_that_cannot_be_applied_is_poison():
    with pytest.raises(Poison, match=r"cannot render pixels \(ValueError\)"):
        picture(make(RAMP, ModalityLUTSequence=lut([0] * 10, 12, "OW", count=4096)))


@pytest.mark.parametrize(
    ("function", "centre", "width", "value", "expected"),
    [
        ("LINEAR_EXACT", 100, 100, 50, 0.0),
        ("LINEAR_EXACT", 100, 100, 100, 0.5),
        ("LINEAR_EXACT", 100, 100, 150, 1.0),
        ("SIGMOID", 100, 100, 100, 0.5),
        ("SIGMOID", 100, 100, 150, 1 / (1 + np.exp(-2))),
        ("LINEAR", 100, 1, 100, 1.0),
        ("LINEAR", 100, 1, 99, 0.0),
        ("LINEAR_EXACT", 100, 0, 99, 0.0),
        ("SIGMOID", 0, 0, 5000, 1.0),
    ],
)
def test_window_functions(function, centre, width, value, expected):
    result = pixels.WINDOW_FUNCTIONS[function](np.array([float(value)]), centre, width)
    assert result[0] == pytest.approx(expected)


def test_eight_bit_grey_without_a_window_stays_as_it_is():
    values = np.arange(16, dtype=np.uint8).reshape(4, 4) * 10
    assert np.array_equal(picture(make(values)), values)


def test_rgb_stays_and_ybr_becomes_rgb():
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[..., 0] = 200
    assert np.array_equal(picture(make(rgb)), rgb)
    ybr = make(np.broadcast_to(np.array([76, 85, 255], np.uint8), (4, 4, 3)).copy())  # red in YBR_FULL (PS3.3 C.7.6.3.1.2)
    ybr.PhotometricInterpretation = "YBR_FULL"
    red = picture(ybr)[0, 0]
    assert red[0] >= 253
    assert red[1] <= 2
    assert red[2] <= 2


def test_a_palette_becomes_rgb():
    dataset = make(np.array([[0, 1], [1, 0]], np.uint8))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for colour, values in (("Red", [0, 65535]), ("Green", [0, 32768]), ("Blue", [65535, 0])):
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [2, 0, 16])
        dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", np.array(values, "<u2").tobytes())
    shown = picture(dataset)
    assert shown[0, 0].tolist() == [0, 0, 255]
    assert shown[0, 1].tolist() == [255, 128, 0]


@pytest.mark.parametrize("form", ["words", "bytes", "words of bytes", "bytes of words"])
def test_a_palette_of_eight_bits_is_shown_however_it_is_written(form):
    values = np.tile(np.arange(64, dtype=np.uint16), (64, 1)) * 4
    dataset = make(values)
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for colour, entries in (("Red", np.arange(256)), ("Green", np.arange(256)[::-1]), ("Blue", np.zeros(256))):
        said = 8 if form in ("bytes", "bytes of words") else 16
        data = entries.astype("u1" if form in ("bytes", "words of bytes") else "<u2").tobytes()
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, said])
        dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", data)
    assert np.array_equal(picture(dataset), np.stack([values, 255 - values, values * 0], axis=-1))


def test_a_palette_of_more_entries_than_a_byte_counts():
    dataset = make(np.array([[0, 300, 599, 5000]], np.uint16))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [600, 0, 8])
        data = (np.arange(600) // 3).astype("u1").tobytes()
        dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", data)
    assert picture(dataset)[0, :, 0].tolist() == [0, 100, 199, 199]


def test_a_dark_palette_stays_dark():
    dataset = make(np.array([[0, 1]], np.uint8))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [3, 0, 16])
        dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", np.array([0, 200, 65535], "<u2").tobytes())
    assert picture(dataset).max() == 1  # bright entries that this picture does not use


def test_sixteen_bit_colour_becomes_eight():
    values = np.zeros((2, 2, 3), np.uint16)
    values[..., 1] = 65535
    assert picture(make(values))[0, 0].tolist() == [0, 255, 0]


def test_multi_frame_attributes_come_from_the_functional_groups():
    stack = np.stack([RAMP, RAMP])
    dataset = make(RAMP)
    dataset.NumberOfFrames = 2
    dataset.PixelData = stack.tobytes()
    shared, first, second = Dataset(), Dataset(), Dataset()
    rescale = Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, -1024
    shared.PixelValueTransformationSequence = Sequence([rescale])
    for group, centre in ((first, 0), (second, 500)):
        window = Dataset()
        window.WindowCenter, window.WindowWidth = centre, 100
        group.FrameVOILUTSequence = Sequence([window])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence([first, second])
    hounsfield = RAMP.astype(int) - 1024
    for frame, centre in ((0, 0), (1, 500)):
        shown = picture(dataset, frame)
        assert (shown[hounsfield < centre - 60] == 0).all()
        assert (shown[hounsfield > centre + 60] == 255).all()


def test_frame_policy():
    dataset = make(NumberOfFrames=9)
    assert pixels.frame_number(dataset, "first") == 0
    assert pixels.frame_number(dataset, "middle") == 4
    assert pixels.frame_number(make(), "middle") == 0


def test_a_count_that_is_no_number_is_one_frame():
    data = encode(make(NumberOfFrames=99999999))
    assert pixels.frame_number(dcmread(BytesIO(data)), "middle") == 99999999 // 2
    for written in (b"1e999   ", b"nine    ", b"        "):
        assert pixels.frame_number(dcmread(BytesIO(data.replace(b"99999999", written))), "middle") == 0


def test_float_pixels_with_nan():
    dataset = make()
    values = np.linspace(0, 1, 64 * 48).astype(np.float32).reshape(64, 48)
    values[0, 0] = np.nan
    dataset.FloatPixelData = values.tobytes()
    del dataset.PixelData
    dataset.BitsAllocated = 32
    del dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    shown = picture(dataset)
    assert shown.dtype == np.uint8
    assert shown[0, 0] == 0
    assert shown[-1, -1] == 255


@pytest.mark.parametrize("rows", [0, 60000])
def test_a_frame_beyond_the_limit_is_refused_before_decoding(rows):
    with pytest.raises(Poison, match="outside"):
        pixels.check_size(make(Rows=rows, Columns=60000), 100_000_000)


def test_a_truncated_frame_is_poison_and_quotes_nothing():
    dataset = make(PatientName="Secret^Name")
    dataset.PixelData = dataset.PixelData[:100]
    with pytest.raises(Poison, match=r"cannot decode pixels \(ValueError\)") as caught:
        pixels.decode(dataset, 0)
    assert caught.value.stage == "decode"
    said = "TransferSyntaxUID Explicit VR Little Endian, PhotometricInterpretation MONOCHROME2, BitsAllocated 16, BitsStored 16"
    assert said in str(caught.value)


def test_what_an_object_says_of_its_pixels_is_quoted_only_in_the_standards_words():
    dataset = make(PhotometricInterpretation="ROE JANE", BitsAllocated=4711)
    dataset.file_meta.TransferSyntaxUID = "ROE.JANE"
    del dataset.BitsStored
    with pytest.raises(Poison) as caught:
        pixels.decode(dataset, 0)
    said = "TransferSyntaxUID other, PhotometricInterpretation other, BitsAllocated other, no BitsStored, SamplesPerPixel 1"
    assert str(caught.value).endswith(said)


def test_the_png_is_lossless_and_holds_nothing_else():
    shown = picture(make(RAMP, WindowCenter=2048, WindowWidth=4096))
    data = pixels.to_png(shown)
    opened = Image.open(BytesIO(data))
    assert opened.info == {}
    assert np.array_equal(np.asarray(opened), shown)


def test_one_constant_value_does_not_divide_by_zero():
    assert picture(make(np.full((4, 4), 7, np.uint16))).max() == 0
    dataset = make()
    fill(dataset, np.full((3, 3), 200, np.uint8))
    assert (picture(dataset) == 200).all()
