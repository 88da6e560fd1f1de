"""Synthetic chest radiographs with known findings, drawn, read and filed like VinBigData.

A millimetre model of the chest (``anatomy``, ``skeleton``, ``lung_vessels``) is summed to thicknesses of tissue
(``chest``), findings are added (``opacities``, ``pleura``, ``lesions``), the ray is attenuated and the film developed
(``film``). ``readers`` marks what radiologists would; ``writer`` lays the folder out.
"""

from cxr_mmdet.phantom.cases import PhantomCase, PlannedFinding, plan_case
from cxr_mmdet.phantom.render import DrawnFinding, Phantom, render_phantom
from cxr_mmdet.phantom.writer import PhantomSummary, write_phantoms

__all__ = [
    "DrawnFinding",
    "Phantom",
    "PhantomCase",
    "PhantomSummary",
    "PlannedFinding",
    "plan_case",
    "render_phantom",
    "write_phantoms",
]
