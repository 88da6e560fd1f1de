"""Builders that tests of several rooms share.

cxr_mmdet is imported here before any test module imports mmcv or mmdet, which need the operators it supplies.

Before a test trains or exports a detector of its own, look whether a shared one will do. These are made once per run
of the suite, for all workers of pytest-xdist together (``shared_builds.py``), and are read-only:

- ``detectors.checkpoint_of(kind)``, ``detectors.bundle_of(kind, "torch" | "onnx" | "openvino")``: small RetinaNets, GFL
  and Faster R-CNNs, with and without a gate, with random weights (kinds: ``detectors.MODELS_BY_KIND``);
- ``modern.checkpoint_of(name)``: the modern detectors, tiny;
- ``shared_builds.shared(name, make)``: whatever else is slow to make and used in several files.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
import shared_builds
from hypothesis import settings

from cxr_mmdet.dicom import radiograph
from cxr_mmdet.structures.coco import write_coco
from cxr_mmdet.structures.labels import LABELS_5

os.environ.setdefault("NUMBA_DISABLE_JIT", "1")  # ensemble-boxes, an oracle, takes longer to compile than to run

# Every run draws the same examples and sets no deadline; `--hypothesis-profile=default` draws new ones.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")

PreparedFolder = Callable[..., Path]

PHANTOMS = 12, 128, 12
"""Number, short edge and seed of the phantoms in ``phantom_cache``."""

TESTS = Path(__file__).parent
SLOW = (
    "benchmarks/",
    "cli/",
    "dicom/test_independent_codecs.py",
    "dicom/test_outcomes.py",
    "dicom/test_viewers.py",
    "engine/test_check",
    "engine/test_configs.py",
    "engine/test_modern_recipes.py",
    "engine/test_pretrained.py",
    "engine/test_resuming.py",
    "engine/test_running.py",
    "engine/test_stopping.py",
    "engine/test_switch_merging.py",
    "engine/test_switched_runs.py",
    "inference/test_bundle.py",
    "inference/test_deltas.py",
    "inference/test_gate.py",
    "inference/test_mmdet_apis.py",
    "inference/test_predictor.py",
    "inference/test_whole_detectors.py",
    "models/test_abnormality_gate.py",
    "models/test_mmcv_ops",
    "models/test_partial_labels.py",
    "models/test_score_gate.py",
    "pacs/",
    "test_examples.py",
    "test_image_ids.py",
    "test_import",
    "test_packaging.py",
    "test_parallel.py",
    "web/",
)
"""Files, or beginnings of their names, that ``make test-fast`` leaves out."""


def _coco(split: str, sizes_hw: list[tuple[int, int]], labels: tuple[str, ...], rng: np.random.Generator) -> dict:
    """Return a COCO file whose image i holds one box of class i, but for every fourth, which is normal."""
    images, annotations = [], []
    for number, (height, width) in enumerate(sizes_hw, start=1):
        name = f"{split}{number}"
        images.append(
            {
                "id": number,
                "file_name": f"{name}.png",
                "height": height,
                "width": width,
                "image_id": name,
                "group": f"patient-{name}",
                "original_height": 2 * height,
                "original_width": 2 * width,
            }
        )
        if number % 4 == 0:
            continue
        box_width, box_height = float(width // 3), float(height // 4)
        x = float(rng.integers(0, width - int(box_width)))
        y = float(rng.integers(0, height - int(box_height)))
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": 1 + (number - 1) % len(labels),
                "bbox": [x, y, box_width, box_height],
                "area": box_width * box_height,
                "iscrowd": 0,
                "votes": 2,
            }
        )
    categories = [{"id": index, "name": name} for index, name in enumerate(labels, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture(scope="session", autouse=True)
def _shared_folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> None:
    """Let all workers share what is slow to make, see ``shared_builds.py``."""
    base = tmp_path_factory.getbasetemp()
    shared_builds.set_folder((base.parent if hasattr(request.config, "workerinput") else base) / "shared")


@pytest.fixture(autouse=True)
def _fast_shared_and_repeatable() -> Iterator[None]:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 -- what mmdet's transforms draw from
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
    shared_builds.repeat_nothing_slow()
    shared_builds.drop_closed_logs()
    yield
    changed = shared_builds.changed()
    assert not changed, f"this test, or one that ran beside it, changed what all tests share: {changed}"


def pytest_configure(config: pytest.Config) -> None:
    """Have yapf write its cache before there are workers that would read it half written."""
    if not hasattr(config, "workerinput"):
        import yapf.yapflib.yapf_api  # noqa: F401


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the rooms that train, export, serve or start processes, and begin with the files that hold slow tests.

    Workers take from each other's ends, so that what comes last must be short.
    """
    for item in items:
        if item.path.is_relative_to(TESTS) and item.path.relative_to(TESTS).as_posix().startswith(SLOW):
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Leave modules and test items out of later garbage collections, which mmengine starts for each dataset."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how often a DICOM file is parsed and a frame or an image decoded from now on."""
    counts: Counter[str] = Counter()

    def counted(kind: str, function: Callable) -> Callable:
        def call(*args, **kwargs):
            counts[kind] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr("pydicom.dcmread", counted("parsed", pydicom.dcmread))
    for name in ("decode_frame", "read_image"):
        monkeypatch.setattr(radiograph, name, counted("decoded", getattr(radiograph, name)))
    return counts


