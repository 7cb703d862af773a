"""A plan cut to what a set can serve: rows that need words, classes or a common space which it lacks go."""

from __future__ import annotations

from collections import defaultdict

from experiments.run.procedure import base_of, check_served, scorer_of
from experiments.study.plan import UNTRAINED, Plan
from rank_xmodal.data.embedding_set import EmbeddingSet
from rank_xmodal.errors import UserError
from rank_xmodal.evaluation.class_gallery import CLASS_MAP
from rank_xmodal.scorers import ScorerSettings
from rank_xmodal.scorers.chance import Chance


def needs_of(settings: ScorerSettings) -> str:
    """Return in words what a scorer asks of a set, beside pairs of its own split train where it learns."""
    scorer, base = scorer_of(settings), base_of(settings)
    needs = scorer.needs
    stands = needs.base or needs.neighbours
    said = [
        "words and cells" * needs.tokens,
        "classes" * needs.labels,
        "images and captions" * needs.content,
        "lists" * needs.lists,
        "pairs" * (scorer.fitted_on_pairs or base.fitted_on_pairs),
        "one space" * (not scorer.takes_unaligned or (stands and not base.takes_unaligned)),
    ]
    return ", ".join(filter(None, said)) or "nothing"


def fitted_to(plan: Plan, data: EmbeddingSet) -> Plan:
    """Return the plan without the rows that the set can't serve; its note names them.

    Where images and texts share no space but classes, gains and p-values are of class MAP: no other figure of such a
    set says much.

    Raises
    ------
    UserError
        If the set can serve none of them.
    """
    left: dict[str, list[str]] = defaultdict(list)
    trained, why = {}, ""
    for name, row in plan.trained.items():
        try:
            check_served(row.settings, data)
        except UserError as error:
            why = str(error)
            left[needs_of(row.settings)].append(name)
        else:
            trained[name] = row
    if not trained:
        raise UserError(f"no row of the plan {plan.name} fits the set; the last one: {why}")
    present = {*trained, *(UNTRAINED if data.aligned else [Chance.label])}
    note = plan.note
    if left:
        lacking = "; ".join(f"{', '.join(names)} (need {what})" for what, names in left.items())
        note = f"{note} Not on this set: {lacking}.".strip()
    return plan.model_copy(
        update={
            "trained": trained,
            "against": tuple(name for name in plan.against or () if name in present),
            "tested": CLASS_MAP if data.labelled and not data.aligned else plan.tested,
            "note": note,
        }
    )
