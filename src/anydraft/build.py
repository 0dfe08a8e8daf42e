"""Names and options to objects: the only file that knows all folders.

A part's constructor says by its parameter names what the house must give it (`model`, `vocab_size`, ...); every other parameter is an option
that the user may set. So a new method brings its own options and nothing here changes.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from anydraft.core import discover
from anydraft.core.costs import Member
from anydraft.core.errors import BadOption, UnknownOption, WrongPair, nearest
from anydraft.core.roles import Control, Drafter, Rule

LOOKAHEAD = {"chain": 5, "tree": 24, "copy": 10}
"""`num_assistant_tokens` when nobody says otherwise: levels of a drafted chain, nodes of a tree, tokens copied without a model."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a schedule runs, the target aside."""

    method: str
    drafter: Drafter
    rule: Rule
    control: Control
    reason: str = ""  # why this method, if nobody asked for it


def parameters(cls: Any) -> dict[str, inspect.Parameter]:
    """The constructor's parameters by name; none for a class without a constructor of its own."""
    if "__init__" not in vars(cls):
        return {}
    return {name: p for name, p in inspect.signature(cls).parameters.items() if p.kind is not p.VAR_KEYWORD}


def assemble(
    method: str, given: Mapping[str, Any], options: Mapping[str, Any], *, rule: str, control: str, num_assistant_tokens: int | str, reason: str = ""
) -> Parts:
    """Builds drafter, rule and control, and checks that they fit each other before anything runs.

    Args:
        method, rule, control: file names in drafters/, rules/ and control/; "auto" for rule and control.
        given: what the house offers by parameter name.
        options: what the user set, by parameter name; each must belong to one of the three parts.
    Raises:
        UnknownMethod, UnknownOption, BadOption, WrongPair.
    """
    cls = discover.load("drafters", method)
    named = getattr(cls, "control", None) or _control_for(num_assistant_tokens)  # a method may leave nothing to decide
    steering = discover.load("control", named if control == "auto" else control)
    if "pace" in given:
        given = {**given, **given["pace"].given(parameters(steering), method)}
    judging = _rule_of([cls], rule)
    _refuse_unknown([cls, steering, *judging], given, options)
    drafter = _make(cls, given, options, method)
    judge = _judge(judging, drafter, given, options, rule)
    k = _lookahead(drafter, cls, num_assistant_tokens)
    control_options = {**options, "num_assistant_tokens": k} if "num_assistant_tokens" in parameters(steering) else options
    made = _make(steering, given, control_options, control)
    if "hidden" in getattr(made, "needs", ()) and hasattr(given.get("model"), "offers_hidden"):
        given["model"].offers_hidden = True
    return Parts(method, drafter, judge, made, reason)


@dataclass(frozen=True, slots=True)
class Offer:
    """One of several drafters: its method, and what the house gives its constructor."""

    method: str
    given: Mapping[str, Any]


def chooses(control: str, num_assistant_tokens: int | str = "auto") -> bool:
    """Whether a control can say which of several drafters a row asks. Raises UnknownMethod."""
    return getattr(discover.load("control", control if control != "auto" else _control_for(num_assistant_tokens)), "chooses", False)


def assemble_several(
    offers: Mapping[str, Offer], given: Mapping[str, Any], options: Mapping[str, Any], *, rule: str, control: str,
    num_assistant_tokens: int | str, reason: str = "",
) -> Parts:  # fmt: skip
    """Builds several drafters side by side, and a control that chooses between them step by step.

    Args:
        offers: by the name under which a drafter is reported, in the order of `Size.drafter`; each offers its own `pace`.
        given, options, rule: as for `assemble`; an option may be any one drafter's.
        control: "auto" is the control of that name, which then drafts no more than num_assistant_tokens where that is a number.
    Raises:
        As `assemble`; BadOption for a control that does not choose.
    """
    if control != "auto" and not chooses(control):
        able = [name for name in discover.names("control") if chooses(name)]
        raise BadOption(f"control {control!r} does not choose between drafters", expected=" or ".join(able), next_step="Give one drafter, or leave it out")
    classes = {name: discover.load("drafters", offer.method) for name, offer in offers.items()}
    steering, together = discover.load("control", control), discover.load("drafters", "several")
    judging = _rule_of(classes.values(), rule)
    known = {key for offer in offers.values() for key in offer.given} | {"members", "experience", "clock"}
    _refuse_unknown([*classes.values(), steering, *judging], known, options)
    made = {name: _make(cls, offers[name].given, options, offers[name].method) for name, cls in classes.items()}
    drafter = together(made)
    members = [_member(name, offers[name], part) for name, part in made.items()]
    k = _lookahead(drafter, together, num_assistant_tokens)
    most = {"max_assistant_tokens": num_assistant_tokens} if isinstance(num_assistant_tokens, int) else {}
    steered = _make(steering, {**given, "members": members}, {"num_assistant_tokens": k, **most, **options}, control)
    return Parts(" + ".join(offers), drafter, _judge(judging, drafter, given, options, rule), steered, reason)


def _member(name: str, offer: Offer, drafter: Any) -> Member:
    paced = offer.given["pace"].given(("costs", "measured"), offer.method)
    return Member(name, paced["costs"], paced["measured"], not drafter.chain, getattr(drafter, "look", None))


