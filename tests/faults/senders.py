"""The load through the connectors (HL7 v2 over MLLP, FHIR over HTTP, DICOM C-STORE into `vigil serve`), and faults of and under it.

A sender sends one message at a time and sends it again until the answer is positive, as the systems of a hospital do. What was
answered positively is accepted: the verifier then looks for it on the topic by what the sender calls it (MSH-10, the resource's id,
SOP Instance UID).
"""

import asyncio
import contextlib
import itertools
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from io import BytesIO
from typing import Any

import httpx
import pydicom
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
from pynetdicom import AE

from connectors.hl7.sender import MllpSender
from infra.kafka.host import free_ports
from streams.demo import fhir, radiographs
from streams.demo.hl7 import Writer
from streams.demo.notes import MIX
from streams.demo.people import Patient, people
from streams.demo.physiology import COURSES, Body, Vitals
from streams.demo.stays import FHIR_BASE
from tests.faults.arena import Arena, Fault
from tests.faults.disk import full, no_mounting, small_disk
from tests.faults.inputs import EVERY, PATIENTS, PHI, Load, Sender, Sent, beginning, dates
from tests.faults.outside import broker_kill, partition
from tests.faults.watch import Worker
from tests.faults.workers import clock_jumps, fake_clock, no_faketime, nothing

RATE = PATIENTS / EVERY.total_seconds()  # messages a second
ANSWER = 10.0  # seconds that a sender waits for one
SLOT = 90  # the listener's: no lane's worker has it


class Front(Sender):
    """Sends the load through `vigil serve`; what was accepted is known when the topic has been read."""

    def __init__(self, arena: Arena, feed: str) -> None:
        super().__init__(arena.kafka.bootstrap, arena.prefix)
        self._arena = arena
        self._feed = feed
        ports = dict(zip(("mllp", "fhir", "dicom"), free_ports(3), strict=True))
        self._port = ports[feed]
        env = {
            **arena.env,
            **{f"VIGIL_CONNECTORS__{name.upper()}__PORT": str(port) for name, port in ports.items()},
            "VIGIL_CONNECTORS__DICOM__MIN_FREE_BYTES": "1000",
            "VIGIL_CONNECTORS__MLLP__PUBLISH_SECONDS": "3",
            "VIGIL_ENGINE__PUBLISH_TIMEOUT": "3",
        }
        command = [sys.executable, "-m", "streams.cli", "serve"]
        self.listener = Worker("serve", SLOT, env, arena.folder, command=command)
        self.answered: set[str] = set()  # positively
        self.sent: set[str] = set()

    def pace(self, load: Load, over: threading.Event, **_: Any) -> None:
        """Send in time, or as soon as the answers let it."""
        match self._feed:
            case "dicom":
                self._store(load, over)
            case "fhir":
                self._put(load, over)
            case _:
                asyncio.run(self._speak(load, over))

    def _due(self, load: Load, over: threading.Event) -> Iterator[Sent]:
        began = time.monotonic()
        for number, one in zip(itertools.count(), load.paced, strict=False):
            over.wait(max(0.0, began + number / load.rate - time.monotonic()))
            if over.is_set():
                return
            self.sent.add(one.event_id)
            yield one

    async def _speak(self, load: Load, over: threading.Event) -> None:
        async with MllpSender("127.0.0.1", self._port, timeout=ANSWER, longest_pause=1.0) as sender:
            for one in self._due(load, over):
                await sender.send(one.value or b"")
                self.answered.add(one.event_id)

    def _put(self, load: Load, over: threading.Event) -> None:
        usual = "Observation" if self._arena.fault.lane == "vitals" else "DocumentReference"
        base, headers = f"http://127.0.0.1:{self._port}{FHIR_BASE}/", {"Content-Type": "application/fhir+json"}
        with httpx.Client(base_url=base, headers=headers, timeout=ANSWER, trust_env=False) as client:
            for one in self._due(load, over):
                kind = usual if one.topic == self._arena.input else one.topic
                while not over.is_set():
                    with contextlib.suppress(httpx.TransportError):
                        answer = client.put(f"{kind}/{one.event_id}", content=one.value)
                        if answer.is_success:
                            if kind == usual:
                                self.answered.add(one.event_id)
                            break
                        if answer.is_client_error:
                            raise RuntimeError(f"{kind} {one.event_id} was refused for good ({answer.status_code})")
                    over.wait(0.3)

    def _store(self, load: Load, over: threading.Event) -> None:
        entity = AE()
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = ANSWER
        entity.add_requested_context(DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian)
        association: Any = None
        for one in self._due(load, over):
            image = pydicom.dcmread(BytesIO(one.value or b""))
            while not over.is_set():
                if association is None or not association.is_established:
                    association = entity.associate("127.0.0.1", self._port)
                if association.is_established and association.send_c_store(image).get("Status") == 0x0000:
                    self.answered.add(one.event_id)
                    break
                over.wait(0.3)
        if association is not None and association.is_established:
            association.release()

    def reckon(self) -> list[str]:
        """Find on the topic what was answered positively."""
        topic, became = self._arena.input, dict[str, set[str]]()
        for record in self._arena.kafka.read(self._arena.prefix + topic):
            body = json.loads(record.value or b"")
            name = body["origin"]["message_id"]
            became.setdefault(name, set()).add(body["id"])
            self.names[body["id"]] = name
            if name in self.answered:
                self.accepted.at[topic, record.partition, record.offset] = body["id"]
            else:
                self.accepted.unknown.add(body["id"])
        for number, name in enumerate(sorted(self.answered - set(became))):
            self.accepted.at[topic, -1, number] = f"answered, and not on the topic: {name}"
        several = [f"{name} became {len(ids)} events" for name, ids in became.items() if len(ids) > 1]
        return several + [f"nobody sent {name}" for name in set(became) - self.sent]


