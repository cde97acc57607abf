"""Random calls of the C ABI, most of them wrong: `python abi_fuzz.py CALLS [SEED]`.

Each call is drawn by itself, from (seed, number), so that one that crashes can be made again: the
file `abi_fuzz.last`, in the folder of the run, has the number of the call in progress.  What must
hold: nothing crashes or hangs; a right call is REFGSS_OK; one that breaks a rule of the header is
refused with a sentence; inputs, and memory beside outputs, stay as they are.
"""

from __future__ import annotations

import faulthandler
import math
import os
import random
import sys
from collections import Counter
from types import FunctionType
from typing import Any

import numpy as np

from refgss.native import abi

# one line an entry: inputs, ?optional inputs, >outputs, >?optional outputs, with their axes
ENTRIES = """
causal_conv         u:BLH k:HK >y:BLH
causal_conv_vjp     u:BLH k:HK dy:BLH >du:BLH >dk:HK
spectrum_conv       spectrum u:BLH >y:BLH
conv_stream_push    conv_stream u:BLH >y:BLH
gss_lambda          a:N b:N flag >lam:N2
gss_lambda_vjp      a:N b:N dlam:N2 flag >da:N >db:N
discretize          lam:N2 delta form >abar:GN2 >bbar:GN2
discretize_vjp      lam:N2 delta dabar:GN2 dbbar:GN2 form >dlam:N2 >ddelta
ssm_kernel          lam:N2 c:HN2 delta form >k:HL
ssm_kernel_vjp      lam:N2 c:HN2 dk:HL delta form >dlam:N2 >dc:HN2 >ddelta
ssm_scan            u:BLH lam:N2 c:HN2 ?state:BHN2 delta form >y:BLH >?state_out:BHN2
ssm_scan_vjp        u:BLH lam:N2 c:HN2 ?state:BHN2 dy:BLH ?dstate:BHN2 delta form >du:BLH \
>dlam:N2 >dc:HN2 >?dstate0:BHN2 >ddelta
ssm_step            u:BH lam:N2 c:HN2 ?state:BHN2 delta form >y:BH >?state_out:BHN2
ssm_apply           ssm u:BLH ?state:BHN2 >y:BLH >?state_out:BHN2
stepper_step        stepper u:BH >y:BH
stepper_state       stepper >state_out:BHN2
layer_norm          x:ME weight:E bias:E eps >y:ME
layer_norm_vjp      x:ME weight:E dy:ME eps >dx:ME >dweight:E >dbias:E
rms_norm            x:ME weight:E eps >y:ME
rms_norm_vjp        x:ME weight:E dy:ME eps >dx:ME >dweight:E
attention           q:BLAP k:BLUP v:BLUP ?bias:AD nothing nothing nothing window >y:BLAP \
>state_k_out:BSUP >state_v_out:BSUP numbers
attention           q:BLAP k:BLUP v:BLUP ?bias:AD state_k:BSUP state_v:BSUP numbers window \
>y:BLAP >state_k_out:BSUP >state_v_out:BSUP numbers
attention_step      q:BAP k:BUP v:BUP ?bias:AD state_k:BSUP state_v:BSUP numbers window >y:BAP \
>state_k_out:BSUP >state_v_out:BSUP numbers
attention_vjp       q:BLAP k:BLUP v:BLUP bias:AD state_k:BSUP state_v:BSUP numbers dy:BLAP \
?dstate_k:BSUP ?dstate_v:BSUP window >dq:BLAP >dk:BLUP >dv:BLUP >dbias:AD >?dstate0_k:BSUP \
>?dstate0_v:BSUP
attention_step_vjp  q:BAP k:BUP v:BUP nothing nothing nothing nothing dy:BAP ?dstate_k:BSUP \
?dstate_v:BSUP window >dq:BAP >dk:BUP >dv:BUP nothing >?dstate0_k:BSUP >?dstate0_v:BSUP
window_attention    q:BLAP k:BLAP v:BLAP ?bias:AW ?scale:A nothing nothing tokens >y:BLAP \
>state_k_out:BCAP >state_v_out:BCAP
window_attention    q:BLAP k:BLAP v:BLAP ?bias:AW ?scale:A state_k:BCAP state_v:BCAP tokens \
>y:BLAP >state_k_out:BCAP >state_v_out:BCAP
window_attention_vjp q:BLAP k:BLAP v:BLAP bias:AW scale:A state_k:BCAP state_v:BCAP dy:BLAP \
?dstate_k:BCAP ?dstate_v:BCAP tokens >dq:BLAP >dk:BLAP >dv:BLAP >dbias:AW >dscale:A \
>?dstate0_k:BCAP >?dstate0_v:BCAP
state_attention     q:BLAP k:BMAP v:BMAP ?scale:A >y:BLAP
state_attention_vjp q:BLAP k:BMAP v:BMAP scale:A dy:BLAP >dq:BLAP >dk:BMAP >dv:BMAP >dscale:A
l2_normalize        x:ME eps >y:ME
l2_normalize_vjp    x:ME dy:ME eps >dx:ME
gate                s:ME z:ME f:E nothing gate_fixed >y:ME
gate                s:ME z:ME f:ME nothing gate_full >y:ME
gate                s:ME z:ME f:ME i:ME gate_lstm >y:ME
gate_vjp            s:ME z:ME f:E nothing dout:ME gate_fixed >ds:ME >dz:ME >df:E nothing
gate_vjp            s:ME z:ME f:ME i:ME dout:ME gate_lstm >ds:ME >dz:ME >df:ME >di:ME
rope                x:BLAQ positions base pairing >y:BLAQ
rope_vjp            positions dy:BLAQ base pairing >dx:BLAQ
t5_bias             table:AT >bias:AD
t5_bias_vjp         dbias:AD >dtable:AT
gelu                x:ME >y:ME
gelu_vjp            x:ME dy:ME >dx:ME
dense               x:ME weight:EF ?bias:F >y:MF
dense_vjp           x:ME weight:EF dy:MF >dx:ME >dweight:EF >?dbias:F
gss_layer           gss nothing x:BLE ?state:BHN2 >y:BLE >?state_out:BHN2
dss_layer           dss nothing x:BLH ?state:BHN2 >y:BLH >?state_out:BHN2
gss_layer_keeping   gss x:BLE ?state:BHN2 >y:BLE >?state_out:BHN2 kept
gss_layer_vjp       gss x:BLE ?state:BHN2 nothing dy:BLE ?dstate:BHN2 >gss >dx:BLE >?dstate0:BHN2
dss_layer_vjp       dss x:BLH ?state:BHN2 dy:BLH ?dstate:BHN2 >dss >dx:BLH >?dstate0:BHN2
"""
GSS = "norm_weight:E norm_bias:E w_v:EF w_u:EH ?ssm_norm_weight:H ?ssm_norm_bias:H lam_a:N "
GSS += "lam_b:N c:HN2 d:H w_uc:HF w_o:FE ?b_o:E"
DSS = "norm_weight:H norm_bias:H lam_a:N lam_b:N c:HN2 d:H log_delta:H w_o:HH ?b_o:H"
ROWS_ARE_CONTIGUOUS = {  # of these outputs
    ("layer_norm", "y"), ("layer_norm_vjp", "dx"), ("gelu", "y"), ("gelu_vjp", "dx"),
    ("gss_layer_vjp", "w"), ("gss_layer_keeping", "kept"),
    ("rms_norm", "y"), ("rms_norm_vjp", "dx"),
    ("l2_normalize", "y"), ("l2_normalize_vjp", "dx"), ("gate", "y"),
    *(("gate_vjp", name) for name in ("ds", "dz", "df", "di")),
    *((entry, name) for entry in ("attention", "attention_step", "attention_vjp",
                                  "attention_step_vjp", "window_attention",
                                  "window_attention_vjp", "state_attention",
                                  "state_attention_vjp")
      for name in ("y", "state_k_out", "state_v_out", "dq", "dk", "dv", "dstate0_k", "dstate0_v")),
}  # fmt: skip
HUGE = (2**46, 2**60, 2**62, 2**63 - 1)
GUARD = 64  # bytes before and after


