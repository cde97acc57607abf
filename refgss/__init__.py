"""refgss: the executable standard for gated state-space (GSS) sequence layers."""

__version__ = "0.1.0"
