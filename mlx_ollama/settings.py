"""One frozen `Settings`, from defaults < TOML file < environment < flags; nothing else reads the environment."""

import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from mlx_ollama.durations import parse_duration

PREFIX = "MLX_API_"
KEEP_ALIVE_SECONDS = 300.0
CONNECTION_KEEP_ALIVE_SECONDS = 120.0
DRAIN_SECONDS = 30.0
MAX_BODY_BYTES = 64 * 1024 * 1024

DEVICES = ("auto", "cpu", "gpu")
LOG_LEVELS = ("debug", "info", "warning", "error")


class SettingsError(ValueError):
    """A setting that cannot be used; the message names it, its origin and what is allowed."""


def _setting(default: Any, help_text: str, *, also: str = "") -> Any:
    return field(default=default, metadata={"help": help_text, "also": also})


@dataclass(frozen=True)
class Settings:
    """Everything that can be set. Durations are seconds, sizes are bytes."""

    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0 is every interface")
    port: int = _setting(11435, "port to listen on; 0 takes a free one")
    workers: int = _setting(1, "gateway processes; only 1 works, because models and limits are shared state")
    home: Path = _setting(Path("~/.mlx-ollama"), "folder of the model store and converted weights")
    keep_alive: float = _setting(
        KEEP_ALIVE_SECONDS,
        "how long an idle model stays loaded: seconds or 5m, 1h; negative is for ever",
        also="OLLAMA_KEEP_ALIVE",
    )
    connection_keep_alive: float = _setting(CONNECTION_KEEP_ALIVE_SECONDS, "how long an idle connection stays open")
    context_length: int = _setting(
        0,
        "tokens of context where a request sets no num_ctx; 0 is 4096, or 32768 from 23 GiB and 262144 from 47 GiB of "
        "GPU memory",
        also="OLLAMA_CONTEXT_LENGTH",
    )
    device: str = _setting("auto", "auto, cpu or gpu")
    origins: tuple[str, ...] = _setting(
        (), "more web origins to allow, comma separated, * as wildcard", also="OLLAMA_ORIGINS"
    )
    log_level: str = _setting("info", "debug, info, warning or error")
    drain: float = _setting(DRAIN_SECONDS, "how long running answers may go on after SIGTERM or SIGINT")
    max_body: int = _setting(MAX_BODY_BYTES, "largest request body in bytes")
    strict: bool = _setting(
        default=False, help_text="refuse fields and options that have no effect here instead of naming them"
    )
    body_timeout: float = _setting(60.0, "how long a request body may stop arriving before it is refused")
    load_timeout: float = _setting(300.0, "how long loading a model may take")
    stream_keep_alive: float = _setting(
        15.0, "how long a stream may be silent, once its model is loaded, before it says that it lives; 0 is for ever"
    )
    ndjson_keep_alive: bool = _setting(
        default=False, help_text="say so on Ollama's own streams, too, with a line that has no text in it"
    )
    prefill_slice: float = _setting(0.25, "longest time a prompt is read without letting running answers go on")
    prompt_cache_bytes: int = _setting(
        1 << 30, "most bytes of prompts and answers that a model remembers, to read only what is new; 0 remembers none"
    )
    prompt_cache_chooser: str = _setting(
        "mlx_ollama.worker.prefix_choice:LeastRecentlyUsed", "which of them go first, as package.module:Class"
    )
    canonical: bool = _setting(
        default=True,
        help_text="take out of system prompts what changes with every request and means nothing to a model",
    )
    debug: bool = _setting(
        default=False, help_text="say in a header of each answer how much of its prompt was remembered"
    )

    @property
    def models(self) -> Path:
        """Manifests and blobs, laid out as Ollama lays out its own."""
        return self.home / "models"

    @property
    def converted(self) -> Path:
        """MLX model directories made from GGUF files, one folder per file digest."""
        return self.home / "converted"


@dataclass(frozen=True)
class Origin:
    """Where a value came from, for `mlx-ollama config`."""

    value: Any
    source: str


@dataclass(frozen=True)
class Loaded:
    """Settings with their origins, and what looked like a setting but is none."""

    settings: Settings
    origins: Mapping[str, Origin]
    warnings: Sequence[str]


def load(flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None) -> Loaded:
    """Merge defaults, the TOML file, the environment and `flags` (None values count as unset).

    The file is `config` of the flags, or `MLX_API_CONFIG`, or `config.toml` in the home folder if there is one.

    Raises:
        SettingsError: for a value that cannot be used or a file that cannot be read.
    """
    environment = os.environ if environment is None else environment
    flags = {name: value for name, value in (flags or {}).items() if value is not None}
    file, table = _file(flags, environment)
    origins: dict[str, Origin] = {}
    for setting in fields(Settings):
        text, source = _pick(setting, flags, environment, table, file)
        value = setting.default if source == "default" else _parse(setting, text, source)
        origins[setting.name] = Origin(value.expanduser() if isinstance(value, Path) else value, source)
    settings = Settings(**{name: origin.value for name, origin in origins.items()})
    _check(settings, origins)
    return Loaded(settings, origins, _strangers(environment, table, file))


