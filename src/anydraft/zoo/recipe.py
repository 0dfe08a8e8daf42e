"""How the bundled models, their tokenizers and the held-out prompts were made, and how to make them again.

    python -m anydraft.zoo.recipe tokenizers --into models          # minutes
    python -m anydraft.zoo.recipe target --into models --minutes 70 [--device cuda]
    python -m anydraft.zoo.recipe draft-bpe --into models --minutes 8
    python -m anydraft.zoo.recipe draft-spm --into models --minutes 9
    python -m anydraft.zoo.recipe prompts --into models             # seconds

The corpus is the standard library of the Python that runs this, less 2 % of its files chosen by a hash of their paths:
nothing is downloaded. The minutes are those of the bundled copies on two CPU cores; LICENCE.md has the losses that they reached.
"""

import argparse
import hashlib
import json
import math
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LEFT_OUT = {"site-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__", "pydoc_data", "encodings"}
WINDOW = 256  # tokens in a training row
PROMPT_TOKENS = (48, 72, 104, 136, 184, 248, 320, 400)  # upper lengths of held-out prompts, taken in turn
GAP_TOKENS = 128  # left between two prompts of one file, so that no prompt shows the continuation of another


class Shape(NamedTuple):
    """A Llama of this shape with tied embeddings, full multi-head attention and a context of 1024 tokens."""

    layers: int
    width: int
    hidden: int  # width of the feed-forward layer
    heads: int
    tokenizer: str
    peak_rate: float  # of learning


SHAPES = {
    "target": Shape(12, 256, 768, 4, "bpe", 1.5e-3),
    "draft-bpe": Shape(2, 128, 384, 4, "bpe", 3e-3),
    "draft-spm": Shape(2, 128, 384, 4, "spm", 3e-3),
}


class File(NamedTuple):
    """One source file: its path inside the standard library, with forward slashes, and its text."""

    path: str
    text: str


def corpus() -> tuple[list[File], list[File]]:
    """The standard library's files in order of their paths: those to train on, and the 2 % held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    train, held = [], []
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        # _sysconfigdata is generated when an interpreter is built, and is full of one machine's paths.
        if LEFT_OUT & set(inside.parts) or path.name.startswith("_sysconfigdata"):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if len(text) >= 200:
            (held if is_held_out(inside.as_posix()) else train).append(File(inside.as_posix(), text))
    return train, held


def is_held_out(path: str) -> bool:
    """Whether a file of the standard library is kept from training, decided by its path alone.

    >>> is_held_out("imghdr.py"), is_held_out("os.py"), is_held_out("asyncio/events.py")
    (True, False, True)
    """
    hashed = path if "/" in path else f"./{path}"  # the form that was hashed when the bundled models were trained
    return int(hashlib.sha256(hashed.encode()).hexdigest(), 16) % 50 == 0


def make_tokenizers(into: Path) -> None:
    """Trains both tokenizers and saves them as `tokenizer-bpe` and `tokenizer-spm`."""
    texts = [file.text for file in corpus()[0]]
    bpe, spm = byte_level(texts), sentencepiece_like(texts)
    ends = {"clean_up_tokenization_spaces": False}
    PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<|endoftext|>", eos_token="<|endoftext|>", **ends).save_pretrained(
        into / "tokenizer-bpe")
    PreTrainedTokenizerFast(tokenizer_object=spm, unk_token="<unk>", bos_token="<s>", eos_token="</s>", **ends).save_pretrained(
        into / "tokenizer-spm")
    # In sentencepiece models byte tokens are words like any other; the trainer has made them special tokens.
    path = into / "tokenizer-spm" / "tokenizer.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    path.write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")


def byte_level(texts: list[str], size: int = 4096) -> Tokenizer:
    """A byte-level BPE: every text round-trips, no unknown token."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator(texts, trainer)
    return made


