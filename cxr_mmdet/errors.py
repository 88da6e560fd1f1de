"""User errors: exceptions whose message is the complete answer."""

from __future__ import annotations

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
    """A table of readers' boxes that contradicts itself or its pictures; the message names file and line."""


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


def not_finite(source: object, tensor: str) -> CheckpointError:
    """Return the error of a file whose weights are not all numbers."""
    return CheckpointError(
        f"{source}: holds weights that are not finite numbers (NaN or infinity), in {tensor}; training diverged or the "
        "file is damaged, so use another checkpoint or bundle."
    )
