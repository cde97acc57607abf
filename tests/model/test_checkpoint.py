"""Checkpoints: what is written comes back with equal bytes; all damage is one sentence."""

import json
import os
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refgss.model import CheckpointError, Session, evaluate, load_checkpoint, save_checkpoint
from refgss.model.weights import quantize

from .models import LAYERS, small


@pytest.mark.parametrize("weights", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_checkpoint_comes_back_with_equal_bytes(tmp_path, layer, tied, weights):
    params, config = small(LAYERS[layer], tied=tied)
    params = quantize(params, weights)
    save_checkpoint(tmp_path / "a", params, config, about={"steps": 3})
    loaded = load_checkpoint(tmp_path / "a")
    assert (loaded.config, loaded.about, loaded.weights) == (config, {"steps": 3}, weights)
    assert loaded.params.keys() == params.keys()
    for name, x in params.items():
        assert x.dtype == loaded.params[name].dtype
        np.testing.assert_array_equal(x, loaded.params[name])
    save_checkpoint(tmp_path / "b", loaded.params, config, about={"steps": 3})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_initialisation_depends_on_the_seed_alone():
    first, second, other = (small(seed=s)[0] for s in (1, 1, 2))
    assert all(np.array_equal(first[k], second[k]) for k in first)
    assert not np.array_equal(first["layers.0.w_v"], other["layers.0.w_v"])


# --- damage --------------------------------------------------------------------------------------


def header_of(content):
    (n,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + n]), content[8 + n :]


def joined(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def edited(change):
    """Damage to the header, the tensors' bytes as they were."""

    def damage(content):
        header, data = header_of(content)
        return joined(change(header) or header, data)

    return damage


def config_with(**fields):
    def change(header):
        config = json.loads(header["__metadata__"]["refgss.config"]) | fields
        header["__metadata__"]["refgss.config"] = json.dumps(config)

    return edited(change)


def overlapping(header):
    header["layers.0.w_v"]["data_offsets"] = header["layers.1.w_v"]["data_offsets"]


DAMAGE = {
    "empty": lambda content: b"",
    "text": lambda content: b"this is no model at all",
    "pickle": lambda content: b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94",
    "truncated": lambda content: content[:-1],
    "header cut off": lambda content: content[:100],
    "longer": lambda content: content + b"\0",
    "bit flip in the header": lambda content: content[:30] + b"\xff" + content[31:],
    "oversized header": lambda content: struct.pack("<Q", 2**63) + content[8:],
    "header longer than the file": lambda content: struct.pack("<Q", 10**6) + content[8:],
    "nested": lambda content: joined({}, b"")[:8] + b"[" * 100000,
    "overlap": edited(overlapping),
    "missing": edited(lambda h: {k: v for k, v in h.items() if k != "norm.weight"}),
    "no metadata": edited(lambda h: {k: v for k, v in h.items() if k != "__metadata__"}),
    "config is no JSON": edited(lambda h: h["__metadata__"].update({"refgss.config": "{"})),
    "config is a list": edited(lambda h: h["__metadata__"].update({"refgss.config": "[]"})),
    "unknown key": edited(lambda h: h["__metadata__"].update({"refgss.secret": "{}"})),
    "unknown config key": config_with(dropout=0.1),
    "another depth": config_with(depth=3),
    "absurd depth": config_with(depth=65536),
    "depth of another type": config_with(depth="2"),
    "no layer": config_with(layer=None),
    "eps is no number": config_with(
        layer={"imag": "exp", "ssm_norm": False, "out_bias": False, "eps": float("nan")}
    ),
    "nested metadata": edited(lambda h: h["__metadata__"].update({"refgss.about": "[" * 10**6})),
    "tied": config_with(tied=True),
    "unknown tokenizer": edited(lambda h: h["__metadata__"].update({"refgss.tokenizer": "words"})),
    "no tokenizer": edited(lambda h: h["__metadata__"].pop("refgss.tokenizer") and None),
    "no tokenizer file": edited(lambda h: h["__metadata__"].update({"refgss.tokenizer": "{}"})),
    "another type": edited(lambda h: h["norm.weight"].update(dtype="I32")),
    "unknown type": edited(lambda h: h["norm.weight"].update(dtype="F8_E4M3")),
    "another shape": edited(lambda h: h["layers.0.w_v"].update(shape=[48, 33])),
    "flat": edited(lambda h: h["layers.0.w_v"].update(shape=[48 * 33])),
    "ssm.c flat": edited(lambda h: h["layers.0.ssm.c"].update(shape=[280])),
    "extra tensor": edited(
        lambda h: {**h, "x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_sentence(tmp_path, kind):
    params, config = small()
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, params, config)
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    with pytest.raises(CheckpointError) as e:
        load_checkpoint(path)
    sentence = str(e.value)
    assert str(path) in sentence and "\n" not in sentence and len(sentence) < 600, sentence


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("layers.1.w_o", np.nan, "layers.1.w_o has a value that is not finite"),
        ("layers.0.ssm.d", np.inf, "not finite"),
        ("layers.0.ssm.a", -200.0, "Re Λ < 0"),
        ("layers.0.ssm.a", 100.0, "finite Λ"),
        ("layers.0.ssm.b", 100.0, "finite Λ"),
    ],
)
def test_bad_values_are_refused_by_reader_and_writer(tmp_path, name, value, says):
    params, config = small()
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, params, config)
    before = path.read_bytes()
    bad = params[name].copy()
    bad.flat[0] = value
    with pytest.raises(CheckpointError, match=says):
        save_checkpoint(path, params | {name: bad}, config)
    assert path.read_bytes() == before
    path.write_bytes(before.replace(params[name].tobytes(), bad.tobytes()))
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(path)


