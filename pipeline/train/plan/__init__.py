"""What a training will cost, from formulas over its configuration."""
