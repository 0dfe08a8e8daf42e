"""The redistribution experiment: its sums are the methods' acceptance, its tuning never loses on what it was tuned on, its page is kept in order."""

import pytest
import torch

from anydraft.bench import rdk
from anydraft.vocabulary.bytes import ByteVocabulary
from anydraft.vocabulary.intersection import Intersection

WIDTH = 40


@pytest.fixture(scope="module")
def rows():
    g = torch.Generator().manual_seed(0)
    vocabulary = ByteVocabulary.from_table([bytes([65 + n, 66 + n]) for n in range(WIDTH)])
    both = Intersection.between(vocabulary, vocabulary)
    p = 2 * torch.randn(120, WIDTH, generator=g)
    laws = rdk.Laws(p, p + 0.5 * torch.randn(120, WIDTH, generator=g), torch.arange(120) // 10)
    return rdk.experiment("toy", laws, both, (1.0,), (0.0, 0.5, 0.9)), laws


def test_sums_are_acceptance(rows):
    """Nothing pruned: TLI is plain speculative sampling, and union, which renormalises nothing, is the same."""
    made, laws = rows
    judged = laws.of(laws.text.unique()[1::2])
    exact = torch.minimum(judged.target.softmax(-1), judged.drafter.softmax(-1)).sum(-1).mean()
    for method in ("TLI", "union"):
        (row,) = [r for r in made if r.method == method and r.pruned == 0]
        assert row.acceptance == pytest.approx(float(exact), abs=1e-5) and row.low <= row.acceptance <= row.high and row.kept == WIDTH


def test_orders_that_hold_in_theory(rows):
    by = {(r.method, r.pruned): r for r in rows[0]}
    for share in (0.0, 0.5, 0.9):
        assert by["TLI", share].acceptance >= by["union", share].acceptance - 1e-6  # the paper's theorem 4.1
        assert by["TLI", share].gain == 0
    assert by["TLI", 0.0].acceptance > by["TLI", 0.9].acceptance
    assert by["RDK prior", 0.9].gain > 0  # nine tenths of the target's tokens are out of reach for the others


def test_pages_keep_what_is_not_theirs(rows, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n\nOthers' words.\n")
    facts = {"processor": "a", "cores": 1, "torch": "2"}
    for command in ("first", "second"):
        rdk.put(rdk.markdown(rows[0], command, 60, facts), page, tmp_path / "figures" / "rdk.png")
    text = page.read_text()
    assert "Others' words." in text and "second" in text and "first`" not in text and text.count(rdk.BEGIN) == 1
    assert "RDK prior: above TLI in" in text and "(figures/rdk.png)" in text


@pytest.mark.slow
def test_the_page_names_the_command_that_writes_it(tmp_path, monkeypatch, capsys):
    """As typed from the project's root: the table, the plot and the link to it, and the same words again on the page."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(rdk, "DRAFTERS", ("draft-spm",))
    monkeypatch.setattr(rdk, "TEMPERATURES", (1.0,))
    monkeypatch.setattr(rdk, "PRUNED", (0.0, 0.9))
    typed = "--texts 4 --places 2 --page docs/benchmarks.md --figure docs/figures/rdk.png"
    rdk.main(typed.split())
    text = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert f"`python -m anydraft.bench.rdk {typed}`" in text and "(figures/rdk.png)" in text
    assert (tmp_path / "docs" / "figures" / "rdk.png").exists()


def test_draws_a_picture(rows, tmp_path):
    rdk.draw(rows[0], tmp_path / "figures" / "rdk.png")
    assert (tmp_path / "figures" / "rdk.png").read_bytes()[:4] == b"\x89PNG"
