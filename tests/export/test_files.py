"""Published files are whole or absent, and their records identify them."""

import hashlib

import pytest

from gemma_tf_distill.export.files import copy_tree, file_records, published, write_bytes


def test_records_name_every_file_below_a_folder(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    contents = {"a/b/deep.bin": bytes(range(256)) * 9_000, "a/empty": b"", "top.txt": b"hello"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    records = file_records(str(tmp_path))
    assert [record.path for record in records] == sorted(contents)
    for record in records:
        assert record.bytes == len(contents[record.path])
        assert record.sha256 == hashlib.sha256(contents[record.path]).hexdigest()


def test_a_tree_is_copied_with_its_folders(tmp_path):
    (tmp_path / "from" / "x").mkdir(parents=True)
    (tmp_path / "from" / "x" / "file").write_bytes(b"1")
    (tmp_path / "from" / "file").write_bytes(b"2")
    copy_tree(str(tmp_path / "from"), str(tmp_path / "to"))
    assert file_records(str(tmp_path / "to")) == file_records(str(tmp_path / "from"))


@pytest.mark.parametrize("before", [None, "file", "folder"])
def test_an_error_leaves_what_was_there(tmp_path, before):
    target = tmp_path / "target"
    if before == "file":
        target.write_bytes(b"old")
    if before == "folder":
        target.mkdir()
        (target / "old").write_bytes(b"old")
    files = file_records(str(tmp_path))

    def write_half() -> None:
        with published(str(target)) as beside, open(beside, "wb") as file:
            file.write(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert file_records(str(tmp_path)) == files


def test_a_new_folder_replaces_the_old_one_whole(tmp_path):
    for content in (b"1", b"2"):
        with published(str(tmp_path / "folder") + "/") as beside:
            write_bytes(f"{beside}/{content.decode()}", content)
    assert [record.path for record in file_records(str(tmp_path))] == ["folder/2"]


def test_a_new_file_replaces_the_old_one(tmp_path):
    for content in (b"1", b"22"):
        write_bytes(str(tmp_path / "new" / "file"), content)
    assert (tmp_path / "new" / "file").read_bytes() == b"22"
    assert len(file_records(str(tmp_path))) == 1
