"""The verifier of one row: holds what came out of one lane against what its senders were told. Nothing of Vigil's code is used."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from qdrant_client import QdrantClient

from tests.faults.inputs import BORN, PHI, Accepted
from tests.storm.verify import Ledger, Reckoning, alerts

INPUT = {
    "notes-entities": "clinical.notes",
    "notes-vectors": "clinical.notes",
    "images": "clinical.images",
    "vitals": "clinical.vitals",
}
OUTPUT = {"notes-entities": "clinical.entities", "images": "clinical.findings", "vitals": "clinical.scores"}
COLLECTION = {"notes-vectors": "notes", "images": "images"}
IGNORED = {"outdated", "no-text"}  # what the audit says of an input that rightly leaves nothing behind


@dataclass
class Verdict:
    """What the verifier found: `wrong` has a line for everything that breaks the promise."""

    accepted: int = 0
    lost: int = 0
    duplicated: int = 0
    dead_letters: int = 0
    ignored: dict[str, int] = field(default_factory=dict)
    repeats: int = 0  # records beyond the first of one logical output: allowed
    said: dict[str, str] = field(default_factory=dict)  # input id -> what its output says, times apart
    raised: dict[str, int] = field(default_factory=dict)  # alerts raised, by patient, kind and severity
    wrong: list[str] = field(default_factory=list)


class Judge:
    """Reads a row's topics and vectors once, and says what is wrong."""

    def __init__(self, lane: str, bootstrap: str, prefix: str, accepted: Accepted, qdrant: str | None) -> None:
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
        self._audit()
        ids = self.accepted.ids([self.topic])
        outputs = self._outputs(ids) if self.lane in OUTPUT else set(ids)
        vectors = self._vectors(ids) if self.lane in COLLECTION else set(ids)
        self._account(ids, outputs & vectors, outputs, vectors)
        self._silence(logs)
        if self.lane == "vitals":
            self.verdict.duplicated += alerts(self.ledger, self.found)
            self._raised()
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
        for _, _, body in self.ledger.read(output):
            records += 1
            source = body["source"]["event_id"]
            of_input[source].add(body["id"])
            said[body["id"]].add(json.dumps({**body, "source": None}, sort_keys=True))
            self.verdict.said[source] = _timeless(body)
        several = [one for one, outs in of_input.items() if len(outs) > 1]
        split = [one for one, texts in said.items() if len(texts) > 1]
        never = set(of_input) - ids - self.accepted.unknown
        self.verdict.repeats += records - len(said)
        self.verdict.duplicated += len(several) + len(split) + len(never)
        self.found.blame("inputs with several logical outputs", several)
        self.found.blame("a repeat says something else", split)
        self.found.blame("outputs of what was never accepted", never)
        return set(of_input)

    def _vectors(self, ids: set[str]) -> set[str]:
        assert self.qdrant is not None
        versions: set[str] = set()
        for payload in _scroll(QdrantClient(url=self.qdrant), COLLECTION[self.lane]):
            versions.add(payload["version"])
        never = versions - ids - self.accepted.unknown
        self.verdict.duplicated += len(never)
        self.found.blame("vectors of what was never accepted", never)
        return versions

    def _account(self, ids: set[str], whole: set[str], outputs: set[str], vectors: set[str]) -> None:
        """Every accepted input ends as exactly one of: output, dead letter, ignored with its reason."""
        replaced = self._replaced() if self.lane == "notes-vectors" else set()
        places: dict[str, set[tuple[str, int, int]]] = defaultdict(set)
        lost, both = [], []
        for place, event_id in self.accepted.at.items():
            if place[0] != self.topic:
                continue
            places[event_id].add(place)
            done = event_id in whole if event_id else False
            ignored = bool(event_id) and (event_id in replaced or bool(self.audited[event_id] & IGNORED))
            if done and place in self.dead:
                both.append(place)
            if not done and place not in self.dead:
                if ignored:
                    reason = "replaced" if event_id in replaced else min(self.audited[event_id] & IGNORED)
                    self.verdict.ignored[reason] = self.verdict.ignored.get(reason, 0) + 1
                else:
                    lost.append(place)
        self.verdict.lost = len(lost)
        self.verdict.duplicated += len(both)
        self.found.blame("accepted, and neither output nor dead letter nor ignored", lost)
        self.found.blame("both output and dead letter", both)
        stale = (replaced & vectors) if self.lane == "notes-vectors" else set()
        self.verdict.duplicated += len(stale)
        self.found.blame("vectors of a version that was replaced", stale)
        readable = {one for one, where in places.items() if one and not where <= set(self.dead)}
        self.found.blame("predictions without an audit entry", readable - {one for one, words in self.audited.items() if words})

    def _replaced(self) -> set[str]:
        """Ids of note versions that a later accepted record of the same note replaced."""
        last: dict[str, str] = {}
        older: set[str] = set()
        for partition, offset, body in self.ledger.read_valid(self.topic):
            if (self.topic, partition, offset) not in self.accepted.at or (self.topic, partition, offset) in self.dead:
                continue
            before = last.get(body["note_id"])
            if before is not None and before != body["id"]:
                older.add(before)
                older.discard(body["id"])
            last[body["note_id"]] = body["id"]
        return older

    def _raised(self) -> None:
        for _, _, body in self.ledger.read("clinical.alerts"):
            if body.get("state") == "raised" and body.get("kind") == "news2":
                self.verdict.raised[f"{body['patient_id']} {body['severity']}"] = 1

    def _silence(self, logs: str) -> None:
        for word in (PHI, BORN):
            if word in logs:
                self.found.wrong.append(f"a log tells of a patient ({logs.count(word)} times)")

    def _compare(self, undisturbed: Verdict) -> None:
        differs = [i for i, words in self.verdict.said.items() if i in undisturbed.said and undisturbed.said[i] != words]
        self.found.blame("outputs that an undisturbed run says otherwise", differs)
        if self.lane == "vitals" and set(undisturbed.said) <= set(self.verdict.said):
            self.found.blame(
                "alerts of an undisturbed run that were not raised", set(undisturbed.raised) - set(self.verdict.raised)
            )


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


def _timeless(body: Mapping[str, Any]) -> str:
    """What an output says, without when and from where: two runs of one load say the same.

    Whether the deterioration model was late depends on the machine's load (LIMITATIONS.md): of a score, NEWS2 is compared.
    """
    if "news2" in body:
        return json.dumps(_without_times([body["patient_id"], body["news2"]]), sort_keys=True)
    return json.dumps(_without_times({**body, "source": None}), sort_keys=True)


def _without_times(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _without_times(value) for name, value in part.items() if not name.endswith("_at")}
    return [_without_times(one) for one in part] if isinstance(part, list) else part


def _scroll(client: QdrantClient, collection: str) -> Iterator[Mapping[str, Any]]:
    if not client.collection_exists(collection):
        return
    offset: Any = None
    while True:
        page, offset = client.scroll(collection, limit=5000, offset=offset, with_payload=["version"], with_vectors=False)
        yield from (point.payload or {} for point in page)
        if offset is None:
            return
