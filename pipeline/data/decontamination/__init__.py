"""Evaluation text in training documents."""
