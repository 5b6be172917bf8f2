"""The checks behind `vigil doctor`."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from connectors.objects import ObjectStore
from connectors.qdrant.search import unsearched
from connectors.qdrant.settings import NOTES, CollectionSpec, images
from connectors.qdrant.store import VectorStore, Where
from models.batching import describe
from models.errors import Fatal, Permanent, Transient, VigilError
from models.figures import DOSE, VALUE
from models.registry import ModelEntry, Registry, labels_of
from models.tasks import ImageTextModel, TextEmbedder, TokenClassifier
from models.vocabulary import vocabulary
from processors.events import PatientEvent
from processors.rules import MonitorRules
from streams import brokertime, placement, topics
from streams.caching import redis_version
from streams.custody import lost_collection
from streams.health import asked_at
from streams.inference import open_model
from streams.lagging import READS, hung, lags, patients, unattended, unready
from streams.lanes.merges import WRITERS
from streams.listeners import listeners
from streams.progress import Progress
from streams.reader import Reader
from streams.settings import DEMO_SECRET, Settings
from streams.topic_options import MEET, Difference, show

_TASKS = ("ner", "embedding", "image-text", "deterioration")
# Where a task's vectors go.
COLLECTIONS: Final[Mapping[str, CollectionSpec]] = {"embedding": NOTES, "image-text": images(dimensions=0)}
# What models of the i2b2 guide and the like call what the table's labels mean.
_USUAL: Final = {
    "problem": "condition",
    "disease": "condition",
    "treatment": "medication",
    "drug": "medication",
    "chemical": "medication",
}
_LOW_DISK = 5 * 2**30
_FIRST_PORT, _PORTS = 9101, 32  # as `vigil up` and `vigil status` have them
_FEW = 3  # patients on whom nothing can alert: fewer are no fault of a feed (as in infra/prometheus/alerts.yml)
_LOOKED_AT = 200  # records of a partition, to see whether patients lie where they should
_APART, _FAR_APART = 5.0, 30.0  # seconds between this host's clock and Kafka's: NTP keeps both within far less


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    verdict: Literal["ok", "warning", "wrong"]
    what: str
    found: str
    mend: str = ""


async def run_checks(settings: Settings, first_port: int = _FIRST_PORT) -> list[Check]:
    """Run all checks; none of them changes anything. `first_port`: that of `vigil up`, where the processes are asked."""
    checks: list[Check] = []
    pages = _pages(settings, first_port)
    probes: tuple[tuple[str, Callable[[], Awaitable[list[Check]]]], ...] = (
        ("kafka", lambda: _kafka(settings)),
        ("clock", lambda: _clock(settings)),
        ("qdrant", lambda: _qdrant(settings)),
        ("models", lambda: _models(settings)),
        ("cache", lambda: _cache(settings)),
        ("disk", lambda: _disk(settings)),
        ("site", lambda: _site(settings)),
        ("monitor", lambda: _monitor(settings)),
        ("answers", lambda: _answers(settings)),
        ("ports", lambda: _ports(settings, pages)),
        ("lanes", lambda: _lanes(settings)),
        ("patients", lambda: _patients(pages)),
        ("workers", lambda: _workers(pages)),
    )
    for what, probe in probes:
        try:
            checks += await probe()
        except VigilError as error:
            checks.append(Check("wrong", what, str(error), error.hint or ""))
        except Exception as error:  # the other checks are still wanted
            found = f"the check itself failed: {describe(error)}"
            checks.append(Check("wrong", what, found, "this is a fault of Vigil's: please report it"))
    return checks


async def _kafka(settings: Settings) -> list[Check]:
    found = await topics.partition_counts(settings)
    checks = [Check("ok", "kafka", f"answers at {settings.kafka.bootstrap}")]
    wanted = {plan.name: plan.partitions for plan in topics.plans(settings.topics)}
    missing = sorted(set(wanted) - set(found))
    configured = [] if settings.kafka.embedded else await _configured(settings)
    if missing and not settings.kafka.embedded:
        checks.append(Check("wrong", "topics", f"missing: {', '.join(missing)}", "run `vigil topics create`"))
    elif not missing:
        as_said = "" if configured or settings.kafka.embedded else ", configured as the settings say"
        checks.append(Check("ok", "topics", f"all {len(wanted)} are there{as_said}"))
    checks += configured
    if settings.kafka.embedded:
        return checks
    used = {name: settings.topics.used(name, count) for name, count in found.items()}
    if few := {name: count for name, count in found.items() if count < wanted[name]}:
        words = ", ".join(f"{name} has {count} partitions, the settings say {wanted[name]}" for name, count in few.items())
        mend = "set topics.partitions or partitions_of to what is there: by partitions that are added later patients would move"
        checks.append(Check("warning", "topics", words, mend))
    if many := {name: count for name, count in found.items() if count > wanted[name]}:
        words = ", ".join(f"{name} has {count} partitions, of which {used[name]} are used" for name, count in many.items())
        mend = "none, if they were added since: the others stay empty, since by them patients would move"
        checks.append(Check("warning", "topics", words, mend))
    meet = {name: used[name] for name in MEET if name in used}
    if len(set(meet.values())) > 1:
        mend = f"set topics.partitions to {min(meet.values())}: a patient's records must meet in one partition of each"
        checks.append(Check("wrong", "topics", f"topics that meet in the vitals lane differ in partitions: {meet}", mend))
    return [*checks, *await _placed(settings, found)]


async def _placed(settings: Settings, found: Mapping[str, int]) -> list[Check]:
    """Look whether patients lie where they are looked for."""
    name = PatientEvent.topic
    if name not in found:
        return []
    topic, places = settings.kafka.topic_prefix + name, set[tuple[bytes, int]]()
    async with Reader(settings.kafka) as reader:
        for number in await reader.partitions(topic):
            begin, end = await reader.bounds(topic, number)
            async for records in reader.read(topic, number, begin, min(end, begin + _LOOKED_AT)):
                places |= {(record.key, number) for record in records if record.key is not None}
    try:
        placement.require(topic, places, settings.topics.used(name, found[name]), found[name])
    except VigilError as error:
        return [Check("wrong", "topics", str(error), error.hint or "")]
    return []


async def _clock(settings: Settings) -> list[Check]:
    """Compare this host's clock with Kafka's: a wrong one makes current sets history, or has every write refused."""
    if settings.kafka.embedded:
        return []
    try:
        apart = (await brokertime.ahead(settings.kafka)).total_seconds()
    except VigilError as error:
        mend = error.hint or "compare them by hand: `date -u` here and on the brokers"
        return [Check("warning", "clock", f"not compared with Kafka's: {error}", mend)]
    if abs(apart) <= _APART:
        return [Check("ok", "clock", f"within {_APART:.0f} s of Kafka's")]
    words = f"this host's clock is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} Kafka's (the controller's)"
    mend = "set the one that is wrong, and run NTP on all hosts: `timedatectl`, `chronyc tracking`"
    if apart > 0:
        mend += "; Kafka refuses what is stamped an hour ahead of its own time (InvalidTimestampError)"
    return [Check("wrong" if abs(apart) > _FAR_APART else "warning", "clock", words, mend)]


async def _configured(settings: Settings) -> list[Check]:
    """Hold copies, retention, compaction and the like against what `vigil topics create` makes; one finding for each kind."""
    try:
        found = await topics.inspect(settings)
    except Permanent as error:
        return [Check("warning", "topics", f"whether they lose data cannot be told: {error}", error.hint or "")]
    checks = []
    copies = {plan.name: plan.replication for plan in topics.plans(settings.topics)}
    few = [
        f"{topic.name} has {topic.copies} copies, the settings say {copies[topic.name]}"
        for topic in found
        if topic.copies < copies[topic.name]
    ]
    if few:
        words = f"{', '.join(few)}: a broker that is lost takes what it alone has along"
        mend = "give them more with Kafka's kafka-reassign-partitions; on a cluster of fewer brokers set topics.replication"
        checks.append(Check("wrong", "topics", words, mend))
    same: dict[Difference, list[str]] = {}
    for topic in found:
        for one in topic.differs:
            same.setdefault(one, []).append(topic.name)
    checks += [_difference(one, names) for one, names in sorted(same.items(), key=lambda item: not item[0].loses)]
    return checks


_SETTING = {
    "cleanup.policy": "topics.cleanup_of",
    "retention.ms": "topics.retention_hours",
    "min.insync.replicas": "topics.min_insync",
    "max.message.bytes": "topics.largest_message_bytes",
}


def _difference(one: Difference, names: list[str]) -> Check:
    found, wanted = show(one.option, one.found), show(one.option, one.wanted)
    words = f"{', '.join(names)}: {one.option} is {found}, should be {wanted}: {one.words}"
    if one.loses:
        mend = f"run `vigil topics create`, which sets {one.option}; what is gone already stays gone"
        return Check("wrong", "topics", words, mend)
    mend = "run `vigil topics create --alter`"
    if one.option == "retention.ms":
        mend += ", which lets Kafka delete what is older"
    if one.option in _SETTING:
        mend = f"set {_SETTING[one.option]} to what is there, or {mend}"
    return Check("warning", "topics", words, mend)


async def _qdrant(settings: Settings) -> list[Check]:
    async with VectorStore(settings.vectors) as store:
        try:
            checks = [Check("ok", "qdrant", f"{await store.version()} at {settings.vectors.url}")]
            return checks + [lost for lane in WRITERS if (lost := await _lost(settings, store, lane)) is not None]
        except VigilError as error:
            mend = (
                "is it up, and is vectors.url its address? until then notes-vectors, images and merges hold, and lose nothing"
            )
            return [Check("wrong", "qdrant", str(error), mend)]


def _pages(settings: Settings, first_port: int) -> list[str]:
    """Return where health pages of processes on this machine may be: at the ports that `vigil up` gives them, or the setting's."""
    host = asked_at(settings.worker.health_host)
    ports = [*range(first_port, first_port + _PORTS), *([settings.worker.health_port] if settings.worker.health_port else [])]
    return [f"{host}:{port}" for port in dict.fromkeys(ports)]


