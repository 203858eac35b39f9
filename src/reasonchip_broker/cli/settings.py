"""What `serve` can be told, and by whom: flags win over the environment, that over the file, and that over the defaults.

Each source becomes the same struct, in which None means "not said here". They are read one by one, so that a mistake is reported with
where it was made.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import click
import msgspec
from msgspec import Meta

from reasonchip_broker.limits import Limits
from reasonchip_broker.scheduling import Limit, Per, Scheduling, WhenReached

PREFIX = "REASONCHIP_"
LIMITS_PREFIX = f"{PREFIX}LIMITS_"
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "json", "console")

Urls = Annotated[list[str], Meta(description="a list of URLs")]
Switch = Annotated[bool, Meta(description="true or false")]
Whole = Annotated[int, Meta(ge=0, description="a whole number, not negative")]
Level = Annotated[Literal["debug", "info", "warning", "error"], Meta(description=f"one of {', '.join(LOG_LEVELS)}")]
Format = Annotated[Literal["auto", "json", "console"], Meta(description=f"one of {', '.join(LOG_FORMATS)}")]
Table = Annotated[dict[str, Any], Meta(description="a table")]

_NUMBERS: dict[Any, Any] = {int: Whole, float: Annotated[float, Meta(description="a number")]}
_LIMIT_TYPES: dict[str, Any] = {field.name: _NUMBERS[field.type] for field in fields(Limits)}
LIMIT_NAMES = tuple(_LIMIT_TYPES)
_SCHEDULING_TYPES: dict[str, Any] = {
    "half_life_s": _NUMBERS[float],
    "ageing_s": _NUMBERS[float],
    "affinity_wait_s": _NUMBERS[float],
    "affinity_imbalance": _NUMBERS[float],
    "weights": Annotated[dict[str, float], Meta(description="a table of numbers")],
    "slots": Annotated[dict[str, Annotated[int, Meta(ge=0)]], Meta(description="a table of whole numbers")],
    "limits": Annotated[list[dict[str, Any]], Meta(description="a list of tables, each headed [[scheduling.limits]]")],
}
_RULE_TYPES: dict[str, Any] = {
    "name": Annotated[str, Meta(description="text")],
    "pipelines": Annotated[tuple[str, ...], Meta(description="a list of names or globs")],
    "per": Annotated[Per, Meta(description=f"one of {', '.join(Per)}")],
    "concurrency": Whole,
    "rate": Whole,
    "period_s": _NUMBERS[float],
    "burst": Whole,
    "when_reached": Annotated[WhenReached, Meta(description=f"one of {', '.join(WhenReached)}")],
}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One source's settings for `serve`; None is what it does not say."""

    clients: Urls | None = None
    workers: Urls | None = None
    drop_in: Switch | None = None
    json_queue: Switch | None = None
    json_cancel: Switch | None = None
    json_slot_rest_ms: Whole | None = None
    log_level: Level | None = None
    log_format: Format | None = None
    limits: Table = {}
    """Those that were set, by their names in `Limits`."""
    scheduling: Table = {}
    """The same of `Scheduling`; said in a file only."""

    def checked_limits(self) -> Limits:
        """The limits, with the defaults of those that were not set. Raises click.UsageError for ones that make no sense."""
        try:
            return Limits(**self.limits)
        except ValueError as error:
            raise click.UsageError(f"The limits make no sense: {error}.") from error

    def checked_scheduling(self) -> Scheduling:
        """The rules of scheduling, with the defaults of those not set. Raises click.UsageError for ones that make no sense."""
        try:
            limits = tuple(Limit(**{"name": "", **rule}) for rule in self.scheduling.get("limits", ()))
            return Scheduling(**{**self.scheduling, "limits": limits})
        except ValueError as error:
            raise click.UsageError(f"The section [scheduling] makes no sense: {error}.") from error


DEFAULTS = Settings(
    clients=["tcp://localhost"],
    workers=["tcp://localhost"],
    drop_in=False,
    json_queue=False,
    json_cancel=False,
    log_level="info",
    log_format="auto",
)


