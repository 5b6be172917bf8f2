"""Diaries of home monitoring, from a CSV file or a SQL database: what the home model learns from and is measured on.

One row is one patient's day, with these columns (more are ignored; an empty cell is "not reported"):

    patient              any id; it stays on this machine and is not written into weights, reports or logs
    day                  a date (2026-03-31), or a whole number of days
    facial_pain          0 to 10        self_reported_pain   0 to 10
    respiratory_rate     1 to 80 /min   symptom_severity     0 to 10
    deteriorated         1 on every day on which the patient counts as deteriorated by the site's own definition (an unplanned
                         visit, an admission, a rescue course ...), else 0 or empty. Scoring needs no such column.
    synthetic            1 where a program made the row, as `vigil home generate` says; no such column: people's diaries

A day may be absent. A value out of range counts as not reported; where most of a column is, its scale is
another and the table is refused. What is asked at day d, from the 7 days up to it: is any of
d+1, d+2, d+3 a deteriorated day? Days are judged on which the patient is not deteriorated already, with some value in the window,
and with an answer: a deteriorated day among the three, or a diary that goes on to d+3.
"""

import csv
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent
from models.evaluation.reading import DAMAGE, header, opened, reading
from models.evaluation.vital_sets import Stays
from models.runtimes.home import DAYS, FEATURES, HORIZON_DAYS
from models.tasks import Floats

PLAUSIBLE: Final[Mapping[str, tuple[float, float]]] = {
    "facial_pain": (0, 10),
    "self_reported_pain": (0, 10),
    "respiratory_rate": (1, 80),
    "symptom_severity": (0, 10),
}
LABEL: Final = "deteriorated"
COLUMNS: Final = ("patient", "day", *FEATURES, LABEL)
MADE: Final = "synthetic"
MIN_PATIENTS: Final = 50
MIN_DAYS: Final = 14  # days with some value
MIN_DETERIORATING: Final = 10  # patients with an onset: below it, there is nothing to learn a pattern from
_FEW: Final = 5  # values of a column: of fewer, most may be out of range by chance
_LONGEST: Final = 3660  # days from a patient's first to last: beyond it a date is mistyped


@dataclass(frozen=True, slots=True)
class Diaries:
    """Many patients' days end to end, without gaps: a day without a row is a row of NaN."""

    stays: Stays  # values [days, len(FEATURES)]; labels [days]: deteriorated within the horizon
    state: NDArray[np.bool_]  # [days]: deteriorated on that day
    judged: NDArray[np.bool_]  # [days]
    first: tuple[int, ...]  # [patients]: the first day, as a number (dates: days since 0001-01-01)
    dated: bool
    left_out: tuple[int, ...]  # [patients]: values out of range
    synthetic: bool = False  # some row says that a program made it

    @property
    def implausible(self) -> int:
        """Return how many values were left out as out of range."""
        return sum(self.left_out)

    def take(self, chosen: NDArray[np.bool_]) -> "Diaries":
        """Keep the patients where `chosen` [patients] is true."""
        rows = chosen[self.stays.stay_of]
        first = tuple(day for day, keep in zip(self.first, chosen, strict=True) if keep)
        left_out = tuple(count for count, keep in zip(self.left_out, chosen, strict=True) if keep)
        stays, state, judged = self.stays.take(chosen), self.state[rows], self.judged[rows]
        return replace(self, stays=stays, state=state, judged=judged, first=first, left_out=left_out)

    def rows(self) -> NDArray[np.int64]:
        """Return the judged days."""
        return np.flatnonzero(self.judged)

    def windows(self, rows: NDArray[np.int64]) -> Floats:
        """Gather the seven days that end at each of `rows`: [len(rows), DAYS, len(FEATURES)]."""
        return self.stays.windows(rows, DAYS)

    def onsets(self) -> NDArray[np.int64]:
        """Return the days on which a deterioration begins."""
        before = np.append(False, self.state[:-1])
        before[self.stays.starts[:-1]] = False
        return np.flatnonzero(self.state & ~before)

    def day(self, row: int) -> str:
        """Name a day as the table did."""
        patient = int(np.searchsorted(self.stays.starts, row, side="right")) - 1
        number = self.first[patient] + row - int(self.stays.starts[patient])
        return date.fromordinal(number).isoformat() if self.dated else str(number)


