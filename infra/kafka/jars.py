"""Where the jars of Apache Kafka and a Java to run them come from."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from infra.kafka.host import LocalKafkaError

HERE = Path(__file__).resolve().parent


def jars_folder() -> Path:
    """Where the jars are, or will be."""
    if chosen := os.environ.get("VIGIL_KAFKA_JARS"):
        return Path(chosen)
    version = ElementTree.parse(HERE / "pom.xml").findtext(".//{*}kafka.version")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vigil" / f"kafka-{version}"


def why_not() -> str | None:
    """Say why no local Kafka can be had here, or None when it can."""
    if not java_binary():
        return "no Java (17 or newer) on the path or in JAVA_HOME"
    if not any(jars_folder().glob("kafka_2*.jar")) and not shutil.which("mvn"):
        return "Kafka's jars are not there yet, and no Maven (mvn) to fetch them"
    return None


def fetch_jars(report: Callable[[str], None]) -> Path:
    """Return the folder with Kafka's jars, fetched by Maven if they are not there yet."""
    if reason := why_not():
        raise LocalKafkaError(reason)
    folder = jars_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits here instead of downloading too
        if not any(folder.glob("kafka_2*.jar")):
            report(f"fetching Kafka's jars by Maven into {folder} (about 54 MB, once)")
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                _maven(Path(scratch) / "jars", report)
                if folder.exists():
                    shutil.rmtree(folder)  # without the broker's jar: left by an interrupted copy
                (Path(scratch) / "jars").rename(folder)
    return folder


def _maven(into: Path, report: Callable[[str], None]) -> None:
    command = ["mvn", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies", "-DincludeScope=runtime"]
    process = subprocess.Popen(
        [*command, f"-DoutputDirectory={into}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said, fetched = [], 0
    for line in process.stdout:
        said.append(line)
        fetched += "Downloaded from" in line and ".jar" in line
        if fetched and fetched % 20 == 0 and ".jar" in line and "Downloaded" in line:
            report(f"  {fetched} files")
    if process.wait():
        raise LocalKafkaError("Maven could not fetch Kafka's jars:\n" + "".join(said[-15:]))


def java_binary() -> str | None:
    """Find Java: JAVA_HOME's, else the one on the path."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")


def java(jars: Path, heap_mb: int) -> list[str]:
    """Begin a command line: Java with that much heap and Kafka's jars."""
    return [str(java_binary()), f"-Xmx{heap_mb}m", f"-Xms{min(heap_mb, 128)}m", "-Djava.awt.headless=true", "-cp", f"{jars}/*"]
