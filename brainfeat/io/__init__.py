"""Files: volumes, tables, JSON, hashes, locks and atomic writes."""

__all__: list[str] = []