def read_csv(path: Path, *, labelled: bool = True) -> Diaries:
    """Read a CSV file (also .csv.gz), with or without a byte order mark; separated by commas, semicolons, tabs or bars.

    Where semicolons separate, a comma in a number is its decimal point, as Excel writes both. `labelled` asks for the column
    `deteriorated`.

    Raises:
        Permanent: no such file, a damaged one, a column is missing, or a cell is not what it should be; says which and where.
    """
    if not path.is_file():
        raise Permanent(f"no such file: {path}", hint=f"a CSV file with the columns {', '.join(COLUMNS)}")
    with reading(path), opened(path) as file:
        names, separator = header(file, COLUMNS)
        rows: Iterable[Mapping[str, Any]] = csv.DictReader(file, names, delimiter=separator)
        if separator == ";":
            rows = ({**row, **{name: str(row.get(name) or "").replace(",", ".") for name in FEATURES}} for row in rows)
        return _diaries(path.name.partition(".")[0], rows, names, labelled=labelled)


def read_sql(url: str, query: str, *, labelled: bool = True) -> Diaries:
    """Read a SELECT's rows from a database by its SQLAlchemy URL (sqlite:///file, postgresql+psycopg://user@host/name, ...).

    `query` is a table's name, or a SELECT that names the columns as here. Nothing is written; the URL is not logged.

    Raises:
        Permanent: SQLAlchemy or the database's driver is not installed, the database or query is refused, or as `read_csv`.
    """
    try:
        import sqlalchemy
    except ImportError as error:
        raise Permanent("reading from a database needs SQLAlchemy", hint="pip install 'vigil-stream[sql]'") from error
    table = query.strip() if len(query.split()) == 1 else ""
    if not table and (verb := _verb(query)) not in _READ:
        raise Permanent(
            f"the query is no SELECT{f': {verb}' if verb in _WRITE else ''}", hint="rows are read, nothing is written"
        )
    try:
        engine = sqlalchemy.create_engine(url)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError) as error:
        raise Permanent(
            f"the database's URL cannot be used ({type(error).__name__})",
            hint="such as sqlite:///diaries.db or postgresql+psycopg://user:password@host/name; the driver must be installed",
        ) from error
    try:
        if engine.url.get_backend_name() == "sqlite" and _absent(engine.url.database or ""):
            hint = "sqlite:///name.db is beside you, sqlite:////name.db at the root"
            raise Permanent(f"no such database file: {engine.url.database}", hint=hint)
        try:
            connection = engine.connect()
        except sqlalchemy.exc.SQLAlchemyError as error:  # the driver's words may hold the URL
            raise Permanent(
                f"the database cannot be reached ({type(error).__name__})",
                hint="check that it runs, its address and port, and the user and password in the URL",
            ) from error
        with connection:
            chosen: Any = sqlalchemy.text(query)
            if table:
                schema, _, name = table.rpartition(".")
                if not sqlalchemy.inspect(connection).has_table(name, schema=schema or None):
                    hint = "name a table or view that the user may read, or give a SELECT"
                    raise Permanent(f"the database refused the query: it has no table {table!r}", hint=hint)
                chosen = sqlalchemy.select(sqlalchemy.text("*")).select_from(sqlalchemy.table(name, schema=schema or None))
            result = connection.execute(chosen)
            names = tuple(result.keys())
            return _diaries("database", (dict(row) for row in result.mappings()), names, labelled=labelled)
    except sqlalchemy.exc.SQLAlchemyError as error:
        # the driver's words may hold rows: only what they are about is said
        hint = "check the SELECT, and the user's rights"
        raise Permanent(f"the database refused the query: {_refusal(error)}", hint=hint) from error
    finally:
        engine.dispose()


_READ: Final = frozenset({"SELECT", "WITH", "VALUES", "TABLE"})
_WRITE: Final = frozenset(
    {"DELETE", "INSERT", "UPDATE", "MERGE", "DROP", "CREATE", "ALTER", "TRUNCATE", "REPLACE", "GRANT", "CALL"}
)
# What a driver says where, by SQLSTATE, by sqlite's or another's words, in lower case.
_REFUSALS: Final = (
    ("it names a table that is not there", ("42p01", "42s02", "no such table", "invalid object name", "ora-00942", "1146")),
    ("it names a column that is not there", ("42703", "42s22", "no such column", "invalid column name", "ora-00904", "1054")),
    ("it is no valid SQL", ("42601", "42000", "syntax error", "incomplete input", "1064")),
    ("the user may not read that", ("42501", "permission denied", "not authorized", "1142", "1044")),
    ("the database is locked by another", ("database is locked", "55p03", "40001")),
    ("its file is no database", ("file is not a database", "malformed")),
)


