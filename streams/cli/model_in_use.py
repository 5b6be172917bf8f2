"""What asks before a command writes over the entry of a model in use: one that serves, is on trial, or is a rollback's.

Lanes take up a registry file as it is written, without a promotion. So who trains or measures anew under such a name is asked first
(`--yes`), and it is audited before it is written, as a promotion is.
"""

import asyncio
import getpass
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated

import typer

from models.errors import Transient
from streams.settings import KafkaSettings, Settings, load

if TYPE_CHECKING:
    from models.registry import ModelEntry
    from models.tasks import ModelIdentity

Yes = Annotated[bool, typer.Option("--yes", help="do not ask where the entry is one in use: lanes take it up at once")]


@dataclass(frozen=True, slots=True)
class InUse:
    """What the name that a command writes is to its task, in words (`Registry.role`); empty where lanes do not see it."""

    site: Path
    task: str
    name: str
    role: str

    @classmethod
    def ask(cls, site: Path, task: str, name: str, *, yes: bool) -> "InUse":
        """Look, and ask where the name is in use, before there is work that would be lost; a no ends the command."""
        from models.registry import PACKAGED, Registry

        seen = site.is_file() or site == load().models.registry  # else no lane reads it yet
        role = Registry.load(site if site.is_file() and site != PACKAGED else None).role(task, name) if seen else ""
        if role and not yes:
            typer.confirm(
                f"{name} {role} by {site.name}: lanes take the new entry up at once, without a promotion. Write over it?",
                abort=True,
            )
        return cls(site, task, name, role)

    @contextmanager
    def recording(self, by: str) -> Iterator[Path]:
        """Lend the registry file that a training or export is to record into; what it recorded counts once that is audited.

        `by` names the command. Raises `Transient` where a broker is configured and does not answer: nothing is recorded then.
        """
        from models.registering import record
        from models.registry import PACKAGED, Registry

        if not self.role or self.site == PACKAGED:
            yield self.site
            if self.role:
                self.audit(Registry.load().entry(self.task, self.name), by)
            return
        draft = self.site.with_name(
            f".{self.site.name}.{token_hex(4)}.draft"
        )  # beside it: locations are relative to the folder
        try:
            if self.site.is_file():
                shutil.copyfile(self.site, draft)
            yield draft
            entry = Registry.load(draft).entry(self.task, self.name)
            self.audit(entry, by)
            record(entry, self.site)
        finally:
            draft.unlink(missing_ok=True)
            draft.with_name(f".{draft.name}.lock").unlink(missing_ok=True)

    def audit(self, entry: "ModelEntry", by: str) -> None:
        """Put it on record that the entry is written over, where it is one in use. Raises as `recording` does."""
        if not self.role:
            return
        settings = load()
        try:
            asyncio.run(audit_change(settings, self.task, entry.identity, f"{entry.name} {self.role}, written over by {by}"))
        except Transient as error:
            if settings.kafka.bootstrap != KafkaSettings().bootstrap:
                raise
            typer.echo(f"no audit record was written: no broker is configured, and at the default {error}", err=True)


async def audit_change(settings: Settings, task: str, model: "ModelIdentity", reason: str) -> None:
    """Write down that a model is to serve or to be tried, before it does."""
    from streams.audit import model_change_audit, recorder
    from streams.clock import real_clock
    from streams.outbox import Outbox

    outbox = Outbox(settings, source=f"/vigil/{settings.site.name}/cli")
    await outbox.start()
    try:
        await recorder(model_change_audit, outbox, getpass.getuser(), real_clock)(task, model, reason)
    finally:
        await outbox.stop()
