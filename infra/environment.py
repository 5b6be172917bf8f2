"""Make or refresh the project's virtual environment: `python3 infra/environment.py [EXTRAS]`, as the Makefile does.

It installs this folder, editable, with the extras asked for, into .venv: by uv (fast), else by pip. Which extras are in, and
for which pyproject.toml, is written into the environment itself, so that a second call has nothing to do. Certificates, index
and wheel folders are taken from pip's configuration. Standard library only.
"""

from __future__ import annotations  # an older Python must get as far as being told so

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
NOTE = ENVIRONMENT / "installed.json"
OLDEST = (3, 11)

# pip's settings by uv's names; uv reads neither pip.conf nor PIP_*
UV_NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "trusted-host": "UV_INSECURE_HOST",
}


def installed() -> tuple[str, set[str]]:
    """Read what was installed last: the digest of pyproject.toml, and the extras."""
    try:
        note = json.loads(NOTE.read_text())
        return str(note["pyproject"]), set(note["extras"])
    except (OSError, ValueError, KeyError):
        return "", set()


def python() -> Path:
    """The environment's own interpreter."""
    return ENVIRONMENT / "bin" / "python"


def make_environment() -> None:
    """Create .venv, or make it again when its interpreter does not run (a system upgrade, a moved folder)."""
    if subprocess.run([str(python()), "-c", ""], capture_output=True).returncode == 0 if python().exists() else False:
        return
    say(f"making {ENVIRONMENT.name} with Python {sys.version.split()[0]}")
    try:
        venv.create(ENVIRONMENT, clear=ENVIRONMENT.exists(), with_pip=True)
    except (subprocess.CalledProcessError, OSError) as error:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        raise SystemExit(f"no virtual environment: {error}\nOn Debian and Ubuntu: apt-get install python3-venv") from error


def pip_settings() -> dict[str, str]:
    """Pip's configuration (files and PIP_* alike) as environment variables for uv; what is set for uv already stays."""
    told = subprocess.run([str(python()), "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    found: dict[str, str] = {}
    for line in told.splitlines():
        name, _, value = line.partition("=")
        ours = UV_NAMES.get(name.rpartition(".")[2])
        if ours and ours not in os.environ:
            found[ours] = " ".join(value.strip("'\"").replace("\\n", " ").split())
    if found.get("UV_FIND_LINKS") and not Path(found["UV_FIND_LINKS"]).exists():
        del found["UV_FIND_LINKS"]  # pip shrugs at a folder that is not there; uv stops
    return found


def install(extras: list[str]) -> None:
    """Install the project with these extras; uv first, with the system's certificates second, pip third."""
    what = ["-e", f".[{','.join(extras)}]" if extras else "."]
    say(f"installing {what[1]} (minutes, the first time)" if "all" in extras or "train" in extras else f"installing {what[1]}")
    uv = find_uv()
    if uv:
        command = [*uv, "pip", "install", "--quiet", "--python", str(python())]
        for more in ([], ["--native-tls"]):
            if run([*command, *more, *what], pip_settings()):
                return
        say("uv could not install it; trying pip")
    if not run([str(python()), "-m", "pip", "install", "--quiet", *what], {}):
        raise SystemExit("the installation failed; what pip said stands above")


def find_uv() -> list[str] | None:
    """Find uv on the path or in the environment, or install it there; None when it cannot be had."""
    if there := shutil.which("uv"):
        return [there]
    command = [str(python()), "-m", "uv"]
    if subprocess.run([*command, "--version"], capture_output=True).returncode == 0:
        return command
    done = run([str(python()), "-m", "pip", "install", "--quiet", "uv"], {})
    return command if done else None


def run(command: list[str], settings: Mapping[str, str]) -> bool:
    """Run a command in the project's folder; tell whether it went well."""
    return subprocess.run(command, cwd=ROOT, env=os.environ | settings, stdin=subprocess.DEVNULL).returncode == 0


def say(line: str) -> None:
    """Show progress."""
    print(f"environment: {line}", flush=True)


def main(arguments: list[str]) -> None:
    """Bring .venv to what pyproject.toml and the extras ask for."""
    if sys.version_info < OLDEST:
        raise SystemExit(
            f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed, this is {sys.version.split()[0]}: make PYTHON=python3.12 ..."
        )
    wanted = {extra for argument in arguments for extra in argument.split(",") if extra}
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    have_digest, have = installed()
    if have_digest == digest and (wanted <= have or "all" in have) and python().exists():
        return
    make_environment()
    extras = sorted(wanted | installed()[1])  # installing fewer would leave older versions of the rest behind
    install(["all"] if "all" in extras else extras)
    NOTE.write_text(json.dumps({"pyproject": digest, "extras": extras}))


if __name__ == "__main__":
    main(sys.argv[1:])
