"""What changes with every request does not reach a model."""

import pytest

from mlx_ollama.policies.canonical import canonical
from mlx_ollama.types import Chat, Message

BILLED = "x-anthropic-billing-header: cc_version=2.1.37.3a3; cc_entrypoint=cli; cch=00abc;"


@pytest.mark.parametrize("rest", ["You are kind.", "\nYou are kind.", "\n\nYou are kind."])
def test_a_billing_header_is_taken_out_of_the_system_prompt(rest: str) -> None:
    call = Chat(model="m", messages=[Message("system", BILLED + rest), Message("user", BILLED)])
    cleaned, names = canonical(call)
    assert [message.content for message in cleaned.messages] == ["You are kind.", BILLED]
    assert names == ["x-anthropic-billing-header"]


def test_all_else_stays_as_it_is() -> None:
    call = Chat(model="m", messages=[Message("system", f"I say {BILLED}"), Message("user", "hi")])
    assert canonical(call) == (call, [])