def _absent(file: str) -> bool:
    """Say whether sqlite would make a file that is not there, empty."""
    return file not in ("", ":memory:") and not file.startswith("file:") and not Path(file).is_file()


def _verb(query: str) -> str:
    """Return a query's first word, comments passed over."""
    bare = re.sub(r"--[^\n]*|/\*.*?\*/", " ", query, flags=re.DOTALL).lstrip(" \t\r\n(")
    return (re.match(r"\w*", bare) or [""])[0].upper()


def _refusal(error: Any) -> str:
    driver = getattr(error, "orig", None)
    code = str(getattr(driver, "sqlstate", None) or getattr(driver, "pgcode", None) or "").lower()
    words = str(driver).lower()
    for what, signs in _REFUSALS:
        if any(sign == code or (not code and re.search(rf"\b{sign}\b", words)) for sign in signs):
            return what
    return type(error).__name__


def from_rows(name: str, rows: Iterable[Mapping[str, Any]]) -> Diaries:
    """Make diaries of rows in the columns above."""
    return _diaries(name, rows, COLUMNS, labelled=True)


def is_diary(path: Path) -> bool:
    """Say whether a file is a CSV with these columns."""
    if not path.name.endswith((".csv", ".csv.gz")):
        return False
    try:
        with opened(path) as file:
            return set(header(file, COLUMNS)[0]) >= {"patient", "day", *FEATURES}
    except DAMAGE:
        return False


def found_in(data: Path) -> list[Path]:
    """Return the CSV files of home monitoring at or below `data`."""
    return [path for path in ([data] if data.is_file() else sorted(data.rglob("*.csv*"))) if is_diary(path)]


def require_enough(diaries: Diaries) -> Diaries:
    """Return the patients with enough days to learn from.

    Raises:
        Permanent: too few patients, days or deteriorations; says how many there are and what is lacking.
    """
    stays = diaries.stays
    reported = np.add.reduceat(~np.isnan(stays.values).all(axis=1), stays.starts[:-1]) if stays.ids else np.zeros(0, np.int64)
    long = reported >= MIN_DAYS
    if (count := int(long.sum())) < MIN_PATIENTS:
        short = len(stays.ids) - count
        raise Permanent(
            f"too little to learn from: {count} patients with at least {MIN_DAYS} days of reports "
            f"({len(stays.ids)} patients in all, {short} with fewer days); {MIN_PATIENTS} are needed, {MIN_PATIENTS - count} more",
            hint="collect more, or try the path with the generator: leave --data and --sql out",
        )
    enough = diaries.take(long)
    onsets = len(np.unique(enough.stays.stay_of[enough.onsets()]))
    if onsets < MIN_DETERIORATING:
        raise Permanent(
            f"too little to learn from: {onsets} of {count} patients deteriorated; {MIN_DETERIORATING} are needed, "
            f"{MIN_DETERIORATING - onsets} more",
            hint=f"the column {LABEL} is 1 on every day on which the patient counts as deteriorated",
        )
    return enough


def _diaries(name: str, rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, labelled: bool) -> Diaries:
    needed = COLUMNS if labelled else COLUMNS[:-1]
    if missing := [column for column in needed if column not in columns]:
        raise Permanent(f"columns are missing: {', '.join(missing)}", hint=f"needed are {', '.join(needed)}")
    days: dict[str, dict[int, tuple[list[float], bool]]] = {}
    left_out: dict[str, int] = {}
    given, out = dict.fromkeys(FEATURES, 0), dict.fromkeys(FEATURES, 0)
    dated, made = None, False
    for number, row in enumerate(rows, 2):
        day, is_date = _day(row["day"], number)
        if dated not in (None, is_date):
            raise Permanent(f"row {number}: dates and day numbers are mixed", hint="write all days in one way")
        dated = is_date
        values = [_number(row[feature], number, feature) for feature in FEATURES]
        wrong = 0
        for at, feature in enumerate(FEATURES):
            low, high = PLAUSIBLE[feature]
            if math.isnan(values[at]):
                continue
            given[feature] += 1
            if not low <= values[at] <= high:
                values[at], wrong = math.nan, wrong + 1
                out[feature] += 1
        state = labelled and _number(row[LABEL], number, LABEL) == 1
        made |= str(row.get(MADE)).strip().lower() in ("1", "1.0", "true")
        if not (patient := str("" if row["patient"] is None else row["patient"]).strip()):
            raise Permanent(f"row {number}: patient is empty", hint="any id that is the patient's alone")
        known = days.setdefault(patient, {})
        if day in known:
            raise Permanent(f"row {number}: a second row for the same patient and day", hint="one row for each patient and day")
        known[day] = (values, state)
        left_out[patient] = left_out.get(patient, 0) + wrong
    _require_scale(given, out)
    days = dict(sorted(days.items()))  # a database gives rows in any order; the same rows give the same weights
    return replace(_joined(name, days, dated=bool(dated), left_out=left_out), synthetic=made)


