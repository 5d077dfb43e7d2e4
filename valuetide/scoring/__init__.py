"""What it means: the mathematics, on arrays with one row per customer. Imports schemas only."""
