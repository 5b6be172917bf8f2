"""What a mention asserts: present, negated, historical, hypothetical, or about the family. ConText-style rules.

A trigger ("denies", "history of", "if") opens a scope in its sentence, forward or backward; a stop word ("but", "which") or the
sentence's end closes it, a condition only what cannot go on with it ("if he develops fever, is sick or there is pain"); a heading
begins a sentence; a pseudo-trigger ("gram negative") only hides the triggers inside it. A mention inside a scope takes the
scope's effect; in several, the first of `ORDER` wins. Sections give a default where no scope says otherwise. The words are data
(`processors.triggers`, with the sources), the algorithm is Chapman 2001 (NegEx) and Harkema 2009 (ConText).

Why not a library: medspacy 1.3.1 and negspacy 1.1.0 need spaCy (67 and 45 distributions, and medspacy's pins hold numpy below 2),
pyConTextNLP 0.7 had its last release years ago and compiles a regular expression per trigger and call. None is fit for a light
base install at thousands of notes a second.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from processors.events import Assertion
from processors.sections import Section, section_at
from processors.sentences import sentence_starts
from processors.triggers import (
    ABNORMAL,
    BESIDE,
    CLAUSE_VERBS,
    KIN,
    PREPOSITIONS,
    REASONS,
    TOLD,
    TRIGGERS,
    WANTED,
    Effect,
    Group,
)

# Where several hold, the first wins. Conditional and hypothetical stand before negated ("return if no better" denies nothing),
# negated before uncertain ("no signs suggesting X") and family ("no family history of X" is a risk nobody has), family before
# historical ("mother had a history of X"). What is conditional or uncertain is published as hypothetical.
ORDER: Final[Mapping[Effect, Assertion]] = MappingProxyType(
    {
        "conditional": "hypothetical",
        "hypothetical": "hypothetical",
        "negated": "negated",
        "uncertain": "hypothetical",
        "family": "family",
        "historical": "historical",
    }
)

# What a section says about its mentions when no words do.
SECTION_DEFAULTS: Final[Mapping[str, Assertion]] = MappingProxyType(
    {
        "family-history": "family",
        "past-medical-history": "historical",
        "past-surgical-history": "historical",
        "instructions": "hypothetical",
    }
)


def _words(text: str) -> list[str]:
    return text.split()


_TOKEN: Final = re.compile(r"[^\W_]+(?:['’][a-z]*)?|[;:?,∅☐□☑☒]|\[[ xX✓✔]?\]|[-+]ve\b|\([-+]\)|(?<!\w)[-–—](?!\w)")
# A plus or minus before or behind an item; its second group is what follows it at once.
_SIGN: Final = re.compile(r"(?<![^\s,;:(])(\+{1,3}|[-–—−])(?![-\d])([A-Za-z\s]?)")
_ITEM_END: Final = re.compile(r"\s*(?:[,;.]|$)")
# "(sister)", "(mother, 52)"; a remark of what she says is none
_KIN_NOTED: Final = re.compile(rf"\((?=(?:{KIN})\b(?: and (?:{KIN})\b)?\s*[,)\d@])", re.IGNORECASE)
_TIMES: Final = re.compile(r"x\d+|\(\+\)")  # "vomiting x2", "pain ++": it is there
_SHORT: Final = re.compile(r"\b(?:[whsrcWHSRC]/[oOpP]|[pP]/[wW])\b")  # w/o, h/o, s/p, r/o, c/o, p/w

# Labels, as models spell them in lower case, of what is done or where, not of what is wrong: a test with a negative result is
# still a test that was done. A label that does not stand here is taken for a condition, a symptom or a medication.
TESTS: Final = frozenset(
    _words("""
    test tests lab lab_test lab_value measurement imaging diagnostic_procedure procedure therapeutic_procedure treatment
    clinical_event event anatomy body_part biological_structure
    """)
)
# ... and of what is wrong: no trigger that says what is not given negates it.
PROBLEMS: Final = frozenset(_words("condition symptom problem disease sign_symptom disease_disorder"))
_NEVER_GIVEN: Final = (PROBLEMS | TESTS) - frozenset(_words("procedure therapeutic_procedure treatment"))
# ... what is given, and what says nothing of the kind of the item that it stands in.
_GIVEN: Final = frozenset(_words("medication medications drug drugs chemical treatment"))
_NO_KIND: Final = frozenset(_words("anatomy body_part biological_structure dose dosage"))
# Of these "no" leaves the more likely that a list of what is absent goes on behind a word that nobody knows.
_DISEASES: Final = frozenset(_words("condition disease disease_disorder"))

# What may stand between a mention and a trigger that speaks of it: "ramipril 5 mg od was then stopped".
_BETWEEN: Final = frozenset(
    _words("""
    is was are were has have had been be to then now also all both subsequently today should - mg mcg g units od bd tds qds po iv
    """)
)
_NEAR: Final = 8  # tokens from a mention to such a trigger at most
_LONGEST: Final = 40  # tokens of a list that a trigger behind it speaks of
_NO: Final = frozenset(_words("no nil"))
_PLAIN: Final = frozenset(_words("no nil without w/o"))
# These deny a verb: "not sleeping, agitated".
_VERBS_DENIED: Final = frozenset(
    _words("not never cannot can't couldn't didn't doesn't don't wasn't isn't aren't hasn't haven't won't unable")
)
_JOINS: Final = frozenset(_words("and or nor"))
_ENDS_ITEM: Final = frozenset({",", ";", *_JOINS})
_LISTING: Final = frozenset(_words("such including"))
_PLURALS: Final = frozenset(_words("were are have all both which that"))


class _Node:
    """A place in the tree of phrases: which words may follow, and which groups have a phrase that ends here."""

    __slots__ = ("after", "any_number", "any_word", "groups")

    def __init__(self) -> None:
        self.after: dict[str, _Node] = {}
        self.any_word: _Node | None = None  # behind "~"
        self.any_number: _Node | None = None  # behind "#"
        self.groups: list[Group] = []

    def insert(self, phrase: Sequence[str], group: Group) -> None:
        """Add every spelling of a phrase; its words may be alternatives."""
        if not phrase:
            if group not in self.groups:
                self.groups.append(group)
            return
        for word in phrase[0].split("|"):
            self._next(word).insert(phrase[1:], group)

    def _next(self, word: str) -> "_Node":
        if not word:
            return self
        if word == "~":
            self.any_word = self.any_word or _Node()
            return self.any_word
        if word == "#":
            self.any_number = self.any_number or _Node()
            return self.any_number
        return self.after.setdefault(word, _Node())

    def longest(self, words: Sequence[str], position: int) -> tuple[int, Sequence[Group]]:
        """Return where the longest phrase that begins at a position ends, and its groups; (position, ()) for none."""
        best: tuple[int, Sequence[Group]] = (position, self.groups)
        if position < len(words):
            word = words[position]
            for node in (
                self.after.get(word),
                self.any_word,
                self.any_number if self.any_number and word.isdigit() else None,
            ):
                if node is not None:
                    found = node.longest(words, position + 1)
                    if found[1] and (found[0] > best[0] or not best[1]):
                        best = found
        return best


@dataclass(frozen=True, slots=True)
class _Scope:
    group: Group
    start: int
    end: int
    trigger: tuple[int, int]  # in characters
    reaches_tests: int  # where a forward scope ends for a test or a procedure
    reaches_problems: int  # ... for what is wrong
    reaches_diseases: int  # ... and for a condition, where that is nearer
    behind: bool = False  # the trigger stands behind what it speaks of


class _Mentions:
    """The mentions of a text, to be asked which stand right before a trigger."""

    def __init__(self, spans: Sequence[tuple[int, int]], labels: Sequence[str] | None) -> None:
        named = [""] * len(spans) if labels is None else [label.lower() for label in labels]
        self._by_end = sorted((end, start, label) for (start, end), label in zip(spans, named, strict=True))

    def at(self, start: int, end: int, before: int) -> list[str]:
        """Return the labels of the mentions that overlap `text[start:end]` and end before `before`; "" where they are not known."""
        near = self._by_end[
            bisect_right(self._by_end, start, key=lambda m: m[0]) : bisect_right(self._by_end, before, key=lambda m: m[0])
        ]
        return [label for _, begin, label in near if begin < end]


class Asserter:
    """Decides assertions by a table of triggers. Made once, used from any thread."""

    def __init__(
        self, triggers: Sequence[Group] = TRIGGERS, section_defaults: Mapping[str, Assertion] = SECTION_DEFAULTS
    ) -> None:
        self._sections = dict(section_defaults)
        self._tree = _Node()
        for group in triggers:
            for phrase in group.phrases:
                self._tree.insert(phrase.lower().split(), group)

    def decide(
        self,
        text: str,
        spans: Sequence[tuple[int, int]],
        sections: Sequence[Section] = (),
        labels: Sequence[str] | None = None,
    ) -> list[Assertion]:
        """Return the assertion of each span `(start, end)` of a text, in the order given.

        `sections` as `Sectioner.split` gives them; `labels`, one per span, let a negative test stay a test that was done.
        """
        starts = sorted({0, *sentence_starts(text), *(section.header for section in sections)})
        scopes: dict[int, list[_Scope]] = {}
        mentions = _Mentions(spans, labels)
        decided: list[Assertion] = []
        for position, (start, end) in enumerate(spans):
            index = bisect_right(starts, start) - 1
            if index not in scopes:
                finish = starts[index + 1] if index + 1 < len(starts) else len(text)
                scopes[index] = self._scopes(text, starts[index], finish, mentions)
            label = "" if labels is None else labels[position].lower()
            hit = {s.group.effect for s in scopes[index] if _holds(s, start, end, label) and not _part_of_a_name(s, spans)}
            decided.append(next((ORDER[effect] for effect in ORDER if effect in hit), self._default(sections, start)))
        return decided

    def _default(self, sections: Sequence[Section], start: int) -> Assertion:
        return self._sections.get(section_at(sections, start), "present") if sections else "present"

    def _scopes(self, text: str, start: int, end: int, mentions: "_Mentions") -> list[_Scope]:
        tokens = [*_tokens(text, start, end), (".", end, end)]
        words = [word for word, _, _ in tokens]
        found = self._find(words)
        stops = [trigger for trigger in found if trigger[0].effect == "stop"]
        opening = [trigger for trigger in found if trigger[0].effect not in ("stop", "pseudo")]
        if "(-)" in words:
            way = "backward" if _signs_behind(words) else "forward"
            opening = [trigger for trigger in opening if words[trigger[1]] != "(-)" or trigger[0].direction == way]
        clauses = _clauses(words) if opening else []
        scopes = []
        for group, first, last in opening:
            own = (tokens[first][1], tokens[last - 1][2])
            mine = [stop for stop in stops if group.effect not in stop[0].spares]
            behind = group.direction == "backward"
            if group.object_before:
                behind = _object_before(tokens, first, mentions, group)
                if not behind and not _ENDS_ITEM.isdisjoint(words[last : last + 1]):
                    continue
            if not behind:
                ends = [begin for stop, begin, _ in mine if begin >= last and stop.direction != "backward"]
                conditional = group.effect == "conditional"
                ends += [c for c, verb in clauses if c >= last and (not conditional or _came_to_pass(words, c, verb))]
                limit = min(ends, default=len(tokens))
                if group.reach is not None:  # the words right behind: "negative cultures | has endocarditis"
                    limit = min(limit, last + group.reach + 1)
                    limit = next((i for i in range(last + 1, limit) if words[i] in CLAUSE_VERBS), limit)
                tests = next((i for i in range(last, limit) if tokens[i][0] in PREPOSITIONS), limit)
                until = _position(tokens, limit, end)
                problems, diseases = until, until
                if group.effect == "negated" and not group.about_results:
                    problems, diseases = _of_another_kind(text, tokens, first, last, limit, until, mentions)
                scopes.append(_Scope(group, own[1], until, own, _position(tokens, tests, end), problems, diseases))
            else:
                # a stop right before belongs to the trigger: "has | been excluded"
                limit = max((after for stop, _, after in mine if after < first and stop.direction != "forward"), default=0)
                if group.object_before or group.last_item:
                    limit = _item(words, limit, first)
                elif group.reach is not None:
                    near = max(0, first - group.reach - 1)
                    limit = max(limit, near, *(i + 1 for i in range(near, first) if words[i] == ","))
                begins = tokens[limit][1] if limit else start
                scopes.append(_Scope(group, begins, own[0], own, own[0], own[0], own[0], behind))
        return scopes

    def _find(self, words: Sequence[str]) -> list[tuple[Group, int, int]]:
        """Find the triggers, (group, first token, token after the last); the longest at a place hides what lies inside it."""
        found: list[tuple[Group, int, int]] = []
        begins, number, position = self._tree.after, self._tree.any_number, 0
        while position < len(words):
            word = words[position]
            node = begins.get(word) or (number if word.isdigit() else None)
            if node is None:
                position += 1
                continue
            last, groups = node.longest(words, position + 1)
            found.extend((group, position, last) for group in groups)
            position = last if groups else position + 1
        return found


def _tokens(text: str, start: int, end: int) -> list[tuple[str, int, int]]:
    tokens = [
        (match.group().lower().replace(" ", ""), match.start(), match.end()) for match in _TOKEN.finditer(text, start, end)
    ]
    if text.find("/", start, end) >= 0:
        shorts = [(match.group().lower(), match.start(), match.end()) for match in _SHORT.finditer(text, start, end)]
        taken = {match[1] for match in shorts} | {match[1] + 2 for match in shorts}
        tokens = sorted([token for token in tokens if token[1] not in taken] + shorts, key=lambda token: token[1])
    if text.find("(", start, end) >= 0:
        kin = [("(", match.start(), match.end()) for match in _KIN_NOTED.finditer(text, start, end)]
        tokens = sorted(tokens + kin, key=lambda token: token[1])
    return _signed(text, start, end, tokens)


def _signed(text: str, start: int, end: int, tokens: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Read "-chest pain, -SOB, +fever", "fever -, cough +" and "cough ++" as "(-)" and "(+)".

    All signs stand at the borders of items then. A hyphen before an item may be the mark of a list: it takes a plus beside it, and
    where a blank follows it another hyphen too.
    """
    if text.find("+", start, end) < 0 and text.count("-", start, end) < 2:
        return tokens
    signs = list(_SIGN.finditer(text, start, end))
    plain = [sign for sign in signs if len(sign[1]) == 1]
    leads = all(sign[2] and not text[max(start, sign.start() - 2) : sign.start()].strip()[-1:].isalnum() for sign in plain)
    ends = all(not sign[2] or (sign[2].isspace() and _ITEM_END.match(text, sign.end(1))) for sign in plain)
    minus = sum(sign[1] != "+" for sign in plain)
    bullet = minus == 1 and plain[0][1] != "+" and plain[0][2].isspace()
    meant = len(plain) > 1 and (ends or (leads and 0 < minus < len(plain) and not bullet))
    read = [sign for sign in signs if meant or len(sign[1]) > 1]
    if not read:
        return tokens
    found = [("(+)" if sign[1][0] == "+" else "(-)", *sign.span(1)) for sign in read]
    taken = {at for _, at, _ in found}
    return sorted([token for token in tokens if token[1] not in taken] + found, key=lambda token: token[1])


