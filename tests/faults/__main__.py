"""`list`, `run`, `merge`; see the package's docstring. Exits 1 when a row loses, doubles or breaks anything else of the promise."""

import argparse
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.kafka.host import LocalKafkaError, free_ports, require_free
from infra.kafka.kafka import LocalKafka
from tests import qdrant
from tests.faults import (
    both,
    boundaries,
    broken_models,
    contexts,
    merging,
    messages,
    outside,
    passages,
    report,
    senders,
    stores,
    workers,
)
from tests.faults.arena import Fault, Row, arena
from tests.faults.disk import small_disk
from tests.faults.proxy import Proxy
from tests.faults.verify import Verdict
from tests.kafka import Kafka, local_kafka

MATRIX: list[Fault] = [
    *workers.FAULTS,
    *boundaries.FAULTS,
    *outside.FAULTS,
    *stores.FAULTS,
    *merging.FAULTS,
    *messages.FAULTS,
    *passages.FAULTS,
    *contexts.FAULTS,
    *both.FAULTS,
    *broken_models.FAULTS,
    *senders.FAULTS,
]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the rows")
    run = commands.add_parser("run", help="run rows and report")
    run.add_argument("--short", action="store_true", help="only the few rows that CI runs")
    run.add_argument("--only", action="append", default=[], metavar="NAME", help="a fault, or fault/lane; may be given again")
    run.add_argument("--seed", type=int, default=1)
    run.add_argument(
        "--part", type=part, default=(1, 1), metavar="K/N", help="only the Kth of N parts of the rows, for N runs side by side"
    )
    run.add_argument("--json", type=Path, help="where the report goes; a Markdown table is put beside it")
    merge = commands.add_parser("merge", help="make one report of those of the parts")
    merge.add_argument("reports", nargs="+", type=Path)
    merge.add_argument("--json", type=Path, required=True)
    given = parser.parse_args(arguments)
    if given.command == "merge":
        try:
            return report.merge(given.reports, given.json, [one.row for one in MATRIX])
        except report.Unlike as error:
            parser.error(str(error))
    if given.command == "list":
        for fault in MATRIX:
            print(f"{'short' if fault.short else '     '} {fault.row:32} {fault.words}")
        return 0
    if unknown := strangers(given.only, given.short):
        where = "in the short form" if given.short else "there"
        parser.error(f"{', '.join(unknown)} is not {where}; `python -m tests.faults list` shows all faults")
    chosen = choose(given.only, given.short, *given.part)
    if not chosen:
        parser.error(f"there are fewer than {given.part[0]} such rows, so that part has none")
    program = qdrant.binary()
    if program is None:
        sys.exit("the fault matrix needs a real Qdrant server: set VIGIL_TEST_QDRANT_BIN to its binary")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it, too, ends what was started
    left_out = {one.row: missing for one in chosen if (missing := one.needs())}
    asked = " ".join([*(("short",) if given.short else ()), *given.only]) or "all rows"
    asked += f", part {given.part[0]} of {given.part[1]}" if given.part[1] > 1 else ""
    run_of = report.Run(given.seed, asked, [one.row for one in chosen], len(MATRIX), left_out, report.version_of(program))
    for name, why in left_out.items():
        say(f"{name} is left out: it needs {why}")

    def told(rows: list[Row]) -> None:
        if given.json:
            report.write(given.json, rows, run_of)

    told([])
    rows = play([one for one in chosen if one.row not in left_out], given.seed, program, told)
    print(report.table(rows))
    print(report.summary(report.document(rows, run_of)))
    return 0 if rows and all(row.good for row in rows) else 1


def part(words: str) -> tuple[int, int]:
    """Read K/N."""
    found = re.fullmatch(r"(\d+)/(\d+)", words)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{words!r} is no K/N with K from 1 to N")
    return int(found[1]), int(found[2])


def strangers(only: list[str], short: bool) -> list[str]:
    """What was asked for and fits no row."""
    there = [one for one in MATRIX if not short or one.short]
    return sorted(set(only) - {one.name for one in there} - {one.row for one in there})


