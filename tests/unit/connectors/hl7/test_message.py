from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7.batches import is_several, messages, of_frame
from connectors.hl7.charsets import codec_of, declared, decode, unwrap
from connectors.hl7.errors import Unreadable
from connectors.hl7.message import Delimiters, parse, unescape

MSH = r"MSH|^~\&|APP|FAC|||20260101||ORU^R01|7|P|2.5"


def field(text: str, number: int = 5) -> str:
    parsed = parse(f"{MSH}\rOBX|1|TX|c||{text}|".encode())
    segment = parsed.first("OBX")
    assert segment is not None
    return segment.get(number)


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_any_terminator(end: str) -> None:
    parsed = parse(end.join([MSH, "PID|1||9", "OBX|1|NM|x||5"]).encode())
    assert [segment.name for segment in parsed.segments] == ["MSH", "PID", "OBX"]
    assert parsed.header.get(12) == "2.5"


def test_fields_count_from_the_separator_in_msh() -> None:
    header = parse(MSH.encode()).header
    assert (header.raw(1), header.raw(2), header.get(3), header.get(9), header.get(9, 2), header.get(10)) == (
        "|", "^~\\&", "APP", "ORU", "R01", "7",
    )  # fmt: skip


def test_what_is_absent_is_empty() -> None:
    header = parse(MSH.encode()).header
    assert (header.get(99), header.get(9, 7), header.get(9, 1, 2), header.get(3, repetition=2)) == ("", "", "", "")


def test_components_subcomponents_repetitions() -> None:
    segment = parse(f"{MSH}\rPID|1||1^^^A&1.2.3&ISO^MR~2^^^B^PI".encode()).first("PID")
    assert segment is not None
    assert (segment.count(3), segment.get(3, 4, 2), segment.get(3, 4, 1, repetition=2)) == (2, "1.2.3", "B")


def test_custom_delimiters() -> None:
    parsed = parse(b"MSH^~|\\&^SENDER^F^^^20260101^^ADT~A24^2003^T^2.4\rPID^1^^1~~~A|2~~~B")
    assert parsed.delimiters == Delimiters("^", "~", "|", "\\", "&")
    assert (parsed.header.get(9, 2), parsed.header.get(12)) == ("A24", "2.4")
    pid = parsed.first("PID")
    assert pid is not None
    assert pid.get(3, 4, repetition=2) == "B"


def test_escape_character_of_their_own() -> None:
    segment = parse(b"MSH|^~$&|A|B\rOBX|1|TX|c||a$T$b$F$c\\T\\").first("OBX")
    assert segment is not None
    assert segment.get(5) == "a&b|c\\T\\"


def test_backslash_escaped_once_too_often_in_msh_2() -> None:
    assert parse(rb"MSH|^~\\&|A|B").delimiters == Delimiters()


def test_fewer_encoding_characters_leave_the_rest_unused() -> None:
    segment = parse(b"MSH|^~|A|B\rPID|1||a^b&c\\F\\").first("PID")
    assert segment is not None
    assert segment.get(3, 2) == "b&c\\F\\"


@pytest.mark.parametrize(
    "raw", [b"", b"PID|1", b"MSH", b"hello", b"\x00\xff", b"MSHA^~\\&", b"MSH |x", b"MSH|&&&&|A", b"MSH|^&&^##|A", b"MSH||"]
)
def test_no_msh_to_follow(raw: bytes) -> None:
    if raw == b"MSH||":
        assert parse(raw).delimiters.component == ""
        return
    with pytest.raises(Unreadable):
        parse(raw)


def test_byte_order_mark_and_blanks_before_msh() -> None:
    assert parse(b"\xef\xbb\xbf \r\n" + MSH.encode()).header.get(10) == "7"


def test_indented_segments() -> None:
    assert parse(f"{MSH}\r   PID|1||9".encode()).first("PID") is not None


def test_wrapped_text_goes_on_with_the_observation() -> None:
    segment = parse(f"{MSH}\rOBX|1|TX|c||first\n\nsecond|u\rOBX|2|TX|c||x\r\n".encode()).first("OBX")
    assert segment is not None
    assert (segment.get(5), segment.get(6)) == ("first\n\nsecond", "u")


