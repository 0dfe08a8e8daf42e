"""Auto keeps the law, bounds what speculation may lose, comes back when it pays, and says when and why it was off."""

from dataclasses import replace

import pytest
import torch
from lookahead import TriggerDropped, distances, drafter, exported_state_is_enough
from toys import EXACT, V, ask, target

from anydraft.control.auto import MOST, RATE, START, Auto, Experience
from anydraft.core.costs import Costs
from anydraft.core.noise import Keyed
from anydraft.core.records import Context, Draft
from anydraft.core.rollout import determined_chain
from anydraft.drafters.draft_model import DraftModel
from anydraft.drafters.prompt_lookup import PromptLookup
from anydraft.drafters.token_recycling import TokenRecycling
from anydraft.engine.table import TableModel
from anydraft.rules.match import Match
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.testing.exact import run

CHEAP = Costs(draft=0.05, verify=((1, 1.0), (17, 1.3)))
SLOW = Costs(draft=1.0, verify=((1, 1.0), (17, 1.3)))


@pytest.mark.parametrize("costs", [None, CHEAP, SLOW, Costs(draft=0.5, verify=((1, 1.0), (5, 1.6)))])
def test_keeps_the_law(costs):
    assert max(distances(lambda: Auto(4, 3, costs=costs))) < EXACT


@pytest.mark.parametrize("rule, draft", [(Match, PromptLookup), (Match, lambda: TokenRecycling(V, k=2))])
def test_keeps_the_law_of_drafts_without_a_model(rule, draft):
    from toys import distance

    assert distance(lambda: (target(), draft(), rule(), Auto(3, 3, costs=CHEAP)), ask(4, prompt=(0, 1, 0, 1, 0))) < EXACT


def test_dropping_the_trigger_token_is_seen():
    assert max(distances(lambda: Auto(4, 3, costs=Costs(draft=0.3, verify=((1, 1.0), (5, 1.2)))), around=TriggerDropped)) > 1e-3


def test_state_moves_with_its_request():
    assert exported_state_is_enough(lambda: Auto(4, 3, costs=CHEAP))


class Ledger:
    """Auto, with every step booked at known costs."""

    def __init__(self, auto, costs):
        self.auto, self.costs, self.plain, self.spent, self.sizes = auto, costs, 0.0, 0.0, []
        self.size, self.open = auto.size, auto.open

    def keep(self, step):
        drafted = int(step.draft.live.sum()) if step.draft.nodes else 0
        self.sizes.append(drafted)
        self.spent += self.costs.step(drafted)
        self.plain += int(step.emitted[0]) * self.costs.step(0)
        self.auto.keep(replace(step, finish=(None,) * len(step.finish)))


def booked(costs, drafting, *, tokens=400, experience=None, temperature=1.0, seed=0, vocab=50):
    big = TableModel(vocab, seed=1, spread=3.0, window=2)
    auto = Auto(4, 8, costs=costs, measured=costs, experience=experience)
    ledger, request = Ledger(auto, costs), ask(tokens, seed=seed, temperature=temperature)
    run((big, drafting(vocab), SpeculativeSampling() if temperature else Match(), ledger), [request], Keyed())
    return ledger, auto.report(request)


def worthless(vocab):
    return DraftModel(TableModel(vocab, seed=99, spread=6.0, window=2), vocab)  # sure of itself, and wrong


def perfect(vocab):
    return DraftModel(TableModel(vocab, seed=1, spread=3.0, window=2), vocab)


def test_plain_decoding_at_first_is_explained_and_no_fault():
    reading = Costs(draft=0.05, verify=((1, 1.0), (9, 1.2)), read=1000.0)
    _, notes = booked(reading, perfect, tokens=4)
    assert "plain decoding at first" in notes[0] and "read the prompt" in notes[0] and "control='fixed'" in notes[0]


