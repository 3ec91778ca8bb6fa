"""The table of differences tells of recordings that there are."""

from tests.compat.differences import DIFFERENCES
from tests.compat.recordings import FIXTURES, cases, pending

OF_INFERENCE = {"chat.multiturn"}
"""What is not generated as it was recorded, and why is proven elsewhere. Nothing is ever added here."""


def test_every_difference_is_of_a_recorded_exchange() -> None:
    recorded = [case["name"] for file in FIXTURES.glob("*.jsonl") for case in cases(file.stem)]
    assert set(recorded) >= set(DIFFERENCES)
    assert len(recorded) == len(set(recorded))
    assert all(difference.why for difference in DIFFERENCES.values())


def test_the_lists_of_what_differs_only_shrink() -> None:
    assert not pending()
    assert {case["name"] for case in cases("inference")} & set(DIFFERENCES) == OF_INFERENCE
