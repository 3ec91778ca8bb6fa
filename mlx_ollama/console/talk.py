"""The loop of a conversation: read, answer, and again, until somebody leaves."""

import sys

from mlx_ollama.console.client import NoServer, Refused
from mlx_ollama.console.conversation import Conversation
from mlx_ollama.console.harmless import harmless
from mlx_ollama.console.lines import Interrupted, LineReader, without_quotes
from mlx_ollama.console.slash import SlashCommands


def talk(conversation: Conversation, reader: LineReader) -> None:
    """Talk until Ctrl-D or /bye. Ctrl-C ends an answer, never the conversation."""
    commands = SlashCommands(conversation, reader)
    sys.stdout.write("Send a message (/? for help)\n")
    while True:
        try:
            text = reader.read()
        except Interrupted:
            sys.stdout.write("\nUse Ctrl + d or /bye to exit.\n")
        except EOFError:
            sys.stdout.write("\n")
            return
        else:
            if text.startswith("/"):
                if not commands.run(text):
                    return
            elif text.strip():
                _answer(conversation, without_quotes(text))


def _answer(conversation: Conversation, text: str) -> None:
    try:
        conversation.ask(text)
    except (NoServer, Refused) as error:
        sys.stderr.write(f"Error: {harmless(str(error), sys.stderr)}\n")
