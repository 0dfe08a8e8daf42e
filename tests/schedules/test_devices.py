"""Where a draft is judged. `meta` stands for the target's device, because it is one on every machine."""

from types import SimpleNamespace

import pytest
import torch

from anydraft.control.fixed import Fixed
from anydraft.core.noise import Keyed
from anydraft.core.records import Context, Request, Scores
from anydraft.core.rollout import determined_chain
from anydraft.schedules.sequential import sequential


class Judged(Exception):
    """Carries what the rule was given."""


@pytest.mark.parametrize("k", [0, 2])
def test_what_was_drafted_on_the_host_is_judged_where_the_target_is(k):
    def verify(draft, scores, noise):
        raise Judged(draft)

    def score(context, draft):
        logits = torch.zeros(1, 1 + draft.nodes, 7, device="meta")
        return Scores(law=SimpleNamespace(width=7), logits=logits)

    start = Context.start((Request(prompt=torch.tensor([1, 2]), max_new_tokens=5),))
    drafter = SimpleNamespace(propose=lambda context, size, noise: determined_chain([[3, 4]]))
    with pytest.raises(Judged) as seen:
        list(sequential(SimpleNamespace(score=score), drafter, SimpleNamespace(verify=verify), Fixed(k), Keyed(), lambda context: start, {0: None}))
    (draft,) = seen.value.args
    assert {t.device.type for t in (draft.tokens, draft.parent, draft.live, draft.kind, draft.index)} == {"meta"} and draft.nodes == k
