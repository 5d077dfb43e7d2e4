"""Webhooks: steps in the lives of alerts, delivered at least once to addresses of the settings."""