class Array:
    """A refgss_array, its memory, and what is wrong with it."""

    def __init__(self, fuzz: Fuzz, name: str, shape: tuple, output: bool, contiguous: bool):
        draw, ffi = fuzz.draw, fuzz.ffi
        self.name, self.shape, self.output = name, shape, output
        self.item = fuzz.item
        order = list(range(len(shape)))
        stride, step = [0] * len(shape), 1
        plain = contiguous or draw.random() < 0.6
        if not plain:
            draw.shuffle(order)
        for axis in reversed(order):
            stride[axis] = step * (1 if plain or draw.random() < 0.6 else -1)
            step *= max(shape[axis], 1)
            step += 0 if plain or draw.random() < 0.7 else draw.randrange(3)
        if shape and not output and not plain and draw.random() < 0.15:
            stride[draw.randrange(len(shape))] = 0
        ends = [(n - 1) * s for n, s in zip(shape, stride, strict=True) if n]
        low, high = sum(e for e in ends if e < 0), sum(e for e in ends if e > 0)
        count = 0 if 0 in shape else high - low + 1
        self.memory = bytearray(count * self.item + 2 * GUARD + 64)
        whole = ffi.from_buffer(self.memory)
        base = int(ffi.cast("uintptr_t", whole))
        self.first = GUARD + -(base + GUARD) % 64
        self.end = self.first + count * self.item
        values = np.frombuffer(self.memory, fuzz.scalar, count, self.first)
        values[:] = fuzz.values(name, count)
        self.data = base + self.first - low * self.item
        self.fields = [self.data, 1 if self.item == 4 else 2, len(shape), list(shape), stride]
        self.before: bytes | None = None
        self.of_the_call = True
        self._keep = whole

    def c(self, ffi: Any) -> Any:
        data, dtype, rank, shape, stride = self.fields
        a = ffi.new("refgss_array *")
        a.data, a.dtype, a.rank = ffi.cast("void *", data), dtype, rank
        for i, (n, s) in enumerate(zip(shape[:4], stride[:4], strict=True)):
            a.shape[i], a.stride[i] = n, s
        self.before = bytes(self.memory)
        return a

    def disturbed(self) -> bool:
        """Whether memory changed that must not: that of an input, or beside an output."""
        if not self.output:
            return bytes(self.memory) != self.before
        now, old = self.memory, self.before or b""
        return now[: self.first] != old[: self.first] or now[self.end :] != old[self.end :]


