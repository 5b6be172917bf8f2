"""A sender that is not ours: HAPI, the Java library behind many hospitals' interfaces, talks to the MLLP server."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from connectors.hl7.handling import Hl7Mapper
from connectors.hl7.server import MllpServer
from connectors.hl7.settings import MllpSettings
from processors.events import NoteEvent, PatientEvent, VitalsEvent
from tests.edge import RecordingPublisher, identities
from tests.hl7_messages import NOW, PID, PULSE, PV1, message, obx, vitals

HERE = Path(__file__).parent / "hapi"
JARS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vigil" / "hapi-2.6.0"


@pytest.fixture(scope="module")
def jars() -> Path:
    if not shutil.which("java") or not shutil.which("javac"):
        pytest.skip("HAPI needs a Java development kit")
    if not any(JARS.glob("hapi-base-*.jar")):
        if not shutil.which("mvn"):
            pytest.skip("HAPI's jars are not there yet, and no Maven to fetch them")
        command = ["mvn", "-B", "-q", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies", f"-DoutputDirectory={JARS}"]
        if subprocess.run(command, capture_output=True, timeout=300).returncode:
            pytest.skip("Maven could not fetch HAPI's jars")
    return JARS


@pytest.mark.timeout(400)
async def test_hapi_sends_and_understands_the_answers(jars: Path, tmp_path: Path) -> None:
    txa, text = "TXA|1|DS|TX|20260302093000||||||||D1|||||AU", "OBX|1|TX|18842-5^DS^LN||Grüße.||||||F"
    note = message(PID, PV1, txa, text, kind="MDM^T02^MDM_T02", control_id="H2", version="2.5", charset="UNICODE UTF-8")
    sent = [
        vitals(PULSE, obx("59408-5^SpO2^LN", "97", "%", number=2), control_id="H1", version="2.5"),
        note,
        message("EVN|A01|202603020900", PID, PV1, kind="ADT^A01^ADT_A01", control_id="H3", version="2.5"),
        vitals(PULSE, obx("8310-5^T^LN", "warm", "Cel", number=2, kind="ST"), control_id="H4", version="2.5"),
        message("SCH|1", kind="SIU^S12^SIU_S12", control_id="H5", version="2.5"),
        message("EVN|A08|202603020900", PV1, kind="ADT^A08^ADT_A01", control_id="H6", version="2.5"),
    ]
    files = []
    for n, raw in enumerate(sent):
        files.append(tmp_path / f"{n}.hl7")
        files[-1].write_bytes(raw)
    settings, publisher = MllpSettings(port=0), RecordingPublisher()
    server = MllpServer(settings, Hl7Mapper(settings, identities()), publisher, lambda: NOW)
    _, port = await server.start()
    try:
        process = await asyncio.create_subprocess_exec(
            *("java", "-Xmx256m", "-Dca.uhn.hl7v2.llp.charset=UTF-8", "-cp", f"{jars}/*"),
            *(str(HERE / "Send.java"), str(port), *map(str, files)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, error = await process.communicate()
    finally:
        await server.stop()
    assert process.returncode == 0, error.decode()[-2000:]
    assert out.decode().splitlines() == ["AA H1 -", "AA H2 -", "AA H3 -", "AA H4 102", "AA H5 -", "AE H6 100"]
    kinds = [type(event) for event in publisher.events]
    assert [kinds.count(kind) for kind in (VitalsEvent, NoteEvent, PatientEvent)] == [2, 1, 2]
    assert [event.text for event in publisher.events if isinstance(event, NoteEvent)] == ["Grüße."]
