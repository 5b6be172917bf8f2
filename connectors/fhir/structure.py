"""Is it JSON, is it FHIR: parsing and structural validation, every complaint with its place.

`fhir.resources` 8.3 has models of R4B, not of R4. R4B (4.3.0) changed medication definition, evidence and subscription resources;
the types that Vigil maps are the same in both. The models check names, types, cardinality, regular expressions and choice types;
not terminology, invariants or profiles. A type that R4B does not know is not validated.

Where a model reads one JSON type as another (a number as seconds since 1970, a text as a boolean), what was sent
counts: it is no such value (https://hl7.org/fhir/R4/json.html#primitive), and nothing behind this module could read it. An id
longer than 64 characters passes the models, and is refused here (https://hl7.org/fhir/R4/datatypes.html#id); that of a contained
resource, by which nobody else can ask, is not.
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from typing import Any, Final

import orjson
from pydantic import ValidationError

from connectors.fhir.acknowledgement import Issue
from processors.events import MOST_IDENTIFIERS

Json = dict[str, Any]

_TYPE: Final = re.compile(r"[A-Z][A-Za-z]{1,63}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
LONGEST_ID: Final = 64
_SHOWN: Final = 20  # issues of one resource that are told; a resource of another standard has hundreds
_CODES: Final[Mapping[str, tuple[str, str]]] = {  # pydantic's kind of error -> issue code, words
    "missing": ("required", "a required element is missing"),
    "model_field_validation.missing": ("required", "a required element is missing"),
    "extra_forbidden": ("structure", "no such element here"),
    "model_validation_format": ("structure", "more or fewer of the choices than allowed"),
    "recursion_loop": ("too-long", "nested too deeply"),
}


class Unreadable(ValueError):
    """What was sent is not readable as FHIR JSON at all; `issue` says why."""

    def __init__(self, issue: Issue) -> None:
        super().__init__(issue.diagnostics)
        self.issue = issue


def is_xml(body: bytes) -> bool:
    """Tell whether a body is XML, by its first character."""
    return body.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"


def parse(body: bytes, *, deepest: int) -> Json:
    """Parse one resource, JSON or XML. Raises `Unreadable`.

    JSON: RFC 8259 in UTF-8, an object with a resourceType. XML: as `connectors.fhir.xml` says. Neither nested too deeply.
    """
    if is_xml(body):
        return _of_xml(body, deepest)
    try:
        found = orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))  # RFC 8259: a parser may ignore a byte order mark
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise Unreadable(Issue("fatal", "structure", f"not JSON: {place}")) from None
    if not isinstance(found, dict):
        raise Unreadable(Issue("fatal", "structure", "not a JSON object"))
    if too_deep(found, deepest):
        raise Unreadable(Issue("fatal", "too-long", f"nested more than {deepest} levels deep"))
    if not _TYPE.fullmatch(kind_of(found)):
        raise Unreadable(Issue("fatal", "structure", "no resourceType", "resourceType"))
    return found


def _of_xml(body: bytes, deepest: int) -> Json:
    from connectors.fhir import xml  # on first use: lxml

    try:
        root = xml.parse(body, deepest=deepest)
        model = _model(xml.kind_of(root))
        if model is None:
            raise Unreadable(Issue("fatal", "structure", "not a FHIR resource"))
        return xml.to_json(root, model)
    except xml.Unreadable as error:
        raise Unreadable(Issue("fatal", error.code, str(error))) from None
    except ValidationError as error:
        kind = xml.kind_of(root)
        # the places are those inside the element that is wrong: only the kind of trouble is certain
        code, words = _CODES.get(error.errors(include_url=False)[0]["type"], ("value", "not a value of the element's type"))
        raise Unreadable(Issue("error", code, words, kind)) from None


def too_deep(found: Any, deepest: int) -> bool:
    """Tell whether a JSON value is nested deeper than that; without recursion, which is what it guards."""
    level = [found]
    for _ in range(deepest):
        level = [
            child
            for value in level
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True


def too_many(resource: Json, most: int) -> list[Issue]:
    """Return the elements of a resource, and of what is contained in it, that are there more often than that; empty for none.

    Of a Patient's identifiers no more are taken than a context has room for: each is looked up.
    """
    kind, contained = kind_of(resource), resource.get("contained")
    places = [(kind, resource)]
    if isinstance(contained, list) and len(contained) <= most:
        places += [(f"{kind}.contained[{n}]", one) for n, one in enumerate(contained) if isinstance(one, dict)]
    found = (
        (place, name, limit)
        for place, one in places
        for name, value in one.items()
        if isinstance(value, list) and len(value) > (limit := _limit(one, name, most))
    )
    return [
        Issue("error", "too-costly", f"more than {limit} of them", f"{place}.{name}" if _NAME.fullmatch(name) else place)
        for place, name, limit in islice(found, _SHOWN)
    ]


def _limit(resource: Json, name: str, most: int) -> int:
    return min(most, MOST_IDENTIFIERS) if name == "identifier" and kind_of(resource) == "Patient" else most


def kind_of(resource: Json) -> str:
    """Return the resourceType, empty where there is none."""
    kind = resource.get("resourceType")
    return kind if isinstance(kind, str) else ""


def validate(resource: Json) -> list[Issue]:
    """Return what is wrong with a resource's structure; empty for nothing."""
    kind = kind_of(resource)
    model = _model(kind)
    if model is None:
        return []
    try:
        made = model.model_validate(resource)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        issues = list(dict.fromkeys(_issue(kind, one["type"], one["loc"]) for one in found))
        more = [Issue("error", "structure", f"and {len(issues) - _SHOWN} more")] if len(issues) > _SHOWN else []
        return issues[:_SHOWN] + more
    except RecursionError:
        return [Issue("error", "too-long", "nested too deeply", kind)]
    except Exception as error:  # the models' own validators raise other things for some malformed values
        return [Issue("error", "structure", f"not readable as {kind} ({type(error).__name__})", kind)]
    places = [*_coerced(resource, made, ())]
    if len(resource.get("id") or "") > LONGEST_ID:
        places.insert(0, ("id",))
    return [_issue(kind, "", place) for place in places[:_SHOWN]]


