import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from mlx_ollama.models import store as store_module
from mlx_ollama.models.files import partial_directory
from mlx_ollama.models.manifest import (
    _OLLAMA_TYPE,
    DIRECTORY_TYPE,
    LICENSE_TYPE,
    SYSTEM_TYPE,
    TEMPLATE_TYPE,
    Manifest,
    to_file,
)
from mlx_ollama.models.names import ModelName
from mlx_ollama.models.store import Content, Recipe, Store, StoreError
from mlx_ollama.types import Message


def _recipe(template: str = "", system: str = "", licenses: Sequence[str] = (), **json: object) -> Recipe:
    """A model whose weights lie elsewhere; `json` are layers that are written as JSON."""
    parts = [Content(DIRECTORY_TYPE, to_file({"path": "/models/x", "size": 1000}))]
    parts += [Content(TEMPLATE_TYPE, template.encode())] if template else []
    parts += [Content(SYSTEM_TYPE, system.encode())] if system else []
    parts += [Content(LICENSE_TYPE, text.encode()) for text in licenses]
    parts += [Content(_OLLAMA_TYPE + name, to_file(value)) for name, value in json.items()]
    return Recipe({"model_format": "gguf"}, parts)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def test_what_goes_in_comes_out(store: Store) -> None:
    recipe = _recipe(
        template="{{ .Prompt }}",
        system="Be brief.",
        licenses=["L1", "L2"],
        params={"stop": ["a", "b"], "temperature": 0},
        messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
    )
    written = store.write(ModelName.parse("ns/m:v1"), recipe).model
    found = Store(store._root).find(ModelName.parse("ns/m:v1"))
    assert found == written
    assert found is not None
    assert (found.template, found.system, found.licenses) == ("{{ .Prompt }}", "Be brief.", ("L1", "L2"))
    assert found.parameters == {"stop": ["a", "b"], "temperature": 0}
    assert found.messages == (Message("user", "hi"), Message("assistant", "hello"))
    assert found.directory == Path("/models/x")
    assert found.size > 1000
    assert len(found.digest) == 64


def test_the_layout_is_ollamas(store: Store) -> None:
    store.write(ModelName.parse("m"), _recipe(template="t"))
    manifest = orjson.loads((store._root / "manifests/registry.ollama.ai/library/m/latest").read_bytes())
    assert manifest["schemaVersion"] == 2
    for layer in [manifest["config"], *manifest["layers"]]:
        blob = store._root / "blobs" / layer["digest"].replace(":", "-")
        assert blob.stat().st_size == layer["size"]


def test_names_match_in_any_case_and_keep_their_spelling(store: Store) -> None:
    store.write(ModelName.parse("Full:V1"), _recipe())
    found = store.find(ModelName.parse("FULL:v1"))
    assert found is not None
    assert found.name.display == "Full:V1"
    store.write(ModelName.parse("full:v1"), _recipe(system="new"))
    assert [model.name.display for model in store.models()] == ["Full:V1"]
    assert store.find(ModelName.parse("nope")) is None


def test_newest_first_and_broken_ones_passed_over(store: Store) -> None:
    for age, name in enumerate(("a", "b", "c")):
        store.write(ModelName.parse(name), _recipe())
        os.utime(store.manifest_path(ModelName.parse(name)), (1_000_000 - age * 100, 1_000_000 - age * 100))
    store.manifest_path(ModelName.parse("b")).write_bytes(b"{")
    (store._root / "manifests" / ".DS_Store").write_bytes(b"")
    assert [model.name.display for model in store.models()] == ["a:latest", "c:latest"]
    with pytest.raises(StoreError, match="cannot read b:latest"):
        store.find(ModelName.parse("b"))


def test_a_replaced_model_is_seen_at_once(store: Store) -> None:
    name = ModelName.parse("m")
    store.write(name, _recipe(system="one"))
    other = Store(store._root)
    assert [model.system for model in (other.find(name),) if model] == ["one"]
    store.write(name, _recipe(system="two"))
    assert [model.system for model in (other.find(name),) if model] == ["two"]


