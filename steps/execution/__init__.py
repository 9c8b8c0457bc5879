"""Running the steps of a graph, in whatever process."""
