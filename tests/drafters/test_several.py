"""Several drafters side by side: exact whoever is chosen, every request alone with its choice, and wrong sets refused."""

import json
from dataclasses import replace

import pytest
import torch
from toys import EXACT, V, ask, distance, target

from anydraft import Speculator, zoo
from anydraft.control.auto import Auto
from anydraft.control.bandit import Bandit
from anydraft.core.costs import Costs, Member
from anydraft.core.errors import BadModel, BadOption, UnknownOption, WrongPair
from anydraft.core.noise import Keyed, hashed
from anydraft.core.records import Size
from anydraft.drafters.draft_model import DraftModel
from anydraft.drafters.prompt_lookup import PromptLookup
from anydraft.drafters.several import Several
from anydraft.drafters.token_recycling import TokenRecycling
from anydraft.engine.table import TableModel
from anydraft.loading import load
from anydraft.rules.block_verification import BlockVerification
from anydraft.rules.recursive_rejection import RecursiveRejection
from anydraft.rules.speculative_sampling import SpeculativeSampling
from anydraft.testing.exact import run

CHEAP = Costs(draft=0.05, verify=((1, 1.0), (17, 1.3)))


def chains():
    return {"a": DraftModel(target(2), V), "b": DraftModel(target(7), V), "copy": PromptLookup()}


def trees():
    return {**chains(), "tree": DraftModel(target(5), V, (2, 1), "distinct"), "table": TokenRecycling(V, k=2)}


def members(drafters, costs=CHEAP, measured=None):
    return [Member(name, costs, measured, not d.chain, getattr(d, "look", None)) for name, d in drafters.items()]


