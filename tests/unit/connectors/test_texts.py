import time
from base64 import b64encode, encodebytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.pdf import text_of_pdf
from connectors.texts import text_of, text_of_words


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<p>a<br/>b</p><P CLASS='x'>c</P>", "a\nb\nc"),
        ("BP &lt; 90 and HR < 50", "BP < 90 and HR < 50"),
        ("<!-- <p>no</p> -->yes<!-- never closed", "yes"),
        ("<style>p {}</style>x<script>if (a < b) {}</script>y", "xy"),
        ("<![CDATA[a < b & c]]>", "a < b & c"),
        ("<cda:paragraph>one</cda:paragraph><cda:item>two</cda:item>", "one\ntwo"),
        ("<![x nothing that Python's parser survives", "<![x nothing that Python's parser survives"),
        ("a < b", "a < b"),
    ],
)
def test_markup(source: str, text: str) -> None:
    assert text_of(source.encode(), "text/html") == text


@settings(deadline=None)
@given(
    data=st.binary(max_size=300).filter(lambda raw: b"%PDF" not in raw),
    kind=st.sampled_from(["text/plain", "text/html", "text/rtf", "", "text/xml"]),
)
def test_any_bytes_are_text_or_a_value_error_that_does_not_quote_them(data: bytes, kind: str) -> None:
    try:
        assert text_of(data, kind).strip()
    except ValueError as error:
        assert str(error).startswith("embedded")


@given(st.text("<>!?/-[]&#;ab p'\"=CDAT", max_size=200))
def test_any_markup(source: str) -> None:
    try:
        text_of(source.encode(), "text/html")
    except ValueError as error:
        assert str(error) == "embedded data without text"


@pytest.mark.parametrize(
    "piece", ["<!", "<![", "<a ", "<a a=", "&#", "<!--", "</", "<", "<script>", '<a"', "{", "\\", "{\\*", "\\'e"]
)
@pytest.mark.parametrize("kind", ["html", "rtf"])
def test_time_grows_with_the_length_and_not_with_its_square(piece: str, kind: str) -> None:
    start = "{\\rtf1 " if kind == "rtf" else ""
    data = (start + piece * (400_000 // len(piece))).encode()
    began = time.process_time()
    try:
        text_of(data, kind)
    except ValueError:
        pass
    assert time.process_time() - began < 5  # a quadratic reader needs minutes


def test_a_pdf_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(ValueError, match="takes too long"):
        text_of_pdf(b"%PDF-1.4", seconds=0.001)


def test_what_is_no_pdf() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        text_of(b"%PDF-1.7 \xff\x00 rubbish", "application/pdf")


CDA = b"""<?xml version="1.0"?><ClinicalDocument><text><paragraph>Chest pain</paragraph></text></ClinicalDocument>"""


def package(*parts: tuple[str, str, bytes], kind: str = "related", preamble: str | None = None) -> bytes:
    """A MIME package of (content type, transfer encoding, body)."""
    if preamble is None:
        head = (
            "MIME-Version: 1.0",
            f"Content-Type: multipart/{kind};",
            ' boundary="edge"',
            "Content-Transfer-Encoding: BASE64",
        )
        preamble = "\r\n".join((*head, "", ""))
    body = "".join(
        f"--edge\r\nContent-Type: {name}\r\nContent-Transfer-Encoding: {how}\r\n\r\n"
        + (encodebytes(data) if how == "base64" else data).decode("latin-1")
        + "\r\n"
        for name, how, data in parts
    )
    return (preamble + body + "--edge--\r\n").encode("latin-1")


PICTURE = ("image/jpeg", "base64", bytes(range(256)))
AS_XML = ("text/xml; charset=UTF-8", "base64", CDA)


@pytest.mark.parametrize("kind", ["multipart related", "multipart x-hl7-cda-level-one", "", "text plain", "text xml"])
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (package(AS_XML), "Chest pain"),
        (package(("text/xml", "8bit", CDA)), "Chest pain"),
        (package(("text/xml", "quoted-printable", CDA.replace(b"=", b"=3D"))), "Chest pain"),
        (package(PICTURE, AS_XML), "Chest pain"),
        (package(AS_XML, ("text/plain", "8bit", b"Another form.")), "Chest pain"),
        (package(AS_XML, ("text/plain", "8bit", b"An annex."), kind="mixed"), "Chest pain\nAn annex."),
        (package(("text/plain; charset=iso-8859-1", "8bit", "Müller".encode("latin-1"))), "Müller"),
    ],
)
def test_a_mime_package(data: bytes, text: str, kind: str) -> None:
    assert text_of(data, kind) == text
    assert text_of(b"\r\n" + data, kind) == text


def test_a_package_that_is_none_and_one_without_its_header() -> None:
    assert text_of(CDA, "multipart related") == "Chest pain"
    assert text_of(package(AS_XML, preamble=""), "multipart related") == "Chest pain"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (package(PICTURE), "embedded data is not text"),
        (package(), "embedded package without text"),
        (package(AS_XML).replace(b'"edge"', b'"other"'), "embedded package without text"),
        (package(("text/xml", "8bit", b64encode(CDA))), "embedded data that is base64 once more"),
        (package(("text/plain", "8bit", b"MIME-Version: 1.0\r\n" * 20)), "embedded package is too large"),
        (b64encode(CDA), "embedded data that is base64 once more"),
    ],
)
def test_what_has_no_text(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        text_of(data, "")


LONG = "Patient has pneumonia, seen on the round. No fever, stable."
RTF = r"{\rtf1\ansi Stable \b today\b0.\par Home.}"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (RTF, "Stable today.\nHome."),
        (f"\n {RTF}", "Stable today.\nHome."),
        ("<html lang='en'><body><p>Has pneumonia</p></body></html>", "Has pneumonia"),
        ("<!DOCTYPE html><p>Has pneumonia", "Has pneumonia"),
        ("<div class='x'>Has<br>pneumonia</div>", "Has\npneumonia"),
        ("<cda:ClinicalDocument><cda:text>Has pneumonia</cda:text></cda:ClinicalDocument>", "Has pneumonia"),
        (CDA.decode(), "Chest pain"),
        (b64encode(CDA).decode(), "Chest pain"),
        (encodebytes(LONG.encode()).decode(), LONG),
        ("Hb <normal, Na > 130. {\\rtf is in the middle}", "Hb <normal, Na > 130. {\\rtf is in the middle}"),
        ("<b is less than b", "<b is less than b"),
        ("<p 0.05 and >3", "<p 0.05 and >3"),
        ("ACGT" * 40, "ACGT" * 40),
        ("/" * 80, "/" * 80),
        ("Patient has pneumonia", "Patient has pneumonia"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_document_in_the_place_of_text(words: str, text: str) -> None:
    assert text_of_words(words) == text


@pytest.mark.parametrize("words", [b64encode(bytes(range(256))).decode(), b64encode(CDA).decode()[:-1]])
def test_base64_that_is_no_text_stays_none(words: str) -> None:
    with pytest.raises(ValueError, match=r"not text|cannot be decoded"):
        text_of_words(words)


@pytest.mark.parametrize(
    "words", ["A" * 60 + "\n" * 200_000 + "!", "<p>" * 100_000, "{\\rtf" + "{" * 200_000, "<p" + " " * 200_000]
)
def test_text_that_looks_like_a_document_takes_no_longer(words: str) -> None:
    began = time.process_time()
    try:
        text_of_words(words)
    except ValueError:
        pass
    assert time.process_time() - began < 5
