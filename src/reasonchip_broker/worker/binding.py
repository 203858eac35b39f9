"""A job's variables, bound to the parameters of its handler.

A map is bound by name, each value converted to its parameter's annotation by msgspec. A handler whose only parameter is a
struct or a dataclass gets the whole map as that. Variables that are no map go to the handler's only parameter. Nothing reaches
the handler that it did not declare: an unknown name is refused like a wrong type, with a sentence that names it.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import PurePath
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from reasonchip_broker.errors import ReasonChipError
from reasonchip_broker.worker.context import JobContext

CONTEXT_NAME = "context"

_POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
_EMPTY = inspect.Parameter.empty
_EXACT = (str, int, float, bool, bytes)
_NAMES_SHOWN = 10
"""A job may have thousands of unknown names; a sentence has room for so many."""


class InvalidVariables(ReasonChipError):
    """The variables of a job do not fit its handler, which was not called. `str()` of it is a sentence that names the
    parameter."""


class _Slot:
    """One parameter that takes a variable."""

    __slots__ = ("annotation", "checked", "default", "exact", "name", "positional")

    def __init__(self, parameter: inspect.Parameter, annotation: Any) -> None:
        self.name = parameter.name
        self.default = parameter.default
        self.positional = parameter.kind is _POSITIONAL_ONLY
        self.annotation = annotation
        self.checked = annotation is not Any
        self.exact = annotation if annotation in _EXACT else None
        """The type of values that are what they would be converted to."""


class Binding:
    """How variables become the arguments of one handler. Raises TypeError for a handler that could never be called.

    Annotations that name what is defined further down the module are looked up by `resolve`, at the latest.
    """

    def __init__(self, handler: Callable[..., Any], *, validate: bool = True) -> None:
        self._handler = handler
        self._validate = validate
        self._slots: list[_Slot] = []
        self._positional: list[_Slot] = []
        self._rest: _Slot | None = None
        self._whole: _Slot | None = None
        self._context: inspect.Parameter | None = None
        self._context_at = 0
        self.resolved = False
        try:
            self.resolve()
        except NameError:
            pass

    def resolve(self) -> None:
        """Read the handler's signature. Raises TypeError if it can't be served, NameError for an annotation that names
        nothing."""
        if self.resolved:
            return
        hints = _hints(self._handler)
        slots: list[_Slot] = []
        for parameter in _parameters(self._handler):
            annotation = hints.get(parameter.name, Any if parameter.annotation is _EMPTY else parameter.annotation)
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                continue
            if self._context is None and _is_context(parameter, annotation):
                self._context, self._context_at = parameter, len(slots)
                continue
            slot = _Slot(parameter, annotation)
            if not self._validate:
                slot.checked = False
            elif slot.checked:
                self._require_convertible(slot)
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                self._rest = slot
            else:
                slots.append(slot)
        self._slots = slots
        self._positional = [slot for slot in slots if slot.positional]
        if len(slots) == 1 and self._rest is None and self._validate and _is_record(slots[0].annotation):
            self._whole = slots[0]
        self.resolved = True

    def _require_convertible(self, slot: _Slot) -> None:
        try:
            msgspec.json.Decoder(slot.annotation, dec_hook=_convert_other)
        except (TypeError, NameError) as error:
            if isinstance(error, NameError):
                raise
            name = getattr(self._handler, "__qualname__", repr(self._handler))
            raise TypeError(
                f"parameter {slot.name!r} of {name} has an annotation that can't be validated ({error}); "
                f"change it, or pass validate=False"
            ) from error

    def bind(self, variables: Any, context: JobContext, *, from_json: bool = False) -> tuple[list[Any], dict[str, Any]]:
        """The positional and the named arguments for a handler. `from_json` lets the text keys of JSON maps stand for numbers.

        Raises InvalidVariables.
        """
        if self._whole is not None:
            slot = self._whole
            if variables is None and slot.default is not _EMPTY:
                found: dict[str, Any] = {}
            else:
                found = {slot.name: _convert({} if variables is None else variables, slot, slot.name, from_json, whole=True)}
        else:
            found = self._by_name(variables, from_json)
        # A hole among positional arguments has to be filled with its default.
        positional = [found.pop(slot.name, slot.default) for slot in self._positional]
        parameter = self._context
        if parameter is not None:
            if parameter.kind is _POSITIONAL_ONLY:
                positional.insert(self._context_at, context)
            else:
                found[parameter.name] = context
        return positional, found

    def _by_name(self, variables: Any, from_json: bool) -> dict[str, Any]:
        if variables is None:
            variables = {}
        elif not isinstance(variables, dict):
            if len(self._slots) != 1:
                raise InvalidVariables(
                    f"the variables are a {type(variables).__name__}, and must be a map of names to values; {self._takes()}"
                )
            variables = {self._slots[0].name: variables}
        found: dict[str, Any] = {}
        for slot in self._slots:
            name = slot.name
            if name in variables:
                value = variables[name]
                as_is = type(value) is slot.exact or not slot.checked
                found[name] = value if as_is else _convert(value, slot, name, from_json)
            elif slot.default is _EMPTY:
                raise InvalidVariables(f"variable {name!r} is missing; {self._takes()}")
        if len(found) < len(variables):
            self._take_rest(variables, found, from_json)
        return found

    def _take_rest(self, variables: dict[Any, Any], found: dict[str, Any], from_json: bool) -> None:
        rest = [name for name in variables if name not in found]
        slot = self._rest
        context = self._context
        if slot is None or (context is not None and context.name in rest and context.kind is not _POSITIONAL_ONLY):
            names = ", ".join(repr(name)[:100] for name in rest[:_NAMES_SHOWN])
            raise InvalidVariables(f"there is no variable {names}{' …' if len(rest) > _NAMES_SHOWN else ''}; {self._takes()}")
        for name in rest:
            if not isinstance(name, str):
                raise InvalidVariables(f"the name of a variable is text, not {repr(name)[:100]}")
            found[name] = _convert(variables[name], slot, name, from_json) if slot.checked else variables[name]

    def _takes(self) -> str:
        names = [slot.name if slot.default is _EMPTY else f"{slot.name} (optional)" for slot in self._slots]
        if self._rest is not None:
            names.append("any other")
        return f"the pipeline takes {', '.join(names)}" if names else "the pipeline takes none"


def _convert(value: Any, slot: _Slot, name: str, from_json: bool, *, whole: bool = False) -> Any:
    try:
        return msgspec.convert(value, slot.annotation, dec_hook=_convert_other, str_keys=from_json)
    except msgspec.ValidationError as error:
        subject = f"the variables do not fit parameter {name!r}" if whole else f"variable {name!r}"
        raise InvalidVariables(f"{subject}: {error}") from error
    except RecursionError as error:
        raise InvalidVariables(f"variable {name!r} is nested too deeply") from error


def _convert_other(kind: Any, value: Any) -> Any:
    """What msgspec does not know: paths. All else is returned as it is, which msgspec then refuses unless it is a `kind`
    already."""
    if isinstance(kind, type) and issubclass(kind, PurePath) and isinstance(value, str):
        return kind(value)
    return value


def _hints(handler: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of whatever is callable, with names in them looked up."""
    target: Any = handler
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.isroutine(target):
        target = type(target).__call__
    return get_type_hints(target, include_extras=True)


def _parameters(handler: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(handler).parameters.values())
    except ValueError as error:
        raise TypeError(f"{handler!r} does not tell its parameters; wrap it in a function that does") from error


def _is_context(parameter: inspect.Parameter, annotation: Any) -> bool:
    if annotation is JobContext or JobContext in get_args(annotation):
        return True
    return parameter.name == CONTEXT_NAME and parameter.annotation is _EMPTY


def _is_record(annotation: Any) -> bool:
    """Whether an annotation is a struct or a dataclass: what whole variables are converted to."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    kind = get_origin(annotation) or annotation
    return isinstance(kind, type) and (issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind))
