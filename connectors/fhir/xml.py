"""FHIR in XML (https://hl7.org/fhir/R4/xml.html) to and from JSON, by the models of `fhir.resources`.

No document type declaration is taken, so no entity can be one's own, let alone grow; nothing is fetched; libxml2's limits on depth
and size of text stay on.
"""

from typing import Any, Final

import orjson
from lxml import etree
from pydantic import ValidationError

from connectors.fhir.acknowledgement import operation_outcome

MEDIA_TYPE: Final = "application/fhir+xml"
NAMESPACE: Final = "http://hl7.org/fhir"


class Unreadable(ValueError):
    """Not XML, or not FHIR's; `code` is an issue type."""

    def __init__(self, words: str, code: str = "structure") -> None:
        super().__init__(words)
        self.code = code


def _parser() -> Any:
    return etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True
    )


def parse(body: bytes, *, deepest: int) -> Any:
    """Return the root element. Raises `Unreadable`."""
    try:
        root = etree.fromstring(body, _parser())
    except etree.XMLSyntaxError as error:
        place = f"line {error.position[0]} column {error.position[1]}" if error.position else "its beginning"
        raise Unreadable(f"not XML: {place}") from None
    except ValueError:
        raise Unreadable("not XML") from None
    if root.getroottree().docinfo.doctype:
        raise Unreadable("a document type declaration is not taken", "security")
    if etree.QName(root).namespace != NAMESPACE:
        raise Unreadable("not in FHIR's namespace")
    level = [root]
    for _ in range(deepest):
        level = [child for element in level for child in element if isinstance(child.tag, str)]
        if not level:
            return root
    raise Unreadable(f"nested more than {deepest} levels deep", "too-long")


def kind_of(root: Any) -> str:
    """Return the resource type."""
    return str(etree.QName(root).localname)


def to_json(root: Any, model: Any) -> dict[str, Any]:
    """Return the resource as JSON. Raises pydantic's `ValidationError` where it is not of its structure, else `Unreadable`."""
    try:
        made = model.model_validate_xml(etree.tostring(root), xmlparser=_parser())
    except ValidationError:
        raise
    except (RecursionError, Exception) as error:  # the reader meets what it does not know with any kind of error
        raise Unreadable(f"not the structure of {kind_of(root)} ({type(error).__name__})") from None
    try:
        found: dict[str, Any] = orjson.loads(made.model_dump_json())
    except (
        orjson.JSONDecodeError
    ):  # a FHIR decimal may have any size; JSON's numbers are read as doubles, as for bodies in JSON
        raise Unreadable("a number is beyond the range of a double", "value") from None
    return found


def of_json(resource: dict[str, Any]) -> bytes:
    """Return one of our own answers as XML; what cannot be written so becomes an OperationOutcome without details."""
    from fhir.resources.R4B import get_fhir_model_class

    try:
        words = get_fhir_model_class(resource["resourceType"]).model_validate(resource).model_dump_xml()
    except Exception:
        words = get_fhir_model_class("OperationOutcome").model_validate(operation_outcome(())).model_dump_xml()
    return words if isinstance(words, bytes) else words.encode()