class Fuzz:
    def __init__(self, seed: int):
        self.ffi, self.lib = abi.open_library()
        self.seed, self.counts = seed, Counter()
        self.asked = 0
        self.check = self.ffi.callback("int32_t(void)", self.patience)
        self.lib.refgss_set_interrupt_check(self.check)
        self.entries = [line.split() for line in ENTRIES.strip().replace("\\\n", "").split("\n")]

    def patience(self) -> int:
        self.asked += 1
        return int(self.asked > 30)  # of 20 ms each

    def values(self, name: str, count: int) -> Any:
        rng = self.rng
        if name in ("lam", "delta", "log_delta"):
            x = rng.uniform(0.01, 1, count)
            return -x if name == "lam" else x
        if name in ("lam_a", "lam_b"):
            return rng.uniform(-1, 1, count)  # of a layer: Λ must be finite
        scale = 10.0 ** rng.integers(-30, 30) if rng.random() < 0.1 else 1.0
        x = rng.standard_normal(count) * scale
        if rng.random() < 0.05 and count:
            x[rng.integers(count)] = rng.choice([np.nan, np.inf, -np.inf, 3e38, 1e-42])
        return x

    def run(self, calls: int, folder: str = ".") -> Counter:
        log = os.open(os.path.join(folder, "abi_fuzz.last"), os.O_CREAT | os.O_RDWR, 0o600)
        for number in range(calls):
            os.pwrite(log, f"{number:12d}".encode(), 0)
            self.call(number)
        os.close(log)
        return self.counts

    def call(self, number: int) -> None:
        draw = self.draw = random.Random(self.seed * 2**40 + number)
        self.rng = np.random.default_rng(draw.getrandbits(63))
        self.item = draw.choice((4, 8))
        self.scalar = np.float32 if self.item == 4 else np.float64
        sizes = (0, 1, 1, 2, 3, 5, 8, 17)
        self.sizes = {axis: draw.choice(sizes) for axis in "BLHNKMEF"} | {"2": 2}
        self.sizes["E"] = max(self.sizes["E"], 1)  # a norm is over something
        self.draw_attention()
        if draw.random() < 0.1:
            self.sizes["L"] = draw.choice((65, 130, 700))
        self.delta = draw.choice(("", "H"))
        self.broken: list[str] = []
        self.wrong = draw.random() < 0.6
        self.keep: list[Any] = []
        self.arrays: list[Array] = []
        self.free: list[Any] = []
        self.asked = 0
        self.number = number
        if draw.random() < 0.08:
            self.call_decoder()
            return
        entry, *parameters = draw.choice(self.entries)
        self.entry = entry
        if entry.startswith(("gss_layer", "dss_layer")):  # nor is a norm of channels
            self.sizes["H"] = max(self.sizes["H"], 1)
        arguments = [self.argument(p) for p in parameters]
        self.alias()
        values = [a() if isinstance(a, FunctionType) else a for a in arguments]
        self.judge(entry, getattr(self.lib, f"refgss_{entry}")(*values))

    def draw_attention(self) -> None:
        """A window; heads A, groups U, their width P, slots S, distances D; T buckets, Q even.

        Of a window of C tokens before a query: distances W.
        """
        draw = self.draw
        chunk, groups = draw.choice((1, 2, 3, 7, 40)), draw.choice((1, 2))
        self.window = chunk, draw.choice((1, 2, 3, 4)), draw.randrange(2)
        slots = chunk * (2 if self.window[1] == 3 else 1)
        heads = {"U": groups, "A": groups * draw.choice((1, 3)), "P": draw.choice((1, 4, 17))}
        self.sizes |= heads | {"S": slots, "D": slots + draw.choice((1, 2)), "T": 32}
        self.sizes |= {"C": chunk, "W": chunk + draw.choice((1, 2))}
        self.sizes["Q"] = draw.choice((0, 6))

    def judge(self, entry: str, status: int) -> None:
        for free, handle in self.free:
            free(handle)
        lib, ffi = self.lib, self.ffi
        where = f"call {self.number} of seed {self.seed}, {entry} {self.sizes} {self.item}"
        assert 0 <= status <= lib.REFGSS_ERROR_BUSY, f"{where} -> {status}"
        if status != lib.REFGSS_OK:
            sentence = ffi.string(lib.refgss_last_error())
            assert len(sentence) > 5, f"{where} -> {status} without a sentence"
            impatient = status == lib.REFGSS_ERROR_INTERRUPTED and self.asked > 30
            assert self.wrong or self.broken or impatient, (
                f"{where} is right, and refused: {sentence!r}"
            )
            assert status != lib.REFGSS_ERROR_INTERNAL, f"{where}: {sentence!r}"
        else:
            assert not self.broken, f"{where} is accepted: {self.broken}"
        for a in self.arrays:
            assert not a.disturbed(), f"{where}: memory of {a.name} changed"
        self.counts[entry, status] += 1

    # ---- arguments -------------------------------------------------------------------------

    def argument(self, text: str) -> Any:
        output, text = text.startswith(">"), text.removeprefix(">")
        optional, text = text.startswith("?"), text.removeprefix("?")
        name, _, axes = text.partition(":")
        special = getattr(self, f"make_{name}", None)
        if special and not axes:
            return special(output)
        if name == "ddelta":
            axes = self.delta
        axes = axes.replace("G", self.delta)
        if optional and self.draw.random() < 0.4:
            return self.ffi.NULL
        if not optional and self.wrong and self.draw.random() < 0.04:
            self.broken.append(f"{name} is NULL")
            return self.ffi.NULL
        a = self.array(name, axes, output)
        return lambda: self.view(a)

    def array(self, name: str, axes: str, output: bool) -> Array:
        shape = tuple(self.sizes[x] for x in axes)
        contiguous = output and any(
            self.entry == e and (name == n or (n == "w" and name.startswith("w_")) or n == "kept")
            for e, n in ROWS_ARE_CONTIGUOUS
        )
        a = Array(self, name, shape, output, contiguous)
        self.arrays.append(a)
        if self.wrong and self.draw.random() < 0.12:
            self.spoil(a)
        return a

    def view(self, a: Array) -> Any:
        self.keep.append(a.c(self.ffi))
        return self.keep[-1]

    def spoil(self, a: Array) -> None:
        draw, (_, _, rank, shape, stride) = self.draw, a.fields
        empty = 0 in shape
        how = draw.choice("rank dtype negative null-data misaligned huge strides length".split())
        axis = draw.randrange(rank) if rank else None
        if how == "rank":
            a.fields[2] = draw.choice([r for r in (-1, 0, 1, 5, 2**31 - 1) if r != rank])
            if a.name == "delta" and a.fields[2] in (0, 1):
                return  # another kind of step: memory is there for its first number
        elif how == "dtype":
            a.fields[1] = draw.choice((0, 3, 4, 77, -1))
        elif how == "negative" and rank:
            shape[axis] = draw.choice((-1, -(2**63)))
        elif how == "null-data" and not empty:
            a.fields[0] = 0
        elif how == "misaligned" and not empty:
            a.fields[0] += 1
        elif how == "huge" and rank:
            shape[axis], stride[axis] = draw.choice(HUGE), 0
            if draw.random() < 0.3 and rank > 1:
                shape[axis - 1], stride[axis - 1] = draw.choice(HUGE), 0
            return  # as a broadcast input it may be right
        elif how == "strides" and a.output and rank and shape[axis] > 1 and not empty:
            stride[axis] = 0
        elif how == "length" and rank and shape[axis] > 0:
            shape[axis] -= 1  # perhaps no mistake, where the axis is free
            return
        else:
            return
        if not (a.name == "delta" and how == "rank"):
            self.broken.append(f"{a.name}: {how}")

    def alias(self) -> None:
        """An output that begins where another argument does."""
        outputs = [a for a in self.arrays if a.output and min(a.fields[3], default=1) > 0]
        if not (self.wrong and outputs and self.draw.random() < 0.15):
            return
        one = self.draw.choice(outputs)
        other = self.draw.choice([a for a in self.arrays if a.of_the_call])
        if (
            other is one
            or min(other.fields[3], default=1) < 1
            or other.end - other.first < one.end - one.first
        ):
            return
        if (one.name, other.name) == ("state_out", "state"):
            return
        if min(one.fields[4] + other.fields[4] + [0]) < 0:
            return  # in other directions from there, perhaps beside it
        one.fields[0] = other.fields[0]
        other.output = True  # the refused call may not have touched it all the same
        self.broken.append(f"{one.name} on {other.name}")

    def make_nothing(self, output: bool) -> Any:
        return self.ffi.NULL

    def make_flag(self, output: bool) -> int:
        return self.draw.randrange(2)

    def make_eps(self, output: bool) -> float:
        if self.wrong and self.draw.random() < 0.05:
            self.broken.append("eps")
            return self.draw.choice((0.0, -1.0, math.nan))
        return 1e-5

    def make_window(self, output: bool) -> Any:
        chunk, visible, unscaled = self.window
        if self.wrong and self.draw.random() < 0.05:
            chunk, visible = self.draw.choice(((0, visible), (-3, visible), (chunk, 0), (chunk, 9)))
            self.broken.append("window")
        self.keep.append(self.ffi.new("refgss_window *", (chunk, visible, unscaled)))
        return self.keep[-1]

    def make_tokens(self, output: bool) -> int:
        if self.wrong and self.draw.random() < 0.05:
            self.broken.append("window")
            return self.draw.choice((0, -1, -(2**63), 2**63 - 1))
        return self.sizes["C"]

    def gate(self, kind: int) -> int:
        if self.wrong and self.draw.random() < 0.05:
            self.broken.append("kind")
            return self.draw.choice((0, 4, -1))
        return kind

    def make_gate_fixed(self, output: bool) -> int:
        return self.gate(1)

    def make_gate_lstm(self, output: bool) -> int:
        return self.gate(2)

    def make_gate_full(self, output: bool) -> int:
        return self.gate(3)

    def make_numbers(self, output: bool) -> Any:
        """Tokens that each row has read; where a call writes them, as many."""
        t = [self.draw.randrange(self.window[0]) for _ in range(self.sizes["B"])]
        self.keep.append(self.ffi.new("int64_t[]", t or [0]))
        return self.keep[-1]

    def make_positions(self, output: bool) -> Any:
        r = [self.draw.randrange(-9, 2**40) for _ in range(self.sizes["B"] * self.sizes["L"])]
        self.keep.append(self.ffi.new("int64_t[]", r or [0]))
        return self.keep[-1]

    def make_base(self, output: bool) -> float:
        if self.wrong and self.draw.random() < 0.05:
            self.broken.append("base")
            return self.draw.choice((0.0, -1.0, math.nan, math.inf))
        return 1e4

    def make_pairing(self, output: bool) -> int:
        if self.wrong and self.draw.random() < 0.05:
            self.broken.append("pairing")
            return self.draw.choice((0, 3, -1))
        return self.draw.choice((1, 2))

    def make_form(self, output: bool) -> Any:
        method = self.draw.choice((1, 2, 3, 4))
        if self.wrong and self.draw.random() < 0.05:
            method = self.draw.choice((0, 99, -1, 2**31 - 1))
            self.broken.append("form")
        elif self.wrong and self.draw.random() < 0.02:
            self.broken.append("form is NULL")
            return self.ffi.NULL
        fields = (method, self.draw.randrange(2), 1e-7, 1000)
        self.keep.append(self.ffi.new("refgss_form *", fields))
        return self.keep[-1]

    def make_delta(self, output: bool) -> Any:
        a = self.array("delta", self.delta, False)
        return lambda: self.view(a)

    def make_ddelta(self, output: bool) -> Any:
        if self.wrong and self.draw.random() < 0.04:
            self.broken.append("ddelta is NULL")
            return self.ffi.NULL
        a = self.array("ddelta", self.delta, True)
        return lambda: self.view(a)

    # ---- structures ------------------------------------------------------------------------

    def make_gss(self, output: bool) -> Any:
        return self.struct("gss", GSS, output)

    def make_dss(self, output: bool) -> Any:
        return self.struct("dss", DSS, output)

    def struct(self, kind: str, text: str, output: bool) -> Any:
        if not output:
            self.chosen = {"ssm_norm": self.draw.random() < 0.5, "b_o": self.draw.random() < 0.5}
        if self.wrong and self.draw.random() < 0.04:
            self.broken.append("a struct is NULL")
            return self.ffi.NULL
        params = self.ffi.new(f"refgss_{kind}_layer_params *")
        params.eps, params.imag_is_exp = 1e-5, 1
        if kind == "dss":
            params.form = (self.draw.choice((1, 2)) if not output else 1, 0, 1e-7, 1000)
        fields = []
        for part in text.split():
            name, _, axes = part.removeprefix("?").partition(":")
            if part.startswith("?") and not self.chosen["b_o" if name == "b_o" else "ssm_norm"]:
                continue
            if self.wrong and self.draw.random() < 0.01:
                optional = name in ("b_o", "ssm_norm_weight")
                self.broken += [] if optional else [f"{name} is NULL"]
                continue
            fields.append((name, self.array(name, axes, output)))

        def filled() -> Any:
            for name, a in fields:
                setattr(params, name, self.view(a))
            self.keep.append(params)
            return params

        return filled

    def make_kept(self, output: bool) -> Any:
        kept = self.ffi.new("refgss_gss_layer_kept *")
        axes = {"v": "BLF", "u": "BLH", "y": "BLH", "uc": "BLF"}
        fields = [(k, self.array(f"kept {k}", v, True)) for k, v in axes.items()]

        def filled() -> Any:
            for name, a in fields:
                setattr(kept, name, self.view(a))
            self.keep.append(kept)
            return kept

        return filled

    # ---- handles ---------------------------------------------------------------------------

    def handle(self, kind: str, *arguments: Any) -> Any:
        """A handle of the sizes of this call, or NULL."""
        if self.wrong and self.draw.random() < 0.05:
            self.broken.append("the handle is NULL")
            return self.ffi.NULL
        out = self.ffi.new(f"refgss_{kind} **")
        status = getattr(self.lib, f"refgss_{kind}_new")(*arguments, out)
        assert status == self.lib.REFGSS_OK, self.ffi.string(self.lib.refgss_last_error())
        self.free.insert(0, (getattr(self.lib, f"refgss_{kind}_free"), out[0]))
        return out[0]

    def right(self, name: str, axes: str) -> Any:
        wrong, self.wrong = self.wrong, False
        array = self.array(name, axes, False)
        self.wrong, array.of_the_call = wrong, False
        return self.view(array)

    def make_spectrum(self, output: bool) -> Any:
        return self.handle("spectrum", self.right("k", "HK"), self.sizes["L"])

    def make_conv_stream(self, output: bool) -> Any:
        return self.handle("conv_stream", self.right("k", "HK"), self.sizes["B"])

    def make_ssm(self, output: bool) -> Any:
        form = self.ffi.new("refgss_form *", (1, 0, 0.0, 0))
        arrays = self.right("lam", "N2"), self.right("c", "HN2"), self.right("delta", self.delta)
        return self.handle("ssm", *arrays, form, self.draw.choice((0, self.sizes["L"])))

    def make_stepper(self, output: bool) -> Any:
        ssm = self.make_ssm(False)
        if ssm == self.ffi.NULL:
            return ssm
        return self.handle("stepper", ssm, self.sizes["B"], 3, self.ffi.NULL)

    # ---- the decoder -----------------------------------------------------------------------

    def call_decoder(self) -> None:
        self.item, self.scalar, self.entry = 4, np.float32, "decoder"
        for axis in "HNFE":
            self.sizes[axis] = max(self.sizes[axis], 1)
        B, L = self.sizes["B"], self.sizes["L"]
        self.sizes["V"] = 7
        wrong, self.wrong = self.wrong, False
        layer, params = self.ffi.new("refgss_lm_layer *"), self.ffi.new("refgss_lm_params *")
        gss = self.struct("gss", GSS, False)()
        layer.kind, layer.params = self.lib.REFGSS_LAYER_GSS, gss
        params.embedding, params.layers, params.depth = self.right("e", "VE"), layer, 1
        params.eps = 1e-5
        self.keep += [layer, params]
        decoder = self.handle("decoder", params, B, 4)
        self.wrong = wrong
        ffi = self.ffi
        for _ in range(self.draw.randrange(1, 6)):
            self.broken, self.arrays = [], []
            one = self.draw.choice((decoder, decoder, decoder, ffi.NULL))
            self.broken += [] if one == decoder else ["the handle is NULL"]
            tokens = ffi.new("int64_t[]", [self.draw.randrange(7) for _ in range(B * (L + 1) + 1)])
            if self.wrong and B and self.draw.random() < 0.2:
                tokens[0] = self.draw.choice((-1, 7, 2**62))
                self.broken.append("token")
            name = self.draw.choice(("step", "prefill", "loss", "save", "fork", "restore"))
            if name in ("save", "restore", "fork") or (name != "step" and L == 0):
                self.broken = [b for b in self.broken if b != "token"]
            status = getattr(self, f"decoder_{name}")(one, tokens, L)
            free, self.free = self.free, []
            self.judge(f"decoder_{name}", status)
            self.free = free
        for free, handle in self.free:
            free(handle)

    def decoder_step(self, decoder: Any, tokens: Any, L: int) -> int:
        return self.lib.refgss_decoder_step(decoder, tokens, self.view(self.array("y", "BV", True)))

    def decoder_prefill(self, decoder: Any, tokens: Any, L: int) -> int:
        axes = self.draw.choice(("BLV", "BV"))
        if axes == "BV" and L == 0:
            self.broken.append("no last token")
        y = self.view(self.array("y", axes, True))
        return self.lib.refgss_decoder_prefill(decoder, tokens, L, y)

    def decoder_loss(self, decoder: Any, tokens: Any, L: int) -> int:
        self.item, self.scalar = 8, np.float64
        y = self.view(self.array("y", "BL", True))
        self.item, self.scalar = 4, np.float32
        targets = self.ffi.NULL if self.wrong and self.draw.random() < 0.1 else tokens
        if targets == self.ffi.NULL and self.sizes["B"] * L:
            self.broken.append("targets are NULL")
        return self.lib.refgss_decoder_loss(decoder, tokens, targets, L, y)

    def decoder_save(self, decoder: Any, tokens: Any, L: int) -> int:
        return self.lib.refgss_decoder_save(decoder, *self.one_state(True))

    def one_state(self, output: bool) -> tuple[Any, ...]:
        """What, the arrays of one layer's state, and how many; some of that may be wrong."""
        x = self.view(self.array("state", "BHN2", output))
        what, count = self.lib.REFGSS_STATE, 1
        if self.wrong and self.draw.random() < 0.2:
            what, count = self.draw.choice(((0, 1), (3, 1), (1, 0), (1, 2), (2, 1), (1, -1)))
            self.broken.append("another list of arrays")
        return what, x, count

    def decoder_fork(self, decoder: Any, tokens: Any, L: int) -> int:
        out = self.ffi.new("refgss_decoder **")
        status = self.lib.refgss_decoder_fork(decoder, out)
        if status == 0:
            self.lib.refgss_decoder_free(out[0])
        return status

    def decoder_restore(self, decoder: Any, tokens: Any, L: int) -> int:
        return self.lib.refgss_decoder_restore(decoder, *self.one_state(False), 3)


def main() -> None:
    calls, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    faulthandler.enable()
    counts = Fuzz(seed).run(calls, os.environ.get("ABI_FUZZ_FOLDER", "."))
    entries = sorted({e for e, _ in counts})
    for entry in entries:
        print(entry.ljust(20), *(f"{s}: {counts[entry, s]}" for s in range(7)), sep="  ")
    print(f"{sum(counts.values())} calls, {sum(v for (_, s), v in counts.items() if s)} refused")


if __name__ == "__main__":
    main()
