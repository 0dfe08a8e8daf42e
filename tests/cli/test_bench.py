"""`anydraft bench` refuses what cannot be run before it loads a model or writes a file."""

import pytest

from anydraft.cli import main


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--num-assistant-tokens", "0"), "--num-assistant-tokens is not usable"),
        (("--temperature", "-1"), "--temperature is not usable"),
        (("--batch-size", "0"), "--batch-size is not usable"),
        (("--peers", "transformer"), "no peer is named"),
        (("--method", "prompt_lokup"), "Did you mean 'prompt_lookup'"),
        (("--suite", "nowhere.jsonl"), "no suite"),
        (("--page", "nowhere.md"), "no page"),
        (("--schedule", "dis"), "Did you mean 'dsi'"),
        (("--target-replicas", "2"), "Add --schedule dsi"),
        (("--schedule", "dsi", "--target-replicas", "0"), "--target-replicas is not usable"),
        (("--schedule", "dsi", "--executor", "fibres"), "no such executor"),
        (("--ray-address", "auto"), "Add --schedule dsi"),
        (("--schedule", "dsi", "--ray-address", "auto"), "ray_address is for executor='ray'"),
        (("--option", "statistiks=x"), "none of the methods has an option"),
        (("--option", "statistics=nowhere.safetensors"), "anydraft calibrate rdk"),
        (("--dtype", "float31"), "--dtype is not usable"),
        (("--plan", "nowhere.json"), "nowhere.json"),
        (("--forced-acceptance", "2"), "from 0 to 1"),
        (("--forced-acceptance", "0.8", "--temperature", "1"), "is for greedy decoding"),
        (("--forced-acceptance", "0.8", "--model", "random:tiny"), "--forced-acceptance needs a drafter"),
        (("--model", "random:llama-9b"), "no shape 'llama-9b'"),
        (("--plan", "nowhere.json", "--method", "tli"), "the plan says --method already"),
    ],
)
def test_a_wrong_request_is_one_message_and_leaves_no_file(capsys, tmp_path, arguments, said):
    with pytest.raises(SystemExit) as end:
        main(["bench", "--out", str(tmp_path / "out"), *arguments])
    shown = capsys.readouterr()
    assert end.value.code == 2 and said in shown.err and "Traceback" not in shown.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_plan_and_parallel_schedules_are_benchmarked_and_told(capsys, tmp_path):
    """The bundled pair: the plan's one contender beside its modelled speed-up, and a schedule beside the sequential one in the same rounds."""
    from anydraft import zoo
    from anydraft.bench.pairs import Pair
    from anydraft.engine.fingerprint import fingerprint
    from anydraft.planning.plan import Option, Plan

    pair = Pair.load("target", "draft-bpe")
    best = Option("draft_model", str(zoo.path("draft-bpe")), 2, 1.25, 1.1, 1.5, [0.5], {}, 1, "it pays", fingerprint(pair.drafter))
    plan = Plan(str(zoo.path("target")), fingerprint(pair.target), "latency", 1, 0.0, [best])
    plan.save(tmp_path / "plan.json")
    common = ["bench", "--max-new-tokens", "4", "--prompts", "1", "--out"]
    main_of(*common, str(tmp_path / "planned"), "--plan", str(tmp_path / "plan.json"))
    told = (tmp_path / "planned/report.html").read_text()
    assert "The plan modelled draft_model (draft-bpe, k = 2) at 1.25 [1.10, 1.50] × plain decoding beforehand; measured here: " in told
    assert str(tmp_path) not in told and "anydraft draft_model k=2" in told and "anydraft tli" not in told
    parallel = ["--assistant-model", "draft-bpe", "--method", "draft_model", "--num-assistant-tokens", "2", "--temperature", "0"]
    parallel += ["--schedule", "sequential", "--schedule", "dsi"]
    main_of(*common, str(tmp_path / "parallel"), *parallel)
    told = (tmp_path / "parallel/report.html").read_text()
    assert "anydraft draft_model k=2, dsi x1 threads" in told and "Parallel schedules (measured)" in told and "idle share" in told
    assert "other ids" not in told and "failed" not in told


def main_of(*arguments):
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert not end.value.code
