"""Lines of an answer that comes in pieces, as the wire has them: only a line feed ends one."""


class Lines:
    """Cuts bytes into lines. httpx' own ends them at U+0085, too, which JSON may hold as it is."""

    def __init__(self) -> None:
        self._rest = b""

    def of(self, piece: bytes) -> list[bytes]:
        """The lines that are whole with this piece, without those that have nothing in them."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [line for line in lines if line.strip()]

    def last(self) -> list[bytes]:
        """What came behind the last line end, if anything did."""
        return self.of(b"\n")
