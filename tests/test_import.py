"""``import cxr_mmdet`` in fresh interpreters: what it costs, and in which orders mmcv's operators then import."""

import ast
import os
import subprocess
import sys
import textwrap
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

import cxr_mmdet


def run(code, *, path=(), warnings="ignore"):
    """Return the lines a fresh interpreter prints for ``code``; ``path`` goes before the installed packages."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-W", warnings, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


@pytest.fixture
def compiled_mmcv(tmp_path):
    """A folder with an mmcv that has its own ``_ext``."""
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_ext.py").write_text("compiled = True\n")
    return tmp_path


def test_import_loads_nothing_heavy():
    loaded = run("import sys, cxr_mmdet; print(*sys.modules, sep='\\n')")
    roots = {name.partition(".")[0] for name in loaded}
    assert roots.isdisjoint({"torch", "torchvision", "mmcv", "mmengine", "mmdet", "numpy", "cv2"})


def test_public_names_are_imported_when_they_are_used():
    code = """
        import sys, cxr_mmdet
        assert set(cxr_mmdet.__all__) <= set(dir(cxr_mmdet))
        heavy = {"torch", "numpy", "cv2", "pandas", "pydicom"}
        print(*sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
        from cxr_mmdet import *
        for name in cxr_mmdet.__all__:
            assert globals()[name] is getattr(cxr_mmdet, name)
        print(Predictor.load.__qualname__, evaluate.__name__, issubclass(CxrError, Exception), "torch" in sys.modules)
        try:
            cxr_mmdet.predict
        except AttributeError as error:
            print(error)
    """
    assert run(code) == [
        "",
        "Predictor.load evaluate True False",
        "module 'cxr_mmdet' has no attribute 'predict'",
    ]


def test_type_checkers_and_the_running_program_know_the_same_names():
    tree = ast.parse(Path(cxr_mmdet.__file__).read_text())
    (checking,) = [
        node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    ]
    homes = {
        alias.name: node.module
        for node in checking.body
        if isinstance(node, ast.ImportFrom) and node.module.startswith("cxr_mmdet.")
        for alias in node.names
    }
    assert homes == cxr_mmdet._HOMES
    assert sorted([*homes, "__version__"]) == sorted(cxr_mmdet.__all__)


def test_mmdet_itself_may_come_first():
    code = """
        import mmdet
        import cxr_mmdet
        from mmdet.apis import inference_detector
        import mmdet.apis.inference
        print(mmdet.apis.inference.RoIPool.__module__)
    """
    assert run(code, warnings="error:mmdet was imported")[-1] == "mmcv.ops.roi_pool"


def test_whatever_comes_after_imports():
    code = """
        import importlib, pkgutil
        import cxr_mmdet
        import mmdet.apis, mmcv.ops, mmdet.models
        from mmdet.utils import register_all_modules
        register_all_modules()
        modules = [module.name for module in pkgutil.walk_packages(mmdet.models.__path__, "mmdet.models.")]
        for name in modules:
            importlib.import_module(name)
        print(len(modules))
        # mmdet's maintained distribution would have bound stubs of its own, had mmcv.ops not imported.
        print(mmdet.apis.inference.RoIPool.__module__, mmdet.models.dense_heads.vfnet_head.DeformConv2d.__module__)
    """
    count, origins = run(code)[-2:]
    assert int(count) > 200
    assert origins == "mmcv.ops.roi_pool mmcv.ops.deform_conv"


def test_mmcv_may_come_first():
    code = """
        import mmcv.utils
        import cxr_mmdet
        import mmcv.ops, sys
        print(sys.modules["mmcv._ext"].__spec__.origin)
    """
    assert run(code, warnings="error:mmdet was imported")[-1] == "cxr_mmdet.models.mmcv_ops"


def test_failed_attempt_without_us_does_no_harm():
    code = """
        import sys
        try:
            import mmcv.ops
        except ModuleNotFoundError as error:
            print(error)
        import cxr_mmdet
        import mmcv.ops
        print(sys.modules["mmcv._ext"].__spec__.origin)
    """
    assert run(code)[-2:] == ["No module named 'mmcv._ext'", "cxr_mmdet.models.mmcv_ops"]


def test_warns_when_mmdet_has_bound_its_stubs():
    code = """
        import warnings
        try:
            import mmdet.structures
        except ImportError:  # upstream mmdet fails loudly and leaves nothing bound
            print("mmdet was imported before cxr_mmdet")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import cxr_mmdet
        print(*(warning.message for warning in caught))
    """
    assert "mmdet was imported before cxr_mmdet" in "".join(run(code))


def test_real_operators_win(compiled_mmcv):
    code = """
        import cxr_mmdet, mmcv._ext
        from cxr_mmdet.models.mmcv_ops import operator_backend
        print(mmcv._ext.compiled, operator_backend())
    """
    assert run(code, path=[compiled_mmcv]) == ["True mmcv (compiled)"]


def test_real_operators_win_when_loaded_first(compiled_mmcv):
    code = """
        import mmcv._ext
        import cxr_mmdet
        from cxr_mmdet.models.mmcv_ops import operator_backend
        print(operator_backend())
    """
    assert run(code, path=[compiled_mmcv]) == ["mmcv (compiled)"]


@pytest.mark.parametrize("missing", ["mmcv", "torchvision"])
def test_no_backend_without_its_parts(missing):
    code = f"""
        import sys
        sys.modules[{missing!r}] = None
        from cxr_mmdet.models.mmcv_ops import operator_backend
        print(operator_backend())
    """
    assert run(code) == ["none"]


def test_no_backend_when_torchvision_was_built_for_another_torch(tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    code = "from cxr_mmdet.models.mmcv_ops import operator_backend; print(operator_backend())"
    assert run(code, path=[tmp_path]) == ["none"]


def test_finder_answers_for_one_name_only():
    finders = [finder for finder in sys.meta_path if type(finder).__module__ == cxr_mmdet.__name__]
    assert len(finders) == 1
    for name in ("mmcv", "mmcv.ops", "mmcv._ext.nms", "mmcv._extension", "_ext", "cxr_mmdet._ext"):
        assert finders[0].find_spec(name) is None
    assert finders[0].find_spec("mmcv._ext").name == "mmcv._ext"
    assert sys.meta_path.index(finders[0]) > sys.meta_path.index(PathFinder)