def test_comment_lines_do_not_change_the_header() -> None:
    parsed = parse(f"{MSH}\r# comment\r\rOBX|1|NM|c||5".encode())
    assert parsed.header.get(12) == "2.5"
    assert parsed.warnings == ("1 line(s) that are no segment were left out",)


def test_trailing_line_ends_add_nothing() -> None:
    assert field("text\r\n\r\n") == "text"


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (r"a\F\b\S\c\T\d\R\e\E\f", r"a|b^c&d~e" + "\\f"),
        (r"one\.br\two", "one\ntwo"),
        (r"a\.sp2\b", "a\n\nb"),
        (r"a\.sk3\b", "a   b"),
        (r"a\.in+5\b\.fi\c\.nf\\.ti-2\d", "abcd"),
        (r"\H\bold\N\ plain", "bold plain"),
        (r"\X41\\X4243\ ", "ABC"),
        (r"x\X0D0A\y", "x\ny"),
        (r"\XE9\ ", "é"),
        (r"C:\temp\file", r"C:\temp\file"),
        (r"dangling\ ", "dangling\\"),
        (r"a\F", r"a\F"),
        (r"\E\F\E\ ", "\\F\\"),
        (r"\Zsite\x\C2842\\M2442\ ", "x"),
        (r"5\.br5\6", "5\n6"),
    ],
)
def test_escape_sequences(sent: str, read: str) -> None:
    assert field(sent) == read


def test_hexadecimal_escapes_are_bytes_of_the_charset() -> None:
    raw = rb"MSH|^~\&|A|B|||||ORU|1|P|2.5||||||UNICODE UTF-8" + b"\rOBX|1|TX|c||\\XC3A9\\ \xc3\xa9"
    segment = parse(raw).first("OBX")
    assert segment is not None
    assert segment.get(5) == "é é"


def test_null_is_empty_and_known_as_null() -> None:
    segment = parse(f'{MSH}\rPID|1||""|x'.encode()).first("PID")
    assert segment is not None
    assert (segment.get(3), segment.is_null(3), segment.is_null(4)) == ("", True, False)


def test_whole_keeps_components_and_makes_repetitions_lines() -> None:
    segment = parse(f"{MSH}\rOBX|1|TX|c||5^6&7~line two".encode()).first("OBX")
    assert segment is not None
    assert segment.whole(5) == "5^6&7\nline two"


# ------------------------------------------------------------------------------------------------------------- charsets


def text(charset: str, value: bytes) -> tuple[str, str]:
    raw = b"MSH|^~\\&|A|B||||||1|P|2.5||||||" + charset.encode() + b"\rPID|1||9||" + value
    decoded, _, warning = decode(raw, "cp1252")
    return decoded.split("|")[-1], warning


KANJI = "山田^太郎"


@pytest.mark.parametrize(
    ("charset", "value", "read"),
    [
        ("8859/1", "Müller".encode("latin-1"), "Müller"),
        ("   8859/1", "Müller".encode("latin-1"), "Müller"),
        ("8859/15", "5 €".encode("iso8859-15"), "5 €"),
        ("8859/5", "Иванов".encode("iso8859-5"), "Иванов"),
        ("8859/7", "Νίκος".encode("iso8859-7"), "Νίκος"),
        ("UNICODE UTF-8", "Ørsted 山".encode(), "Ørsted 山"),
        ("ASCII~ISO IR87", KANJI.encode("iso2022_jp"), KANJI),
        ("~ISO IR87", KANJI.encode("iso2022_jp"), KANJI),
        ("ISO IR87", KANJI.encode("iso2022_jp"), KANJI),
        ("~ISO IR87~ISO IR159", "丂".encode("iso2022_jp_1"), "丂"),
        ("ISO IR14~ISO IR87", "ﾔﾏﾀﾞ".encode("shift_jis"), "ﾔﾏﾀﾞ"),
        ("ISO IR14", "ﾔﾏﾀﾞ".encode("shift_jis"), "ﾔﾏﾀﾞ"),
        ("GB 18030-2000", "张伟".encode("gb18030"), "张伟"),
        ("KS X 1001", "김철수".encode("euc_kr"), "김철수"),
        ("BIG-5", "陳大文".encode("big5"), "陳大文"),
        ("SJIS", "表示".encode("cp932"), "表示"),  # its second byte is a backslash
    ],
)
def test_declared_charsets(charset: str, value: bytes, read: str) -> None:
    assert text(charset, value) == (read, "")


