"""From the JSON of an experiment to a graph of typed steps."""
