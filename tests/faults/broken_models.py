"""Models that fail in their real runtime: graphs of a few bytes with which ONNX Runtime gives NaN, raises, dawdles, hangs or finds
no memory; and the shipped deterioration model, with nodes behind it that do so for patients who get worse. Needs `onnx`."""

import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.registry import WEIGHTS, Registry, sha256_of
from models.runtimes.deterioration import FEATURES, VITALS
from tests.clinic import site_registry
from tests.faults.arena import Arena, Fault, Twist
from tests.faults.inputs import PHI, Sent
from tests.faults.workers import nothing
from tests.tiny_models import IDS, classifier_folder, entry_of, scores

RAISES = "x9"  # its second token is the vocabulary's last: the table ends before it
SPOILS = "aspirin"


def nan_table() -> np.ndarray:
    """Scores that are not a number for one word."""
    table = scores()
    table[IDS[SPOILS]] = np.nan
    return table


def short_table() -> np.ndarray:
    """Scores without the last token's: ONNX Runtime raises when it is asked for."""
    return scores()[:-1]


def model_of(table: Callable[[], np.ndarray]) -> Callable[[Arena], None]:
    """Lay a registry over the packaged one, with a tiny named-entity model of this table as champion."""

    def prepare(arena: Arena) -> None:
        folder = classifier_folder(arena.folder / "model", table())
        entry = entry_of(folder).model_dump(exclude_defaults=True)
        registry = site_registry(arena.folder, champions={"ner": "tiny"}, models=[entry])
        arena.env["VIGIL_MODELS__REGISTRY"] = str(registry)

    return prepare


def texts(trouble: str, *, bad: bool = True) -> Callable[[Arena], Twist]:
    """Give every tenth note the word that the model cannot bear; its neighbours are well. `bad`: it ends as a dead letter."""

    def prepare(arena: Arena) -> Twist:
        def twist(number: int, one: Sent) -> list[Sent]:
            troubled = number % 10 == 4
            arena.spoilt += troubled and bad
            body = {**json.loads(one.value or b""), "text": f"mild cough, {PHI} {trouble if troubled else 'fever'}."}
            return [replace(one, value=json.dumps(body).encode())]

        return twist

    return prepare


def lingering(turns: int) -> Callable[[Path], None]:
    """Write a graph that goes so many times through an empty loop for each of one word in a batch: 2**62 is for ever."""

    def write(path: Path) -> None:
        _with_waste(path, [helper.make_node("Mul", ["found", "each"], ["turns"]), _loop()], turns)

    return write