def layered(*sources: Settings) -> Settings:
    """What the sources say together; of two that speak of the same, the earlier wins."""
    settings = Settings()
    for source in reversed(sources):
        said = {name: value for name in source.__struct_fields__ if (value := getattr(source, name)) is not None}
        tables = {name: {**getattr(settings, name), **getattr(source, name)} for name in ("limits", "scheduling")}
        settings = msgspec.structs.replace(settings, **{**said, **tables})
    return settings


def from_file(path: Path) -> Settings:
    """A TOML file's settings. Raises click.UsageError for one that can't be read, or says what there is not."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise click.UsageError(f"Can't read the settings {path}: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"The settings {path} are not TOML: {error}.") from error
    return _convert(table, f"{path}: ", strict=True)


def from_environment(environment: Mapping[str, str]) -> Settings:
    """The settings in `REASONCHIP_…` variables; lists are separated by commas. Raises click.UsageError."""
    table: dict[str, Any] = {}
    for name in Settings.__struct_fields__:
        value = environment.get(PREFIX + name.upper(), "")
        if value and name not in ("limits", "scheduling"):
            table[name] = value.split(",") if name in ("clients", "workers") else value
    limits = {
        name.removeprefix(LIMITS_PREFIX).lower(): value
        for name, value in environment.items()
        if value and name.startswith(LIMITS_PREFIX)
    }
    return _convert({**table, "limits": limits}, "The environment: ", strict=False)


def limits_from_flags(pairs: Sequence[str]) -> dict[str, Any]:
    """The limits of `--limit NAME=VALUE` flags. Raises click.UsageError."""
    table: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"--limit takes NAME=VALUE, not {pair!r}.")
        table[name.strip().replace("-", "_")] = value.strip()
    return _convert({"limits": table}, "--limit: ", strict=False).limits


def _convert(table: Mapping[str, Any], source: str, *, strict: bool) -> Settings:
    """The settings of one source; lax for those that come as text. A mistake is reported with its source and its name there."""
    _require_known(table, Settings.__struct_fields__, source, "setting")
    types = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    said = {name: _checked(value, types[name], f"{source}{name}", strict) for name, value in table.items()}
    limits = said.get("limits", {})
    _require_known(limits, LIMIT_NAMES, source, "limit")
    said["limits"] = {name: _checked(value, _LIMIT_TYPES[name], f"{source}{name}", strict) for name, value in limits.items()}
    rules = said.get("scheduling", {})
    _require_known(rules, tuple(_SCHEDULING_TYPES), source, "rule of scheduling")
    said["scheduling"] = {
        name: _checked(value, _SCHEDULING_TYPES[name], f"{source}scheduling.{name}", strict) for name, value in rules.items()
    }
    if "limits" in said["scheduling"]:
        pairs = enumerate(said["scheduling"]["limits"])
        said["scheduling"]["limits"] = [_rule(rule, f"{source}scheduling.limits[{number}]", strict) for number, rule in pairs]
    return Settings(**said)


def _rule(rule: Mapping[str, Any], where: str, strict: bool) -> dict[str, Any]:
    """One limit by key, as it stands in a file."""
    _require_known(rule, tuple(_RULE_TYPES), f"{where}: ", "setting of a limit")
    return {name: _checked(value, _RULE_TYPES[name], f"{where}.{name}", strict) for name, value in rule.items()}


def _checked(value: Any, kind: Any, where: str, strict: bool) -> Any:
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        described = next(part for part in (kind, *get_args(kind)) if hasattr(part, "__metadata__"))
        raise click.UsageError(f"{where} must be {described.__metadata__[0].description}, not {value!r}.") from error


def _require_known(table: Mapping[str, Any], known: Sequence[str], source: str, kind: str) -> None:
    for name in table:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
            raise click.UsageError(f"{source}there is no {kind} {name!r}; {advice}")
