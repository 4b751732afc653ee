"""Errors of an objective: names of terms, arguments, paths and results."""

import difflib
import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from vis4d_jax_loss._checks import fail, is_numeric

_WRITE_INPUTS = 'Write inputs={"pred": pred_key("boxes"), "target": data_key("boxes")}.'
_OPT_OUT = 'If its inputs contain no padding, add "where": None to the inputs of the term.'


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names) or "nothing"


def available(name: str, names: Collection[str]) -> str:
    """The names that exist, after the one that was probably meant."""
    nearest = difflib.get_close_matches(str(name), map(str, names), n=1, cutoff=0.5)
    hint = f'Did you mean "{nearest[0]}"? ' if nearest else ""
    return f"{hint}Available: {_quoted(names)}."


def kind_of(value: Any) -> str:
    return f"{type(value).__name__} {value!r}" if isinstance(value, str) else type(value).__name__


@contextmanager
def note_term(term: str) -> Iterator[None]:
    """Add to any error in which term it was raised."""
    try:
        yield
    except Exception as error:
        error.add_note(f'Raised in the term "{term}" of a LossModule.')
        raise


@contextmanager
def note_input(place: str) -> Iterator[None]:
    """Add to any error for which input it was raised."""
    try:
        yield
    except Exception as error:
        error.add_note(f"Raised for the input {place}.")
        raise


def fail_to_hash() -> NoReturn:
    rule = "an objective whose weights are arrays has no hash"
    remedy = "Pass it to the step as an argument that is not static."
    fail(TypeError, "LossTerm", rule, "an array", remedy)


def check_path(function: str, path: Any) -> None:
    if not isinstance(path, str):
        remedy = 'Write it as in "boxes.0".'
        fail(TypeError, function, "a path must be a string", kind_of(path), remedy)
    if path and "" in path.split("."):
        fail(ValueError, function, "a path must not have empty parts", f'"{path}"', "")


def check_named_terms(pairs: Any) -> list[tuple[Any, Any]]:
    rule, remedy = "terms must have names", 'Write LossModule({"box": LossTerm(...), ...}).'
    if not isinstance(pairs, Iterable):
        fail(TypeError, "LossModule", rule, kind_of(pairs), remedy)
    pairs = list(pairs)
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:
            fail(TypeError, "LossModule", rule, kind_of(pair), remedy)
    if not pairs:
        fail(ValueError, "LossModule", "there must be at least one term", "none", "")
    return pairs


def check_terms(pairs: Sequence[tuple[str, Any]], kind: type) -> None:
    names = [name for name, _ in pairs]
    for name, term in pairs:
        if not isinstance(name, str) or name in ("", "loss"):
            rule = 'a term needs a name other than "loss", which is the total'
            fail(ValueError, "LossModule", rule, repr(name), "")
        if names.count(name) > 1:
            rule = "each term must have a unique name"
            got = f'"{name}" {names.count(name)} times'
            fail(ValueError, "LossModule", rule, got, f"The names are {_quoted(names)}.")
        if not isinstance(term, kind):
            rule, remedy = f'the term "{name}" must be a LossTerm or a LossModule', ""
            if callable(term):
                remedy = "Wrap it: LossTerm(loss, inputs={...}) says what to call it with."
            if isinstance(term, Mapping):
                remedy = "Wrap it: LossModule({...})."
            fail(TypeError, "LossModule", rule, kind_of(term), remedy)


def check_unweighted(unweighted: Any) -> None:
    if not isinstance(unweighted, bool):
        got = kind_of(unweighted)
        fail(TypeError, "LossModule", "unweighted must be True or False", got, "")


def check_loss(loss: Any) -> None:
    if not callable(loss):
        fail(TypeError, "LossTerm", "loss must be callable", kind_of(loss), "")
    if isinstance(loss, type) and any("__call__" in vars(base) for base in loss.__mro__):
        rule, remedy = "loss must be an instance", f"Write {loss.__name__}(...)."
        fail(TypeError, "LossTerm", rule, f"the class {loss.__name__}", remedy)


def check_inputs(inputs: Any) -> None:
    if not isinstance(inputs, Mapping):
        fail(TypeError, "LossTerm", "inputs must be a dict", kind_of(inputs), _WRITE_INPUTS)


def fail_input(place: str, value: Any) -> NoReturn:
    remedy = _WRITE_INPUTS
    if isinstance(value, jax.Array | np.ndarray):
        remedy = (
            "Put the array into the batch and name it by data_key, "
            "or bind it with functools.partial."
        )
    rule = f"the input {place} must be a pred_key or a data_key"
    fail(TypeError, "LossTerm", rule, kind_of(value), remedy)


