"""What the columns of a file of vital signs mean: a mapping file (TOML), or one of those that come with Vigil by name."""

import tomllib
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from connectors.zones import known_zone
from models.errors import Permanent
from processors import loinc, ucum
from processors.events import ProcessingId
from processors.vitals import UNITS_OF

_PACKAGED = "connectors.vitals.mappings"


class Section(BaseModel):
    """A group of settings: unknown names are refused, so that a typing error is seen at start."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(Section):
    """One vital sign of a file."""

    code: str = Field(description="LOINC code of a vital sign that is scored (`processors.loinc`)")
    unit: str = Field("", description="UCUM unit that the file's numbers are in")
    values: dict[str, float | str] = Field(default_factory=dict, description="value as written -> value, e.g. `RA` -> 0")

    @field_validator("code")
    @classmethod
    def _scored(cls, code: str) -> str:
        if code not in loinc.LOINC:
            raise ValueError(f"{code} is no vital sign that is scored")
        return code

    @model_validator(mode="after")
    def _fits(self) -> Self:
        wanted = UNITS_OF.get(loinc.LOINC[self.code].quantity)  # none: an answer, which has no unit
        if self.unit and wanted and ucum.conversion(self.unit, wanted) is None:
            raise ValueError(f"{self.unit!r} is no unit of {self.code}, which is scored in {wanted}")
        return self


class FileMapping(Section):
    """How to read a file: CSV, TSV or JSON lines, plain or gzip, one set a row (wide) or one value a row (long)."""

    name: str = Field("", description="stands in events as the origin, and in their ids; the file's name where empty")
    layout: Literal["wide", "long"] = Field("wide", description="wide: a column per vital sign; long: a row per value")
    patient: str = Field(description="column of the patient's number")
    authority: str = Field("", description="assigning authority of that number; the mapping's name where empty")
    encounter: str = Field("", description="column of the stay's number; empty: none")
    device: str = Field("", description="column of the device; empty: none")
    time: str = Field(description="column of the time of observation")
    time_in: Literal["timestamp", "seconds", "minutes", "hours"] = Field(
        "timestamp", description="`timestamp`: ISO 8601; the others count from `epoch`"
    )
    epoch: AwareDatetime = Field(datetime(2000, 1, 1, tzinfo=UTC), description="what counted times count from")
    zone: str = Field("UTC", description="IANA zone of timestamps without an offset")
    parameter: str = Field("", description="long: column of the vital sign's name")
    value: str = Field("", description="long: column of its value")
    columns: dict[str, Column] = Field(min_length=1, description="column (wide) or name (long) of each vital sign")
    age: str = Field(
        "",
        description="column (wide) or name (long) of the age in years: NEWS2 is for 16 years and older, and unknown is not old",
    )
    missing: frozenset[str] = Field(
        frozenset({"", "NA", "NaN", "nan", "null", "None"}),
        description="how the file writes that there is no value; an empty cell is none whatever stands here",
    )
    delimiter: str = Field("", max_length=1, description="of CSV; empty: a tab in .tsv, else a comma")
    charted: bool = Field(True, description="validated sets; false: a monitor's stream")
    processing: ProcessingId = Field("training", description="recorded data is not a ward: `production` would alert live")

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        return known_zone(zone)

    @field_validator("missing")
    @classmethod
    def _empty_too(cls, missing: frozenset[str]) -> frozenset[str]:
        return missing | {""}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.layout == "long" and not (self.parameter and self.value):
            raise ValueError("a long file needs `parameter` and `value`")
        return self

    @property
    def wanted(self) -> frozenset[str]:
        """The columns that a file must have."""
        own = (self.parameter, self.value) if self.layout == "long" else (self.age, *self.columns)
        return frozenset({self.patient, self.time, self.encounter, self.device, *own}) - {""}

    @property
    def names(self) -> frozenset[str]:
        """Long: the names that stand in the column `parameter`."""
        return frozenset({self.age, *self.columns} - {""} if self.layout == "long" else ())

    @classmethod
    def load(cls, source: str | Path) -> "FileMapping":
        """Read a mapping file, or a packaged one by its name (`cinc2019`). Raises `Permanent` with what is wrong."""
        path = Path(source)
        try:
            text = path.read_text("utf-8") if path.suffix == ".toml" else _packaged(str(source))
            return cls.model_validate(tomllib.loads(text))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise Permanent(f"the mapping {path.name} cannot be read: {error}") from error
        except ValidationError as error:
            words = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5])
            raise Permanent(f"the mapping {path.name} is not usable: {words}") from error


class ReplaySettings(Section):
    """How a file is played."""

    speed: float = Field(0.0, ge=0, description="seconds of the file per second of the clock; 0: as fast as it is confirmed")
    times: Literal["kept", "from-now"] = Field(
        "kept", description="`kept`: as in the file, history that alerts nobody; `from-now`: moved so that the first is now"
    )
    order: Literal["time", "file"] = Field(
        "time",
        description="`time`: all patients at once, as a ward is, the file read into memory; `file`: as it stands, streamed",
    )
    batch: int = Field(200, ge=1, description="events of one publish: one confirmation for them all")
    confirm_timeout: float = Field(20.0, gt=0, description="seconds for Kafka to confirm one batch")
    retry_after: float = Field(
        2.0, gt=0, description="seconds until a batch that was not confirmed is sent again; nothing is skipped"
    )
    unfit_after: int = Field(
        200, ge=1, description="rows without a single usable one: then the mapping does not fit the file, and it stops"
    )


def packaged() -> tuple[str, ...]:
    """Return the names of the mappings that come with Vigil."""
    return tuple(
        sorted(one.name.removesuffix(".toml") for one in resources.files(_PACKAGED).iterdir() if one.name.endswith(".toml"))
    )


def _packaged(name: str) -> str:
    if name not in packaged():
        raise Permanent(
            f"no mapping named {name!r}",
            hint=f"give a .toml file, or one of those that come with Vigil: {', '.join(packaged())}",
        )
    return resources.files(_PACKAGED).joinpath(f"{name}.toml").read_text("utf-8")