async def _ports(settings: Settings, pages: Sequence[str]) -> list[Check]:
    """Say which of the connectors' ports `vigil serve` cannot have: another program's, or none of this machine's."""
    found, checks = await listeners(settings, pages), []
    words_of = {"free": "free", "own": "served"}
    good = [f"{one.name} {one.place} {words_of[one.state]}" for one in found if one.state in words_of]
    if good:
        checks.append(Check("ok", "connector ports", ", ".join(good)))
    for one in found:
        change = f"set connectors.{one.name}.port (or host)"
        if one.state == "other":
            words = f"{one.place} is taken by another program, {one.who}: `vigil serve` cannot listen there"
            checks.append(Check("wrong", f"port of {one.name}", words, f"stop that program, or {change}"))
        elif one.state == "barred":
            checks.append(Check("wrong", f"port of {one.name}", f"{one.place} cannot be listened on: {one.who}", change))
        elif one.state == "unknown":
            words = (
                f"{one.place} is taken, and by whom cannot be told from here: by another program, or by a `vigil serve` of another "
                "user whose health page is elsewhere"
            )
            mend = f"`ss -ltnp 'sport = :{one.port}'` as root names it; if it is not Vigil's, stop it or {change}"
            checks.append(Check("warning", f"port of {one.name}", words, mend))
    return checks


