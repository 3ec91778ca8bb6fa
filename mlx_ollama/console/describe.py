"""Models as `list`, `ps` and `show` print them. Members are those of Ollama's answers (wire-spec 5.3 to 5.5)."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from mlx_ollama import gojson
from mlx_ollama.console.human import moment, size
from mlx_ollama.console.table import indented, table

ID_LENGTH = 12
_LONGEST_COLUMN = 100
_LINES_OF_TEXT = 2
_MOST_ELEMENTS = 3


def models_table(models: Iterable[Mapping[str, Any]], prefix: str, now: float) -> str:
    """The models of the store whose names begin with `prefix`, in any case."""
    rows = [
        (model["name"], model["digest"][:ID_LENGTH], size(model["size"]), moment(_seconds(model["modified_at"]), now))
        for model in _chosen(models, prefix)
    ]
    return table(("NAME", "ID", "SIZE", "MODIFIED"), rows)


def loaded_table(models: Iterable[Mapping[str, Any]], prefix: str, now: float) -> str:
    """The models in memory whose names begin with `prefix`, in any case."""
    rows = [
        (
            model["name"],
            model["digest"][:ID_LENGTH],
            size(model["size"]),
            _processor(model["size"], model["size_vram"]),
            str(model["context_length"]),
            _until(_seconds(model["expires_at"]), now),
        )
        for model in _chosen(models, prefix)
    ]
    return table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), rows)


def model_text(shown: Mapping[str, Any], *, verbose: bool) -> str:
    """Everything that `show` tells of a model at once; with metadata and tensors where `verbose`."""
    sections: list[tuple[str, Sequence[Sequence[str]]]] = [
        ("Model", _facts(shown)),
        ("Capabilities", [(name,) for name in shown.get("capabilities", ())]),
        ("Parameters", [_parameter(line) for line in shown.get("parameters", "").splitlines()]),
    ]
    if verbose:
        info = shown.get("model_info", {})
        sections.append(("Metadata", [(key, _metadata(value)) for key, value in sorted(info.items())]))
        sections.append(("Tensors", [_tensor(tensor) for tensor in shown.get("tensors", ())]))
    sections += [(title, _beginning(shown.get(title.lower(), ""))) for title in ("System", "License")]
    return "".join(f"  {title}\n{indented(table((), rows), '    ')}\n" for title, rows in sections if rows)


def _facts(shown: Mapping[str, Any]) -> list[tuple[str, str]]:
    details, info = shown.get("details", {}), shown.get("model_info", {})
    family = info.get("general.architecture") or details.get("family", "")
    rows = (
        ("architecture", family),
        ("parameters", details.get("parameter_size", "")),
        ("context length", info.get(f"{family}.context_length", "")),
        ("embedding length", info.get(f"{family}.embedding_length", "")),
        ("quantization", details.get("quantization_level", "")),
        ("requires", shown.get("requires", "")),
    )
    return [(name, str(value)) for name, value in rows if value]


def _parameter(line: str) -> tuple[str, str]:
    key, _, value = line.partition(" ")
    return key, value.strip()


def _metadata(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Sequence) and not isinstance(value, str):
        first = ", ".join(_metadata(element) for element in value[:_MOST_ELEMENTS])
        more = f", … {len(value)} in all" if len(value) > _MOST_ELEMENTS else ""
        return f"[{first}{more}]"
    text = value if isinstance(value, str) else gojson.dumps(value).decode()
    return text if len(text) <= _LONGEST_COLUMN else f"{text[:_LONGEST_COLUMN]}…"


def _tensor(tensor: Mapping[str, Any]) -> tuple[str, str, str]:
    return tensor["name"], tensor["type"], f"[{' '.join(map(str, tensor['shape']))}]"


def _beginning(text: str) -> list[tuple[str]]:
    """The first lines of a text that are not empty, broken where they are too long."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    rows = [(piece,) for line in lines[:_LINES_OF_TEXT] for piece in _broken(line)]
    return [*rows, ("...",)] if len(lines) > _LINES_OF_TEXT else rows


def _broken(line: str) -> list[str]:
    return textwrap.wrap(line, _LONGEST_COLUMN, subsequent_indent="  ")


def _chosen(models: Iterable[Mapping[str, Any]], prefix: str) -> Iterable[Mapping[str, Any]]:
    return (model for model in models if model["name"].lower().startswith(prefix.lower()))


def _processor(whole: int, on_gpu: int) -> str:
    if on_gpu <= 0:
        return "100% CPU"
    if on_gpu >= whole:
        return "100% GPU"
    on_cpu = round(100 * (whole - on_gpu) / whole)
    return f"{on_cpu}%/{100 - on_cpu}% CPU/GPU"


def _until(expires: float, now: float) -> str:
    return moment(expires, now) if expires > now else "Stopping..."


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()