def describe(loaded: Loaded) -> list[tuple[str, str, str, str]]:
    """Rows of (variable, value, default, origin) for people."""
    return [
        (
            PREFIX + setting.name.upper(),
            show(loaded.origins[setting.name].value),
            show(setting.default),
            loaded.origins[setting.name].source,
        )
        for setting in fields(Settings)
    ]


def help_texts() -> dict[str, str]:
    """What each setting means, by its field name."""
    return {setting.name: setting.metadata["help"] for setting in fields(Settings)}


def show(value: Any) -> str:
    """A value as one would write it into the environment."""
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _file(flags: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[Path | None, dict[str, Any]]:
    named = flags.get("config") or environment.get(PREFIX + "CONFIG")
    home = flags.get("home") or environment.get(PREFIX + "HOME") or Settings.home
    path = Path(named or Path(home) / "config.toml").expanduser()
    if not named and not path.is_file():
        return None, {}
    try:
        return path, tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the configuration {path}: {error}") from error


def _pick(
    setting: Field[Any],
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    table: Mapping[str, Any],
    file: Path | None,
) -> tuple[Any, str]:
    if setting.name in flags:
        return flags[setting.name], f"--{setting.name.replace('_', '-')}"
    ours = PREFIX + setting.name.upper()
    if environment.get(ours, "").strip():
        return environment[ours].strip(), ours
    if setting.name in table:
        return table[setting.name], str(file)
    theirs = setting.metadata["also"]
    if theirs and environment.get(theirs, "").strip(" \"'"):
        return environment[theirs].strip(" \"'"), theirs
    return None, "default"


def _parse(setting: Field[Any], value: Any, source: str) -> Any:
    try:
        return _as_type_of(setting.default, value)
    except ValueError as error:
        raise SettingsError(f"{source}: {value!r} is no good for {setting.name}: {error}") from error


def _as_type_of(default: Any, value: Any) -> Any:
    if isinstance(default, bool):
        return _truth(value)
    if isinstance(value, bool):
        raise ValueError("not true or false")  # noqa: TRY004 - one error for every bad value
    if isinstance(default, tuple):
        parts = value.split(",") if isinstance(value, str) else value
        if not all(isinstance(part, str) for part in parts):
            raise ValueError("not a list of strings")
        return tuple(part.strip() for part in parts if part.strip())
    if isinstance(default, Path):
        return Path(value)
    if isinstance(default, int):
        return int(value)
    if isinstance(default, float):
        return _seconds(value)
    return str(value)


def _truth(value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    found = words.get(str(value).lower())
    if found is None:
        raise ValueError("neither true nor false")
    return found


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except ValueError:
        return parse_duration(value)
    if not math.isfinite(seconds):
        raise ValueError("not a finite number")
    return seconds


def _check(settings: Settings, origins: Mapping[str, Origin]) -> None:
    def refuse(name: str, reason: str) -> None:
        raise SettingsError(f"{origins[name].source}: {name} {show(origins[name].value)!r}: {reason}")

    if settings.workers != 1:
        refuse("workers", "only 1 works: loaded models and limits are shared state of one gateway process")
    if not 0 <= settings.port <= 65535:  # noqa: PLR2004 - the range of ports
        refuse("port", "not a port")
    for name, known in (("device", DEVICES), ("log_level", LOG_LEVELS)):
        if getattr(settings, name) not in known:
            refuse(name, f"must be one of {', '.join(known)}")
    above_zero = {"connection_keep_alive", "max_body", "body_timeout", "load_timeout", "prefill_slice"}
    for name in [*above_zero, "drain", "context_length", "stream_keep_alive", "prompt_cache_bytes"]:
        value = getattr(settings, name)
        if value < 0 or (value == 0 and name in above_zero):
            refuse(name, "must be above 0" if name in above_zero else "must not be negative")
    if not all(settings.prompt_cache_chooser.partition(":")):
        refuse("prompt_cache_chooser", "not of the form package.module:Class")


def _strangers(environment: Mapping[str, str], table: Mapping[str, Any], file: Path | None) -> list[str]:
    known = {setting.name for setting in fields(Settings)}
    names = (name for name in environment if name.startswith(PREFIX))
    unknown = [name for name in names if name.removeprefix(PREFIX).lower() not in known | {"config"}]
    warnings = [f"unknown setting {name} in the environment" for name in sorted(unknown)]
    return warnings + [f"unknown setting {name} in {file}" for name in table if name not in known]
