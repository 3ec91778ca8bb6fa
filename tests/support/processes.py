"""The processes that a server has begun."""

import psutil


def children(parent: psutil.Process, word: str) -> list[psutil.Process]:
    """Those who live and have a word in their command, of whatever generation."""
    return [child for child in parent.children(recursive=True) if _has(child, word)]


def _has(process: psutil.Process, word: str) -> bool:
    try:
        return word in process.cmdline()
    except psutil.Error:  # it has just ended
        return False
