"""The verifier of one row: holds what came out of one lane against what its senders were told. Nothing of Vigil's code is used."""

import base64
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import zip_longest
from typing import Any

from qdrant_client import QdrantClient

from tests.faults import chart
from tests.faults.inputs import LATE, MARKS, Accepted, Course, Place
from tests.storm.verify import Came, Entry, Ledger, Reckoning, alerts, entries, untrue

INPUT = {
    "merges": "clinical.patients",
    "notes-entities": "clinical.notes",
    "notes-vectors": "clinical.notes",
    "images": "clinical.images",
    "vitals": "clinical.vitals",
}
OUTPUT = {"notes-entities": "clinical.entities", "images": "clinical.findings", "vitals": "clinical.scores"}
COLLECTION = {"notes-vectors": "notes", "images": "images"}
HAPPENED = {
    "clinical.notes": "authored_at",
    "clinical.images": "acquired_at",
    "clinical.vitals": "observed_at",
    "clinical.patients": "effective_at",
}
"""When what an input tells of was, by its topic: the earliest is the load's beginning."""
CARRIED: dict[str, dict[str, str]] = {
    "clinical.entities": {
        **{name: name for name in ("patient_id", "encounter_id", "note_id", "relation", "replaces", "processing")},
        "note_status": "status",
        "authored_at": "authored_at",
        "received_at": "received_at",
    },
    "clinical.findings": {
        **{name: name for name in ("patient_id", "encounter_id", "study_uid", "instance_uid", "processing", "acquired_at")},
        "image_id": "id",
        "image_status": "status",
    },
    "clinical.scores": {name: name for name in ("patient_id", "encounter_id", "observed_at", "received_at", "processing")},
    "points": {
        name: name
        for name in ("patient_id", "encounter_id", "note_id", "instance_uid", "study_uid", "series_uid", "processing")
    },
}
"""What an output tells of its input as the input itself does: field -> the input's field."""
WITHDRAWN = ("cancelled", "entered-in-error")  # states of a note or image without content
ENOUGH = 60  # scores: a load of so many has patients who are ill
GRAVE = 7  # NEWS2 from which somebody must have been told
SAID_OF_SILENCE = ("escalated",)  # steps of a course that come when nobody answers, whenever that is
CHILDREN = "2010"  # who was born later is no adult as of these loads, and of unknown age who has no date
HELD = {"catching-up", "not-watched", "moved", "test-traffic"}  # flags of a score that by itself need lead to no alert
OVER = ("resolved", "declined", "withdrawn")  # states of an alert after which nothing comes
SILENT = ("the deterioration model was late", "the deterioration model failed")  # how a score says that NEWS2 stands alone


@dataclass
class Verdict:
    """What the verifier found: `wrong` has a line for everything that breaks the promise."""

    accepted: int = 0
    lost: int = 0
    duplicated: int = 0
    dead_letters: int = 0
    ignored: dict[str, int] = field(default_factory=dict)
    moved: int = 0  # points that merges gave to another patient
    taken_back: int = 0  # images
    passages: int = 0  # of notes
    of_several: int = 0  # notes that have more than one
    repeats: int = 0  # records beyond the first of one logical output: allowed
    said: dict[str, dict[str, Any]] = field(default_factory=dict)  # input id -> what its output says, field by field
    risk: dict[str, str] = field(
        default_factory=dict
    )  # input id -> what its score says of deterioration, if the model was asked
    passed: dict[str, str] = field(default_factory=dict)  # input id -> why nothing of it is to be found
    blind: bool = False  # an outage was told of: what comes of its backlog is rightly flagged
    points: dict[str, list[str]] = field(default_factory=dict)  # input id -> the payloads of its points
    vectors: dict[str, list[list[float]]] = field(default_factory=dict)  # input id -> their vectors, in the payloads' order
    steps: dict[str, list[str]] = field(default_factory=dict)  # input id -> the steps of alerts that it led to, in words
    bodies: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)  # input id, words -> what these steps say
    answers: int = 0  # of people, to alerts
    escalated: int = 0  # steps of alerts that nobody answered
    declined: set[str] = field(default_factory=set)  # patients of whom an alert was declined
    first: set[str] = field(default_factory=set)  # messages that brought a patient's context and first set at once
    made: dict[str, dict[str, Any]] = field(default_factory=dict)  # message -> what the connectors made of it
    contexts: dict[str, dict[str, Any]] = field(default_factory=dict)  # patient -> the last context that they made
    compared: dict[str, int] = field(default_factory=dict)  # how much of each was held against an undisturbed run's
    wrong: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Set:
    """One set of vital signs, as far as the verifier scores it itself."""

    patient: str
    at: int  # ms: observed, and not later than received
    place: tuple[bool, int, int]  # whether it lies on the log of now, partition, offset
    points: chart.Points
    correcting: bool

    @classmethod
    def of(cls, body: Mapping[str, Any], place: tuple[bool, int, int]) -> "Set":
        """Of an event."""
        times = [_milliseconds(body.get(name)) or 0 for name in ("observed_at", "received_at")]
        given = [one for one in body.get("observations", ()) if one.get("status", "final") in ("final", "corrected")]
        correcting = any(one.get("status") == "corrected" for one in given)
        return cls(body["patient_id"], min(times), place, chart.points_of(given), correcting)


