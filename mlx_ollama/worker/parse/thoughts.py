"""What a model thinks, apart from what it answers (wire-spec 10.1)."""

from enum import Enum, auto

from mlx_ollama.worker.parse.tags import TagSearch, leading


class _Place(Enum):
    FRONT = auto()  # the opening tag may come
    OPENED = auto()  # it has come; white space, or the tag once more, may follow
    THINKING = auto()
    CLOSED = auto()  # white space may follow
    ANSWER = auto()


class Thoughts:
    """Cuts thinking between two tags off the front of an answer; without the opening tag there is none.

    `opened`: the prompt ends with the opening tag. White space in front of that tag and behind both tags is dropped;
    with `trims` that in front of the closing tag, too.
    """

    def __init__(self, opening: str, closing: str, *, opened: bool, trims: bool) -> None:
        self._opening = opening
        self._search = TagSearch((closing,), trims=trims)
        self._place = _Place.OPENED if opened else _Place.FRONT
        self._held = ""

    def add(self, text: str) -> tuple[str, str]:
        """What is certain to be thinking, and what to be answer."""
        self._held += text
        while self._place in (_Place.FRONT, _Place.OPENED):
            if not self._enter():
                return "", ""
        thinking = self._think() if self._place is _Place.THINKING else ""
        if self._place is _Place.CLOSED:
            self._held = self._held.lstrip()
            if self._held:
                self._place = _Place.ANSWER
        return thinking, self._take() if self._place is _Place.ANSWER else ""

    def flush(self) -> tuple[str, str]:
        """The rest of both."""
        rest = self._take() + self._search.flush()
        if self._place is _Place.OPENED:
            return rest.lstrip(), ""
        return (rest, "") if self._place is _Place.THINKING else ("", rest)

    def _enter(self) -> bool:
        """Pass an opening tag, or what stands where one could; False if that cannot be told yet."""
        bare = self._held.lstrip()
        tag = leading(bare, (self._opening,))
        if tag is None and self._place is _Place.FRONT:
            self._place = _Place.ANSWER
        elif tag is None:
            self._place, self._held = _Place.THINKING, bare
        elif tag:
            self._place, self._held = _Place.OPENED, bare.removeprefix(tag)
        return tag != ""

    def _think(self) -> str:
        found = self._search.add(self._take())
        if found.tag:
            self._place, self._held = _Place.CLOSED, found.rest
        return found.before

    def _take(self) -> str:
        held, self._held = self._held, ""
        return held
