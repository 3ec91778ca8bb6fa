"""What begins with a slash in a conversation: /show, /set, /save and the others."""

import sys
import time
from typing import Any

from mlx_ollama.console.client import NOT_FOUND, NoServer, Refused
from mlx_ollama.console.conversation import Conversation
from mlx_ollama.console.describe import model_text, models_table
from mlx_ollama.console.harmless import harmless
from mlx_ollama.console.lines import LineReader, without_quotes
from mlx_ollama.dialects.gotypes import THINK_LEVELS
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.models.parameters import typed_parameters
from mlx_ollama.options import KINDS, Kind

_HELP = '''Available Commands:
  /set            Change how this session answers
  /show           Look into the model
  /load <model>   Turn to another model or a saved session
  /save <model>   Keep this session as a model
  /list           The models there are
  /clear          Forget what was said
  /bye            Leave
  /?, /help       What a command takes, as in: /? /set

A message over several lines begins and ends with """.
Ctrl + c ends an answer, Ctrl + d leaves.

'''
_SET_HELP = """Available Commands:
  /set parameter <name> <value>  An option of the model: /set parameter lists them
  /set system <text>             What the model is told before everything else
  /set history, nohistory        Keep what is typed for the next time, or do not
  /set wordwrap, nowordwrap      Break lines between words, or leave them as they come
  /set format json, noformat     Answers that are JSON, or anything
  /set verbose, quiet            Times and tokens after each answer, or none
  /set think, nothink            Think first, or do not; /set think high, medium or low

"""
_SHOW_HELP = """Available Commands:
  /show info         What the model is and can do
  /show license      Its license
  /show modelfile    The Modelfile that would make it again
  /show parameters   Its parameters and this session's
  /show system       Its system message, or this session's
  /show template     Its prompt template

"""
_HELP_OF = {"set": _SET_HELP, "show": _SHOW_HELP}
_WORD_OF = {
    Kind.INTEGER: "<int>",
    Kind.FLOAT: "<float>",
    Kind.BOOLEAN: "<true|false>",
    Kind.STRINGS: "<text> <text> ...",
}
_MISSING = {
    "license": "No license was specified for this model.",
    "system": "No system message was specified for this model.",
    "template": "No prompt template was specified for this model.",
}


class SlashCommands:
    """Runs the commands of a conversation. `run` is told the line and says whether to go on."""

    def __init__(self, conversation: Conversation, reader: LineReader) -> None:
        self._conversation = conversation
        self._manner = conversation.manner
        self._reader = reader

    def run(self, line: str) -> bool:
        """Carry out a line that begins with a slash; False where it ends the conversation."""
        command, _, rest = line.strip().removeprefix("/").partition(" ")
        if command in ("bye", "exit"):
            return False
        known = {
            "set": self._set,
            "show": self._show,
            "load": self._load,
            "save": self._save,
            "list": self._list,
            "clear": self._clear,
            "help": self._help,
            "?": self._help,
        }
        if command not in known:
            _say(f"Unknown command '/{command}'. Type /? for help")
            return True
        try:
            known[command](rest.strip())
        except (NoServer, Refused) as error:
            _say(f"error: {error}")
        return True

    def _help(self, rest: str) -> None:
        sys.stdout.write(_HELP_OF.get(rest.removeprefix("/"), _HELP))

    def _list(self, rest: str) -> None:
        models = self._conversation.client.get("/api/tags").get("models", [])
        _write(models_table(models, rest, time.time()))

    def _clear(self, rest: str) -> None:
        self._conversation.messages.clear()
        _say("Cleared session context")

    def _load(self, name: str) -> None:
        if not name:
            _say("Usage:\n  /load <modelname>")
            return
        _say(f"Loading model '{name}'")
        try:
            self._conversation.load(name)
        except Refused as error:
            _say(f"Couldn't find model '{name}'" if error.status == NOT_FOUND else f"Couldn't load model: {error}")

    def _save(self, name: str) -> None:
        if not name:
            _say("Usage:\n  /save <modelname>")
            return
        try:
            self._conversation.save(name)
        except Refused as error:
            _say(f"Couldn't save model: {error}")
        else:
            _say(f"Created new model '{name}'")

    def _show(self, what: str) -> None:
        if not what:
            sys.stdout.write(_SHOW_HELP)
            return
        shown = self._conversation.show()
        if what == "info":
            _write(model_text(shown, verbose=False))
        elif what == "modelfile":
            _say(str(shown.get("modelfile", "")))
        elif what == "parameters":
            self._show_parameters(shown.get("parameters", ""))
        elif what in _MISSING:
            _say(f"{shown[what]}\n" if shown.get(what) else _MISSING[what])
        else:
            _say(f"Unknown command '/show {what}'. Type /? for help")

    def _show_parameters(self, defined: str) -> None:
        none = "No additional parameters were specified for this model."
        _say("Model defined parameters:\n" + "".join(f"  {line}\n" for line in (defined or none).splitlines()))
        if self._manner.options:
            rows = (f"  {name:<30} {_plain(value)}\n" for name, value in self._manner.options.items())
            _say("User defined parameters:\n" + "".join(rows))

    def _set(self, rest: str) -> None:
        what, _, value = rest.partition(" ")
        value = value.strip()
        switches: dict[str, tuple[str, Any]] = {
            "wordwrap": ("wordwrap", True),
            "nowordwrap": ("wordwrap", False),
            "verbose": ("verbose", True),
            "quiet": ("verbose", False),
            "nothink": ("think", False),
        }
        if what in switches:
            setattr(self._manner, *switches[what])
            _say(f"Set '{what}' mode.")
        elif what in ("history", "nohistory"):
            self._reader.keep(wanted=what == "history")
        elif what == "think":
            self._set_think(value)
        elif what in ("format", "noformat"):
            self._set_format(what, value)
        elif what == "system" and value:
            self._manner.system = without_quotes(value)
            _say("Set system message.")
        elif what == "parameter":
            self._set_parameter(value)
        elif what in ("", "system"):
            sys.stdout.write(_SET_HELP)
        else:
            _say(f"Unknown command '/set {what}'. Type /? for help")

    def _set_think(self, level: str) -> None:
        if level and level not in THINK_LEVELS:
            _say(f"Unknown level '{level}', there are {', '.join(THINK_LEVELS)}")
            return
        self._manner.think = level or True
        _say(f"Set 'think' mode to '{level}'." if level else "Set 'think' mode.")

    def _set_format(self, what: str, value: str) -> None:
        if what == "noformat":
            self._manner.format = None
            _say("Disabled format.")
        elif value == "json":
            self._manner.format = "json"
            _say("Set format to 'json' mode.")
        else:
            _say("Invalid or missing format. For 'json' mode use '/set format json'")

    def _set_parameter(self, rest: str) -> None:
        name, *values = rest.split() or [""]
        if not values:
            rows = "".join(f"  /set parameter {name} {_WORD_OF[kind]}\n" for name, kind in KINDS.items())
            _say(f"Available Parameters:\n{rows}")
            return
        try:
            found = typed_parameters(((name, value) for value in values), lambda warning: _say(f"warning: {warning}"))
        except InvalidRequest as error:
            _say(f'Couldn\'t set parameter: "{error}"')
            return
        self._manner.options |= found
        if found:
            _say(f"Set parameter '{name}' to '{', '.join(values)}'")


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"[{' '.join(value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _say(text: str) -> None:
    _write(f"{text}\n")


def _write(text: str) -> None:
    sys.stdout.write(harmless(text, sys.stdout))
