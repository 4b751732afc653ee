"""FrozenModule: an immutable ``nnx.Module`` that is compared and hashed by its options.

A finished module has three kinds of attributes: its options, what Flax writes into it, and the
values of cached properties. Only the options are part of its value. Every Flax from 0.10.7 on is
told that our modules are no pytrees (``pytree=False``); they are registered with JAX here.
"""

import dataclasses
import functools
import re
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

import jax
from flax import nnx
from jax.tree_util import GetAttrKey

from vis4d_jax_loss._checks import fail
from vis4d_jax_loss._dataclass import check_complete, make_dataclass, undo_dataclass

if TYPE_CHECKING:
    from flax.nnx.module import ModuleMeta
else:
    ModuleMeta = type(nnx.Module)


class _Blank(nnx.Module, pytree=False):
    """Has the attributes that Flax gives to every module, and no others."""


_FLAX_ATTRIBUTES = frozenset(vars(_Blank()))
_UNFINISHED = "_unfinished"  # set while a module is created

# Before Flax 0.12, no model is a pytree.
_VARIABLES_ARE_PYTREES = not jax.tree_util.all_leaves([nnx.Variable(0)])


class _FrozenMeta(ModuleMeta):
    """Finishes a module after its ``__init__``, whoever wrote that."""

    if not TYPE_CHECKING:  # so that type checkers read the signature of __init__

        def __call__(cls, *args, **kwargs):  # noqa: N805
            check_complete(cls)
            cls._check_arguments(args)
            module = super().__call__(*args, **kwargs)
            module._finish()
            return module

        def __setattr__(cls, name, value):  # noqa: N805
            # A dataclass decorator first sets its parameters. It must find the class as written.
            if name == "__dataclass_params__":
                undo_dataclass(cls, value.frozen)
            # It last freezes the class, but FrozenModule does so itself.
            if name not in ("__setattr__", "__delattr__"):
                super().__setattr__(name, value)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class FrozenModule(nnx.Module, pytree=False, metaclass=_FrozenMeta):
    """Base whose subclasses become frozen dataclasses and pytrees without leaves."""

    _set_in_init: ClassVar[tuple[str, ...]] = ()  # names of options that are no fields

    def __init_subclass__(cls, *, kw_only: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs | {"pytree": False})
        make_dataclass(cls, kw_only)
        unflatten = functools.partial(_unflatten, cls)
        jax.tree_util.register_pytree_with_keys(cls, _flatten_with_keys, unflatten, _flatten)

    if not TYPE_CHECKING:

        def __new__(cls, *args, **kwargs):
            module = super().__new__(cls)
            vars(module)[_UNFINISHED] = True
            return module

        def __setattr__(self, name, value):
            if _UNFINISHED in vars(self):
                object.__setattr__(self, name, value)
            elif _is_written_by_flax(name, value) and name not in self._options():
                super().__setattr__(name, value)
            else:
                raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

        def __delattr__(self, name):
            frozen = _UNFINISHED not in vars(self) and name in self._options()
            if frozen or name not in vars(self):
                raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
            super().__delattr__(name)

    @classmethod
    def _check_arguments(cls, args: tuple[Any, ...]) -> None:
        """Raise if somebody calls the class who meant to call a module."""

    def _finish(self) -> None:
        """Complete the options, read and check them, and freeze the module."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if field.name not in vars(self):
                object.__setattr__(self, field.name, _default(type(self), field))
        _note_other_options(self)
        self._read_options()
        del vars(self)[_UNFINISHED]
        self._check_options()

    def _read_options(self) -> None:
        """Convert the options to hashable values, or raise. Runs before ``_check_options``."""

    def _check_options(self) -> None:
        """Raise if an option is out of range. Runs once for every module, after its creation."""

    def _options(self) -> dict[str, Any]:
        """The fields in their order, then what an ``__init__`` has set besides."""
        values = vars(self)
        names = (*_field_names(type(self)), *self._set_in_init)
        return {name: values[name] for name in names if name in values}

    def _compared(self) -> list[Any]:
        values = vars(self)
        fields = [values[name] for name in _field_names(type(self), compared=True)]
        return fields + [(name, values[name]) for name in self._set_in_init]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash((type(self), *self._compared()))

    def __repr__(self) -> str:
        """Show the options that differ from their defaults."""
        fields = type(self).__dataclass_fields__  # type: ignore[attr-defined]
        shown = [
            f"{name}={_shown(value)}"
            for name, value in self._options().items()
            if name not in fields or (fields[name].repr and value != fields[name].default)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._options())

    def _graph_node_flatten(self) -> Any:
        """Called by Flax. The values of cached properties are left out: they are no state."""
        nodes, metadata = super()._graph_node_flatten()
        names = {*self._options(), "_set_in_init"}
        names.update(k for k, v in vars(self).items() if _is_written_by_flax(k, v))
        return [node for node in nodes if node[0] in names], metadata


def _is_written_by_flax(name: str, value: Any) -> bool:
    """Whether it is bookkeeping of Flax, as of ``nnx.tabulate`` and ``nnx.capture``, or sown."""
    bookkeeping = name in _FLAX_ATTRIBUTES or name.startswith(("_nnx", "__"))
    return bookkeeping or isinstance(value, nnx.Variable)


def _default(cls: type, field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    rule = "__init__ must set every option"
    remedy = f"Set self.{field.name}, or give it a default."
    return fail(TypeError, cls.__name__, rule, f"no {field.name}", remedy)


def _note_other_options(module: FrozenModule) -> None:
    """Remember what an ``__init__`` has set besides the fields."""
    known = _FLAX_ATTRIBUTES | {_UNFINISHED, *_field_names(type(module))}
    names = [name for name in vars(module) if name not in known and not _is_cached(module, name)]
    if names:
        object.__setattr__(module, "_set_in_init", tuple(sorted(names)))


def _is_cached(module: FrozenModule, name: str) -> bool:
    return isinstance(getattr(type(module), name, None), functools.cached_property)


@functools.cache
def _field_names(cls: type, compared: bool = False) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cls) if field.compare or not compared)


def _shown(value: Any) -> str:
    """A value without addresses, which change from run to run; a function is its name."""
    name = getattr(value, "__name__", None)
    return name or re.sub(r"<function (\S+) at 0x\w+>| at 0x\w+", r"\1", repr(value))


def _restore(cls: type, options: dict[str, Any]) -> Any:
    """A finished module, from options that have been read and checked."""
    module: Any = object.__new__(cls)
    others = tuple(name for name in options if name not in _field_names(cls))
    vars(module).update(vars(_Blank()) | options | ({"_set_in_init": others} if others else {}))
    return module


# As a pytree, a module has leaves only while Flax keeps something on it that its call has sown.
# Modules among its options are children, so that what they have sown is found as well.


def _children(module: FrozenModule) -> dict[str, Any]:
    found = {k: v for k, v in vars(module).items() if _may_be_child(v.__class__)}
    if not found or not _VARIABLES_ARE_PYTREES:
        return {}
    kind_of = dict.fromkeys(module._options(), FrozenModule)
    return {k: v for k, v in found.items() if _holds_only(kind_of.get(k, nnx.Variable), v)}


@functools.cache  # faster than isinstance, and each call of a jitted function asks
def _may_be_child(cls: type) -> bool:
    return issubclass(cls, FrozenModule | nnx.Variable | tuple)


def _holds_only(kind: type, value: Any) -> bool:
    """Whether it is of that kind, or a tuple of such values."""
    parts = value if isinstance(value, tuple) and value else (value,)
    return all(isinstance(part, kind) for part in parts)


def _flatten(module: FrozenModule) -> tuple[list[Any], Any]:
    children = _children(module)
    value = _restore(type(module), module._options()) if children else module
    return list(children.values()), (tuple(children), value)


def _flatten_with_keys(module: FrozenModule) -> tuple[list[Any], Any]:
    children, static = _flatten(module)
    return [(GetAttrKey(k), v) for k, v in zip(static[0], children, strict=True)], static


def _unflatten(cls: type, static: Any, children: Any) -> Any:
    names, value = static
    module = _restore(cls, value._options())
    vars(module).update(zip(names, children, strict=True))
    return module
