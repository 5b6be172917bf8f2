"""The verifier of one row: holds what came out of one lane against what its senders were told. Nothing of Vigil's code is used."""

import base64
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from qdrant_client import QdrantClient

from tests.faults.inputs import BORN, LATE, PHI, Accepted, Place
from tests.storm.verify import Ledger, Reckoning, alerts

INPUT = {
    "merges": "clinical.patients",
    "notes-entities": "clinical.notes",
    "notes-vectors": "clinical.notes",
    "images": "clinical.images",
    "vitals": "clinical.vitals",
}
OUTPUT = {"notes-entities": "clinical.entities", "images": "clinical.findings", "vitals": "clinical.scores"}
COLLECTION = {"notes-vectors": "notes", "images": "images"}
IGNORED = {"outdated", "no-text", "no-merge"}  # what the audit says of an input that rightly leaves nothing behind
ENOUGH = 60  # scores: a load of so many has patients who are ill
GRAVE = 7  # NEWS2 from which somebody must have been told
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
    repeats: int = 0  # records beyond the first of one logical output: allowed
    said: dict[str, str] = field(default_factory=dict)  # input id -> what its output says, times apart
    risk: dict[str, str] = field(
        default_factory=dict
    )  # input id -> what its score says of deterioration, if the model was asked
    points: dict[str, list[str]] = field(default_factory=dict)  # input id -> the payloads of its points
    vectors: dict[str, list[list[float]]] = field(default_factory=dict)  # input id -> their vectors, in the payloads' order
    steps: dict[str, list[str]] = field(default_factory=dict)  # input id -> the steps of alerts that it led to, in words
    answers: int = 0  # of people, to alerts
    escalated: int = 0  # steps of alerts that nobody answered
    declined: set[str] = field(default_factory=set)  # patients of whom an alert was declined
    first: set[str] = field(default_factory=set)  # messages that brought a patient's context and first set at once
    made: dict[str, str] = field(default_factory=dict)  # message -> what the connectors made of it, times and ids apart
    contexts: dict[str, str] = field(default_factory=dict)  # patient -> the last context that they made, likewise
    compared: dict[str, int] = field(default_factory=dict)  # how much of each was held against an undisturbed run's
    wrong: list[str] = field(default_factory=list)


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
    ) -> None:
        """`names`: what senders call the inputs, by event id. `erased`: what was accepted when an output topic was deleted."""
        self.names = names or {}
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
        self.audited: dict[str, set[str]] = defaultdict(set)

    def judge(self, logs: str, undisturbed: Verdict | None = None) -> Verdict:
        """Hold everything against everything; `undisturbed` is the same load's verdict without a fault."""
        self._letters()
        self._originals()
        self._audit()
        ids = self.accepted.ids([self.topic])
        outputs = self._outputs(ids) if self.lane in OUTPUT else set(ids)
        if self.lane == "merges":
            outputs = self._merged(ids)
        vectors = self._vectors(ids) if self.lane in COLLECTION else set(ids)
        self._account(ids, outputs & vectors, outputs, vectors)
        self._silence(logs)
        if self.lane == "vitals":
            self.verdict.duplicated += alerts(self.ledger, self.found)
            self._lives()
            self._answers()
            self._steps()
            self._told()
        if self.names:
            self._made()
        if undisturbed is not None:
            self._compare(undisturbed)
        self.verdict.wrong = self.found.wrong
        return self.verdict

    def _letters(self) -> None:
        letters: dict[str, set[str]] = defaultdict(set)
        for _, _, letter in self.ledger.read("clinical.dead-letters"):
            if letter["lane"] != self.lane:
                continue
            topic = letter["original_topic"].removeprefix(self.prefix)
            place = (topic, letter["original_partition"], letter["original_offset"])
            self.dead[place] += 1
            letters[letter["id"]].add(json.dumps({**letter, "failed_at": None, "attempts": None}, sort_keys=True))
            told = json.dumps({name: value for name, value in letter.items() if not name.startswith("original_")})
            if PHI in told or BORN in told:
                self.found.wrong.append(f"a dead letter's own words tell of a patient: {letter['id']}")
        self.verdict.dead_letters = len(self.dead)
        self.verdict.repeats += sum(self.dead.values()) - len(letters)
        split = [one for one, texts in letters.items() if len(texts) > 1]
        self.verdict.duplicated += len(split) + max(0, len(letters) - len(self.dead))
        self.found.blame("dead letters that say two things", split)
        self.found.blame("dead letters of what was never accepted", set(self.dead) - set(self.accepted.at))

    def _originals(self) -> None:
        """A dead letter holds its original whole: value and headers as they stand at its place."""
        letters = [body for _, _, body in self.ledger.read("clinical.dead-letters") if body["lane"] == self.lane]
        if not letters:
            return
        there = {(partition, offset): value for partition, offset, value in self.ledger.values(self.topic)}
        spoilt = []
        for letter in letters:
            place = (letter["original_partition"], letter["original_offset"])
            said = letter.get("original_value")
            value = None if said is None else base64.b64decode(said)
            if place in there and not letter.get("cut") and value != there[place]:
                spoilt.append((self.topic, *place))
        self.verdict.lost += len(spoilt)
        self.found.blame("dead letters that do not hold their original", spoilt)

    def _audit(self) -> None:
        for _, _, body in self.ledger.read("clinical.audit"):
            if PHI in json.dumps(body) or BORN in json.dumps(body):
                self.found.wrong.append(f"the audit tells of a patient: {body['id']}")
            if body["action"] == "predict" and body["agent"].partition("@")[0] == self.lane:
                for entry in body["entries"]:
                    self.audited[entry["input_id"]].add(entry["outcome"])

    def _outputs(self, ids: set[str]) -> set[str]:
        output = OUTPUT[self.lane]
        of_input: dict[str, set[str]] = defaultdict(set)
        said: dict[str, set[str]] = defaultdict(set)
        records = 0
        unheard = []
        came = self._came()
        for _, _, body in self.ledger.read(output):
            if body["source"].get("topic", self.topic) != self.topic:  # scored anew by a context that was read after the set
                continue
            records += 1
            source = body["source"]["event_id"]
            of_input[source].add(body["id"])
            received = body.pop("received_at", None) if self.lane == "notes-entities" else None
            if received not in came.get(source, {received}):
                unheard.append(body["id"])
            said[body["id"]].add(json.dumps({**body, "source": None}, sort_keys=True))
            name = self.names.get(source, source)
            self.verdict.said[name] = _content(body) if name != source and "news2" not in body else _timeless(body)
            if "news2" in body and not str(body["deterioration_reason"]).startswith(SILENT):
                self.verdict.risk[name] = json.dumps([body["deterioration"], body["deterioration_reason"]], sort_keys=True)
        several = [one for one, outs in of_input.items() if len(outs) > 1]
        split = [one for one, texts in said.items() if len(texts) > 1]
        never = set(of_input) - ids - self.accepted.unknown
        self.verdict.repeats += records - len(said)
        self.verdict.duplicated += len(several) + len(split) + len(never)
        self.found.blame("inputs with several logical outputs", several)
        self.found.blame("a repeat says something else", split)
        self.found.blame("outputs of what was never accepted", never)
        self.found.blame("outputs that name another receipt than their input's", unheard)
        self._places(output)
        return set(of_input)

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

    def _came(self) -> dict[str, set[str]]:
        """Return when each note was received, by its event's id: one that its sender sends again has the same, and another time."""
        came: dict[str, set[str]] = defaultdict(set)
        for _, _, body in self.ledger.read_valid(self.topic) if self.lane == "notes-entities" else ():
            came[body["id"]].add(str(body.get("received_at")))
        return came

    def _vectors(self, ids: set[str]) -> set[str]:
        assert self.qdrant is not None
        points: dict[str, list[tuple[str, list[float]]]] = defaultdict(list)
        hollow = []
        for payload, vector in _scroll(self.qdrant, COLLECTION[self.lane]):
            points[payload["version"]].append((_placeless(payload), vector))
            if not math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-2):
                hollow.append(payload["version"])
        self.found.blame("points whose vector is not of unit length", hollow)
        for version, found in points.items():
            found.sort()
            self.verdict.points[version] = [payload for payload, _ in found]
            self.verdict.vectors[version] = [vector for _, vector in found]
        versions = set(points)
        never = versions - ids - self.accepted.unknown
        self.verdict.duplicated += len(never)
        self.found.blame("vectors of what was never accepted", never)
        return versions

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

    def _account(self, ids: set[str], whole: set[str], outputs: set[str], vectors: set[str]) -> None:
        """Every accepted input ends as exactly one of: output, dead letter, ignored with its reason."""
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
            # That a newer version stands is for the verifier to say, not for the lane.
            believed = IGNORED - {"outdated"} if self.lane == "notes-vectors" else IGNORED
            ignored = bool(event_id) and (event_id in replaced or bool(self.audited[event_id] & believed))
            if done and place in self.dead:
                both.append(place)
            if not done and place not in self.dead:
                if place in (output if event_id else letters):
                    self.verdict.ignored["erased"] = self.verdict.ignored.get("erased", 0) + 1
                elif ignored:
                    reason = "replaced" if event_id in replaced else min(self.audited[event_id] & IGNORED)
                    self.verdict.ignored[reason] = self.verdict.ignored.get(reason, 0) + 1
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
        for _, _, body in self.ledger.read("clinical.alerts"):
            if "alert_id" in body:
                lives[body["alert_id"]].setdefault(body["id"], body)
        turned, gaps, after, climbed, astray = [], [], [], [], []
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
        self.found.blame("alerts whose steps stand in another order than their numbers", turned)
        self.found.blame("alerts of which a step is missing", gaps)
        self.found.blame("alerts that go on after their end", after)
        self.found.blame("alerts that climb though somebody has acknowledged them", climbed)
        self.found.blame("steps on another route than the alert's, though nobody was called in", astray)

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
        for _, _, body in self.ledger.read("clinical.alerts"):
            contents[body["id"]].add(json.dumps({**body, "source": None}, sort_keys=True))
            if body.get("kind") in ("news2", "deterioration") and body["state"] != "escalated" and not body.get("by"):
                source = self.names.get(body["source"]["event_id"], body["source"]["event_id"])
                if source.endswith(LATE):
                    history.add(body["id"])
                where = (body.get("location") or {}).get("ward"), _first_route(body), (body.get("news2") or {}).get("total")
                told = (body["patient_id"], body["kind"], body["state"], body["severity"], *where)
                words = " ".join(str(one) for one in told if one is not None)
                found[source if source in self.verdict.said else ""][body["id"]] = words
        self.verdict.steps = {source: sorted(words.values()) for source, words in found.items()}
        split = [one for one, texts in contents.items() if len(texts) > 1]
        self.verdict.duplicated += len(split)
        self.found.blame("alert events that say two things", split)
        self.found.blame("steps of alerts that history led to", sorted(history))

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

    def _made(self) -> None:
        """Note what the connectors made: the event of each message, and what each patient's context came to."""
        met: dict[str, str] = {}
        for _, _, body in self.ledger.read(self.topic):
            self.verdict.made[self.names[body["id"]]] = _content(body)
            met.setdefault(body["patient_id"], self.names[body["id"]])
        self.verdict.first = set(met.values())
        for _, _, body in self.ledger.read("clinical.patients"):
            self.verdict.contexts[body["patient_id"]] = _content(body)

    def _silence(self, logs: str) -> None:
        for word in (PHI, BORN):
            if word in logs:
                self.found.wrong.append(f"a log tells of a patient ({logs.count(word)} times)")

    def _compare(self, undisturbed: Verdict) -> None:
        """Hold what both runs were sent against one another: a longer row has more, and a twisted one other inputs beside."""
        mine, theirs = self.verdict, undisturbed
        both = mine.said.keys() & theirs.said.keys()
        if self.lane == "vitals":  # of a context and a set that come at once the lane rightly meets either first
            both -= mine.first | theirs.first
        self.found.blame(
            "outputs that an undisturbed run says otherwise",
            [one for one in sorted(both) if mine.said[one] != theirs.said[one]],
        )
        stored = mine.points.keys() & theirs.points.keys()
        self.found.blame(
            "points that an undisturbed run has otherwise",
            [one for one in sorted(stored) if mine.points[one] != theirs.points[one]],
        )
        far = [one for one in sorted(stored) if not _alike(mine.vectors.get(one, []), theirs.vectors.get(one, []))]
        self.found.blame("vectors that an undisturbed run has otherwise", far)
        events = mine.made.keys() & theirs.made.keys()
        self.found.blame(
            "messages of which an undisturbed run makes something else",
            [one for one in sorted(events) if mine.made[one] != theirs.made[one]],
        )
        self.found.blame(
            "patients whose context an undisturbed run has otherwise",
            [one for one, said in theirs.contexts.items() if mine.contexts.get(one) != said],
        )
        mine.compared = {"outputs": len(both), "points": len(stored), "events": len(events), "contexts": len(theirs.contexts)}
        if self.lane != "vitals":
            return
        asked = mine.risk.keys() & theirs.risk.keys() & both
        self.found.blame(
            "deterioration that an undisturbed run says otherwise",
            [one for one in sorted(asked) if mine.risk[one] != theirs.risk[one]],
        )
        causes = [*sorted(both), ""]
        declined = mine.declined | theirs.declined  # what follows depends on when that was
        told, wanted = (
            Counter((one, step) for one in causes for step in run.steps.get(one, ()) if step.partition(" ")[0] not in declined)
            for run in (mine, theirs)
        )
        self.found.blame("steps of alerts that an undisturbed run has and this one has not", sorted((wanted - told).elements()))
        self.found.blame("steps of alerts that an undisturbed run has not", sorted((told - wanted).elements()))
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


