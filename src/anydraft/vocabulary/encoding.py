"""Private encoders: what a tokenizer would make of a piece of text, without touching the tokenizer.

A tokenizer that users hold is set up for whole texts: it may add special tokens, a leading space, padding, truncation, and it
reads `</s>` in plain text as the end of the text. Fragments in the middle of a text need none of that, and the settings of a
fast tokenizer are shared state. So every vocabulary encodes with copies of its own, made once.

An encoder is a callable `text -> (ids, ends)`: `ends[i]` is the position, in characters of `text`, at which token i ends,
or `ends` is None where the tokenizer cannot tell.
"""

import copy
import json
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

from tokenizers import Tokenizer

from anydraft.core.errors import BadModel
from anydraft.vocabulary.pieces import SPACE_SIGN

Encoder = Callable[[str], tuple[list[int], list[int] | None]]


def backend_of(tokenizer: Any) -> Tokenizer | None:
    """The `tokenizers.Tokenizer` inside a tokenizer, the tokenizer itself if it is one, or None."""
    backend = tokenizer if isinstance(tokenizer, Tokenizer) else getattr(tokenizer, "backend_tokenizer", None)
    return backend if isinstance(backend, Tokenizer) else None


def fragment_backend(text: str, description: dict[str, Any]) -> Tokenizer:
    """A copy of a tokenizer for text that stands in the middle: no special tokens, no leading space, special names are plain text.

    Args:
        text: the tokenizer's own JSON ...
        description: ... and the same, parsed.
    """
    made = start_backend(text, description)
    if begins_with_space(description):
        shell = _shell(description, {name: _without_leading_space(description.get(name)) for name in ("normalizer", "pre_tokenizer")})
        made.normalizer, made.pre_tokenizer = shell.normalizer, shell.pre_tokenizer
    return made


def start_backend(text: str, description: dict[str, Any]) -> Tokenizer:
    """A copy for the start of a text: a leading space stays, and so do the special tokens that a model expects around a text."""
    made = _loaded(text)
    made.no_truncation()
    made.no_padding()
    made.encode_special_tokens = True
    if getattr(made.model, "dropout", None):
        made.model.dropout = None  # type: ignore[attr-defined]
    if description.get("post_processor") is not None:
        made.post_processor = _shell(description, {"post_processor": _without_trimming(description["post_processor"])}).post_processor
    return made


def begins_with_space(description: dict[str, Any]) -> bool:
    """Whether some part of a tokenizer puts a space before a text."""
    return any(_without_leading_space(description.get(name)) != description.get(name) for name in ("normalizer", "pre_tokenizer"))


def fast(backend: Tokenizer, add_special_tokens: bool = False) -> Encoder:
    """The encoder of a `tokenizers.Tokenizer`."""

    def encode(text: str) -> tuple[list[int], list[int] | None]:
        encoding = backend.encode(text, add_special_tokens=add_special_tokens)
        return encoding.ids, [end for _, end in encoding.offsets]

    return encode


def slow(tokenizer: Any, add_special_tokens: bool = False) -> Encoder:
    """The encoder of a tokenizer written in Python. It is called, never configured."""
    options = {"add_special_tokens": add_special_tokens, "split_special_tokens": True}
    try:
        tokenizer.encode("", **options)
    except (TypeError, ValueError):  # some refuse options that they do not know
        del options["split_special_tokens"]
    return lambda text: (list(tokenizer.encode(text, **options)), None)


def ranks(tokenizer: Any) -> Encoder:
    """The encoder of an object that holds tiktoken's ranks: `encode_ordinary`, or an `encode` that takes just the text."""
    ordinary = getattr(tokenizer, "encode_ordinary", None) or getattr(getattr(tokenizer, "tokenizer", None), "encode_ordinary", None)
    call = ordinary or tokenizer.encode
    return lambda text: (list(call(text)), None)


def anchored(encode: Encoder, spelled: Mapping[int, bytes]) -> Encoder:
    """The same encoder, without the space that it puts before a text.

    A copy of a fast tokenizer is built without it. For the others the text is encoded behind a character that joins
    nothing, and that character is cut off; where a token joins it after all, the next one is tried.

    Args:
        encode: text to ids, perhaps with a leading space.
        spelled: bytes of every text id.
    """

    def bytes_of(ids: list[int]) -> list[bytes]:
        return [spelled.get(id, b"") for id in ids]

    probe, ends = encode("x")
    if ends is not None or b"".join(bytes_of(probe)) != b" x":
        return encode
    always = b"".join(bytes_of(encode(" x")[0])) == b"  x"

    def without(text: str) -> tuple[list[int], list[int] | None]:
        if text.startswith(" "):
            return encode(text[1:] if always else text)
        for anchor in ("\n", ",", "0", "a"):
            ids = encode(anchor + text)[0]
            places = list(accumulate(bytes_of(ids[:8]), initial=b""))
            if (begin := f" {anchor}".encode()) in places:
                return ids[places.index(begin) :], None
        return encode(text)

    return without


def longest_match(table: Mapping[bytes, int], byte: Callable[[str], bytes] = str.encode) -> Encoder:
    """A toy encoder: at each position the longest token of the table, nothing where none fits.

    >>> longest_match({b"a": 0, b"b": 1, b"ab": 2})("abb")
    ([2, 1], None)
    """
    longest = max(map(len, table), default=1)

    def encode(text: str) -> tuple[list[int], list[int] | None]:
        data, at, ids = byte(text), 0, []
        while at < len(data):
            for size in range(min(longest, len(data) - at), 0, -1):
                if (found := table.get(data[at : at + size])) is not None:
                    ids.append(found)
                    break
            at += size
        return ids, None

    return encode


def _shell(description: dict[str, Any], parts: dict[str, Any]) -> Tokenizer:
    """A tokenizer without vocabulary that only carries its parts: the library builds them from JSON in no other way."""
    bare = {"type": "WordLevel", "vocab": {"": 0}, "unk_token": ""}
    return _loaded(json.dumps(description | {"model": bare, "added_tokens": []} | parts))


def _without_trimming(part: Any) -> Any:
    """A post-processor that reports where tokens end, white space included."""
    if isinstance(part, list):
        return [_without_trimming(inner) for inner in part]
    if not isinstance(part, dict):
        return part
    return {name: False if name == "trim_offsets" else _without_trimming(value) for name, value in part.items()}


def _loaded(description: str) -> Tokenizer:
    try:
        return Tokenizer.from_str(description)
    except Exception as error:  # the library raises bare `Exception`
        raise BadModel(
            "a tokenizer's own description cannot be loaded again",
            got=str(error),
            next_step="Save the tokenizer with save_pretrained and load it from there",
        ) from error


def _without_leading_space(part: Any) -> Any:
    """A normalizer or pre-tokenizer without the step that puts a space before the text."""
    if not isinstance(part, dict):
        return part
    part = copy.copy(part)
    if part["type"] == "Prepend" and part["prepend"] in (" ", SPACE_SIGN):
        return None
    if part["type"] == "Metaspace":
        part.pop("add_prefix_space", None)
        part["prepend_scheme"] = "never"
    elif part["type"] == "ByteLevel" and "add_prefix_space" in part:
        part["add_prefix_space"] = False
    for name in ("normalizers", "pretokenizers"):
        if name in part:
            part[name] = [kept for inner in part[name] if (kept := _without_leading_space(inner)) is not None]
    return part
