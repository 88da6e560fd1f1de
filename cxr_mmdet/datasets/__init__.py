"""Prepared folders as mmdet datasets, and the transforms that are ours."""
