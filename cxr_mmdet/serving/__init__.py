"""Models in the reading room: a web page, and what it keeps."""
