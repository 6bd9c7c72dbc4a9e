"""What a terminal or a notebook shows of a result: text, tables, grey pictures."""

__all__: list[str] = []


def __dir__() -> list[str]:
    return sorted(__all__)
