"""What schemathesis loads (SCHEMATHESIS_HOOKS): bodies nearer to what is mapped, our own check of each answer, and a record.

Every exchange becomes a line of the file VIGIL_FUZZ_RECORD: `tests.fuzz.api` reads it when the run is over.
"""

import os
import random
from base64 import b64encode
from typing import Any

import orjson
import schemathesis

from connectors.fhir.examples import EXAMPLES
from connectors.fhir.structure import validate
from tests.fuzz.invariants import CANARY
from tests.fuzz.mutation import tree

_RECORD = os.environ.get("VIGIL_FUZZ_RECORD", os.devnull)
_SAMPLES = [(key, example) for key, kinds in EXAMPLES.items() for example in kinds.values()]
# what the mappings read, besides what every resource has
_NAMES = frozenset(
    {
        *(
            "code",
            "coding",
            "system",
            "value",
            "unit",
            "subject",
            "identifier",
            "reference",
            "display",
            "component",
            "category",
        ),
        *("valueQuantity", "valueString", "valueCodeableConcept", "dataAbsentReason", "effectiveDateTime", "issued"),
        *("content", "attachment", "contentType", "data", "payload", "contentString", "inResponseTo", "link", "other"),
        *("class", "period", "start", "end", "location", "entry", "resource", "request", "method", "url", "fullUrl"),
    }
)
_DOORS = {"batch": "Bundle", "message": "Message", "hook": "Notification"}


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Lay half of the generated bodies over a sample, or a mutated sample in place of it: random codes are no vital signs."""
    rng = random.Random(repr(body))
    operation = context.operation.definition.raw.get("operationId", "") if context.operation else ""
    door = _DOORS.get(operation) or operation.removeprefix("create").removeprefix("update")
    samples = [example for key, example in _SAMPLES if key == door]
    if not samples or not isinstance(body, dict) or rng.random() < 0.4:
        return body
    sample = rng.choice(samples)
    if rng.random() < 0.5:
        return orjson.loads(tree(orjson.dumps(sample), rng))
    names = [name for name in body if name != "resourceType"]
    return {**sample, **{name: body[name] for name in rng.sample(names, min(len(names), 2))}}


@schemathesis.check
def an_operation_outcome(ctx: Any, response: Any, case: Any) -> None:
    """Every answer is an OperationOutcome, or the Bundle or CapabilityStatement that was asked for, and valid; none is a 5xx."""
    request = response.request
    sent = request.body if isinstance(request.body, bytes) else (request.body or "").encode()
    line = {
        "method": request.method,
        "url": request.url,
        "status": response.status_code,
        "sent": b64encode(sent).decode(),
        "type": request.headers.get("content-type", ""),
        "answer": b64encode(response.content).decode(),
    }
    with open(_RECORD, "ab") as record:
        record.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    assert response.status_code < 500, f"{response.status_code}"
    if request.method == "HEAD":
        return
    kind = response.headers["content-type"][0]
    if "xml" in kind:
        assert b"http://hl7.org/fhir" in response.content
        return
    body = orjson.loads(response.content)
    allowed = {"OperationOutcome"} | ({"Bundle", "CapabilityStatement"} if response.status_code == 200 else set())
    assert body.get("resourceType") in allowed, f"{response.status_code}: an answer that is {body.get('resourceType')!r}"
    assert not validate(body), f"not valid: {validate(body)}"
    assert CANARY.lower().encode() not in response.content.lower(), "patient text in the answer"


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """In a short run leave out what is nested deeply: making bodies of 55 types that hold each other takes seconds each."""
    if os.environ.get("VIGIL_FUZZ_SHALLOW") != "1":
        return
    for schema in raw_schema["components"]["schemas"].values():
        is_resource = "resourceType" in schema["properties"]
        required = schema.get("required", [])
        schema["properties"] = {
            name: one
            for name, one in schema["properties"].items()
            if name in required or name in _NAMES or (is_resource and "$ref" not in repr(one))
        }
