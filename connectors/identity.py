"""Who a message is about, the same way for every connector: identifiers chosen by assigning authority, ids that are pseudonyms.

A sender names a patient by several identifiers (medical record number, national number, account, ...). Which one counts is the
site's decision, given as an order of assigning authorities. The chosen one and the site secret make Vigil's `patient_id`
(`processors.identity.patient_id`). Two feeds agree about a patient when they agree about authority and identifier, so the names
by which senders know an authority (HL7 namespace, OID, FHIR system URI) are brought to one name by `aliases`.
"""

import hmac
import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from models.errors import Permanent
from processors.events import Identifier
from processors.identity import patient_id

_OID = re.compile(r"[0-2](\.\d+)+")

# How much an identifier counts by what its sender says of it, the most first; before the site's order of authorities
VALID, SECONDARY, TEMPORARY, ENDED = range(4)  # ENDED: its validity is over, or has not begun
Ranked = Sequence[tuple[int, Identifier]]

LOGICAL: Final = "FHIR"  # `Identifier.kind` of a FHIR resource's own id on its server

# HL7 table 0203: these name an account, a visit, a document or a person elsewhere, never the patient in this hospital's index.
NOT_A_PATIENT_INDEX = frozenset(
    {"AN", "VN", "SS", "DL", "PPN", "PN", "BR", "DR", "EI", "EN", "FI", "GN", "NPI", "TAX", "XX", "U"}
)
# What senders write where table 0203 has a code, beside the codes themselves
KINDS_IN_WORDS: Final = {"MRN": "MR", "MEDICAL RECORD NUMBER": "MR"}
PREFERRED_KINDS = (
    "MR",
    "PI",
    "PT",
    "MRT",
    "PE",
)  # record number, patient internal, patient external, temporary, provider's own
# What senders write where they know no number. As one patient's number it would pool everybody whom nobody has named yet.
PLACEHOLDERS = (
    "UNKNOWN",
    "UNK",
    "NONE",
    "N/A",
    "NULL",
    "NO ID",
    "NOT ASSIGNED",
    "UNASSIGNED",
    "UNIDENTIFIED",
)


class IdentitySettings(BaseModel):
    """How patients are told apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site_secret: SecretStr = Field(
        description="the key of all pseudonyms: at least 16 bytes, kept for as long as the data; another one makes every patient a "
        "stranger. The default is the demo's, which no site may use"
    )
    authorities: tuple[str, ...] = Field(
        (),
        description="assigning authorities in order of preference; the first that a message carries is used. Empty: a medical "
        "record number (HL7 table 0203 `MR`) first, then `PI`, then whatever comes first",
    )
    only_listed: bool = Field(
        True,
        description="with `authorities` given, a message without any of them is held apart, not filed under an identifier that "
        "nobody vouched for",
    )
    aliases: dict[str, str] = Field(
        default_factory=dict, description="other names of an authority (OID, FHIR system, namespace) -> the name to use"
    )
    placeholders: tuple[str, ...] = Field(
        PLACEHOLDERS,
        description="texts in the place of a patient's identifier that are none; letters and digits alone count, without case. "
        "What has neither, or zeros only, is none anyway",
    )

    @field_validator("site_secret")
    @classmethod
    def _long_enough(cls, secret: SecretStr) -> SecretStr:
        if len(secret.get_secret_value().encode()) < 16:
            raise ValueError("the site secret needs at least 16 bytes; a good one: openssl rand -hex 32")
        return secret


class Identities:
    """Chooses identifiers and derives pseudonyms. Immutable; one for all connectors of a process."""

    def __init__(self, settings: IdentitySettings) -> None:
        self._secret = settings.site_secret.get_secret_value().encode()
        self._aliases = {_fold(name): canonical.strip() for name, canonical in settings.aliases.items()}
        self._listed = tuple(dict.fromkeys(map(self.authority, settings.authorities)))
        self._order = {_fold(self.authority(name)): rank for rank, name in reversed([*enumerate(settings.authorities)])}
        self._systems = _systems(settings.aliases)
        self._only_listed = settings.only_listed and bool(settings.authorities)
        self._placeholders = frozenset(_bare(word) for word in settings.placeholders)
        self._keys: dict[str, bytes] = {}

    def authority(self, *names: str) -> str:
        """Return the site's name for an authority that a sender names in one or several ways, most specific first."""
        given = [name.strip() for name in names if name.strip()]
        for name in given:
            if canonical := self._aliases.get(_fold(name)):
                return canonical
        return given[0] if given else ""

    def names_somebody(self, value: str) -> bool:
        """Whether a value is an identifier: not empty, and nothing that senders write where they know no number."""
        bare = _bare(value)
        return bool(bare.strip("0")) and bare not in self._placeholders

    def real(self, identifiers: Iterable[Identifier]) -> tuple[Identifier, ...]:
        """Return the identifiers that name somebody."""
        return tuple(one for one in identifiers if self.names_somebody(one.value))

    def choose(self, identifiers: Sequence[Identifier]) -> Identifier | None:
        """Return the identifier that names the patient, or None when no one may be used: then the message is held apart."""
        usable = self.real(identifiers)
        listed = [(self._order[key], n) for n, one in enumerate(usable) if (key := _fold(one.authority)) in self._order]
        if listed:
            return usable[min(listed)[1]]
        if self._only_listed:
            return None
        of_index = [identifier for identifier in usable if identifier.kind.upper() not in NOT_A_PATIENT_INDEX]
        return min(of_index, key=_preference, default=None)

    def choose_ranked(self, ranked: Ranked) -> Identifier | None:
        """Return the identifier that names the patient, of those that count most; one that may not be used is passed over."""
        ranks = sorted({rank for rank, _ in ranked})
        chosen = (self.choose([one for rank, one in ranked if rank <= least]) for least in ranks)
        return next((one for one in chosen if one), None)

    def listed(self, identifiers: Sequence[Identifier]) -> list[Identifier]:
        """Return the identifiers of the authorities that the site lists, in its order."""
        found = [(rank, n) for n, one in enumerate(identifiers) if (rank := self._order.get(_fold(one.authority))) is not None]
        return [identifiers[n] for _, n in sorted(found)]

    def system(self, authority: str) -> str:
        """Return the URI by which FHIR peers know an authority: its name where that is one, else an alias; empty for none."""
        return _uri(authority) or self._systems.get(_fold(authority), "")

    def patient(self, identifier: Identifier) -> str:
        """Return the `patient_id` of an identifier."""
        return patient_id(self._secret, identifier.authority, identifier.value)

    def of_number(self, text: str) -> str:
        """Return the `patient_id` of a hospital's own number, as people write it: `AUTHORITY|NUMBER`.

        The number alone does where the site lists one authority. Raises `Permanent` for what names nobody; the number stands in no
        error, for errors are logged.
        """
        given, bar, number = text.rpartition("|")
        authority = self.authority(given)
        if not bar:
            if len(self._listed) != 1:
                known = ", ".join(self._listed) or "as senders name it: PID-3.4, Patient.identifier.system"
                raise Permanent(
                    "whose number is it? No assigning authority is given, and the site does not list just one",
                    hint=f"'AUTHORITY|NUMBER' ({known}), or list the one authority that there is in identity.authorities",
                )
            authority = self._listed[0]
        elif self._only_listed and _fold(authority) not in self._order:
            known = ", ".join(self._listed)
            raise Permanent(
                "patients are not told apart by numbers of that authority",
                hint=f"'AUTHORITY|NUMBER', of {known} (identity.authorities); other names of these belong in identity.aliases",
            )
        if not self.names_somebody(number):
            raise Permanent("that number names nobody", hint="identity.placeholders says what is written for no number")
        return self.patient(Identifier(authority=authority, value=number))

    def encounter(self, authority: str, number: str) -> str:
        """Return the pseudonym of a visit or account number."""
        return self.pseudonym("encounter", authority, number)

    def pseudonym(self, kind: str, authority: str, value: str) -> str:
        """Return a keyed hash of anything else that is a record number (encounter, document, staff): 32 hex digits.

        Each `kind` has a key of its own, so that a visit number never equals the patient with the same number.
        """
        key = self._keys.get(kind)
        if key is None:
            key = self._keys[kind] = hmac.new(self._secret, kind.encode(), sha256).digest()
        return patient_id(key, authority, value)


