"""One training loop; pretraining, SFT and DPO differ in their batches and their objective."""
