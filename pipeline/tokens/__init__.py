"""Text to integers: tokenizers, token shards, mixtures, reading order and conversations."""
