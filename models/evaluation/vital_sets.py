"""Public sets of vital signs, read into hourly rows: what the deterioration model learns from and is measured on.

Two layouts are read, by what a folder holds:

    cinc2019        hourly.csv.gz (patient, hour, HR, ..., SepsisLabel), one row per hour         label: per hour
    physionet2012   set-?.csv.gz (RecordID, minute, Parameter, Value) and Outcomes-?.txt, 48 h     label: per stay

Rows may stand in any order: they are placed by patient and time. Columns are `FEATURES` in the units of `UNITS`; NaN means not
measured in that hour.
"""

import csv
import hashlib
import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import Permanent
from models.evaluation.reading import DAMAGE, damage, header, opened, reading
from models.runtimes.deterioration import FEATURES, UNITS
from models.tasks import Floats

# What a sensor or a charted set can show at all; outside it a value is an artefact and counts as not measured.
PLAUSIBLE: dict[str, tuple[float, float]] = {
    "heart_rate": (20, 300),
    "respiratory_rate": (1, 80),
    "spo2": (30, 100),
    "temperature": (25, 44),
    "systolic": (30, 300),
    "diastolic": (10, 200),
    "mean_arterial": (20, 250),
    "oxygen": (0, 1),
    "consciousness": (0, 1),
}

_CINC_COLUMNS = {
    "heart_rate": "HR",
    "respiratory_rate": "Resp",
    "spo2": "O2Sat",
    "temperature": "Temp",
    "systolic": "SBP",
    "diastolic": "DBP",
    "mean_arterial": "MAP",
    "oxygen": "FiO2",
}
# Invasive and cuff pressures are one feature each; SaO2 (arterial) stands for SpO2, which the set lacks.
_PHYSIONET_PARAMETERS = {
    "HR": "heart_rate",
    "RespRate": "respiratory_rate",
    "SaO2": "spo2",
    "Temp": "temperature",
    "SysABP": "systolic",
    "NISysABP": "systolic",
    "DiasABP": "diastolic",
    "NIDiasABP": "diastolic",
    "MAP": "mean_arterial",
    "NIMAP": "mean_arterial",
    "FiO2": "oxygen",
    "MechVent": "oxygen",
    "GCS": "consciousness",
}
_PHYSIONET_HOURS = 48
_CINC_KEYS = ("patient", "hour", "SepsisLabel")
_PHYSIONET_KEYS = ("RecordID", "minute", "Parameter", "Value")
_OUTCOME_KEYS = ("RecordID", "In-hospital_death")
_CINC_NOT_CONTEXT = {"patient", "hour", "SepsisLabel", *_CINC_COLUMNS.values()} - {"FiO2"}
_PHYSIONET_CONTEXT = (
    "Age",
    "Gender",
    "ICUType",
    "Weight",
    "Urine",
    "GCS",
    "FiO2",
    "MechVent",
    "pH",
    "PaCO2",
    "PaO2",
    "HCT",
    "K",
    "Platelets",
    "Creatinine",
    "BUN",
    "HCO3",
    "Mg",
    "Na",
    "Glucose",
    "WBC",
    "SaO2",
    "Lactate",
    "Bilirubin",
    "AST",
    "ALT",
    "ALP",
    "Albumin",
    "TroponinT",
    "TroponinI",
)
_ROOM_AIR = 0.21  # inspired fraction; above it (0.22 allows for rounding) the patient is on oxygen
_LONGEST = 5 * 8766  # hours of a stay: beyond five years one is mistyped
_MANY = 0.01  # share of a vital sign's values that are impossible: the public sets have up to 0.003, another unit nearly all


