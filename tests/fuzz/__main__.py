"""`python -m tests.fuzz TARGET [--seconds N] [--corpus DIR]`: coverage-guided fuzzing (atheris) of what takes bytes from outside.

TARGET: mllp, hl7, fhir, dicom, monitor, callback, or all. The seeds are our own samples; `--corpus` adds a folder of files, which
is read and never written. What is found lies in `--findings` (crash-..., timeout-...), each file an input:
`python -m tests.fuzz TARGET --replay FILE` runs it again, without atheris. The exit status is 0 only where nothing was found.
"""

import argparse
import os
import random
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

NAMES = ("mllp", "hl7", "fhir", "dicom", "monitor", "callback")
INSTRUMENTED = ["connectors", "processors", "streams", "pydicom"]
SLOWEST = 20  # seconds that one input may take, on a busy machine; libFuzzer reports one that takes longer as a finding
MEBIBYTES = 2500


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", choices=(*NAMES, "all"))
    parser.add_argument("--seconds", type=int, default=60, help="how long, each target (default: 60)")
    parser.add_argument("--runs", type=int, default=-1, help="inputs at most (default: as many as there is time for)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed and --runs give the same inputs (default: any)")
    parser.add_argument("--corpus", type=Path, action="append", default=[], help="a folder of further inputs; may be repeated")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="where what is found is put")
    parser.add_argument("--replay", type=Path, help="run one file and nothing else")
    return parser.parse_args(arguments)


def main() -> int:
    """Fuzz one target in this process, or all, each in a process of its own."""
    asked = options()
    if asked.replay:
        from tests.fuzz.targets import TARGETS

        TARGETS[asked.target].run(asked.replay.read_bytes())
        print("holds")
        return 0
    if asked.target == "all":
        rest = sys.argv[2:]
        found = {
            name: subprocess.run([sys.executable, "-m", "tests.fuzz", name, *rest], check=False).returncode for name in NAMES
        }
        print(
            "\n".join(
                f"{name}: {'nothing found' if code == 0 else f'FOUND something (exit {code})'}" for name, code in found.items()
            )
        )
        return max(found.values())
    return fuzz(asked)


def fuzz(asked: argparse.Namespace) -> int:
    """Hand the target to libFuzzer, which ends the process; hence a child that does it, and a corpus that outlives it."""
    asked.findings.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="vigil-fuzz-") as folder:
        child = os.fork()
        if child == 0:
            _libfuzzer(asked, Path(folder))
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _libfuzzer(asked: argparse.Namespace, folder: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[asked.target]
    for number, seed in enumerate(target.seeds()):
        (folder / f"seed-{number}").write_bytes(seed)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        return target.mutate(data, rng)[:most] if rng.random() < 0.75 else atheris.Mutate(data, most)

    flags = (
        f"-max_total_time={asked.seconds}",
        f"-runs={asked.runs}",
        f"-seed={asked.seed}",
        f"-max_len={target.longest}",
        f"-timeout={SLOWEST}",
        f"-rss_limit_mb={MEBIBYTES}",
        f"-artifact_prefix={asked.findings.resolve()}/{target.name}-",
        "-print_final_stats=1",
        "-reload=0",
        "-len_control=0",
    )
    corpora = [str(folder), *(str(one.resolve()) for one in asked.corpus)]  # libFuzzer writes to the first one only
    atheris.Setup([sys.argv[0], *flags, *corpora], target.run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