@pytest.mark.parametrize("path", ["no/such/file", "."])
def test_what_is_no_file_is_one_sentence(tmp_path, path):
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / path)
    params, config = small()
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / path, params, config)


def test_metadata_of_other_programs_is_their_business(tmp_path):
    params, config = small()
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, params, config)
    path.write_bytes(edited(lambda h: h["__metadata__"].update(format="pt"))(path.read_bytes()))
    assert load_checkpoint(path).config == config


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0), st.integers(0), st.binary(min_size=1, max_size=8))
def test_any_damage_is_refused_or_gives_a_model(at, keep, patch):
    """No damage raises anything but CheckpointError."""
    params, config = small()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.safetensors"
        save_checkpoint(path, params, config)
        content = path.read_bytes()
        at %= 4000 if at % 2 else len(content)  # half of them in the header
        content = content[:at] + patch + content[at + len(patch) :]
        path.write_bytes(content[: keep % (2 * len(content))])
        try:
            load_checkpoint(path)
        except CheckpointError as e:
            assert str(path) in str(e)


def rewritten(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def replaced(path):
    path.rename(path.with_name("old"))
    params, config = small(seed=2)
    save_checkpoint(path, params, config)


@pytest.mark.parametrize(
    "change", [rewritten, replaced, lambda path: os.truncate(path, path.stat().st_size // 2)]
)
def test_a_model_whose_file_has_changed_is_refused_by_a_new_session(tmp_path, change):
    """Before anything of the file is touched: one that was cut short would end the process."""
    params, config = small()
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, params, config)
    loaded = load_checkpoint(path)
    Session(loaded)
    time.sleep(0.01)  # of the clock that files are stamped with
    change(path)
    with pytest.raises(CheckpointError, match="has changed since it was loaded"):
        Session(loaded)
    with pytest.raises(CheckpointError, match="has changed since it was loaded"):
        evaluate(loaded, [[np.zeros(3, np.int32)]])


def test_a_model_whose_file_is_gone_is_still_there(tmp_path):
    params, config = small()
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, params, config)
    loaded = load_checkpoint(path)
    path.unlink()
    assert np.isfinite(Session(loaded).step(np.array([1]))).all()
