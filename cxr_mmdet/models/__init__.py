"""Operators and extensions for mmdet's models."""
