"""Which parser reads the answer to a prompt."""

from mlx_ollama.protocol import Prompt
from mlx_ollama.worker.parse.parser import Parser, PlainText
from mlx_ollama.worker.tokenizer import Tokenizer


def make_parser(prompt: Prompt, tokenizer: Tokenizer, rendered: str) -> Parser:
    """A fresh parser for one answer; `rendered` is the prompt as the model reads it, which may open the thinking."""
    return PlainText()
