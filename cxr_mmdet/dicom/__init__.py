"""One way from a file to the pixels of a radiograph."""
