"""The endpoint as an OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.0): for integrators' tools, and for the fuzzer.

The bodies' schemas are made from the models that validate (`structure`), so they say what is checked: names, types, cardinality,
and the codes of a status (`understanding`). Extensions, contained resources and the `_name` siblings of primitives are taken
everywhere and written out nowhere: they would be nine tenths of the document. Modifiers are not taken.
Primitives: https://hl7.org/fhir/R4/datatypes.html#primitive
"""

import re
import types
from functools import cache
from typing import Any, Final, Union, get_args, get_origin

from connectors.fhir import xml
from connectors.fhir.acknowledgement import MEDIA_TYPE
from connectors.fhir.capability import DELETABLE, SUPPORTED
from connectors.fhir.examples import EXAMPLES
from connectors.fhir.settings import FhirSettings
from connectors.fhir.understanding import STATUSES

Schema = dict[str, Any]

_YEAR: Final = r"([0-9]([0-9]([0-9][1-9]|[1-9]0)|[1-9]00)|[1-9]000)"
_MONTH: Final = r"(0[1-9]|1[0-2])"
_DAY: Final = r"(0[1-9]|[12][0-9]|3[01])"
_CLOCK: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?"
_ZONE: Final = r"(Z|[+-]((0[0-9]|1[0-3]):[0-5][0-9]|14:00))"
_PRIMITIVES: Final[dict[str, Schema]] = {  # name of the annotation in `fhir.resources` -> R4's definition
    "Boolean": {"type": "boolean"},
    "Integer": {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    "PositiveInt": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
    "UnsignedInt": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
    "Decimal": {"type": "number"},
    "String": {"type": "string", "minLength": 1},
    "Markdown": {"type": "string", "minLength": 1},
    "Code": {"type": "string", "pattern": r"^[^\s]+(\s[^\s]+)*$"},
    "Id": {"type": "string", "pattern": r"^[A-Za-z0-9\-\.]{1,64}$"},
    "Uri": {"type": "string", "pattern": r"^\S+$"},
    "Url": {"type": "string", "pattern": r"^\S+$"},
    "Canonical": {"type": "string", "pattern": r"^\S+$"},
    "EncodedBytes": {"type": "string", "contentEncoding": "base64", "pattern": "^([A-Za-z0-9+/]{4})+$"},
    "Xhtml": {"type": "string", "minLength": 1},
    "Date": {"type": "string", "pattern": f"^{_YEAR}(-{_MONTH}(-{_DAY})?)?$"},
    "DateTime": {"type": "string", "pattern": f"^{_YEAR}(-{_MONTH}(-{_DAY}(T{_CLOCK}{_ZONE})?)?)?$"},
    "Instant": {"type": "string", "pattern": f"^{_YEAR}-{_MONTH}-{_DAY}T{_CLOCK}{_ZONE}$"},
    "Time": {"type": "string", "pattern": f"^{_CLOCK}$"},
}
_UNWRITTEN: Final = frozenset({"extension", "modifierExtension", "implicitRules", "contained", "fhir_comments"})
_COMPLEX: Final = re.compile(r"(\w+)Type")
_RESOURCE: Final = {"type": "object", "required": ["resourceType"], "properties": {"resourceType": {"type": "string"}}}
_OUTCOME: Final = {"$ref": "#/components/schemas/OperationOutcome"}
_IN_XML: Final = {xml.MEDIA_TYPE: {"schema": {"type": "string", "description": "the same in XML"}}}
_WHAT: Final = {
    "200": "stored, or nothing in it is for Vigil (then a note says so)",
    "201": "stored (Kafka, all in-sync replicas, and the object store)",
    "400": "not readable, not the structure of its type, or it contradicts itself; nothing of it is stored",
    "401": "no bearer token that is known here",
    "404": "a resource type that is not taken",
    "405": "an interaction that is not supported; `Allow` names those that are",
    "408": "not complete in time",
    "409": "several were filed under that id: nobody can tell which is meant",
    "413": "too long",
    "415": "neither JSON nor XML by its content type, or compressed",
    "422": "readable, and not taken: a modifier that is not known, a Bundle of another type, or by the setting `not_for_us`",
    "503": "not confirmed as stored, or too many requests at once: send it again after `Retry-After` seconds",
}


def document(*, software_version: str, settings: FhirSettings | None = None) -> Schema:
    """Return the OpenAPI document of an endpoint with these settings (default: the settings' defaults)."""
    own = settings or FhirSettings()
    bundle = _bundle(own.path or "/", "batch", "a Bundle `batch` (entry by entry) or `transaction` (all or none)", "Bundle")
    message = _bundle(f"{own.path}/$process-message", "message", "a Bundle `message`, all or none", "Message")
    hook = _bundle(own.hook, "hook", "a notification of a rest-hook subscription, or the resource itself", "Notification")
    paths: Schema = {f"{own.path}/metadata": {"get": _metadata()}, **bundle, **message, **hook}
    for kind, words in SUPPORTED.items():
        paths[f"{own.path}/{kind}"] = {"post": _operation(f"create{kind}", f"Create: {words}", kind, "201")}
        paths[f"{own.path}/{kind}/{{id}}"] = {
            "put": _operation(f"update{kind}", f"Create or update: {words}", kind, "200") | {"parameters": [_id()]}
        }
        if kind in DELETABLE:
            paths[f"{own.path}/{kind}/{{id}}"]["delete"] = _deletion(kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Vigil, FHIR R4 endpoint",
            "version": software_version,
            "description": "Takes clinical data in and serves none. A 2xx means stored; every other answer is an "
            "OperationOutcome that says why not. The CapabilityStatement is at `metadata`.",
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": dict(sorted(_schemas().items())),
        },
    }


