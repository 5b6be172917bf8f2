"""The words that change what a mention asserts: data for `processors.assertion`.

After NegEx (Chapman, Bridewell, Hanbury, Cooper, Buchanan: "A simple algorithm for identifying negated findings and diseases in
discharge summaries", J Biomed Inform 34, 2001) and ConText (Harkema, Dowling, Thornblade, Chapman: "ConText: an algorithm for
determining negation, experiencer, and temporal status from clinical reports", J Biomed Inform 42, 2009): the ideas of trigger,
direction, scope, termination and pseudo-trigger are theirs; the lists were written for this project and tuned on half of the
case reports that the evaluation reads (`processors.assertion_quality`).

A phrase is lower-case words separated by blanks. In a word, `a|b` means either and an empty alternative (`|yet`) that it may be
missing; `~` stands for any one word, `#` for any number, `.` for the sentence's end. Punctuation is a word of its own. Hyphens
inside words are not seen.
"""

from dataclasses import dataclass
from typing import Final, Literal

# conditional and uncertain are published as hypothetical: see `processors.assertion.ORDER`
Effect = Literal["negated", "historical", "hypothetical", "conditional", "uncertain", "family", "pseudo", "stop"]
Direction = Literal["forward", "backward", "both"]  # of a stop: which scopes it closes; of a pseudo-trigger: no matter


@dataclass(frozen=True, slots=True)
class Group:
    """Phrases of one effect. `reach`: how many words away a mention may begin (forward) or end (backward); None: the clause.

    `about_results`: says how a test came out, so it negates a condition and never the test itself. `spares`, of a stop: the effects
    whose scopes it leaves open ("her brother was diagnosed with ..." goes on about him, "if he develops ..." on what may come).
    `nominal`: may be part of a finding's own name, "absence of appetite", "absent reflexes": marked whole, it is present, and the
    trigger says nothing of what stands around it. `of_drugs`: says what is not given, so it never negates a condition or symptom.
    `object_before`, of a forward trigger: may stand behind what it speaks of, "ramipril 5mg held as AKI"; where such a mention
    stands right before, it is taken so and says nothing of what follows, nor does it over a comma or "and" right behind.
    `last_item`, of a backward trigger: in a list it speaks of the last item ("aspirin, metformin stopped"), of all only where "and"
    joins them or it is a plural ("A, B and C stopped", "A, B were stopped").
    """

    effect: Effect
    direction: Direction
    phrases: tuple[str, ...]
    reach: int | None = None
    about_results: bool = False
    spares: tuple[Effect, ...] = ()
    nominal: bool = False
    of_drugs: bool = False
    object_before: bool = False
    last_item: bool = False


def _group(
    effect: Effect,
    direction: Direction,
    phrases: str,
    *,
    reach: int | None = None,
    about_results: bool = False,
    spares: tuple[Effect, ...] = (),
    nominal: bool = False,
    of_drugs: bool = False,
    object_before: bool = False,
    last_item: bool = False,
) -> Group:
    listed = tuple(phrase for line in phrases.splitlines() if (phrase := line.strip()))
    return Group(effect, direction, listed, reach, about_results, spares, nominal, of_drugs, object_before, last_item)


