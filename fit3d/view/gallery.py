"""The results that the viewer leafs through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fit3d.errors import Fit3dError
from fit3d.view.subject import Subject, load_subject


class Gallery:
    """Results in order, of which one is open. They are read when they are opened: a folder may hold very many."""

    def __init__(self, paths: Sequence[Path], load: Callable[[Path], Subject] = load_subject) -> None:
        assert paths
        self._paths = tuple(paths)
        self._load = load
        self._place = 0

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def number(self) -> int:
        """Of the open result, from 1."""
        return self._place + 1

    def open_first(self) -> tuple[Subject, tuple[str, ...]]:
        """The first result that can be read, and what is wrong with those before it.

        Raises:
            Fit3dError: none can be read; the error is that of the first.
        """
        self._place = len(self._paths) - 1
        return self.step(1)

    def step(self, by: int) -> tuple[Subject, tuple[str, ...]]:
        """The next result (`by` 1) or the one before (-1) that can be read, around the ends, and what is wrong with
        those that were passed over.

        Raises:
            Fit3dError: none can be read any more; the open one stays.
        """
        problems: list[Fit3dError] = []
        for steps in range(1, len(self._paths) + 1):
            place = (self._place + by * steps) % len(self._paths)
            try:
                subject = self._load(self._paths[place])
            except Fit3dError as error:
                problems.append(error)
                continue
            self._place = place
            return subject, tuple(map(str, problems))
        raise problems[0]


class OneSubject(Gallery):
    """A head that lies in memory."""

    def __init__(self, subject: Subject) -> None:
        super().__init__([subject.folder / subject.name], lambda _: subject)
