"""Flags from settings classes: a field is a flag, its docstring the help, its default the default."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic.fields import FieldInfo

from gro.cli.settings import flag
from gro.config import DataSettings, DeviceSettings, ModelSettings, ProtectionSettings, Settings, TrainingSettings
from gro_surrogates.settings import ThiefSettings

TITLES: Mapping[type[Settings], str] = {
    DataSettings: "Data",
    ModelSettings: "Model",
    TrainingSettings: "Training",
    ProtectionSettings: "Protection",
    DeviceSettings: "Parameters",
}
"""Headings of the help, by the class that declares a field."""


def function(
    call: Callable[[dict[str, Any]], int], doc: str, classes: Iterable[type[Settings]], positional: str | None = None
) -> Callable[..., int]:
    """Return a function for cyclopts whose parameters are the fields of ``classes``.

    Args:
        call: receives the fields that the command line names, and only those, by name.
        doc: help of the command.
        classes: whose fields become flags.
        positional: the field that may be given without its flag.
    """

    def command(**given: Any) -> int:
        return call(given)

    parameters = sorted(_parameters(classes, positional), key=lambda parameter: parameter.kind)
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = doc
    return command


def _parameters(classes: Iterable[type[Settings]], positional: str | None) -> Iterable[inspect.Parameter]:
    for cls in classes:
        for name, field in cls.model_fields.items():
            kind_of_value: Any = field.annotation
            if field.is_required():
                kind_of_value |= None
            annotation = Annotated[kind_of_value, _describe(cls, name, field)]
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if name == positional else inspect.Parameter.KEYWORD_ONLY
            default = None if field.is_required() else field.default
            yield inspect.Parameter(name, kind, default=default, annotation=annotation)


def _describe(cls: type[Settings], name: str, field: FieldInfo) -> Parameter:
    text = " ".join((field.description or "").split())
    if isinstance(field.default, dict):
        text += f" As a flag: {flag(name)}.FIELD INTERVAL."
    return Parameter(
        name=flag(name),
        help=f"{text} Required." if field.is_required() else text,
        group=_title(cls, name),
        show_default=_shown if _has_figure(field) and cls is not ThiefSettings else False,
        negative_iterable=(),
        negative=() if field.default is False and name in {"json_", "quiet"} else None,
    )


def _title(cls: type[Settings], name: str) -> str:
    owner = next(base for base in reversed(cls.__mro__) if name in getattr(base, "model_fields", {}))
    if cls is ThiefSettings:
        return "Instead of what the thief's card says"
    return TITLES.get(owner, "Parameters")


def _has_figure(field: FieldInfo) -> bool:
    return isinstance(field.default, int | float | str | Path) and not isinstance(field.default, bool)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) and not value.isprintable() else str(value)
