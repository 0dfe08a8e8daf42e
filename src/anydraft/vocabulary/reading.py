"""What a loaded tokenizer says of itself: its pieces, its special tokens and their roles, and how it encodes and decodes.

Three kinds of object are read: tokenizers with a `tokenizers` backend (or such a backend itself), tokenizers written in
Python, and objects that hold tiktoken's `mergeable_ranks`. Everything comes from the loaded object: files beside a
model may be of another revision.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from anydraft.core.errors import BadModel
from anydraft.vocabulary import encoding
from anydraft.vocabulary.pieces import BYTE_PIECE, Spelling, candidates

ROLES = ("eos", "bos", "pad", "unk", "sep", "cls", "mask")
"""Roles that a tokenizer names, most telling first; every other special token has the role "special"."""


@dataclass(frozen=True)
class Reading:
    """One tokenizer, read. Ids are those of the tokenizer; nothing here knows the width of a model."""

    pieces: Mapping[int, str | bytes]  # of every id, added and special tokens included
    roles: Mapping[int, tuple[str, ...]]  # of the special ids only, most telling role first
    added: frozenset[int]  # ids of added tokens that are ordinary text
    fragment: encoding.Encoder  # text in the middle: no special tokens, no leading space where that can be had
    start: encoding.Encoder  # text from its start, without special tokens
    whole: encoding.Encoder  # text from its start, with the special tokens that the tokenizer puts around it
    decode: Callable[[list[int]], str] | None  # special tokens kept, no clean-up; None where the object cannot
    spellings: list[Spelling]


def read(tokenizer: Any) -> Reading:
    """Read a tokenizer.

    Raises:
        BadModel: the object is none of the three kinds.
    """
    if (backend := encoding.backend_of(tokenizer)) is not None:
        return _read_fast(tokenizer, backend)
    for name in ("mergeable_ranks", "_mergeable_ranks"):
        if isinstance(found := getattr(tokenizer, name, None), Mapping):
            return _read_ranks(tokenizer, found)
    if hasattr(tokenizer, "get_vocab") and hasattr(tokenizer, "encode"):
        return _read_slow(tokenizer)
    raise BadModel(
        "this object is not a tokenizer whose vocabulary can be read",
        got=type(tokenizer).__name__,
        expected="a transformers tokenizer, a tokenizers.Tokenizer, or an object with mergeable_ranks",
        next_step="For a drafter that only yields text, use method='slem' with a TextModel",
    )


def _read_fast(tokenizer: Any, backend: Any) -> Reading:
    text = backend.to_str()
    description = json.loads(text)
    added = {token["id"]: token for token in description["added_tokens"]}
    pieces = {id: piece for piece, id in backend.get_vocab(with_added_tokens=True).items()} | {i: t["content"] for i, t in added.items()}
    decoder = backend.decoder
    spellings = candidates(description, decoder.decode if decoder is not None else None)
    fallback = bool(description["model"].get("byte_fallback"))
    special = {id for id, token in added.items() if token["special"]}
    roles = _roles(tokenizer, special, ids={piece: id for id, piece in pieces.items()}, unk=_model_unk(description["model"]))
    if fallback:  # byte pieces that were trained as special tokens still carry a byte: the model falls back to them
        roles = {id: names for id, names in roles.items() if not BYTE_PIECE.fullmatch(pieces.get(id, ""))}
    copy = encoding.fragment_backend(text, description)
    start = cache(lambda: encoding.start_backend(text, description)) if encoding.begins_with_space(description) else lambda: copy
    return Reading(
        pieces=pieces,
        roles=roles,
        added=frozenset(added) - frozenset(roles),
        fragment=encoding.fast(copy),
        start=lambda text: encoding.fast(start())(text),
        whole=lambda text: encoding.fast(start(), add_special_tokens=True)(text),
        decode=lambda ids: copy.decode(ids, skip_special_tokens=False),
        spellings=spellings,
    )


def _model_unk(model: dict[str, Any]) -> str | None:
    """The unknown token of a model's JSON: a name, or for Unigram a place in the list."""
    if isinstance(model.get("unk_id"), int) and isinstance(model.get("vocab"), list):
        return model["vocab"][model["unk_id"]][0]
    return model.get("unk_token")


def _read_slow(tokenizer: Any) -> Reading:
    pieces = {id: piece for piece, id in tokenizer.get_vocab().items()}
    added = {id: getattr(token, "content", str(token)) for id, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    special = {id for id, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if getattr(token, "special", True)}
    model = getattr(tokenizer, "sp_model", None)
    if model is not None and hasattr(model, "is_control"):  # sentencepiece knows the kind of each piece
        special |= {id for id in pieces if id < len(model) and (model.is_control(id) or model.is_unknown(id))}
        pieces = {id: piece for id, piece in pieces.items() if id >= len(model) or not model.is_unused(id)}
    roles = _roles(tokenizer, special, ids={piece: id for id, piece in pieces.items()}, unk=None)
    return Reading(
        pieces=pieces | added,
        roles=roles,
        added=frozenset(added) - frozenset(roles),
        fragment=encoding.slow(tokenizer),
        start=encoding.slow(tokenizer),
        whole=encoding.slow(tokenizer, add_special_tokens=True),
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False),
        spellings=candidates(None, None),
    )


def _read_ranks(tokenizer: Any, ranks: Mapping[bytes, int]) -> Reading:
    special = next(
        (found for name in ("special_tokens", "_special_tokens") if isinstance(found := getattr(tokenizer, name, None), Mapping)), {}
    )
    special = {name: id for name, id in special.items() if isinstance(id, int)}
    encoder = encoding.ranks(tokenizer)
    return Reading(
        pieces={id: data for data, id in ranks.items()} | {id: name for name, id in special.items()},
        roles=_roles(tokenizer, set(special.values()), ids=special, unk=None),
        added=frozenset(),
        fragment=encoder,
        start=encoder,
        whole=encoder,
        decode=None,  # its text is the bytes themselves
        spellings=[Spelling("raw bytes", lambda piece: piece if isinstance(piece, bytes) else piece.encode())],
    )


def _roles(tokenizer: Any, special: set[int], ids: Mapping[str, int], unk: str | None) -> dict[int, tuple[str, ...]]:
    """Roles of the special ids. A token has several when it plays several parts: <|endoftext|> often begins and ends texts."""
    found: dict[int, list[str]] = {}
    for role in ROLES:
        id = getattr(tokenizer, f"{role}_token_id", None)
        if isinstance(id, int) and id >= 0:
            found.setdefault(id, []).append(role)
    if not any("eos" in roles for roles in found.values()):
        for name in ("eot_token", "eod_id"):  # tiktoken, and the remote code built on it
            if isinstance(id := getattr(tokenizer, name, None), int):
                found.setdefault(id, []).insert(0, "eos")
                break
    if unk is not None and unk in ids and "unk" not in found.setdefault(ids[unk], []):
        found[ids[unk]].append("unk")
    for id in special | {id for id in getattr(tokenizer, "all_special_ids", ()) or () if isinstance(id, int)}:
        found.setdefault(id, ["special"])
    return {id: tuple(roles) for id, roles in sorted(found.items())}
