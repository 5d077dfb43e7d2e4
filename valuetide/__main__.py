"""Run the command line with ``python -m valuetide``."""

from valuetide.streams.cli import main

main()
