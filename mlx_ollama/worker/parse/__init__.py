"""From the raw text of a model to what it means: answer, thinking, tool calls (wire-spec section 10)."""
