"""The wording of every error about names: of terms, keys, arguments, weights."""

import difflib
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np


def _fail(kind: type[Exception], function: str, rule: str, got: str, remedy: str) -> NoReturn:
    raise kind(f"{function}: {rule}, got {got}. {remedy}".rstrip())


def _quoted(names: Collection[str]) -> str:
    return ", ".join(f'"{name}"' for name in names) or "nothing"


def _there_is(name: str, names: Collection[str]) -> str:
    """What there is, after the name that was probably meant."""
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f'Did you mean "{nearest[0]}"? ' if nearest else ""
    return f"{hint}There is {_quoted(names)}."


def _of(value: Any) -> str:
    return f"{type(value).__name__} {value!r}" if isinstance(value, str) else type(value).__name__


@contextmanager
def within(term: str) -> Iterator[None]:
    """Say in which term an error came up, whoever raised it."""
    try:
        yield
    except Exception as error:
        error.add_note(f'This came up in the term "{term}" of a LossModule.')
        raise


def check_terms(pairs: Sequence[tuple[str, Any]], kind: type) -> None:
    names = [name for name, _ in pairs]
    for name, term in pairs:
        if not isinstance(name, str) or name in ("", "loss"):
            rule = 'a term needs a name, other than "loss", which is the total'
            _fail(ValueError, "LossModule", rule, repr(name), "")
        if names.count(name) > 1:
            rule = "each term must have a name of its own"
            got = f'"{name}" {names.count(name)} times'
            _fail(ValueError, "LossModule", rule, got, f"The names are {_quoted(names)}.")
        if not isinstance(term, kind):
            rule, remedy = f'the term "{name}" must be a LossTerm or a LossModule', ""
            if callable(term):
                remedy = "Wrap it: LossTerm(loss, inputs={...}) says what to call it with."
            _fail(TypeError, "LossModule", rule, _of(term), remedy)


def check_loss(loss: Any) -> None:
    if not callable(loss):
        _fail(TypeError, "LossTerm", "loss must be callable", _of(loss), "")


def check_inputs(inputs: Any, kind: type) -> None:
    remedy = 'Write inputs={"pred": pred_key("boxes"), "target": data_key("boxes")}.'
    if not isinstance(inputs, Mapping):
        _fail(TypeError, "LossTerm", "inputs must be a dict", _of(inputs), remedy)
    for argument, key in inputs.items():
        if not isinstance(key, kind):
            rule = f'the input "{argument}" must be a pred_key or a data_key'
            _fail(TypeError, "LossTerm", rule, _of(key), remedy)


def check_arguments(
    loss: Any, inputs: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> None:
    """Every input is an argument of the loss, and every argument it needs is an input."""
    named = {
        name: p
        for name, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    loss = getattr(loss, "__name__", type(loss).__name__)
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for argument in inputs:
        if argument not in named and not anything:
            rule = f"inputs must name arguments of {loss}"
            _fail(ValueError, "LossTerm", rule, f'"{argument}"', _there_is(argument, named))
    for name, p in parameters.items():
        variadic = p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if p.default is p.empty and not variadic and name not in (*inputs, "key", "where"):
            rule = f'inputs must say where {loss} gets its argument "{name}" from'
            remedy = f'Add "{name}": pred_key(...) or data_key(...).'
            if p.kind is p.POSITIONAL_ONLY:
                remedy = "It takes no name: wrap the loss in a lambda."
            _fail(ValueError, "LossTerm", rule, _quoted(inputs), remedy)


def check_weight(weight: Any, nested: bool) -> None:
    """Weights are numbers, scalar arrays or schedules; a dict of them suits no nested module."""
    if isinstance(weight, Mapping):
        if nested:
            rule = "the weight of a LossModule must be one for all its terms"
            remedy = "Its own terms have weights of their own."
            _fail(TypeError, "LossTerm", rule, _of(weight), remedy)
        for part in weight.values():
            check_weight(part, nested=True)
    elif isinstance(weight, jax.Array | np.ndarray):
        check_scalar_weight(weight)
    elif not (callable(weight) or isinstance(weight, int | float | np.number)) or isinstance(
        weight, bool
    ):
        rule = "a weight must be a number, a scalar array, a schedule, or a dict of them"
        _fail(TypeError, "LossTerm", rule, _of(weight), "")


def check_scalar_weight(weight: Any) -> None:
    if np.shape(weight):
        remedy = "Weights of single elements belong in SumWeightedLoss."
        rule = "the weight of a term must be a scalar"
        _fail(ValueError, "LossTerm", rule, f"weight {np.shape(weight)}", remedy)


def check_step(step: Any) -> None:
    if step is None:
        remedy = "Call objective(outputs, batch, step=step)."
        _fail(ValueError, "LossModule", "a weight that is a schedule needs step", "None", remedy)


def check_weights(weights: Mapping[str, Any], entries: Collection[str]) -> None:
    for key in weights:
        if key not in entries:
            rule = "weights by key must name losses that the term returns"
            remedy = _there_is(key, entries)
            if "" in entries:
                remedy = "It returns one loss without a key: give it one weight."
            _fail(ValueError, "LossTerm", rule, f'"{key}"', remedy)


def check_excludes(
    exclude: Collection[str], entries: Collection[str], terms: Collection[str]
) -> None:
    """A name stands for itself and for what begins with it and a dot."""
    for name in exclude:
        if name not in terms and not any(f"{e}.".startswith(f"{name}.") for e in entries):
            rule = "exclude must name terms, or losses that they return"
            there = list(dict.fromkeys([*terms, *entries]))
            _fail(ValueError, "LossModule", rule, f'"{name}"', _there_is(name, there))


def check_new(name: str, entries: Collection[str]) -> None:
    if name in entries:
        rule = "each metric must have a name of its own"
        _fail(ValueError, "LossModule", rule, f'"{name}" twice', "Rename one of the terms.")


def check_found(name: str, path: str, members: Collection[str], node: Any) -> None:
    if name not in members:
        there = _there_is(name, members)
        if isinstance(node, jax.Array | np.ndarray):
            there = f"An array of shape {node.shape} has no parts."
        rule = f'inputs must name what is there, and "{name}" is not'
        _fail(ValueError, "LossModule", rule, path, there)


def check_scalar(path: str, loss: Any) -> None:
    rule = "a loss must be a scalar, or a dict or named tuple of scalars"
    if not isinstance(loss, jax.Array | np.ndarray | np.generic | int | float):
        got = _of(loss) + (f' under "{path}"' if path else "")
        remedy = ""
        if isinstance(loss, tuple | list):
            remedy = "Which of them is the loss? Wrap it in a lambda that says so."
        _fail(TypeError, "LossModule", rule, got, remedy)
    if np.shape(loss):
        got = (path or "loss") + f" {np.shape(loss)}"
        remedy = "Give the loss a reducer, such as mean_loss."
        _fail(ValueError, "LossModule", rule, got, remedy)
    if not (jnp.issubdtype(jnp.result_type(loss), jnp.number)):
        _fail(TypeError, "LossModule", rule, f"{jnp.result_type(loss)}", "")