@dataclass(frozen=True, slots=True)
class Stays:
    """Many stays, their hours end to end. `labels` is 1.0 for the hours that count as positive."""

    name: str
    ids: tuple[str, ...]  # [stays]
    starts: NDArray[np.int64]  # [stays + 1]: rows of stay i are starts[i]:starts[i + 1]
    values: Floats  # [hours, len(FEATURES)]
    labels: Floats  # [hours]; NaN where the table has no row of an hour between two that it has: never judged, never learned
    hourly: bool  # False: one outcome per stay, repeated on its hours; then only the last hour is scored
    context: (
        Floats  # [hours, columns]: whatever else the set knows by then, last values carried; for teachers, never for the model
    )

    @property
    def stay_of(self) -> NDArray[np.int64]:
        """Return the stay's index for each hour: [hours]."""
        return np.repeat(np.arange(len(self.ids)), np.diff(self.starts))

    def take(self, chosen: NDArray[np.bool_]) -> "Stays":
        """Keep the stays where `chosen` [stays] is true."""
        lengths = np.diff(self.starts)
        rows = np.repeat(chosen, lengths)
        starts = np.concatenate([[0], np.cumsum(lengths[chosen])])
        ids = tuple(one for one, keep in zip(self.ids, chosen, strict=True) if keep)
        return replace(
            self, ids=ids, starts=starts, values=self.values[rows], labels=self.labels[rows], context=self.context[rows]
        )

    def checksums(self) -> NDArray[np.uint32]:
        """Return the CRC-32 of each stay's values: kept beside the weights, to know again whom the model learned from.

        Not of the record number, which a hospital's own may share with the public sets; but where there is no value at all.
        """
        told = np.nan_to_num(self.values, nan=-1000.0).astype(np.float32)
        pieces = (told[a:b] for a, b in itertools.pairwise(self.starts))
        return np.array(
            [
                zlib.crc32(piece.tobytes() if (piece > -1000).any() else f"{self.name}:{one}".encode())
                for one, piece in zip(self.ids, pieces, strict=True)
            ],
            np.uint32,
        )

    def scored_rows(self) -> NDArray[np.int64]:
        """Return the hours at which the model is judged: every hour that has a label, or the last of each stay."""
        return np.flatnonzero(~np.isnan(self.labels)) if self.hourly else self.starts[1:] - 1

    def windows(self, rows: NDArray[np.int64], hours: int = 24) -> Floats:
        """Gather the window that ends at each of `rows`: [len(rows), hours, len(FEATURES)], NaN before admission."""
        first = self.starts[np.searchsorted(self.starts, rows, side="right") - 1]
        index = rows[:, None] + np.arange(1 - hours, 1)
        before = index < first[:, None]
        gathered: Floats = self.values[np.maximum(index, 0)]
        gathered[before] = np.nan
        return gathered

    def batches(self, rows: NDArray[np.int64], hours: int = 24, size: int = 4096) -> Iterator[Floats]:
        """Yield `windows` a piece at a time, so that a large set does not have to fit in memory."""
        for at in range(0, len(rows), size):
            yield self.windows(rows[at : at + size], hours)


def part(ids: Sequence[str], *, salt: str = "vigil-2026") -> NDArray[np.float64]:
    """Place each patient in [0, 1) by a hash of the id: a split that never moves, whatever else is in the set.

    A true hash, not a CRC: by CRC two salts give splits that follow from one another.
    """
    digests = (hashlib.blake2b(f"{salt}:{one}".encode(), digest_size=4).digest() for one in ids)
    return np.array([int.from_bytes(digest, "big") / 2**32 for digest in digests])


def unseen(stays: Stays, learned: NDArray[np.uint32]) -> Stays:
    """Leave out the stays that training or calibration saw, whatever they and their file are called now."""
    return stays.take(~np.isin(stays.checksums(), learned))


def read(folder: Path) -> list[Stays]:
    """Read every known set in `folder` (see `gather`).

    Raises:
        Permanent: nothing there has a known layout.
    """
    return gather(folder)[0]


def gather(folder: Path) -> tuple[list[Stays], list[str]]:
    """Read every known set in `folder` and all below it, told by the tables' columns and not by their names.

    Returns the sets, and a note for each table that was passed over, and for patients and values left out. Two sets of one name are
    told apart by their folder.

    Raises:
        Permanent: nothing there has a known layout, measurements have no outcomes beside them, or a known table is damaged.
    """
    found: list[Stays] = []
    notes: list[str] = []
    for path in sorted([*folder.rglob("*.csv.gz"), *folder.rglob("*.csv")]):
        if not path.is_file():
            continue
        name = path.relative_to(folder).as_posix()
        try:
            columns = _columns(path)
        except DAMAGE as error:
            notes.append(f"{name}: passed over, {damage(error)}")
            continue
        if columns >= {*_CINC_KEYS}:
            stays = read_cinc2019(path, notes)
        elif columns >= {*_PHYSIONET_KEYS}:
            stays = read_physionet2012(path, _outcomes(path), notes)
        else:
            if path.name.endswith(".csv.gz") and not columns & {"septic", "In-hospital_death"}:
                notes.append(f"{name}: passed over, its columns are no known set's")
            continue
        if any(stays.name == other.name for other in found):
            stays = replace(stays, name=f"{stays.name} ({name})")
        found.append(stays)
    if not found:
        told = f"; {'; '.join(notes)}" if notes else ""
        raise Permanent(
            f"no vital signs found in {folder.name}{told}",
            hint="looked for hourly.csv.gz with the columns patient, hour, ..., SepsisLabel (cinc2019), or set-?.csv.gz with "
            "RecordID, minute, Parameter, Value and Outcomes-?.txt beside it (physionet2012)",
        )
    return found, notes


