"""The words that change what a mention asserts: data for `processors.assertion`.

After NegEx (Chapman, Bridewell, Hanbury, Cooper, Buchanan: "A simple algorithm for identifying negated findings and diseases in
discharge summaries", J Biomed Inform 34, 2001) and ConText (Harkema, Dowling, Thornblade, Chapman: "ConText: an algorithm for
determining negation, experiencer, and temporal status from clinical reports", J Biomed Inform 42, 2009): the ideas of trigger,
direction, scope, termination and pseudo-trigger are theirs; the lists were written for this project and tuned on half of the
case reports that the evaluation reads (`processors.assertion_quality`).

A phrase is lower-case words separated by blanks. In a word, `a|b` means either and an empty alternative (`|yet`) that it may be
missing; `~` stands for any one word, `#` for any number. Punctuation is a word of its own. Hyphens inside words are not seen.
"""

from dataclasses import dataclass
from typing import Final, Literal

Effect = Literal["negated", "historical", "hypothetical", "uncertain", "family", "pseudo", "stop"]  # uncertain: see ORDER
Direction = Literal["forward", "backward", "both"]  # of a stop: which scopes it closes; of a pseudo-trigger: no matter


@dataclass(frozen=True, slots=True)
class Group:
    """Phrases of one effect. `reach`: how many words away a mention may begin (forward) or end (backward); None: the clause.

    `about_results`: says how a test came out, so it negates a condition and never the test itself. `soft`, of a stop: begins a new
    clause about the same person, so it does not close a family scope ("her brother was diagnosed with ...").
    `nominal`: may be part of a finding's own name, "absence of appetite", "absent reflexes": marked whole, it is present, and the
    trigger says nothing of what stands around it.
    """

    effect: Effect
    direction: Direction
    phrases: tuple[str, ...]
    reach: int | None = None
    about_results: bool = False
    soft: bool = False
    nominal: bool = False


def _group(
    effect: Effect,
    direction: Direction,
    phrases: str,
    *,
    reach: int | None = None,
    about_results: bool = False,
    soft: bool = False,
    nominal: bool = False,
) -> Group:
    listed = tuple(phrase for line in phrases.splitlines() if (phrase := line.strip()))
    return Group(effect, direction, listed, reach, about_results, soft, nominal)


_KIN: Final = (
    "mother|father|brother|brothers|sister|sisters|sibling|siblings|parents|parent|grandmother|grandfather|grandparents|aunt|aunts|"
    "uncle|uncles|cousin|cousins|son|sons|daughter|daughters|niece|nephew|relative|relatives"
)
_SAYS: Final = "reports|reported|states|stated|says|said|noticed|noted|denies|denied|informed|updated|called|visiting|visited"
_PERIOD: Final = (
    "day|days|week|weeks|month|months|year|years|hour|hours|day's|days'|week's|weeks'|month's|months'|year's|years'|hour's|hours'|"
    "long|short|longstanding|lengthy|brief"
)
_HAD: Final = "|had|has|have|was|were"
_GONE: Final = "resolved|disappeared|subsided|ceased|vanished|abated|cleared|stopped"
_PARTLY: Final = "slightly|partially|partly|somewhat|temporarily|transiently|moderately|mildly|incompletely"
_REASON: Final = "source|cause|explanation|reason|aetiology|etiology|focus"
_BE: Final = "is|was|were|are|been|be|being"
_VERBS: Final = (
    "is|was|were|are|has|had|have|remain|remained|remains|improved|persisted|persists|continue|continued|continues|became|"
    "increased|decreased"
)
_FOUND: Final = (
    "seen|found|detected|identified|observed|noted|noticed|present|evident|visible|visualized|visualised|demonstrated|appreciated|"
    "palpable|palpated|felt|heard|elicited|reported|performed|done|given|required|needed|necessary|used|administered|indicated|"
    "obtained|undertaken|suspected|recommended|recorded|apparent|confirmed|considered|revealed|identify|started|initiated|"
    "tolerated|offered|attempted|carried|taken|sent|pursued|encountered|documented|established|discernible|recognized|recognised|"
    "affected|involved|achieved|warranted|planned|prescribed|proven|included|supported|developed|experienced|isolated|measured"
)

# For a test, a procedure or a place these close what was opened before: "no consolidation on the chest film".
_PREPOSITIONS: Final = "on|at|in|during|by|via|using|per|from|under|over|through|within|after|before|for|of|to"
PREPOSITIONS: Final = frozenset(_PREPOSITIONS.split("|"))
CLAUSE_VERBS: Final = frozenset(_VERBS.split("|"))

