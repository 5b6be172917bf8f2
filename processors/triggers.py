"""The words that change what a mention asserts: data for `processors.assertion`.

After NegEx (Chapman, Bridewell, Hanbury, Cooper, Buchanan: "A simple algorithm for identifying negated findings and diseases in
discharge summaries", J Biomed Inform 34, 2001) and ConText (Harkema, Dowling, Thornblade, Chapman: "ConText: an algorithm for
determining negation, experiencer, and temporal status from clinical reports", J Biomed Inform 42, 2009): the ideas of trigger,
direction, scope, termination and pseudo-trigger are theirs; the lists were written for this project and tuned on case reports.

Phrases are lower-case words separated by blanks; punctuation stands as a word of its own. `#` matches any number, `~` any one word.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

Effect = Literal["negated", "historical", "hypothetical", "family", "pseudo", "stop"]
Direction = Literal["forward", "backward", "both"]


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase for line in text.splitlines() if (phrase := line.strip()))


# (effect, direction) -> phrases. Longer phrases win over shorter ones that start at the same word.
TRIGGERS: Final[Mapping[tuple[Effect, Direction], tuple[str, ...]]] = MappingProxyType(
    {
        ("negated", "forward"): _phrases("""
            no
            not
            non
            nil
            without
            w/o
            absence of
            absent
            lack of
            lacks
            lacked
            lacking
            loss of ~ response to
            denies
            denied
            deny
            denying
            negative for
            negative
            neg for
            neg
            never
            none of
            neither
            nor
            cannot
            can't
            cannot see
            couldn't
            didn't
            doesn't
            don't
            wasn't
            weren't
            isn't
            hasn't
            haven't
            hadn't
            free of
            free from
            clear of
            devoid of
            failed to reveal
            failed to show
            failed to demonstrate
            fails to reveal
            fails to show
            rather than
            instead of
            ruled out
            rules out
            ruling out
            has been ruled out for
            excluded
            excludes
            excluding
            exclude
            unremarkable for
            resolution of
            disappearance of
            declined
            declines
            refused
            refuses
            unlikely
            unlikely to be
            inconsistent with
            not consistent with
            not compatible with
            unable to
            unlikely to represent
            low suspicion for
            low probability of
            against
            argues against
            (-)
            """),
        ("negated", "backward"): _phrases("""
            is ruled out
            was ruled out
            were ruled out
            are ruled out
            been ruled out
            is excluded
            was excluded
            were excluded
            are excluded
            been excluded
            is absent
            was absent
            were absent
            are absent
            absent
            unlikely
            is unlikely
            was unlikely
            is negative
            was negative
            were negative
            are negative
            negative
            not seen
            not found
            not detected
            not identified
            not observed
            not noted
            not present
            not evident
            not visible
            not visualized
            not visualised
            not demonstrated
            not appreciated
            not palpable
            not felt
            not heard
            not elicited
            not reported
            not performed
            not done
            not given
            not required
            not needed
            not used
            not administered
            not indicated
            not available
            not obtained
            not undertaken
            not possible
            not suspected
            not recommended
            not recorded
            not shown
            not apparent
            not confirmed
            was not
            were not
            is not
            are not
            has not
            have not
            had not
            did not
            does not
            could not be
            cannot be
            wasn't
            weren't
            isn't
            was denied
            were denied
            denied
            disappeared
            resolved
            was no longer
            were no longer
            no longer
            never
            (-)
            : no
            : none
            : nil
            : absent
            : negative
            : denies
            : denied
            - no
            - none
            - nil
            - absent
            - negative
            """),
        ("historical", "forward"): _phrases("""
            history of
            history significant for
            history notable for
            history includes
            history included
            histories of
            h/o
            hx of
            past history of
            previous
            previously
            prior
            past
            remote
            old
            healed
            status post
            s/p
            former
            formerly
            known case of
            in the past
            in childhood
            as a child
            childhood
            years ago
            year ago
            """),
        ("historical", "backward"): _phrases("""
            in the past
            in childhood
            as a child
            in ~ childhood
            years ago
            year ago
            years earlier
            years previously
            years before
            months ago
            in 19##
            """),
        ("hypothetical", "forward"): _phrases("""
            if
            in case of
            in the event of
            should there be
            should ~ develop
            should ~ have
            should ~ experience
            return for
            return to the hospital for
            return with
            return if
            call for
            come back for
            watch for
            monitor for
            monitoring for
            monitored for
            observe for
            look out for
            to look for
            looking for
            screen for
            screening for
            screened for
            rule out
            r/o
            to exclude
            to rule out
            evaluate for
            evaluation for
            evaluation of possible
            assess for
            assessed for
            concern for
            concerning for
            concerned about
            suspicious for
            suspicion of
            suspicion for
            suspected
            suspect
            suspecting
            suspicious of
            possible
            possibly
            possibility of
            probable
            probably
            presumed
            presumptive
            likely
            may represent
            may reflect
            might represent
            could represent
            could be
            might be
            may be
            may have
            might have
            questionable
            query
            ?
            differential diagnosis
            differential diagnoses
            differential includes
            differential included
            versus
            vs
            risk of
            risk for
            at risk for
            at risk of
            risks of
            prevent
            prevention of
            prophylaxis for
            prophylaxis against
            to prevent
            prone to
            suggestive of
            suggesting
            suggest
            suggests
            suggested
            thought to be
            work up for
            workup for
            as needed for
            prn for
            in order to avoid
            to avoid
            avoid
            """),
        ("hypothetical", "backward"): _phrases("""
            is suspected
            was suspected
            were suspected
            is possible
            was possible
            was considered
            were considered
            to be considered
            cannot be excluded
            can not be excluded
            could not be excluded
            cannot be ruled out
            could not be ruled out
            not ruled out
            not excluded
            cannot exclude
            should be ruled out
            must be ruled out
            needs to be ruled out
            to be ruled out
            to be excluded
            precautions
            prophylaxis
            is in the differential
            ?
            """),
        ("family", "forward"): _phrases("""
            family history of
            family history significant for
            family history is significant for
            family history notable for
            family history is positive for
            family history positive for
            family history includes
            fh of
            family hx of
            mother
            father
            brother
            brothers
            sister
            sisters
            sibling
            siblings
            parents
            parent
            grandmother
            grandfather
            grandparents
            aunt
            aunts
            uncle
            uncles
            cousin
            cousins
            son
            sons
            daughter
            daughters
            niece
            nephew
            relatives
            relative
            family members
            family member
            """),
        ("family", "backward"): _phrases("""
            in the family
            in ~ family
            in ~ mother
            in ~ father
            in ~ brother
            in ~ sister
            in ~ son
            in ~ daughter
            in ~ uncle
            in ~ aunt
            in ~ cousin
            in ~ grandmother
            in ~ grandfather
            in a first degree relative
            in first degree relatives
            in ~ relatives
            runs in the family
            """),
        # Look like triggers and are none.
        ("pseudo", "both"): _phrases("""
            no increase
            no change
            no significant change
            no significant interval change
            no interval change
            no further change
            not only
            not just
            not necessarily
            not certain if
            not certain whether
            not clear
            not cause
            not drain
            not rule out
            not ruled out
            not yet ruled out
            no doubt
            with no difficulty
            without difficulty
            without further
            gram negative
            gram - negative
            rh negative
            if possible
            if needed
            if required
            if necessary
            if tolerated
            if indicated
            past noon
            half past
            prior to
            prior to admission
            previous to
            history taking
            history , physical
            social history
            past medical history
            medical history
            history and physical
            history and examination
            per family
            family at bedside
            family meeting
            by mother
            per mother
            mother reports
            father reports
            mother reported
            mother states
            daughter reports
            son reports
            wife reports
            according to ~ mother
            according to ~ father
            according to ~ daughter
            according to ~ son
            according to ~ family
            non small cell
            non hodgkin
            non hodgkin's
            non specific
            non steroidal
            non st
            non invasive
            non tender
            non productive
            non compliant
            non compliance
            non adherence
            as likely as not
            day history of
            days history of
            week history of
            weeks history of
            month history of
            months history of
            year history of
            years history of
            hour history of
            hours history of
            day's history of
            weeks' history of
            months' history of
            years' history of
            long history of
            short history of
            longstanding history of
            old man
            old woman
            old male
            old female
            old boy
            old girl
            old patient
            year old
            years old
            month old
            months old
            week old
            weeks old
            day old
            days old
            most likely
            """),
        # End every scope that is open, and begin none.
        ("stop", "both"): _phrases("""
            but
            however
            although
            though
            yet
            nevertheless
            except
            except for
            apart from
            aside from
            other than
            besides
            still
            because
            since
            as there
            whereas
            while
            which
            who
            secondary to
            due to
            attributed to
            as a cause of
            as the cause of
            there is
            there was
            there are
            there were
            and is
            and was
            and has
            and had
            and his
            and her
            and the
            and he
            and she
            and they
            and a
            and an
            and then
            and started
            and presented
            presenting with
            presents with
            presented with
            admitted with
            was found to have
            found to have
            noted to have
            developed
            developing
            complains of
            complained of
            reports
            reported
            positive for
            revealed
            reveals
            showed
            shows
            demonstrated
            demonstrates
            with
            ;
            """),
    }
)
