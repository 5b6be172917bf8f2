"""The fuzzers' invariants on our samples and seeded mutations of them; a short coverage-guided run where atheris is there."""

import os
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz.__main__ import NAMES
from tests.fuzz.invariants import CANARY, Violation, no_patient_text
from tests.fuzz.targets import TARGETS, Target

EACH = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def test_the_command_line_knows_every_target() -> None:
    assert tuple(TARGETS) == NAMES


@EACH
def test_the_invariants_hold_for_our_samples(target: Target) -> None:
    for seed in target.seeds():
        target.run(seed)


@EACH
def test_the_samples_carry_the_canary(target: Target) -> None:
    assert any(CANARY.encode() in seed for seed in target.seeds())


@EACH
def test_the_invariants_hold_for_mutated_samples(target: Target) -> None:
    seeds, rng = target.seeds(), random.Random(20261129)
    for _ in range(150):
        data = rng.choice(seeds)
        for _ in range(rng.choice((1, 1, 2, 4))):
            data = target.mutate(data, rng)[: target.longest]
        target.run(data)


@EACH
def test_a_mutation_is_a_function_of_its_seed(target: Target) -> None:
    seed = target.seeds()[0]
    made = [target.mutate(seed, random.Random(n)) for n in range(20)]
    assert made == [target.mutate(seed, random.Random(n)) for n in range(20)]
    assert len(set(made)) > 5


def test_patient_text_is_noticed() -> None:
    with pytest.raises(Violation):
        no_patient_text(f"OBX-5: {CANARY} is no number")


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed (extra dev, Linux on x86-64)")
@pytest.mark.parametrize("name", NAMES)
def test_a_short_coverage_guided_run_finds_nothing(name: str, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    # a fixed seed: what this run says of a change must not depend on luck; `python -m tests.fuzz` looks further
    limits = ["--seconds", "10", "--runs", "2000", "--seed", "20261129"]
    command = [sys.executable, "-m", "tests.fuzz", name, *limits, "--findings", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]  # the exception stands in the first
    assert not [*tmp_path.iterdir()]
