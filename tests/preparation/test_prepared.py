"""A finished folder: checked, split again, shown on a page."""

import json
import re
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import write_reader_source

from cxr_mmdet.annotations.table import read_table
from cxr_mmdet.errors import DatasetError, UsageError
from cxr_mmdet.files import sole_use
from cxr_mmdet.preparation.build import BuildOptions, build_dataset
from cxr_mmdet.preparation.check import check_folder
from cxr_mmdet.preparation.options import SplitOptions
from cxr_mmdet.preparation.prepared import PreparedFolder
from cxr_mmdet.preparation.report import write_report
from cxr_mmdet.preparation.report_images import lonely_boxes, natural_order
from cxr_mmdet.preparation.report_numbers import BoxColumns, company, place_map, size_rows
from cxr_mmdet.preparation.resplit import resplit
from cxr_mmdet.structures.coco import read_coco
from cxr_mmdet.structures.enums import ReaderFusion, SplitMethod


@pytest.fixture(scope="module")
def built_once(tmp_path_factory):
    root = tmp_path_factory.mktemp("built")
    options = BuildOptions(labels=("auto",), group_by="image", val_ratio=0.25)
    build_dataset(write_reader_source(root / "src"), root / "out", options)
    return root


@pytest.fixture
def built(built_once, tmp_path):
    """A prepared folder of 16 images and three readers, one's own copy."""
    return shutil.copytree(built_once / "out", tmp_path / "out")


@pytest.fixture
def src(tmp_path):
    """What such a folder is built from."""
    return write_reader_source(tmp_path / "src")


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


class TestInterrupted:
    """A folder says that it is finished when all of it is there."""

    @pytest.fixture
    def killed(self, monkeypatch):
        """Die where the page is written, as SIGKILL does: nothing behind it runs."""

        def die(*arguments):
            raise KeyboardInterrupt

        def patch(module):
            monkeypatch.setattr(f"cxr_mmdet.preparation.{module}.write_report", die)

        return patch

    def test_a_build_killed_before_its_report_is_completed(self, src, tmp_path, killed, monkeypatch):
        options = BuildOptions(labels=("auto",), group_by="image", val_ratio=0.25)
        killed("build")
        with pytest.raises(KeyboardInterrupt):
            build_dataset(src, tmp_path / "out", options)
        monkeypatch.undo()
        build_dataset(src, tmp_path / "out", options)
        assert (tmp_path / "out/report.html").is_file()
        assert not check_folder(tmp_path / "out")

    def test_a_split_killed_before_its_report_shows_no_page_of_an_earlier_one(self, built, killed):
        killed("resplit")
        with pytest.raises(KeyboardInterrupt):
            resplit(built, SplitOptions(val_ratio=0.5, group_by="image"))
        assert not check_folder(built)
        assert len(read_coco(built / "annotations/val_auto.json")["images"]) == 8
        assert not (built / "report.html").exists()

    @pytest.mark.parametrize("step", ["_measure_readers", "_write_readers"])
    def test_a_split_that_is_killed_or_has_no_disk_loses_nothing(self, built, monkeypatch, step):
        """readers.csv was gone with it, and only a build from the radiographs could bring it back."""
        before = content(built)
        for error in (KeyboardInterrupt, OSError(28, "No space left on device")):

            def die(*arguments, error=error):
                raise error

            monkeypatch.setattr(f"cxr_mmdet.preparation.annotate.{step}", die)
            with pytest.raises((KeyboardInterrupt, OSError)):
                resplit(built, SplitOptions(val_ratio=0.5, group_by="image"))
            assert content(built) == before

    def test_builds_and_splits_of_one_folder_at_once_are_refused(self, src, built):
        before = content(built)
        with sole_use(built, "go elsewhere"):
            with pytest.raises(UsageError, match="in use by another process"):
                resplit(built, SplitOptions(val_ratio=0.5, group_by="image"))
            with pytest.raises(UsageError, match="in use by another process; wait for it, or name another folder"):
                build_dataset(src, built, BuildOptions(labels=("auto",), group_by="image"), force=True)
        assert content(built) == before

    def test_a_split_reads_what_no_other_process_can_change(self, built, monkeypatch):
        """What it had read before it locked the folder could be that of before another split or build."""
        load = PreparedFolder.load

        def load_locked(path, *manifest):
            with pytest.raises(UsageError, match="in use by another process"), sole_use(path, "go elsewhere"):
                pass
            return load(path, *manifest)

        monkeypatch.setattr("cxr_mmdet.preparation.resplit.PreparedFolder.load", load_locked)
        resplit(built, SplitOptions(val_ratio=0.5, group_by="image"))
        assert len(read_coco(built / "annotations/val_auto.json")["images"]) == 8

    def test_a_split_of_a_folder_that_is_not_there_makes_none(self, tmp_path):
        with pytest.raises(DatasetError, match="no such file, so the folder is not finished"):
            resplit(tmp_path / "none", SplitOptions())
        assert not (tmp_path / "none").exists()

    def test_a_forced_build_shows_no_page_of_an_earlier_one(self, src, built, killed):
        killed("build")
        with pytest.raises(KeyboardInterrupt):
            build_dataset(src, built, BuildOptions(labels=("auto",), group_by="image"), force=True)
        assert not (built / "report.html").exists()


