"""`python -m tests.faults.fuzz -runs=N`: atheris looks for bodies and frames that no decoder was made for."""

import sys

import atheris

with atheris.instrument_imports(include=["mlx_ollama"]):
    from tests.faults.decoding import NAMES, decode, receive


def _try(data: bytes) -> None:
    if not data:
        return
    decoder = data[0] % (len(NAMES) + 1)
    if decoder == len(NAMES):
        receive(data[1:])
    else:
        decode(NAMES[decoder], data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, _try)
    atheris.Fuzz()
