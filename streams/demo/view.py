"""What the demo shows: a live table in a terminal, plain progress lines elsewhere, a summary at the end."""

import sys
import time
from datetime import timedelta
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from streams.demo.play import Player
from streams.demo.stage import DemoPlan
from streams.demo.watch import LANES_OF, Account

_COLOURS = {"high": "bold red", "medium": "dark_orange", "low-medium": "yellow", "information": "cyan"}
_LANES = tuple(dict.fromkeys(lane for lanes in LANES_OF.values() for lane in lanes))


class View:
    """Use as a context manager while the ward is played."""

    def __init__(self, plan: DemoPlan) -> None:
        self.console = Console()
        self.every = 0.25 if self.console.is_terminal else 5.0
        self._plan = plan
        self._began = time.monotonic()
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def say(self, text: str) -> None:
        """Print a line of progress."""
        self.console.print(f"[{time.monotonic() - self._began:5.1f} s] {text}", highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, account: Account, player: Player, ward_time: timedelta) -> None:
        """Show how it stands."""
        clock = f"{int(ward_time.total_seconds() // 3600):02d}:{int(ward_time.total_seconds() // 60) % 60:02d}"
        if self._live is None:
            done = sum(map(len, account.done.values()))
            raised = account.alerts["raised"]
            self.say(
                f"ward {clock}  sent {len(player.sent)}  accepted {sum(s.accepted for s in player.sent)}  "
                f"outputs {done}  alerts raised {raised}  dead letters {sum(account.dead.values())}"
            )
            sys.stdout.flush()
            return
        self._live.update(Panel(Group(self._lanes(account), self._alerts(account)), title=f"ward time {clock}"), refresh=True)

    def _lanes(self, account: Account) -> Table:
        table = Table("lane", "in", "done", "p50 ms", "p99 ms", expand=True)
        for topic, lanes in LANES_OF.items():
            for lane in lanes:
                p50, p99 = account.percentile(lane, 0.5), account.percentile(lane, 0.99)
                table.add_row(lane, str(len(account.inputs[topic])), str(len(account.done[lane])), _number(p50), _number(p99))
        return table

    def _alerts(self, account: Account) -> Table:
        table = Table("alert", "state", "what was seen", expand=True)
        for alert in account.recent:
            table.add_row(Text(alert["severity"], style=_COLOURS.get(alert["severity"], "")), alert["state"], alert["title"])
        return table

    def end(self, summary: dict[str, Any]) -> None:
        """Print the summary."""

        def say(*what: Any) -> None:
            self.console.print(*what, highlight=False, soft_wrap=True)

        say()
        say(
            f"accepted {summary['accepted']}, accounted for {summary['accounted']}, lost {summary['lost']}, "
            f"not finished {summary['unfinished']}, duplicated {summary['duplicated']}, "
            f"dead letters {summary['dead_lettered']}, refused {summary['refused']}, ignored {summary['ignored']}"
        )
        table = Table(
            "lane", "inputs", "p50 ms", "p99 ms", title="input on its topic -> outputs on theirs", title_justify="left"
        )
        for lane in _LANES:
            row = summary["latency_ms"][lane]
            table.add_row(lane, str(row["n"]), _number(row["p50"]), _number(row["p99"]))
        say(table)
        say("alerts: " + (", ".join(f"{state} {count}" for state, count in summary["alerts"].items()) or "none"))
        counts = {name: "not counted" if count is None else count for name, count in summary["vectors"].items()}
        say("vectors: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
        if summary["interrupted"]:
            say(f"interrupted after {summary['ward_time_played']} of the ward's {summary['ward_hours']:g} hours")
        out = self._plan.out
        say(f"left to look at: {out}/summary.json, {out}/logs, {out}/objects, {out}/qdrant")
        if summary["unfinished"]:
            where = ", ".join(f"{count} in {lane}" for lane, count in summary["unfinished_in"].items())
            say(f"{summary['unfinished']} were not finished when it was ended ({where}): not waited for is not lost")
        if summary["lost"]:
            say(Text(f"LOST: {', '.join(summary['unaccounted'])}", style="bold red"))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"
