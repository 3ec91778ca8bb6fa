"""One frozen `Settings`, from defaults < profile < TOML file < environment < flags."""

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from mlx_ollama.policy import Policy, policies
from mlx_ollama.settings_check import check
from mlx_ollama.settings_values import Percent, Words, as_type_of, show

PREFIX = "MLX_API_"
KEEP_ALIVE_SECONDS = 300.0
CONNECTION_KEEP_ALIVE_SECONDS = 120.0
DRAIN_SECONDS = 30.0
MAX_BODY_BYTES = 64 * 1024 * 1024
LOG_BYTES = 10 * 1024 * 1024


class SettingsError(ValueError):
    """A setting that cannot be used; the message names it, its origin and what is allowed."""


def _setting(default: Any, help_text: str, *, also: str = "", secret: bool = False) -> Any:
    """`also` is Ollama's variable for the same; a `secret` is printed nowhere."""
    return field(default=default, metadata={"help": help_text, "also": also, "secret": secret}, repr=not secret)


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
    log_format: str = _setting("plain", "a log line for people (plain) or for programs (json)")
    log_file: str = _setting("", "write the log to this file, and to standard error only what cannot be written there")
    log_size: int = _setting(LOG_BYTES, "bytes of a log file before it is put aside and a new one begins")
    log_count: int = _setting(5, "log files put aside that are kept; 0 keeps all of the log in one")
    drain: float = _setting(DRAIN_SECONDS, "how long running answers may go on after SIGTERM, SIGINT or SIGHUP")
    supervise_interval: float = _setting(10.0, "time between two checks of the gateway by its supervisor")
    supervise_timeout: float = _setting(5.0, "how long the gateway may take to answer a check")
    supervise_misses: int = _setting(3, "checks in a row without an answer that mean that the gateway is down")
    supervise_start: float = _setting(60.0, "how long the gateway may take to open its port")
    supervise_restarts: int = _setting(5, "most restarts of the gateway within supervise_window")
    supervise_window: float = _setting(300.0, "time in which restarts are counted")
    supervise_backoff: float = _setting(2.0, "first pause after repeated deaths; it doubles with each more")
    supervise_backoff_most: float = _setting(60.0, "longest such pause")
    supervise_breaker: int = _setting(5, "starts that fail in a row before a pause of supervise_breaker_open")
    supervise_breaker_open: float = _setting(60.0, "that pause, after which one start is tried")
    supervise_grace: float = _setting(10.0, "time between SIGTERM and SIGKILL for a gateway that does not answer")
    supervise_stop: float = _setting(10.0, "time beyond drain for a gateway that is asked to stop, before SIGKILL")
    supervise_events: str = _setting(
        "", "file of the supervisor's events; supervisor.jsonl in the home folder if empty"
    )
    supervise_webhook: str = _setting("", "http or https address to which every event of the supervisor is posted")
    supervise_hook: Words = _setting(Words(), "command that gets every event of the supervisor on standard input")
    supervise_hook_timeout: float = _setting(10.0, "how long webhook and command may take for one event")
    max_body: int = _setting(MAX_BODY_BYTES, "largest request body in bytes")
    strict: bool = _setting(
        default=False, help_text="refuse fields and options that have no effect here instead of naming them"
    )
    body_timeout: float = _setting(60.0, "how long a request body may stop arriving before it is refused")
    load_timeout: float = _setting(300.0, "how long loading a model may take")
    worker_heartbeat: float = _setting(5.0, "how often a worker is asked whether it lives")
    worker_patience: float = _setting(25.0, "how long it may fail to answer before it is ended and replaced")
    worker_grace: float = _setting(5.0, "time between SIGTERM and SIGKILL for a worker that is to end")
    worker_backoff: float = _setting(2.0, "first pause after repeated deaths of a worker; it doubles with each more")
    worker_backoff_most: float = _setting(60.0, "longest such pause")
    worker_breaker: int = _setting(5, "loads that fail in a row before a pause of worker_breaker_open")
    worker_breaker_open: float = _setting(60.0, "that pause, after which one load is tried")
    stream_keep_alive: float = _setting(
        15.0, "how long a stream may be silent, once its model is loaded, before it says that it lives; 0 is for ever"
    )
    ndjson_keep_alive: bool = _setting(
        default=False, help_text="say so on Ollama's own streams, too, with a line that has no text in it"
    )
    profile: str = _setting(
        "guarded",
        "how the server behaves under load: guarded refuses at once, ollama lets requests wait as Ollama does",
    )
    max_concurrent: int = _setting(5, "inference requests at once")
    queue: int = _setting(0, "inference requests that may wait for their turn; the others are refused")
    queue_timeout: float = _setting(60.0, "how long they wait before they are refused; 0 is for ever")
    rate_limit: int = _setting(30, "inference requests of one client address in a window; 0 is no limit")
    rate_window: float = _setting(60.0, "that window")
    trusted_proxies: tuple[str, ...] = _setting(
        (), "addresses and networks of proxies whose X-Forwarded-For is believed, comma separated"
    )
    timeout: float = _setting(300.0, "how long an answer may take, waiting and loading included; 0 is for ever")
    write_timeout: float = _setting(60.0, "how long a client may take nothing of its answer before it is hung up on")
    memory_interval: float = _setting(10.0, "how often the memory guard looks, besides before each load")
    memory_warning: Percent = _setting(Percent(85), "percent of memory in use from which on the guard warns")
    memory_critical: Percent = _setting(
        Percent(95), "percent from which on idle models are unloaded, and models that would exceed it are not loaded"
    )
    memory_emergency: Percent = _setting(Percent(98), "percent from which on everything idle is given up")
    keep_count: int = _setting(1, "idle models that stay loaded when memory is critical")
    worker_growth: Percent = _setting(
        Percent(50),
        "percent by which an idle worker may outgrow its first answers before it is replaced; 0 never replaces one",
    )
    eviction: str = _setting(
        "mlx_ollama.policies.eviction:LeastRecentlyUsed",
        "class that says which idle models go first, as package.module:Class",
    )
    nohistory: bool = _setting(
        default=False, help_text="keep nothing of what is typed into `run`", also="OLLAMA_NOHISTORY"
    )
    prefill_slice: float = _setting(0.25, "longest time a prompt is read without letting running answers go on")
    keys: tuple[str, ...] = _setting(
        (), "keys, comma separated, of which a request needs one; without any, everybody may ask", secret=True
    )
    upstream: str = _setting(
        "",
        "an Ollama server, as http://127.0.0.1:11434, that answers for models that are not here or cannot be used now",
    )
    adopt: bool = _setting(
        default=False, help_text="use what lies in Ollama's store and MLX models in the hub's cache as if it was here"
    )
    ollama_models: Path = _setting(Path("~/.ollama/models"), "Ollama's own store", also="OLLAMA_MODELS")
    registry: str = _setting(
        "https://registry.ollama.ai", "registry, or a mirror of it, from which names without a host are pulled"
    )
    policies: tuple[Policy, ...] = _setting(
        (), "policies of your own as package.module:Class, comma separated; their options go into the TOML file"
    )
    preload: tuple[str, ...] = _setting((), "models to load when the server starts, comma separated")
    spare: bool = _setting(
        default=True, help_text="keep a worker ready that has everything but a model, so that a load takes less time"
    )
    spare_pause: float = _setting(2.0, "how long after a load the next such worker is begun")
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
    def events(self) -> Path:
        """The file of the supervisor's events."""
        return Path(self.supervise_events or self.home / "supervisor.jsonl").expanduser()

    @property
    def history_file(self) -> Path:
        """What was typed into `run`."""
        return self.home / "history"

    @property
    def converted(self) -> Path:
        """MLX model directories made from GGUF files, one folder per file digest."""
        return self.home / "converted"


