"""What a manifest says about the human ceiling."""

LABELS = ["Cardiomegaly", "ILD"]


def measure(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def make_ceiling(value=0.5):
    measures = {name: measure(value) for name in ("voc_mean_ap_40", "mean_ap_50", "mean_ap")}
    return {
        "images": 120,
        "readers": {reader: {"images": 60, **measures} for reader in ("R1", "R2", "R3")},
        **measures,
        "per_class": [{"name": name, "voc_ap_40": measure(0.6), "ap_50": measure(0.4)} for name in LABELS],
    }