def test_undeclared_escape_sequences_speak_for_themselves() -> None:
    assert text("", KANJI.encode("iso2022_jp"))[0] == KANJI


def test_utf8_without_saying_so() -> None:
    assert text("ASCII", "é".encode()) == ("é", "the bytes are UTF-8 and not of the declared character set")


def test_a_wide_set_is_declared_where_it_cannot_travel() -> None:
    words = "MSH-18 declares UTF-16 or UTF-32, which cannot travel over MLLP: read as UTF-8"
    assert text("UNICODE UTF-16", "é".encode()) == ("é", words)


@pytest.mark.parametrize(
    ("charset", "value", "codec"),
    [
        ("8859/1", "Café – naïve", "utf-8"),
        ("8859/1", "Müller", "utf-8"),  # without a control character in it
        ("8859/15", "5 €", "utf-8"),
        ("8859/5", "Иванов", "utf-8"),
        ("WINDOWS-1252", "Müller", "utf-8"),
        ("8859/1", "Café – ‘naïve’", "cp1252"),
        ("8859/15", "5 €", "cp1252"),
        ("8859/2", "Dvořák – žluť", "cp1250"),
        ("8859/9", "İğdır – “a”", "cp1254"),
    ],
)
def test_an_iso_8859_that_is_none_is_read_as_what_it_is_and_noted(charset: str, value: str, codec: str) -> None:
    read, warning = text(charset, value.encode(codec))
    assert read == value
    assert "not of the declared character set" in warning


def test_controls_that_windows_has_not_either_are_left_as_declared() -> None:
    assert text("8859/1", b"M\xfcller\x81") == ("Müller\x81", "the bytes are not of the declared character set")
    assert text("8859/5", "Иванов".encode("iso8859-5") + b"\x85")[0] == "Иванов\x85"


def test_latin_without_saying_so_falls_back_to_the_peers_charset() -> None:
    assert text("", b"M\xfcller \x80") == ("Müller €", "the bytes are not of the declared character set")


def test_unknown_charset_matters_only_where_it_is_needed() -> None:
    assert text("x~y", b"plain") == ("plain", "MSH-18 names an unknown character set")
    assert codec_of("../../etc/passwd") is None
    assert codec_of("8859/12") is None


def test_a_segment_that_does_not_switch_back_garbles_itself_only() -> None:
    raw = b"MSH|^~\\&|A|B||||||1|P|2.5||||||~ISO IR87\rPID|1||9||\x1b$B;3ED\rPV1|1|I"
    parsed = parse(raw)
    assert [segment.name for segment in parsed.segments] == ["MSH", "PID", "PV1"]
    assert parsed.segments[1].get(5) == "山田"


def test_utf16_in_files() -> None:
    original = f"{MSH}\rPID|1||9||Müller"
    for data in (
        original.encode("utf-16"),
        original.encode("utf-16-le"),
        original.encode("utf-16-be"),
        original.encode("utf-32"),
    ):
        assert unwrap(data).decode() == original


@given(st.binary(max_size=200))
def test_any_bytes_decode_to_something(noise: bytes) -> None:
    decode(noise, "cp1252")
    decode(b"MSH|^~\\&|" + noise, "cp1252")
    declared(b"MSH|^~\\&|" + noise)


@given(st.text(max_size=200))
def test_unescaping_never_fails_and_leaves_plain_text_alone(value: str) -> None:
    unescape(value, Delimiters())
    assert unescape(value.replace("\\", ""), Delimiters()) == value.replace("\\", "")


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_unreadable(noise: bytes) -> None:
    for raw in (noise, b"MSH" + noise, b"MSH|^~\\&|" + noise, MSH.encode() + b"\rOBX|" + noise):
        try:
            parsed = parse(raw)
        except Unreadable:
            continue
        for segment in parsed.segments:
            for number in range(len(segment) + 2):
                segment.get(number, 2, 2, repetition=2)
                segment.whole(number)


# --------------------------------------------------------------------------------------------------------------- batches


