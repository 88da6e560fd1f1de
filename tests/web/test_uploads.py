"""Uploads within limits come through as they are; hostile ones end in one sentence."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from serving_builders import phantom_dicom

from cxr_mmdet.errors import DicomError
from cxr_mmdet.web.decoding import DecodingPool
from cxr_mmdet.web.uploads import Upload, UploadError, UploadLimits, read_uploads

SMALL = UploadLimits(files=4, file_bytes=1 << 20, total_bytes=3 << 20)


def make_zip(tmp_path, members: dict[str, bytes], name: str = "a.zip", compression: int = zipfile.ZIP_DEFLATED):
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return path


def one_sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def test_files_come_in_their_order(tmp_path):
    (tmp_path / "b.dcm").write_bytes(b"two")
    (tmp_path / "a.png").write_bytes(b"one")
    uploads, notes = read_uploads([tmp_path / "b.dcm", tmp_path / "a.png"], SMALL)
    assert notes == []
    assert uploads == [Upload("b.dcm", b"two"), Upload("a.png", b"one")]
    assert uploads[0].image_id == "b"


def test_an_archive_gives_its_radiographs_only(tmp_path):
    dicom = phantom_dicom()
    members = {
        "study/1.dcm": dicom,
        "study/IM0001": dicom,
        "notes.txt": b"hello",
        "README": b"no suffix, no DICOM",
        "__MACOSX/._1.dcm": b"junk",
        "study/.hidden.png": b"junk",
        "inner.zip": b"PK\x03\x04",
    }
    assert read_uploads([make_zip(tmp_path, members)], SMALL)[0] == [Upload("1.dcm", dicom), Upload("IM0001", dicom)]


def test_an_archive_is_known_by_its_content(tmp_path):
    path = make_zip(tmp_path, {"a.png": b"x"}, name="upload")
    assert read_uploads([path], SMALL)[0] == [Upload("a.png", b"x")]


@pytest.mark.parametrize(
    "member",
    [
        "../../etc/cron.d/a.png",
        "/etc/passwd.png",
        "C:\\windows\\a.png",
        "..\\a.png",
        "a/../../b.png",
        "\\\\host\\a.png",
    ],
)
def test_a_path_out_of_the_archive(tmp_path, member):
    path = make_zip(tmp_path, {"fine.png": b"x", member: b"x"})
    with pytest.raises(UploadError, match="leads out of the archive") as error:
        read_uploads([path], SMALL)
    one_sentence(error)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zip"]


def test_a_bomb_that_says_so(tmp_path):
    path = make_zip(tmp_path, {f"{i}.png": bytes(1 << 20) for i in range(4)})
    assert path.stat().st_size < 20_000
    with pytest.raises(UploadError, match="unpacks to more than 3") as error:
        read_uploads([path], SMALL)
    one_sentence(error)


def test_a_bomb_that_lies_about_its_size(tmp_path):
    path = make_zip(tmp_path, {"a.png": bytes(2 << 20)})
    content = bytearray(path.read_bytes())
    size = (2 << 20).to_bytes(4, "little")
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, (100).to_bytes(4, "little")))
    with pytest.raises(UploadError, match=r"cannot be unpacked|unpacks to more"):
        read_uploads([path], SMALL)


def test_one_member_beyond_the_limit_of_a_file(tmp_path):
    with pytest.raises(UploadError, match=r"a\.png unpacks to more than 1 MiB"):
        read_uploads([make_zip(tmp_path, {"a.png": bytes((1 << 20) + 1)})], SMALL)


def test_too_many(tmp_path):
    with pytest.raises(UploadError, match="holds 10,001 files, more than 10,000"):
        read_uploads([make_zip(tmp_path, {f"{i}.txt": b"" for i in range(10_001)})], SMALL)


def test_more_radiographs_than_the_limit_are_taken_as_far_as_it_goes(tmp_path):
    path = make_zip(tmp_path, {f"{i:02}.png": b"x" for i in range(50)})
    uploads, notes = read_uploads([path, path], SMALL)
    assert [upload.name for upload in uploads] == ["00.png", "01.png", "02.png", "03.png"]
    assert notes == ["Only the first 4 radiographs are taken; upload the others after these."]
    uploads, notes = read_uploads([make_zip(tmp_path, {f"{i}.png": b"x" for i in range(4)})], SMALL)
    assert (len(uploads), notes) == (4, [])


def test_too_large(tmp_path):
    (tmp_path / "a.dcm").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(UploadError, match=r"a\.dcm: is larger than 1 MiB"):
        read_uploads([tmp_path / "a.dcm"], SMALL)
    for name in "bcde":
        (tmp_path / f"{name}.dcm").write_bytes(bytes(1 << 20))
    with pytest.raises(UploadError, match="more than 3 MiB at once"):
        read_uploads([tmp_path / f"{name}.dcm" for name in "bcde"], SMALL)


@pytest.mark.parametrize("content", [b"PK\x03\x04 and then nothing", b"not a zip"])
def test_a_damaged_archive(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UploadError, match=r"a\.zip: cannot be unpacked") as error:
        read_uploads([tmp_path / "a.zip"], SMALL)
    one_sentence(error)


def test_an_encrypted_archive(tmp_path):
    path = make_zip(tmp_path, {"a.png": b"x" * 50}, compression=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(magic) + offset] |= 1
    path.write_bytes(content)
    with pytest.raises(UploadError, match="it is encrypted"):
        read_uploads([path], SMALL)


def test_an_archive_without_a_radiograph(tmp_path):
    with pytest.raises(UploadError, match="holds no radiograph"):
        read_uploads([make_zip(tmp_path, {"a.txt": b"x"})], SMALL)


@pytest.fixture(scope="module")
def pool():
    pool = DecodingPool(seconds=60, max_pixels=1_000_000)
    yield pool
    pool.close()


def header_of(rows: int, columns: int) -> bytes:
    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(phantom_dicom()))
    dataset.Rows, dataset.Columns = rows, columns
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def length_of_two_gib() -> bytes:
    content = phantom_dicom()
    place = content.index(b"\xe0\x7f\x10\x00OW\0\0") + 8
    return content[:place] + (2**31 - 2).to_bytes(4, "little") + content[place + 4 : place + 1000]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header_of(65535, 65535), "beyond the limit of 1,000,000 pixels"),
        (length_of_two_gib(), r"evil\.dcm: "),
        (b"<!doctype html><html><script>alert(1)</script></html>", "not a DICOM file"),
        (phantom_dicom()[:700], r"evil\.dcm: "),
        (b"", "the file is empty"),
    ],
    ids=["2 GB of pixels", "2 GiB of data", "HTML", "cut off", "empty"],
)
def test_hostile_files_end_in_a_sentence_and_the_pool_lives_on(pool, content, message):
    with pytest.raises(DicomError, match=message) as error:
        pool.decode(Upload("evil.dcm", content))
    one_sentence(error)
    assert pool.decode(Upload("good.dcm", phantom_dicom())).radiograph.pixels.dtype == np.uint8


def test_a_decoded_dicom_keeps_its_attributes_but_not_twice_its_pixels(pool):
    decoded = pool.decode(Upload("good.dcm", phantom_dicom()))
    assert decoded.radiograph.header is not None
    assert "PixelData" not in decoded.radiograph.header
    assert decoded.radiograph.header.SOPInstanceUID
    assert len(decoded.content_sha256) == 64


def test_a_crash_costs_one_file(monkeypatch):
    """A codec that takes its process down: simulated by killing the process while it works."""
    pool = DecodingPool(seconds=60)
    try:
        good = Upload("good.dcm", phantom_dicom())
        pool.decode(good)
        (worker,) = pool._workers
        for process in worker._pool._processes.values():
            process.kill()
        with pytest.raises(DicomError, match="failed badly"):
            pool.decode(good)
        assert pool.decode(good).radiograph.size_hw
    finally:
        pool.close()


def test_what_takes_too_long_is_given_up():
    pool = DecodingPool(seconds=0.0)
    try:
        with pytest.raises(DicomError, match="was given up"):
            pool.decode(Upload("slow.dcm", phantom_dicom()))
    finally:
        pool.close()
