"""`vigil schemas`: the published contract."""

from pathlib import Path
from typing import Annotated

import typer


def schemas(out: Annotated[Path, typer.Option(help="folder to write to")] = Path("infra/schemas")) -> None:
    """Write JSON Schemas, examples and the AsyncAPI document of all events, and the FHIR endpoint's OpenAPI document."""
    from streams.schemas import files, write

    changed = write(out)
    print(f"{len(files())} files in {out}, {len(changed)} changed")
