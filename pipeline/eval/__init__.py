"""Measures of checkpoints: ranked choices, perplexity and text they write."""