_WAITING: Mapping[str, Any] = {
    "max_concurrent": 16,
    "queue": 512,
    "queue_timeout": 0.0,
    "rate_limit": 0,
    "timeout": 0.0,
}
"""As many at once as the engine was measured with; the rest is the reference's (wire-spec 9)."""

PROFILES: Mapping[str, Mapping[str, Any]] = {
    "guarded": {setting.name: setting.default for setting in fields(Settings) if setting.name in _WAITING},
    "ollama": _WAITING,
}
"""What settings are under a profile if nobody has set them."""


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
    file: Path | None = None
    """The TOML file that was read."""
    file_named_by: str = "default"

    @property
    def from_environment(self) -> Sequence[str]:
        """The names of the variables that set something."""
        names = {origin.source for origin in self.origins.values()}
        return sorted(name for name in names if name.startswith((PREFIX, "OLLAMA_")))


def load(flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None) -> Loaded:
    """Merge defaults, the profile, the TOML file, the environment and `flags` (None values count as unset).

    The file is `config` of the flags, or `MLX_API_CONFIG`, or `config.toml` in the home folder if there is one.

    Raises:
        SettingsError: for a value that cannot be used or a file that cannot be read.
    """
    environment = os.environ if environment is None else environment
    flags = {name: value for name, value in (flags or {}).items() if value is not None}
    file, table, named_by = _file(flags, environment)
    origins: dict[str, Origin] = {}
    profile, source = _pick(Settings.__dataclass_fields__["profile"], flags, environment, table, file)
    profile = Settings.profile if source == "default" else str(profile)
    if profile not in PROFILES:
        raise SettingsError(f"{source}: profile {profile!r}: must be one of {', '.join(PROFILES)}")
    for setting in fields(Settings):
        text, source = _pick(setting, flags, environment, table, file)
        if source != "default":
            value = _parse(setting, text, source)
        elif setting.name in PROFILES[profile]:
            value, source = PROFILES[profile][setting.name], f"profile {profile}"
        else:
            value = setting.default
        origins[setting.name] = Origin(_placed(value, source) if isinstance(value, Path) else value, source)
    settings = Settings(**{name: origin.value for name, origin in origins.items()})
    _check(settings, origins)
    return Loaded(settings, origins, _strangers(environment, table, file), file, named_by)


