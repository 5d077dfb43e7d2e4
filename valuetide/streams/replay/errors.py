"""What can go wrong with a replay as a whole; a single row at fault is counted instead."""

from valuetide.schemas.errors import FaultError, TransientError


class ReplayError(FaultError):
    """The file, its mapping or the kept position cannot be used; the text says what to do."""


class ReplayUsageError(ReplayError):
    """The replay was asked for in a wrong way, for example with a column that is not there."""


class BrokerAwayError(TransientError):
    """The broker could not be reached, or stopped acknowledging; the text names its address."""
