"""Export of a checkpoint to a bundle, compared with torch before it is written."""