def _rule_of(drafters: Iterable[Any], rule: str) -> list[Any]:
    """The rule's class if it is known before the drafter is made: asked for, or brought by the method, and then with options of its own."""
    named = [rule] if rule != "auto" else list({found for cls in drafters if (found := getattr(cls, "rule", None))})
    if len(named) > 1:
        raise WrongPair("the drafters come with different rules", got=" and ".join(sorted(named)), expected="one", next_step="Leave one of them out")
    return [discover.load("rules", name) for name in named]


def _judge(judging: list[Any], drafter: Any, given: Mapping[str, Any], options: Mapping[str, Any], rule: str) -> Rule:
    cls = judging[0] if judging else discover.load("rules", _rule_for(drafter))
    check_pair(cls, drafter)
    return _make(cls, given, options, rule)


def _make(cls: Any, given: Mapping[str, Any], options: Mapping[str, Any], name: str) -> Any:
    known = parameters(cls)
    arguments = {key: given[key] for key in known if key in given}
    arguments |= {key: fitted(known[key], options[key]) for key in known if key in options}
    missing = [key for key, p in known.items() if p.default is p.empty and key not in arguments]
    if missing:
        wanted = {"model": "a drafter: assistant_model=...", "vocab_size": "a target"}
        raise BadOption(f"{name} needs {', '.join(wanted.get(m, m) for m in missing)}", next_step="Give it, or choose a method that drafts without a model")
    return cls(**arguments)


def fitted(parameter: inspect.Parameter, value: Any) -> Any:
    """The value in the type that the parameter declares; types that are not listed here are the part's own affair.

    Raises BadOption where it has another: a wrong type would otherwise surface in the middle of a generation.

    >>> def part(branching: tuple[int, ...] = ()): ...
    >>> fitted(inspect.signature(part).parameters["branching"], 3)
    (3,)
    """
    kind = str(parameter.annotation)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "tuple[int, ...]":
        value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        good, wanted = all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in value), "positive integers"
    else:
        fits = {"int": number and isinstance(value, int), "float": number, "str": isinstance(value, str), "bool": isinstance(value, bool)}
        good, wanted = fits.get(kind, True), {"int": "an integer", "float": "a number", "str": "a word", "bool": "true or false"}.get(kind)
    if not good:
        raise BadOption(f"{parameter.name} is not usable", got=repr(value), expected=wanted)
    return value


def _refuse_unknown(classes: Iterable[Any], given: Collection[str], options: Mapping[str, Any]) -> None:
    classes = list(dict.fromkeys(classes))
    known = [key for cls in classes for key in parameters(cls) if key not in given]
    for key in options:
        if key not in known:
            close = nearest(key, known)
            names = ", ".join(cls.__name__ for cls in classes)
            hint = f"Did you mean {close!r}?" if close else "Its options are: " + (", ".join(known) or "none")
            raise UnknownOption(f"none of {names} has an option {key!r}", next_step=hint)


def _rule_for(drafter: Any) -> str:
    """A determined draft is judged by matching, a sampled chain token by token, everything else by the tree rule."""
    if drafter.kinds == ("determined",):
        return "match"
    return "speculative_sampling" if drafter.chain else "recursive_rejection"


def drafts_with_a_model(drafter: Any) -> bool:
    """Whether a drafter class runs a model, so that a level costs a forward and the model's doubt can be asked."""
    return not parameters(drafter).keys().isdisjoint(("model", "drafters"))


def _control_for(num_assistant_tokens: int | str) -> str:
    """Nobody said how far to look ahead: as far as it pays by measured time."""
    return "auto" if num_assistant_tokens == "auto" else "fixed"


def _lookahead(drafter: Any, cls: Any, k: int | str) -> int:
    if isinstance(k, bool) or (isinstance(k, int) and k < 0) or (isinstance(k, str) and k != "auto"):
        raise BadOption("num_assistant_tokens is not usable", got=repr(k), expected="an integer >= 0, or 'auto'")
    if isinstance(k, int):
        return k
    if not drafts_with_a_model(cls):
        return LOOKAHEAD["copy"] if drafter.chain else LOOKAHEAD["tree"]
    return LOOKAHEAD["chain"] if drafter.chain else LOOKAHEAD["tree"]


def check_pair(rule: Any, drafter: Any) -> None:
    """Raises WrongPair if the rule cannot judge what the drafter makes: a wrong law would follow, and silently."""
    name, maker = getattr(rule, "__name__", type(rule).__name__), type(drafter).__name__
    foreign = [kind for kind in drafter.kinds if kind not in rule.kinds]
    tree = rule.chain and not drafter.chain
    if foreign or tree:
        why = f"{' and '.join(foreign)} nodes" if foreign else "trees"
        fitting = [m.name for m in discover.methods("rules") if _fits(discover.load("rules", m.name), drafter)]
        raise WrongPair(f"{name} cannot judge the {why} that {maker} drafts", expected="a rule that can: " + ", ".join(fitting))


def _fits(rule: Any, drafter: Any) -> bool:
    return all(kind in rule.kinds for kind in drafter.kinds) and (drafter.chain or not rule.chain)