TRIGGERS: Final[tuple[Group, ...]] = (
    # ------------------------------------------------------------------------------------------------ negated
    _group("negated", "forward", """
        no
        not
        nil
        without
        with out
        w/o
        denies|denied|deny|denying
        never
        none of
        neither
        nor
        cannot|can't|couldn't|didn't|doesn't|don't|wasn't|weren't|isn't|aren't|hasn't|haven't|hadn't|won't|wouldn't
        free of|from
        clear of
        devoid of
        :|- no|nil|denies|denied|never
        failed|fails|failing to reveal|show|demonstrate|identify|detect|find|disclose
        rather than
        instead of
        ruled|rules|ruling out
        exclude|excluded|excludes|excluding
        unremarkable for
        declined|declines|refused|refuses|refusing
        unlikely to|for|
        no longer
        no longer |has|had|have|need|needs|needed|require|requires|required|using|used|taking|takes|receiving|received |any
        no longer reports|reported|complains|complained|suffers|suffered|suffering |of|from
        no|without |the|a|any|further need|indication|requirement|necessity|role|use for|of|to
        no|without |any|known|previous|prior|past history of
        |has|have|had not|never been prescribed|given|offered|started|treated |on|with |any
        |is|was|were|been weaned |off|from
        not known to have|be
        no|never|without |any|clinical|strong|real suspicion of
        nor |the|a|an|any ~ showed|shows|revealed|reveals|demonstrated|found|identified|detected|suggested
        low|little suspicion|probability|likelihood for|of
        argues|argued|speaks against
        ceased to
        inconsistent|incompatible with
        """),
    # what is no more: "complete removal of the tumour"
    _group("negated", "forward", """
        complete|total|radical|successful|adequate removal|resection|excision|exclusion|eradication of
        completely|totally|radically|successfully removed|resected|excised|eradicated
        relieved|resolved of
        """, reach=3),
    _group("negated", "forward", """
        with|and relieved|resolved
        """, reach=0),
    # "non-recurrence"
    _group("negated", "forward", """
        non
        """, reach=0, nominal=True),
    _group("negated", "forward", """
        absence|lack of
        lacks|lacked|lacking
        resolution|disappearance|remission of
        unable to
        """, nominal=True),
    _group("negated", "forward", """
        (-)
        """, about_results=True),
    _group("negated", "forward", f"""
        {_BE}|has|have|had not|never |been {_FOUND} any
        {_BE}| not|never |been associated|accompanied|consistent|compatible|related|connected with|by|to
        |did|does|do not revealed|showed|reveal|show
        """),
    _group("negated", "forward", """
        negative for|of
        is|was|were|are|been|tested|tests|testing negative for|of
        neg for
        """, about_results=True),
    _group("negated", "forward", """
        absent
        """, reach=2, nominal=True),
    _group("negated", "forward", """
        discontinued|discontinuing|stopped|stopping|stop|ceased|ceasing|suspended|suspending|withheld|withholding
        discontinuation|withdrawal|cessation of
        """, reach=2),
    # "negative blood cultures": the word right behind
    _group("negated", "forward", """
        negative
        """, reach=3, about_results=True),
    _group("negated", "backward", f"""
        {_BE}| not|never |yet|been|be|clearly|otherwise {_FOUND}
        could|can not|never be {_FOUND}
        cannot|couldn't|wasn't|weren't|isn't|aren't|hasn't|haven't be|been|have| |been {_FOUND}
        has|have|had not|never |been occurred|occur|appeared|appear|recurred|recur|developed|returned
        did not occur|appear|recur|develop|return|exist
        no longer |{_FOUND}
        {_BE} no longer
        {_BE}| ruled out
        |which|that|all|both {_BE} |also|all|both|completely|subsequently excluded
        excluded on|by|with|clinically|radiologically
        |which|that|all|both {_BE} |also|all|both|completely|subsequently ruled out
        {_BE}| absent
        {_BE}| unlikely|improbable
        {_BE} denied
        {_BE} |then|subsequently discontinued|withheld|withdrawn
        {_HAD} |been|completely|fully|gradually|promptly|spontaneously|all {_GONE}
        |{_BE} |completely|fully relieved|eliminated|eradicated|cured
        {_BE} |then|completely|fully|rapidly|quickly|promptly|successfully|all reversed|corrected|normalized|normalised
        |has|have|had |completely|fully regressed|normalized|normalised
        |{_BE} completely|totally|radically|successfully removed|resected|excised
        corrected by|with|after|following
        {_BE} cancelled|canceled|aborted|refused|declined|suspended|withdrawn|unavailable
        {_BE} |recommended|proposed|suggested|offered|advised but refused|declined|denied|cancelled|canceled
        {_BE} not |technically|physically possible|feasible|available
        {_BE} weaned |off
        """),
    _group("negated", "backward", """
        (-)
        """, about_results=True),
    _group("negated", "backward", f"""
        {_BE} |all|both|also|again negative
        : |all|both negative
        """, about_results=True),
    _group("negated", "backward", """
        : no|none|nil|absent|denies|denied|never|n
        - no|none|nil|absent|negative|denies|denied
        negative
        none
        nil
        """, reach=1, about_results=True),
    # "seizure free", "disease-free"
    _group("negated", "backward", """
        free
        """, reach=0),
    # ------------------------------------------------------------------------------------------------ historical
    _group("historical", "forward", """
        history|histories |significant|notable|remarkable|positive of|for
        history includes|included
        h/o
        hx of
        background |history of
        status post
        s/p
        known case of
        in the past
        """),
    _group("historical", "forward", """
        previous|previously|prior|past|remote|former|formerly|healed
        """, reach=3),
    _group("historical", "backward", """
        in the |distant|remote past
        in|during |his|her|early childhood|infancy|adolescence
        as a child|teenager
        # years|year ago|earlier|previously|before
        |several|many|some|few|two|three|four|five|six|seven|eight|nine|ten years|year ago|earlier|previously|before
        """),
    # ------------------------------------------------------------------------------------------------ hypothetical
    _group("hypothetical", "forward", """
        if
        in case of
        in the event of
        should there be
        should |the|any ~ develop|have|experience|get|become|notice|occur
        return |to hospital|ed|a&e|clinic| for|with|if
        call|come|go back|the|us|| doctor|nurse|| for|if|with
        watch|monitor|monitoring|monitored|observe|observing for
        look out for
        rule out
        r/o
        to exclude
        concern|concerns|concerning|worrisome|suspicious|suspicion for|of
        concerned about
        risk|risks of|for
        at |high|increased|low risk of|for
        prevent|prevents|preventing
        prevention of
        prophylaxis for|against|of
        prone to
        as needed for
        prn for
        |in order to avoid
        susceptible to
        """),
    # looked for: "screening for MRSA was negative" says that it is not there
    _group("uncertain", "forward", """
        to look for
        looking for
        screen|screening|screened for
        evaluate|evaluation|evaluated|assess|assessed|assessment|workup|investigated|investigate for |possible
        work up for
        """),
    _group("uncertain", "forward", """
        suspected|suspect|suspecting
        possible|possibly|probable|probably|presumed|presumptive|questionable|query|?|equivocal
        possibility of
        likely
        may|might|could represent|reflect|be|have|indicate|suggest
        , possible|possibly|probable|probably|likely|presumed|questionable|suspected|query|?
        suggestive of
        suggesting|suggest|suggests|suggested
        thought|felt|believed to be|represent
        differential diagnosis|diagnoses|
        versus
        vs
        """),
    _group("hypothetical", "backward", """
        is|was|were |also|initially|first suspected|possible|considered|presumed
        to be considered
        cannot|couldn't |entirely|completely|fully be |entirely|completely|fully excluded|ruled |out
        can|could not |entirely|completely|fully be |entirely|completely|fully excluded|ruled |out
        {_BE}| not |yet|been|be excluded
        {_BE}| not |yet|been|be ruled out
        cannot exclude
        should|must be ruled out
        should|must be excluded
        needs|need|has|have| to be ruled out
        needs|need|has|have| to be excluded
        is in the differential
        """.replace("{_BE}", _BE)),
    _group("hypothetical", "backward", """
        precautions
        prophylaxis
        """, reach=0),
    _group("uncertain", "backward", """
        ?
        vs
        versus
        """, reach=0),
    # ------------------------------------------------------------------------------------------------ family
    _group("family", "forward", f"""
        family history |is|was|significant|positive|notable |positive|significant|notable of|for
        family history includes
        fh of
        family hx of
        {_KIN}
        family members|member
        """),
    _group("family", "backward", f"""
        in the family
        in |both|his|her|the|a|an|one|two|elder|younger|maternal|paternal |elder|younger|maternal|paternal family|{_KIN}
        in |a|two first|second degree relative|relatives
        runs|run in the family
        """),
    # ------------------------------------------------------------------------------------------------ none at all
    # Look like triggers and are none: they only hide the triggers in them.
    _group("pseudo", "both", f"""
        no |significant|interval|further|clear|appreciable|major|substantial |interval change|changes
        without difficulty|incident|changing|altering
        |commonly|often|usually|typically|frequently associated with
        not only|just|necessarily|certain|clear|cause|drain|known|shown
        not |significantly|fully|completely improve|improved|resolve|resolved|resolving|subside|subsided|relieved|relieve
        no |longer |any doubt
        not uncommon|unusual|infrequent|rare|infrequently|uncommonly|unlike|doubt
        no |clear|obvious|definite {_REASON} for|of
        no |clear|obvious|definite {_REASON} was|is|could |be found|identified|established for|of
        for no |apparent|obvious|clear|known|good reason|cause
        not|never|unable|could|cannot|can't not|to| tolerate|bear |the|any|his|her|this|these|its |associated|accompanying
        but|though not ~ ,
        weak|reduced|decreased|diminished|low|poor to|or absent
        |was|were|is|are|been {_PARTLY} relieved|resolved|cleared|controlled
        |was|were|is|are|been|has|had|have relieved|resolved|cleared {_PARTLY}
        |was|were relieved|resolved for no reason
        non specific|small|invasive|productive|insulin|steroidal|obstructive|ischaemic|ischemic|st|alcoholic|hodgkin|hodgkin's
        gram |- negative
        rh negative
        if possible|needed|required|necessary|tolerated|indicated|appropriate
        past noon
        half past
        prior|previous to
        history taking
        |past|previous|social|medical|surgical|clinical medical|surgical|social history
        social|medical|surgical|clinical history
        history and physical|examination
        history , physical
        per|by |his|her|the mother|father|family|daughter|son|wife|husband
        family at|meeting|discussion|updated|informed|aware|present
        {_KIN}|family |have|has|had|also {_SAYS}
        according to |the|his|her mother|father|daughter|son|family|parents
        |his|her|the {_KIN} brought|called|found
        lives|living|stays|living with|at |his|her|the|their {_KIN}
        {_PERIOD} |of history of|for
        history of # ~
        presents|presented|presenting with |a|an history of
        since|from|started|began|beginning|onset |about|approximately|almost #|one|two|three|several ~ ago|earlier|before
        first cousin|cousins marriage|marriages|parents
        cousin|cousins marriage|marriages
        # year|years|month|months|week|weeks|day|days old
        most likely due
        in the past #|24|few|two|three|several ~
        over|for|during the past #|24|few|two|three|several|day|week|month|year |~
        past #|few|two|three|several|day|week|month|year hours|days|weeks|months|years|
        """),
    # End every scope that is open and open none.
    _group("stop", "both", """
        but
        however
        although
        though
        yet
        nevertheless
        except |for
        apart from
        aside from
        other than
        besides
        since
        as there|he|she|it|the
        so |that|he|she|it|the
        that he|she|it|they|the
        whereas
        while
        despite
        there is|was|are|were|has|have
        ;
        (+)
        """),
    _group("stop", "both", """
        because |of
        as a|his|her
        which
        who
        whose
        where
        secondary to
        due to
        attributed to
        as the|a cause|source|reason of|for
        improvement|change|changes|response|progression|worsening|relief in|of|to|from
        exacerbation|deterioration|aggravation|increase|decrease|reduction in|of
        respond|responded|responding to
        presenting|presents|presented |to|at|in|with
        |is|was admitted|referred|transferred |to|with
        diagnosed|discharged with
        in the setting|context|presence of
        found|noted|seen|thought|considered|shown to have|be
        developed|develops|developing
        complains|complained of
        reports
        reported that|having
        positive|consistent|compatible for|with
        revealed|reveals|revealing|showed|shows|showing|demonstrated|demonstrates|demonstrating|disclosed|confirmed|describing
        with
        following
        after
        before
        until
        when
        """, soft=True),
    # ... and these a forward scope only: in "a mass and an effusion were not seen" both are meant
    _group("stop", "forward", """
        and|, |and is|was|were|are|has|had|have|his|her|the|its|he|she|they|it|we|a|an|then|started|presented|remained|continued
        and|, |and developed|underwent|received|subsequently|therefore|thus|only|multiple|several|many
        and|, |and preserved|retained|normal|intact|elevated|raised|unchanged|stable|mild|positive
        , possible|possibly|probable|probably|likely|presumed|questionable|suspected|query|?
        """, soft=True),
    # ... or a backward scope only: what stands before another verb is another clause
    _group("stop", "backward", f"""
        {_VERBS}
        , |and the|his|her|their|its|he|she|they|we|it
        """, soft=True),
)  # fmt: skip