def choose(only: list[str], short: bool, part: int = 1, parts: int = 1) -> list[Fault]:
    """The rows asked for (or the `part`th of `parts` of them), and before them the undisturbed runs that they are compared with."""
    wanted = [one for one in MATRIX if (not short or one.short) and (not only or one.name in only or one.row in only)]
    wanted = wanted[part - 1 :: parts]
    like = {(one.like, one.lane) for one in wanted if one.same}
    return [one for one in MATRIX if one in wanted or (one.name, one.lane) in like]


def play(faults: list[Fault], seed: int, program: Path, told: Callable[[list[Row]], None]) -> list[Row]:
    """Run rows one after the other on one broker; each has topics, a group and stores of its own. `told` hears of all so far."""
    rows: list[Row] = []
    undisturbed: dict[tuple[str, str], Verdict] = {}
    for brokers, small in dict.fromkeys(sorted((one.brokers, one.small_disk) for one in faults)):
        with cluster(brokers, small) as (local, proxy):
            kafka = Kafka("local", local.bootstrap, local=local)
            for fault in (one for one in faults if (one.brokers, one.small_disk) == (brokers, small)):
                say(f"{len(rows) + 1}/{len(faults)} {fault.row}: {fault.words}")
                row, verdict = _row(fault, kafka, proxy, program, seed, undisturbed.get((fault.like, fault.lane)))
                if fault.same and fault.name != fault.like and (fault.like, fault.lane) not in undisturbed:
                    row.wrong.append("there is no good undisturbed run to compare it with")
                if fault.name == fault.like and row.good:
                    undisturbed[fault.name, fault.lane] = verdict
                kafka.mend()
                if proxy:
                    proxy.heal()
                say(f"    {'holds' if row.good else 'BROKEN'} in {row.seconds} s {row.wrong or ''}")
                rows.append(row)
                told(rows)
    return rows


def _row(
    fault: Fault, kafka: Kafka, proxy: Proxy | None, program: Path, seed: int, undisturbed: Verdict | None
) -> tuple[Row, Verdict]:
    try:
        with arena(fault, kafka, proxy, program, seed) as site:
            return site.run(undisturbed)
    except Exception as error:
        traceback.print_exc()
        return Row(fault.name, fault.lane, fault.words, wrong=[f"the row broke: {error!r}"]), Verdict()


@contextmanager
def cluster(brokers: int, small: bool = False) -> Iterator[tuple[LocalKafka, Proxy | None]]:
    """Three brokers; or one with two listeners: senders and verifier speak to it directly, workers through the proxy.

    `small`: it lies on a file system of its own of 200 MB.
    """
    if brokers > 1:
        with local_kafka(brokers) as local:
            yield local, None
        return
    ports: list[int] = []
    while not (len(ports) == 4 and ports[1] == ports[0] + 1):  # LocalKafka's controller listens on the port after the first
        first, *others = free_ports(3)
        with suppress(LocalKafkaError):
            require_free(first + 1)
            ports = [first, first + 1, *others]
    direct, controller, through, front = ports
    settings = {
        "listeners": f"PLAINTEXT://127.0.0.1:{direct},CONTROLLER://127.0.0.1:{controller},PROXIED://127.0.0.1:{through}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{direct},PROXIED://127.0.0.1:{front}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.retention.check.interval.ms": "1000",
    }
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="vigil-kafka-", ignore_cleanup_errors=True))
        if small:
            stack.enter_context(small_disk(Path(folder), 200))
            settings |= {"log.segment.bytes": "1048576"}
        proxy = stack.enter_context(Proxy(front, through))
        local = LocalKafka(Path(folder), port=direct, settings=settings, die_with_parent=True, report=say)
        local.start()
        try:
            yield local, proxy
        finally:
            local.kill()


def say(words: str) -> None:
    """Tell how it goes."""
    print(f"[{time.strftime('%H:%M:%S')}] {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
