"""all-MiniLM-L6-v2 through the server: likenesses as sentence-transformers publishes them."""

from collections.abc import Iterator

import numpy as np
import ollama
import pytest

from tests.support.cli import import_model
from tests.support.embedders import minilm_directory
from tests.support.server import serving

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("minilm")]

FIRST = ["The new movie is awesome", "The cat sits outside", "A man is playing guitar"]
SECOND = ["The dog plays in the garden", "The new movie is so great", "A woman watches TV"]
PUBLISHED = [[0.0543, 0.8939, -0.0502], [0.2838, -0.0029, 0.1310], [0.2277, -0.0136, -0.0327]]
"""Cosines of each of the first with each of the second: sbert.net, "Semantic Textual Similarity"."""

WEATHER = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
PUBLISHED_WEATHER = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ollama.Client]:
    home = tmp_path_factory.mktemp("minilm")
    import_model(home, "all-minilm", minilm_directory())
    with serving(home) as server:
        client = ollama.Client(host=server.url, trust_env=False)
        yield client
        client._client.close()


def test_likenesses_are_the_published_ones(client: ollama.Client) -> None:
    vectors = np.array(client.embed("all-minilm", FIRST + SECOND).embeddings)
    assert vectors.shape == (6, 384)
    assert np.abs(vectors[:3] @ vectors[3:].T - PUBLISHED).max() < 1e-4
    weather = np.array([client.embed("all-minilm", text).embeddings[0] for text in WEATHER])
    assert np.abs(weather @ weather.T - PUBLISHED_WEATHER).max() < 1e-4


def test_a_batch_equals_each_alone(client: ollama.Client) -> None:
    texts = [*FIRST, *SECOND, *WEATHER, "", "movie " * 300, "A much longer text. " * 9]
    batch = client.embed("all-minilm", texts)
    alone = [client.embed("all-minilm", [text]) for text in texts]
    assert np.abs(np.array(batch.embeddings) - [one.embeddings[0] for one in alone]).max() < 1e-5
    assert batch.prompt_eval_count == sum(one.prompt_eval_count or 0 for one in alone)
    assert alone[-2].prompt_eval_count == 256


def test_what_it_says_of_itself(client: ollama.Client) -> None:
    shown = client.show("all-minilm")
    info = shown.modelinfo or {}
    assert shown.capabilities == ["embedding"]
    assert (info["bert.context_length"], info["bert.embedding_length"]) == (512, 384)
    assert shown.details
    assert shown.details.parameter_size == "22.71M"