def _operation(name: str, words: str, kind: str, stored: str) -> Schema:
    statuses = dict.fromkeys(("200", stored, "400", "401", "404", "408", "413", "415", "422", "503"))
    return {
        "operationId": name,
        "summary": words,
        "requestBody": {
            "required": True,
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": f"#/components/schemas/{kind}"},
                    "examples": {key: {"value": value} for key, value in EXAMPLES.get(kind, {}).items()},
                },
                **_IN_XML,
            },
        },
        "responses": {status: _response(status) for status in sorted(statuses)},
    }


def _deletion(kind: str) -> Schema:
    known = {"200": "taken back, or was before", "404": "nothing is known of that id"}
    return {
        "operationId": f"delete{kind}",
        "summary": "Delete: what the id is remembered to have said is taken back",
        "parameters": [_id()],
        "responses": {
            status: _response(status) | ({"description": known[status]} if status in known else {})
            for status in ("200", "400", "401", "404", "408", "409", "413", "415", "503")
        },
    }


def _bundle(path: str, operation: str, words: str, examples: str) -> Schema:
    made = _operation(operation, words, "Bundle", "200")
    shown = EXAMPLES.get(examples, {})
    made["requestBody"]["content"][MEDIA_TYPE]["examples"] = {key: {"value": value} for key, value in shown.items()}
    made["responses"]["200"]["content"][MEDIA_TYPE]["schema"] = {"anyOf": [_OUTCOME, {"$ref": "#/components/schemas/Bundle"}]}
    if operation == "hook":  # an empty body is the notice that something has changed; any resource may come
        made["requestBody"] |= {"required": False}
        made["requestBody"]["content"][MEDIA_TYPE]["schema"] = _RESOURCE
        made["responses"]["201"] = _response("201")  # a resource by itself is created
    return {path: {"post": made}}


def _metadata() -> Schema:
    return {
        "operationId": "metadata",
        "summary": "The CapabilityStatement",
        "security": [],
        "responses": {"200": {"description": "what is taken", "content": {MEDIA_TYPE: {"schema": {"type": "object"}}}}},
    }


def _response(status: str) -> Schema:
    said: Schema = {"description": _WHAT[status], "content": {MEDIA_TYPE: {"schema": _OUTCOME}, **_IN_XML}}
    header = {"503": "Retry-After", "401": "WWW-Authenticate"}.get(status)
    if header:
        said["headers"] = {header: {"required": True, "schema": {"type": "string"}}}
    return said


def _id() -> Schema:
    return {"name": "id", "in": "path", "required": True, "schema": _PRIMITIVES["Id"]}


@cache
def _schemas() -> Schema:
    """Return the schemas of all types that can be reached from what is taken and answered."""
    made: Schema = {}
    waiting = [*SUPPORTED, "Bundle", "OperationOutcome"]
    while waiting:
        name = waiting.pop()
        if name in made:
            continue
        made[name], further = _schema(name)
        waiting += further
    return made


def _schema(name: str) -> tuple[Schema, list[str]]:
    from fhir.resources.R4B import get_fhir_model_class  # on first use: 0.3 s

    model = get_fhir_model_class(name)
    properties: Schema = {}
    required: list[str] = []
    further: list[str] = []
    if name in (*SUPPORTED, "Bundle", "OperationOutcome"):
        properties["resourceType"] = {"const": name}
        required.append("resourceType")
    for field, one in model.model_fields.items():
        element = one.alias or field
        if element in _UNWRITTEN or field.endswith("__ext") or element == "resource_type":
            continue
        codes = STATUSES.get(name, {}).get(element)
        properties[element] = {"enum": sorted(codes)} if codes else _type(one.annotation, further)
        more = one.json_schema_extra or {}
        # where a `_name` sibling may stand for a primitive the models require neither by itself; R4 requires the element
        if one.is_required() or more.get("element_required"):
            required.append(element)
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}, further


def _type(annotation: Any, further: list[str]) -> Schema:
    origin, parts = get_origin(annotation), get_args(annotation)
    marks = getattr(annotation, "__metadata__", ())
    if marks and (known := _PRIMITIVES.get(type(marks[0]).__name__)):
        return known
    if origin in (Union, types.UnionType):
        return _type(next(part for part in parts if part is not type(None)), further)
    if origin is list:
        return {"type": "array", "items": _type(parts[0], further), "minItems": 1}
    if annotation is bool:
        return _PRIMITIVES["Boolean"]
    if annotation is str:
        return _PRIMITIVES["String"]
    found = _COMPLEX.fullmatch(getattr(annotation, "__name__", ""))
    if found is None:
        raise TypeError(f"no schema for {annotation!r}: `fhir.resources` has a type that this module does not know")
    if found[1] in ("Resource", "FHIRPrimitiveExtension"):
        return _RESOURCE
    further.append(found[1])
    return {"$ref": f"#/components/schemas/{found[1]}"}
