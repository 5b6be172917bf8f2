"""TOML as text: values written, and a file changed only where its document changed.

Everything else stays as somebody wrote it: comments, order, spaces, line ends. (tomlkit does not hold that for a registry: it moves
every `[[model]]` of a file together, and so parts tables between them from their comments.)

A file is read as statements, the fewest lines that are TOML by themselves: a header, a pair, a comment or an empty line. Comments
and empty lines before a header go with the header.
"""

import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Place = tuple[str | int, ...]
"""Where a value stands in a document: keys, and indices of arrays."""

_NOTHING: Final = object()


@dataclass(slots=True)
class _Section:
    """A header with what follows it, or what stands before the first (`place` ())."""

    place: Place
    text: str = ""  # the header, with the comments before it
    body: list[tuple[Place | None, str]] = field(default_factory=list)  # pairs, and the rest under None


def rewritten(text: str, document: Mapping[str, Any]) -> str:
    """Return a file's text with what `document` has otherwise than it: values changed, taken out and put in; nothing else.

    What can be put in are pairs of a table that has a header, `[tasks.NAME]`, `[[model]]` at the end and `[model.NAME]`. Raises
    `ValueError` where that does not make the document: the file says it in a way that this cannot change.
    """
    made = _with_new(_with_changes(text, document), document)
    if not _same(tomllib.loads(made), document):
        raise ValueError("no edit of this text makes the document")
    return made


def _with_changes(text: str, document: Mapping[str, Any]) -> str:
    before, (sections, rest) = tomllib.loads(text), _sections(text)
    made: list[str] = []
    for section in sections:
        if not isinstance(_at(document, section.place), dict):
            continue
        made.append(section.text)
        for place, pair in section.body:
            value = _NOTHING if place is None else _at(document, place)
            if place is None or (value is not _NOTHING and _same(value, _at(before, place))):
                made.append(pair)
            elif value is not _NOTHING:
                made.append(_changed(pair, value))
    return "".join([*made, rest])


def _with_new(text: str, document: Mapping[str, Any]) -> str:
    now, (sections, rest) = tomllib.loads(text), _sections(text)

    def put(under: Place, block: str) -> None:
        last = next((one for one in reversed(sections) if one.place[: len(under)] == under), sections[-1])
        last.body.append((None, block))

    for section in list(sections):
        have, want = _at(now, section.place), _at(document, section.place)
        for key, value in want.items():
            if key in have or not section.place:
                continue
            if section.place[0] == "model" and len(section.place) == 2 and isinstance(value, dict):
                put(section.place, "\n" + table(f"model.{_key(key)}", value) + "\n")
            elif not (section.place == ("tasks",) and isinstance(value, dict)):
                section.body.append((None, "".join(pairs({key: value})) + "\n"))
    for name, value in document.get("tasks", {}).items():
        if name not in now.get("tasks", {}):
            put(("tasks",), "\n" + table(f"tasks.{_key(name)}", value) + "\n")
    for model in document.get("model", [])[len(now.get("model", [])) :]:
        plain = {key: value for key, value in model.items() if not isinstance(value, dict)}
        nested = [table(f"model.{_key(key)}", value) for key, value in model.items() if isinstance(value, dict)]
        put(("model",), "\n" + "\n\n".join(["\n".join(["[[model]]", *pairs(plain)]), *nested]) + "\n")
    made = ""
    for piece in [piece for one in sections for piece in (one.text, *(pair for _, pair in one.body))]:
        made += "\n" if made and not made.endswith("\n") and piece else ""  # the file's last line had no end
        made += piece
    return (made + rest) if text else made.removeprefix("\n")


def _statements(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    held = ""
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        held += line
        try:
            loaded = tomllib.loads(held)
        except tomllib.TOMLDecodeError:
            continue  # a value of several lines
        yield held, loaded
        held = ""


def _sections(text: str) -> tuple[list[_Section], str]:
    """Return the sections in order, and the comments that end the file."""
    document, seen = tomllib.loads(text), Counter[Place]()
    sections, loose = [_Section(())], ""
    for said, loaded in _statements(text):
        if not loaded:
            loose += said
        elif said.lstrip().startswith("["):
            place: Place = ()
            at: Any = document
            for key, last in _keys(loaded):
                place, at = (*place, key), at[key]
                if isinstance(at, list):
                    seen[place] += last
                    index = seen[place] - 1
                    place, at = (*place, index), at[index]
            sections.append(_Section(place, loose + said))
            loose = ""
        else:
            here = sections[-1]
            if loose:
                here.body.append((None, loose))
            loose = ""
            names = [key for key, _ in _keys(tomllib.loads(_name(said) + "= 0"))]
            here.body.append(((*here.place, *names), said))
    if len(sections) == 1 and loose:  # comments alone: a head, before what will come
        sections[0].body.append((None, loose))
        loose = ""
    return sections, loose


def _keys(loaded: Any) -> Iterator[tuple[str, bool]]:
    """Return the keys that lead into a document of one thing, and with the last whether that is an array of tables."""
    while isinstance(loaded, dict) and loaded:
        key, loaded = next(iter(loaded.items()))
        yield key, isinstance(loaded, list)


def _name(pair: str) -> str:
    """Return what stands before the equals sign of a pair."""
    return next(pair[: m.start()] for m in re.finditer("=", pair) if _is_toml(pair[: m.start()] + "= 0"))


def _changed(pair: str, value: Any) -> str:
    name = _name(pair)
    comments = (pair[m.start() :] for m in re.finditer("#", pair) if _is_toml(pair[: m.start()]))
    comment = next((one for one in comments if one.count("\n") <= 1), "").rstrip("\r\n")
    return f"{name}= {_value(value)}{'  ' + comment if comment else ''}" + ("\r\n" if pair.endswith("\r\n") else "\n")


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _at(document: Any, place: Place) -> Any:
    for key in place:
        try:
            document = document[key]
        except (KeyError, IndexError, TypeError):
            return _NOTHING
    return document


def _same(one: Any, other: Any) -> bool:
    match one, other:
        case dict(), dict():
            return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
        case ((list() | tuple()), (list() | tuple())):
            return len(one) == len(other) and all(map(_same, one, other))
        case float(), float() if math.isnan(one):
            return math.isnan(other)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def table(name: str, values: Mapping[str, Any]) -> str:
    """Write a table with its header."""
    return "\n".join([f"[{name}]", *pairs(values)])


def pairs(values: Mapping[str, Any]) -> Sequence[str]:
    """Write a table's pairs."""
    return [f"{_key(key)} = {_value(value)}" for key, value in values.items()]


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: Any) -> str:
    """Write a value of TOML: strings, numbers, truth values, and arrays and tables of them."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value) if math.isfinite(value) else str(value)
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", escaped) + '"'
        case list() | tuple():
            inline = "[" + ", ".join(_value(item) for item in value) + "]"
            if len(inline) <= 110 or not value:
                return inline
            return "[\n" + "".join(f"  {_value(item)},\n" for item in value) + "]"
        case dict():
            return "{ " + ", ".join(pairs(value)) + " }" if value else "{}"
    raise TypeError(f"no TOML for {type(value).__name__}")  # the type alone; an entry's values are facts about a model anyway