def _clauses(words: Sequence[str]) -> list[tuple[int, int]]:
    """Find the commas that begin a clause, "no neck rigidity, diuresis was preserved": a verb comes before the list goes on.

    So does a word that tells of the item ("infection likely", "vomiting x2"), and an item without a "no" where each before has one:
    in "no SOB, no CP, cough" the third is told apart; "no SOB, no CP, cough or fever" goes on.

    Gives (comma, verb) as indices of `words`.
    """
    commas = []
    ahead = "(-)" in words and not _signs_behind(words)  # in "(-) fever, chills (+) cough" the plus says nothing of chills
    last_join = max((index for index, word in enumerate(words) if word in _JOINS), default=-1)
    before, denied = 0, False  # where the item before begins, and whether there is a "no" before it
    aside = False  # "his brother, who lives abroad, was treated": the second comma goes on with the first clause
    for comma, word in enumerate(words):
        if word != ",":
            continue
        each = denied and words[before] in _NO and last_join < comma
        denied, before = denied or not _NO.isdisjoint(words[before:comma]), comma + 1
        closes, aside = aside, words[comma + 1 : comma + 2] in (["who"], ["whose"])
        if closes:
            continue
        joined = words[comma + 1 : comma + 2] == [
            "and"
        ]  # ", and the rest was normal" begins one only where one was told before
        if joined and CLAUSE_VERBS.isdisjoint(words[max(0, comma - 8) : comma]):
            continue
        verb = comma if each else None
        for index, following in enumerate(words[comma + 1 + joined : comma + 8], comma + 1 + joined):
            if following in (",", ";", ".", "or", "and", "nor"):
                break
            if following in CLAUSE_VERBS or following in TOLD or (_TIMES.fullmatch(following) and not ahead):
                verb = index
                break
        if verb is not None:
            commas.append((comma, verb))
    return commas