def _columns(path: Path) -> set[str]:
    with opened(path) as file:
        return set(header(file, (*_CINC_KEYS, *_PHYSIONET_KEYS, *_OUTCOME_KEYS))[0])


def _outcomes(measurements: Path) -> Path:
    """Find the outcomes of a table of measurements: by its letter, else the only ones in the folder."""
    place, letter = measurements.parent, _letter(measurements)
    if (named := place / f"Outcomes-{letter}.txt").is_file():
        return named
    tables = [path for ending in ("*.txt", "*.csv") for path in sorted(place.glob(ending))]
    fitting = [path for path in tables if path.is_file() and _has_outcomes(path)]
    if len(fitting) == 1:
        return fitting[0]
    raise Permanent(
        f"{measurements.name} has no outcomes beside it: looked for Outcomes-{letter}.txt, and for one table with the columns "
        f"RecordID and In-hospital_death, found {len(fitting)}",
        hint="name the outcomes of set-c.csv.gz Outcomes-c.txt",
    )


def _has_outcomes(path: Path) -> bool:
    try:
        return _columns(path) >= {*_OUTCOME_KEYS}
    except DAMAGE:
        return False


def _letter(measurements: Path) -> str:
    return measurements.name.removesuffix(".gz").removesuffix(".csv").removeprefix("set-")


def read_cinc2019(path: Path, notes: list[str] | None = None) -> Stays:
    """Read the hourly table; the label of an hour is the set's own SepsisLabel (1 from 6 h before onset).

    An hour without a row, between two that have one, is an hour in which nothing was measured and that is not judged. What was left
    out is said in `notes`.

    Raises:
        Permanent: the table is damaged, a row is none of its layout, two are of one patient and hour, or a stay is too long.
    """
    whose: list[str] = []
    lines: list[int] = []
    hours: list[int] = []
    rows: list[list[float]] = []
    known: list[list[float]] = []
    labels: list[float] = []
    with reading(path), opened(path) as file:
        names, separator = header(file, _CINC_KEYS)
        columns = [names.index(column) if (column := _CINC_COLUMNS.get(name)) in names else -1 for name in FEATURES]
        others = [at for at, name in enumerate(names) if name not in _CINC_NOT_CONTEXT]
        patient, hour, label = (names.index(name) for name in _CINC_KEYS)
        for number, row in enumerate(csv.reader(file, delimiter=separator), 2):
            if not row:
                continue
            try:
                measured = [float(row[at]) if at >= 0 and row[at] else np.nan for at in columns]
                besides = [float(row[at]) if row[at] else np.nan for at in others]
                positive, when, who = _yes_no(row[label]), _whole(row[hour]), _some(row[patient])
            except (ValueError, IndexError) as error:
                raise _no_row(path, number, names) from error
            whose.append(who)
            lines.append(number)
            hours.append(when)
            rows.append(measured)
            known.append(besides)
            labels.append(positive)
    if not rows:
        raise Permanent(f"{path}: no row under its columns", hint="copy it again from where it came, or leave it out")
    ids, starts, order, at = _placed(path, whose, hours, lines)
    count = int(starts[-1])
    values, context = np.full((count, len(FEATURES)), np.nan, np.float32), np.full((count, len(others)), np.nan, np.float32)
    values[at], context[at] = np.array(rows, np.float32)[order], np.array(known, np.float32)[order]
    of_hour = np.full(count, np.nan, np.float32)
    of_hour[at] = np.array(labels, np.float32)[order]
    possible, oxygen = values.copy(), FEATURES.index("oxygen")
    possible[:, oxygen] = _on_oxygen(values[:, oxygen])
    possible = _plausible(possible)
    if notes is not None:
        if gaps := count - len(rows):
            notes.append(
                f"cinc2019: {gaps:,} of {count:,} hours have no row: nothing was measured in them, they are not judged"
            )
        notes += _impossible("cinc2019", values, possible)
    return Stays("cinc2019", ids, starts, possible, of_hour, hourly=True, context=_carried(context, starts))