class TestRegionsToIgnore:
    """``iscrowd`` of a COCO table stands in the written files, and counts nowhere else."""

    @pytest.fixture
    def marked(self, src, tmp_path):
        """The readers' table as COCO of one reader, with a region on a normal image and one among findings."""
        rows = read_table(src / "train.csv")
        names = sorted(rows["image_id"].unique())
        classes = [name for name in sorted(rows["class_name"].unique()) if name != "No finding"]
        annotations = []
        for row in rows[(rows["reader"] == "R1") & rows["x_min"].notna()].itertuples():
            annotations.append(
                {
                    "image_id": names.index(row.image_id),
                    "category_id": classes.index(row.class_name),
                    "bbox": [row.x_min, row.y_min, row.x_max - row.x_min, row.y_max - row.y_min],
                }
            )
        normal = next(number for number in range(16) if not any(a["image_id"] == number for a in annotations))
        for image, key in ((normal, "iscrowd"), (annotations[0]["image_id"], "ignore")):
            annotations.append({"image_id": image, "category_id": 0, "bbox": [1, 2, 30, 40], key: 1})
        coco = {
            "images": [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(names)],
            "annotations": [{"id": number, **each} for number, each in enumerate(annotations)],
            "categories": [{"id": number, "name": name} for number, name in enumerate(classes)],
        }
        (tmp_path / "table.json").write_text(json.dumps(coco))
        return tmp_path / "table.json", len(annotations) - 2, names[normal]

    @staticmethod
    def regions(folder):
        return sorted(
            (image["image_id"], tuple(annotation["bbox"]))
            for split in ("train", "val")
            for coco in [read_coco(folder / f"annotations/{split}_auto.json")]
            for annotation in coco["annotations"]
            for image in coco["images"]
            if annotation["iscrowd"] and image["id"] == annotation["image_id"]
        )

    def test_they_are_kept_through_build_and_split(self, src, tmp_path, marked):
        table, findings, normal = marked
        options = BuildOptions(labels=("auto",), group_by="image", short_edge=0)
        summary = build_dataset(src, tmp_path / "out", options, table=table)
        first = self.regions(tmp_path / "out")
        assert [box for _, box in first] == [(1, 2, 30, 40)] * 2
        assert normal in dict(first)
        assert any(note.startswith("2 regions to ignore (iscrowd)") for note in summary.notes)
        (counts,) = summary.label_sets
        assert counts.train.boxes + counts.val.boxes == findings
        assert counts.train.images_without_boxes + counts.val.images_without_boxes == 4
        manifest = json.loads((tmp_path / "out/manifest.json").read_text())
        assert manifest["boxes"]["readers"] == findings
        assert not check_folder(tmp_path / "out")
        resplit(tmp_path / "out", SplitOptions(val_ratio=0.4, group_by="image", seed=3))
        assert self.regions(tmp_path / "out") == first


