"""Weights with the preprocessing that they need, as folders and foreign files."""

__all__: list[str] = []
