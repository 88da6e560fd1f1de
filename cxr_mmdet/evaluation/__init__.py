"""JSON in, scores out: no model, no mmdet, no torch."""
