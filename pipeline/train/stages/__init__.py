"""Pretraining, SFT and DPO: what each optimizes, and one call for each."""
