"""DICOM node: a durable queue between a PACS and the model."""
