"""Named structures of the label maps of a store."""

__all__ = ["Structures"]

from dataclasses import dataclass

from brainfeat.simulation.anatomy import BRAIN_CLASSES


@dataclass(frozen=True, kw_only=True)
class Structures:
    """Named structures, as unions of the L labels of the label maps of a store."""

    names: tuple[str, ...] = ()
    members: tuple[tuple[bool, ...], ...] = ()  # R rows of L: labels of a structure

    @property
    def partition(self) -> tuple[str, ...]:
        """Structures without a label of an earlier one, so that none overlap.

        Tissues that the simulation knows come first, whatever the order of the tables.
        """
        labels = {
            name: {label for label, is_member in enumerate(row) if is_member}
            for name, row in zip(self.names, self.members, strict=True)
        }
        order = dict.fromkeys(name for name in BRAIN_CLASSES if name in labels)
        taken: set[int] = set()
        names = []
        for name in order | labels:
            if not labels[name] & taken:
                names.append(name)
                taken |= labels[name]
        return tuple(names)