def kind_in_words(words: str) -> str:
    """Return the type (table 0203) that the words for one are, as far as they are known; empty for others."""
    word = words.strip().upper()
    kind = KINDS_IN_WORDS.get(word, word)
    return kind if kind in PREFERRED_KINDS or kind in NOT_A_PATIENT_INDEX else ""


def number_kind(sent: str) -> str:
    """Return the type of an identifier as senders agree about it: the code of table 0203 that is meant, else what was sent.

    By the type numbers are chosen and told to be one, so one sender's `MRN` must be another's `MR`.
    """
    return kind_in_words(sent) or sent.strip()


def lasting(ranked: Ranked, chosen: Identifier | None) -> tuple[Identifier, ...]:
    """Return the identifiers that are a patient's still: those whose validity is over only where the patient goes by them."""
    return tuple(one for rank, one in ranked if rank != ENDED or one == chosen)


def _fold(name: str) -> str:
    return name.strip().removeprefix("urn:oid:").upper()


def _uri(name: str) -> str:
    """Return the FHIR system that a name is: a URI, or an OID written as one; empty for any other."""
    name = name.strip()
    if "://" in name or name.startswith("urn:"):
        return name
    return f"urn:oid:{name}" if _OID.fullmatch(name) else ""


def _systems(aliases: dict[str, str]) -> dict[str, str]:
    """Return the system of each authority that has one among its aliases: the first, a URL before an OID."""
    named = [(uri, _fold(canonical)) for name, canonical in aliases.items() if (uri := _uri(name))]
    named.sort(key=lambda one: one[0].startswith("urn:oid:"))
    found: dict[str, str] = {}
    for uri, canonical in named:
        found.setdefault(canonical, uri)
    return found


def _bare(value: str) -> str:
    """Return the letters and digits of a value, without case: `n/a`, `N.A.` and `NA` are one word, and so are `0` and `000-00`."""
    return "".join(each for each in value.casefold() if each.isalnum())


def _preference(identifier: Identifier) -> int:
    kind = identifier.kind.upper()
    return PREFERRED_KINDS.index(kind) if kind in PREFERRED_KINDS else len(PREFERRED_KINDS)
