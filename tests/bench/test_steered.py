"""Random weights of a named shape, and drafters whose acceptance is forced: reproducible, marked, and nothing that the text could show."""

import pytest
import torch

from anydraft.bench import peers, random_weights
from anydraft.bench.grid import BASELINE, Block, Grid, facts, fill, prepare
from anydraft.bench.measure import Job, measure_round
from anydraft.bench.pairs import Pair, Settings
from anydraft.bench.steered import SteeredSpeculator, Steering
from anydraft.bench.store import Store
from anydraft.bench.suites import Item
from anydraft.core.errors import BadModel, BadOption
from anydraft.speculator import Speculator

TEXTS = ("import os\n\ndef names(folder):", "class Reader:\n    def", "for line in lines:\n")
LENGTH = 64


@pytest.fixture(scope="module")
def pair():
    return Pair.load("random:tiny", "random:tiny-draft", device="cpu")


def ids(pair):
    return [list(pair.tokenizer(text).input_ids) for text in TEXTS]


def steered(pair, acceptance, k=4, **options):
    made = SteeredSpeculator(Steering(acceptance), pair.target, pair.tokenizer, pair.drafter, pair.drafter_tokenizer, "draft_model", k, **options)
    made._steering.script.learn(Speculator(pair.target, pair.tokenizer, method="none"), ids(pair), LENGTH)
    return made


def judged(made):
    """(accepted, judged) drafts of some generations: what stands behind a rejection was judged by nobody."""
    steps = [step for g in made for step in zip(g.metrics.per_step_drafted, g.metrics.per_step_accepted)]
    accepted = sum(a for _, a in steps)
    return accepted, accepted + sum(d > a for d, a in steps)


def test_weights_depend_on_the_name_alone_and_no_two_logits_are_close(pair):
    again = random_weights.load("random:tiny", device="cpu")[0]
    assert all(torch.equal(a, b) for a, b in zip(pair.target.parameters(), again.parameters()))
    assert pair.same_vocabulary and pair.target.config.vocab_size > len(pair.tokenizer)
    half = random_weights.load("random:tiny", "bfloat16", "cpu")[0]
    for model in (pair.target, half):
        best = model(input_ids=torch.tensor(ids(pair)[:1])).logits.float().topk(2, -1).values
        assert float((best[..., 0] - best[..., 1]).min()) > 5
    assert half.dtype == torch.bfloat16


def test_a_copy_shares_weights_and_nothing_else(pair):
    copy = pair.fresh_target()
    assert copy is not pair.target and all(a is b for a, b in zip(copy.parameters(), pair.target.parameters()))
    copy.generation_config.max_new_tokens = 3
    assert pair.target.generation_config.max_new_tokens != 3


def test_acceptance_is_what_was_asked_and_the_text_is_the_targets(pair):
    expected = [g.token_ids for g in Speculator(pair.target, pair.tokenizer, method="none").generate(ids(pair), max_new_tokens=LENGTH)]
    assert max(max(text) for text in expected) >= len(pair.tokenizer)  # ids without a text are decoded like any other
    for rate in (0.0, 0.6, 1.0):
        made = steered(pair, rate).generate(ids(pair), max_new_tokens=LENGTH, seed=[1, 2, 3])
        assert [g.token_ids for g in made] == expected
        accepted, asked = judged(made)
        assert accepted / asked == pytest.approx(rate, abs=0.12 if 0 < rate < 1 else 0)


def test_a_coin_belongs_to_seed_and_position_and_rises_with_the_rate(pair):
    coins = {rate: [Steering(rate).right(7, n) for n in range(2000)] for rate in (0.3, 0.8)}
    assert all(high or not low for low, high in zip(coins[0.3], coins[0.8]))
    assert sum(coins[0.8]) / 2000 == pytest.approx(0.8, abs=0.03) and coins[0.8] != [Steering(0.8).right(8, n) for n in range(2000)]
    for k in (1, 5):
        (made,) = steered(pair, 0.8, k).generate(ids(pair)[:1], max_new_tokens=LENGTH, seed=[7])
        start, wrong, place = len(ids(pair)[0]), [], 0
        for drafted, accepted in zip(made.metrics.per_step_drafted, made.metrics.per_step_accepted):
            wrong += [start + place + accepted] if drafted > accepted else []
            place += accepted + 1
        assert all(not Steering(0.8).right(7, n) for n in wrong)


@pytest.mark.parametrize("schedule", ["dsi", "pearl"])
def test_workers_are_steered_too(pair, schedule):
    expected = Speculator(pair.target, pair.tokenizer, method="none").generate(ids(pair)[0], max_new_tokens=24).token_ids
    made = steered(pair, 1.0, 3, schedule=schedule)
    try:
        assert made.generate(ids(pair)[0], max_new_tokens=24).token_ids == expected
        assert made.schedule.report()["wasted_drafts"] <= 3  # nothing was rejected; what is drafted behind the end is in vain
    finally:
        made.close()


def test_what_cannot_be_steered_is_refused(pair):
    with pytest.raises(BadOption, match="from 0 to 1"):
        Steering(1.2)
    with pytest.raises(BadOption, match="greedy"):
        steered(pair, 0.5).generate(TEXTS[0], temperature=1.0)
    with pytest.raises(BadOption, match="draws a chain"):
        steered(pair, 0.5, branching=(2, 1))
    with pytest.raises(BadModel, match="Did you mean 'random:llama-8b'"):
        random_weights.shape_of("random:llama-8")


def test_rows_are_marked_and_peers_are_limited(pair, tmp_path):
    grid = Grid(("random:tiny",), ("random:tiny-draft",), ("draft_model", "prompt_lookup"), (2,), peers=("transformers", "openvino"),
                max_new_tokens=12, forced_acceptance=0.8, device="cpu")  # fmt: skip
    block = Block("b", "random:tiny", "random:tiny-draft", 0.0, 1, (2,))
    items = [Item(str(n), "t", (text,)) for n, text in enumerate(TEXTS)]
    fill(block, grid, items, items, {("random:tiny", "random:tiny-draft"): pair})
    names = [c.name for c in block.contenders]
    assert names == [BASELINE, "anydraft draft_model k=2, forced 0.8", "anydraft prompt_lookup k=2", "transformers plain"]
    assert set(block.skipped) == {"transformers assisted", "openvino"}
    assert [m["forced"] for m in facts(block)["contenders"]] == [None, "forced 0.8", None, None]
    prepare(block, Store(tmp_path / "r.jsonl", {}))
    rows = list(measure_round(block.contenders, block.jobs[0], 0, 0, reference=BASELINE))
    assert all(row.error is None and row.same for row in rows)


def test_without_forcing_peers_share_the_random_weights(pair):
    names = [c.name for c in peers.contenders("transformers", pair, Settings(lookaheads=()))[0]]
    assert names[-1] == "transformers assisted default"


def test_differences_are_examined_after_the_round():
    class Says:
        def __init__(self, name, tokens):
            self.name, self.system, self.tokens = name, "anydraft", tokens

        def run(self, job):
            from anydraft.bench.measure import Outcome

            return Outcome([self.tokens], 1.0)

    asked = []

    def audit(job, expected, found):
        asked.append((expected, found))
        return 1

    rows = list(measure_round([Says("a", [1, 2]), Says("b", [1, 3]), Says("c", [1, 2])], Job("j", [[9]], 2), 0, 0, reference="a", audit=audit))
    assert asked == [([[1, 2]], [[1, 3]])] and [row.tied for row in rows] == [None, 1, None]
