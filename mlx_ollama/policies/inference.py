"""Which requests are inference: what is asked of a model. Limits are for these; questions about models are free."""

from starlette.types import Scope

from mlx_ollama.types import Embed, Generation


def is_inference(scope: Scope) -> bool:
    """Whether a decoded request is inference. Unloading a model is not: it is how room is made."""
    match scope.get("state", {}).get("call"):
        case Generation() as call:
            return not call.unloads
        case Embed():
            return True
    return False
