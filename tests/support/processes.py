"""The processes that a server has begun."""

import psutil


def children(parent: psutil.Process, word: str) -> list[psutil.Process]:
    """Those who live and have a word in their command.

    Not children's children: a worker has its compiler run, which has the worker's command before it has its own.
    """
    return [child for child in parent.children() if _has(child, word)]


def _has(process: psutil.Process, word: str) -> bool:
    try:
        return word in process.cmdline()
    except psutil.Error:  # it has just ended
        return False