def _write_many(root: Path, system: str) -> None:
    store = Store(root)
    for _ in range(50):
        store.write(ModelName.parse("m"), _recipe(system=system))


def test_two_writers_leave_one_whole_model(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(tmp_path, text)) for text in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = Store(tmp_path).find(ModelName.parse("m"))
    assert found is not None
    assert found.system in ("one", "two")
    assert [path.name for path in tmp_path.rglob(".*")] == [".lock"]


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write m:latest"):
        Store(tmp_path / "models").write(ModelName.parse("m"), _recipe())


def test_a_folder_that_only_seems_to_be_ours_is_not_removed(store: Store) -> None:
    (store.converted / "sha256-other").mkdir(parents=True)
    name, path = ModelName.parse("m"), to_file({"path": f"{store.converted}/..", "size": 1})
    store.write(name, Recipe({"model_format": "gguf"}, [Content(DIRECTORY_TYPE, path)]))
    store.delete(name)
    assert (store.converted / "sha256-other").is_dir()


def test_a_folder_of_ours_is_removed_however_it_is_spelled(store: Store) -> None:
    """With a home by way of a link, or of `..`; and not before the last model that uses it has gone."""
    (made := store.converted / "sha256-made").mkdir(parents=True)
    (store.converted.parent / "link").symlink_to(store.converted)
    for name, spelled in (("m", "models/../converted"), ("n", "link")):
        path = to_file({"path": f"{store.converted.parent}/{spelled}/sha256-made", "size": 1})
        store.write(ModelName.parse(name), Recipe({"model_format": "gguf"}, [Content(DIRECTORY_TYPE, path)]))
    store.delete(ModelName.parse("m"))
    assert made.is_dir()
    store.delete(ModelName.parse("n"))
    assert not made.exists()


def test_a_folder_of_this_machine_cannot_be_adopted(store: Store) -> None:
    written = store.write(ModelName.parse("m"), _recipe()).model
    manifest = Manifest.parse(store.manifest_path(written.name).read_bytes())
    with pytest.raises(StoreError, match="refers to a folder of another machine"):
        store.adopt(ModelName.parse("other"), manifest)


def test_what_a_dead_writer_left_is_swept_where_there_is_no_model_yet(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(ModelName.parse("m"), _recipe())
    for name in ("m", "never"):
        left = store.manifest_path(ModelName.parse(name)).parent / ".partial-of-somebody-dead"
        left.parent.mkdir(exist_ok=True)
        left.touch()
    (store.converted / ".partial-sha256-of-somebody-dead" / "model").mkdir(parents=True)
    with partial_directory(store.converted / "alive") as filled:
        store.sweep()
        assert [path.name for path in tmp_path.rglob(".*")] == [".lock"]
        assert [path.name for path in store.converted.iterdir()] == [filled.name]
    assert not list(store.converted.iterdir())
    assert store.find(ModelName.parse("m"))


def test_blobs_that_nobody_has_named_for_a_day_are_swept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(ModelName.parse("m"), _recipe(template="t"))
    digest, _ = store.blobs.put(b"of a model that was refused")
    begun = store.blobs.path(f"{digest}-partial")
    begun.touch()
    store.sweep()
    assert store.blobs.has(digest), "somebody may just be about to name it"
    monkeypatch.setattr(store_module, "FORGOTTEN_SECONDS", -60.0)
    broken = store.manifest_path(ModelName.parse("broken"))
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    store.sweep()
    assert store.blobs.has(digest), "what cannot be read may need it"
    broken.unlink()
    store.sweep()
    assert not store.blobs.has(digest)
    assert begun.exists(), "a pull goes on with it"
    found = store.find(ModelName.parse("m"))
    assert found is not None
    assert found.template == "t"
