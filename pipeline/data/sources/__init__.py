"""Where documents come from: files of rows, pages, datasets and installations."""
