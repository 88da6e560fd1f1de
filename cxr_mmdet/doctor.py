"""Checks of the installation with their remedies; they run even where torch or mmdet is broken."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import os
import platform
import shutil
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from cxr_mmdet.recipes import config_folder, config_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    VersionOf = Callable[[str], str | None]

DISTRIBUTION = "cxr-mmdet"

STAND_INS = {
    "onedl-mmengine": ("mmengine",),
    "onedl-mmcv": ("mmcv", "mmcv-lite"),
    "onedl-mmdetection": ("mmdet",),
    "opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
}
"""Distributions that put the same package into Python; any of them will do."""

FRAMEWORKS = ("cv2", "torch", "torchvision", "mmengine", "mmcv", "mmdet")
"""Packages that are installed and yet often do not import, in the order they build on each other."""

KNOWN_CAUSES = {
    "pkg_resources": 'mmengine of 2024 needs an older setuptools: pip install "setuptools<82"',
    "find_loader": "mmcv does not run on Python 3.14 yet; make an environment with Python 3.13",
    "libGL": "install the library (Debian, Ubuntu: apt-get install libgl1), or pip install opencv-python-headless",
    "libgthread": "install the library (Debian, Ubuntu: apt-get install libglib2.0-0)",
    "numpy.core.multiarray": "it was compiled for another NumPy; pip install --upgrade --force-reinstall it",
}
"""A word of an import error, and what helps."""

SMALL_SHARED_MEMORY = 512 * 2**20


class Status(str, Enum):
    """Outcome of a check; only an error prevents training."""

    ok = "ok"
    note = "note"
    warning = "warning"
    error = "error"


@dataclass(frozen=True)
class Check:
    """One fact about this machine; ``remedy`` says what to do where the status is a warning or an error."""

    group: str
    name: str
    value: str
    status: Status = Status.ok
    remedy: str | None = None


def examine() -> list[Check]:
    """Return every check, in the order a reader wants them. Imports torch and mmdet, so it takes seconds."""
    checks = [*check_machine(), *check_packages(), *check_extras()]
    modules, import_checks = import_frameworks()
    return [
        *checks,
        *import_checks,
        *check_device(modules),
        *check_operators(modules),
        *check_codecs(),
        *check_configs(),
    ]


def can_train(checks: Sequence[Check]) -> bool:
    """Return whether nothing that training needs is missing."""
    return all(check.status is not Status.error for check in checks)


def check_machine() -> Iterator[Check]:
    """Yield Python, system, cores and memory."""
    group = "Machine"
    yield Check(group, "Python", platform.python_version())
    yield Check(group, "System", platform.platform())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check(group, "Cores", str(cores))
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        yield Check(group, "Memory", _gigabytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    if os.path.isdir("/dev/shm"):
        yield shared_memory(shutil.disk_usage("/dev/shm").total)


def shared_memory(size: int) -> Check:
    """Return the check of the bytes through which data loader workers hand over images."""
    if size >= SMALL_SHARED_MEMORY:
        return Check("Machine", "Shared memory", _gigabytes(size))
    remedy = "start the container with --shm-size=2g, or load without workers (num_workers=0)"
    return Check("Machine", "Shared memory", _gigabytes(size), Status.warning, remedy)


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def project_metadata() -> tuple[str | None, list[Requirement], list[str]]:
    """Return what the installed project asks for: ``Requires-Python``, requirements and the names of its extras."""
    try:
        metadata = importlib.metadata.metadata(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None, [], []
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist") or []]
    return metadata["Requires-Python"], requirements, metadata.get_all("Provides-Extra") or []


def check_packages(version_of: VersionOf = installed_version) -> Iterator[Check]:
    """Yield the project itself and each distribution it cannot do without."""
    import cxr_mmdet

    group = "Packages"
    requires_python, requirements, _ = project_metadata()
    if requires_python is None:
        remedy = "in the checkout: pip install --editable ."
        yield Check(group, DISTRIBUTION, f"{cxr_mmdet.__version__}, not installed", Status.warning, remedy)
        return
    yield Check(group, DISTRIBUTION, cxr_mmdet.__version__)
    if not SpecifierSet(requires_python).contains(platform.python_version(), prereleases=True):
        remedy = f"make an environment with Python {requires_python}"
        yield Check(group, "Python", f"{platform.python_version()} is not supported", Status.error, remedy)
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield check_requirement(requirement, version_of)


def check_requirement(requirement: Requirement, version_of: VersionOf) -> Check:
    """Return the check of one required distribution, for which a stand-in of another name may be installed."""
    group, name = "Packages", canonicalize_name(requirement.name)
    bounds = f'pip install "{requirement.name}{requirement.specifier}"'
    found = {candidate: version_of(candidate) for candidate in (name, *STAND_INS.get(name, ()))}
    present = {candidate: version for candidate, version in found.items() if version is not None}
    if not present:
        return Check(group, name, "missing", Status.error, bounds)
    value = ", ".join(f"{version}" if key == name else f"{key} {version}" for key, version in present.items())
    # imaug, which mmdet brings, always installs OpenCV a second time; two copies of one version do no harm.
    if len(set(present.values())) > 1:
        others = " ".join(key for key in present if key != name)
        remedy = f"they overwrite each other's files: pip uninstall {others} && pip install --force-reinstall {name}"
        return Check(group, name, value, Status.warning, remedy)
    version = present.get(name)
    if version is not None and not requirement.specifier.contains(version, prereleases=True):
        return Check(group, name, f"{value}, tried are {requirement.specifier}", Status.warning, bounds)
    return Check(group, name, value)


def check_extras(version_of: VersionOf = installed_version) -> Iterator[Check]:
    """Yield each optional extra of the installed project, and what it lacks."""
    _, requirements, extras = project_metadata()
    for extra in extras:
        members = [r for r in requirements if r.marker is not None and r.marker.evaluate({"extra": extra})]
        only = [r for r in members if r.marker is not None and not r.marker.evaluate({"extra": ""})]
        missing = [r.name for r in only if version_of(r.name) is None]
        if missing:
            remedy = f'pip install "{DISTRIBUTION}[{extra}]"'
            yield Check("Extras", extra, f"without {', '.join(missing)}", Status.note, remedy)
        else:
            yield Check("Extras", extra, "installed")


def import_frameworks(
    import_module: Callable[[str], ModuleType] = importlib.import_module,
) -> tuple[dict[str, ModuleType], list[Check]]:
    """Return the frameworks that import, by name, and a check of each."""
    modules: dict[str, ModuleType] = {}
    checks = []
    for name in FRAMEWORKS:
        if name in FRAMEWORKS[2:] and "torch" not in modules:
            checks.append(Check("Imports", name, "not tried: needs torch", Status.note))
            continue
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                modules[name] = import_module(name)
        # A broken installation raises anything: ImportError, OSError (libraries), AssertionError (mmdet's versions)…
        except Exception as error:
            checks.append(Check("Imports", name, _reason(error), Status.error, _remedy(name, error)))
        else:
            checks.append(Check("Imports", name, str(getattr(modules[name], "__version__", "imports"))))
    return modules, checks


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _remedy(name: str, error: Exception) -> str:
    for word, remedy in KNOWN_CAUSES.items():
        if word in str(error):
            return remedy
    return f"reinstall {name}; the package that brings it and its bounds stand above"


def check_device(modules: dict[str, Any]) -> Iterator[Check]:
    """Yield where training would run and which precisions ``--amp`` finds there."""
    torch, group = modules.get("torch"), "Device"
    if torch is None:
        return
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield Check(group, f"GPU {index}", f"{properties.name}, {_gigabytes(properties.total_memory)}")
        yield Check(group, "CUDA", str(torch.version.cuda))
        half = "float16, bfloat16" if torch.cuda.is_bf16_supported() else "float16"
        yield Check(group, "Mixed precision", half)
    elif torch.backends.mps.is_available():
        yield Check(group, "GPU", "Apple (MPS)")
        yield Check(group, "Mixed precision", "float16")
    else:
        yield Check(group, "CPU", f"{torch.get_num_threads()} threads; no GPU that torch {torch.__version__} can use")
        if shutil.which("nvidia-smi"):
            remedy = "install the torch build for your driver, as pytorch.org/get-started says"
            yield Check(group, "NVIDIA driver", "is there, but torch does not use it", Status.warning, remedy)
        yield Check(group, "Mixed precision", "bfloat16")


def check_operators(modules: dict[str, Any]) -> Iterator[Check]:
    """Yield who answers for mmcv's compiled operators, after one of them has worked."""
    if "mmcv" not in modules:
        return
    group, name = "Operators", "mmcv.ops"
    try:
        from cxr_mmdet.models.mmcv_ops import operator_backend

        with contextlib.redirect_stdout(io.StringIO()):
            backend = operator_backend()
            _suppress_one_box(modules["torch"])
    except Exception as error:
        remedy = "install torchvision for this torch (pytorch.org lists the pairs), or a compiled mmcv"
        yield Check(group, name, _reason(error), Status.error, remedy)
    else:
        yield Check(group, name, backend)


