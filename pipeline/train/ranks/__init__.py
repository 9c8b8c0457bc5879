"""How several ranks start, divide a model, and end together."""
