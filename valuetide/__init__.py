"""Valuetide: customer value that is current with every event."""

__version__ = "0.1.0"
