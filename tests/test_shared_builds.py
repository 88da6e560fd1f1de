import shared_builds


def test_a_shared_file_is_made_once_and_who_changes_it_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_builds, "_folder", [tmp_path])
    monkeypatch.setattr(shared_builds, "_stamps", {})
    monkeypatch.setattr(shared_builds, "_asked_for", set())
    (tmp_path / "half-model.txt").write_text("what a killed worker left")
    made = []

    def make(path):
        made.append(path)
        path.mkdir()
        (path / "weights").write_text("weights")

    path = shared_builds.shared("model.txt", make)
    assert shared_builds.shared("model.txt", make) == path
    assert len(made) == 1
    assert shared_builds.changed() == []
    shared_builds.shared("model.txt", make)
    (path / "weights").write_text("others")
    (path / "more").write_text("")
    assert shared_builds.changed() == [path / "more", path / "weights"]
    assert shared_builds.changed() == []
    shared_builds._stamps.clear()  # as in another worker
    assert shared_builds.shared("model.txt", make) == path
    assert len(made) == 1
