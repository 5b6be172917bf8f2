import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from connectors.identity import Identities, IdentitySettings
from models.errors import Permanent
from processors.events import Identifier


def identities(*authorities: str, secret: str = "tests: not a secret", only_listed: bool = True, **aliases: str) -> Identities:
    return Identities(
        IdentitySettings(site_secret=SecretStr(secret), authorities=authorities, only_listed=only_listed, aliases=aliases)
    )


def one(authority: str, value: str, kind: str = "") -> Identifier:
    return Identifier(authority=authority, value=value, kind=kind)


A, B, SSN = one("A", "1", "PI"), one("B", "2", "MR"), one("SSA", "3", "SS")


@pytest.mark.parametrize(
    ("order", "given_", "chosen"),
    [
        ((), [A, B], B),  # without an order: MR before PI
        ((), [SSN, A], A),
        ((), [SSN], None),  # a social security number is no index of this hospital
        ((), [one("X", "9")], one("X", "9")),
        ((), [], None),
        ((), [one("A", " ")], None),
        (("A", "B"), [B, A], A),
        (("B", "A"), [B, A], B),
        (("a",), [A], A),  # without case
        (("C",), [A, B], None),
        (("SSA",), [A, SSN], SSN),  # the site may say so
    ],
)
def test_which_identifier_counts(order: tuple[str, ...], given_: list[Identifier], chosen: Identifier | None) -> None:
    assert identities(*order).choose(given_) == chosen


def test_others_where_the_site_allows_them() -> None:
    assert identities("C", only_listed=False).choose([A, B]) == B


@pytest.mark.parametrize(
    "value",
    [
        *("", "UNKNOWN", "unknown", " Unk ", "None", "N/A", "n.a.", "NA", "NULL", "NO ID", "Not assigned", "UNASSIGNED"),
        *("unidentified", "0", "0000", "000-00-0000", "-", "???"),
    ],
)
def test_what_stands_in_for_an_identifier_is_none(value: str) -> None:
    made = identities()
    assert made.choose([one("B", value, "MR")]) is None
    assert made.choose([one("B", value, "MR"), A]) == A
    assert identities("B", only_listed=False).choose([one("B", value), A]) == A
    assert made.real([one("B", value, "MR"), A]) == (A,)


@pytest.mark.parametrize("value", ["10", "0x1", "UNKNOWN1", "NONEMAN", "A000"])
def test_what_only_looks_like_one_is_an_identifier(value: str) -> None:
    assert identities().choose([one("B", value)]) == one("B", value)


def test_a_site_names_its_own_placeholders() -> None:
    settings = IdentitySettings(site_secret=SecretStr("tests: not a secret"), placeholders=("Bed side",))
    made = Identities(settings)
    assert made.choose([one("B", "BEDSIDE")]) is None
    assert made.choose([one("B", "0")]) is None
    assert made.choose([one("B", "UNKNOWN")]) == one("B", "UNKNOWN")


def test_authorities_by_their_other_names() -> None:
    made = identities("HOSP", **{"1.2.3": "HOSP", "http://hospital.example/mrn": "HOSP"})
    assert made.authority("", "1.2.3") == "HOSP"
    assert made.authority("urn:oid:1.2.3") == "HOSP"
    assert made.authority("http://hospital.example/mrn") == "HOSP"
    assert made.authority("WARD", "9.9") == "WARD"
    assert made.authority("", " ") == ""


def test_pseudonyms() -> None:
    made = identities()
    assert made.patient(A) == made.patient(one("a ", "1", "other"))
    assert made.patient(A) != made.patient(one("A", "2"))
    assert made.patient(A) != identities(secret="another secret, as long").patient(A)
    assert len({made.patient(A), made.encounter("A", "1"), made.pseudonym("document", "A", "1")}) == 3
    assert made.encounter("A", "1") == identities().encounter("A", "1")


def test_a_number_as_people_write_it_is_the_patient_that_the_connectors_know() -> None:
    made = identities("HOSP", **{"1.2.3": "HOSP"})
    known = made.patient(one("HOSP", "4711"))
    for text in ("4711", " 4711 ", "HOSP|4711", "hosp | 4711", "urn:oid:1.2.3|4711"):
        assert made.of_number(text) == known
    assert identities().of_number("WARD|4711") == made.patient(one("WARD", "4711"))
    assert identities("A", "B").of_number("B|4711") == made.patient(one("B", "4711"))


@pytest.mark.parametrize(
    ("order", "text", "said"),
    [
        ((), "4711", "PID-3.4"),
        (("A", "B"), "4711", "A, B"),
        (("HOSP",), "WARD|4711", "HOSP"),
        (("HOSP",), "4711|HOSP", "HOSP"),
        (("HOSP",), "HOSP|", "placeholders"),
        (("HOSP",), "unknown", "placeholders"),
    ],
)
def test_a_number_that_names_nobody_is_refused_and_not_repeated(order: tuple[str, ...], text: str, said: str) -> None:
    with pytest.raises(Permanent) as caught:
        identities(*order).of_number(text)
    assert said in (caught.value.hint or "")
    assert "4711" not in f"{caught.value} {caught.value.hint}"


def test_a_short_secret_is_refused_and_no_secret_is_shown() -> None:
    with pytest.raises(ValidationError) as caught:
        IdentitySettings(site_secret=SecretStr("too short"))
    assert "too short" not in str(caught.value)
    assert "tests: not" not in repr(IdentitySettings(site_secret=SecretStr("tests: not a secret")))


@given(st.text(min_size=1).filter(str.strip), st.text())
def test_a_pseudonym_shows_nothing_of_the_number(value: str, authority: str) -> None:
    made = identities().patient(one(authority, value))
    assert len(made) == 32
    assert len(value) < 4 or value not in made