def sentencepiece_like(texts: list[str], size: int = 2048) -> Tokenizer:
    """A BPE in the manner of sentencepiece: a mark for each space, one in front of the text, and bytes for what it has no piece for."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Split(Regex("▁+"), "merged_with_next")  # a run stays whole, so that indentation can merge
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False))
    return made


def train(name: str, into: Path, minutes: float, device: str = "cpu", batch: int = 16) -> None:
    """Trains one model for a time, not for a number of steps, and saves it in bfloat16 with its tokenizer.

    The rate of learning rises for 100 steps and falls along a cosine of the time used, to 2 % of its peak.
    """
    shape = SHAPES[name]
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(into / f"tokenizer-{shape.tokenizer}")
    learn, check = (stream(files, tokenizer) for files in corpus())
    with torch.device(device):
        model = untrained(shape, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=shape.peak_rate, weight_decay=0.1, betas=(0.9, 0.95), fused=True)
    start, step = time.monotonic(), 0
    while (used := (time.monotonic() - start) / (60 * minutes)) < 1:
        rate = shape.peak_rate * min(1, (step + 1) / 100) * max(0.02, 0.5 * (1 + math.cos(math.pi * used)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        at = torch.randint(len(learn) - WINDOW, (batch, 1)) + torch.arange(WINDOW)
        rows = learn[at].to(device)
        with torch.autocast(device, torch.bfloat16):
            loss = model(input_ids=rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"step {step}: training loss {loss.item():.3f}, held-out loss {held_out_loss(model, check):.3f}", flush=True)
    print(f"{name}: {step} steps, held-out loss {held_out_loss(model, check):.3f} nats per token", flush=True)
    model.cpu().bfloat16().save_pretrained(into / name)
    tokenizer.save_pretrained(into / name)


def stream(files: list[File], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """i64[tokens]: all files in a row, each behind a beginning-of-text token."""
    ids = [torch.tensor([tokenizer.bos_token_id, *tokenizer(file.text, add_special_tokens=False)["input_ids"]]) for file in files]
    return torch.cat([*ids, torch.tensor([tokenizer.eos_token_id])])


def untrained(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A model of this shape with fresh weights."""
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=shape.width, intermediate_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.heads, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,  # pyright: ignore[reportArgumentType]
        eos_token_id=tokenizer.eos_token_id))  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, check: torch.Tensor, windows: int = 40) -> float:
    """Mean loss in nats per token over the first windows of the held-out stream."""
    rows = check[: len(check) // WINDOW * WINDOW].view(-1, WINDOW)[:windows].to(next(model.parameters()).device)
    return sum(model(input_ids=row[None], labels=row[None]).loss.item() for row in rows) / len(rows)


def make_prompts(tokenizer: Tokenizer) -> list[dict[str, str]]:
    """Cuts prompts of 40 to 400 target tokens from the held-out files, the same ones each time.

    Each starts at the beginning of a line. Two of three end with a line, its newline left to the continuation; every
    third stops inside a line, as an editor's cursor does. A prompt is followed by `GAP_TOKENS` that no other holds.

    Returns:
        `id` (the file's name and a number), `source` (its path inside the standard library) and `text` of each, the first
        prompts of all files before the second ones, so that any part of the list is a mixture.
    """
    made = []
    for file in corpus()[1]:
        start, number = 0, 0
        while True:
            rest = tokenizer.encode(file.text[start:], add_special_tokens=False)
            most = PROMPT_TOKENS[len(made) % len(PROMPT_TOKENS)]
            if len(rest.ids) < most + GAP_TOKENS:
                break
            text = file.text[start : start + rest.offsets[most][0]]
            whole_lines = text[: text.rfind("\n")].rstrip()
            if len(made) % 3 != 2 and len(tokenizer.encode(whole_lines, add_special_tokens=False).ids) >= 40:
                text = whole_lines
            name = file.path.removesuffix(".py").replace("/", ".")
            made.append((number, {"id": f"{name}-{number}", "source": file.path, "text": text}))
            start, number = file.text.index("\n", start + rest.offsets[most + GAP_TOKENS - 1][1]) + 1, number + 1
    return [prompt for _, prompt in sorted(made, key=lambda pair: pair[0])]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(prog="python -m anydraft.zoo.recipe", description="Make the bundled models again.")
    parser.add_argument("what", choices=["tokenizers", *SHAPES, "prompts"])
    parser.add_argument("--into", type=Path, default=Path("models"), help="folder to write to (default: models)")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to train one model (default: 10)")
    parser.add_argument("--device", default="cpu", help="torch device to train on (default: cpu)")
    asked = parser.parse_args(arguments)
    asked.into.mkdir(parents=True, exist_ok=True)
    if asked.what == "tokenizers":
        make_tokenizers(asked.into)
    elif asked.what == "prompts":
        tokenizer = Tokenizer.from_file(str(Path(__file__).parent / "target" / "tokenizer.json"))
        lines = [json.dumps(prompt, ensure_ascii=False) + "\n" for prompt in make_prompts(tokenizer)]
        (asked.into / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
    else:
        train(asked.what, asked.into, asked.minutes, asked.device)


if __name__ == "__main__":
    main()
