import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.dicom.multipart import Malformed, Part, TooLong, boundary_of, parts


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
    [b"", b"--x", b"nothing", b"--x\r\nA: b\r\n\r\nno end", b"--x\r\nno headers' end\r\n--x--", b"--xy\r\n\r\n\r\n--xy--"],
)
async def test_malformed(data):
    with pytest.raises(Malformed):
        await read(data)


async def test_too_long():
    with pytest.raises(TooLong):
        await read(body(b"a" * 2000), size=100)
    with pytest.raises(TooLong):
        await read(b"--x\r\nContent-Type: a\r\n\r\n" + b"a" * 100_000, size=1000)


def test_boundaries():
    assert boundary_of('multipart/related; type="application/dicom"; boundary="a b"') == b"a b"
    for wrong in ("multipart/related", "multipart/related; boundary=", "multipart/related; boundary=" + "x" * 300):
        with pytest.raises(Malformed):
            boundary_of(wrong)
