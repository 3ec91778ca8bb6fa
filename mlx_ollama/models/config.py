"""The object that Ollama keeps beside a model's layers (wire-spec 6.4)."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_ollama.errors import JobFailed

_ORDER = (
    *("model_format", "model_family", "model_families", "model_type", "file_type"),
    *("renderer", "parser", "requires", "remote_host", "remote_model", "capabilities"),
    *("context_length", "embedding_length", "base_name", "architecture", "os"),
)
"""The reference's order of members; strangers come last."""

_INFO_STRINGS = {
    "model_family": "model_family",
    "base_name": "base_name",
    "quantization_level": "file_type",
    "parameter_size": "model_type",
}
_INFO_NUMBERS = ("context_length", "embedding_length")


def config_of(
    model_format: str, family: str, families: Sequence[str], parameter_size: str, file_type: str
) -> dict[str, Any]:
    """The configuration of a model that is here."""
    return {
        "model_format": model_format,
        "model_family": family,
        "model_families": list(families) or None,
        "model_type": parameter_size,
        "file_type": file_type,
        "architecture": "amd64",
        "os": "linux",
    }


def remote_config(model: str, host: str, info: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a model that lives on another server."""
    families = [info["model_family"]] if info.get("model_family") else []
    known = config_of("", info.get("model_family", ""), families, "", "")
    return {**known, **info, "remote_host": host, "remote_model": model}


def in_order(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same with its members as the reference writes them."""
    known = {key: config[key] for key in _ORDER if key in config}
    return known | {key: value for key, value in config.items() if key not in known}


def checked_info(info: Mapping[str, Any]) -> dict[str, Any]:
    """The `info` of a request as members of a configuration.

    Raises:
        JobFailed: for a member of the wrong kind.
    """
    members: dict[str, Any] = {}
    for key, member in _INFO_STRINGS.items():
        if key in info:
            if not isinstance(info[key], str):
                raise JobFailed(f'info field "{key}" must be a string')
            members[member] = info[key]
    for key in _INFO_NUMBERS:
        if key in info:
            members[key] = _count(key, info[key])
    if "capabilities" in info:
        names = info["capabilities"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise JobFailed('info field "capabilities" must be an array of strings')
        members["capabilities"] = names
    return members


def _count(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise JobFailed(f'info field "{key}" must be a number')
    if value < 0 or value != int(value):
        raise JobFailed(f'info field "{key}" must be a non-negative integer')
    return int(value)
