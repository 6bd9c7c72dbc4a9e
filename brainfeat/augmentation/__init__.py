"""Changes that a scan might have had, for training: drawn first, then applied."""

__all__: list[str] = []
