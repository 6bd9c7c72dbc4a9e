"""Simulated heads with known anatomy and disease: draw parameters, then apply."""

__all__: list[str] = []
