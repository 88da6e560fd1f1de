"""Shared parts of the command-line apps: errors as one sentence and an exit code, mmdet's ``--cfg-options a=1 b=2``."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import math
import os
import pickle
import sys
import time
from collections import Counter, deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperCommand, TyperGroup

from cxr_mmdet.commands import name_commands
from cxr_mmdet.errors import CxrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

stdout = Console(soft_wrap=True)
"""Results go here."""
stderr = Console(stderr=True, soft_wrap=True)
"""Progress, notes and errors go here."""

CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""The disk is full, the user's share of it is, a file would be too large for it, or it is read-only."""

REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG})
"""A path that the system does not let this user read or write, or that cannot be one."""

CFG_OPTIONS = "--cfg-options"
SHOWN_FAILURES = 20

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A checkpoint, a run's folder or an exported bundle.")
]
DeviceOption = Annotated[str, typer.Option(help="cpu, or a GPU such as cuda:0 (checkpoints and torch bundles).")]
TrustOption = Annotated[
    bool,
    typer.Option("--trust-checkpoint", help="Load a checkpoint that runs code. Use it only for files that you made."),
]
ModelShortEdgeOption = Annotated[
    int | None,
    typer.Option(
        "--short-edge",
        min=0,
        help="Short edge of the prepared images that a checkpoint was trained on; 0: full size. Bundles record it.",
        show_default="1024",
    ),
]
ClassThresholdOption = Annotated[
    list[str] | None,
    typer.Option(metavar="CLASS=SCORE", help="Score threshold of one class, or a TOML file of several. Repeatable."),
]
ReplaceOption = Annotated[bool, typer.Option("--force", help="Replace earlier files.")]
DicomwebCredentials = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="File with one line for DICOMweb, NAME:PASSWORD or Bearer TOKEN; or env:VARIABLE that holds it.",
    ),
]
DicomwebCa = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="CA (PEM) that must have signed the certificates of DICOMweb services."
    ),
]


class _HelpTable(Table):
    """Table of options that keeps their names whole and folds other words that are wider than their column.

    rich cuts them off: of 80 columns `export --help` showed `--trust-checkpo…`.
    """

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row, and columns where there are none yet."""
        super().add_row(*cells, **options)
        for column, cell in zip(self.columns, cells, strict=False):
            column.no_wrap |= str(cell).startswith("--")
            for part in getattr(cell, "renderables", ()):  # of the help: text, default, environment variable
                part.overflow = "fold"


class _WithPlainHelp:
    """A command or group whose help cuts nothing off and shows no type of flags; typer shows <bool>."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        from typer import rich_utils

        rich_utils.Table = _HelpTable  # type: ignore[misc]  # typer offers no setting
        super().format_help(ctx, formatter)  # type: ignore[misc]

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return parameters


class CxrGroup(_WithPlainHelp, TyperGroup):
    """A group of commands."""


class CxrCommand(_WithPlainHelp, TyperCommand):
    """A command whose :class:`CxrError`, or a path that the system refuses, ends in one sentence and an exit code."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        described: list[Any] = [self, *self.params]
        for each in described:
            if getattr(each, "help", None):
                each.help = name_commands(each.help)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ``args``, letting one ``--cfg-options`` take several ``key=value``, as MMDetection's tools do.

        An option that takes one value and is given twice is refused: click would let the last one win in silence.
        """
        args = _repeat_cfg_options(args)
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        counts = Counter(parameter.name for parameter in given if parameter.param_type_name == "option")
        for parameter in self.params:
            if counts[parameter.name] > 1 and not parameter.multiple:
                name = "/".join([*parameter.opts, *parameter.secondary_opts])
                ctx.fail(f"{name} is given {counts[parameter.name]} times, but takes one value; give it once.")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            _refuse_non_finite(self.params, ctx.params)
            return super().invoke(ctx)
        except CxrError as error:
            stderr.print(f"error: {error}", style="bold red", markup=False, highlight=False)
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            if error.errno in REFUSED and error.filename:
                remedy = "correct the path or its permissions, or choose another place"
                message = f"{error.filename}: cannot be used ({error.strerror}); {remedy}."
            elif error.errno in CANNOT_WRITE:
                where = f"{error.filename}: " if error.filename else ""
                message = f"{where}cannot be written ({error.strerror}); free the disk or choose another place."
            else:
                raise
            stderr.print(f"error: {message}", style="bold red", markup=False, highlight=False)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            stderr.print("interrupted: what was finished is kept.", style="bold red")
            raise typer.Exit(130) from None