@pytest.fixture
def prepared_folder(tmp_path: Path) -> PreparedFolder:
    """Return a function that builds a small prepared folder: grey noise with a bright rectangle per box."""

    def build(
        *, train: int = 6, val: int = 4, labels: tuple[str, ...] = LABELS_5, name: str = "5", seed: int = 0
    ) -> Path:
        rng = np.random.default_rng(seed)
        root = tmp_path / "prepared"
        (root / "images").mkdir(parents=True)
        for split, count in {"train": train, "val": val}.items():
            sizes = [(int(rng.integers(60, 90)), int(rng.integers(50, 80))) for _ in range(count)]
            coco = _coco(split, sizes, labels, rng)
            for image in coco["images"]:
                pixels = rng.integers(0, 90, (image["height"], image["width"]), dtype=np.uint8)
                for annotation in coco["annotations"]:
                    if annotation["image_id"] == image["id"]:
                        x, y, width, height = (int(value) for value in annotation["bbox"])
                        pixels[y : y + height, x : x + width] += 120
                cv2.imwrite(str(root / "images" / image["file_name"]), pixels)
            write_coco(root / "annotations" / f"{split}_{name}.json", coco)
        return root

    return build


@pytest.fixture
def phantom_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put a few small phantoms into a cache of the test's own, and return the options that ask for them."""
    from cxr_mmdet.preparation.phantoms import prepare_phantoms

    def draw(path: Path) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(path))
        prepare_phantoms(*PHANTOMS)

    made = shared_builds.shared("phantoms-in-training", draw)
    shutil.copytree(made, tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images, size, seed = PHANTOMS
    return [f"train_dataloader.dataset.{key}" for key in (f"images={images}", f"size={size}", f"seed={seed}")]


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """Where the tensors lie; the CUDA case is skipped where there is none."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return request.param


def write_radiograph(path: Path, pixels: np.ndarray | None = None, **attributes: object) -> Path:
    """Write a minimal CR image, 8-bit or 16-bit, uncompressed; ``attributes`` replace or add to what it says."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

    pixels = np.add.outer(np.arange(60) * 3, np.arange(40)).astype(np.uint8) if pixels is None else pixels
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    dataset.Modality, dataset.ViewPosition, dataset.PatientID = "CR", "PA", "P1"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    dataset.WindowCenter, dataset.WindowWidth = 2**dataset.BitsStored // 2, 2**dataset.BitsStored
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_jpeg2000(path: Path, pixels: np.ndarray, *, irreversible: bool = False, **attributes: object) -> Path:
    """Write a minimal CR image in JPEG 2000; attributes in lower case are options of Pillow's encoder."""
    from io import BytesIO

    from PIL import Image
    from pydicom import dcmread
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000, JPEG2000Lossless

    options = {name: attributes.pop(name) for name in list(attributes) if name.islower()}
    frame = BytesIO()
    Image.fromarray(pixels).save(frame, "JPEG2000", no_jp2=True, irreversible=irreversible, **options)
    dataset = dcmread(write_radiograph(path, pixels, **attributes))
    dataset.file_meta.TransferSyntaxUID = JPEG2000 if irreversible else JPEG2000Lossless
    dataset.PixelData = encapsulate([frame.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return path


@contextmanager
def full_disk(largest: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes, as if the disk were full; the errors come from the kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_reader_source(folder: Path, images: int = 16) -> Path:
    """Write images of noise and the table of three readers who nearly agree.

    Images i00, i01, …; i00 and i01 are patient p0's and so on (column ``study``); every fourth is normal; R3 misses
    every third box and invents one on i01.
    """
    (folder / "train").mkdir(parents=True)
    lines = ["image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max,study"]
    for number in range(images):
        image, patient = f"i{number:02}", f"p{number // 2}"
        pixels = np.random.default_rng(number).integers(0, 255, (60, 50), dtype=np.uint8)
        cv2.imwrite(str(folder / f"train/{image}.png"), pixels)
        label = ("ILD,5", "Cardiomegaly,3", "Nodule/Mass,8")[number % 3]
        for place, reader in enumerate(("R1", "R2", "R3")):
            if number % 4 == 3 or (reader == "R3" and number % 3 == 2):
                lines.append(f"{image},No finding,14,{reader},,,,,{patient}")
            else:
                lines.append(f"{image},{label},{reader},{5 + place},6,{30 + number % 9},40,{patient}")
    lines.append("i01,ILD,5,R3,1,1,9,9,p0")
    (folder / "train.csv").write_text("\n".join(lines))
    return folder
