"""What a stored model can do, told by its template (wire-spec 10.2)."""

from functools import lru_cache
from pathlib import Path

from mlx_ollama.fim import fill_format
from mlx_ollama.gotemplate import Template, TemplateError, thinking_tags
from mlx_ollama.models.describe import directory_of, embeds
from mlx_ollama.models.directory import jinja_template
from mlx_ollama.models.parsers import PARSERS
from mlx_ollama.models.store import StoredModel
from mlx_ollama.thinking import PAIRS, speaks_harmony, tags_in

_ORDER = ("tools", "insert", "thinking")
_HARMONY_FAMILIES = ("gpt_oss", "gptoss", "gpt-oss")
_TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json", "tokenizer.json")


def capabilities(model: StoredModel) -> tuple[str, ...]:
    """`embedding`, or `completion`, `tools`, `insert`, `thinking` as far as the model has them, in this order.

    A TEMPLATE counts where there is one; without, the chat template in the model's directory does. A PARSER adds what
    it reads. A model that lives elsewhere has what was noted of it.
    """
    if model.remote_host:
        return tuple(model.config.get("capabilities") or ())
    if embeds(model):
        return ("embedding",)
    found = _of_template(model.template) if model.template else _of_directory(model.directory, _stamp(model.directory))
    if parser := PARSERS.get(parser_name(model)):
        found = tuple(name for name in _ORDER if name in (*found, *parser.capabilities))
    if "thinking" not in found and family(model) in _HARMONY_FAMILIES:
        found = (*found, "thinking")
    return ("completion", *found)


def parser_name(model: StoredModel) -> str:
    """The PARSER that the model was created with; empty for none."""
    return str(model.config.get("parser", ""))


def family(model: StoredModel) -> str:
    """The architecture of the weights; empty if they cannot be looked at."""
    directory = directory_of(model)
    return directory.family if directory else ""


def uses_harmony(model: StoredModel) -> bool:
    """Whether the model's messages have channels (wire-spec 10.5)."""
    if parser := PARSERS.get(parser_name(model)):
        return parser.harmony
    return speaks_harmony(model.template or jinja_template(model.directory))


@lru_cache(maxsize=256)
def _of_template(text: str) -> tuple[str, ...]:
    """Nothing if the TEMPLATE does not parse or is too long for that, which its use will tell."""
    try:
        template = Template.parse(text)
    except TemplateError:
        return ()
    named = [name for variable, name in (("tools", "tools"), ("suffix", "insert")) if variable in template.variables]
    thinks = thinking_tags(template) is not None
    return (*named, *(["thinking"] if thinks else []))


@lru_cache(maxsize=256)
def _of_directory(path: Path, stamp: tuple[int, ...]) -> tuple[str, ...]:
    """Remembered for as long as the files that were read stay as they are."""
    template = jinja_template(path)
    tokens = _tokenizer(path)
    named = ["tools"] if "tools" in template or "tool_call" in template else []
    if fill_format(lambda token: f'"{token}"'.encode() in tokens) is not None:
        named.append("insert")
    if tags_in(template) or speaks_harmony(template) or _has_tags_between_them(tokens, template):
        named.append("thinking")
    return tuple(named)


def _stamp(path: Path) -> tuple[int, ...]:
    return tuple(_modified(path / name) for name in _TEMPLATE_FILES)


def _modified(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _tokenizer(path: Path) -> bytes:
    """What tells the tokens: tens of megabytes, so it is read once."""
    try:
        return (path / "tokenizer.json").read_bytes()
    except OSError:
        return b""


def _has_tags_between_them(tokens: bytes, template: str) -> bool:
    """Templates that only cut thoughts off name the closing tag alone; the tokenizer then has both."""
    mentioned = [pair for pair in PAIRS if any(tag in template for tag in pair)]
    return any(all(f'"{tag}"'.encode() in tokens for tag in pair) for pair in mentioned)
