"""Safetensors files: one reader, for which a file means one thing or is refused."""

import json
import struct

import numpy as np
import pytest

from refgss.tensors import TensorFileError, read_tensors, write_tensors


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


X = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
TWICE = {
    "a tensor": f'{{"x":{X},"x":{X}}}',
    "a tensor, escaped once": f'{{"x":{X},"\\u0078":{X}}}',
    "a metadata key": f'{{"__metadata__":{{"a":"1","a":"2"}},"x":{X}}}',
    "the metadata": f'{{"__metadata__":{{}},"__metadata__":{{}},"x":{X}}}',
    "a field": X.join(('{"x":', "}")).replace('"dtype"', '"dtype":"F32","dtype"'),
}


@pytest.mark.parametrize("kind", TWICE)
def test_a_key_that_stands_twice_is_refused(tmp_path, kind):
    path = tmp_path / "f"
    path.write_bytes(file_of(TWICE[kind].encode(), bytes(4)))
    with pytest.raises(TensorFileError, match=str(path)):
        read_tensors(path)


@pytest.mark.parametrize("value", [None, [], 5, "text", {"a": 1}, {"a": None}])
def test_metadata_is_an_object_of_texts(tmp_path, value):
    path = tmp_path / "f"
    path.write_bytes(file_of({"__metadata__": value, "x": json.loads(X)}, bytes(4)))
    with pytest.raises(TensorFileError, match="damaged"):
        read_tensors(path)


@pytest.mark.parametrize("depth", [100, 900, 990, 2000, 100_000])
def test_a_header_nested_deeply_is_refused(tmp_path, depth):
    path = tmp_path / "f"
    path.write_bytes(file_of(b'{"x":' + b"[" * depth + b"]" * depth + b"}"))
    with pytest.raises(TensorFileError, match="damaged"):
        read_tensors(path)


def test_what_is_written_is_read(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"float32": (3, 5), "float64": (0, 2), "int64": (), "int8": (7,)}
    shapes |= {"uint16": (2, 1), "float16": (3,), "int32": (4,)}
    tensors = {name: rng.integers(0, 100, shape).astype(name) for name, shape in shapes.items()}
    write_tensors(tmp_path / "f", tensors, {"b": "2", "a": "1"})
    found = read_tensors(tmp_path / "f")
    assert found.metadata == {"a": "1", "b": "2"} and found.tensors.keys() == tensors.keys()
    for name, x in tensors.items():
        assert found.tensors[name].dtype == x.dtype and found.tensors[name].shape == x.shape
        np.testing.assert_array_equal(found.tensors[name], x)


def test_a_link_loop_is_one_sentence(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(TensorFileError, match="cannot be read"):
        read_tensors(tmp_path / "loop")
    with pytest.raises(TensorFileError, match="cannot be written"):
        write_tensors(tmp_path / "loop", {}, {})
