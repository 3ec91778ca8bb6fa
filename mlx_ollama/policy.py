"""A policy of the user's own, as the settings or a program name it; `policies/plugins.py` makes it."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Policy:
    """A policy of the user's own.

    `use` is what makes it, given the application inside it and the options: `package.module:Class`, or the class itself
    where it comes from a program. `before` or `after` name the policy that it is to stand next to.
    """

    use: str | Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        return self.use if isinstance(self.use, str) else getattr(self.use, "__name__", repr(self.use))


def look_in(folder: Path) -> None:
    """Let modules of this folder be found, after all others."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def policies(value: Any) -> tuple[Policy, ...]:
    """What the TOML file has: tables with `use`, perhaps `before` or `after`, and options; or names alone.

    Raises:
        ValueError: for anything else, with its place in the list.
    """
    entries = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(entries, list):
        raise ValueError("not a list of tables: write [[policies]]")  # noqa: TRY004 - one error for every bad value
    return tuple(_policy(entry, f"policies[{at}]") for at, entry in enumerate(entries))


def _policy(entry: Any, place: str) -> Policy:
    table = {"use": entry} if isinstance(entry, str) else entry
    if not isinstance(table, dict) or not isinstance(table.get("use"), str):
        raise ValueError(f'{place}: a policy needs use = "package.module:Class"')  # noqa: TRY004 - as above
    named = {key: table.get(key, "") for key in ("use", "before", "after")}
    for key, name in named.items():
        if not isinstance(name, str):
            raise ValueError(f"{place}: {key} = {name!r} is not a name")  # noqa: TRY004 - as above
    return Policy(**named, options={key: option for key, option in table.items() if key not in named})