@pytest.mark.parametrize("draft", [0.02, 0.2, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_with_a_worthless_drafter_is_bounded(draft, seed):
    costs = Costs(draft=draft, verify=((1, 1.0), (9, 1.6)))
    ledger, notes = booked(costs, worthless, seed=seed)
    one_step = costs.step(8) - costs.step(0)
    assert ledger.spent - ledger.plain <= START + RATE * 400 + one_step
    assert ledger.spent / ledger.plain < 1.03
    assert any("speculation off after" in note for note in notes)
    assert ledger.sizes[-1] == 0 or ledger.sizes.count(0) > 300


def test_a_drafter_as_slow_as_the_target_is_never_asked():
    ledger, notes = booked(SLOW, perfect)
    assert set(ledger.sizes) == {0} and "even if every draft token stood" in notes[0]


def test_a_perfect_and_cheap_drafter_is_used_to_the_full():
    ledger, notes = booked(CHEAP, perfect)
    assert ledger.spent < 0.4 * ledger.plain and not notes


def test_it_comes_back_when_the_text_changes():
    """A drafter that is useless for a while and then perfect."""
    bad, good = worthless(50), perfect(50)

    class Turning:
        kinds, chain = ("independent",), True

        @staticmethod
        def propose(context, size, noise):
            return (bad if int(context.length[0]) < 120 else good).propose(context, size, noise)

    ledger, notes = booked(CHEAP, lambda vocab: Turning(), tokens=600)
    assert any("tried again" in note for note in notes)
    assert ledger.spent < 0.7 * ledger.plain


def test_greedy_requests_learn_from_earlier_ones_and_sampled_ones_do_not():
    """The second greedy request does not even start with a drafter that lost; a sampled one sees its own steps alone."""
    costs = Costs(draft=0.2, verify=((1, 1.0), (9, 1.6)), read=0.5)
    for temperature, second in ((0.0, 0), (1.0, 1)):
        experience = Experience()
        big = TableModel(50, seed=1, spread=3.0, window=2)
        starts = []
        for turn in range(2):
            auto = Auto(4, 8, costs=costs, measured=costs, experience=experience)
            ledger, request = Ledger(auto, costs), ask(60, seed=turn, temperature=temperature)
            auto_keep = auto.keep
            ledger.keep = lambda step, keep=auto_keep, sizes=ledger.sizes: (sizes.append(step.draft.nodes), keep(step))[0]
            run((big, worthless(50), SpeculativeSampling() if temperature else Match(), ledger), [request], Keyed())
            starts.append(min(1, ledger.sizes[0]))
        assert starts == [1, second]


def test_a_seed_gives_the_same_tokens_alone_and_in_company():
    requests = [ask(30, prompt=(0, s), seed=s, temperature=1.0) for s in range(3)]
    make = lambda: (target(), drafter(), SpeculativeSampling(), Auto(4, 6, costs=Costs(draft=0.3, verify=((1, 1.0), (7, 1.4)))))  # noqa: E731
    alone = [run(make(), [ask(30, prompt=(0, s), seed=s, temperature=1.0)], Keyed())[0] for s in range(3)]
    assert run(make(), requests, Keyed()) == alone


def test_without_measured_costs_the_first_greedy_steps_are_plain_and_their_tokens_kept():
    auto, request = Auto(4, 4), ask(30, temperature=0.0)
    ledger = Ledger(auto, CHEAP)
    output = run((target(), drafter(), Match(), ledger), [request], Keyed())[0]
    assert ledger.sizes[:3] == [0, 0, 0] and len(output) == 30
    assert 0 < auto._clock.costs(1, "", Costs.assumed()).step(0) < 0.5  # seconds, and no longer plain steps


IN_FOUR = Costs(draft=0.4, verify=((4, 1.0), (20, 1.8)))


@pytest.mark.parametrize("drafting, bound", [(lambda v: worthless(v), 1.04), (lambda v: perfect(v), 0.8)])
def test_a_greedy_batch_shares_its_time_and_one_account(drafting, bound):
    """A level that one row drafts is time that all four spend, so a worthless drafter is switched off for all of them at once."""
    big, spent, plain, rows_on = TableModel(50, seed=1, spread=3.0, window=2), [], [], []
    auto = Auto(4, 8, costs=CHEAP, measured={4: IN_FOUR})

    class Booked(Ledger):
        def keep(self, step):
            batch, k = step.before.size, step.draft.nodes
            if batch == 4:  # the last rows, alone, have other costs
                spent.append(IN_FOUR.v(1 + k, 4) + step.draft.levels * IN_FOUR.draft)
                plain.append(float(step.emitted.float().mean()))
            self.auto.keep(step)
            rows_on.append({self.auto._memory.of(step.before, b).on for b in range(batch)})

    requests = [ask(200, prompt=(0, s), seed=s, temperature=0.0) for s in range(4)]
    made = run((big, drafting(50), Match(), Booked(auto, IN_FOUR)), requests, Keyed())
    assert made == [run((big, drafting(50), Match(), Auto(4, 8)), [request], Keyed())[0] for request in requests]
    assert sum(spent) / sum(plain) < bound
    assert all(len(on) == 1 for on in rows_on)


def test_one_row_that_gains_does_not_keep_a_batch_drafting_that_loses():
    """Row 0's drafts all stand and the others have none: nine tokens and three, in the time of five plain steps of four tokens."""
    big = TableModel(50, seed=1, spread=3.0, window=2)
    requests = [ask(120, prompt=(0, s), seed=s, temperature=0.0) for s in range(4)]
    truth = [run((big, perfect(50), Match(), Auto(4, 8, costs=SLOW, measured=SLOW)), [request], Keyed())[0] for request in requests]
    spent, plain = [], []
    auto = Auto(8, 8, costs=CHEAP, measured={4: IN_FOUR})

    class Uneven:
        kinds, chain = ("determined",), True

        @staticmethod
        def propose(context, size, noise):
            rows = zip(context.slot.tolist(), context.length.tolist(), size.clipped(context).depth.tolist())
            return determined_chain([[] if slot else list(truth[0][n - 2 : n - 2 + k]) for slot, n, k in rows])

    class Booked(Ledger):
        def keep(self, step):
            if step.before.size == 4:
                spent.append(IN_FOUR.v(1 + step.draft.nodes, 4) + step.draft.levels * IN_FOUR.draft)
                plain.append(float(step.emitted.float().mean()))
            self.auto.keep(step)

    assert run((big, Uneven(), Match(), Booked(auto, IN_FOUR)), requests, Keyed()) == truth
    assert sum(spent) / sum(plain) < 1.1


def lengthy(experience, drafting, seed, prompt=300, tokens=150):
    """A request behind a long prompt that the drafter must read: 15 plain steps."""
    costs = Costs(draft=0.1, verify=((1, 1.0), (9, 1.4)), read=0.05)
    auto = Auto(4, 8, costs=costs, measured=costs, experience=experience)
    ledger, request = Ledger(auto, costs), ask(tokens, prompt=tuple(n % 50 for n in range(prompt)), seed=seed, temperature=0.0)
    ledger.keep = lambda step: (ledger.sizes.append(step.draft.nodes), auto.keep(step))
    big = TableModel(50, seed=1, spread=3.0, window=2)
    run((big, drafting(50), Match(), ledger), [request], Keyed())
    return sum(k > 0 for k in ledger.sizes), len(ledger.sizes)


def test_a_drafter_that_saved_has_credit_for_a_long_prompt_and_one_that_lost_has_none():
    good, bad = Experience(), Experience()
    for seed in range(2):  # short prompts first, by which it is known
        lengthy(good, perfect, seed, prompt=3)
        lengthy(bad, worthless, seed, prompt=3)
    drafted, steps = lengthy(good, perfect, 5)
    assert drafted > 0.8 * steps and steps < 60
    assert lengthy(bad, worthless, 5)[0] == 0
    assert lengthy(Experience(), perfect, 5)[0] == 0  # nothing is known: too much for a beginning


def test_what_finds_nothing_is_asked_less_and_less():
    """Every step at first, then every other, then every fourth."""
    asked = []

    class Nothing:
        kinds, chain = ("determined",), True

        @staticmethod
        def propose(context, size, noise):
            asked.append(int(context.step[0]))
            return Draft.empty(context.size)

    free = Costs(draft=0.0, verify=((1, 1.0), (9, 1.4)))
    auto = Auto(4, 8, costs=free, measured=free)
    run((TableModel(50, seed=1, spread=3.0, window=2), Nothing(), Match(), auto), [ask(80, temperature=0.0)], Keyed())
    assert asked[:4] == [0, 1, 2, 3]
    assert len([n for n in asked if 4 <= n < 28]) == 12 and len([n for n in asked if 40 <= n < 80]) == 10


def test_the_account_never_holds_more_than_it_may():
    auto, request = Auto(4, 8, costs=CHEAP), ask(300, seed=1)
    big = TableModel(50, seed=1, spread=3.0, window=2)
    held = []

    class Watching(Ledger):
        def keep(self, step):
            state = auto._memory.of(step.before, 0)
            saved = state.saved
            super().keep(step)
            gain = max(0.0, state.saved - saved)
            held.append(state.balance - (MOST + 0.2 * max(0.0, saved)) - gain)

    run((big, perfect(50), SpeculativeSampling(), Watching(auto, CHEAP)), [request], Keyed())
    assert max(held) <= 1e-9


def test_off_costs_no_question():
    """Switched off, the size is zero and carries nothing that would be asked."""
    auto = Auto(4, 8, costs=SLOW)
    context = Context.start([ask(8)])
    auto.open(context)
    assert torch.equal(auto.size(context).depth, torch.tensor([0])) and not auto._levels