def _signs_behind(words: Sequence[str]) -> bool:
    """Say whether (-) and (+) stand behind their items, "fever (-), cough (+)", rather than before them, "(-) fever (+) cough"."""
    signs = [index for index, word in enumerate(words) if word in ("(-)", "(+)")]
    if signs[0] == 0 or words[signs[0] - 1] in (",", ";", ":"):
        return False
    return words[signs[0] + 1] in (",", ";", ".") or words[signs[-1] + 1] == "."


def _object_before(tokens: Sequence[tuple[str, int, int]], first: int, mentions: _Mentions, group: Group) -> bool:
    """Say whether what a trigger speaks of stands right before it: "ramipril 5 mg | held", not "CT | excluded"."""
    for word, start, end in reversed(tokens[max(0, first - _NEAR) : first]):
        if labels := mentions.at(start, end, tokens[first][1]):
            spared = _NEVER_GIVEN if group.of_drugs else TESTS
            return any(label not in spared for label in labels)
        if word not in _BETWEEN and not any(letter.isdigit() for letter in word):
            return False
    return False


def _of_another_kind(
    text: str, tokens: Sequence[tuple[str, int, int]], first: int, last: int, limit: int, until: int, mentions: _Mentions
) -> tuple[int, int]:
    """Return where a negation, `tokens[first:last]`, ends for what is wrong, and for a condition, in characters.

    A comma carries it on between items of one kind alone. Where what stands right behind the negation is nothing wrong ("no
    pulse", "not for CPR", "no aspirin"), what is wrong behind a comma, a dash, a colon or a parenthesis is why, or what there is:
    "cardiac arrest", "metastatic cancer", "GI bleed". A list that ends with "or" is one of what is absent all through.
    """
    begin = last
    while begin < limit and tokens[begin][0] in BESIDE:  # "denies: fever, cough"
        begin += 1
    if begin == limit:
        return until, until
    far = min(limit, begin + _LONGEST)
    end = next((index for index in range(begin + 1, far) if tokens[index][0] in BESIDE or tokens[index][0] == ","), limit)
    far = min(far, end)
    bracket = text.find("(", tokens[begin][1], _position(tokens, far, until))
    for index in range(begin + 1, far):
        if tokens[index][0] in REASONS and _kind(tokens[begin:index], bracket, mentions) == "other":
            end = index
            break
    ends = until if end == limit else tokens[end][1]
    mark = "" if end == limit else tokens[end][0]
    if 0 <= bracket < ends:
        ends, mark = bracket, "("
    kind = _kind(tokens[begin : min(end, far)], bracket, mentions)
    if kind == "problem" or not mark or (mark == "," and (kind == "of" or _goes_on(tokens[end : min(limit, end + _LONGEST)]))):
        return until, until
    if kind == "other" or mark != "," or not _VERBS_DENIED.isdisjoint(word for word, _, _ in tokens[first:last]):
        return ends, ends
    return until, ends if last == first + 1 and tokens[first][0] in _PLAIN else until


