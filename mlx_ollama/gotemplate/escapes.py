"""The escaping functions `html`, `js` and `urlquery`."""

import unicodedata
from urllib.parse import quote_plus

from mlx_ollama.gotemplate.gostring import to_bytes

_HTML = str.maketrans({"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"})
_JAVASCRIPT = {
    "\\": "\\\\",
    "'": "\\'",
    '"': '\\"',
    "<": "\\u003C",
    ">": "\\u003E",
    "&": "\\u0026",
    "=": "\\u003D",
}


def escape_html(text: str) -> str:
    return text.translate(_HTML)


def escape_javascript(text: str) -> str:
    return "".join(_JAVASCRIPT.get(character) or _escape_control(character) for character in text)


def escape_query(text: str) -> str:
    return quote_plus(to_bytes(text), safe="")


def _escape_control(character: str) -> str:
    if character.isascii():
        return character if character >= " " else f"\\u{ord(character):04X}"
    is_byte = unicodedata.category(character) == "Cs"
    return character if is_byte or character.isprintable() else f"\\u{ord(character):04X}"