class Judge:
    """Reads a row's topics and vectors once, and says what is wrong."""

    def __init__(
        self,
        lane: str,
        bootstrap: str,
        prefix: str,
        accepted: Accepted,
        qdrant: str | None,
        names: Mapping[str, str] | None = None,
        erased: Mapping[str, set[Place]] | None = None,
        marks: Collection[str] = MARKS,
        calls_after: float | None = None,
        courses: Mapping[str, Course] | None = None,
    ) -> None:
        """`names`: what senders call the inputs, by event id. `erased`: what was accepted when an output topic was deleted.

        `marks`: what tells who somebody is, of all whom the load is about. `calls_after`: so many seconds after it asked, an
        emergency that nobody answered calls the one link of its chain. `courses`: what must be said of patients whose context
        changes under the load, by their id.
        """
        self.calls_after = calls_after
        self.courses = courses or {}
        self.names = names or {}
        self.marks = _pattern(marks)
        self.erased = erased or {}
        self.lane = lane
        self.prefix = prefix
        self.topic = INPUT[lane]
        self.ledger = Reader(bootstrap, prefix)
        self.accepted = accepted
        self.qdrant = qdrant
        self.found = Reckoning()
        self.verdict = Verdict(accepted=sum(topic == self.topic for topic, _, _ in accepted.at))
        self.dead: Counter[tuple[str, int, int]] = Counter()
        self.audit: set[Entry] = set()
        self.audited: dict[str, set[str]] = defaultdict(set)
        self.came: dict[str, Came] = {}
        self.told: dict[str, list[dict[str, Any]]] = defaultdict(
            list
        )  # input id -> what its records say of it, as far as carried
        self.idle: dict[str, str] = {}  # inputs of which nothing is to come, by what they say, and the audit's word for it
        self.began = 0  # of the load, ms since 1970
        self.scored: dict[str, dict[str, Any]] = {}  # score id -> whose it is and what it says
        self.placed: dict[str, list[dict[str, Any]]] = defaultdict(list)  # patient -> their contexts' stay and place
        self.anew: set[str] = set()  # ids of scores that a context led to
        self.met: dict[str, str] = {}  # patient -> the message that they came with, where connectors made the inputs
        self.unscored: set[str] = set()  # patients to whom NEWS2 does not apply, by some context of theirs
        self.sets: dict[str, Set] = {}  # vital signs that were accepted, by id
        self.moved: dict[str, dict[str, Any]] = {}  # sets that the lane passed on from a merged record, by id
        self.texts: dict[str, str] = {}  # of notes, by version
        self.images: dict[str, dict[str, Any]] = {}  # by version
        self.taken_back: dict[str, set[str]] = defaultdict(set)  # images of which it is said that they are: by whose word

    def judge(self, logs: str, undisturbed: Verdict | None = None, but: Collection[str] = ()) -> Verdict:
        """Hold everything against everything; `undisturbed` is the same load's verdict without a fault.

        `but`: fields of outputs, and `deterioration`, that a row's load rightly has otherwise than that one's.
        """
        self._inputs()
        self._letters()
        self._originals()
        self._audit()
        ids = self.accepted.ids([self.topic])
        outputs = self._outputs(ids) if self.lane in OUTPUT else set(ids)
        if self.lane == "merges":
            outputs = self._merged(ids)
        vectors = self._vectors(ids) if self.lane in COLLECTION else set(ids)
        made = set[str]().union(outputs if self.lane in (*OUTPUT, "merges") else (), vectors if self.lane in COLLECTION else ())
        gone = self._withdrawn(vectors) if self.lane == "images" else set()
        self._account(ids, ((outputs - gone) & vectors) | (gone & set(self.taken_back)), made, vectors)
        self._bear_out()
        self._silence(logs)
        if self.names:
            self._made()
        if self.lane == "vitals":
            self.verdict.duplicated += alerts(self.ledger, self.found)
            self._lives()
            self._answers()
            self._steps()
            self._rests()
            self._told()
            self._charted()
            self._one_each()
            self._courses()
        if undisturbed is not None:
            self._compare(undisturbed, but)
        self.verdict.wrong = self.found.wrong
        return self.verdict

    def _inputs(self) -> None:
        """Note what lies on the lane's topic, as far as the outputs and the audit have to say the same; and patients' contexts."""
        fields = {name for carried in CARRIED.values() for name in carried.values()}
        accepted = self.accepted.ids([self.topic]) | self.accepted.unknown
        self.came = {one: Came() for one in accepted}
        happened = []
        for partition, offset, value in (*self.accepted.lain, *self.ledger.values(self.topic)):
            body = _read(value)
            one = body.get("id", "")
            spoilt = not self.accepted.at.get((self.topic, partition, offset), "unknown")
            if body.get("moved_from") and one not in accepted:
                self.moved[one] = body
            elif spoilt or one not in accepted:
                continue
            self._lies(one, body, value)
            if self.lane == "vitals":
                self.sets.setdefault(one, Set.of(body, (offset >= 0, partition, offset if offset >= 0 else -1 - offset)))
            elif self.lane == "notes-vectors":
                self.texts[one] = body.get("text", "")
            elif self.lane == "images":
                self.images.setdefault(one, body)
            # What a row sends as history lies before the load's beginning.
            if not one.endswith(LATE) and (at := _milliseconds(body.get(HAPPENED[self.topic]))) is not None:
                happened.append(at)
            carried = {name: body[name] for name in fields if name in body}
            if carried not in self.told[one]:
                self.told[one].append(carried)
            if self.lane == "notes-vectors" and (body.get("status") in WITHDRAWN or not body.get("text", "").strip()):
                self.idle[one] = "no-text"
            if self.lane == "merges" and body.get("merged_into") in (None, body["patient_id"]):
                self.idle[one] = "no-merge"
        self.began = min(happened, default=0)
        for _, _, value in self.ledger.values("clinical.patients") if self.lane == "vitals" else ():
            body = _read(value)
            stay = {name: body.get(name) for name in ("encounter_id", "location")}
            if stay not in self.placed[body["patient_id"]]:
                self.placed[body["patient_id"]].append(stay)
            if body.get("pregnant") or (body.get("birth_date") or "9999") > CHILDREN:
                self.unscored.add(body["patient_id"])
            self._lies(body["id"], body, value)  # a score may come of it

    def _lies(self, one: str, body: Mapping[str, Any], value: bytes) -> None:
        came = self.came.setdefault(one, Came())
        came.digests.add(sha256(value).hexdigest())
        came.patients.add(body.get("patient_id", ""))

    def _tells(self, words: str) -> bool:
        """Say whether words tell who somebody is."""
        return self.marks.search(words) is not None

    def _carried(self, output: str, one: str, body: Mapping[str, Any]) -> bool:
        """Say whether an output tells of its input what the input does: of one that was sent again, any of its records."""
        mine = {name: _plain(body.get(name)) for name in CARRIED[output]}
        wanted = [{name: _plain(told.get(of)) for name, of in CARRIED[output].items()} for told in self.told.get(one, ())]
        return not wanted or mine in wanted

    def _letters(self) -> None:
        letters: dict[str, set[str]] = defaultdict(set)
        for _, _, letter in self.ledger.read("clinical.dead-letters"):
            told = json.dumps({name: value for name, value in letter.items() if not name.startswith("original_")})
            if self._tells(told):
                self.found.wrong.append(f"a dead letter's own words tell of a patient: {letter['id']}")
            if letter.get("lane") != self.lane:
                continue
            topic = letter["original_topic"].removeprefix(self.prefix)
            place = (topic, letter["original_partition"], letter["original_offset"])
            self.dead[place] += 1
            letters[letter["id"]].add(json.dumps({**letter, "failed_at": None, "attempts": None}, sort_keys=True))
        self.verdict.dead_letters = len(self.dead)
        self.verdict.repeats += sum(self.dead.values()) - len(letters)
        split = [one for one, texts in letters.items() if len(texts) > 1]
        self.verdict.duplicated += len(split) + max(0, len(letters) - len(self.dead))
        self.found.blame("dead letters that say two things", split)
        self.found.blame("dead letters of what was never accepted", set(self.dead) - set(self.accepted.at))

    def _originals(self) -> None:
        """A dead letter holds its original whole: key, value and headers as they stand at its place."""
        letters = [body for _, _, body in self.ledger.read("clinical.dead-letters") if body["lane"] == self.lane]
        if not letters:
            return
        records = self.ledger.records(self.topic)
        there = {(one.partition(), one.offset()): (one.key(), one.value(), one.headers() or []) for one in records}
        spoilt = []
        for letter in letters:
            place = (letter["original_partition"], letter["original_offset"])
            headers = [(one["name"], _bytes(one["value"])) for one in letter.get("original_headers", ())]
            said = _bytes(letter.get("original_key")), _bytes(letter.get("original_value")), headers
            if place in there and not letter.get("cut") and said != there[place]:
                spoilt.append((self.topic, *place))
        self.verdict.lost += len(spoilt)
        self.found.blame("dead letters that do not hold their original", spoilt)

    def _audit(self) -> None:
        for _, _, body in self.ledger.read("clinical.audit"):
            if self._tells(json.dumps(body)):
                self.found.wrong.append(f"the audit tells of a patient: {body['id']}")
            self.audit.update(entries([body], self.lane))
        for one in self.audit:
            self.audited[one.input_id].add(one.outcome)

    def _bear_out(self) -> None:
        """Hold the audit against what was sent, and what came of it."""
        for place in self.dead:
            if one := self.accepted.at.get(place):
                self.came.setdefault(one, Came()).dead = True
        for place in self.erased.get(OUTPUT.get(self.lane, ""), ()):
            if one := self.accepted.at.get(place):
                self.came.setdefault(one, Came()).erased = True
        for words, ids in untrue(self.audit, self.came, makes=self.lane in OUTPUT).items():
            self.found.blame(words, ids)
        # The words for what leaves nothing behind must be true of the input. Of a note's versions one may be outdated in the end,
        # and have been the newest when it came: the other way round it may not be.
        replaced = self._replaced() if self.lane == "notes-vectors" else set()
        denied = {
            one.input_id
            for one in self.audit
            if (
                one.outcome in ("no-text", "no-merge")
                and self.idle.get(one.input_id) != one.outcome
                and self.told[one.input_id]
            )
            or (one.outcome == "merged" and one.input_id in self.idle)
            or (one.outcome == "outdated" and self.lane == "notes-vectors" and one.input_id not in replaced)
        }
        self.found.blame("audit entries of a word that their input denies", sorted(denied))

    def _outputs(self, ids: set[str]) -> set[str]:
        output = OUTPUT[self.lane]
        of_input: dict[str, set[str]] = defaultdict(set)
        said: dict[str, set[str]] = defaultdict(set)
        records = 0
        otherwise, anew = [], []
        for _, _, body in self.ledger.read(output):
            source = body["source"]["event_id"]
            if source in self.came:
                self.came[source].outputs[body["id"]] = body.get("patient_id", "")
            if "news2" in body:
                self.scored[body["id"]] = {
                    name: body.get(name) for name in ("patient_id", "observed_at", "received_at", "news2")
                }
                self.scored[body["id"]]["source"] = self.names.get(source, source)
            if body["source"].get("topic", self.topic) != self.topic:  # scored anew by a context that was read after the set
                anew.append(body)
                self.anew.add(body["id"])
                continue
            if body.get("image_status", "final") != "final":  # whose word it is depends on what came together
                self.taken_back[body["image_id"]].add(source)
                self.came.setdefault(body["image_id"], Came()).outputs[body["id"]] = body.get("patient_id", "")
                if body["image_id"] != source:
                    said[body["id"]].add(json.dumps({**body, "source": None, "reason": None}, sort_keys=True))
                    continue
            records += 1
            of_input[source].add(body["id"])
            if not self._carried(output, source, body):
                otherwise.append(body["id"])
            # A note that its sender sends again has an event for each time that it came, alike but for that.
            apart = ("source", "received_at") if self.lane == "notes-entities" else ("source",)
            said[body["id"]].add(json.dumps({name: value for name, value in body.items() if name not in apart}, sort_keys=True))
            name = self.names.get(source, source)
            self.verdict.said[name] = self._compared(body, OUTPUT_APART)
            if "news2" in body and not str(body["deterioration_reason"]).startswith(SILENT):
                self.verdict.risk[name] = json.dumps([body["deterioration"], body["deterioration_reason"]], sort_keys=True)
        self._anew(anew)
        several = [one for one, outs in of_input.items() if len(outs) > 1]
        split = [one for one, texts in said.items() if len(texts) > 1]
        never = set(of_input) - ids - self.accepted.unknown - set(self.moved)
        self.verdict.repeats += records - len(said)
        self.verdict.duplicated += len(several) + len(split) + len(never)
        self.found.blame("inputs with several logical outputs", several)
        self.found.blame("a repeat says something else", split)
        self.found.blame("outputs of what was never accepted", never)
        self.found.blame("outputs that tell otherwise of their input than it does", otherwise)
        self._places(output)
        return set(of_input)

    def _anew(self, scores: Iterable[Mapping[str, Any]]) -> None:
        """A score that a context led to is of one of its patient's sets, in time for it, and says so."""
        times: dict[str, set[tuple[Any, Any]]] = defaultdict(set)
        for told in self.told.values() if self.lane == "vitals" else ():
            for one in told:
                times[one["patient_id"]].add((_milliseconds(one["observed_at"]), _milliseconds(one["received_at"])))
        astray = []
        for body in scores:
            stays = {one["encounter_id"] for one in self.placed[body["patient_id"]]}
            of = _milliseconds(body["observed_at"]), _milliseconds(body["received_at"])
            as_said = "age-learned" in body["flags"] and not body["late"] and body["processing"] == "production"
            if not as_said or of not in times[body["patient_id"]] or body["encounter_id"] not in stays:
                astray.append(body["id"])
        self.found.blame("scores of contexts that are of no set of their patient's", astray)

    def _compared(self, body: Mapping[str, Any], apart: Collection[str]) -> dict[str, Any]:
        """Return what an output or event has to say in every run alike, field by field: times as ms since the load began.

        Where the connectors made the inputs, ids and the time of receipt are each run's own: those are held against the input.
        """
        own = {*apart, *(OWN if self.names else ())}
        return {name: _since(value, self.began, own) for name, value in body.items() if name not in own}

    def _places(self, output: str) -> None:
        """An output names the place of its input, and stands behind those of its patient's earlier ones; a repeat may come late."""
        astray, turned, seen = [], [], set()
        # Of an input topic that was made anew: what lay on the log before has its place in the negative.
        before = {one for (topic, _, offset), one in self.accepted.at.items() if topic == self.topic and offset < 0}
        latest: dict[tuple[int, str, int, bool], int] = {}  # by partition, patient and the source's log: the newest offset
        for partition, _, body in self.ledger.read(output):
            if "offset" not in body["source"] or body["source"].get("topic", self.topic) != self.topic:
                continue
            source, number, offset = (body["source"].get(name, 0) for name in ("event_id", "partition", "offset"))
            old = source in before
            if self.accepted.at.get((self.topic, number, -1 - offset if old else offset), source) != source:
                astray.append(body["id"])
            log = (partition, body.get("patient_id", ""), number, old)
            if source not in seen and offset < latest.get(log, -1):
                turned.append(body["id"])
            latest[log] = max(offset, latest.get(log, -1))
            seen.add(source)
        self.found.blame("outputs that name another place than their input's", astray)
        self.found.blame("outputs of one patient that stand before those of earlier inputs", turned)

    def _vectors(self, ids: set[str]) -> set[str]:
        assert self.qdrant is not None
        points: dict[str, list[tuple[str, list[float]]]] = defaultdict(list)
        payloads: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        hollow, otherwise = [], []
        for payload, vector in _scroll(self.qdrant, COLLECTION[self.lane]):
            payloads[payload["version"]].append(payload)
            points[payload["version"]].append((json.dumps(self._compared(payload, PLACE), sort_keys=True), vector))
            if not self._carried("points", payload["version"], payload):
                otherwise.append(payload["version"])
            if not math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-2):
                hollow.append(payload["version"])
        self.found.blame("points whose vector is not of unit length", hollow)
        self.found.blame("points that tell otherwise of their input than it does", sorted(set(otherwise)))
        self._passages(payloads)
        for version, found in points.items():
            found.sort()
            name = self.names.get(version, version)
            self.verdict.points[name] = [payload for payload, _ in found]
            self.verdict.vectors[name] = [vector for _, vector in found]
        versions = set(points)
        never = versions - ids - self.accepted.unknown
        self.verdict.duplicated += len(never)
        self.found.blame("vectors of what was never accepted", never)
        return versions

    def _withdrawn(self, vectors: set[str]) -> set[str]:
        """Return the images that were taken back and the words that took them: of each it must be said, and none has a vector.

        A word takes back what came before it under its UID of its own patient, or where there is none, of any; a picture what came
        of another patient.
        """
        of_instance: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for body in sorted(self.images.values(), key=lambda body: _milliseconds(body["received_at"]) or 0):
            of_instance[body["instance_uid"]].append(body)
        by: dict[str, set[str]] = defaultdict(set)
        for versions in of_instance.values():
            for place, one in enumerate(versions):
                word = one["status"] in WITHDRAWN
                before = [other for other in versions[:place] if other["status"] not in WITHDRAWN]
                own = [other for other in before if other["patient_id"] == one["patient_id"]]
                for other in (own or before) if word else [other for other in before if other not in own]:
                    by[other["id"]].add(one["id"])
                if word:
                    by[one["id"]].add(one["id"])
        spoilt = {one for place in self.dead if (one := self.accepted.at.get(place))}
        gone = set(by) - spoilt
        self.verdict.taken_back = len(gone)
        self.found.blame("images that were taken back and have a vector", sorted(gone & vectors))
        self.verdict.duplicated += len(gone & vectors)
        astray = {one for one, words in self.taken_back.items() if not words <= by.get(one, set())}
        self.found.blame("images of which it is said that they were taken back, and nobody did", sorted(astray))
        return gone

    def _passages(self, found: Mapping[str, list[Mapping[str, Any]]]) -> None:
        """A note's points are its passages from the first to the last, each in its words, and together all of its words."""
        torn, misquoted = [], []
        for version, payloads in found.items():
            text, several = self.texts.get(version), sorted(payloads, key=lambda payload: int(payload.get("chunk", 0)))
            if text is None or "chunks" not in several[0]:
                continue
            self.verdict.passages += len(several)
            self.verdict.of_several += len(several) > 1
            if any(payload["passage"] != text[payload["start"] : payload["end"]] for payload in several):
                misquoted.append(version)
            held = {place for payload in several for place in range(payload["start"], payload["end"])}
            whole = [payload["chunk"] for payload in several] == list(range(several[0]["chunks"]))
            if not whole or any(place not in held for place, letter in enumerate(text) if not letter.isspace()):
                torn.append(version)
        self.verdict.lost += len(torn)
        self.found.blame("notes of which passages are missing, or left over", torn)
        self.found.blame("points whose passage is not their note's words", misquoted)

    def _merged(self, ids: set[str]) -> set[str]:
        """Return the merges that were carried out: audited, and every point of the patient's notes carries the survivor's id."""
        assert self.qdrant is not None
        survivors: dict[str, str] = {}
        merges: dict[str, str] = {}
        for _, _, body in self.ledger.read(self.topic):
            if body.get("merged_into"):
                survivors[body["patient_id"]] = body["merged_into"]
                merges[body["id"]] = body["patient_id"]
        written_for = {body["id"]: body["patient_id"] for _, _, body in self.ledger.read("clinical.notes")}
        stands_under: dict[str, set[str]] = defaultdict(set)
        for payload, _ in _scroll(self.qdrant, "notes"):
            stands_under[payload["version"]].add(payload["patient_id"])
        self.found.blame("notes without a point", set(written_for) - set(stands_under))
        astray = {patient for note, patient in written_for.items() if stands_under.get(note) != {_survivor(patient, survivors)}}
        self.found.blame("patients of whom points stand under another than the survivor", sorted(astray))
        self.verdict.moved = sum(stands_under.get(note, {patient}) != {patient} for note, patient in written_for.items())
        if not self.verdict.moved:
            self.found.wrong.append("no point was moved: the row shows nothing")
        return {one for one in ids if "merged" in self.audited[one] and merges.get(one) not in astray}

    def _account(self, ids: set[str], whole: set[str], made: set[str], vectors: set[str]) -> None:
        """Every accepted input ends as exactly one of: output, dead letter, ignored with its reason.

        `whole`: of these there is all that there should be; `made`: of these there is something.
        """
        replaced = self._replaced() if self.lane == "notes-vectors" else set()
        output = self.erased.get(OUTPUT.get(self.lane, ""), set())
        letters = self.erased.get("clinical.dead-letters", set())
        places: dict[str, set[tuple[str, int, int]]] = defaultdict(set)
        lost, both = [], []
        for place, event_id in self.accepted.at.items():
            if place[0] != self.topic:
                continue
            places[event_id].add(place)
            done = event_id in whole if event_id else False
            # That a newer version stands, or that there is no text, is for the verifier to say, not for the lane.
            reason = "replaced" if event_id in replaced else self.idle.get(event_id, "")
            ignored = reason == "replaced" or reason in self.audited[event_id]
            if event_id in made and place in self.dead:
                both.append(place)
            if not done and place not in self.dead:
                if place in (output if event_id else letters):
                    self.verdict.ignored["erased"] = self.verdict.ignored.get("erased", 0) + 1
                elif ignored:
                    self.verdict.ignored[reason] = self.verdict.ignored.get(reason, 0) + 1
                    self.verdict.passed[self.names.get(event_id, event_id)] = reason
                else:
                    lost.append(place)
        self.verdict.lost += len(lost)
        self.verdict.duplicated += len(both)
        self.found.blame("accepted, and neither output nor dead letter nor ignored", lost)
        self.found.blame("both output and dead letter", both)
        stale = (replaced & vectors) if self.lane == "notes-vectors" else set()
        self.verdict.duplicated += len(stale)
        self.found.blame("vectors of a version that was replaced", stale)
        unread = set(self.dead) | self.erased.get("clinical.audit", set())
        readable = {one for one, where in places.items() if one and not where <= unread}
        self.found.blame("predictions without an audit entry", readable - {one for one, words in self.audited.items() if words})

    def _replaced(self) -> set[str]:
        """Ids of note versions that another accepted one of the same note replaced: one that first came later."""
        first: dict[str, dict[str, tuple[datetime, int, int]]] = defaultdict(dict)  # by note and version
        usable: set[str] = set()
        for partition, offset, body in self.ledger.read_valid(self.topic):
            place = (self.topic, partition, offset)
            if place not in self.accepted.at or not self.accepted.at[place]:  # one that was spoilt must be a dead letter
                continue
            came = (datetime.fromisoformat(body["received_at"]), partition, offset)
            of_note = first[body["note_id"]]
            of_note[body["id"]] = min(came, of_note.get(body["id"], came))
            if place not in self.dead:
                usable.add(body["id"])
        older: set[str] = set()
        for of_note in first.values():
            comings = sorted((came, version) for version, came in of_note.items() if version in usable)
            older.update(version for _, version in comings[:-1])
        return older

    def _lives(self) -> None:
        """Follow each alert: no step is missing or turned, none comes after its end, none climbs once it was acknowledged."""
        lives: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        places: dict[str, int] = {}
        until: dict[int, datetime] = {}  # by partition: its newest logged time
        for partition, _, body in self.ledger.read("clinical.alerts"):
            now = datetime.fromisoformat(body.get("decided_at") or _NEVER)
            until[partition] = max(now, until.get(partition, now))
            if "alert_id" in body:
                lives[body["alert_id"]].setdefault(body["id"], body)
                places[body["alert_id"]] = partition
            self.verdict.blind = self.verdict.blind or body.get("kind") == "monitoring-blind"
        said = {body["id"]: body.get("received_at") or _NEVER for _, _, body in self.ledger.read("clinical.feedback")}
        turned, gaps, after, climbed, astray, uncalled = [], [], [], [], [], []
        for alert, of_alert in lives.items():
            steps = sorted(of_alert.values(), key=lambda body: int(body["sequence"]))
            if steps != list(of_alert.values()):
                turned.append(alert)
            first = steps[0]["sequence"] if "clinical.alerts" in self.erased else 0
            if [step["sequence"] for step in steps] != list(range(first, first + len(steps))):
                gaps.append(alert)
            if any(step["state"] in OVER for step in steps[:-1]):
                after.append(alert)
            answered = escalated = False
            for step in steps:
                if step["state"] == "escalated":
                    escalated = True
                    self.verdict.escalated += not step.get("by")
                    if answered:
                        climbed.append(step["id"])
                if not escalated and step.get("route") != _first_route(step):
                    astray.append(step["id"])
                answered = step["state"] == "acknowledged" or (answered and step["state"] != "updated")
            for step, then in zip_longest(steps, steps[1:]):
                due = self._calls_at(step)
                if due is None:
                    continue
                reached = until[places[alert]] if then is None else datetime.fromisoformat(then["decided_at"])
                if then is not None and (
                    answer := said.get(then["source"]["event_id"])
                ):  # in time, if heard late: as of an outage
                    reached = min(reached, datetime.fromisoformat(answer))
                if reached > due + _TICKS and (then is None or then["state"] != "escalated"):
                    uncalled.append(step["id"])
        self.found.blame("alerts whose steps stand in another order than their numbers", turned)
        self.found.blame("alerts of which a step is missing", gaps)
        self.found.blame("alerts that go on after their end", after)
        self.found.blame("alerts that climb though somebody has acknowledged them", climbed)
        self.found.blame("steps on another route than the alert's, though nobody was called in", astray)
        self.found.blame("emergencies that nobody answered and that call nobody in", uncalled)

    def _calls_at(self, step: Mapping[str, Any]) -> datetime | None:
        """Say when a step's alert calls the link of its chain, if nobody answers; None where it has, or need not.

        What came while nobody watched (`monitoring-blind`) is looked at first, for as long as that takes.
        """
        answering = step.get("answering") or {}
        waits = answering.get("waiting_since")
        if self.calls_after is None or self.verdict.blind or "clinical.alerts" in self.erased:
            return None
        if waits is None or answering["links"] or step["severity"] != "high":
            return None
        return datetime.fromisoformat(waits) + timedelta(seconds=self.calls_after)

    def _answers(self) -> None:
        """Each answer ends in exactly one step or note; in none where it came when the alert was over, or acknowledged already."""
        ids = self.accepted.ids(["clinical.feedback"])
        if not ids:
            return
        said = {body["id"]: body for _, _, body in self.ledger.read("clinical.feedback") if body["id"] in ids}
        led: dict[str, set[str]] = defaultdict(set)
        heard: dict[str, set[str]] = defaultdict(
            set
        )  # by alert: whose answers acknowledged it, or ended it; "" where nobody's did
        for _, _, body in self.ledger.read("clinical.alerts"):
            if "alert_id" in body:
                source = body["source"]["event_id"]
                led[source].add(body["id"])
                if body["state"] in (*OVER, "acknowledged"):
                    heard[body["alert_id"]].add(source if source in said else "")
        self.verdict.answers = len(said)
        self.verdict.declined = {body["patient_id"] for body in said.values() if body["kind"] == "alert-declined"}
        several = [one for one in said if len(led[one]) > 1]
        self.verdict.duplicated += len(several)
        self.found.blame("answers that led to several steps", several)
        before = {self.accepted.at[place] for place in self.erased.get("clinical.alerts", ())}
        waited = {one for one, body in said.items() if not led[one] and not heard[body["target_id"]] - {one}}
        lost = sorted(waited - before)
        self.verdict.lost += len(lost) + len(ids - set(said))
        self.found.blame("answers that no step tells of, to alerts that waited for one", lost)
        self.found.blame("answers that were accepted and are not on their topic", sorted(ids - set(said)))

    def _steps(self) -> None:
        """Note every step of every alert about a score, under the set that led to it: "" where none did.

        Left out is what depends on when it came: what is said of silence (a fault that stops the feed is rightly told), the steps
        that people's answers led to, and those that came because none did, with the route that they lead to (`_lives` has them).
        """
        found: dict[str, dict[str, str]] = defaultdict(dict)  # by source and the step's own id: two of the same words are two
        history = set()
        contents: dict[str, set[str]] = defaultdict(set)
        bodies: dict[tuple[str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
        for _, _, body in self.ledger.read("clinical.alerts"):
            contents[body["id"]].add(json.dumps({**body, "source": None}, sort_keys=True))
            if self._tells(json.dumps(body)):
                self.found.wrong.append(f"an alert tells who somebody is: {body['id']}")
            if body.get("kind") in ("news2", "deterioration") and body["state"] != "escalated" and not body.get("by"):
                source = self.names.get(body["source"]["event_id"], body["source"]["event_id"])
                if source.endswith(LATE):
                    history.add(body["id"])
                where = (body.get("location") or {}).get("ward"), _first_route(body), (body.get("news2") or {}).get("total")
                told = (body["patient_id"], body["kind"], body["state"], body["severity"], *where)
                words = " ".join(str(one) for one in told if one is not None)
                rests_on = self.scored.get(body.get("score_id") or "", {}).get("source")
                # What a context leads to rests on a set; on a patient's first it may or may not, as either came first (`first`).
                if body.get("score_id") in self.anew:
                    rests_on = self.met.get(body["patient_id"], rests_on)
                under = source if source in self.verdict.said else rests_on if rests_on in self.verdict.first else ""
                found[under][body["id"]] = words
                bodies[under, words][body["id"]] = {
                    **self._compared({**body, "title": _AGED.sub("", body.get("title", ""))}, STEP_APART),
                    # By its set: where a set's id is each run's own, the score's is.
                    "score_id": rests_on,
                    "quiet": (body.get("answering") or {}).get("quiet"),
                }
        self.verdict.steps = {source: sorted(words.values()) for source, words in found.items()}
        self.verdict.bodies = {
            where: sorted(steps.values(), key=lambda step: json.dumps(step, sort_keys=True)) for where, steps in bodies.items()
        }
        split = [one for one, texts in contents.items() if len(texts) > 1]
        self.verdict.duplicated += len(split)
        self.found.blame("alert events that say two things", split)
        self.found.blame("steps of alerts that history led to", sorted(history))

    def _rests(self) -> None:
        """Every step about a patient, whatever led to it, rests on a score of theirs, names where they are, and says what it shows.

        What is logged (`decided_at`, who is waited for since when) rests on the lane's own time, which nothing here knows.
        """
        times: dict[str, dict[str, set[int | None]]] = defaultdict(lambda: defaultdict(set))
        known = [one for told in self.told.values() for one in told] if self.lane == "vitals" else []
        for one in (*known, *self.scored.values()):
            for name in ("observed_at", "received_at"):
                times[one.get("patient_id") or ""][name].add(_milliseconds(one.get(name)))
        erased = "clinical.scores" in self.erased
        shown: dict[str, list[Any]] = defaultdict(list)
        for one in self.scored.values():
            shown[one["patient_id"]].append(_plain(one["news2"]))
        dangling, elsewhere, untimely, unshown, misworded = set(), set(), set(), set(), set()
        for _, _, body in self.ledger.read("clinical.alerts"):
            if body.get("kind") not in ("news2", "deterioration", "no-observations", "observed-after-end"):
                continue
            one, patient = body["id"], body["patient_id"]
            stay = {"encounter_id": body.get("encounter_id"), "location": body.get("location")}
            if stay not in (self.placed.get(patient) or [{"encounter_id": None, "location": None}]):
                elsewhere.add(one)
            if body["kind"] not in ("news2", "deterioration"):
                continue
            score = self.scored.get(body.get("score_id") or "")
            if not erased and (score is None or score["patient_id"] != patient):
                dangling.add(one)
            if any(_milliseconds(body.get(name)) not in times[patient][name] for name in ("observed_at", "received_at")):
                untimely.add(one)
            news2 = body.get("news2")
            # What a set led to shows its score; answers, and that there were none, come when they come: to what some score said.
            led = score is not None and score["source"] == self.names.get(source := body["source"]["event_id"], source)
            same = [_plain(score["news2"])] if score and led else shown[patient]
            if news2 and not erased and _plain(news2) not in same:
                unshown.add(one)
            if body["kind"] == "news2" and news2 and not _shows(body, news2, times[patient]["observed_at"]):
                misworded.add(one)
        self.found.blame("steps of alerts that rest on no score of their patient's", sorted(dangling))
        self.found.blame("steps of alerts that name another stay or place than the patient's contexts", sorted(elsewhere))
        self.found.blame("steps of alerts that name times of no set of their patient's", sorted(untimely))
        self.found.blame("steps of alerts whose NEWS2 is not that of their score", sorted(unshown))
        self.found.blame("steps of alerts whose words are not their NEWS2", sorted(misworded))

    def _told(self) -> None:
        """Of every patient whose NEWS2 was grave somebody was told; a load of ill patients without an alert shows nothing."""
        grave, told, scored = set(), set(), 0
        for _, _, body in self.ledger.read("clinical.scores"):
            scored += 1
            if body["news2"] and body["news2"]["total"] >= GRAVE:
                grave.add(body["patient_id"])
        for _, _, body in self.ledger.read("clinical.alerts"):
            if body.get("kind") == "news2":
                told.add(body["patient_id"])
        self.found.blame(f"patients with a NEWS2 of {GRAVE} and more of whom nobody was told", sorted(grave - told))
        if scored >= ENOUGH and not told:
            self.found.wrong.append(f"{scored} scores and no alert: the row shows nothing")

    def _charted(self) -> None:
        """Each score is what the chart gives for its set, and each patient's gravest so far led to a step that says how grave.

        Asked of sets that hold all of NEWS2, with what corrects them. Left out are first sets that came with their patient's first
        context (either may be read first), what is not to alert by itself (history, an outage's backlog, who is not watched), and
        whom an answer or a context had an alert end.
        """
        scores: dict[str, dict[str, Any]] = {}
        for _, _, body in self.ledger.read("clinical.scores"):
            if body["source"].get("topic", self.topic) == self.topic:
                scores.setdefault(body["source"]["event_id"], body)
        steps = {
            (body["source"]["event_id"], body["severity"])
            for _, _, body in self.ledger.read("clinical.alerts")
            if body.get("kind") == "news2" and body["state"] in ("raised", "updated")
        }
        first: dict[str, str] = {}
        states: dict[tuple[str, int], chart.Points] = {}
        gravest: dict[str, int] = {}
        erased = {self.accepted.at.get(place) for place in self.erased.get("clinical.alerts", ())}
        aside = self.verdict.declined | self.courses.keys()
        wrong, untold, checked = [], [], 0
        for one, of in sorted(self.sets.items(), key=lambda item: item[1].place):
            alone = one == first.setdefault(of.patient, one) and bool(self.names)
            points = {**states.get((of.patient, of.at), {}), **of.points} if of.correcting else of.points
            states[of.patient, of.at] = points
            score = scores.get(one)
            if score is None or one in self.moved or points.keys() != chart.PARAMETERS:
                continue
            if score["news2"] is None and (alone or of.patient in self.courses or of.patient in self.unscored):
                gravest[of.patient] = max(chart.RANK[chart.band(points)], gravest.get(of.patient, 0))
                continue
            checked += 1
            if not _as_charted(score, points, of.at):
                wrong.append(one)
            rank, before = chart.RANK[chart.band(points)], gravest.get(of.patient, 0)
            if score["late"]:
                continue
            gravest[of.patient] = max(rank, before)
            held = HELD & set(score["flags"]) or self.verdict.blind or one in erased or of.patient in aside
            if rank > before and not held and (one, chart.band(points)) not in steps:
                untold.append(one)
        self.found.blame("scores whose NEWS2 is not what the chart gives for their set", wrong)
        self.found.blame("sets that were graver than all before and that no step of an alert tells of", untold)
        self.verdict.compared["charted"] = checked
        if len(scores) >= ENOUGH and 2 * checked < len(scores):
            self.found.wrong.append(f"{checked} of {len(scores)} scores were held against the chart alone")

    def _one_each(self) -> None:
        """One condition of a patient is one alert: no second of its kind is raised while the first goes on."""
        seen, standing, twice = set(), dict[tuple[str, str], str](), set()
        for _, _, body in self.ledger.read("clinical.alerts"):
            if "alert_id" not in body or body["id"] in seen:
                continue
            seen.add(body["id"])
            kind = body["patient_id"], body["kind"] + body.get("peer", "")
            if standing.setdefault(kind, body["alert_id"]) != body["alert_id"]:
                twice.add(body["alert_id"])
            if body["state"] in OVER:
                standing.pop(kind, None)
        self.verdict.duplicated += len(twice)
        self.found.blame("alerts raised while another tells of the same", sorted(twice))

    def _courses(self) -> None:
        """What is said of each patient whose context changes is what it was to be, step by step, by the context of then."""
        steps: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        seen = set()
        for _, _, body in self.ledger.read("clinical.alerts"):
            if body.get("kind") not in ("news2", "observed-after-end") or body["id"] in seen:
                continue
            seen.add(body["id"])
            if body["patient_id"] in self.courses and body["state"] not in SAID_OF_SILENCE:
                source = body["source"]["event_id"]
                led = "moved" if source in self.moved else source
                steps[body["patient_id"]].append(
                    (led, body["state"], body["severity"], body["location"]["ward"], body["encounter_id"])
                )
        scored: dict[str, dict[str, Any]] = {}
        for _, _, body in self.ledger.read("clinical.scores"):
            if body["source"].get("topic", self.topic) == self.topic:
                scored.setdefault(body["source"]["event_id"], body)
        passed_on: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for body in self.moved.values():
            passed_on[body["moved_from"][-1]].append(body)
        otherwise, context, left = [], [], []
        for patient, course in self.courses.items():
            if (told := steps.get(patient, [])) != list(course.steps):
                otherwise.append(f"{patient}: {_first_other(told, course.steps)}")
            for one, (flag, reason) in course.sets.items():
                score = scored.get(one, {"flags": [], "news2_reason": "no score"})
                flags = [name for name in score["flags"] if name in HELD]
                if flags != ([flag] if flag else []) or score["news2_reason"] != reason:
                    context.append(f"{one} ({flags}, {score['news2_reason']!r})")
            if course.heir is not None:
                sets = passed_on.pop(patient, [])
                kept = {(at, value) for body in sets for at, value in _rates(body)}
                # All that was known of the last day in one set, and then each set by itself.
                all_went = len(sets) == 1 + course.after and {body["patient_id"] for body in sets} == {course.heir}
                if not all_went or not set(course.rates) <= kept:
                    left.append(patient)
        self.found.blame("patients of whom steps of alerts are not as their contexts have it", otherwise)
        self.found.blame("scores that do not go by the context of then", context)
        self.found.blame("merged patients whose observations did not go to the survivor, each once", left)
        self.found.blame("sets passed on of patients whom nobody merged", sorted(passed_on))
        self.verdict.lost += len(left)
        if self.courses:
            self.verdict.compared["courses"] = len(self.courses)

    def _made(self) -> None:
        """Note what the connectors made: the event of each message, and what each patient's context came to."""
        for _, _, body in self.ledger.read(self.topic):
            self.verdict.made[self.names[body["id"]]] = self._compared(body, ())
            self.met.setdefault(body["patient_id"], self.names[body["id"]])
        self.verdict.first = set(self.met.values())
        for _, _, body in self.ledger.read("clinical.patients"):
            self.verdict.contexts[body["patient_id"]] = self._compared(body, ())

    def _silence(self, logs: str) -> None:
        if times := len(self.marks.findall(logs)):
            self.found.wrong.append(f"a log or metric tells who somebody is ({times} times)")

    def _compare(self, undisturbed: Verdict, but: Collection[str] = ()) -> None:
        """Hold what both runs were sent against one another: a longer row has more, and a twisted one other inputs beside."""
        mine, theirs = self.verdict, undisturbed
        said, wanted = (
            {one: {name: value for name, value in of.items() if name not in but} for one, of in run.said.items()}
            for run in (mine, theirs)
        )
        both = mine.said.keys() & theirs.said.keys()
        if self.lane == "vitals":  # of a context and a set that come at once the lane rightly meets either first
            both -= mine.first | theirs.first
        if mine.blind or theirs.blind:  # longer than `monitor.blind_after`: then a backlog is an outage's
            for of in (*said.values(), *wanted.values()):
                of["flags"] = [one for one in of.get("flags", ()) if one != "catching-up"]
        self.found.blame("outputs that an undisturbed run says otherwise", _unlike(said, wanted, both))
        gone = {one for one, reason in mine.passed.items() if reason in ("no-text", "no-merge")}
        self.found.blame(
            "inputs ignored of which an undisturbed run makes something",
            sorted(gone & (theirs.said.keys() | theirs.points.keys())),
        )
        stored = mine.points.keys() & theirs.points.keys()
        self.found.blame(
            "points that an undisturbed run has otherwise",
            [one for one in sorted(stored) if mine.points[one] != theirs.points[one]],
        )
        far = [one for one in sorted(stored) if not _alike(mine.vectors.get(one, []), theirs.vectors.get(one, []))]
        self.found.blame("vectors that an undisturbed run has otherwise", far)
        events = mine.made.keys() & theirs.made.keys()
        self.found.blame("messages of which an undisturbed run makes something else", _unlike(mine.made, theirs.made, events))
        patients = {one: mine.contexts.get(one, {}) for one in theirs.contexts}
        self.found.blame(
            "patients whose context an undisturbed run has otherwise", _unlike(patients, theirs.contexts, theirs.contexts)
        )
        mine.compared |= {"outputs": len(both), "points": len(stored), "events": len(events), "contexts": len(theirs.contexts)}
        if self.lane == "vitals":
            self._compare_alerts(theirs, both, deterioration="deterioration" not in but)
        whole = {"outputs": theirs.said, "points": theirs.points, "events": theirs.made, "alert_steps": theirs.steps}
        nothing = [name for name, of in whole.items() if of and not mine.compared.get(name, 1)]
        if nothing or not any(mine.compared[name] for name in ("outputs", "points")):
            self.found.wrong.append(f"nothing was compared with an undisturbed run: {', '.join(nothing) or 'it has nothing'}")

    def _erased(self, topic: str) -> set[str]:
        """Names of the inputs that were accepted when a topic was deleted."""
        found = (self.accepted.at.get(place, "") for place in self.erased.get(topic, ()))
        return {self.names.get(one, one) for one in found if one}

    def _compare_alerts(self, theirs: Verdict, both: Collection[str], *, deterioration: bool = True) -> None:
        mine = self.verdict
        asked = mine.risk.keys() & theirs.risk.keys() & set(both) if deterioration else set()
        self.found.blame(
            "deterioration that an undisturbed run says otherwise",
            [one for one in sorted(asked) if mine.risk[one] != theirs.risk[one]],
        )
        if deterioration and 2 * len(asked) < len(both):  # now and then it may be late, by the machine's load (LIMITATIONS.md)
            self.found.wrong.append(f"the deterioration model answered in both runs of {len(asked)} in {len(both)} sets alone")
        # Of what stood on a topic that was deleted nothing is known, nor of what followed from no set.
        erased = {one for topic in ("clinical.alerts", "clinical.scores") for one in self._erased(topic)}
        causes = [*sorted(both - erased), *(() if erased else ("",))]
        declined = mine.declined | theirs.declined  # what follows depends on when that was
        told, wanted = (
            Counter((one, step) for one in causes for step in run.steps.get(one, ()) if step.partition(" ")[0] not in declined)
            for run in (mine, theirs)
        )
        self.found.blame("steps of alerts that an undisturbed run has and this one has not", sorted((wanted - told).elements()))
        self.found.blame("steps of alerts that an undisturbed run has not", sorted((told - wanted).elements()))
        otherwise = [
            f"{where[0]}: {where[1]} ({_differing(one, other)})"
            for where in sorted((told & wanted).keys() if not erased else ())
            for one, other in zip(mine.bodies.get(where, ()), theirs.bodies.get(where, ()), strict=False)
            if one != other
        ]
        self.found.blame("steps of alerts that an undisturbed run says otherwise", otherwise)
        mine.compared |= {"deterioration": len(asked), "alert_steps": wanted.total()}


class Reader(Ledger):
    """A ledger whose input topics may hold what is no JSON."""

    def read_valid(self, topic: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Yield what can be read as a JSON object with an id."""
        for partition, offset, value in self.values(topic):
            try:
                body = json.loads(value or b"")
            except ValueError:
                continue
            if isinstance(body, dict) and "id" in body and "note_id" in body:
                yield partition, offset, body


PLACE = ("topic", "partition", "offset")  # of an input: a load with more in it is laid out otherwise (`_places` holds them)
OUTPUT_APART = ("source", "deterioration", "deterioration_reason")
"""Of an output: where its input lay; and what the model said, which is late by the machine's load (LIMITATIONS.md): by itself."""
STEP_APART = ("id", "sequence", "source", "decided_at", "answering", "route", "routes")
"""Of a step of an alert: what depends on when people answered, and when those who do not were passed by: a fault delays both.

So its number and with it its id, the lane's logged time, who is waited for, and who was told (of which the first is compared).
"""
OWN = {
    *("id", "note_id", "image_id", "replaces", "study_uid", "series_uid", "instance_uid", "version", "uri", "alert_id"),
    *("source", "message_id", "digest", "sha256", "bytes"),  # a DICOM object has its times in it
    *("received_at", "received", "effective_at"),  # FHIR resources of persons and stays hold as of their receipt
}
"""Fields that name a message or its bytes, or say when it came: each run's own, where senders write messages as it begins."""
_NEVER = "1970-01-01T00:00:00Z"
_TICKS = timedelta(seconds=3)  # logged time comes second by second
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")
_CLOCK = re.compile(r"\b\d\d:\d\d UTC\b")
_AGED = re.compile(r" as of \d\d:\d\d UTC(?=:|$)")  # in a title: where a fault delayed it
_TOTAL = re.compile(
    r"NEWS2 (?:\d+(?: \([^)]*\))? at [-\d :]+ UTC, then )?(?:at least )?(\d+)\b"
)  # perhaps behind a graver one's
_POINTS = re.compile(r"\((\d)\)")


def _since(part: Any, began: int, apart: Collection[str]) -> Any:
    """Return a part with each time as ms since `began`; of one in a sentence, which has minutes alone, that there is one."""
    if isinstance(part, dict):
        return {name: _since(value, began, apart) for name, value in part.items() if name not in apart}
    if isinstance(part, list):
        return [_since(one, began, apart) for one in part]
    if isinstance(part, str):
        at = _milliseconds(part)
        # 1970: registration has not spoken yet.
        return part if at == 0 else f"{at - began} ms" if at is not None else _CLOCK.sub("--:-- UTC", part)
    return part


def _plain(part: Any) -> Any:
    """Return a part with its times as ms since 1970, however they are written."""
    return _since(part, 0, ())


def _milliseconds(text: Any) -> int | None:
    """Read a time as whole milliseconds since 1970; None where it is none."""
    if not isinstance(text, str) or not _TIME.match(text):
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int(at.timestamp() * 1_000_000 + 0.5) // 1000 if at.tzinfo else None


def _read(value: bytes | None) -> dict[str, Any]:
    try:
        body = json.loads(value or b"")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _unlike(mine: Mapping[str, Mapping[str, Any]], theirs: Mapping[str, Mapping[str, Any]], both: Iterable[str]) -> list[str]:
    """Name what two runs say otherwise, with the fields."""
    return [f"{one} ({_differing(mine[one], theirs[one])})" for one in sorted(both) if mine[one] != theirs[one]]


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return ", ".join(sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)))


def _shows(step: Mapping[str, Any], news2: Mapping[str, Any], sets: Iterable[int | None]) -> bool:
    """Say whether a step's title and detail tell of its NEWS2: the total, each parameter by its points.

    No time but theirs, or that of another of the patient's `sets` (ms), for which the alert was told before.
    """
    points = [one["points"] for one in news2["parameters"]]
    clock = {
        at.partition("T")[2][:5] for one in (*news2["parameters"], *news2.get("refused", ())) if (at := one["observed_at"])
    }
    clock |= {f"{datetime.fromtimestamp(at / 1000, UTC):%H:%M}" for at in sets if at is not None}
    total = _TOTAL.match(step["title"])
    return (
        total is not None
        and int(total[1]) == news2["total"]
        and sorted(map(int, _POINTS.findall(step["title"]))) == sorted(one for one in points if one)
        and list(map(int, _POINTS.findall(step["detail"]))) == [one for one in points if not one]
        and {at.removesuffix(" UTC") for at in _CLOCK.findall(step["detail"])} <= clock
    )


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _pattern(marks: Collection[str]) -> re.Pattern[str]:
    """Find any of these: numbers and dates wherever they stand, names as words, in capitals too."""
    names = {re.escape(form) for one in marks if one.isalpha() for form in (one, one.upper())}
    others = {re.escape(one) for one in marks if not one.isalpha()}
    return re.compile("|".join(sorted(others | {rf"(?<![^\W\d_]){one}(?![^\W\d_])" for one in names})))


def _first_route(step: Mapping[str, Any]) -> Any:
    """Return where an alert was sent first, whoever was called in since."""
    return next(iter(step.get("routes") or ()), step.get("route"))


def _survivor(patient: str, survivors: Mapping[str, str]) -> str:
    while patient in survivors:
        patient = survivors[patient]
    return patient


def _as_charted(score: Mapping[str, Any], points: chart.Points, at: int) -> bool:
    """Say whether a score's NEWS2 is the sum of these points, each of the set's own time."""
    news2 = score["news2"]
    if news2 is None:
        return False
    told = {one["name"]: one["points"] for one in news2["parameters"]}
    times = {_milliseconds(one["observed_at"]) for one in news2["parameters"]}
    rest = not news2["missing"] and news2["total"] == sum(points.values()) and news2["band"] == chart.band(points)
    return rest and told == points and times == {at}


def _rates(body: Mapping[str, Any]) -> Iterator[tuple[int | None, Any]]:
    """Yield the heart rates of a set with their times: by them the observations that a merge passes on are known."""
    for one in body["observations"]:
        if one["code"] == "8867-4":
            yield _milliseconds(one.get("observed_at") or body["observed_at"]), one["value"]


def _first_other(told: Sequence[Any], wanted: Sequence[Any]) -> str:
    """Say where two courses part."""
    for number, (one, other) in enumerate(zip_longest(told, wanted)):
        if one != other:
            return f"step {number} is {one}, and was to be {other}"
    return "they are alike"


def _alike(mine: list[list[float]], theirs: list[list[float]]) -> bool:
    """Say whether vectors of unit length point the same way, one by one: runs may round otherwise."""
    cosines = (sum(a * b for a, b in zip(one, other, strict=True)) for one, other in zip(mine, theirs, strict=False))
    return all(cosine > 0.999 for cosine in cosines)


def _scroll(url: str, collection: str) -> Iterator[tuple[Mapping[str, Any], list[float]]]:
    """Yield the payload and the dense vector of every point of a collection; nothing where there is none."""
    client = QdrantClient(url=url, check_compatibility=False)
    try:
        offset, more = None, client.collection_exists(collection)
        while more:
            page, offset = client.scroll(collection, limit=5000, offset=offset, with_payload=True, with_vectors=True)
            yield from ((point.payload or {}, _dense(point.vector)) for point in page)
            more = offset is not None
    finally:
        client.close()


def _dense(vector: Any) -> list[float]:
    """Return a point's dense vector, whatever it is called: sparse ones are words."""
    named = vector.values() if isinstance(vector, dict) else [vector]
    return next(([float(value) for value in one] for one in named if isinstance(one, list)), [])