def _loop() -> Any:
    """Return a node that makes the scalar `waste` (of 0) by going `turns` times round for nothing."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["goes_on"]), helper.make_node("Add", ["sum", "one"], ["sum_after"])],
        "body",
        [
            _value("turn", TensorProto.INT64, []),
            _value("go_on", TensorProto.BOOL, []),
            _value("sum", TensorProto.FLOAT, []),
        ],
        [_value("goes_on", TensorProto.BOOL, []), _value("sum_after", TensorProto.FLOAT, [])],
        [_constant("one", np.float32(0.0))],
    )
    return helper.make_node("Loop", ["turns", "yes", "zero"], ["waste"], body=body)


def greedy(path: Path) -> None:
    """Write a graph that asks for 4 TiB for each of one word."""
    nodes = [
        helper.make_node("Mul", ["found", "each"], ["asked"]),
        helper.make_node("Reshape", ["asked", "flat"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["lots"]),
        helper.make_node("ReduceSum", ["lots"], ["waste"], keepdims=0),
    ]
    _with_waste(path, nodes, 2**40)


def _with_waste(path: Path, nodes: list[Any], each: int) -> None:
    """Write the table's graph, with `nodes` making the scalar `waste` (of 0) out of `found`, how often the word is there."""
    before = [
        helper.make_node("Equal", ["input_ids", "word"], ["is_word"]),
        helper.make_node("Cast", ["is_word"], ["ones"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["ones"], ["found"], keepdims=0),
    ]
    after = [
        helper.make_node("Gather", ["table", "input_ids"], ["looked_up"]),
        helper.make_node("Add", ["looked_up", "waste"], ["logits"]),
    ]
    constants = {
        "table": scores(),
        "word": np.int64(IDS[SPOILS]),
        "each": np.int64(each),
        "flat": np.array([1], np.int64),
        "yes": np.bool_(True),
        "zero": np.float32(0.0),
    }
    graph = helper.make_graph(
        [*before, *nodes, *after],
        "waste",
        [_value("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [_value("logits", TensorProto.FLOAT, ["batch", "tokens", scores().shape[1]])],
        [_constant(name, value) for name, value in constants.items()],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    path.write_bytes(model.SerializeToString())


def _value(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _constant(name: str, value: Any) -> Any:
    return numpy_helper.from_array(np.asarray(value), name)


class _Entries(list[dict[str, Any]]):
    """The models of a registry that a fault lays."""


def wasteful(write: Callable[[Path], None]) -> Callable[[Arena], None]:
    """Lay a registry with such a graph as champion; `well` is the same model without the waste."""

    def prepare(arena: Arena) -> None:
        entries = []
        for name in ("tiny", "well"):
            folder = classifier_folder(arena.folder / name)
            if name == "tiny":
                write(folder / "model.onnx")
            entries.append({**entry_of(folder).model_dump(exclude_defaults=True), "name": name})
        arena.keep(_Entries(entries))
        _serve(arena, "tiny")

    return prepare


def _serve(arena: Arena, name: str) -> None:
    registry = site_registry(arena.folder, champions={"ner": name}, models=arena.get(_Entries))
    arena.env["VIGIL_MODELS__REGISTRY"] = str(registry)


WORSE, WORST = 0.03, 0.075
"""The shipped model says some .007 of the load's patients who are well and .05 of those who get worse; and .09 or more where it is
tried as it is loaded, since a model that fails then is not served at all."""
_RAISES = [
    helper.make_node("Cast", ["is_worse"], ["place"], to=TensorProto.INT64),
    helper.make_node("Gather", ["nothings", "place"], ["trouble"]),  # a table of one: ONNX Runtime raises for its second row
    helper.make_node("Add", ["said", "trouble"], ["probability"]),
]
_NAN = [helper.make_node("Where", ["is_worse", "nan", "said"], ["probability"])]
_HANGS = [
    helper.make_node("Cast", ["is_worse"], ["ones"], to=TensorProto.INT64),
    helper.make_node("ReduceSum", ["ones"], ["found"], keepdims=0),
    helper.make_node("Mul", ["found", "each"], ["turns"]),
    _loop(),
    helper.make_node("Add", ["said", "waste"], ["probability"]),
]


def deterioration(nodes: list[Any]) -> Callable[[Arena], None]:
    """Lay a registry over the packaged one, whose deterioration model makes `probability` of what was `said` by these nodes."""

    def prepare(arena: Arena) -> None:
        entry = Registry.load().entry("deterioration")
        folder = arena.folder / "deterioration"
        shutil.copytree(WEIGHTS / entry.location, folder)
        model = onnx.load(folder / "model.onnx")
        graph = model.graph
        for node in graph.node:
            node.output[:] = ["said" if name == "probability" else name for name in node.output]
        graph.node.extend(
            [  # rows that fill a block up hold nothing that was measured
                helper.make_node("Slice", ["x", "first", "last", "inputs"], ["seen"]),
                helper.make_node("ReduceMax", ["seen"], ["most_seen"], axes=[0, 2], keepdims=0),
                helper.make_node("Greater", ["most_seen", "zero"], ["is_seen"]),
                helper.make_node("Greater", ["said", "worse"], ["is_grave"]),
                helper.make_node("Less", ["said", "worst"], ["is_of_load"]),
                helper.make_node("And", ["is_seen", "is_grave"], ["is_seen_grave"]),
                helper.make_node("And", ["is_seen_grave", "is_of_load"], ["is_worse"]),
                *nodes,
            ]
        )
        constants = {
            "worse": np.float32(WORSE),
            "worst": np.float32(WORST),
            "first": np.array([len(FEATURES)], np.int64),  # of a row's inputs: what was measured of the vital signs
            "last": np.array([len(FEATURES) + VITALS], np.int64),
            "inputs": np.array([2], np.int64),
            "nan": np.float32(np.nan),
            "nothings": np.zeros(1, np.float32),
            "each": np.int64(2**62),
            "yes": np.bool_(True),
            "zero": np.float32(0.0),
        }
        graph.initializer.extend([_constant(name, value) for name, value in constants.items()])
        onnx.save(model, folder / "model.onnx")
        files = {**entry.files, "model.onnx": sha256_of(folder / "model.onnx")}
        described = {**entry.model_dump(), "location": str(folder), "files": files}
        arena.env["VIGIL_MODELS__REGISTRY"] = str(site_registry(arena.folder, models=[described]))

    return prepare


def other_model(arena: Arena) -> None:
    """Wait until the hung worker ends; then the operator goes back to the model of before."""
    deadline = time.monotonic() + 60.0
    while not arena.worker().deaths:
        if time.monotonic() > deadline:
            arena.wrong.append("the hung worker did not end")
            return
        time.sleep(0.2)
    _serve(arena, "well")


def other_model_live(arena: Arena) -> None:
    """Let the lane be held for a while; then the operator goes back to the model of before, and restarts nothing."""
    arena.sleep(8.0)
    _serve(arena, "well")


def dawdles(arena: Arena) -> None:
    """Look until an inference (of a batch) took half a second or more, 30 s at most: else the loop is too short."""
    for _ in range(30):
        arena.sleep(1.0)
        found = re.findall(
            r'^vigil_model_seconds_(bucket\{.*le="0\.5"|count).* (\S+)$', arena.worker().page("metrics")[1], re.MULTILINE
        )
        counts = {what.startswith("count"): float(number) for what, number in found}
        if counts.get(True, 0) - counts.get(False, 0) >= 1:
            return
    arena.wrong.append(f"the model was not slow: {found}")


FAULTS = [
    *(
        Fault(
            name,
            "notes-entities",
            words,
            nothing,
            twist=texts(trouble),
            prepare=prepare,
            same=False,
            seen="dead_lettered",
        )
        for name, words, trouble, prepare in (
            ("model-raises", "ONNX Runtime raises on a tenth of the notes", RAISES, model_of(short_table)),
            ("model-nan", "the model's scores are not a number for a tenth of the notes", SPOILS, model_of(nan_table)),
        )
    ),
    *(  # vitals wait for no model: NEWS2 goes out alone, says so, and the alerts are those of a run whose model is well
        # Its answers and the scores' ids are another model's.
        Fault(
            name,
            "vitals",
            words,
            nothing,
            prepare=deterioration(nodes),
            but=("id", "deterioration"),
            seconds=24,
            seen=seen,
            ends=ends,
        )
        for name, words, nodes, seen, ends in (
            ("model-raises", "ONNX Runtime raises of patients who get worse", _RAISES, "deterioration model fails", 0),
            ("model-nan", "the model's score is not a number of patients who get worse", _NAN, "deterioration model fails", 0),
            # 70: the thread that never comes back holds the process, which ends all the same when it is told to.
            ("model-hung", "the model never comes back from patients who get worse", _HANGS, "score-late", 70),
        )
    ),
    Fault(
        "model-out-of-memory",
        "notes-entities",
        "ONNX Runtime finds no memory for a tenth of the notes; then the operator takes another model",
        other_model_live,
        twist=texts(SPOILS, bad=False),
        prepare=wasteful(greedy),
        same=False,
        seen="out of memory",
    ),
    Fault(
        "model-slow",
        "notes-entities",
        "a tenth of the notes takes a second each",
        dawdles,
        twist=texts(SPOILS, bad=False),
        prepare=wasteful(lingering(2_000_000)),
        same=False,
    ),
    Fault(
        "model-hung",
        "notes-entities",
        "the model never comes back from a note; then the operator takes another one",
        other_model,
        twist=texts(SPOILS, bad=False),
        prepare=wasteful(lingering(2**62)),
        settings=(("VIGIL_ENGINE__STALL_AFTER", "6"), ("VIGIL_ENGINE__GRACE", "2")),
        same=False,
        deaths=True,
        seen="unsettled records",
    ),
]
