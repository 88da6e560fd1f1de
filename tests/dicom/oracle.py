"""Display values by pydicom, to compare with."""

import numpy as np
from pydicom import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut


def by_pydicom(dataset: Dataset) -> np.ndarray:
    """pydicom's display values, brought to 8 bits by its documented output range, MONOCHROME1 inverted."""
    stored = dataset.pixel_array
    modality = apply_modality_lut(stored, dataset)
    shown = apply_voi_lut(modality, dataset).astype(np.float64)
    if "VOILUTSequence" in dataset:
        low, high = 0, 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    else:
        signed = dataset.PixelRepresentation == 1
        span = 2**dataset.BitsStored
        low, high = (-(span // 2), span // 2 - 1) if signed else (0, span - 1)
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        low, high = low * slope + intercept, high * slope + intercept
    levels = (shown - low) / (high - low) * 255
    return 255 - levels if dataset.PhotometricInterpretation == "MONOCHROME1" else levels
