"""What can go wrong in a template."""


class TemplateError(Exception):
    """A template could not be parsed or executed; clients are shown the message, which is Go's (wire-spec 3.1, 6.4)."""


class FunctionError(Exception):
    """A function refuses its arguments; the message does not say yet which function, nor where."""
