"""The report holds what was measured and a person can read it: figures by hand, labels and overlaps by geometry, the page by a browser."""

import re
import shutil
import subprocess

import pytest

from anydraft.bench import plots, report, summary
from anydraft.bench.measure import Measurement
from anydraft.bench.store import Store

pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib (pip install 'anydraft[bench]')")

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
METHODS = {"draft_model": 2.0, "prompt_lookup": 0.5, "token_recycling": 1.25}  # speed-ups by construction


def facts(steps, drafted, accepted, lengths, seconds):
    return {
        "steps": steps, "all_steps": steps, "batch_steps": steps, "drafted": drafted, "accepted": accepted, "accepted_at": [accepted, accepted // 2],
        "offered_at": [steps, steps], "accept_lengths": lengths, "target_forwards": steps, "draft_forwards": drafted, "notes": [],
        "prefill_s": 0.0, "draft_s": 0.25 * seconds, "verify_s": 0.5 * seconds, "other_s": 0.25 * seconds,
    }  # fmt: skip


@pytest.fixture
def store(tmp_path):
    """Two blocks, three methods at two lookaheads, one peer with an error and one that was skipped; every figure is known."""
    made = Store(tmp_path / "results.jsonl", {"suite": "bundled", "max_new_tokens": 40})
    made.add("machine", processor="Test CPU", cores=2, threads=2, device="cpu", python="3", torch="2", transformers="5", read_gb_s=10.0)
    for temperature in (0.0, 1.0):
        block = f"target + draft, temperature {temperature:g}, batch 1"
        members = [{"name": "anydraft none", "system": "anydraft", "method": "none", "k": "auto"}]
        members += [{"name": f"anydraft {m} k={k}", "system": "anydraft", "method": m, "k": k} for m in METHODS for k in (2, 4)]
        members += [{"name": "transformers plain", "system": "transformers", "method": None, "k": None}]
        members += [{"name": "transformers broken", "system": "transformers", "method": None, "k": None}]
        jobs = ["calibration: c", "code: a", "code: b", "docs: c"]
        made.add("block", block=block, target="target", drafter="draft", temperature=temperature, batch_size=1, contenders=members,
                 skipped={"openvino": "not installed"}, weight_bytes=200_000_000, jobs=jobs)  # fmt: skip
        made.add("costs", block=block, step_s={"1": 0.05, "3": 0.05, "5": 0.05}, errors={})
        for job in jobs:
            for member in members:
                one = Measurement(member["name"], member["system"], job, 0, 0, tokens=40, lengths=[40], same=temperature == 0 or None)
                if "broken" in member["name"]:
                    one = Measurement(member["name"], member["system"], job, 0, 0, error="ValueError: <no> batch")
                elif member["system"] == "transformers":
                    one.seconds = 4.0
                elif member["method"] == "none":
                    one.seconds, one.facts = 4.0, facts(40, 0, 0, [1] * 40, 4.0)
                else:
                    one.seconds = 4.0 / METHODS[member["method"]]
                    one.facts = facts(20, 20 * member["k"], 20, [2] * 20, one.seconds)
                made.add_measurement(block, one)
    return made


def test_cells_say_what_was_put_in(store):
    cell = next(c for c in summary.cells(store) if c["contender"] == "anydraft draft_model k=4")
    assert cell["rounds"] == 3 and cell["tokens_per_s"] == pytest.approx(20) and cell["to_plain"] == (2.0, 2.0, 2.0, 3)
    assert cell["mean_acceptance_length"] == 2 and cell["acceptance_rate"] == 0.25 and cell["accepted_at"] == [1.0, 0.5]
    assert cell["floor_share"] == pytest.approx(0.02 / 0.05)  # 0.2 GB at 10 GB/s over 50 ms a token
    assert (cell["identical"], cell["compared"]) == (3, 3)
    assert cell["by_task"] == {"code": (2.0, 2.0, 2.0, 2), "docs": (2.0, 2.0, 2.0, 1)}


def test_the_prediction_is_the_closed_form_on_the_calibration(store):
    """One step makes 2 tokens and takes 25 ms of drafting, 50 ms of verification and 25 ms of the rest, a plain one 100 ms: exactly 2."""
    cell = next(c for c in summary.cells(store) if c["contender"] == "anydraft draft_model k=4")
    assert cell["decode_speedup"] == pytest.approx(2.0)
    assert cell["predicted"]["measured steps"] == pytest.approx(2.0) and cell["prediction_error"]["measured steps"] == pytest.approx(0.0)
    assert cell["c"] == pytest.approx(0.25 / 4) and cell["v"] == pytest.approx(0.5) and cell["overhead"] == pytest.approx(0.25)


def test_the_page_is_one_file_and_hides_nothing(store, tmp_path):
    page = report.write(store, tmp_path).read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "ValueError: &lt;no&gt; batch" in page and "openvino skipped: not installed" in page
    assert "anydraft prompt_lookup k=2 is slower than plain decoding: 0.50 [0.50, 0.50]" in page
    assert "Test CPU" in page and str(tmp_path) not in page
    assert page.count("<img") == len(plots.PICTURES)
    assert "| anydraft draft_model k=4 | 20.00 | 2.00 [2.00, 2.00] |" in (tmp_path / "report.md").read_text()


def test_what_a_schedule_did_in_vain_and_what_a_plan_said_are_told(store, tmp_path):
    spent = {"verifications": 8, "wasted_verifications": 3, "cancelled": 2, "idle_share": 0.25, "tokens_per_s_per_device": 5.0}
    (block, *_) = (line for line in store.of("block"))
    block["contenders"].append({"name": "anydraft draft_model k=2, dsi x1 threads", "system": "anydraft", "method": "draft_model", "k": 2, "schedule": "dsi"})
    one = Measurement("anydraft draft_model k=2, dsi x1 threads", "anydraft", "code: a", 0, 0, seconds=1.0, tokens=39, lengths=[39], same=False)
    one.facts = facts(20, 40, 20, [2] * 20, 1.0) | {"schedule": spent}
    store.add_measurement(block["block"], one)
    store.add("plan", method="draft_model", candidate="draft", lookahead=4, modelled=[2.5, 2.0, 3.0])
    page = report.write(store, tmp_path).read_text(encoding="utf-8")
    assert re.search("<td>8</td><td>3</td><td>2</td><td>25%</td><td>5.00</td>", page) and page.count("Parallel schedules") == 1
    assert "The plan modelled draft_model (draft, k = 4) at 2.50 [2.00, 3.00] × plain decoding beforehand; measured here: 2.00 [2.00, 2.00]." in page
    assert "dsi x1 threads gave other ids in 1 of 1 rounds, 1 of them of other lengths" in page
    cell = next(c for c in summary.cells(store) if "dsi" in c["contender"])
    assert cell["line"] == "draft_model, dsi" and "predicted" not in cell  # the closed forms are of taking turns


def test_verification_costs_and_reasons_are_told_once(store, tmp_path):
    page = report.write(store, tmp_path).read_text(encoding="utf-8")
    assert "<th>n = 3</th>" in page and "<td>50.00 (1.00)</td>" in page
    assert page.count("openvino skipped: not installed") == 1 and "temperature 0, batch 1; target + draft, temperature 1, batch 1: openvino" in page


@pytest.mark.parametrize("name", plots.PICTURES)
def test_pictures_are_labelled_and_nothing_overlaps(store, name, tmp_path):
    plots.draw([], tmp_path)  # chooses the backend that needs no screen
    figure = plots.PICTURES[name][0]([c for c in summary.cells(store) if c.get("tokens_per_s")])
    figure.canvas.draw()
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert shown
    boxes = []
    for axis in shown:
        assert axis.get_xlabel() and (axis.get_ylabel() or len(axis.get_yticklabels()) > 2)
        ticks = [tick.label1 for one in (axis.xaxis, axis.yaxis) for tick in one.get_major_ticks() if _inside(tick.get_loc(), one.get_view_interval())]
        texts = [axis.title, axis.xaxis.label, axis.yaxis.label, *ticks]
        boxes += [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text() and t.get_visible()]
    boxes += [(t.get_text(), t.get_window_extent()) for legend in figure.legends for t in legend.get_texts()]
    clashes = [(a, b) for i, (a, x) in enumerate(boxes) for b, y in boxes[:i] if x.shrunk(0.98, 0.9).overlaps(y.shrunk(0.98, 0.9))]
    assert clashes == []
    outside = [text for text, box in boxes if not figure.bbox.padded(2).containsx(box.x0) or not figure.bbox.padded(2).containsx(box.x1)]
    assert outside == []


def _inside(place, limits):
    return min(limits) <= place <= max(limits)


def test_an_empty_benchmark_still_has_a_report(tmp_path):
    empty = Store(tmp_path / "results.jsonl", {"suite": "bundled", "max_new_tokens": 4})
    assert "Too few cells" in report.write(empty, tmp_path).read_text()


@pytest.mark.skipif(BROWSER is None, reason="no chromium here to open the report with")
def test_a_browser_shows_it_whole(store, tmp_path):
    """Every picture loads, and nothing but the tables' own boxes is wider than the window."""
    path = report.write(store, tmp_path)
    probe = """<script>addEventListener('load', () => { const bad = [...document.images].filter(i => !i.naturalWidth).length;
      document.title = `${bad} broken, ${document.documentElement.scrollWidth - innerWidth} too wide, ${document.images.length} pictures`; })</script>"""
    (tmp_path / "probe.html").write_text(path.read_text(encoding="utf-8") + probe, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,900"]  # fmt: skip
    run = subprocess.run([str(BROWSER), *flags, "--dump-dom", f"file://{tmp_path / 'probe.html'}"], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", run.stdout)
    assert title, run.stderr[-500:]
    broken, wide, count = map(int, re.findall(r"-?\d+", title[1]))
    assert broken == 0 and wide <= 0 and count == len(plots.PICTURES)


def test_forced_acceptance_and_random_weights_are_told_wherever_figures_are(tmp_path):
    settings = {"suite": "bundled", "max_new_tokens": 4, "targets": ["random:tiny"], "drafters": ["random:tiny-draft"], "forced_acceptance": 0.8}
    marked = Store(tmp_path / "results.jsonl", settings)
    report.write(marked, tmp_path)
    for told in ((tmp_path / "report.html").read_text(), report.markdown(marked, [])):
        assert "Rows named forced 0.8" in told and "random weights" in told
