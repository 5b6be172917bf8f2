import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.dicom.multipart import Malformed, Part, boundary_of, parts


async def cut(data, size):
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read(data, size=7, boundary=b"x", largest=1000):
    return [part async for part in parts(cut(data, size), boundary, largest)]


def body(*contents, boundary=b"x", kind=b"application/dicom"):
    made = b"".join(b"--" + boundary + b"\r\nContent-Type: " + kind + b"\r\n\r\n" + one + b"\r\n" for one in contents)
    return made + b"--" + boundary + b"--\r\nepilogue"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4), st.integers(1, 40), st.sampled_from([b"x", b"--", b"\xe9 b"]))
async def test_parts_come_out_as_they_went_in(contents, size, boundary):
    contents = [one for one in contents if b"\r\n--" + boundary not in b"\r\n" + one + b"\r\n"] or [b""]
    assert await read(body(*contents, boundary=boundary), size, boundary) == [
        Part("application/dicom", one) for one in contents
    ]


async def test_a_preamble_parameters_and_missing_headers():
    data = (
        b"preamble\r\n--x  \r\ncontent-TYPE: Application/DICOM; transfer-syntax=*\r\nX: y\r\n\r\none\r\n--x\r\n\r\ntwo\r\n--x--"
    )
    assert await read(data) == [Part("application/dicom", b"one"), Part("", b"two")]


@pytest.mark.parametrize(
    "data",
    [b"", b"--x", b"nothing", b"--x\r\nA: b\r\n\r\nno end", b"--xy\r\n\r\n\r\n--xy--"],
)
async def test_malformed(data):
    with pytest.raises(Malformed):
        await read(data)


@pytest.mark.parametrize("size", [7, 100, 16_384, 1_000_000])
@pytest.mark.parametrize("length", [1001, 20_000, 100_000])
async def test_what_is_too_long_is_passed_over(size, length):
    one, long, other = await read(body(b"one", b"a" * length, b"other"), size=size)
    assert (one, other) == (Part("application/dicom", b"one"), Part("application/dicom", b"other"))
    assert (long.media_type, long.flaw) == ("application/dicom", "long")
    assert long.data == b"a" * len(long.data)
    assert 1000 < len(long.data) <= 40_000
    assert await read(b"p" * length + b"\r\n" + body(b"one"), size=size) == [one]  # a preamble
    with pytest.raises(Malformed):
        await read(body(b"a" * length)[:-20], size=size)


@pytest.mark.parametrize("broken", [b"--x\r\nno headers' end", b"--x behind\r\n\r\ntext", b"--x\r\n" + b"h" * 20_000])
async def test_what_follows_a_part_without_form_is_read(broken):
    whole = Part("application/dicom", b"one")
    assert await read(broken + b"\r\n" + body(b"one")) == [Part("", b"", "form"), whole]


def test_boundaries():
    assert boundary_of('multipart/related; type="application/dicom"; boundary="a b"') == b"a b"
    for wrong in ("multipart/related", "multipart/related; boundary=", "multipart/related; boundary=" + "x" * 300):
        with pytest.raises(Malformed):
            boundary_of(wrong)