def _goes_on(tokens: Sequence[tuple[str, int, int]]) -> bool:
    """Say whether a list ends with "or": all in it is absent then."""
    return any(word in ("or", "nor") for word, _, _ in tokens)


def _kind(item: Sequence[tuple[str, int, int]], bracket: int, mentions: _Mentions) -> str:
    """Say of what kind the words behind a negation are: "problem", "of" one that nothing marks ("ECG changes"), "other" or ""."""
    kind = ""
    for word, start, end in item:
        if 0 <= bracket < start:
            break
        labels = [label for label in mentions.at(start, end, item[-1][2]) if label not in _NO_KIND]
        if word not in WANTED and any(label not in TESTS and label not in _GIVEN for label in labels):
            return "problem"
        if word in ABNORMAL:
            kind = "of"
        elif labels or word in WANTED:
            kind = kind or "other"
    return kind


def _item(words: Sequence[str], floor: int, first: int) -> int:
    """Return where what a trigger behind it speaks of begins: a list's last item, or all of it before "and" or a plural."""
    begin = max(floor, first - _LONGEST)
    if words[first] in _PLURALS or words[first - 1] == "," or not _LISTING.isdisjoint(words[begin:first]):
        return floor
    last = first - 1 if words[first - 1] not in ("-", ":") else first - 2
    for index in range(last, begin - 1, -1):
        if words[index] in _JOINS:
            return floor
        if words[index] in (",", "-", ":"):
            return index + 1
    return floor