_SAME_CLAUSE: Final[tuple[Effect, ...]] = ("family", "conditional")  # what a new clause about the same person goes on with
KIN: Final = (
    "mother|mum|mom|father|dad|brother|brothers|sister|sisters|sibling|siblings|parents|parent|grandmother|grandma|gran|"
    "grandfather|grandad|grandpa|grandparents|aunt|aunts|uncle|uncles|cousin|cousins|son|sons|daughter|daughters|niece|nephew|"
    "relative|relatives"
)
_KIN_S: Final = "|".join(f"{relative}'s|{relative}’s" for relative in KIN.split("|"))
_HOUSEHOLD: Final = "wife|husband|partner|spouse|girlfriend|boyfriend"  # not kin: family only where something is said of them
_SAYS: Final = (
    "reports|reported|states|stated|says|said|noticed|noted|notices|notes|denies|denied|informed|updated|called|visiting|visited|"
    "thinks|thought|feels|felt|believes|describes|described|gives|gave|saw|witnessed|mentions|mentioned|confirms|confirmed|"
    "worried|concerned|anxious|rang|phoned|asks|asked|wants|requests|requested"
)
_SAY: Final = "think|believe|suspect|feel|say|report|state|recall"
_PRONOUN: Final = "he|she|they|it"
_CANNOT: Final = "cannot|can't|couldn't|doesn't|don't|didn't|wouldn't|won't|not"
_WHOLLY: Final = "entirely|completely|fully|definitively|reliably|formally|yet"
# What symptoms may do.
_BEFALL: Final = "develop|experience|occur|recur|worsen|return|persist|deteriorate|drop|fall|rise|spike|collapse"
_OF_NOTE: Final = "significant|notable|remarkable|positive|+ve"
_CARE: Final = "|hospital|ed|er|a|gp|clinic|ward|us |e"  # where one may come back to; "A&E" is two words
_PERIOD: Final = (
    "day|days|week|weeks|month|months|year|years|hour|hours|day's|days'|week's|weeks'|month's|months'|year's|years'|hour's|hours'|"
    "long|short|longstanding|lengthy|brief"
)
_HAD: Final = "|had|has|have|was|were"
_GONE: Final = "resolved|disappeared|subsided|ceased|vanished|abated|cleared|stopped"
_PARTLY: Final = "slightly|partially|partly|somewhat|temporarily|transiently|moderately|mildly|incompletely"
_MISSED: Final = "missed|skipped"
_WHOSE: Final = "|his|her|their|the|a|any"
_MANY: Final = "|one|two|three|some|several|few|#"
_MONTHS: Final = (
    "january|february|march|april|may|june|july|august|september|october|november|december|jan|feb|mar|apr|jun|jul|aug|sep|sept|"
    "oct|nov|dec"
)
_REASON: Final = "source|cause|explanation|reason|aetiology|etiology|focus"
_BE: Final = "is|was|were|are|been|be|being"
_VERBS: Final = (
    "is|was|were|are|has|had|have|remain|remained|remains|improved|persisted|persists|continue|continued|continues|became|"
    "increased|decreased|admits|endorses"
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
# Words that tell of an item of a list that it is there or was done: "no fever, infection likely", "no rash, penicillin given". Not
# "present", "seen" or "noted": in "no icterus, cyanosis seen" neither is.
_TOLD: Final = (
    "confirmed|diagnosed|treated|started|commenced|restarted|given|worse|worsening|improving|ongoing|persistent|persisting|"
    "likely"
)
TOLD: Final = frozenset(_TOLD.split("|"))
# Where an item ends that is of another kind than what follows: "no pulse - VF", "hold apixaban: GI bleed"; and before a reason.
BESIDE: Final = frozenset({"-", "–", "—", ":", ";"})
REASONS: Final = frozenset({"as", "given", "for", "in"})
# What one would have, and whose absence is the finding or none: not the first item of a list of what is wrong.
_WANTED: Final = """
    pulse pulses heartbeat fhr fhh entry sounds movement movements power sensation reflex reflexes tone effort speech output urine
    flatus capacity response signal flow refill
    access cannula pmh pmhx pshx history meds medication medications medicines tablets drugs allergies allergy allergens bed beds
    follow followup appointment nok kin relatives relative family carer carers collateral abode address interpreter consent
    alcohol etoh input support package poc help referral review itu icu hdu cpr resus resuscitation escalation intervention oxygen
    antibiotics abx analgesia anticoagulation anticoagulants treatment imaging scan bloods dialysis ventilation niv intubation
"""
WANTED: Final = frozenset(_WANTED.split())
# ... unless it is said that something is wrong with it or was the cause: "no ECG changes, chest pain", "no trauma, back pain".
_ABNORMAL: Final = """
    abnormal abnormality abnormalities abuse altered asymmetry change changes complaint complaints concern concerns contact contacts
    decrease deficit deficits depression dependence deviation difference difficulties difficulty disturbance disturbances drop
    elevation excess exposure fall falls feature features flags focus growth impairment impaired increase injuries injury issue
    issues loss lost misuse overdose problem problems raised reaction reactions recent reduced reduction retention rise shift sign
    signs spike spikes symptom symptoms trauma travel trouble withdrawal
"""
ABNORMAL: Final = frozenset(_ABNORMAL.split())

TRIGGERS: Final[tuple[Group, ...]] = (
    # ------------------------------------------------------------------------------------------------ negated
    _group("negated", "forward", f"""
        no
        ∅|ø
        []|☐|□
        not
        nil
        without
        with out
        w/o
        denies|denied|deny|denying
        denies|denied|deny|denying |that {_PRONOUN} |has|had|have|having|is|was
        no|without |any|clear|clinical|convincing evidence|indication|suggestion|sign|signs |that {_PRONOUN}|there |has|had|is|was
        not|never|don't|doesn't|didn't {_SAY} |that {_PRONOUN}|there|this|these |has|had|have|is|was|are
        nor|neither did|does|do|had|has|was|is {_PRONOUN} |have
        no|nil|without |any|current concern|concerns for|of|about|re|regarding|that
        not thought|felt|believed|likely to |be|represent
        not |thought|felt|believed|likely |to |be due|secondary|attributable|attributed to
        not caused|explained by
        no|not c/o
        {_BE}| |subsequently|formally|also ruled out for
        not for
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
        rules|ruling out
        excludes|excluding
        results|findings|tests|studies|scans|images|cultures|troponins|appearances|these|they exclude
        unremarkable for
        unlikely to|for|
        no longer
        no longer |has|had|have|need|needs|needed|require|requires|required|using|used|taking|takes|receiving|received |any
        no longer reports|reported|complains|complained|suffers|suffered|suffering |of|from
        no|without |the|a|any|further need|indication|requirement|necessity|role|use for|of|to
        no|without|denies|denied |any|known|previous|prior|past history|hx of
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
    _group("negated", "forward", """
        ruled out
        excluded
        """, object_before=True),
    _group("negated", "forward", """
        declined|refused
        """, of_drugs=True, object_before=True),
    # the reason stands behind it: "do not give aspirin - GI bleed"
    _group("negated", "forward", """
        should|must not|never |be have|receive|take|given|get
        not|never|don't give|receive|take|prescribe|administer|start|restart|use
        not to be given|started|restarted|prescribed|used
        declines|refuses|refusing
        """, of_drugs=True),
    # a patient on a medicine who did not have it: "missed two doses of apixaban"
    _group("negated", "forward", f"""
        {_MISSED} {_WHOSE} |last|previous|morning|evening {_MANY} dose|doses|tablets of
        {_MISSED} {_WHOSE}
        """, reach=2, of_drugs=True, object_before=True),
    # "fever settled", and not "settled on the ward"
    _group("negated", "forward", """
        settled
        """, reach=0, object_before=True),
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
        negative|neg|-ve for|of
        is|was|were|are|been|tested|tests|testing negative|neg|-ve for|of
        """, about_results=True),
    _group("negated", "forward", """
        absent
        """, reach=2, nominal=True),
    _group("negated", "forward", """
        stopped|ceased
        """, reach=2, object_before=True),
    _group("negated", "forward", """
        discontinuing|stopping|ceasing
        discontinuation|withdrawal|cessation of
        """, reach=2),
    _group("negated", "forward", """
        stop|suspend|suspending|withhold|withholding|hold|holding
        """, reach=2, of_drugs=True),
    _group("negated", "forward", """
        discontinued|suspended|withheld|omitted|held|avoided
        """, reach=2, of_drugs=True, object_before=True),
    _group("negated", "forward", """
        omit|omitting|avoid|avoids|avoiding
        """, reach=2, of_drugs=True),
    # "negative blood cultures": the word right behind
    _group("negated", "forward", """
        negative|neg|-ve
        """, reach=3, about_results=True, object_before=True),
    _group("negated", "backward", f"""
        {_BE}| not|never |yet|been|be|clearly|otherwise {_FOUND}
        could|can not|never be {_FOUND}
        cannot|couldn't|wasn't|weren't|isn't|aren't|hasn't|haven't be|been|have| |been {_FOUND}
        has|have|had not|never |been occurred|occur|appeared|appear|recurred|recur|developed|returned
        did not occur|appear|recur|develop|return|exist
        no longer |{_FOUND}
        {_BE} no longer
        |which|that|all|both {_BE} |also|all|both|completely|subsequently excluded|ruled |out
        excluded on|by|with|clinically|radiologically
        ruled out on|by|with|clinically|radiologically|.|,|;
        {_BE}| ruled out for now
        {_BE}| ruled out for the moment|present
        {_BE}| absent
        {_BE}| unlikely|improbable |,|;
        {_BE} denied
        denied .|,|;|by
        {_BE} |then|subsequently discontinued|withheld|withdrawn
        {_HAD} |been|completely|fully|gradually|promptly|spontaneously|all {_GONE}
        has|have|now |now settled
        |{_BE} |completely|fully relieved|eliminated|eradicated|cured
        {_BE} |then|completely|fully|rapidly|quickly|promptly|successfully|all reversed|corrected|normalized|normalised
        |has|have|had |completely|fully regressed|normalized|normalised
        |{_BE} completely|totally|radically|successfully removed|resected|excised
        corrected by|with|after|following
        {_BE} cancelled|canceled|aborted|refused|declined|suspended|withdrawn|unavailable
        {_BE} |recommended|proposed|suggested|offered|advised but refused|declined|denied|cancelled|canceled
        {_BE} not |technically|physically possible|feasible|available
        {_BE} weaned |off
        """, last_item=True),
    _group("negated", "backward", """
        contraindicated|contra-indicated
        not|never given|started|prescribed|administered
        """, of_drugs=True, last_item=True),
    _group("negated", "backward", """
        (-)
        """, about_results=True, last_item=True),
    _group("negated", "backward", f"""
        {_BE} |all|both|also|again negative|neg|-ve
        : |all|both negative|neg|-ve
        """, about_results=True, last_item=True),
    _group("negated", "backward", """
        : no|none|nil|absent|denies|denied|never|n
        - no|none|nil|absent|negative|denies|denied
        negative|neg|-ve |.|,|;
        none
        nil
        """, reach=1, about_results=True),
    # "metformin held"
    _group("negated", "backward", f"""
        |{_BE} held .|,|;|and|on|in|until|due|pending|overnight|today
        |{_BE} on hold
        discontinued .|,|;|on|due|because|in|at
        """, reach=3),
    # a test that excluded something was done
    _group("negated", "backward", """
        excluded .|,|;
        """, about_results=True, last_item=True),
    # "seizure free", "disease-free"
    _group("negated", "backward", """
        free
        """, reach=0),
    # ------------------------------------------------------------------------------------------------ historical
    _group("historical", "forward", f"""
        |past|previous|prior |medical|surgical|psychiatric history|histories|hx |is|was |{_OF_NOTE} of|for
        |past|previous|prior |medical|surgical|psychiatric history|hx |also includes|included|including
        h/o
        pmh|pmhx|psh|pshx |is|was |{_OF_NOTE}|includes|included|including |of|for
        background |history of
        b g |of
        status post
        s/p
        known case of
        in the past
        hx
        """),
    _group("historical", "forward", """
        previous|previously|prev|prior|past|remote|former|formerly|healed
        recovered from
        """, reach=3),
    # of the medicines inside it: "was on prednisolone 5 mg until May"
    _group("historical", "forward", f"""
        was|were|been |previously on|taking ~ |~ |~ |~ |~ until |early|mid|late|about #|last|recently|{_MONTHS}
        """, reach=0),
    _group("historical", "forward", """
        childhood
        old
        """, reach=0),
    _group("historical", "backward", """
        in the |distant|remote past
        in|during |his|her|early childhood|infancy|adolescence
        as a child|teenager
        last year|winter|spring|summer|autumn
        # years|year ago|earlier|previously|before
        |several|many|some|few|two|three|four|five|six|seven|eight|nine|ten years|year ago|earlier|previously|before
        """),
    # ------------------------------------------------------------------------------------------------ hypothetical
    # what may come: no clause about the same person closes it, "if he develops fever, is vomiting or there is pain"
    _group("conditional", "forward", f"""
        if
        unless
        whether
        lest
        in case |of|he|she|they|there
        in the event of|that
        should {_PRONOUN}|you|there|the|any|his|her |~ {_BEFALL}|complain|present|report|be|have|get|become|notice|feel|suffer
        should ~ |~ {_BEFALL}
        return|reattend |to |the {_CARE} for|with|if
        attend|go |straight |to |the hospital|ed|er|a |e for|with|if
        come|go back |to |the {_CARE} for|if
        to|should|please come back |to |the {_CARE} with
        call|ring|phone|contact|notify|inform|bleep |the|us|your|his|her |doctor|nurse|gp|ward|team|clinic|# for|with|if
        seek |urgent|immediate|prompt |medical attention|help|advice|care|review for|with|if
        return|ed|er precautions
        safety net|netted|netting
        safetynet|safetynetted|safetynetting
        red flag|flags |symptoms discussed|explained|advised|given|include|including
        hold for|if
        """),
    _group("hypothetical", "forward", f"""
        watch|watching|monitor|monitoring|monitored|observe|observing |closely|overnight|carefully for |developing
        look|eye out for
        rule out
        r/o
        |to exclude
        {_CANNOT} |{_WHOLLY} exclude
        {_CANNOT} |{_WHOLLY} rule out
        unable|difficult|hard|impossible|failed|fails|inability to |{_WHOLLY} exclude
        unable|difficult|hard|impossible|failed|fails|inability to |{_WHOLLY} rule out
        have|has|had not |{_WHOLLY} excluded
        have|has|had not |{_WHOLLY} ruled out
        haven't|hasn't|hadn't |{_WHOLLY} excluded
        haven't|hasn't|hadn't |{_WHOLLY} ruled out
        view to excluding
        view to ruling out
        |not |yet be|been|being ruled out for
        ruling out for
        for exclusion of
        concern|concerns|concerning|worrisome|suspicious|suspicion for|of|about|re|regarding|that
        concerned|worried for|about|re|regarding|that|{_PRONOUN}
        |at |high|higher|increased|low|some risk|risks of|for |developing|having
        prevent|prevents|preventing
        prevention of
        prophylaxis|thromboprophylaxis for|against|of
        vaccine|vaccines|vaccinated|vaccination|immunised|immunized against|for
        prone to
        as needed|required for
        prn for
        |in order to avoid
        susceptible to
        """),
    _group("hypothetical", "forward", """
        risk factor|factors for
        """, reach=3),
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
        consider|considering
        unsure|uncertain|unclear |about|of|if|whether|that
        not sure|certain |about|of|if|whether|that
        doubt |that|if|whether {_PRONOUN} |has|had
        doubt
        ddx
        differential diagnosis|diagnoses|
        differential |also|still|then includes|include|included|is|of|remains
        versus
        vs
        """.replace("{_PRONOUN}", _PRONOUN)),
    _group("hypothetical", "backward", """
        is|was|were |also|initially|first suspected|possible|considered|presumed
        to be considered
        cannot|couldn't |entirely|completely|fully be |entirely|completely|fully excluded|ruled |out
        can|could not |entirely|completely|fully be |entirely|completely|fully excluded|ruled |out
        can't |entirely|completely|fully be |entirely|completely|fully excluded|ruled |out
        unable|difficult|hard|impossible to be excluded|ruled |out
        remains possible|likely|probable
        to be excluded
        to be ruled out
        {_BE}| not |yet|been|be excluded
        {_BE}| not |yet|been|be ruled out
        should|must be ruled out
        should|must be excluded
        needs|need|has|have| to be ruled out
        needs|need|has|have| to be excluded
        is|remains in|on the differential
        is|remains |also|more|most|less|very likely|probable .|,|;
        more|less likely .|,|;
        r/o .|,|;
        is|was|are|were difficult|hard|impossible to exclude .|,|;
        """.replace("{_BE}", _BE), last_item=True),
    _group("hypothetical", "backward", """
        precautions
        prophylaxis
        risk
        vaccine|vaccines|vaccination|immunisation|immunization
        """, reach=0),
    _group("uncertain", "backward", """
        screen|screening
        ?
        vs
        versus
        |{_BE} suspected .|,|;
        likely|possible|probable .|,|;
        until proven otherwise
        """.replace("{_BE}", _BE), reach=0),
    # ------------------------------------------------------------------------------------------------ family
    _group("family", "forward", f"""
        family|fam |medical|psychiatric|cardiac history|hx |is|was |{_OF_NOTE}|strong of|for
        family|fam |medical|psychiatric|cardiac history|hx|h/o |also includes|included|including|:
        family|fam h/o
        fh |is|was |{_OF_NOTE}|strong of|for
        fhx|famhx
        {KIN}
        {_KIN_S}
        {_HOUSEHOLD} |also|recently has|had|died|diagnosed|tested|suffers|suffered
        family members|member
        """),
    _group("family", "backward", f"""
        in the family
        in |both|his|her|the|a|an|one|two|elder|younger|maternal|paternal |elder|younger|maternal|paternal family|{KIN}
        in |a|two first|second degree relative|relatives
        runs|run in the family
        """),
    # "MI - father at 45", "breast cancer (sister)"
    _group("family", "backward", f"""
        - {KIN} .|,|;|at|aged|in|died|#
        ( {KIN}
        """, last_item=True),
    # ------------------------------------------------------------------------------------------------ none at all
    # Look like triggers and are none: they only hide the triggers in them.
    _group("pseudo", "both", f"""
        no |significant|interval|further|clear|appreciable|major|substantial |interval change|changes
        without difficulty|incident|changing|altering
        |commonly|often|usually|typically|frequently associated with
        not only|just|necessarily|certain|clear|cause|drain|known|shown
        not |significantly|fully|completely improve|improved|improving|resolve|resolved|resolving|subside|subsided|settled|settling
        not |significantly|fully|completely relieved|relieve
        not |very|so|yet|that well|adequately|fully|completely|optimally controlled|managed|treated|responding
        not controlled|responding
        not without
        without doubt
        no resolution|disappearance of
        no better|worse
        no|not|never|denies|without |any|has missed|missing|skipped {_WHOSE} |dose|doses|tablets |of
        until|once|when ~ |~ |~ |has|have|is|are settled
        never|partly|partially settled
        settled slightly|somewhat|partly|partially
        settled a bit|little
        no |further|additional workup|investigation|investigations|treatment|management of|for
        no |further|additional work|follow up of|for
        nil else|of
        no|nil |significant|relevant|known|other pmh|pmhx|psh|pshx .|,|;|-|:
        no|nil |significant|relevant|known|other pmh|pmhx|psh|pshx of note
        held a|an|at|by
        as if
        |{_PRONOUN} had to go|attend|return |to |the hospital|ed|er|a |e for|with
        not seek |medical attention|help|advice|care for|with
        diagnosed|since|from|over|for|during|within |in|the last year|winter|spring|summer|autumn
        response|met|arrest|crash|emergency|trauma|stroke|code|phone call for|with|about
        year|years|yr|yrs|month|months|mo|week|weeks|day|days|hour|hours old
        no |longer |any doubt
        not uncommon|unusual|infrequent|rare|infrequently|uncommonly|unlike|doubt
        no |clear|obvious|definite|known|apparent|identifiable {_REASON} for|of
        no |clear|obvious|definite {_REASON} was|is|could |be found|identified|established for|of
        for no |apparent|obvious|clear|known|good reason|cause
        not|never|unable|could|cannot|can't not|to| tolerate|bear |the|any|his|her|this|these|its |associated|accompanying
        not tolerating
        but|though not ~ ,
        weak|reduced|decreased|diminished|low|poor to|or absent
        |was|were|is|are|been {_PARTLY} relieved|resolved|cleared|controlled
        |was|were|is|are|been|has|had|have relieved|resolved|cleared {_PARTLY}
        |was|were relieved|resolved for no reason
        non specific|small|invasive|productive|insulin|steroidal|obstructive|ischaemic|ischemic|st|alcoholic|hodgkin|hodgkin's
        gram |- negative|neg|-ve
        rh|rhesus|triple|er|pr|her2|coagulase negative|neg|-ve
        if possible|needed|required|necessary|tolerated|indicated|appropriate
        past noon
        half past
        prior|previous to
        history taking
        hx taken|obtained|from|by|per|limited|unobtainable|unavailable|unclear|as|and|given
        on|under|off|to hold parameters|pressure|still
        ø #
        |past|previous|social|medical|surgical|clinical medical|surgical|social history
        social|medical|surgical|clinical history
        history and physical|examination
        history , physical
        per|by |his|her|the mother|mum|mom|father|dad|family|daughter|son|wife|husband|partner
        family at|meeting|discussion|updated|informed|aware|present
        {KIN}|{_HOUSEHOLD}|family |~ {_SAYS}
        {_HOUSEHOLD} has|had been|to
        {KIN} |is|was at bedside
        according to |the|his|her mother|father|daughter|son|family|parents
        |his|her|the {KIN} brought|called|found
        lives|living|stays|living with|at |his|her|the|their {KIN}
        {_PERIOD} |of history|hx of|for
        {_PERIOD} h/o
        # 7|52|12|24 history|hx of
        # 7|52|12|24 h/o
        recent|acute|sudden|current history|hx of
        gives|gave|giving |a|an|his|her |~ history|hx of
        history|hx of |the|his|her present|presenting|current illness|complaint|complaints|problem
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
        +ve
        but
        however
        although
        though
        nevertheless
        except |for
        apart from
        aside from
        since
        as there|he|she|it|the
        so |that|he|she|it|the
        whereas
        , and {_PRONOUN} was|were|had
        ;
        (+)
        []|☐|□|[x]|[✓]|[✔]|☑|☒
        """.replace("{_PRONOUN}", _PRONOUN)),
    _group("stop", "both", """
        other than
        besides
        while
        despite
        yet
        and|, |and |the patient|pt |also has|had|is|was|denies|reports
        """, spares=("conditional",)),
    # "suspect that he has", "concern that there is": what is supposed goes on
    _group("stop", "both", """
        that he|she|it|they|the
        there is|was|are|were|has|have
        """, spares=("conditional", "hypothetical", "uncertain")),
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
        presenting|presents|presented|p/w |to|at|in|with
        |is|was admitted|referred|transferred |to|with
        diagnosed|discharged with
        in the setting|context|presence of
        found|noted|seen|thought|considered|shown to have|be
        developed|develops|developing
        complains|complained of
        c/o
        here|seen|attends|attended|attending for|with
        now has|have|with|presents|presenting|presented|complains|complaining|c/o|p/w
        reports
        reported that|having
        positive|pos|+ve|consistent|compatible for|with
        revealed|reveals|revealing|showed|shows|showing|demonstrated|demonstrates|demonstrating|disclosed|confirmed|describing
        with
        following
        after
        before
        until
        when
        """, spares=_SAME_CLAUSE),
    # ... and these a forward scope only: in "a mass and an effusion were not seen" both are meant
    _group("stop", "forward", """
        and|, |and is|was|were|are|has|had|have|his|her|the|its|he|she|they|it|we|a|an|then|started|presented|remained|continued
        and|, |and developed|underwent|received|subsequently|therefore|thus|only|multiple|several|many
        and|, |and preserved|retained|normal|intact|elevated|raised|unchanged|stable|mild|positive
        and|, |and now|today|currently|treat|start|give|commence|admit|discharge|continue
        , possible|possibly|probable|probably|likely|presumed|questionable|suspected|query|?
        """, spares=_SAME_CLAUSE),
    # ... and, without a comma, "no fever she was tachycardic"
    _group("stop", "forward", """
        he|she|they |still|also|now|then has|had|have|is|was|are|were|developed|became|remains|remained|continues|continued
        """, spares=("family", "conditional", "hypothetical", "uncertain")),
    # ... or a backward scope only: what stands before another verb is another clause
    _group("stop", "backward", f"""
        {_VERBS}
        , |and the|his|her|their|its|he|she|they|we|it
        """, spares=_SAME_CLAUSE),
)  # fmt: skip
