"""Which text is trained on, and in which order."""

import numpy as np
import pytest

from refgss.model.documents import DocumentError
from refgss.model.tokenizer import SEPARATOR, ByteTokenizer
from refgss.training.data import (
    DataConfig,
    DataError,
    Windows,
    is_held_out,
    prepare,
    spaced_windows,
    split,
)

WORDS = ByteTokenizer()


@pytest.fixture
def library(tmp_path):
    folder = tmp_path / "library"
    for i in range(40):
        file = folder / f"part{i % 3}" / f"file{i}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"x = {i}\n" * (i + 1))
    return folder


def test_a_file_is_held_out_by_its_name_wherever_it_lies(library, tmp_path):
    train, held_out = split(DataConfig((str(library),), held_out=0.3))
    assert not train.keys() & held_out.keys() and len(train) + len(held_out) == 40
    assert held_out and all(is_held_out(name, 0.3) for name in held_out)
    moved = library.rename(tmp_path / "elsewhere")
    assert list(split(DataConfig((str(moved),), held_out=0.3))[1]) == list(held_out)


def test_the_share_held_out_is_about_what_was_asked():
    names = [f"folder/module{i}.py" for i in range(4000)]
    share = sum(is_held_out(name, 0.05) for name in names) / len(names)
    assert abs(share - 0.05) < 4 * np.sqrt(0.05 * 0.95 / len(names))  # four standard deviations


def test_the_standard_library_has_no_installed_packages():
    train, held_out = split(DataConfig())
    assert "os.py" in {**train, **held_out} and len(held_out) > 20
    assert not any("site-packages" in str(path) for path in (*train.values(), *held_out.values()))


def test_tokens_are_the_documents_with_a_separator_before_each(library, tmp_path):
    config = DataConfig((str(library),), held_out=0.3)
    text = prepare(config, WORDS, tmp_path)
    for part, files in zip((text.train, text.held_out), split(config), strict=True):
        documents = np.split(part, np.flatnonzero(part == SEPARATOR))[1:]
        assert [WORDS.decode(d[1:]) for d in documents] == [f.read_bytes() for f in files.values()]
    again = prepare(config, WORDS, tmp_path)
    assert again.digest == text.digest and np.array_equal(again.train, text.train)


def test_the_tail_is_held_out(library, tmp_path):
    whole = prepare(DataConfig((str(library),), held_out=0.0), WORDS, tmp_path / ".").train
    (tmp_path / "tail").mkdir()
    config = DataConfig((str(library),), held_out_tail=0.1)
    text = prepare(config, WORDS, tmp_path / "tail")
    assert len(text.train) == round(0.9 * len(whole))
    assert np.array_equal(np.concatenate([text.train, text.held_out]), whole)


@pytest.mark.parametrize("size, length", [(1000, 10), (1007, 10), (11, 10), (21, 10), (64, 1)])
def test_an_epoch_has_every_target_at_most_once_and_nearly_all(size, length):
    windows = Windows(np.arange(size), length, seed=3)
    batch = windows.batch(0, windows.count)
    assert batch.shape == (windows.count, length + 1)
    assert np.array_equal(batch, batch[:, :1] + np.arange(length + 1))
    targets = batch[:, 1:].ravel()
    assert len(set(targets.tolist())) == len(targets) > size - 1 - 2 * length


def test_batches_depend_on_step_and_seed_alone():
    tokens = np.arange(5000)
    a, b = Windows(tokens, 16, seed=0), Windows(tokens, 16, seed=0)
    later = [a.batch(step, 7) for step in range(200)]  # four epochs and more
    assert np.array_equal(b.batch(150, 7), later[150])
    joined = np.concatenate(later)
    assert np.array_equal(Windows(tokens, 16, seed=0).batch(0, 1400), joined)
    assert not np.array_equal(Windows(tokens, 16, seed=1).batch(0, 7), later[0])


def test_held_out_windows_are_spread_over_the_text():
    found = spaced_windows(np.arange(1000), 100, 4)
    assert found[0, 0] == 0 and found[-1, -1] == 999 and found.shape == (4, 101)
    assert spaced_windows(np.arange(100), 100, 4).shape == (0, 101)


def test_bad_text_is_one_sentence(tmp_path):
    binary, empty, short = (tmp_path / n for n in ("binary", "empty", "short"))
    binary.write_bytes(b"\0\1\2")
    empty.write_bytes(b"")
    short.write_text("short")
    for path in (binary, empty, tmp_path / "missing"):
        with pytest.raises(DocumentError, match=path.name):
            prepare(DataConfig((str(path),)), WORDS, tmp_path)
    with pytest.raises(DataError, match="held out"):
        prepare(DataConfig((str(short),), held_out=0.999999999), WORDS, tmp_path)
    with pytest.raises(DataError, match="fewer than one window"):
        Windows(np.zeros(10), 10, 0)
    with pytest.raises(DataError, match="at least 0 and below 1"):
        DataConfig(held_out=1.5)


def test_a_folder_with_other_or_damaged_text_is_refused(library, tmp_path):
    config = DataConfig((str(library),), held_out=0.3)
    prepare(config, WORDS, tmp_path)
    with pytest.raises(DataError, match="other text"):
        prepare(DataConfig((str(library),), held_out=0.2), WORDS, tmp_path)
    tokens = tmp_path / "text.tokens"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(DataError, match="damaged"):
        prepare(config, WORDS, tmp_path)
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        prepare(config, WORDS, tmp_path)