def _placeless(payload: Mapping[str, Any]) -> str:
    """What a point says, without where its input lay: a load with more in it is laid out otherwise."""
    return json.dumps({name: value for name, value in payload.items() if name not in ("partition", "offset")}, sort_keys=True)


OWN = {
    *("id", "note_id", "image_id", "replaces", "study_uid", "series_uid", "instance_uid"),
    *("source", "origin", "pixels", "encounter_since"),  # a DICOM object has its times in it
}
"""Fields that name a message, or say when it was: each run's own, where the senders' messages are written as it begins."""


def _content(body: Mapping[str, Any]) -> str:
    """What the connectors made of a message, or a lane of that."""
    return json.dumps(_without_times({name: value for name, value in body.items() if name not in OWN}), sort_keys=True)


def _timeless(body: Mapping[str, Any]) -> str:
    """What an output says, without when and from where: two runs of one load say the same.

    Of a score, NEWS2 and what was rejected; whether the deterioration model was late depends on the machine's load
    (LIMITATIONS.md), so what it says is compared apart.
    """
    if "news2" in body:
        return json.dumps(
            _without_times([body[name] for name in ("patient_id", "news2", "news2_reason", "rejected")]), sort_keys=True
        )
    return json.dumps(_without_times({**body, "source": None}), sort_keys=True)


def _without_times(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _without_times(value) for name, value in part.items() if not name.endswith("_at")}
    return [_without_times(one) for one in part] if isinstance(part, list) else part


def _first_route(step: Mapping[str, Any]) -> Any:
    """Return where an alert was sent first, whoever was called in since."""
    return next(iter(step.get("routes") or ()), step.get("route"))


def _survivor(patient: str, survivors: Mapping[str, str]) -> str:
    while patient in survivors:
        patient = survivors[patient]
    return patient


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
