"""The OLMo transformer, its sizes, its start values and its Hugging Face form."""
