"""No draft: an empty tree, and a loop that is plain decoding."""

import itertools

import pytest
from toys import EXACT, RULES, ask, exact_law, target, total_variation

from anydraft.control.fixed import Fixed
from anydraft.core.noise import Keyed
from anydraft.core.records import Context
from anydraft.drafters.none import NoDraft


def test_the_draft_is_empty():
    context = Context.start([ask(4), ask(4)])
    draft = NoDraft().propose(context, Fixed(5).size(context), Keyed().at(context))
    assert draft.tokens.shape == (2, 0) and draft.nodes == draft.levels == draft.forwards == 0 and draft.law is None


@pytest.mark.proof
@pytest.mark.parametrize("rule", RULES)
def test_the_law_is_the_product_of_the_targets_own_probabilities(rule):
    """Computed here from the table itself, so that plain decoding, against which all else is held, is held to something too."""
    model, expected = target(), {}
    for path in itertools.product(range(3), repeat=4):
        if 2 in path[:-1] and path[path.index(2) + 1 :] != (0,) * (3 - path.index(2)):
            continue  # one representative of everything that would follow the end
        ids, weight = [], 1.0
        for token in path:
            weight *= float((model.logits([0, 1, *ids]) / 0.7).softmax(-1)[token])
            ids.append(token)
            if token == 2:
                break
        expected[tuple(ids)] = weight
    law = exact_law(lambda: (target(), NoDraft(), RULES[rule](), Fixed(3)), ask(4, temperature=0.7, eos=frozenset({2})))
    assert sum(expected.values()) == pytest.approx(1, abs=1e-12)
    assert total_variation(law, expected) < EXACT
