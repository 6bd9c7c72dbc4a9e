"""Adapt an encoder to a label: classes or numbers."""

__all__: list[str] = []