def _came_to_pass(words: Sequence[str], comma: int, verb: int) -> bool:
    """Say whether a clause tells what happened, with a subject: "unclear if viral, the film was normal" ends the condition."""
    return verb > comma + 1 and words[verb] in ("was", "were", "had")


def _position(tokens: Sequence[tuple[str, int, int]], index: int, end: int) -> int:
    return tokens[index][1] if index < len(tokens) else end


def _part_of_a_name(scope: _Scope, spans: Sequence[tuple[int, int]]) -> bool:
    """Say whether a mention was marked together with the trigger: "absence of appetite" is what the patient has."""
    opened, closed = scope.trigger
    return scope.group.nominal and any(start <= opened and closed < end for start, end in spans)


def _holds(scope: _Scope, start: int, end: int, label: str) -> bool:
    test = label in TESTS
    if (test and scope.group.about_results) or (scope.group.of_drugs and label in PROBLEMS):
        return False
    opened, closed = scope.trigger
    if opened < start < closed:
        # the mention is part of the trigger: "not palpable", "not involved by tumour"; "should pain recur"; "was on X until May"
        return scope.group.effect in ("negated", "conditional", "historical")
    if scope.behind:
        return scope.start < end <= scope.end
    # a mention that brings its own trigger is meant too: "no fever" marked whole
    reaches = scope.reaches_problems
    if test:
        reaches = scope.reaches_tests
    elif label in _GIVEN:
        reaches = scope.end
    elif label in _DISEASES:
        reaches = scope.reaches_diseases
    return scope.start <= start < reaches or (opened == start and closed < end)