def _require_scale(given: Mapping[str, int], out: Mapping[str, int]) -> None:
    """Refuse a column on another scale: what happens to lie in range would be read as what it is not."""
    for feature, (low, high) in PLAUSIBLE.items():
        if given[feature] >= _FEW and 2 * out[feature] > given[feature]:
            raise Permanent(
                f"{out[feature]:,} of {given[feature]:,} values of {feature} are out of range: another scale",
                hint=f"{feature} goes from {low:g} to {high:g}",
            )


def _joined(
    name: str,
    days: Mapping[str, Mapping[int, tuple[list[float], bool]]],
    *,
    dated: bool,
    left_out: Mapping[str, int],
) -> Diaries:
    starts, first = [0], []
    for known in days.values():
        first.append(min(known))
        length = max(known) - min(known) + 1
        if length > _LONGEST:
            raise Permanent(f"a patient's days span {length:,} days: a date is mistyped", hint=f"at most {_LONGEST} days each")
        starts.append(starts[-1] + length)
    values = np.full((starts[-1], len(FEATURES)), np.nan, np.float32)
    state = np.zeros(starts[-1], np.bool_)
    for start, begin, known in zip(starts, first, days.values(), strict=False):
        for day, (found, bad) in known.items():
            values[start + day - begin], state[start + day - begin] = found, bad
    edges = np.array(starts, np.int64)
    labels, answered = _asked(state, edges)
    context = np.empty((starts[-1], 0), np.float32)
    stays = Stays(name, tuple(days), edges, values, labels, hourly=True, context=context)
    rows = np.arange(starts[-1])
    some = ~np.isnan(stays.windows(rows, DAYS)).all(axis=(1, 2)) if len(rows) else np.zeros(0, np.bool_)
    return Diaries(stays, state, answered & ~state & some, tuple(first), dated, tuple(left_out[patient] for patient in days))


def _asked(state: NDArray[np.bool_], starts: NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
    """Say for each day whether one of the next days is a deteriorated one, and whether that is known."""
    ends = np.repeat(starts[1:], np.diff(starts))
    at = np.arange(len(state))
    ahead = np.zeros(len(state), np.bool_)
    for step in range(1, HORIZON_DAYS + 1):
        there = at + step < ends
        ahead |= there & state[np.minimum(at + step, len(state) - 1)]
    return ahead.astype(np.float32), ahead | (at + HORIZON_DAYS < ends)


def _day(raw: Any, row: int) -> tuple[int, bool]:
    text = str(raw).strip()
    try:
        return (int(text), False) if text.lstrip("-").isdigit() else (date.fromisoformat(text[:10]).toordinal(), True)
    except ValueError:
        raise Permanent(f"row {row}: day is neither a date nor a whole number", hint="such as 2026-03-31, or 12") from None


def _number(raw: Any, row: int, column: str) -> float:
    if raw is None or (isinstance(raw, str) and not raw.strip()):
        return math.nan
    try:
        value = float(raw)
    except (TypeError, ValueError):
        value = math.inf
    if math.isinf(value):
        raise Permanent(f"row {row}: {column} is no number", hint="a number with a decimal point, or empty")
    return value


def checksums(diaries: Diaries) -> NDArray[np.uint32]:
    """Return the CRC-32 of each patient's first two weeks, by which whom a model learned from is known again.

    Of the values and not of the id, which a list of ids would give back; of the first weeks, since a diary grows at its end.
    """
    edges, values = diaries.stays.starts, diaries.stays.values
    ends = np.minimum(edges[:-1] + MIN_DAYS, edges[1:])
    return np.array([zlib.crc32(values[a:b].tobytes()) for a, b in zip(edges[:-1], ends, strict=True)], np.uint32)