def test_batch_file() -> None:
    first, second = MSH.encode(), MSH.replace("|7|", "|8|").encode()
    data = b"FHS|^~\\&|x\rBHS|^~\\&|x\r" + first + b"\rPID|1\r" + second + b"\rPID|1\rBTS|2\rFTS|1\r"
    assert [*messages(data)] == [first + b"\rPID|1", second + b"\rPID|1"]
    assert is_several(data)


def test_single_message_is_left_as_it_is() -> None:
    raw = MSH.encode() + b"\rPID|1\r"
    assert not is_several(raw)
    assert [*messages(raw)] == [raw.strip()]


def test_capture_of_the_wire_and_junk_before_the_first_message() -> None:
    data = b"junk\r\x0b" + MSH.encode() + b"\rPID|1\x1c\r\x0b" + MSH.encode() + b"\x1c\r"
    assert [*messages(data)] == [b"junk", MSH.encode() + b"\rPID|1", MSH.encode()]


EMPTY_BATCH = b"FHS|^~\\&|x\rBHS|^~\\&|x\rBTS|0\rFTS|1\r"


@pytest.mark.parametrize("data", [EMPTY_BATCH, b"BHS|^~\\&|x\r", MSH.encode(), b"junk", b"", b" \r"])
def test_a_frame_is_never_cut_into_nothing(data: bytes) -> None:
    assert [*of_frame(data)] == [data]


def test_a_frame_with_a_batch_is_cut_as_a_file_is() -> None:
    data = b"BHS|^~\\&|x\r" + MSH.encode() + b"\rPID|1\r" + MSH.encode() + b"\rBTS|2\r"
    assert [*of_frame(data)] == [*messages(data)] == [MSH.encode() + b"\rPID|1", MSH.encode()]


def test_an_empty_batch_says_so() -> None:
    with pytest.raises(Unreadable, match="a batch without a message"):
        parse(EMPTY_BATCH)


def test_nothing_in_a_file() -> None:
    assert [*messages(b"")] == []
    assert [*messages(b"\r\n \r")] == []


@given(st.lists(st.sampled_from([b"MSH|^~\\&|a", b"PID|1", b"BHS|^~\\&|", b"OBX|x", b"junk", b"", b"MSHx"]), max_size=12))
def test_cutting_keeps_every_line_that_is_no_envelope(lines: list[bytes]) -> None:
    kept = [line for line in lines if line and not line.startswith(b"BHS|")]
    found = [line for piece in messages(b"\r".join(lines)) for line in piece.split(b"\r") if line]
    assert found == kept


def test_a_formatting_command_with_thousands_of_digits_is_text() -> None:
    """Found by fuzzing: Python reads no number of more than 4300 digits, and the error went up to the connection."""
    sent = "\\.sp" + "9" * 5000 + "\\"
    assert field(sent) == sent


@pytest.mark.parametrize("header", [b"MSH\xff^~\\&", b"MSH|^~\xff&"])
def test_a_delimiter_that_cannot_be_written_into_an_answer_is_none(header: bytes) -> None:
    """Found by fuzzing: the answer had question marks for delimiters, and no sender could read it."""
    with pytest.raises(Unreadable):
        parse(header + b"|A|B|||20260101||ORU\xe9^R01|7|P|2.5", fallback="shift_jis")


def test_text_that_goes_on_in_many_lines_and_then_in_fields() -> None:
    parsed = parse(f"{MSH}\rOBX|1|TX|c||one\r\rtwo\rthree||F|a\rb\rNTE|1||c\rd".encode())
    obx, nte = parsed.segments[1:]
    assert (obx.raw(5), obx.raw(6), obx.raw(7), obx.raw(8), nte.raw(3)) == ("one\n\ntwo\nthree", "", "F", "a\nb", "c\nd")


def test_a_document_in_very_many_lines_takes_no_more_than_seconds() -> None:
    lines = "\r".join(["A" * 76] * 120_000)  # 9 MB of base64 as MIME breaks it
    began = process_time()
    parsed = parse(f"{MSH}\rOBX|1|ED|c||^application^pdf^Base64^{lines}".encode())
    assert process_time() - began < 5
    assert len(parsed.segments[1].raw(5)) == len("^application^pdf^Base64^") + len(lines)
