"""Lifetime value learned from the stream: what customers will be worth, and how sure that is."""
