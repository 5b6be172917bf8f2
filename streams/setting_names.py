"""The names of settings and what stands behind them: what a variable names, which name was meant, what is wrong with a value.

Works on any model of settings; `streams.settings` has ours.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from models.errors import Permanent
from processors import durations

HINT: Final = "`vigil settings` shows every setting with its default and reason"

# Variables of our name that are no settings: of single commands, of infra/ and of the tests.
_NO_SETTINGS: Final = frozenset(
    {"VIGIL_CONFIG", "VIGIL_HOME_SQL", "VIGIL_EMBEDDED_QDRANT_API_KEY", "VIGIL_KAFKA_JARS", "VIGIL_DATA"}
    | {"VIGIL_WORKERS", "VIGIL_GRAFANA_PASSWORD", "VIGIL_POSTGRES_PASSWORD"}
)
_NO_SETTINGS_BEGIN: Final = ("VIGIL_TEST_", "VIGIL_FUZZ_")
# What Kubernetes puts into the environment of every pod beside a service that is called vigil or vigil-...
_OF_A_SERVICE: Final = re.compile(r"VIGIL_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)")


def _variables() -> dict[str, str]:
    """Return the environment variables that are meant as settings, by their names in capitals."""
    found = {name.upper(): value for name, value in os.environ.items() if name.upper().startswith("VIGIL_")}
    return {
        name: value
        for name, value in found.items()
        if name not in _NO_SETTINGS
        and not name.startswith(_NO_SETTINGS_BEGIN)
        and not (name == "VIGIL_SITE_SECRET" and "VIGIL_IDENTITY__SITE_SECRET" in found)  # how infra/compose.yaml is told of it
        and not _OF_A_SERVICE.fullmatch(name)
        and not (name.endswith("_PORT") and value.startswith(("tcp://", "udp://", "sctp://")))
    }


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a question that names what may have been meant, empty where nothing is near."""
    found = get_close_matches(name, names, n=1, cutoff=0.7)
    return f"; did you mean {found[0]}?" if found else ""


def refuse_unknown_variables(settings: type[BaseModel]) -> None:
    """Raise `Permanent` for variables that name no setting, with the nearest that does."""
    unknown = [name for name in _variables() if not _at(settings, _parts(name))]
    if unknown:
        known = {
            name.replace("__", "_"): name for name in (f"VIGIL_{one.upper().replace('.', '__')}" for one in names(settings))
        }
        words = []
        for name in sorted(unknown):
            near = get_close_matches(name.replace("__", "_"), known, n=1, cutoff=0.6)
            words.append(name + (f" (did you mean {known[near[0]]}?)" if near else ""))
        raise Permanent(
            f"no setting is called {', '.join(words)}",
            hint=f"levels are parted by two underscores; {HINT[0].lower()}{HINT[1:]}",
        )


def _parts(variable: str) -> list[str]:
    return variable.removeprefix("VIGIL_").lower().split("__")


def names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the name of every setting, as in the TOML file; a table of names that a site chooses has one."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from names(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def _at(kind: Any, path: Sequence[str], why: str = "") -> list[tuple[Any, str]]:
    """Return what a path of names leads to: kinds with descriptions, several of a union, none where it names nothing."""
    if not path:
        return [(kind, why)]
    found: list[tuple[Any, str]] = []
    for one in _members(kind):
        if isinstance(one, type) and issubclass(one, BaseModel):
            if (field := one.model_fields.get(path[0])) is not None:
                found += _at(field.annotation, path[1:], field.description or "")
        elif get_origin(one) is dict:
            found += _at(get_args(one)[1], path[1:], why)
    return found


def _members(kind: Any) -> list[Any]:
    origin = get_origin(kind)
    if origin is Annotated:
        return _members(get_args(kind)[0])
    if origin in (Union, UnionType):
        return [member for one in get_args(kind) for member in _members(one)]
    return [kind]


def is_list(kind: Any) -> bool:
    """Tell whether a setting of this kind takes a list."""
    return any(get_origin(one) in (tuple, list, set, frozenset) for one in _members(kind))


def not_json(settings: type[BaseModel]) -> Iterator[str]:
    """Name the variables that cannot be read; what stands in them may be a secret."""
    for name, value in _variables().items():
        try:
            json.loads(value)
        except ValueError as error:
            kinds = [kind for kind, _ in _at(settings, _parts(name))]
            if value and any((is_list(kind) and value.lstrip()[:1] in "[{") or not _is_plain(kind) for kind in kinds):
                yield f"{name} is not JSON ({error})"


def _is_plain(kind: Any) -> bool:
    tables = [
        one for one in _members(kind) if get_origin(one) is dict or (isinstance(one, type) and issubclass(one, BaseModel))
    ]
    return not tables


def wrong(settings: type[BaseModel], error: ErrorDetails) -> str:
    """Say what is wrong with one setting: its name, the value where it is a number, the bound, and the reason for the setting."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        table, known = name.rpartition(".")[0], list(names(settings))
        listed = not table or any(one.startswith(f"{table}.") for one in known)  # else a table with a name of the site's own
        return f"there is no setting {name}{nearest(name, known) if listed else _beside(settings, error['loc'])}"
    said = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"]
    if said.startswith(f"{name}."):  # a relation, which names its settings
        return said
    found = _at(settings, [str(one) for one in error["loc"]])
    why = next((f" ({why})" for _, why in found if why), "")
    numeric = any(one in (int, float, timedelta) for kind, _ in found for one in _members(kind))
    return f"{name}{_shown(error['input']) if numeric else ''}: {said}{why}"


def _beside(settings: type[BaseModel], path: Sequence[str | int]) -> str:
    """Say what there is in the table that a wrong name stands in, such as a peer's."""
    tables = [
        one
        for kind, _ in _at(settings, [str(one) for one in path[:-1]])
        for one in _members(kind)
        if isinstance(one, type) and issubclass(one, BaseModel)
    ]
    there = sorted({name for table in tables for name in table.model_fields})
    return nearest(str(path[-1]), there) or (f"; there are {', '.join(there)}" if there else "")


def _shown(value: object) -> str:
    """Return the value of a number or duration where it is one; else it may be a secret in the wrong place."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            with contextlib.suppress(ValueError):
                durations.seconds(value)
                return f" = {value}"
    return f" = {value:g}" if isinstance(value, (int, float)) else ""
