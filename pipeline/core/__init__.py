"""Files, keys, manifests and engines: what every stage stands on."""