async def _lanes(settings: Settings) -> list[Check]:
    """Ask Kafka for lanes whose records wait while nobody runs them, on whatever machine; one that never ran is no finding."""
    if settings.kafka.embedded:
        return []  # it describes no groups, and `vigil up` runs all lanes beside it
    waiting, began = Counter[str](), set[str]()
    try:
        for one in await lags(settings, times=False):
            waiting[one.lane] += one.records
            began |= {one.lane} if one.committed else set()
        behind = [lane for lane in READS if lane in began and waiting[lane]]
        alone = await asyncio.gather(*(unattended(settings, lane) for lane in behind))
    except Transient:
        return []  # said of Kafka, or of its topics
    return [
        Check(
            "wrong",
            f"lane {lane}",
            f"nobody runs it; records waiting: {waiting[lane]:,}",
            f"`vigil up`, or `vigil lane run {lane}`",
        )
        for lane, nobody in zip(behind, alone, strict=True)
        if nobody
    ]


async def _workers(pages: Sequence[str]) -> list[Check]:
    """Ask the processes on this machine, at the ports that `vigil up` gives them; that none is there is no finding."""
    waiting, hanging = await asyncio.gather(unready(pages), hung(pages))
    mend = "infra/runbook has a page for what it says, VigilLaneNotReady.md first"
    again = "`vigil up` kills and restarts it within a minute; where something else runs it: SIGKILL, and start it again"
    return [Check("wrong", f"process at {one}", why, mend) for one, why in waiting.items()] + [
        Check("wrong", f"process at {one}", "takes connections and does not answer: frozen, or it hangs", again)
        for one in hanging
    ]