class TestBuild:
    def test_readers_stand_behind_each_box(self, built):
        for split in ("train", "val"):
            for annotation in read_coco(built / f"annotations/{split}_auto.json")["annotations"]:
                assert len(annotation["readers"]) == annotation["votes"]
                assert set(annotation["readers"]) <= {"R1", "R2", "R3"}

    def test_an_image_names_all_who_read_it_also_who_saw_nothing(self, built):
        for split in ("train", "val"):
            coco = read_coco(built / f"annotations/{split}_auto.json")
            assert coco["images"]
            assert all(image["readers"] == ["R1", "R2", "R3"] for image in coco["images"])

    def test_nobody_read_what_is_taken_as_normal_unread(self, src, tmp_path):
        path = src / "train.csv"
        path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("i07,")))
        options = BuildOptions(labels=("auto",), group_by="image", val_ratio=0.25, unread_as_normal=True)
        build_dataset(src, tmp_path / "out", options)
        images = [
            image
            for split in ("train", "val")
            for image in read_coco(tmp_path / f"out/annotations/{split}_auto.json")["images"]
        ]
        assert {image["image_id"] for image in images if not image["readers"]} == {"i07"}

    def test_splitting_a_folder_of_before_adds_the_readers_of_its_images(self, built):
        def forget(coco):
            for image in coco["images"]:
                del image["readers"]

        before = content(built)
        for split in ("train", "val"):
            edit(built / f"annotations/{split}_auto.json", forget)
            read_coco(built / f"annotations/{split}_auto.json")  # still a file to train on
        resplit(built, SplitOptions(group_by="image", val_ratio=0.25))
        assert content(built) == before

    def test_agreement_and_ceiling_stand_in_the_manifest(self, built):
        entry = json.loads((built / "manifest.json").read_text())["label_sets"]["auto"]
        assert entry["agreement"]["images"] == 16
        assert set(entry["human_ceiling"]) == {"all", "train", "val"}
        ceiling = entry["human_ceiling"]["all"]
        assert ceiling["images"] == 16
        assert set(ceiling["readers"]) == {"R1", "R2", "R3"}
        assert [row["name"] for row in ceiling["per_class"]] == entry["labels"]
        measure = ceiling["voc_mean_ap_40"]
        assert 0 < measure["low"] <= measure["value"] <= measure["high"] <= 1

    def test_merged_labels_fuse_across_classes(self, src, tmp_path):
        table = (src / "train.csv").read_text().replace("i00,ILD,5,R2", "i00,Nodule/Mass,8,R2")
        (src / "train.csv").write_text(table)
        (tmp_path / "merged.txt").write_text("Opacity: [ILD, Nodule/Mass]\nCardiomegaly\nILDD: [Edema]\n")
        options = BuildOptions(labels=("auto", str(tmp_path / "merged.txt")), group_by="image")
        notes = build_dataset(src, tmp_path / "out", options).notes
        assert "labels merged: the table has no class 'Edema'." in notes
        boxes = {"auto": [], "merged": []}
        for name, found in boxes.items():
            for split in ("train", "val"):
                coco = read_coco(tmp_path / f"out/annotations/{split}_{name}.json")
                ids = {image["id"] for image in coco["images"] if image["image_id"] == "i00"}
                found += [a["votes"] for a in coco["annotations"] if a["image_id"] in ids]
        assert boxes == {"auto": [2, 1], "merged": [3]} or boxes == {"auto": [1, 2], "merged": [3]}
        merged = PreparedFolder.load(tmp_path / "out").label_sets[1]
        assert merged.label_map == {
            "Opacity": ("ILD", "Nodule/Mass"),
            "Cardiomegaly": ("Cardiomegaly",),
            "ILDD": ("Edema",),
        }

    def test_outvoted_boxes_are_counted(self, src, tmp_path):
        options = BuildOptions(labels=("auto",), group_by="image", fusion=ReaderFusion.VOTE)
        notes = build_dataset(src, tmp_path / "out", options).notes
        assert "labels auto: voted out: 1 box of fewer than 2 readers." in notes

    def test_near_duplicates_on_both_sides_are_refused_joined_or_allowed(self, src, tmp_path):
        for number in range(0, 16, 2):
            (src / f"train/i{number + 1:02}.png").write_bytes((src / f"train/i{number:02}.png").read_bytes())
        out = tmp_path / "out"
        by_image = dict(labels=("auto",), group_by="image", val_ratio=0.4)
        with pytest.raises(DatasetError, match=r"pairs of near-identical images .*\(0 bits\)"):
            build_dataset(src, out, BuildOptions(**by_image))
        assert not (out / "manifest.json").exists()
        notes = build_dataset(src, out, BuildOptions(**by_image, allow_duplicates=True)).notes
        assert any("near-identical" in note for note in notes)
        build_dataset(src, out, BuildOptions(**by_image, join_duplicates=True), force=True)
        manifest = json.loads((out / "manifest.json").read_text())
        assert len(manifest["near_identical"]) == 8
        assert not any(pair["across"] for pair in manifest["near_identical"])


