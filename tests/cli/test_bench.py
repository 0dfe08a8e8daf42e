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
    ],
)
def test_a_wrong_request_is_one_message_and_leaves_no_file(capsys, tmp_path, arguments, said):
    with pytest.raises(SystemExit) as end:
        main(["bench", "--out", str(tmp_path / "out"), *arguments])
    shown = capsys.readouterr()
    assert end.value.code == 2 and said in shown.err and "Traceback" not in shown.err
    assert not (tmp_path / "out").exists()
