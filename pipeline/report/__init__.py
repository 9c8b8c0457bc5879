"""One page of everything that was made: tables, charts and where each result stands."""
