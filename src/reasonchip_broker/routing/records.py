"""Records that are made for each job.

A class whose constructor is Python code takes three times as long to make as a `msgspec.Struct`, whose constructor is C; where the core
is compiled, it is the class that is native, and a struct would be a stranger. So such classes are written as classes, and
`with_constructor_in_c` gives what they are to be where they are interpreted.
"""

from inspect import Parameter, signature
from typing import Any, TypeVar

import msgspec

Kind = TypeVar("Kind")


def with_constructor_in_c(kind: type[Kind], *, is_ordered: bool = False) -> type[Kind]:
    """A struct with the same name, fields, methods and properties as a class whose `__init__` does nothing but to set, for each of its
    parameters, the attribute of that name. (To set a field later costs more than elsewhere: what is known is given to the constructor.)
    With `is_ordered` two of it compare by their fields, in that order: in C, too, instead of by the class's `__lt__`.
    """
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for name, parameter in list(signature(kind.__init__).parameters.items())[1:]:
        default = parameter.default
        fields.append((name, Any) if default is Parameter.empty else (name, Any, default))
    names = {field[0] for field in fields}
    left_out = {
        *names,
        "__init__",
        *(("__lt__",) if is_ordered else ()),
        "__slots__",
        "__dict__",
        "__weakref__",
        "__annotations__",
    }
    namespace = {name: value for name, value in vars(kind).items() if name not in left_out}
    struct: Any = msgspec.defstruct(
        kind.__name__, fields, namespace=namespace, module=kind.__module__, eq=is_ordered, order=is_ordered
    )
    return struct  # type: ignore[no-any-return]
