"""Layer kinds: what a layer has, without what it computes.

A kind is a module.  It offers

    NAME                        the tag of the kind in files
    OP                          the name of its op (refgss.ops), where it has one
    Config                      the type of its options (refgss.config)
    Sizes                       a frozen dataclass: the sizes of its axes, E first, named `width`
    SIZED_BY                    the parameters that tell the sizes, with their axes
    ROLES                       "matrix": dense maps, which may have few bits (GSS-FMT-13);
                                "modes": exponents of Λ and Δ; others have none
    sizes(params)               the Sizes of parameters among which those of SIZED_BY are
    parameters(config, sizes)   every parameter by name, as a Tensor
    state(config, sizes, batch) every part of its state by name, as a Tensor
    config_of(fields)           the options from the JSON object of their fields
    check_values(params, config)  raises ValueError for numbers that are no layer of this kind
    check_state(state, config, tokens)  raises ValueError for a state that is none after so many
    length_limit(config)        after how many tokens a stream ends, or None

A state of one part is that array itself, a state of several is a mapping of their names.  What a
kind computes stands in a table of each backend, by the type of its options: `LAYERS` of
refgss.reference.layers, refgss.native.layers and refgss.xla.layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from refgss import __version__
from refgss.config import LayerConfig, LMConfig, to_json
from refgss.layers import block_recurrent, dss, gss, transformer

KINDS: dict[type, ModuleType] = {
    kind.Config: kind for kind in (gss, dss, transformer, block_recurrent)
}


def kind_of(config: LayerConfig) -> ModuleType:
    """The kind of the layer that has these options."""
    return KINDS[type(config)]


def of_layer(params: Mapping[str, Any], i: int) -> dict[str, Any]:
    """The parameters of layer i of a language model under its own names."""
    prefix = f"layers.{i}."
    return {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}


TABLES = ("embedding.weight", "head.weight")  # the matrices that belong to no layer


def role_of(name: str, config: LMConfig) -> str:
    """The role of a parameter of a language model: that in its layer, "table", or "other"."""
    if not name.startswith("layers."):
        return "table" if name in TABLES else "other"
    _, i, own = name.split(".", 2)
    return kind_of(config.layers[int(i)]).ROLES.get(own, "other")


def model_to_json(config: LMConfig) -> dict[str, Any]:
    """The options of a language model as files have them.  Clauses: GSS-FMT-4."""
    if isinstance(config.layer, tuple):
        return {**to_json(config), "layer": [layer_to_json(layer) for layer in config.layer]}
    return {**to_json(config), "layer": layer_to_json(config.layer)}


def model_from_json(fields: Mapping[str, Any]) -> LMConfig:
    """The inverse of `model_to_json`.  Raises ValueError for a kind that is not known."""
    layer = fields["layer"]
    pattern = isinstance(layer, list)
    read: Any = tuple(map(layer_from_json, layer)) if pattern else layer_from_json(layer)
    return LMConfig(**{**fields, "layer": read})


def layer_to_json(config: LayerConfig) -> dict[str, Any]:
    """The options of a layer as files have them: their fields, and the kind."""
    return {"kind": kind_of(config).NAME, **to_json(config)}


def layer_from_json(fields: Mapping[str, Any]) -> LayerConfig:
    """The inverse of `layer_to_json`; files of before have no kind, and are GSS or DSS.

    Raises ValueError for a kind that this version does not know.
    """
    fields = dict(fields)
    kind = kind_named(fields.pop("kind", "dss" if "form" in fields else "gss"))
    try:
        return kind.config_of(fields)
    except TypeError as e:
        raise ValueError(f"a layer of the kind {kind.NAME} has no such options: {e}") from e


def kind_named(name: str) -> ModuleType:
    """The kind of this tag.  Raises ValueError where this version has none."""
    for kind in KINDS.values():
        if name == kind.NAME:
            return kind
    known = ", ".join(sorted(kind.NAME for kind in KINDS.values()))
    raise ValueError(
        f"it has a layer of the kind {name!r}, and refgss {__version__} knows {known}: "
        "use the version that wrote it"
    )


def kind_of_op(op: str) -> ModuleType:
    """The kind of layer that this op computes."""
    return next(kind for kind in KINDS.values() if getattr(kind, "OP", None) == op)