def _refuse_non_finite(parameters: list[Any], values: dict[str, Any]) -> None:
    """Refuse infinity, which a lower limit lets through, and NaN.

    Raises:
        UsageError: an option is one of them.
    """
    for parameter in parameters:
        given = values.get(parameter.name)
        for value in given if isinstance(given, (list, tuple)) else [given]:
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{parameter.opts[0]} {value}: expected a finite number.")


class CxrTyper(typer.Typer):
    """A typer app with the project's habits; its commands are :class:`CxrCommand`."""

    def __init__(self, **options: Any) -> None:
        defaults: dict[str, Any] = {
            "cls": CxrGroup,
            "add_completion": False,
            "pretty_exceptions_show_locals": False,
            "rich_markup_mode": "rich",
        }
        super().__init__(**(defaults | options))

    def command(self, *args: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        """Register a command."""
        return super().command(*args, **({"cls": CxrCommand} | options))


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Import without the lines that mmdet's distributions print about packages nobody needs."""
    if "LOCAL_RANK" in os.environ:
        _import_yapf()
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _import_yapf() -> None:
    """Import yapf, which mmengine needs, also while another rank of torchrun writes the file that yapf caches.

    yapf 0.43 gives the file its name before it writes the last of it, so that on a new machine a rank may read half.
    """
    for wait in (0.1, 0.2, 0.4, 0.8, 1.6):
        try:
            importlib.import_module("yapf.yapflib.yapf_api")
        except (EOFError, pickle.UnpicklingError):
            time.sleep(wait)
        else:
            return


def refuse_to_overwrite(force: bool, *targets: Path, inputs: Iterable[Path | None] = ()) -> None:
    """Refuse, before the work is done, to write where something is already, unless ``force`` allows it.

    Args:
        force: whether files of an earlier run may be replaced.
        targets: files to be written.
        inputs: files that the command reads, which no ``force`` may replace.

    Raises:
        UsageError: a target exists, is an input, or cannot be written.
    """
    read = [path for path in inputs if path is not None and path.exists()]
    for target in targets:
        if target.exists():
            if any(target.samefile(path) for path in read):
                raise UsageError(f"{target}: is read by this command and would be lost; choose another place.")
            if not force:
                raise UsageError(f"{target}: exists; pass --force to replace it, or choose another place.")
        folder = next(parent for parent in target.absolute().parents if parent.exists())
        if not folder.is_dir():
            raise UsageError(f"{target}: cannot be written, since {folder} is a file; choose another place.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"{target}: cannot be written to {folder} (no permission); choose another place.")


def print_notes(notes: Iterable[str]) -> None:
    """Print what a user should know."""
    for note in notes:
        stderr.print(f"note: {note}", markup=False, highlight=False)


def print_failures(reasons: Sequence[str], listing: Path | None = None) -> None:
    """Print failures; where a file lists all of them the first, and that file."""
    for reason in reasons[: SHOWN_FAILURES if listing else None]:
        stderr.print(f"failed: {reason}", style="red", markup=False, highlight=False)
    if reasons:
        where = f"; all in {listing}" if listing else ""
        stderr.print(f"{len(reasons)} failed{where}", style="bold red", markup=False, highlight=False)


def is_terminal() -> bool:
    """Return whether progress may be drawn: stderr is a terminal that somebody watches."""
    return sys.stderr.isatty()


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that takes the number of things just done and of all; draws only in a terminal.

    What the first call reports may be an earlier run's work: the rate and the time left are of what comes after.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, disable=not is_terminal(), transient=True) as progress:
        task = progress.add_task(description, total=None, start=False, rate="")

        def report(done: int, total: int) -> None:
            if not progress.tasks[0].started:
                progress.reset(task, total=total, completed=done)
                return
            speed = progress.tasks[0].speed
            progress.update(task, advance=done, total=total, rate=f"{speed:.3g}/s" if speed else "")

        yield report


def _repeat_cfg_options(args: list[str]) -> list[str]:
    repeated: list[str] = []
    rest = deque(args)
    while rest:
        arg = rest.popleft()
        repeated.append(arg)
        if arg != CFG_OPTIONS:
            continue
        while rest and "=" in rest[0] and not rest[0].startswith("-"):
            repeated.append(rest.popleft())
            if rest and "=" in rest[0] and not rest[0].startswith("-"):
                repeated.append(CFG_OPTIONS)
    return repeated