def _placed(
    path: Path, whose: Sequence[str], hours: Sequence[int], lines: Sequence[int]
) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Place a table's rows by patient and hour, from each patient's first on.

    Returns ids, sorted, so that the same rows in any order give the same stays; their starts; the rows in order; and where each of
    these lies among the hours of all stays end to end.
    """
    ids = tuple(sorted(set(whose)))
    numbered = {one: number for number, one in enumerate(ids)}
    stay, hour = np.array([numbered[one] for one in whose], np.int64), np.array(hours, np.int64)
    order = np.lexsort((hour, stay))  # stable: of two rows of one hour the later line comes second
    stay, hour = stay[order], hour[order]
    if len(twice := np.flatnonzero((np.diff(stay) == 0) & (np.diff(hour) == 0))):
        raise Permanent(
            f"{path}:{min(lines[order[at + 1]] for at in twice)}: a second row for the same patient and hour",
            hint="one row for each patient and hour, and an id of its own for each stay",
        )
    first = np.searchsorted(stay, np.arange(len(ids)))
    last = np.append(first[1:], len(stay)) - 1
    lengths = hour[last] - hour[first] + 1
    if lengths.max() > _LONGEST:
        hint = "whole numbers, such as hours since admission"
        raise Permanent(f"{path}: a patient's hours span {lengths.max():,}: one is mistyped", hint=hint)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return ids, starts, order, starts[stay] + hour - hour[first][stay]


def read_physionet2012(measurements: Path, outcomes: Path, notes: list[str] | None = None) -> Stays:
    """Read the first 48 hours of each stay; the label is in-hospital death, on every hour of the stay.

    Several values in one hour: the latest one stands. Consciousness is 1 (not alert) where GCS < 15; oxygen is 1 where
    FiO2 > 0.22 or the patient is ventilated. Of whom the table has no row was not there to be scored: left out, as is who has no
    outcome, and said in `notes`.

    Raises:
        Permanent: a table is damaged, or a row is none of its layout; names it.
    """
    died = _died(outcomes)
    column = {code: FEATURES.index(name) for code, name in _PHYSIONET_PARAMETERS.items()}
    others = {code: at for at, code in enumerate(_PHYSIONET_CONTEXT)}
    read: dict[
        str, tuple[Floats, Floats, NDArray[np.int16]]
    ] = {}  # vital signs, what else is known, the minute of each of both
    without = set()
    with reading(measurements), opened(measurements) as file:
        names, separator = header(file, _PHYSIONET_KEYS)
        keys = [names.index(name) for name in _PHYSIONET_KEYS]
        for number, row in enumerate(csv.reader(file, delimiter=separator), 2):
            if not row:
                continue
            try:
                record, moment, code, text = (row[at] for at in keys)
                minute, value = int(moment), float(text)
            except (ValueError, IndexError) as error:
                raise _no_row(measurements, number, names) from error
            if record not in died:
                without.add(record)
                continue
            hour = minute // 60
            if not 0 <= hour < _PHYSIONET_HOURS:
                continue
            if record not in read:
                blank = [np.full((_PHYSIONET_HOURS, width), np.nan, np.float32) for width in (len(FEATURES), len(others))]
                read[record] = blank[0], blank[1], np.zeros((_PHYSIONET_HOURS, len(FEATURES) + len(others)), np.int16)
            mine, besides, when = read[record]
            if code in others and value >= 0 and minute >= when[hour, len(FEATURES) + others[code]]:  # -1 stands for unknown
                besides[hour, others[code]], when[hour, len(FEATURES) + others[code]] = value, minute
            if (at := column.get(code)) is None or minute < when[hour, at]:
                continue
            if code == "GCS":
                value = float(value < 15)
            elif code == "FiO2":
                value = float(value > _ROOM_AIR + 0.01)
            mine[hour, at], when[hour, at] = value, minute
    ids = tuple(one for one in died if one in read)
    name = f"physionet2012-{_letter(measurements)}"
    if notes is not None:
        if gone := len(died) - len(ids):
            notes.append(
                f"{name}: {gone:,} of {len(died):,} patients with an outcome left out, {measurements.name} has nothing of them"
            )
        if without:
            notes.append(f"{name}: {len(without):,} patients left out, {outcomes.name} has no outcome of them")
    if not ids:
        raise Permanent(
            f"no patient of {measurements} has an outcome in {outcomes.name}", hint="put the outcomes of this set beside it"
        )
    values, context = np.stack([read[one][0] for one in ids]), np.stack([read[one][1] for one in ids])
    if notes is not None and (bare := int(np.isnan(values).all(axis=(1, 2)).sum())):
        notes.append(f"{name}: {bare:,} of {len(ids):,} patients have rows and no vital sign among them, scored as they are")
    labels = np.repeat(np.array([died[one] for one in ids], np.float32), _PHYSIONET_HOURS)
    starts = np.arange(len(ids) + 1, dtype=np.int64) * _PHYSIONET_HOURS
    flat = _plausible(values.reshape(-1, len(FEATURES)))
    if notes is not None:
        notes += _impossible(name, values.reshape(-1, len(FEATURES)), flat)
    known = _carried(context.reshape(-1, len(others)), starts)
    return Stays(name, ids, starts, flat, labels, hourly=False, context=known)


def _died(outcomes: Path) -> dict[str, float]:
    """Read who died in hospital: by record, 1 or 0."""
    died: dict[str, float] = {}
    with reading(outcomes), opened(outcomes) as file:
        names, separator = header(file, _OUTCOME_KEYS)
        if missing := {*_OUTCOME_KEYS} - {*names}:
            raise Permanent(f"{outcomes}: columns are missing: {', '.join(sorted(missing))}")
        record, death = (names.index(name) for name in _OUTCOME_KEYS)
        for number, row in enumerate(csv.reader(file, delimiter=separator), 2):
            if not row:
                continue
            try:
                died[row[record]] = _yes_no(row[death])
            except (ValueError, IndexError) as error:
                raise _no_row(outcomes, number, names) from error
    return died


def _yes_no(text: str) -> float:
    if (value := float(text)) not in (0, 1):
        raise ValueError("neither 0 nor 1")
    return value


def _whole(text: str) -> int:
    if not (value := float(text)).is_integer():
        raise ValueError("no whole number")
    return int(value)


def _some(text: str) -> str:
    if not (found := text.strip()):
        raise ValueError("empty")
    return found


def _no_row(path: Path, number: int, names: Sequence[str]) -> Permanent:
    """Refuse a row without a word of what is in it."""
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return Permanent(f"{path}:{number}: a value is missing, or is none of its column's", hint=f"the columns are {shown}")


def _on_oxygen(fraction: Floats) -> Floats:
    """1 above room air, 0 on air, NaN where not recorded or impossible (a fraction lies in 0.21..1)."""
    percent = np.where(fraction > 1.0, fraction / 100, fraction)  # some rows hold percent
    known = (percent >= _ROOM_AIR - 0.01) & (percent <= 1.0)
    return np.where(known, (percent > _ROOM_AIR + 0.01).astype(np.float32), np.float32(np.nan)).astype(np.float32)


def _carried(values: Floats, starts: NDArray[np.int64]) -> Floats:
    """Carry the last values forward within each stay."""
    hours = np.arange(len(values))[:, None]
    first = np.repeat(starts[:-1], np.diff(starts))[:, None]
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, hours), axis=0)
    found: Floats = np.where(last >= first, np.take_along_axis(values, np.maximum(last, 0), axis=0), np.float32(np.nan))
    return found


def _plausible(values: Floats) -> Floats:
    low, high = np.array([PLAUSIBLE[name] for name in FEATURES], np.float32).T
    with np.errstate(invalid="ignore"):
        return np.where((values >= low) & (values <= high), values, np.float32(np.nan)).astype(np.float32)


def _impossible(name: str, given: Floats, kept: Floats) -> Iterator[str]:
    """Say of which vital signs many values were left out, as another unit makes them: no patient has 98.6 Cel."""
    there, gone = (~np.isnan(given)).sum(axis=0), (~np.isnan(given) & np.isnan(kept)).sum(axis=0)
    for feature, every, out in zip(FEATURES, there.tolist(), gone.tolist(), strict=True):
        if out > _MANY * every:
            low, high = PLAUSIBLE[feature]
            can = "a share from 0.21, or percent" if feature == "oxygen" else f"{low:g} to {high:g} {UNITS[feature]}"
            yield f"{name}: {out:,} of {every:,} values of {feature} left out as impossible (possible: {can}): another unit?"
