"""What others have written, on its way to the screen: models, their files, registries and servers."""

import re
from typing import TextIO

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def harmless(text: str, stream: TextIO) -> str:
    """On a terminal without control characters: what others write must not move cursors or set titles.

    Elsewhere as it is: a file is to get what there is.
    """
    return _CONTROL.sub("", text) if stream.isatty() else text
