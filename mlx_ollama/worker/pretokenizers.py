"""How byte-level BPE vocabularies cut text into words: one table, keyed by the GGUF value `tokenizer.ggml.pre`.

The expressions belong to the published tokenizers; the names are llama.cpp's for them. Several expressions are applied
one after the other, each to the pieces that the ones before it left.
"""

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_DIGIT = r"\p{N}"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_AFTER_DIGITS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CL100K = f"{_CONTRACTION}|{_LEAD}\\p{{L}}+|{_DIGIT}{{1,3}}{_AFTER_DIGITS}"
_QWEN2 = f"{_CONTRACTION}|{_LEAD}\\p{{L}}+|{_DIGIT}{_AFTER_DIGITS}"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SLASHED = _AFTER_DIGITS.replace(r"[\r\n]*", r"[\r\n/]*")
_TEKKEN = f"{_LEAD}{_UPPER}*{_LOWER}+|{_LEAD}{_UPPER}+{_LOWER}*|{_DIGIT}{_SLASHED}"
_GPT4O = f"{_LEAD}{_UPPER}*{_LOWER}+{_CONTRACTION}?|{_LEAD}{_UPPER}+{_LOWER}*{_CONTRACTION}?|{_DIGIT}{{1,3}}{_SLASHED}"
_SEED_CODER = f"{_CONTRACTION}|{_LEAD}\\p{{L}}+|{_DIGIT}" + r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
_DEEPSEEK_V3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"


@dataclass(frozen=True)
class PreTokenizer:
    """How to cut, and two habits that llama.cpp ties to the name.

    `whole_words`: a word that is a token is taken as it is, without merging. `bos`: added unless the file says no.
    """

    expressions: tuple[str, ...]
    whole_words: bool = False
    bos: bool = False

    def build(self) -> pre_tokenizers.PreTokenizer:
        splits = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in self.expressions]
        return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_gpt2 = PreTokenizer((_GPT2,))
_digits = PreTokenizer((_DIGIT, _GPT2))
_llama3 = PreTokenizer((_CL100K,), whole_words=True, bos=True)
_cl100k = PreTokenizer((_CL100K,))
_qwen2 = PreTokenizer((_QWEN2,))
_gpt4o = PreTokenizer((_GPT4O,))

PRE_TOKENIZERS = {
    "default": _gpt2,
    "gpt-2": _gpt2,
    "phi-2": _gpt2,
    "olmo": _gpt2,
    "mpt": _gpt2,
    "jais": _gpt2,
    "gigachat": _gpt2,
    "trillion": _gpt2,
    "smollm": _digits,
    "starcoder": _digits,
    "refact": _digits,
    "command-r": _digits,
    "codeshell": _digits,
    "minerva-7b": _digits,
    "llama3": _llama3,
    "llama-v3": _llama3,
    "llama-bpe": _llama3,
    "falcon3": _llama3,
    "pixtral": _llama3,
    "smaug-bpe": _cl100k,
    "dbrx": _cl100k,
    "qwen2": _qwen2,
    "deepseek-r1-qwen": _qwen2,
    "megrez": _qwen2,
    "stablelm2": _qwen2,
    "kormo": _qwen2,
    "gpt-4o": _gpt4o,
    "llama4": _gpt4o,
    "seed-coder": PreTokenizer((_SEED_CODER,)),
    "tekken": PreTokenizer((_TEKKEN,), whole_words=True, bos=True),
    "deepseek-llm": PreTokenizer(
        (
            r"[\r\n]",
            r"\s?[\p{Lu}\p{Ll}\p{Lt}]+",
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+$",
            _CJK,
            r"\p{N}+",
        )
    ),
    "deepseek-v3": PreTokenizer((r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u30ff]+", _DEEPSEEK_V3)),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, _DIGIT)),
}
