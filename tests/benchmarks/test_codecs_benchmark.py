import json

from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.codecs import ENCODE, benchmark_codecs
from cxr_mmdet.dicom.codecs import PREFERENCE


def test_decoders_of_every_family_in_the_order_they_are_tried():
    comparisons = benchmark_codecs(size=128, rounds=2)
    assert [each.title for each in comparisons] == [f"Decoding {syntax.keyword}" for syntax in ENCODE]
    for syntax, comparison in zip(ENCODE, comparisons, strict=True):
        names = [entry.name for entry in comparison.timings]
        assert names == [name for name in PREFERENCE[syntax] if name in names]
        assert names[0] == "imagecodecs"


def test_as_json():
    result = CliRunner().invoke(app, ["codecs", "--size", "128", "--rounds", "1", "--json"])
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["comparisons"]) == len(ENCODE)