class TestReadBack:
    def test_the_readers_boxes_come_back(self, built, src):
        expected = read_table(src / "train.csv").drop(columns="line")
        found = PreparedFolder.load(built).rows.drop(columns="line")
        order = list(expected.columns)
        pd.testing.assert_frame_equal(
            found.sort_values(order, ignore_index=True), expected.sort_values(order, ignore_index=True)
        )

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("manifest.json", None, "the folder is not finished"),
            ("manifest.json", "{", "cannot be read as JSON"),
            ("manifest.json", "[]", "holds no JSON object"),
            ("manifest.json", '{"parameters": {}}', "has no label_sets"),
            ("manifest.json", '{"label_sets": {}, "parameters": {"split": "x"}}', "are not a build's"),
            ("annotations/readers.csv", None, "made by an earlier version"),
            ("images.json", '{"rendering_version": 0}', "written by another version"),
        ],
    )
    def test_a_damaged_folder_is_refused(self, built, name, text, message):
        (built / name).unlink() if text is None else (built / name).write_text(text)
        with pytest.raises(DatasetError, match=message):
            PreparedFolder.load(built)


class TestSplitAgain:
    def test_the_same_split_changes_no_byte(self, built):
        before = content(built)
        resplit(built, SplitOptions(group_by="image", val_ratio=0.25))
        assert content(built) == before

    def test_folds_are_written_beside_each_other(self, built):
        resplit(built, SplitOptions(split=SplitMethod.STRATIFIED, folds=4, fold=2, group_by="image"))
        assert check_folder(built) == []
        seen = []
        for number in range(1, 5):
            seen += [i["image_id"] for i in read_coco(built / f"annotations/fold{number}/val_auto.json")["images"]]
        assert sorted(seen) == [f"i{number:02}" for number in range(16)]
        own = (built / "annotations/val_auto.json").read_bytes()
        assert own == (built / "annotations/fold2/val_auto.json").read_bytes()
        manifest = json.loads((built / "manifest.json").read_text())
        assert manifest["parameters"]["folds"] == 4
        # Without folds, those of before are gone.
        resplit(built, SplitOptions(group_by="image"))
        assert not (built / "annotations/fold1").exists()

    def test_a_refused_split_changes_nothing(self, built, tmp_path):
        before = content(built)
        with pytest.raises(UsageError, match="no such reader"):
            resplit(built, SplitOptions(split=SplitMethod.READERS, train_readers=("R9",)))
        with pytest.raises(UsageError, match="keeps no such column"):
            resplit(built, SplitOptions(group_by="patient_id"))
        assert content(built) == before

    def test_a_column_that_grouped_the_build_groups_the_split(self, src, tmp_path):
        out = tmp_path / "out"
        build_dataset(src, out, BuildOptions(labels=("auto",), group_by="study"))
        resplit(out, SplitOptions(group_by="study", seed=3))
        groups = {}
        for split in ("train", "val"):
            for image in read_coco(out / f"annotations/{split}_auto.json")["images"]:
                groups[image["image_id"]] = image["group"]
        assert groups["i00"] == groups["i01"] != groups["i02"]
        assert "p0" not in (out / "annotations/readers.csv").read_text()

    def test_patients_of_a_column_are_not_torn_by_files_that_state_none(self, src, tmp_path):
        """It was split image by image, without a word, and the column was forgotten."""
        out = tmp_path / "out"
        build_dataset(src, out, BuildOptions(labels=("auto",), group_by="study"))
        before = content(out)
        for entry in json.loads((out / "images.json").read_text())["images"].values():
            assert entry["patient"] is None
        with pytest.raises(UsageError, match="states a Patient ID; pass --group-by study, its column of the table"):
            resplit(out, SplitOptions(seed=3))
        assert content(out) == before
        resplit(out, SplitOptions(group_by="image"))
        with pytest.raises(UsageError, match="keeps no such column; expected study, patient or image"):
            resplit(out, SplitOptions(group_by="visit"))
        resplit(out, SplitOptions(group_by="study"))
        groups = [image["group"] for image in read_coco(out / "annotations/train_auto.json")["images"]]
        assert len(set(groups)) < len(groups)

    def test_missing_images_are_named(self, built):
        (built / "images/i03.png").unlink()
        with pytest.raises(DatasetError, match=r"1 image of annotations/readers.csv missing, such as i03\.png"):
            resplit(built, SplitOptions(group_by="image"))


