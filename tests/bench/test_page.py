"""The documentation page gets its figures from a benchmark and keeps its prose; a page or folder that cannot serve is refused."""

import pytest

from anydraft.bench import page
from anydraft.bench.measure import Measurement
from anydraft.bench.store import Store
from anydraft.core.errors import BadOption

pytest.importorskip("matplotlib", reason="the plots need matplotlib (pip install 'anydraft[bench]')")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    store = Store(tmp_path / "run" / "results.jsonl", {"suite": "bundled", "max_new_tokens": 4})
    members = [{"name": f"anydraft {m}", "system": "anydraft", "method": m.split()[0], "k": 2} for m in ("none", "tli k=2")]
    store.add("block", block="b", target="t", drafter="d", temperature=0.0, batch_size=1, contenders=members, skipped={}, weight_bytes=1, jobs=["x: 1"])
    for member, seconds in zip(members, (3.0, 1.0)):
        store.add_measurement("b", Measurement(member["name"], "anydraft", "x: 1", 0, 0, seconds=seconds, tokens=4, same=True))
    return tmp_path / "run"


def test_prose_stays_and_figures_are_replaced(folder, tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"# Mine\n\n{page.BEGIN}\nold figures\n{page.END}\n\nafter\n")
    for _ in range(2):  # a second time over the first
        page.rewrite(folder, path)
        text = path.read_text()
        assert text.startswith("# Mine\n") and text.endswith(f"{page.END}\n\nafter\n") and "old figures" not in text
        assert "| tli (k = 2, d) | 3.00 [3.00, 3.00] | – | up to 2.5×, GPU |" in text and str(tmp_path) not in text


def test_reading_a_benchmark_writes_nothing_into_it(folder, tmp_path):
    before = (folder / "results.jsonl").read_bytes()
    path = tmp_path / "page.md"
    path.write_text(page.BEGIN + page.END)
    page.rewrite(folder, path)
    assert (folder / "results.jsonl").read_bytes() == before


def test_what_cannot_serve_is_refused(folder, tmp_path):
    path = tmp_path / "page.md"
    path.write_text("no markers")
    with pytest.raises(BadOption, match="no place for figures"):
        page.rewrite(folder, path)
    with pytest.raises(BadOption, match="no benchmark"):
        page.rewrite(tmp_path, path)
