"""Dolma's own folders of documents and attributes, in and out."""