def check_arguments(
    loss: Any, inputs: Collection[str], parameters: Mapping[str, inspect.Parameter] | None
) -> None:
    """Every input is an argument of the loss, and every required argument is an input."""
    if parameters is None:
        return
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
            fail(ValueError, "LossTerm", rule, f'"{argument}"', available(argument, named))
    for name, p in parameters.items():
        variadic = p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if p.default is p.empty and not variadic and name not in (*inputs, "key", "where"):
            rule = f'inputs must name the source of the argument "{name}" of {loss}'
            remedy = f'Add "{name}": pred_key(...) or data_key(...).'
            if p.kind is p.POSITIONAL_ONLY:
                remedy = "The argument is positional only: wrap the loss in a lambda."
            fail(ValueError, "LossTerm", rule, _quoted(inputs), remedy)


def name_of(loss: Any) -> str:
    function = getattr(loss, "func", loss)
    return getattr(function, "__name__", type(function).__name__)


def check_takes_mask(term: str, loss: Any, takes_where: bool) -> None:
    """A loss without an argument where would read the padding."""
    if not takes_where:
        rule = "with where=, the loss of each term must have an argument where"
        got = f'{name_of(loss)} in the term "{term}"'
        fail(ValueError, "LossModule", rule, got, f"Give the loss an argument where. {_OPT_OUT}")


def check_masks_leading_axes(loss: Any) -> None:
    """The masks of optax and JAX broadcast from the right, and would take rows for columns."""
    function = getattr(loss, "func", loss)
    if str(getattr(function, "__module__", "")).partition(".")[0] in ("jax", "optax"):
        rule = "cannot pass where= to losses of optax or JAX, whose masks broadcast from the right"
        remedy = f"Wrap it in a function with an argument where. {_OPT_OUT}"
        fail(TypeError, "LossModule", rule, name_of(loss), remedy)


def check_key_and_where(defaults: Mapping[str, Any], arguments: Collection[str]) -> None:
    for name in ("key", "where"):
        if defaults.get(name) is inspect.Parameter.empty and name not in arguments:
            remedy = f"Call objective(outputs, batch, {name}={name}), or add it to inputs."
            fail(ValueError, "LossModule", f"the loss needs {name}", "None", remedy)


def check_part(name: Any) -> None:
    if str(name) == "":
        fail(ValueError, "LossModule", "each loss that a term returns must have a name", '""', "")


def check_excludes(
    exclude: Collection[str], entries: Collection[str], terms: Collection[str]
) -> None:
    """A name excludes itself, and every name that begins with it and a dot."""
    for name in exclude:
        if name not in terms and not any(f"{e}.".startswith(f"{name}.") for e in entries):
            rule = "exclude must name terms, or losses that they return"
            names = list(dict.fromkeys([*terms, *entries]))
            fail(ValueError, "LossModule", rule, f'"{name}"', available(name, names))


def check_unique(name: str, entries: Collection[str]) -> None:
    if name in entries:
        rule = "each metric must have a unique name"
        fail(ValueError, "LossModule", rule, f'"{name}" twice', "Rename one of the terms.")


def check_found(name: str, path: str, members: Collection[str], node: Any) -> None:
    if name not in members:
        remedy = available(name, members)
        if isinstance(node, jax.Array | np.ndarray):
            remedy = f"An array of shape {node.shape} has no parts."
        if node is None:
            remedy = "The path leads to None before that."
        rule = f'inputs must name what exists, and "{name}" does not'
        fail(ValueError, "LossModule", rule, path, remedy)


def check_scalar(path: str, loss: Any) -> None:
    rule = "a loss must be a numeric scalar, or a dict or named tuple of scalars"
    if not isinstance(loss, jax.Array | np.ndarray | np.generic | int | float):
        got = kind_of(loss) + (f' under "{path}"' if path else "")
        remedy = ""
        if isinstance(loss, tuple | list):
            remedy = "Wrap it in a lambda that returns the loss alone."
        fail(TypeError, "LossModule", rule, got, remedy)
    if np.shape(loss):
        got = (path or "loss") + f" {np.shape(loss)}"
        remedy = "Give the loss a reducer, such as mean_loss."
        fail(ValueError, "LossModule", rule, got, remedy)
    if not is_numeric(loss):
        fail(TypeError, "LossModule", rule, f"{jnp.result_type(loss)}", "")
