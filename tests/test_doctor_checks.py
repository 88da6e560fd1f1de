import sys
import types

import pytest
from packaging.requirements import Requirement

from cxr_mmdet import doctor
from cxr_mmdet.doctor import (
    Check,
    Status,
    can_train,
    check_codecs,
    check_device,
    check_extras,
    check_operators,
    check_packages,
    check_requirement,
    import_frameworks,
    shared_memory,
)


def make_torch(cuda=False, mps=False, bf16=True):
    properties = types.SimpleNamespace(name="Test GPU", total_memory=24 * 2**30)
    return types.SimpleNamespace(
        __version__="2.9.0",
        version=types.SimpleNamespace(cuda="12.8"),
        get_num_threads=lambda: 4,
        cuda=types.SimpleNamespace(
            is_available=lambda: cuda,
            device_count=lambda: 2,
            get_device_properties=lambda index: properties,
            is_bf16_supported=lambda: bf16,
        ),
        backends=types.SimpleNamespace(mps=types.SimpleNamespace(is_available=lambda: mps)),
    )


def installed(**versions):
    return {name.replace("_", "-"): version for name, version in versions.items()}.get


def importer(**broken):
    """Import everything as an empty module but what is broken."""

    def import_module(name):
        if name in broken:
            raise broken[name]
        return types.SimpleNamespace(__version__="1.0")

    return import_module


def test_only_an_error_keeps_training_from_running():
    checks = [Check("g", "n", "v", status) for status in (Status.ok, Status.note, Status.warning)]
    assert can_train(checks)
    assert not can_train([*checks, Check("g", "n", "v", Status.error)])


@pytest.mark.parametrize(
    ("versions", "status", "value"),
    [
        ({"onedl_mmcv": "2.3.5"}, Status.ok, "2.3.5"),
        ({"onedl_mmcv": "2.9"}, Status.warning, "2.9, tried are <2.4,>=2.3.5"),
        ({}, Status.error, "missing"),
        ({"mmcv_lite": "2.1.0"}, Status.ok, "mmcv-lite 2.1.0"),
        ({"onedl_mmcv": "2.3.5", "mmcv": "2.1.0"}, Status.warning, "2.3.5, mmcv 2.1.0"),
    ],
)
def test_a_required_distribution(versions, status, value):
    check = check_requirement(Requirement("onedl-mmcv>=2.3.5,<2.4"), installed(**versions))
    assert (check.name, check.status, check.value) == ("onedl-mmcv", status, value)
    assert (check.remedy is None) == (status is Status.ok)


def test_a_missing_distribution_is_named_with_its_bounds():
    check = check_requirement(Requirement("torch>=2.4,<2.15"), installed())
    assert check.remedy == 'pip install "torch<2.15,>=2.4"'


def test_two_copies_of_one_opencv_do_no_harm():
    requirement = Requirement("opencv-python>=4.9")
    both = {"opencv_python": "4.12", "opencv_python_headless": "4.12"}
    assert check_requirement(requirement, installed(**both)).status is Status.ok
    check = check_requirement(requirement, installed(**(both | {"opencv_python_headless": "4.9"})))
    assert check.remedy == (
        "they overwrite each other's files: pip uninstall opencv-python-headless && "
        "pip install --force-reinstall opencv-python"
    )


@pytest.fixture
def metadata(monkeypatch):
    lines = [
        "numpy>=1.26",
        'typing-extensions; python_version < "3"',
        'pytest>=8; extra == "test"',
        'ruff; extra == "dev"',
    ]
    requirements = [Requirement(line) for line in lines]
    monkeypatch.setattr(doctor, "project_metadata", lambda: (">=3.10", requirements, ["test", "dev"]))


def test_packages_are_what_the_project_requires_here(metadata):
    assert [(c.name, c.value) for c in check_packages(installed(numpy="2.0"))][1:] == [("numpy", "2.0")]


def test_extras_are_optional_and_say_how_to_get_them(metadata):
    test, dev = check_extras(installed(numpy="2.0", pytest="9.0"))
    assert (test.name, test.value, test.status) == ("test", "installed", Status.ok)
    assert (dev.value, dev.status, dev.remedy) == ("without ruff", Status.note, 'pip install "cxr-mmdet[dev]"')


def test_a_python_that_is_not_supported_is_an_error(monkeypatch):
    monkeypatch.setattr(doctor, "project_metadata", lambda: (">=99", [], []))
    check = list(check_packages())[1]
    assert (check.name, check.status, check.remedy) == ("Python", Status.error, "make an environment with Python >=99")


def test_a_checkout_that_is_not_installed_is_said_so(monkeypatch):
    monkeypatch.setattr(doctor, "DISTRIBUTION", "no-such-distribution")
    (check,) = check_packages()
    assert check.status is Status.warning
    assert check.remedy == "in the checkout: pip install --editable ."
    assert list(check_extras()) == []


