"""The errors of Valuetide: one base, three kinds."""


class ValuetideError(Exception):
    """Base of every error that Valuetide raises on purpose. Its text says what to do."""


class InvalidEventError(ValuetideError):
    """An event cannot be accepted: it goes to the dead letters, and the text is the reason."""


class TransientError(ValuetideError):
    """A server did not answer or refused for now: retry a bounded number of times, then stop."""


class FaultError(ValuetideError):
    """Something is wrong that a retry cannot mend: stop loudly, the text says what to do."""