async def _patients(pages: Sequence[str]) -> list[Check]:
    """Say in sum whom the vitals lane on this machine observes and cannot alert on; more than a third is a fault."""
    observed, blind = await patients(pages)
    if not observed:
        return []
    reasons = ", ".join(f"{reason} {number}" for reason, number in blind.items())
    fault = sum(number for reason, number in blind.items() if reason != "not-applicable")
    found = (
        f"of {observed} whose vitals come here no score can alert on {sum(blind.values())}{f' ({reasons})' if blind else ''}"
    )
    if fault < _FEW or 3 * fault <= observed:
        return [Check("ok", "patients", found)]
    return [Check("warning", "patients", found, "infra/runbook/VigilPatientsUnalertable.md says what each reason means")]


async def _lost(settings: Settings, store: VectorStore, lane: str) -> Check | None:
    """Say of a lane's collection that it is missing; one that was never written is not made yet."""
    collection, topic = WRITERS[lane]
    try:
        if await store.exists(collection) or not await Progress(settings).began(lane, topic):
            return None
    except Transient:
        return None  # said of Kafka
    missing = lost_collection(lane, collection.name, settings.vectors.url)
    return Check("wrong", f"collection {collection.name}", str(missing), missing.hint or "")


async def _models(settings: Settings) -> list[Check]:
    checks = []
    for task in _TASKS:
        try:
            model = await open_model(settings.models, task)
        except VigilError as error:
            checks.append(Check("wrong", f"model for {task}", str(error), error.hint or "see `models.registry`"))
        else:
            identity = model.identity
            found = f"{identity.name} {identity.version}, digest {identity.digest[:12]}, files as registered"
            checks.append(Check("ok", f"model for {task}", found))
            if task in COLLECTIONS:
                checks += await _fit(settings, task, model)
            if task == "ner":
                checks += [one for one in await _terms(settings, model) if one.verdict == "ok"]
            checks += await remarks(settings, _entry(settings, task), model)
    return checks


def _entry(settings: Settings, task: str) -> ModelEntry:
    return Registry.load(settings.models.registry).entry(task)


