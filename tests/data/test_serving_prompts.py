import gzip
import json

import pytest

from gemma_tf_distill.data.serving_prompts import prompts_fingerprint, read_serving_prompts
from gemma_tf_distill.errors import CorpusError

PROMPTS = ["Returns the", "Was ist ein naïve café?", "Raises"]


def test_lines_and_json_lines_are_the_same_prompts(tmp_path):
    (tmp_path / "a.txt").write_bytes("\r\n".join([PROMPTS[0], "", *PROMPTS[1:], "  "]).encode())
    lines = "".join(json.dumps({"body": prompt}) + "\n" for prompt in PROMPTS)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name in ("a.txt", "a.jsonl.gz"):
        assert sorted(read_serving_prompts(str(tmp_path / name), "body", 10)) == sorted(PROMPTS)


def test_of_many_prompts_the_same_sample_is_kept_in_any_order(tmp_path):
    texts = [f"prompt {number}" for number in range(50)]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    (tmp_path / "b.txt").write_text("\n".join(reversed(texts)))
    kept = read_serving_prompts(str(tmp_path / "a.txt"), "text", 20)
    assert len(set(kept)) == 20
    assert kept == read_serving_prompts(str(tmp_path / "b.txt"), "text", 20)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "has no prompts: write one a line, or set it to null"),
        ("a.txt", b"a\xff", "is not UTF-8 text: byte 1 is 0xff"),
        ("a.jsonl", b'{"txt": "a"}', "line 1 has no 'text'.*did you mean 'txt'"),
        ("b.txt", None, "b.txt cannot be read: No such file or directory"),
    ],
)
def test_what_is_wrong_with_a_file_of_prompts(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=rf"^data_validation\.serving_prompts: .*{message}"):
        read_serving_prompts(str(tmp_path / name), "text", 10)


def test_changed_prompts_have_another_fingerprint(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a")
    before = prompts_fingerprint(str(path))
    path.write_text("ab")
    assert prompts_fingerprint(str(path)) != before
    assert prompts_fingerprint(None) == ""
    with pytest.raises(CorpusError, match=r"data_validation\.serving_prompts: .* cannot be read"):
        prompts_fingerprint(str(tmp_path / "none.txt"))
