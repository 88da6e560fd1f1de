"""The store's tables, as SQLAlchemy maps them."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import (
    JSON,
    DateTime,
    Engine,
    ForeignKey,
    String,
    UniqueConstraint,
    create_engine,
    delete,
    event,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from cxr_mmdet.errors import CxrError, UsageError, first_line
from cxr_mmdet.web.verdicts import Kind, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cxr_mmdet.structures.detections import Finding
    from cxr_mmdet.web.cases import Filter
    from cxr_mmdet.web.verdicts import Reading


class Base(DeclarativeBase):
    """All tables."""


class SchemaRow(Base):
    """Version of these tables in a database: one row."""

    __tablename__ = "cxr_schema"
    version: Mapped[int] = mapped_column(primary_key=True)


class ImageRow(Base):
    """A radiograph by its hashes; name and patient only where that was asked for."""

    __tablename__ = "cxr_image"
    id: Mapped[int] = mapped_column(primary_key=True)
    content_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    pixels_sha256: Mapped[str] = mapped_column(String(64), index=True)
    height: Mapped[int]
    width: Mapped[int]
    name: Mapped[str | None] = mapped_column(String(255))
    patient_id: Mapped[str | None] = mapped_column(String(255))


class PredictionRow(Base):
    """Prediction of a model, as it was shown last."""

    __tablename__ = "cxr_prediction"
    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("cxr_image.id"), index=True)
    model_id: Mapped[str] = mapped_column(String(1024))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    seconds: Mapped[float]
    score_threshold: Mapped[float]
    nms_iou: Mapped[float]
    hidden_classes: Mapped[list[str]] = mapped_column(JSON)
    image: Mapped[ImageRow] = relationship()
    boxes: Mapped[list[BoxRow]] = relationship(cascade="all, delete-orphan", order_by="BoxRow.place")


class BoxRow(Base):
    """One finding, in pixels of the radiograph."""

    __tablename__ = "cxr_box"
    id: Mapped[int] = mapped_column(primary_key=True)
    prediction_id: Mapped[int] = mapped_column(ForeignKey("cxr_prediction.id"), index=True)
    place: Mapped[int]
    finding_key: Mapped[str] = mapped_column(String(128))
    class_name: Mapped[str] = mapped_column(String(255))
    score: Mapped[float]
    x_min: Mapped[float]
    y_min: Mapped[float]
    x_max: Mapped[float]
    y_max: Mapped[float]


class ReadingRow(Base):
    """One reader's look at a prediction."""

    __tablename__ = "cxr_reading"
    __table_args__ = (UniqueConstraint("prediction_id", "reader"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    prediction_id: Mapped[int] = mapped_column(ForeignKey("cxr_prediction.id"), index=True)
    reader: Mapped[str] = mapped_column(String(255))
    saved_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    prediction: Mapped[PredictionRow] = relationship()
    verdicts: Mapped[list[VerdictRow]] = relationship(cascade="all, delete-orphan", order_by="VerdictRow.id")


class VerdictRow(Base):
    """Verdict of a reader on a finding, or on a place where the model found nothing."""

    __tablename__ = "cxr_verdict"
    id: Mapped[int] = mapped_column(primary_key=True)
    reading_id: Mapped[int] = mapped_column(ForeignKey("cxr_reading.id"), index=True)
    kind: Mapped[str] = mapped_column(String(32))
    finding_key: Mapped[str | None] = mapped_column(String(128))
    class_name: Mapped[str] = mapped_column(String(255))
    x_min: Mapped[float]
    y_min: Mapped[float]
    x_max: Mapped[float]
    y_max: Mapped[float]


SCHEMA_VERSION = 1

FILE_NAME = "readings.sqlite"


class StoreError(CxrError):
    """A database that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class StoredImage:
    """Identity of a radiograph in a store.

    Attributes:
        content_sha256: of its file.
        pixels_sha256: of its grey levels; see :mod:`cxr_mmdet.dicom.identity`.
        size_hw: height and width in pixels.
        name: the file's name without suffix; None unless it was asked for.
        patient_id: likewise.
    """

    content_sha256: str
    pixels_sha256: str
    size_hw: tuple[int, int]
    name: str | None = None
    patient_id: str | None = None


@dataclass(frozen=True)
class StoredReading:
    """One reader's verdicts on one radiograph."""

    image: StoredImage
    reader: str
    finished: bool
    verdicts: tuple[Verdict, ...]


class Store:
    """A database of predictions and verdicts; may be used from several threads at once.

    Args:
        engine: SQLAlchemy's.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # SQLite has one writer at a time; waiting here is kinder than its error.
        self._lock = threading.Lock()

    @classmethod
    def open(cls, where: str | Path, *, must_exist: bool = False) -> Store:
        """Return the store in a folder or at a database URL, made where needed.

        Args:
            where: a folder, which holds an SQLite file, such a file, or a URL such as ``postgresql+psycopg://…``.
            must_exist: refuse a folder without a store.

        Raises:
            StoreError: it cannot be opened, or another version of the project made it.
            UsageError: the URL is none, or its database's driver is not installed.
        """
        url = _url(where, must_exist=must_exist)
        try:
            engine = create_engine(url)
        except (ArgumentError, NoSuchModuleError) as error:
            raise UsageError(f"{_shown(url)}: is not a database URL that SQLAlchemy knows ({error}).") from None
        except ImportError as error:
            raise UsageError(f"{_shown(url)}: its driver is not installed ({error.name}); pip install it.") from None
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _set_up_sqlite)
        store = cls(engine)
        with store._session() as session:
            Base.metadata.create_all(session.connection())
            version = session.scalar(select(SchemaRow.version))
            if version is None:
                session.add(SchemaRow(version=SCHEMA_VERSION))
            elif version != SCHEMA_VERSION:
                raise StoreError(
                    f"{_shown(url)}: was made by another version (schema {version}, expected {SCHEMA_VERSION})."
                )
        return store

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def add_prediction(
        self, image: StoredImage, *, model_id: str, seconds: float, shown: Filter, findings: Iterable[Finding]
    ) -> int:
        """Keep a prediction as it was first shown; return its number."""
        with self._session() as session:
            prediction = PredictionRow(
                image=_image_row(session, image),
                model_id=model_id,
                seconds=seconds,
                created_at=datetime.now(timezone.utc),
            )
            session.add(prediction)
            _show(prediction, shown, findings)
            session.flush()
            return prediction.id

    def save_reading(
        self, prediction_id: int, *, reader: str, reading: Reading, shown: Filter, findings: Iterable[Finding]
    ) -> None:
        """Keep a reader's verdicts, and the prediction as it was shown when they were given.

        Raises:
            StoreError: there is no such prediction.
        """
        with self._session() as session:
            prediction = session.get(PredictionRow, prediction_id)
            if prediction is None:
                raise StoreError(f"prediction {prediction_id} is not in the store any more.")
            _show(prediction, shown, findings)
            row = session.scalar(select(ReadingRow).filter_by(prediction_id=prediction_id, reader=reader))
            if row is None:
                row = ReadingRow(prediction=prediction, reader=reader)
                session.add(row)
            now = datetime.now(timezone.utc)
            row.saved_at, row.finished_at = now, now if reading.finished else None
            session.flush()
            session.execute(delete(VerdictRow).where(VerdictRow.reading_id == row.id))
            for verdict in reading.said:
                x_min, y_min, x_max, y_max = verdict.box_xyxy
                session.add(
                    VerdictRow(
                        reading_id=row.id,
                        kind=verdict.kind.name,
                        finding_key=verdict.finding_key,
                        class_name=verdict.class_name,
                        x_min=x_min,
                        y_min=y_min,
                        x_max=x_max,
                        y_max=y_max,
                    )
                )

    def readings(self) -> list[StoredReading]:
        """Return all readings, in the order they were saved last."""
        with self._session() as session:
            rows = session.scalars(select(ReadingRow).order_by(ReadingRow.saved_at, ReadingRow.id)).all()
            return [_reading(row) for row in rows]

    @contextmanager
    def _session(self) -> Iterator[Session]:
        try:
            with self._lock, Session(self._engine) as session, session.begin():
                yield session
        except SQLAlchemyError as error:
            reason = first_line(getattr(error, "orig", None) or error)
            raise StoreError(f"{_shown(self._engine.url.render_as_string())}: {reason}.") from None


def _url(where: str | Path, *, must_exist: bool) -> str:
    if "://" in str(where):
        return str(where)
    path = Path(where)
    file = path if path.is_file() else path / FILE_NAME
    if must_exist and not file.is_file():
        raise UsageError(f"{path}: holds no store; expected {FILE_NAME}, which tools/serve.py --store writes.")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite gives the files beside it, -wal and -shm, the permissions of this one.
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        for part in (file, *file.parent.glob(f"{file.name}-*")):
            part.chmod(0o600)
    except OSError as error:
        raise StoreError(f"{file}: cannot be made readable by its owner only ({error.strerror}).") from None
    return f"sqlite:///{file.resolve()}"


def _shown(url: str) -> str:
    """Return a URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "the database URL"


def _set_up_sqlite(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    # Write-ahead logging: an export reads while the page writes. FULL: what was said is on disk when it is answered.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _image_row(session: Session, image: StoredImage) -> ImageRow:
    row = session.scalar(select(ImageRow).filter_by(content_sha256=image.content_sha256))
    if row is None:
        height, width = image.size_hw
        row = ImageRow(
            content_sha256=image.content_sha256, pixels_sha256=image.pixels_sha256, height=height, width=width
        )
        session.add(row)
    row.name = image.name or row.name
    row.patient_id = image.patient_id or row.patient_id
    return row


def _show(prediction: PredictionRow, shown: Filter, findings: Iterable[Finding]) -> None:
    prediction.score_threshold, prediction.nms_iou = shown.score, shown.nms_iou
    prediction.hidden_classes = sorted(shown.hidden)
    prediction.boxes = [
        BoxRow(
            place=place,
            finding_key=finding.key,
            class_name=finding.class_name,
            score=finding.score,
            **dict(zip(("x_min", "y_min", "x_max", "y_max"), finding.box_xyxy, strict=True)),
        )
        for place, finding in enumerate(findings)
    ]


def _reading(row: ReadingRow) -> StoredReading:
    image = row.prediction.image
    verdicts = tuple(
        Verdict(Kind[each.kind], each.class_name, (each.x_min, each.y_min, each.x_max, each.y_max), each.finding_key)
        for each in row.verdicts
    )
    stored = StoredImage(
        image.content_sha256, image.pixels_sha256, (image.height, image.width), image.name, image.patient_id
    )
    return StoredReading(stored, row.reader, row.finished_at is not None, verdicts)
