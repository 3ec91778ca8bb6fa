"""A model's tokenizer, with what the reference's engine expects of one: exact bytes, and a BOS exactly once."""

import json
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, NamedTuple

from mlx_ollama.errors import TemplateFailed
from mlx_ollama.thinking import tags_in

_SPIECE_SPACE = "▁"


class MlxCalls(NamedTuple):
    """A format of tool calls that mlx-lm knows: the name of its module there, its tags, and the reader between them."""

    kind: str
    start: str
    end: str
    parse: Callable[[str, Any], Any]


class Tokenizer:
    """Wraps a Hugging Face tokenizer. The threads that prepare prompts and compile grammars use it, too."""

    def __init__(self, hf: Any) -> None:
        self._hf = hf
        self._bytes: dict[int, bytes] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of a whole prompt, special tokens recognised, with the BOS that the model wants, once."""
        ids = self.encode_plain(text)
        if self._leading_bos is not None and ids[:1] != [self._leading_bos]:
            return [self._leading_bos, *ids]
        return ids

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of a piece of text, nothing added."""
        return list(self._hf.encode(text, add_special_tokens=False)) if text else []

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some tokens, special ones included."""
        return b"".join(self.token_bytes(token) for token in ids).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for, which may be a part of a character."""
        if not 0 <= token < self.size:
            return b""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._token_bytes(token)
        return found

    def apply_chat_template(self, turns: list[dict[str, Any]], tools: list[Any], **options: Any) -> str:
        """The prompt by the model's own Jinja chat template; a last assistant message is left open to go on.

        Raises:
            TemplateFailed: with the template's own complaint.
        """
        goes_on = bool(turns) and turns[-1]["role"] == "assistant"
        try:
            rendered = self._hf.apply_chat_template(
                turns,
                tools=tools or None,
                tokenize=False,
                add_generation_prompt=not goes_on,
                continue_final_message=goes_on,
                **options,
            )
        # A chat template is a stranger's program: whatever it raises is about this request only.
        except Exception as error:
            raise TemplateFailed(f"chat template: {error}") from error
        return str(rendered)

    @property
    def has_chat_template(self) -> bool:
        """Also a renderer in Python, which mlx-lm has for a few families."""
        return bool(self._hf.chat_template) or bool(getattr(self._hf, "has_chat_template", False))

    @cached_property
    def chat_template(self) -> str:
        """The Jinja text; of several the one for everything, of none an empty one."""
        template = self._hf.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        return template if isinstance(template, str) else ""

    @cached_property
    def thinking_tags(self) -> tuple[str, str] | None:
        """The tags around the thinking, by mlx-lm's detection where that fits the chat template."""
        start, end = (getattr(self._hf, name, None) for name in ("think_start", "think_end"))
        found = (start, end) if isinstance(start, str) and isinstance(end, str) else None
        if found and found[1] in self.chat_template:
            return found
        return tags_in(self.chat_template) or found

    @cached_property
    def mlx_calls(self) -> MlxCalls | None:
        """How the model writes calls, as mlx-lm finds it."""
        parse = getattr(self._hf, "tool_parser", None)
        if parse is None:
            return None
        kind = str(parse.__module__).rpartition(".")[2]
        named = self._hf.init_kwargs.get("tool_parser_type", kind)
        return MlxCalls(str(named), self._hf.tool_call_start, self._hf.tool_call_end, parse)

    @cached_property
    def structural_markers(self) -> tuple[str, ...]:
        """Tags around a whole answer that mean nothing, as mlx-lm finds them."""
        return tuple(getattr(self._hf, "structural_markers", ()))

    def has_token(self, text: str) -> bool:
        """Whether `text` is a token of its own."""
        return text in self._vocabulary

    @cached_property
    def _vocabulary(self) -> frozenset[str]:
        return frozenset(self._added.values())

    @cached_property
    def size(self) -> int:
        """How many tokens there are; ids are below it."""
        return len(self._hf)

    @cached_property
    def special_tokens(self) -> frozenset[int]:
        """Tokens that structure a conversation and are never text."""
        added = self._hf.added_tokens_decoder.items()
        return frozenset(self._hf.all_special_ids) | {token for token, entry in added if entry.special}

    @cached_property
    def _leading_bos(self) -> int | None:
        bos = self._hf.bos_token_id
        with_specials = self._hf.encode("", add_special_tokens=True)
        return bos if bos is not None and with_specials[:1] == [bos] else None

    @cached_property
    def _added(self) -> dict[int, str]:
        return {token: str(added) for token, added in self._hf.added_tokens_decoder.items()}

    @cached_property
    def _decoders(self) -> frozenset[str]:
        """The kinds of decoder in the tokenizer, which tell how its tokens spell bytes."""
        backend = getattr(self._hf, "backend_tokenizer", None)
        if backend is None or backend.decoder is None:
            return frozenset()
        # As for pickling: the tokenizer's own text has the whole vocabulary in it, and takes a fifth of a second.
        decoder = json.loads(backend.decoder.__getstate__())
        return frozenset(part["type"] for part in [decoder, *decoder.get("decoders", [])] if "type" in part)

    def _token_bytes(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        piece = self._hf.convert_ids_to_tokens(token)
        if piece is None:
            return b""
        if "ByteLevel" in self._decoders:
            return b"".join(_BYTE_OF.get(character, character.encode()) for character in piece)
        if self._decoders & {"ByteFallback", "Metaspace", "Replace"}:
            return _spiece_bytes(piece)
        return str(self._hf.decode([token])).encode()


def _spiece_bytes(piece: str) -> bytes:
    if len(piece) == len("<0x00>") and piece.startswith("<0x") and piece.endswith(">"):
        return bytes.fromhex(piece[3:5])
    return piece.replace(_SPIECE_SPACE, " ").encode()


def _byte_alphabet() -> dict[str, bytes]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other 68 bytes for 256 and up, in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): bytes([byte]) for byte in printable}
    return alphabet | {chr(256 + index): bytes([byte]) for index, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
