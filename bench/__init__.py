"""Measurements: each prints its result and verifies it first."""
