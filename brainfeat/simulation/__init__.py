"""Simulated heads with known anatomy and disease: draw parameters, then apply."""

__all__: list[str] = []


def __dir__() -> list[str]:
    return sorted(__all__)
