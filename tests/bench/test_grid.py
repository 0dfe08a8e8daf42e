"""Which cells there are, who takes part, and that a stopped run leaves something of everything."""

from types import SimpleNamespace

import pytest

from anydraft.bench import grid as grids
from anydraft.bench.costs import step_seconds
from anydraft.bench.grid import BASELINE, Block, Grid, blocks, fitting, ours, run
from anydraft.bench.measure import Job, Outcome
from anydraft.bench.store import Store


class Fake:
    system = "anydraft"

    def __init__(self, name):
        self.name, self.runs = name, []

    def run(self, job):
        self.runs.append(job.name)
        return Outcome([[1, 2]], 1.0)


@pytest.fixture
def two_blocks(monkeypatch):
    monkeypatch.setattr(grids, "prepare", lambda block, store: None)
    made = []
    for name in ("one", "two"):
        jobs = [Job(f"{name} {n}", [[1]], 2) for n in range(3)]
        made.append(Block(name, "t", "d", 0.0, 1, (2,), contenders=[Fake(BASELINE), Fake("anydraft tli k=2"), Fake("anydraft slem k=2")], jobs=jobs))
    return made


def test_reduced_and_full_grids():
    reduced = Grid(lookaheads=(2, 4, 8), temperatures=(0.0, 1.0), batch_sizes=(1, 4))
    ks = {(b.drafter, b.temperature, b.batch_size): b.lookaheads for b in blocks(reduced)}
    assert len(ks) == 8 and ks["draft-bpe", 0.0, 1] == (2, 4, 8) and ks["draft-spm", 1.0, 1] == ks["draft-bpe", 0.0, 4] == (4,)
    assert {b.lookaheads for b in blocks(Grid(full=True, lookaheads=(2, 4), temperatures=(0.0, 1.0)))} == {(2, 4)}


def test_names_show_models_and_no_folders():
    (block,) = blocks(Grid(targets=("/somewhere/secret/model-a/",), drafters=("org/model-b",)))
    assert block.name == "model-a + model-b, temperature 0, batch 1"


def test_methods_go_where_their_vocabulary_fits():
    def pair(same, drafter=True):
        return SimpleNamespace(drafter=object() if drafter else None, same_vocabulary=same)

    same, other, alone = fitting(["all"], pair(True)), fitting(["all"], pair(False)), fitting(["all"], pair(False, drafter=False))
    assert "draft_model" in same and "tli" not in same and "slem" not in same
    assert {"tli", "slem"} <= set(other) and "draft_model" not in other
    assert "prompt_lookup" in alone and not {"draft_model", "tli", "slem"} & set(alone)
    assert "none" not in same + other + alone and fitting(["slem"], pair(True)) == ["slem"]


def test_contenders_are_methods_by_lookaheads_by_schedules():
    pair = SimpleNamespace(drafter=object(), same_vocabulary=False)
    grid = Grid(methods=("tli", "auto"), lookaheads=(2, 4), schedules=("sequential", "dsi"), target_replicas=3, executor="processes",
                options=(("statistics", "file"), ("max_ngram", 2)))  # fmt: skip
    (block, *_) = blocks(grid)
    made = list(ours(block, grid, pair))
    assert [name for name, *_ in made] == [f"{m}{s}" for m in ("tli k=2", "tli k=4", "auto") for s in ("", ", dsi x3 processes")]
    parallel = {"schedule": "dsi", "target_replicas": 3, "executor": "processes"}
    assert [more for *_, more in made] == [{}, parallel] * 3  # tli takes neither option
    held = dict.fromkeys(name for name, *_ in ours(block, Grid(methods=("rdk",), lookaheads=(2,), options=grid.options), pair))
    assert list(held) == ["rdk k=2", "rdk k=4"] and next(ours(block, Grid(methods=("rdk",), options=grid.options), pair))[3] == {"statistics": "file"}


def test_a_plan_takes_the_place_of_methods_and_lookaheads():
    pair = SimpleNamespace(drafter=object(), same_vocabulary=True)
    grid = Grid(methods=(), planned=(("method", "draft_model"), ("num_assistant_tokens", 3), ("control", "fixed")), schedules=("dsi",))
    ((name, method, k, more),) = ours(blocks(grid)[0], grid, pair)
    assert (name, method, k, more["control"], more["schedule"]) == ("draft_model k=3, dsi x1 threads", "draft_model", 3, "fixed", "dsi")
    assert list(ours(blocks(grid)[0], Grid(methods=(), planned=(("method", "none"),)), pair)) == []


def test_blocks_take_turns_and_every_round_is_stored(two_blocks, tmp_path):
    store = Store(tmp_path / "r.jsonl", {})
    assert run(two_blocks, Grid(repetitions=2), store) == (12, 12)
    order = list(dict.fromkeys((line["block"], line["job"], line["repetition"]) for line in store.of("measurement")))
    assert [name for name, _, _ in order[:4]] == ["one", "two", "one", "two"] and len(store.of("measurement")) == 36


def test_a_budget_stops_between_rounds_and_the_next_run_goes_on(two_blocks, tmp_path):
    store = Store(tmp_path / "r.jsonl", {})
    assert run(two_blocks, Grid(), store, budget_s=-1.0) == (0, 6)
    assert run(two_blocks, Grid(), store) == (6, 6)
    before = len(store.lines)
    assert run(two_blocks, Grid(), store, budget_s=-1.0) == (6, 6) and len(store.lines) == before


def test_an_interrupted_round_runs_again_with_its_baseline_only(two_blocks, tmp_path):
    path = tmp_path / "r.jsonl"
    run(two_blocks, Grid(), Store(path, {}))
    lines = path.read_bytes().splitlines(keepends=True)
    lost = next(n for n, line in enumerate(lines) if b"slem" in line)
    path.write_bytes(b"".join(lines[:lost] + lines[lost + 1 :]))
    for block in two_blocks:
        for contender in block.contenders:
            contender.runs.clear()
    run(two_blocks, Grid(), Store(path, {}))
    assert sum(len(c.runs) for b in two_blocks for c in b.contenders) == 2
    assert [bool(c.runs) for c in two_blocks[0].contenders] == [True, False, True]


def test_step_seconds_times_every_size_and_frees_the_slots():
    import torch


    class Target:
        max_length, device, seen, resets = None, "cpu", None, 0

        def reset(self):
            self.resets += 1

        def score(self, context, draft):
            self.seen = {*(self.seen or ()), 1 + draft.nodes}
            assert bool((draft.parent == torch.arange(draft.nodes) - 1).all()) and draft.tokens.shape[0] == context.size
            return SimpleNamespace(logits=torch.zeros(context.size, 1 + draft.nodes, 4))

    target = Target()
    table = step_seconds(target, [[1, 2, 3], [4]], [1, 3, 5], repeats=2)
    assert set(table) == target.seen == {1, 3, 5} and min(table.values()) > 0 and target.resets == 2