async def remarks(settings: Settings, entry: ModelEntry, model: Any) -> list[Check]:
    """Say what a lane would do with an open model that may not be meant, and the line that mends each; as a rule nothing."""
    checks: list[Check] = []
    if entry.task == "ner":
        checks += [one for one in await _terms(settings, model) if one.verdict != "ok"]
        if anything := sorted(set(labels_of(model)) - entry.thresholds.keys()):
            found = f"{entry.name} publishes what it finds as {', '.join(anything)} from any score on, .001 too: no threshold"
            mend = f"in the registry file [thresholds.{entry.name}] with {anything[0]} = 0.5 (`vigil models evaluate ner` measures)"
            checks.append(Check("warning", "thresholds", found, mend))
        if getattr(model, "blind_to_capitals", False):
            found = (
                f"{entry.name} knows no word with a capital letter: its tokenizer leaves them, its vocabulary has small ones"
            )
            mend = '"do_lower_case": true in tokenizer_config.json, if it was trained so; then add or seal it anew'
            checks.append(Check("warning", "tokenizer", found, mend))
        if lost := getattr(model, "capitals_lost", 0):
            found = f"{entry.name} has {lost} words with capitals that its tokenizer makes small: no text reaches them"
            mend = '"do_lower_case": false in tokenizer_config.json, if it was trained so; then add or seal it anew'
            checks.append(Check("warning", "tokenizer", found, mend))
    elif entry.task == "image-text" and entry.meant_for is None:
        found = f"{entry.name} judges every picture, a CT of the head too: its entry does not say which it is meant for"
        mend = (
            f'in the registry file [meant_for.{entry.name}] with modalities = ["CR", "DX"], body_parts = ["CHEST"] and the like'
        )
        checks.append(Check("warning", "pictures", found, mend))
    return checks


async def _terms(settings: Settings, model: TokenClassifier) -> list[Check]:
    """Say what the notes lane lays over the entity model, and what of it never speaks: terms of labels that the model has not."""
    lane = settings.lanes.notes_entities
    if not lane.vocabulary:
        return [Check("ok", "vocabulary", "off (lanes.notes_entities.vocabulary): entities are the model's alone")]
    try:
        terms = await asyncio.to_thread(vocabulary, *lane.own_terms)
    except VigilError as error:
        return [Check("wrong", "vocabulary", str(error), error.hint or "")]
    known = terms.labels | {DOSE, VALUE}
    if dumb := sorted(known - set(model.labels)):
        mend = f"own terms may stand under its labels, {', '.join(sorted(model.labels))}; it has none to rename"
        if set(model.labels) - known:
            renamed = ", ".join(
                f'{one} = "{one if one in known else _USUAL.get(one.casefold(), "...")}"' for one in sorted(model.labels)
            )
            mend = (
                f"in its entry [model.preprocessing] types = {{ {renamed} }}: what it calls these; or give own terms its labels"
            )
        found = (
            f"of {len(terms):,} terms and the figures beside them those under {', '.join(dumb)} are never found: "
            f"{model.identity.name} has no such label"
        )
        return [Check("warning", "vocabulary", found, mend)]
    files = len(lane.own_terms)
    own = f", with {files} file{'s' * (files > 1)} of the site's own" if files else ""
    return [Check("ok", "vocabulary", f"{len(terms):,} terms{own}, digest {terms.digest[:12]}")]


async def _fit(settings: Settings, task: str, model: TextEmbedder | ImageTextModel) -> list[Check]:
    name = COLLECTIONS[task].name
    try:
        others = await points_of_others(settings, task, model)
    except Fatal as error:
        return [Check("wrong", f"collection {name}", str(error), error.hint or "")]
    except VigilError:
        return []  # said of the store
    if not others:
        return []
    found = f"{others:,} points are of another model than the one that serves: no search finds them"
    return [Check("warning", f"collection {name}", found, f"`vigil replay rebuild {name} --reason ...` makes them anew")]


