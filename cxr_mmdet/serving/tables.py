"""The store's tables, as SQLAlchemy maps them."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - SQLAlchemy reads the annotations

from sqlalchemy import JSON, DateTime, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """All tables."""


class SchemaRow(Base):
    """Which version of these tables a database holds: one row."""

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
    """What a model said, as it was shown last."""

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
    """What the reader says of a finding, or of a place where the model found nothing."""

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