class TestCheck:
    def test_a_build_is_in_order(self, built):
        assert check_folder(built) == []

    def test_everything_is_said_at_once(self, built):
        train, val = (built / f"annotations/{split}_auto.json" for split in ("train", "val"))
        first = json.loads(train.read_text())["images"][0]
        edit(val, lambda coco: coco["images"].append(first | {"id": 99}))
        edit(train, lambda coco: coco["annotations"][0].update(bbox=[0, 0, 500, 5], category_id=9))
        edit(built / "manifest.json", lambda m: m["label_sets"]["auto"].update(labels=["Cardiomegaly", "Edema"]))
        names = [image["file_name"] for image in json.loads(val.read_text())["images"][:3]]
        (built / "images" / names[0]).unlink()
        cv2.imwrite(str(built / "images" / names[1]), np.zeros((60, 50, 3), np.uint8))
        cv2.imwrite(str(built / "images" / names[2]), np.zeros((10, 50), np.uint8))
        (built / "images" / first["file_name"]).write_bytes(b"x")
        cv2.imwrite(str(built / "images/stranger.png"), np.zeros((60, 50), np.uint8))
        problems = "\n".join(check_folder(built))
        for expected in (
            "readers but no image file",
            "train_auto.json: annotation 1: category_id 9 is not among the ground truth's categories",
            "train_auto.json: annotation 1: bbox [0, 0, 500, 5] is beyond its image",
            "train_auto.json: its classes are Cardiomegaly, ILD, Nodule/Mass, but the manifest's Cardiomegaly, Edema",
            "images, but the manifest counts",
            "1 image stands on both sides",
            "1 group stands on both sides",
            f"images/{names[0]}: no such file, but a COCO file names it",
            f"images/{names[1]}: is uint8 of shape (60, 50, 3), expected 8-bit grey",
            f"images/{names[2]}: is 50 x 10, but its COCO entry says 50 x 60",
            f"images/{first['file_name']}: cannot be decoded",
            "1 image that no COCO file names, such as stranger.png",
        ):
            assert expected in problems

    def test_missing_and_broken_files_are_named(self, built):
        (built / "annotations/train_auto.json").unlink()
        (built / "annotations/val_auto.json").write_text("{")
        (built / "annotations/readers.csv").write_text("image_id\na\n")
        problems = "\n".join(check_folder(built))
        assert "annotations/train_auto.json: no such file, but the manifest names its label set" in problems
        assert "annotations/val_auto.json: is not JSON" in problems
        assert "no column class_name" in problems
        (built / "manifest.json").unlink()
        assert len(check_folder(built)) == 1

    def test_near_duplicates_on_both_sides_are_a_problem_unless_allowed(self, built):
        sides = [json.loads((built / f"annotations/{s}_auto.json").read_text())["images"] for s in ("train", "val")]
        pair = {"first": sides[0][0]["image_id"], "second": sides[1][0]["image_id"], "distance": 3, "across": True}
        edit(built / "manifest.json", lambda manifest: manifest["near_identical"].append(pair))
        assert re.search("are near-identical and stand on different sides", "".join(check_folder(built)))
        edit(built / "manifest.json", lambda manifest: manifest["parameters"].update(allow_duplicates=True))
        assert check_folder(built) == []


