"""What can be wrong with a simulation that was asked for."""

from valuetide.schemas.errors import FaultError


class ScenarioError(FaultError):
    """The scenario cannot be used; the text names the field or the text at fault."""