def _coerced(given: Any, made: Any, place: tuple[int | str, ...]) -> Iterator[tuple[int | str, ...]]:
    """Yield the places whose text, number or boolean the model has made something else of."""
    if isinstance(given, dict):
        names = _fields(made.__class__)
        for name, value in given.items():
            if name in names:
                yield from _coerced(value, getattr(made, names[name]), (*place, name))
    elif isinstance(given, list):
        for n, pair in enumerate(zip(given, made, strict=False) if isinstance(made, list) else ()):
            yield from _coerced(*pair, (*place, n))
    elif not _same_kind(given, made):
        yield place


def _same_kind(given: Any, made: Any) -> bool:
    if isinstance(given, bool) or isinstance(made, bool):
        return isinstance(given, bool) and isinstance(made, bool)
    return not isinstance(given, (int, float)) or isinstance(made, (int, float, Decimal))


@lru_cache(maxsize=1024)
def _fields(model: Any) -> Mapping[str, str]:
    """Return what a model calls each element: Python's keywords among them have another name there."""
    found: Mapping[str, Any] = getattr(model, "model_fields", {})
    return {field.alias or name: name for name, field in found.items()}


@lru_cache(maxsize=256)
def _model(kind: str) -> Any:
    from fhir.resources.R4B import get_fhir_model_class  # on first use: 0.3 s
    from fhir.resources.R4B.resource import Resource

    try:
        model = get_fhir_model_class(kind)
    except (KeyError, ValueError, AttributeError):
        return None
    return model if isinstance(model, type) and issubclass(model, Resource) else None


def is_known(kind: str) -> bool:
    """Tell whether it is a resource type at all."""
    return _model(kind) is not None


def _issue(kind: str, error: str, place: tuple[int | str, ...]) -> Issue:
    code, words = _CODES.get(error, ("value", "not a value of the element's type"))
    return Issue("error", code, words, expression(kind, place))


def expression(kind: str, place: tuple[int | str, ...]) -> str:
    """Return the FHIRPath of a place in a resource; a name that is no element's name is left out, since it may be anything."""
    path = kind
    for step in place:
        if isinstance(step, int):
            path += f"[{step}]"
        elif _NAME.fullmatch(step):
            path += f".{step}"
        else:
            break
    return path


def canonical(resource: Json) -> bytes:
    """Return the content in one form, whatever the order of names and the white space, without `meta`, which servers write anew."""
    return orjson.dumps({name: value for name, value in resource.items() if name != "meta"}, option=orjson.OPT_SORT_KEYS)
