"""Whether a picture is what an image model is meant for: by its modality, what it shows of the body, and from where.

A model gives a score to any picture, and of a head or a hand that score means nothing. So what a sender says of a picture is held
to the lists of the model's registry entry (`models.registry.MeantFor`) before the model is asked. In doubt it is not: nothing is
said of a picture that nobody names, or by words that are not known.

What archives send is seldom the standard's term alone: "CHEST_AP", "Thorax p.a. im Stehen", an empty body part and "XR CHEST 2
VIEWS" as the study's description. So words count: case, accents and punctuation do not, nor words of how a picture was taken
(`_HOW`), and what is left must stand in the list, all of it ("CHEST AND WRIST" does not). The nearest source that names a part of
the body decides, then the nearest that names a direction: the attribute, the series, the protocol, the study.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from models.registry import MeantFor
from processors.events import ImageEvent

_Words = tuple[str, ...]

_WORD: Final = re.compile(r"[^\W_]+")
_LETTER: Final = re.compile(r"(?<![^\W_])([^\W\d_])\.")  # of an abbreviation: "p.a."
_COUNT: Final = re.compile(r"\d{1,3}")
# What says nothing of what a picture shows: apparatus, place, posture, breath, number, side; and what stands for an empty value.
_HOW: Final = frozenset(
    _WORD.findall(
        """
        X XR XRAY XRAYS RAY RAYS RX DX DR CR RTG RONTGEN ROENTGEN RADIOGRAPH RADIOGRAPHS RADIOGRAPHY RADIOGRAPHIC RADIOLOGY FILM
        PLAIN EXAM EXAMINATION DIGITAL PORTABLE PORT MOBILE BEDSIDE BED WARD ICU ITU ED ER ROUTINE STANDARD ADULT GRID
        ERECT UPRIGHT STANDING SITTING SEMIERECT SEMI SUPINE PRONE LYING STEHEN SITZEN LIEGEN
        INSPIRATION INSPIRATORY EXPIRATION EXPIRATORY VIEW VIEWS PROJECTION SINGLE ONE TWO THREE LEFT RIGHT L R
        AND OR OF THE WITH IN IM UNKNOWN UNSPECIFIED OTHER NONE
        """
    )
)
# From where, for whatever part of the body: words of (0018,5101) and what stands for them in descriptions.
_DIRECTIONS: Final = frozenset(
    _WORD.findall(
        """
        AP PA FRONTAL LAT LATERAL LATERALS SEITLICH LL RL LLO RLO LLD RLD LAO RAO LPO RPO OBL OBLIQUE OBLIQUES DECUB DECUBITUS
        LORDOTIC APICAL AXIAL TANGENTIAL POSTERO POSTERIOR ANTERO ANTERIOR POSTEROANTERIOR ANTEROPOSTERIOR
        """
    )
)


def unmeant(image: ImageEvent, meant: MeantFor | None) -> str:
    """Say in words why a model that is meant for such pictures is not asked about an image; empty where it is asked.

    The words are of the lists alone, none of the sender's.
    """
    if meant is None:
        return ""
    modalities, parts, views = (tuple(map(_words, one)) for one in (meant.modalities, meant.body_parts, meant.views))
    if modalities and (words := _words(image.modality)) not in modalities:
        return _reason("modality", words, meant.modalities)
    sources = [_words(said) for said in (image.body_part, *image.described)]
    directions = _DIRECTIONS.union(*views)
    if parts:
        words = _nearest([[word for word in said if word not in directions] for said in sources], parts)
        if not _within(words, parts):
            return _reason("body part", words, meant.body_parts)
    if views:
        words = _nearest([_words(image.view), *([word for word in said if word in directions] for said in sources)], views)
        if not _within(words, views):
            return _reason("view", words, meant.views)
    return ""


def _words(said: str) -> _Words:
    """Return words and numbers in capitals, without accents; "p.a." is one."""
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", said) if not unicodedata.combining(sign))
    return tuple(_WORD.findall(_LETTER.sub(r"\1", plain).upper()))


def _nearest(sources: Sequence[Sequence[str]], listed: Sequence[_Words]) -> _Words:
    """Return of the first source that says something the words that do; a listed word always does."""
    named = {word for entry in listed for word in entry}
    for said in sources:
        words = tuple(word for word in said if word in named or not (word in _HOW or _COUNT.fullmatch(word)))
        if words:
            return words
    return ()


def _within(words: _Words, listed: Sequence[_Words]) -> bool:
    return words in listed or (bool(words) and all((word,) in listed for word in words))


def _reason(what: str, words: _Words, listed: Sequence[str]) -> str:
    known = ", ".join(filter(None, listed))
    return (
        f"another {what} than the model is meant for: {known}" if words else f"unknown {what}: the model is meant for {known}"
    )