class TestReport:
    def test_the_page_holds_every_part_and_loads_nothing(self, built):
        page = (built / "report.html").read_text(encoding="utf-8")
        assert (built / "report.html").read_bytes() == write_report(built).read_bytes()
        for part in (
            "What 3 readers saw on 16 radiographs",
            "human mAP@.4 (VOC)",
            "F1 between readers",
            "Findings that come together",
            "Size and place",
            "Hardest radiographs",
            "R3 ILD",
            "ILD 3/3",
        ):
            assert part in page
        assert not re.search(r"(src|href)=\"(?!data:|#)", page)
        # The invented box stands on i01, which therefore comes first.
        assert page.index("<h3>i01 ") < min(page.index(f"<h3>i{n:02} ") for n in (0, 2) if f"<h3>i{n:02} " in page)

    def test_one_readers_page_speaks_of_no_agreement(self, src, tmp_path):
        lines = (src / "train.csv").read_text().splitlines()
        (src / "train.csv").write_text("\n".join([lines[0], *(line for line in lines if ",R1," in line)]))
        summary = build_dataset(src, tmp_path / "out", BuildOptions(labels=("auto",), group_by="image"))
        assert "of one reader, R1" in summary.notes[0]
        page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
        assert "What 1 reader saw" in page
        assert "human mAP" not in page
        entry = json.loads((tmp_path / "out/manifest.json").read_text())["label_sets"]["auto"]
        assert entry["agreement"] is None
        assert entry["human_ceiling"] == {"all": None, "train": None, "val": None}

    def test_failures_warnings_and_near_duplicates_are_shown_and_names_are_text(self, src, tmp_path):
        (src / "train/i05.png").write_bytes(b"broken")
        (src / "train/i07.png").write_bytes((src / "train/i06.png").read_bytes())
        table = src / "train.csv"
        table.write_text(table.read_text().replace("Cardiomegaly", "<b>Heart</b>"))
        build_dataset(src, tmp_path / "out", BuildOptions(labels=("auto",), group_by="image", join_duplicates=True))
        page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
        assert "1 radiograph could not be prepared" in page
        assert "i05.png" in page
        assert "1 pair by perceptual hash" in page
        assert "&lt;b&gt;Heart&lt;/b&gt;" in page
        assert "<b>Heart</b>" not in page

    def test_places_are_counted_cell_by_cell(self):
        boxes = np.array([[0, 0, 0.5, 0.5], [0.25, 0.25, 1, 1], [0.9, 0.9, 0.9, 0.9]])
        expected = np.array([[1, 1, 0, 0], [1, 2, 1, 1], [0, 1, 1, 1], [0, 1, 1, 2]])
        np.testing.assert_array_equal(place_map(boxes, 4), expected)
        assert place_map(boxes[:0], 4).sum() == 0

    def test_company_and_sizes(self):
        coco = {
            "images": [{"id": n, "width": 100, "height": 50} for n in (1, 2, 3)],
            "annotations": [
                {"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "votes": 1},
                {"image_id": 1, "category_id": 2, "bbox": [0, 0, 10, 5], "votes": 2},
                {"image_id": 2, "category_id": 1, "bbox": [0, 0, 50, 50], "votes": 1},
            ],
        }
        boxes = BoxColumns.of([coco, coco])
        images, together = company(("a", "b", "c"), boxes)
        assert images.tolist() == [4, 2, 0]
        assert together.tolist() == [[1, 0.5, 0], [1, 1, 0], [0, 0, 0]]
        large, small = size_rows(("a", "b", "c"), boxes)
        assert (large.name, large.quantiles[2], small.quantiles[2]) == ("a", 0.5, pytest.approx(0.01))
        assert small.positions[2] == 50

    def test_boxes_that_nobody_else_drew(self):
        columns = ["image_id", "class_name", "reader", "x_min", "y_min", "x_max", "y_max"]
        rows = pd.DataFrame(
            [
                ("a", "ILD", "R1", 0, 0, 10, 10),
                ("a", "ILD", "R2", 0, 0, 10, 11),
                ("a", "Edema", "R2", 0, 0, 10, 11),
                ("b", "ILD", "R1", 0, 0, 10, 10),
                ("b", "ILD", "R1", 0, 0, 10, 11),
                ("b", "No finding", "R2", *[np.nan] * 4),
                ("c", "ILD", "R1", 0, 0, 10, 10),
            ],
            columns=columns,
        )
        assert lonely_boxes(rows) == {"a": 1, "b": 2}

    def test_readers_are_sorted_as_people_count(self):
        assert sorted(["R10", "R9", "A", "R1"], key=natural_order) == ["A", "R1", "R9", "R10"]