def describe(loaded: Loaded) -> list[tuple[str, str, str, str]]:
    """Rows of (variable, value, default, origin) for people. The last is of the file, which does not name itself."""
    rows = [
        (
            PREFIX + setting.name.upper(),
            _shown(setting, loaded.origins[setting.name].value),
            show(setting.default),
            loaded.origins[setting.name].source,
        )
        for setting in fields(Settings)
    ]
    usual = str(loaded.settings.home / "config.toml")
    return [*rows, (PREFIX + "CONFIG", str(loaded.file or "(none)"), usual, loaded.file_named_by)]


def help_texts() -> dict[str, str]:
    """What each setting means, by its field name."""
    return {setting.name: setting.metadata["help"] for setting in fields(Settings)}


def _shown(setting: Field[Any], value: Any) -> str:
    """A value for people, who may read over each other's shoulders."""
    return f"({len(value)} set)" if setting.metadata["secret"] and value else show(value)


def _file(flags: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[Path | None, dict[str, Any], str]:
    """The file that was read if there is one, what it holds, and who named it."""
    named = flags.get("config") or environment.get(PREFIX + "CONFIG")
    named_by = "default" if not named else "--config" if flags.get("config") else PREFIX + "CONFIG"
    path = _placed(Path(named), named_by) if named else _home(flags, environment) / "config.toml"
    if not named and not path.is_file():
        return None, {}, named_by
    try:
        return path, tomllib.loads(path.read_text()), named_by
    # Not TOML, not UTF-8, or a number with thousands of digits.
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read the configuration {path}: {error}") from error


def _home(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Path:
    """The home folder before the file has its say."""
    home, source = _pick(Settings.__dataclass_fields__["home"], flags, environment, {}, None)
    return _placed(Path(home or Settings.home), source)


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
        return policies(value) if setting.name == "policies" else as_type_of(setting.default, value)
    except (ValueError, OverflowError) as error:
        told = "what it holds" if setting.metadata["secret"] else repr(value)
        raise SettingsError(f"{source}: {told} is no good for {setting.name}: {error}") from error


def _placed(path: Path, source: str) -> Path:
    """The same place from every folder: the store remembers paths below it, and is read from others."""
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise SettingsError(f"{source}: {str(path)!r}: there is no such user") from error


def _check(settings: Settings, origins: Mapping[str, Origin]) -> None:
    def refuse(name: str, reason: str) -> None:
        setting = next(setting for setting in fields(Settings) if setting.name == name)
        value = _shown(setting, origins[name].value)
        raise SettingsError(f"{origins[name].source}: {name} {value!r}: {reason}")

    check(settings, refuse)


def _strangers(environment: Mapping[str, str], table: Mapping[str, Any], file: Path | None) -> list[str]:
    known = {setting.name for setting in fields(Settings)}
    names = (name for name in environment if name.startswith(PREFIX))
    unknown = [name for name in names if name.removeprefix(PREFIX).lower() not in known | {"config"}]
    warnings = [f"unknown setting {name} in the environment" for name in sorted(unknown)]
    return warnings + [f"unknown setting {name} in {file}" for name in table if name not in known]
