"""Readers' tables, their consensus, splits, and the COCO files made of them."""
