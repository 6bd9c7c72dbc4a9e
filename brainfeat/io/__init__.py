"""Files: volumes, tables, JSON, fingerprints, atomic writes."""

__all__: list[str] = []