Turn = tuple[int, str, Patient, datetime, Vitals]
"""What one message is made of: its number, what nothing else is called, who, when, and how they are."""


def _turns(arena: Arena) -> Iterator[Turn]:
    start = beginning()
    ward = [replace(one, family=PHI) for one in people(arena.seed, PATIENTS)]
    for one in ward:
        arena.marks |= {one.mrn, one.visit, one.given, *dates(one.born(start.date()))}
    bodies = [Body(f"faults {arena.seed} {one.number}", COURSES[one.course]) for one in ward]
    for number in range(int(arena.fault.seconds * RATE)):
        turn, place = divmod(number, PATIENTS)
        yield number, f"{place}-{turn}", ward[place], start + turn * EVERY, bodies[place].vitals(turn / 4)


def _note(rng: random.Random, person: Patient, signs: Vitals) -> tuple[Any, str]:
    kind, write, _ = rng.choice(MIX)
    return kind, write(rng, person, signs)[:160]


def messages(arena: Arena) -> Load:
    """Make the lane's load as its senders would write it: an ORU a second of each patient, documents, chest films."""
    rng, writers, paced = random.Random(arena.seed), dict[int, Writer](), []
    for number, name, person, at, signs in _turns(arena):
        writer = writers.setdefault(person.number, Writer(person, at))
        if arena.fault.lane == "images":
            picture = radiographs.draw(number, radiographs.SIGNS[number % len(radiographs.SIGNS)], 128)
            data = radiographs.dicom(picture, person, at, accession=name)
            sent_as = str(pydicom.dcmread(BytesIO(data), stop_before_pixels=True).SOPInstanceUID)
        else:
            if arena.fault.lane == "vitals":
                data = writer.oru([(at, signs)], at, order=name)
            else:
                kind, text = _note(rng, person, signs)
                data = writer.mdm("T02", at, text, kind, number=name)
            sent_as = data.split(b"|", 10)[9].decode()
        paced.append(Sent(arena.input, b"", data, sent_as))
    return Load([], paced, RATE)


def resources(arena: Arena) -> Load:
    """Make it as FHIR resources with ids of their own: a panel of vital signs a second of each patient, documents."""
    rng, paced = random.Random(arena.seed), []
    for number, name, person, at, signs in _turns(arena):
        if arena.fault.lane == "vitals":
            if number < PATIENTS:  # who they are, and that they are here: else nobody of them has an age, and a NEWS2
                for told in (fhir.person(person, at), fhir.stay(person, at)):
                    kind, own = str(told["resourceType"]), f"faults-{told['resourceType'].lower()}-{name}"
                    paced.append(Sent(kind, b"", fhir.wire({**told, "id": own}), own))
            resource = fhir.vitals_panel(person, at, signs, number=name)
        else:
            kind, text = _note(rng, person, signs)
            resource = fhir.document(person, at, text, kind, number=name)
        paced.append(Sent(arena.input, b"", fhir.wire({**resource, "id": f"faults-{name}"}), f"faults-{name}"))
    return Load([], paced, RATE)


