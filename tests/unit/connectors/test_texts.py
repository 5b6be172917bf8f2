import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.pdf import text_of_pdf
from connectors.texts import text_of


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
