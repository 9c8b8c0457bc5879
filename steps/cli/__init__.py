"""The commands of `olmo`: one file each, thin; nothing is done at import."""
