"""What a person in a terminal sees: words for figures, tables, bars, and the conversation of `run`."""