def test_real_metadata_agree_with_what_is_installed():
    """The test environment was installed from pyproject, so nothing required is missing."""
    checks = list(check_packages())
    assert {"torch", "numpy", "onedl-mmdetection"} <= {check.name for check in checks}
    assert can_train(checks)
    assert "test" in {check.name for check in check_extras()}


def test_frameworks_that_import():
    modules, checks = import_frameworks(importer())
    assert list(modules) == ["cv2", "torch", "torchvision", "mmengine", "mmcv", "mmdet"]
    assert all(check.status is Status.ok for check in checks)


def test_without_torch_only_torch_is_blamed():
    modules, checks = import_frameworks(importer(torch=OSError("libcudart.so.13: cannot open shared object file")))
    assert list(modules) == ["cv2"]
    blamed = [check for check in checks if check.status is Status.error]
    assert [(check.name, check.value) for check in blamed] == [
        ("torch", "OSError: libcudart.so.13: cannot open shared object file")
    ]
    assert [check.status for check in checks[2:]] == [Status.note] * 4


@pytest.mark.parametrize(
    ("name", "error", "remedy"),
    [
        ("mmengine", ModuleNotFoundError("No module named 'pkg_resources'"), 'pip install "setuptools<82"'),
        ("cv2", ImportError("libGL.so.1: cannot open shared object file"), "opencv-python-headless"),
        ("mmcv", AttributeError("module 'pkgutil' has no attribute 'find_loader'"), "Python 3.13"),
        ("mmdet", AssertionError("MMCV==2.2.0 is used but incompatible."), "reinstall mmdet"),
    ],
)
def test_a_framework_that_fails_is_an_error_with_a_remedy(name, error, remedy):
    modules, checks = import_frameworks(importer(**{name: error}))
    assert name not in modules
    (check,) = [check for check in checks if check.status is Status.error]
    assert check.name == name
    assert str(error) in check.value
    assert remedy in check.remedy


def test_what_imports_print_does_not_reach_stdout(capsys):
    def import_module(name):
        sys.stdout.write("loud")
        return types.SimpleNamespace()

    _, checks = import_frameworks(import_module)
    assert capsys.readouterr().out == ""
    assert checks[0].value == "imports"


def test_cuda_device():
    values = {check.name: check.value for check in check_device({"torch": make_torch(cuda=True)})}
    assert values == {
        "GPU 0": "Test GPU, 24.0 GiB",
        "GPU 1": "Test GPU, 24.0 GiB",
        "CUDA": "12.8",
        "Mixed precision": "float16, bfloat16",
    }
    old = {check.name: check.value for check in check_device({"torch": make_torch(cuda=True, bf16=False)})}
    assert old["Mixed precision"] == "float16"


def test_apple_device_and_processor(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert [check.value for check in check_device({"torch": make_torch(mps=True)})] == ["Apple (MPS)", "float16"]
    cpu, precision = check_device({"torch": make_torch()})
    assert cpu.value == "4 threads; no GPU that torch 2.9.0 can use"
    assert precision.value == "bfloat16"
    assert list(check_device({})) == []


def test_a_driver_that_torch_does_not_use_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    (driver,) = [check for check in check_device({"torch": make_torch()}) if check.name == "NVIDIA driver"]
    assert driver.status is Status.warning


def test_operators_are_tried():
    torch = pytest.importorskip("torch")
    mmcv = pytest.importorskip("mmcv")
    (check,) = check_operators({"torch": torch, "mmcv": mmcv})
    assert check.status is Status.ok
    assert check.value in {"torchvision (cxr_mmdet)", "mmcv (compiled)"}
    assert list(check_operators({"torch": torch})) == []


def test_operators_that_fail_are_an_error(monkeypatch):
    monkeypatch.setattr(doctor, "_suppress_one_box", lambda torch: (_ for _ in ()).throw(RuntimeError("no nms")))
    (check,) = check_operators({"torch": make_torch(), "mmcv": types.SimpleNamespace()})
    assert (check.status, check.value) == (Status.error, "RuntimeError: no nms")


def test_codecs_stand_in_the_order_they_are_tried():
    codecs = pytest.importorskip("cxr_mmdet.dicom.codecs")
    values = {check.name: check.value for check in check_codecs()}
    assert values["JPEG2000Lossless"].startswith("imagecodecs, ")
    for syntax, preferred in codecs.PREFERENCE.items():
        plugins = values[syntax.keyword].split(", ")
        assert plugins == [plugin for plugin in preferred if plugin in plugins]


def test_a_syntax_without_codec_is_a_warning(monkeypatch):
    codecs = pytest.importorskip("cxr_mmdet.dicom.codecs")
    syntax = next(iter(codecs.PREFERENCE))
    monkeypatch.setattr(codecs, "PREFERENCE", {syntax: ("none",)})
    assert [check.status for check in check_codecs()] == [Status.ok, Status.warning, Status.ok]
    assert [check.name for check in check_codecs()][-1] == "JPEGXL"


def test_small_shared_memory_is_a_warning():
    assert shared_memory(64 * 2**20).status is Status.warning
    assert shared_memory(2 * 2**30) == Check("Machine", "Shared memory", "2.0 GiB")