def front(arena: Arena, feed: str = "") -> None:
    """Put `vigil serve` before the lane."""
    made = Front(arena, feed or ("dicom" if arena.fault.lane == "images" else "mllp"))
    arena.sender, arena.workers = made, [made.listener]
    made.listener.start()


def front_for_fhir(arena: Arena) -> None:
    """The same, and the load comes as FHIR."""
    front(arena, "fhir")


def front_on_a_small_disk(arena: Arena) -> None:
    """The same, with an object store of 32 MB."""
    arena.stack.enter_context(small_disk(arena.objects, 32))
    front(arena)


def front_with_a_clock(arena: Arena) -> None:
    """The same, and it sees the wall clock through a file that a fault may set; the lane does not."""
    before = dict(arena.env)
    fake_clock(arena)
    front(arena)
    arena.env.clear()
    arena.env |= before


def listener_sigkill(arena: Arena) -> None:
    """SIGKILL `vigil serve` at three random moments, started again at once."""
    listener = arena.worker(SLOT)
    for _ in range(3):
        arena.sleep(0.2, 2.0)
        listener.kill()
        listener.start()
        listener.until_ready()


def listener_sigterm(arena: Arena) -> None:
    """SIGTERM it twice in the middle of work, started again."""
    for _ in range(2):
        arena.sleep(0.5, 2.0)
        arena.stop(SLOT)
        arena.worker(SLOT).start()
        arena.worker(SLOT).until_ready()


def objects_full(arena: Arena) -> None:
    """Nothing fits into the object store for 6 s."""
    with full(arena.objects):
        arena.sleep(6.0)


def through(name: str, words: str, strike: Callable[[Arena], None], lanes: Sequence[str], **more: Any) -> list[Fault]:
    """Make the rows of one fault, one for each lane, with the load through the connectors."""
    given: dict[str, Any] = {"load": messages, "prepare": front, "like": "through-connectors", "seconds": 18.0, **more}
    return [Fault(name, lane, words, strike, **given) for lane in lanes]


ALL = ("vitals", "notes-entities", "notes-vectors", "images")
FEEDS = ("vitals", "notes-entities", "images")
FHIR: dict[str, Any] = {
    "lanes": ("vitals", "notes-entities"),
    "load": resources,
    "prepare": front_for_fhir,
    "like": "fhir",
}
FAULTS = [
    *through("through-connectors", "no fault: the load over real sockets", nothing, ALL, seconds=20.0),
    *through("listener-sigkill", "`vigil serve` killed three times", listener_sigkill, FEEDS, seconds=20.0),
    *through("listener-sigterm", "`vigil serve` ended twice in the middle of work", listener_sigterm, ("vitals", "images")),
    *through("listener-broker-kill", "the broker killed for 4 s, under connectors and lane", broker_kill, FEEDS),
    *through("listener-partition", "nothing passes to the broker for 9 s", partition, ("vitals", "images"), seconds=20.0),
    *through(
        "listener-clock-jump",
        "the clock of `vigil serve` an hour ahead, then an hour back, 4 s each",
        clock_jumps,
        ("vitals", "notes-entities"),
        prepare=front_with_a_clock,
        needs=no_faketime,
        seen="the clock stepped",
    ),
    *through("fhir", "no fault: the load as FHIR over HTTP", nothing, **FHIR, seconds=20.0),
    *through("fhir-listener-sigkill", "`vigil serve` killed three times, under FHIR", listener_sigkill, **FHIR, seconds=20.0),
    *through("fhir-broker-kill", "the broker killed for 4 s, under the FHIR endpoint and lane", broker_kill, **FHIR),
    *through(
        "objects-disk-full",
        "nothing fits into the object store for 6 s",
        objects_full,
        ("images",),
        prepare=front_on_a_small_disk,
        needs=no_mounting,
        seen="space",
    ),
]
