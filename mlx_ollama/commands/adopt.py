"""`mlx-ollama ollama-models` and `mlx-ollama adopt`: what Ollama and the tools of the hub have fetched already."""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlx_ollama.commands.common import Commands, complain
from mlx_ollama.console.human import moment, size
from mlx_ollama.console.progress import Progress
from mlx_ollama.console.table import table
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.library import places
from mlx_ollama.models.directory import NotAModel
from mlx_ollama.models.elsewhere import Elsewhere
from mlx_ollama.models.making import MakingFailed, make
from mlx_ollama.models.names import Reference
from mlx_ollama.models.store import Store, StoredModel, StoreError
from mlx_ollama.settings import Loaded

_NS = 1_000_000_000


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    where = "an Ollama store; OLLAMA_MODELS or ~/.ollama/models unless given"
    listing = commands.add_parser(
        "ollama-models", parents=[common], help="list models that Ollama or the hub's tools have here"
    )
    listing.add_argument("path", metavar="PATH", nargs="?", type=Path, help=where)
    listing.set_defaults(run=_list)

    adopt = commands.add_parser("adopt", parents=[common], help="use such models here, without another download")
    adopt.add_argument("models", metavar="NAME", nargs="*")
    adopt.add_argument("--all", action="store_true", help="all whose names are not taken here")
    adopt.add_argument("--path", metavar="PATH", type=Path, help=where)
    adopt.set_defaults(run=_adopt, more="models")


def _list(arguments: argparse.Namespace, loaded: Loaded) -> int:
    store = Store(loaded.settings.models, loaded.settings.converted)
    rows = [
        (
            model.name.display,
            size(model.size),
            moment(model.modified / _NS, time.time()),
            place.owner,
            "yes" if store.stored_name(model.name) else "no",
        )
        for place in places(loaded.settings, arguments.path)
        for model in place.models()
    ]
    sys.stdout.write(table(("NAME", "SIZE", "MODIFIED", "OWNER", "ADOPTED"), rows))
    return 0


def _adopt(arguments: argparse.Namespace, loaded: Loaded) -> int:
    if arguments.all == bool(arguments.models):
        raise InvalidRequest("name the models to adopt, or say --all")
    store = Store(loaded.settings.models, loaded.settings.converted)
    found = places(loaded.settings, arguments.path)
    status = 0
    for place, model in _all(found, store) if arguments.all else _named(found, arguments.models):
        try:
            _enter(place, model, store)
        except (MakingFailed, StoreError, NotAModel, OSError) as error:
            status = complain(f"{model.name.display} cannot be adopted: {error}")
        else:
            print(f"adopted '{model.name.display}'")
    return status


def _all(found: Sequence[Elsewhere], store: Store) -> Iterator[tuple[Elsewhere, StoredModel]]:
    for place in found:
        yield from ((place, model) for model in place.models() if store.stored_name(model.name) is None)


def _named(found: Sequence[Elsewhere], names: Sequence[str]) -> Iterator[tuple[Elsewhere, StoredModel]]:
    """Each by its name; nothing is done before all of them are found."""
    chosen = []
    for text in names:
        name = Reference.parse(text).name
        pairs = ((place, model) for place in found if (model := place.find(name)))
        pair = next(pairs, None)
        if pair is None:
            raise InvalidRequest(f"{text} is neither in Ollama's store nor in the hub's cache; see `ollama-models`")
        chosen.append(pair)
    yield from chosen


def _enter(place: Elsewhere, model: StoredModel, store: Store) -> None:
    """What must be converted is converted first: a model that cannot be used is not entered."""
    with Progress(sys.stderr) as progress:
        for told in make(model.weights):
            progress.tell(f"{told.status} {model.name.display}", told.completed, told.total)
    place.adopt(model, store)
