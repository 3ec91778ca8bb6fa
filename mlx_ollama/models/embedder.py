"""What makes a model directory an embedder, and how it wants its token vectors made into one.

The files are those of sentence-transformers: `modules.json` lists the steps after the model, `1_Pooling/config.json`
says how to pool, `sentence_bert_config.json` how long a text may be. None of them need be there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "nomic_bert")
"""Model types that read in both directions and are nothing but embedders here."""

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""In the order in which several of them are joined."""

_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_GGUF_POOLINGS = {1: "mean", 2: "cls", 3: "lasttoken"}
_STEPS = ("Transformer", "Pooling", "Dense", "Normalize")
_USUAL_POOLING_FOLDER = "1_Pooling"


@dataclass(frozen=True)
class Embedder:
    """How a directory's model embeds.

    `guessed` means that no file names the poolings. `projections` are folders of linear layers that follow, in order.
    `longest` is the most tokens of a text, with those that the tokenizer puts around it, 0 where no file says;
    `unknown` are steps that we do not have.
    """

    encoder: bool
    poolings: tuple[str, ...]
    guessed: bool
    projections: tuple[Path, ...]
    longest: int
    lower_case: bool
    unknown: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, config: Mapping[str, Any], gguf: Mapping[str, Any] | None) -> "Embedder | None":
        """The embedder in a directory; None if its model is there to generate text.

        `gguf` is the header of the GGUF file that the directory was made of.
        """
        encoder = config.get("model_type") in ENCODERS
        steps = list(_steps(path))
        folders = [path / folder for kind, folder in steps if kind == "Pooling"] or [path / _USUAL_POOLING_FOLDER]
        has_pooling = any(kind == "Pooling" for kind, _ in steps) or folders[0].is_dir()
        named = _named_poolings(_object(folders[0] / "config.json")) or _gguf_poolings(gguf)
        if not (encoder or has_pooling or named or _is_headless(config)):
            return None
        limits = _limits(path)
        return cls(
            encoder=encoder,
            poolings=named or (("mean",) if encoder else ("lasttoken",)),
            guessed=not named,
            projections=tuple(path / folder for kind, folder in steps if kind == "Dense"),
            longest=_positive(limits.get("max_seq_length")),
            lower_case=limits.get("do_lower_case") is True,
            unknown=tuple(kind for kind, _ in steps if kind not in _STEPS),
        )


def _steps(path: Path) -> Iterator[tuple[str, str]]:
    """The kind and folder of each entry of modules.json; a kind is the last part of a Python name."""
    listed = _json(path / "modules.json")
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, Mapping):
            yield str(entry.get("type", "")).rpartition(".")[2], str(entry.get("path", ""))


def _named_poolings(config: Mapping[str, Any]) -> tuple[str, ...]:
    wanted = {name for flag, name in _FLAGS.items() if config.get(flag) is True}
    mode = config.get("pooling_mode")
    wanted |= {str(name) for name in (mode if isinstance(mode, list) else [mode])}
    return tuple(name for name in POOLINGS if name in wanted)


def _gguf_poolings(gguf: Mapping[str, Any] | None) -> tuple[str, ...]:
    metadata = gguf.get("metadata", {}) if gguf else {}
    pooling = metadata.get(f"{metadata.get('general.architecture')}.pooling_type")
    return (_GGUF_POOLINGS[pooling],) if pooling in _GGUF_POOLINGS else ()


def _is_headless(config: Mapping[str, Any]) -> bool:
    """Whether the model was saved without its head (`Qwen2Model`, not `Qwen2ForCausalLM`), so that it only embeds."""
    names = config.get("architectures")
    return isinstance(names, list) and any(
        isinstance(name, str) and name.endswith("Model") and not name.endswith(("LMHeadModel", "HeadsModel"))
        for name in names
    )


def _limits(path: Path) -> Mapping[str, Any]:
    return next((_object(file) for file in sorted(path.glob("sentence_*_config.json"))), {})


def _positive(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _object(path: Path) -> Mapping[str, Any]:
    value = _json(path)
    return value if isinstance(value, Mapping) else {}


def _json(path: Path) -> Any:
    """A file's content; None where it is missing or broken, as if nothing were said."""
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
