"""The reading room behind the page: uploads in, cases out, verdicts kept; knows nothing of web pages."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cxr_mmdet.errors import CxrError
from cxr_mmdet.inference.candidates import find_candidates
from cxr_mmdet.web.cases import Case, Cases, Filter
from cxr_mmdet.web.decoding import DecodingPool
from cxr_mmdet.web.store import StoredImage
from cxr_mmdet.web.uploads import UploadLimits, read_uploads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cxr_mmdet.inference.predictor import Predictor
    from cxr_mmdet.structures.detections import Box, Finding
    from cxr_mmdet.web.store import Store
    from cxr_mmdet.web.uploads import Upload
    from cxr_mmdet.web.verdicts import Kind, Verdict


class ReadingRoom:
    """A model and what it takes to look at its findings; may be used from several threads at once.

    Args:
        predictor: the model.
        device: that it runs on, for people.
        limits: of uploads.
        store: where predictions and verdicts are kept; None keeps nothing.
        keep_identity: keep file names and Patient IDs there, too.
        cases: holds what is on display.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        device: str = "cpu",
        limits: UploadLimits | None = None,
        store: Store | None = None,
        keep_identity: bool = False,
        cases: Cases | None = None,
        decoders: int = 1,
    ) -> None:
        self.predictor = predictor
        self.device = device
        self.limits = limits or UploadLimits()
        self.store = store
        self.cases = cases or Cases()
        self._keep_identity = keep_identity
        self._decoders = DecodingPool(workers=decoders, max_pixels=self.limits.pixels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The model's."""
        return self.predictor.class_names

    @property
    def default_filter(self) -> Filter:
        """Choice of the findings that are shown at first."""
        return Filter(nms_iou=self.predictor.model.spec.nms_iou)

    def warm_up(self) -> None:
        """Start what the first visitor would wait for."""
        self._decoders.warm_up()

    def close(self) -> None:
        """End the decoding processes and the store's connections."""
        self._decoders.close()
        if self.store is not None:
            self.store.close()

    def open_files(self, paths: Sequence[Path], shown: Filter) -> tuple[list[Case], list[str]]:
        """Return the cases of uploaded files, and why others are none or left out.

        Raises:
            UploadError: the upload as a whole is refused.
        """
        uploads, notes = read_uploads(paths, self.limits)
        cases, problems = self.open_uploads(uploads, shown)
        return cases, [*problems, *notes]

    def open_uploads(self, uploads: Sequence[Upload], shown: Filter) -> tuple[list[Case], list[str]]:
        """Return the cases of uploads, and why others are none."""
        cases, problems = [], []
        for upload in uploads:
            try:
                cases.append(self._open(upload, shown))
            except CxrError as error:
                problems.append(str(error))
        return cases, problems

    def judge(self, case: Case, reader: str, kind: Kind, finding: Finding | None, **said: str | Box | None) -> None:
        """Take down a verdict and keep it.

        Args:
            case: that it is about.
            reader: who says it.
            kind: of the verdict.
            finding: that it is about; None for a missed one.
            said: ``class_name`` and ``box`` as :meth:`Reading.judge` takes them.

        Raises:
            ReadingError: something is missing.
            StoreError: it cannot be kept.
        """
        class_name, box = said.get("class_name"), said.get("box")
        assert class_name is None or isinstance(class_name, str)
        assert box is None or isinstance(box, tuple)
        case.reading.judge(kind, finding, class_name=class_name, box=box, size_hw=case.size_hw)
        self._keep(case, reader)

    def take_back(self, case: Case, reader: str, key: str | None) -> Verdict | None:
        """Forget a verdict; see :meth:`Reading.take_back`."""
        forgotten = case.reading.take_back(key)
        self._keep(case, reader)
        return forgotten

    def finish(self, case: Case, reader: str) -> None:
        """Close the reading; see :meth:`Reading.finish`."""
        case.reading.finish(case.findings())
        self._keep(case, reader)

    def _open(self, upload: Upload, shown: Filter) -> Case:
        start = time.perf_counter()
        decoded = self._decoders.decode(upload)
        between = time.perf_counter()
        candidates = find_candidates(self.predictor, decoded.radiograph)
        end = time.perf_counter()
        case = Case(
            upload.name,
            decoded,
            candidates,
            (between - start, end - between),
            filter=shown,
            image_id=upload.image_id,
        )
        if self.store is not None:
            case.prediction_id = self.store.add_prediction(
                self._image(case),
                model_id=self.predictor.model_id,
                seconds=end - between,
                shown=shown,
                findings=case.findings(),
            )
        self.cases.add(case)
        return case

    def _image(self, case: Case) -> StoredImage:
        decoded = case.decoded
        kept = self._keep_identity
        return StoredImage(
            decoded.content_sha256,
            decoded.pixels_sha256,
            case.size_hw,
            name=case.image_id[:255] if kept else None,
            patient_id=decoded.radiograph.patient_id if kept else None,
        )

    def _keep(self, case: Case, reader: str) -> None:
        if self.store is not None and case.prediction_id is not None:
            self.store.save_reading(
                case.prediction_id,
                reader=reader.strip()[:255] or "reader",
                reading=case.reading,
                shown=case.filter,
                findings=case.findings(),
            )
