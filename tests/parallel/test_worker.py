"""What a drafting worker sends: the laws that its tokens were drawn from, where somebody will ask for them."""

import pytest
from parts import request, table_drafter

from anydraft.core.judge import TokenJudge
from anydraft.core.messages import Open, Run
from anydraft.core.noise import Keyed
from anydraft.core.processors import Laws
from anydraft.core.records import Context
from anydraft.core.stopping import Stopping
from anydraft.parallel.worker import Writer
from anydraft.rules.match import Match
from anydraft.rules.speculative_sampling import SpeculativeSampling


@pytest.mark.parametrize("rule", [SpeculativeSampling, Match])
@pytest.mark.parametrize("temperature, asks", [(0.0, False), (1.0, True)])
def test_nodes_come_bare_where_the_targets_laws_are_one_hot(rule, temperature, asks):
    one = request(temperature=temperature)
    context = Context.start((one,))
    judge = TokenJudge(context, rule(), Keyed(), Stopping(one), Laws())
    assert judge.asks is asks
    writer = Writer(table_drafter())
    list(writer.do(Open(1, one, 0, laws=asks)))
    nodes = next(writer.do(Run(1, 1, 0, 3, (), 6, 3))).nodes
    assert len(nodes) == 3
    assert [node.draft is None for node in nodes] == [not asks] * 3
