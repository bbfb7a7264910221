# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""Where the two passes over the imagery run: in this process, or elsewhere."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar, overload

from .progress import Stopwatch

T = TypeVar('T')
R = TypeVar('R')
# What items come in: a list, or a sequence whose slices are of its own kind.
Group = TypeVar('Group', bound=Sequence[Any])
T_contra = TypeVar('T_contra', contravariant=True)
R_co = TypeVar('R_co', covariant=True)

Tick = Callable[[], None]


class Work(Protocol[T_contra, R_co]):
    """What is to be done with each of many items, wherever it is done.

    It takes items in groups, so that one can be read while another is computed, and
    what neighbours share is computed once. The result for an item depends on nothing
    but the item: not on its group, nor on what was done before. So any group may be
    done anywhere, and done again.
    """

    @property
    def watch(self) -> Stopwatch:
        """Counts the time."""

    def __call__(self, items: T_contra, tick: Tick) -> Iterator[R_co]:
        """Work through items.

        Args:
            items: A group of items.
            tick: To be called after each chip.

        Yields:
            A result for each item, in their order.
        """


class Groups(Sequence[Group], Generic[Group]):
    """A sequence cut into groups of neighbours, each made when it is asked for.

    Args:
        items: The sequence.
        size: Items in a group, at least 1; the last may have fewer.
    """

    def __init__(self, items: Group, size: int) -> None:
        self.items, self.size = items, size

    def __len__(self) -> int:
        return (len(self.items) + self.size - 1) // self.size

    @overload
    def __getitem__(self, index: int) -> Group: ...
    @overload
    def __getitem__(self, index: slice) -> list[Group]: ...
    def __getitem__(self, index: int | slice) -> Group | list[Group]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self[number] for number in numbers]
        first = numbers * self.size
        return self.items[first : first + self.size]  # type: ignore[return-value]


class Executor(ABC):
    """Does work; a context, in which what it needs is there."""

    #: Whether the work is done by other processes.
    elsewhere: bool

    @abstractmethod
    def split(self, items: Group, most: int) -> Groups[Group]:
        """Cut items into groups that are worked on at a time.

        Args:
            items: The items; neighbours stay neighbours, and groups are slices.
            most: Items in a group that is sent to another process, at most.
        """

    @abstractmethod
    def run(
        self, work: Work[T, R], groups: Iterable[T], tick: Tick
    ) -> Generator[R, None, None]:
        """Do work. Not more is begun than what is asked for and what is under way.

        Args:
            work: What to do with items.
            groups: The items, see :meth:`split`.
            tick: Called once for each chip that is finished.

        Yields:
            The results in the order of the items.

        Raises:
            Exception: What the work raises.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class Here(Executor):
    """This process."""

    elsewhere = False

    def split(self, items: Group, most: int) -> Groups[Group]:
        """One group of all."""
        return Groups(items, max(len(items), 1))

    def run(
        self, work: Work[T, R], groups: Iterable[T], tick: Tick
    ) -> Generator[R, None, None]:
        """Do work, one item after another."""
        for group in groups:
            yield from work(group, tick)