async def points_of_others(settings: Settings, task: str, model: TextEmbedder | ImageTextModel) -> int:
    """Ask the vector store about a model whose vectors go there: how many points of other models does its collection hold?

    Raises `Fatal` where the collection holds vectors of another length, `Transient` or `Permanent` where the store does not tell.
    """
    collection = replace(COLLECTIONS[task], dimensions=model.dimensions)
    async with VectorStore(settings.vectors) as store:
        await store.check(collection)
        return await unsearched(store, collection, Where(), model.identity) if await store.exists(collection) else 0


async def _cache(settings: Settings) -> list[Check]:
    cache = settings.models.cache
    if cache.redis is None:
        return []
    try:
        return [Check("ok", "redis", f"{await redis_version(cache.redis, cache.redis_patience)}, as cache of predictions")]
    except VigilError as error:
        mend = "is it up, and does models.cache.redis hold its address and password? until then models run on every input"
        return [Check("warning", "redis", str(error), error.hint or mend)]


async def _disk(settings: Settings) -> list[Check]:
    free = await asyncio.to_thread(lambda: ObjectStore(settings.objects).free_bytes())
    if free is None:  # a remote store, whose disk is its own business
        return []
    verdict: Literal["ok", "wrong"] = "ok" if free > _LOW_DISK else "wrong"
    mend = "" if verdict == "ok" else "the DICOM connector refuses images under disk pressure; make room or move objects.url"
    return [Check(verdict, "disk", f"{free / 2**30:.1f} GiB free for objects at {settings.objects.url}", mend)]


async def _site(settings: Settings) -> list[Check]:
    if settings.identity.site_secret.get_secret_value() == DEMO_SECRET:
        mend = "set VIGIL_IDENTITY__SITE_SECRET to a long random value, once: it keys every patient pseudonym"
        return [Check("warning", "site secret", "still the demo's", mend)]
    return [Check("ok", "site secret", "set")]


# Of the monitor's rules those that say who is told of, and when: where a site departs from them, whoever looks should see it.
_RCP = ("minimum_severity", "medium_total", "high_total", "single_three", "staleness", "silence", "carry_forward", "escalation")


async def _monitor(settings: Settings) -> list[Check]:
    """Name every departure from the defaults that follow the Royal College of Physicians; the site's to decide, and to know."""
    rules, defaults = settings.monitor, MonitorRules()
    told = rules.model_dump(mode="json", include=set(_RCP))
    usual = defaults.model_dump(mode="json", include=set(_RCP))
    changed = sorted(name for name in _RCP if told[name] != usual[name])
    if not changed:
        return [Check("ok", "monitor", "who is alerted on, and when, follows RCP's NEWS2 (2017)")]
    mend = "`vigil settings` shows each with its default: is it the site's decision, by whoever answers for it?"
    words = ", ".join(f"monitor.{name}" for name in changed)
    return [Check("warning", "monitor", f"departs from the defaults, which follow RCP's NEWS2 (2017): {words}", mend)]


async def _answers(settings: Settings) -> list[Check]:
    """Say who may answer alerts, and so end their escalation, without showing that they are who they say."""
    connectors, found = settings.connectors, []
    if "mllp" in connectors.enabled:
        found += [
            (
                f"HL7 peer {name}",
                f"its address{' and its MSH' if any(peer.kinds_of_mark) else ' alone'}, which others may take",
                "give it `certificates`, with connectors.mllp.tls.ca_file",
            )
            for name, peer in connectors.mllp.peers.items()
            if peer.answers_alerts and not peer.certificates and not all(one.is_loopback for one in peer.addresses)
        ]
    if "fhir" in connectors.enabled:
        found += [
            (
                f"FHIR peer {name}",
                "nothing: whoever reaches the port is taken for it",
                "give it a `token`, or set connectors.fhir.tls.ca_file",
            )
            for name, peer in connectors.fhir.peers.items()
            if peer.answers_alerts and not connectors.fhir.authenticates(peer)
        ]
    return [
        Check("warning", "answers to alerts", f"{who} may give them (`answers_alerts`) and is known by {how}", mend)
        for who, how, mend in found
    ]
