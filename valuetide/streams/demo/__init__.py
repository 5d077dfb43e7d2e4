"""The demo: CDNOW through the real pipeline, then checked against a plain batch program."""
