"""Backends that run a network: torch, mmdet, ONNX Runtime, OpenVINO."""