class Whim:
    """Chooses drafter and depth by a hash of all that it may look at: the text, and the tokens that were refused."""

    def __init__(self, count, most=2):
        self.count, self.most, self.seen = count, most, {}

    def size(self, context):
        said = [int(hashed(self.seen.get(s, 0), *context.row(b).tolist())[0]) for b, s in enumerate(context.slot.tolist())]
        depth = torch.tensor([1 + n // 7 % self.most for n in said])
        return Size(depth=depth, nodes=depth + 1, drafter=torch.tensor([n % self.count for n in said]))

    def keep(self, step):
        for b, slot in enumerate(step.before.slot.tolist()):
            refused = [t for n, t in enumerate(step.draft.tokens[b].tolist()) if n not in step.path[b] and bool(step.draft.live[b, n])]
            self.seen[slot] = int(hashed(self.seen.get(slot, 0), 9, *refused)[0] % 1000)


class TooLate(Several):
    """The bug that choosing invites: another drafter is asked where the first one's token is unwelcome."""

    def propose(self, context, size, noise):
        draft = super().propose(context, size, noise)
        unwelcome = (draft.tokens[:, 0] == 0) & draft.live[:, 0] if draft.nodes else torch.zeros(context.size, dtype=torch.bool)
        if not bool(unwelcome.any()):
            return draft
        live = draft.live.clone()
        live[unwelcome] = False
        tokens = draft.tokens.clone()
        again = PromptLookup().propose(context, size, noise)
        for b in unwelcome.nonzero().flatten().tolist() if again.nodes else ():
            live[b, 0], tokens[b, 0] = again.live[b, 0], again.tokens[b, 0]
        return replace(draft, live=live, tokens=tokens)


# -- the law -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [SpeculativeSampling, BlockVerification, RecursiveRejection])
def test_any_choice_between_chains_keeps_the_law(rule):
    assert distance(lambda: (target(), Several(chains()), rule(), Whim(3)), ask(4)) < EXACT


def test_any_choice_between_chains_and_trees_keeps_the_law():
    assert distance(lambda: (target(), Several(trees()), RecursiveRejection(), Whim(5)), ask(4)) < EXACT


@pytest.mark.parametrize("costs", [CHEAP, Costs(draft=0.3, verify=((1, 1.0), (5, 1.6)))])
def test_auto_and_bandit_keep_the_law(costs):
    def parts(control):
        drafters = trees()
        return target(), Several(drafters), RecursiveRejection(), control(members(drafters, costs))

    prompt = (0, 1, 0, 1, 0)
    assert distance(lambda: parts(lambda m: Auto(3, 3, members=m)), ask(4, prompt=prompt)) < EXACT
    assert distance(lambda: parts(lambda m: Bandit(members=m)), ask(4, prompt=prompt)) < EXACT


def test_choosing_after_the_token_was_seen_is_caught():
    assert distance(lambda: (target(), TooLate({"a": DraftModel(target(2), V)}), SpeculativeSampling(), Whim(1)), ask(4, prompt=(0, 1, 2, 0, 1))) > 1e-3


# -- each request for itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", [lambda m: Auto(4, 5, members=m), lambda m: Bandit(algorithm="exp3", members=m), lambda m: Whim(5, 3)])
def test_a_seed_gives_the_same_tokens_alone_and_beside_rows_of_other_drafters(control):
    drafted = set()

    def decode(which):
        drafters = {
            "a": DraftModel(TableModel(20, seed=2), 20), "copy": PromptLookup(), "table": TokenRecycling(20, k=3),
            "tree": DraftModel(TableModel(20, seed=3), 20, (2, 1), "distinct"), "good": DraftModel(TableModel(20, seed=1, spread=2.0), 20),
        }  # fmt: skip
        together = Several(drafters)
        inner = together.propose

        def propose(context, size, noise):
            drafted.add(frozenset(size.drafter[size.depth > 0].tolist()))
            return inner(context, size, noise)

        together.propose = propose
        return run((TableModel(20, seed=1, spread=2.0), together, RecursiveRejection(), control(members(drafters))), which, Keyed())

    asked = [{"max_new_tokens": n, "prompt": (0, s, 3, 0, s), "seed": s} for s, n in ((1, 14), (2, 25), (3, 40))]
    together = decode([ask(**one) for one in asked])
    assert any(len(who) > 1 for who in drafted), "no two rows ever had different drafters: the test sees nothing"
    assert together == [decode([ask(**one)])[0] for one in asked]


def test_exported_state_is_enough():
    drafters = chains()
    control, request = Auto(3, 3, members=members(drafters)), ask(9, seed=3)
    run((target(), Several(drafters), SpeculativeSampling(), control), [request], Keyed())
    held = json.loads(json.dumps(control.export(request)))
    other = Auto(3, 3, members=members(chains()))
    other.adopt(request, held)
    assert other.export(request) == held and len(held["known"]) == 3


# -- the choice --------------------------------------------------------------------------------------------------------


def chosen(costs, *, tokens=300, control=Auto):
    """What a control made of three drafters: one that is always right, one that never is, and one that copies."""
    wide = {"spread": 3.0, "window": 2}
    wrong, right = DraftModel(TableModel(50, seed=99, spread=6.0, window=2), 50), DraftModel(TableModel(50, seed=1, **wide), 50)
    drafters = {"wrong": wrong, "right": right, "copy": PromptLookup()}
    group = [Member(name, costs[name], None, False, getattr(d, "look", None)) for name, d in drafters.items()]
    made, request = control(members=group), ask(tokens, seed=4)
    run((TableModel(50, seed=1, **wide), Several(drafters), SpeculativeSampling(), made), [request], Keyed())
    return made.choices(request)


@pytest.mark.parametrize("control", [Auto, Bandit])
def test_the_drafter_that_pays_best_is_chosen(control):
    cheap, dear = Costs(0.1, ((1, 1.0), (17, 1.2))), Costs(2.0, ((1, 1.0), (17, 1.2)))
    found = chosen({"wrong": cheap, "right": cheap, "copy": cheap}, control=control)
    assert found["right"]["emitted"] > 0.6 * 300
    dearer = chosen({"wrong": cheap, "right": dear, "copy": cheap}, control=control)
    assert dearer["right"]["emitted"] < 0.7 * found["right"]["emitted"], "the same acceptance at twenty times the price"


def test_a_drafter_that_has_nothing_to_say_is_not_asked():
    drafters = {"copy": PromptLookup(min_matching_ngram_size=3)}
    control = Auto(members=[Member("copy", CHEAP, look=drafters["copy"].look), Member("other", CHEAP)])
    drafters["other"] = DraftModel(TableModel(50, seed=1, spread=3.0, window=2), 50)
    request = ask(40, prompt=tuple(range(12)))
    run((TableModel(50, seed=1, spread=3.0, window=2), Several(drafters), SpeculativeSampling(), control), [request], Keyed())
    assert control.choices(request)["other"]["steps"] > 0


# -- what users hold ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models():
    return {name: load(str(zoo.path(name))) for name in ("target", "draft-bpe", "draft-spm")}


def made(models, drafters, **options):
    (model, tokenizer), (same, _), (other, its) = models.values()
    known = {"same": (same, None), "other": (other, its)}
    given = [known.get(name, (name, None)) for name in drafters]
    return Speculator(model, tokenizer, [one for one, _ in given], [its for _, its in given], **options)


def test_greedy_tokens_are_the_targets_whoever_drafts(models):
    prompts = [p["text"] for p in zoo.prompts()[:2]]
    plain = Speculator(*models["target"], method="none").generate(prompts, max_new_tokens=24)
    for options in ({}, {"control": "bandit"}, {"num_assistant_tokens": 3}):
        ours = made(models, ["same", "other", "prompt_lookup", "token_recycling"], **options).generate(prompts, max_new_tokens=24)
        assert [g.token_ids for g in ours] == [g.token_ids for g in plain]
        assert all(set(g.metrics.drafters) == {"draft_model", "slem", "tli", "prompt_lookup", "token_recycling"} for g in ours)
        assert sum(held["steps"] for g in ours for held in g.metrics.drafters.values()) > 0
        assert all("chosen step by step" in g.metrics.reason and g.metrics.as_dict()["drafters"] for g in ours)


def test_sampled_tokens_are_those_of_the_request_alone(models):
    precise = {name: (model.double(), tokenizer) for name, (model, tokenizer) in {n: load(str(zoo.path(n)), dtype=torch.float64) for n in models}.items()}
    ours = made(precise, ["same", "other", "prompt_lookup"])
    prompts = [p["text"] for p in zoo.prompts()[:3]]
    together = ours.generate(prompts, max_new_tokens=24, temperature=0.8, seed=[1, 2, 3])
    alone = [made(precise, ["same", "other", "prompt_lookup"]).generate(p, max_new_tokens=24, temperature=0.8, seed=s) for p, s in zip(prompts, (1, 2, 3))]
    assert [g.token_ids for g in together] == [g.token_ids for g in alone]
    assert [g.metrics.drafters for g in together] == [g.metrics.drafters for g in alone]


def test_a_stream_says_who_proposed(models):
    pieces = list(made(models, ["same", "prompt_lookup"]).stream(zoo.demo_prompt()["text"], max_new_tokens=48))
    said = {name for piece in pieces for name in piece.proposers}
    assert said <= {"target", "draft_model", "prompt_lookup"} and len(said) > 1


def test_loading_by_name_and_methods_among_the_drafters():
    ours = Speculator.from_pretrained(zoo.path("target"), [zoo.path("draft-bpe"), zoo.path("draft-spm"), "prompt_lookup"])
    assert [a.method for a in ours.assistants] == [None, None, "prompt_lookup"] and len({a.pair.same for a in ours.assistants[:2]}) == 2
    alone = Speculator.from_pretrained(zoo.path("target"), ["prompt_lookup"])
    assert alone.method == "prompt_lookup" and alone.parts().method == "prompt_lookup"


@pytest.mark.parametrize(
    "drafters, options, error, says",
    [
        ([], {}, BadOption, "empty list"),
        (["same", "same"], {}, BadOption, "given twice"),
        (["prompt_lookup", "prompt_lookup"], {}, BadOption, "given twice"),
        (["same", None], {}, BadOption, "None"),
        (["same", "prompt_lokup"], {}, BadModel, "is a name"),
        (["same", "prompt_lookup"], {"method": "tli"}, BadOption, "each of several drafters has its own"),
        (["prompt_lookup"], {"method": "draft_model"}, BadOption, "different things"),
        (["same", "prompt_lookup"], {"control": "heuristic"}, BadOption, "does not choose between drafters"),
        (["same", "prompt_lookup"], {"schedule": "dsi"}, BadOption, "takes one drafter"),
        (["same", "prompt_lookup"], {"max_matching_ngram_sice": 3}, UnknownOption, "max_matching_ngram_size"),
        (["same", "token_recycling"], {"rule": "block_verification"}, WrongPair, "cannot judge the trees that Several"),
        (["same", "prompt_lookup"], {"control": "bandit", "arms": ("suffix=3",)}, BadOption, "arms"),
        (["same", 7], {}, BadModel, "not usable"),
    ],
)
def test_sets_that_cannot_work_are_refused(models, drafters, options, error, says):
    with pytest.raises(error, match=says):
        made(models, drafters, **options)


@pytest.mark.parametrize("tokenizers, says", [([None], "1 tokenizers for 2"), ("one", "whose tokenizer")])
def test_tokenizers_that_fit_nobody_are_refused(models, tokenizers, says):
    (model, tokenizer), (same, _), (other, its) = models.values()
    with pytest.raises(BadOption, match=says):
        Speculator(model, tokenizer, [same, other], its if tokenizers == "one" else tokenizers)


def test_an_option_reaches_the_drafter_that_has_it(models):
    ours = made(models, ["same", "prompt_lookup"], max_matching_ngram_size=2)
    assert ours.parts().drafter.drafters["prompt_lookup"].longest == 2
    assert made(models, ["same", "prompt_lookup"], num_assistant_tokens=3).parts().control.most == 3
    arms = made(models, ["same", "prompt_lookup"], control="bandit", arms=(0, "prompt_lookup=8")).parts().control.arms
    assert arms == ((0, 0.0), (1, 8.0))
