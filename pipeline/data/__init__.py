"""Text in, text out: sources, measures, duplicates, overlaps, and the one step that deletes."""
