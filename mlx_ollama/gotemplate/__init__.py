"""Go's `text/template` as models' TEMPLATEs use it (wire-spec 12.2): parse, render, and what a template tells."""

from mlx_ollama.gotemplate.errors import TemplateError
from mlx_ollama.gotemplate.messages import Message, ToolCall
from mlx_ollama.gotemplate.prompt import render_fill, render_messages
from mlx_ollama.gotemplate.template import Template
from mlx_ollama.gotemplate.thinking import thinking_tags

__all__ = ["Message", "Template", "TemplateError", "ToolCall", "render_fill", "render_messages", "thinking_tags"]
