"""A name leads to a file inside the root, or nowhere."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vital_eval.errors import MediaError
from vital_eval.video.resolve import resolve_video


def kind_of(folder: Path, name: str) -> str:
    with pytest.raises(MediaError) as caught:
        resolve_video(folder, name)
    return caught.value.kind


@pytest.fixture(name="root")
def root_fixture(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "part").mkdir(parents=True)
    (tmp_path / "secret.mp4").write_bytes(b"x")
    for name in ("a.mp4", "part/b.webm", "9c_w8HU3hqc_210.0_360.0.mp4", "v.1.mkv", "upper.MP4"):
        (root / name).write_bytes(b"x")
    return root


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.mp4", "a.mp4"),
        ("part/b.webm", "part/b.webm"),
        ("./part/b.webm", "part/b.webm"),
        ("part/b.mp4", "part/b.webm"),
        ("a.avi", "a.mp4"),
        ("a", "a.mp4"),
        ("9c_w8HU3hqc_210.0_360.0.mp4", "9c_w8HU3hqc_210.0_360.0.mp4"),
        ("9c_w8HU3hqc_210.0_360.0", "9c_w8HU3hqc_210.0_360.0.mp4"),
        ("v.1.mp4", "v.1.mkv"),
        ("upper.MP4", "upper.MP4"),
    ],
)
def test_found(root: Path, name: str, found: str) -> None:
    assert resolve_video(root, name) == (root / found).resolve()


@pytest.mark.parametrize("name", ["b.mp4", "v.mp4", "9c_w8HU3hqc_210.mp4", "a.mp4.txt", "a.mp4/b.mp4", "x" * 5000])
def test_missing(root: Path, name: str) -> None:
    assert kind_of(root, name) == "missing"


def test_missing_names_the_path_looked_for(root: Path) -> None:
    with pytest.raises(MediaError, match=str(root / "part" / "none.mp4")):
        resolve_video(root, "part/none.mp4")


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "./", "..", "../secret.mp4", "part/../../secret.mp4", "part/../a.mp4", "/etc/passwd", "//a.mp4",
     "a.mp4\0", "\0", "..\\secret.mp4", "part\\b.webm", "C:/a.mp4", "c:a.mp4", "\\\\host\\share", "\ud800.mp4"],
)  # fmt: skip
def test_outside(root: Path, name: str) -> None:
    assert kind_of(root, name) == "outside-root"


def test_links_may_stay_inside_but_not_leave(root: Path) -> None:
    (root / "inside.mp4").symlink_to(root / "a.mp4")
    (root / "out.mp4").symlink_to(root.parent / "secret.mp4")
    (root / "up").symlink_to(root.parent)
    (root / "loop.mp4").symlink_to(root / "loop.mp4")
    (root / "hang.mp4").symlink_to(root / "nothing.mp4")
    assert resolve_video(root, "inside.mp4") == (root / "a.mp4").resolve()
    assert kind_of(root, "out.mp4") == "outside-root"
    assert kind_of(root, "out.avi") == "outside-root"
    assert kind_of(root, "up/secret.mp4") == "outside-root"
    assert kind_of(root, "loop.mp4") == "missing"
    assert kind_of(root, "hang.mp4") == "missing"


def test_the_root_itself_may_be_a_link(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    assert resolve_video(link, "a.mp4") == (root / "a.mp4").resolve()


PARTS = st.sampled_from(["..", ".", "", "a", "secret", "part", "/", "\\", "C:", "~", "\0", ".mp4", " "])


@given(st.one_of(st.text(max_size=30), st.lists(PARTS, max_size=6).map("/".join), st.lists(PARTS).map("".join)))
@example("../secret.mp4")
def test_no_name_leads_outside(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        (root / "part").mkdir(parents=True)
        (root / "a.mp4").touch()
        (Path(folder) / "secret.mp4").touch()
        found = None
        with contextlib.suppress(MediaError):
            found = resolve_video(root, name)
        if found is not None:
            assert found.is_relative_to(root.resolve())
            assert found.exists()
