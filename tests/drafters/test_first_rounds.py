"""Trying drafters in a request's first rounds: exact, per request, and it keeps the better one."""

import bilingual as toy

from anydraft.control.fixed import Fixed
from anydraft.core.noise import Keyed
from anydraft.drafters.first_rounds import FirstRounds
from anydraft.drafters.slem import SLEM
from anydraft.drafters.tli import TLI
from anydraft.rules.recursive_rejection import RecursiveRejection
from anydraft.testing.exact import run


def both(name, rounds=1, **seeds):
    made = toy.given(name, **seeds)
    return FirstRounds({"slem": SLEM(made["model"], made["aligner"]), "tli": TLI(**toy.given(name, **seeds))}, rounds=rounds)


def test_law():
    """Runs of several rounds, in batches whose rows are in different rounds."""
    for name in ("half", "with ends"):
        assert toy.distance(name, lambda name=name: both(name), RecursiveRejection, k=1, tokens=4) < toy.EXACT


def test_rows_do_not_depend_on_their_neighbours():
    name = "half"
    requests = [toy.ask(name, tokens=n, seed=n) for n in (9, 15, 24)]

    def decode(which):
        return run((toy.target_of(name), both(name, rounds=2), RecursiveRejection(), Fixed(2)), which, Keyed())

    assert decode(requests) == [decode([r])[0] for r in requests]


def test_keeps_the_better_drafter():
    """The drafter is the target itself on a common vocabulary, so TLI is always right and a broken SLEM never is."""
    name = "all, in another order"
    made = toy.given(name)

    class Mute(SLEM):
        def propose(self, context, size, noise):
            draft = super().propose(context, size, noise)
            from anydraft.core.rollout import determined_chain

            return determined_chain([[0]] * context.size) if draft.nodes else draft

    drafter = FirstRounds({"slem": Mute(made["model"], made["aligner"]), "tli": TLI(**toy.given(name))}, rounds=3)
    run((toy.target_of(name, spread=0.1), drafter, RecursiveRejection(), Fixed(2)), [toy.ask(name, tokens=40)], Keyed())
    picked, why = drafter.reason(0)
    assert picked == "tli" and "slem" in why
