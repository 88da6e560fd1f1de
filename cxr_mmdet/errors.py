"""User errors, exceptions whose message is the complete answer, and the plurals of messages."""

from __future__ import annotations

import re

from cxr_mmdet.commands import name_commands


class CxrError(Exception):
    """A problem the user can solve: one sentence that says where, got, expected and the remedy.

    The command line prints the message and leaves with ``exit_code``; a traceback is only for our own mistakes.
    A command that the message names as ``tools/NAME.py`` becomes the one of the reader's installation.
    """

    exit_code = 1

    def __init__(self, *parts: object) -> None:
        super().__init__(*(name_commands(part) if isinstance(part, str) else part for part in parts))


class UsageError(CxrError):
    """The command itself is wrong: an option, a path or a config that does not exist."""

    exit_code = 2


class ConfigError(UsageError):
    """A config that cannot be read, or that says something the project does not know."""


class DicomError(CxrError):
    """A file that is not a radiograph we can show; the message names the file and the reason."""


class TableError(CxrError):
    """A table of readers' boxes that contradicts itself or its images; the message names file and line."""


class DatasetError(CxrError):
    """A prepared folder or COCO file that cannot be trained on or evaluated."""


class CheckpointError(CxrError):
    """Weights that are missing, unreachable, damaged or made for another model."""


class TrainingError(CxrError):
    """A training that cannot go on: its loss or weights are no longer finite."""


class NotFiniteError(CxrError):
    """A network that gives NaN or infinity for a radiograph, of which nothing can be concluded."""

    def __init__(
        self,
        message: str = "the model's outputs are not finite numbers (NaN or infinity), so nothing can be said about "
        "this radiograph; check the model on others, and use another checkpoint if it fails there too.",
    ) -> None:
        super().__init__(message)


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error, or its type where it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def not_finite(source: object, tensor: str) -> CheckpointError:
    """Return the error of a file whose weights are not all numbers."""
    return CheckpointError(
        f"{source}: holds weights that are not finite numbers (NaN or infinity), in {tensor}; training diverged or the "
        "file is damaged, so use another checkpoint or bundle."
    )


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a count with its noun in the right form.

    Args:
        number: the count.
        noun: singular.
        plural: for nouns that are not covered by the rules of the example.

    Example:
        >>> [counted(n, noun) for n, noun in ((1, "image"), (1200, "image"), (2, "box"), (0, "study"))]
        ['1 image', '1,200 images', '2 boxes', '0 studies']
    """
    if number != 1:
        if plural is None:
            sibilant = noun.endswith(("s", "x", "z", "ch", "sh"))
            plural = noun[:-1] + "ies" if re.search(r"[^aeiou]y$", noun) else noun + ("es" if sibilant else "s")
        noun = plural
    return f"{number:,} {noun}"