def _suppress_one_box(torch: Any) -> None:
    """Raise unless NMS keeps one of two equal boxes."""
    from mmcv.ops import nms

    _, kept = nms(torch.tensor([[0.0, 0.0, 9.0, 9.0]] * 2), torch.tensor([0.2, 0.9]), 0.5)
    if kept.tolist() != [1]:
        raise RuntimeError(f"nms kept {kept.tolist()} of two equal boxes, expected [1]")


def check_codecs() -> Iterator[Check]:
    """Yield for each transfer syntax which decoders are there, the one tried first in front."""
    group = "DICOM"
    try:
        from cxr_mmdet.dicom.codecs import installed_codecs
    except Exception as error:
        yield Check(group, "decoders", _reason(error), Status.error, f"reinstall {DISTRIBUTION}, which brings them")
        return
    yield Check(group, "Uncompressed, deflated", "pydicom")
    for syntax, codecs in installed_codecs().items():
        if codecs:
            yield Check(group, syntax, ", ".join(codecs))
        else:
            yield Check(group, syntax, "cannot be decoded", Status.warning, "pip install imagecodecs")


def check_configs() -> Iterator[Check]:
    """Yield the folder of the recipes."""
    group = "Configs"
    if config_names():
        yield Check(group, "recipes", f"{len(config_names())} in {config_folder()}")
    else:
        remedy = f"reinstall {DISTRIBUTION}; the wheel carries the configs, a checkout has them beside the package"
        yield Check(group, "recipes", f"none in {config_folder()}", Status.error, remedy)


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
