"""Nouns of the package, free of torch: boxes, detections, radiograph files, COCO files, labels."""
