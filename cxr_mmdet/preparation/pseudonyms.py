"""Names that keep a patient's radiographs together and cannot be turned back into the Patient ID."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cxr_mmdet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LEAST_BYTES = 16
"""Length of a key; 128 bits cannot be found by trying."""


@dataclass(frozen=True)
class PseudonymKey:
    """The secret that pseudonyms are made with: Patient IDs are few enough to try them all against a plain hash.

    Attributes:
        secret: never written anywhere.
        name: tells this key from others in ``images.json``; None for a random key, which ends with its run.
    """

    secret: bytes = field(repr=False)
    name: str | None = None

    @classmethod
    def random(cls) -> PseudonymKey:
        """Return a key for one run."""
        return cls(secrets.token_bytes(32))

    @classmethod
    def read(cls, path: Path, out: Path) -> PseudonymKey:
        """Return the key in a file, which makes the same pseudonyms in every build.

        Raises:
            UsageError: it cannot be read, is too short, or lies in the folder ``out`` that is handed on.
        """
        if path.resolve().is_relative_to(out.resolve()):
            raise UsageError(f"--pseudonym-key {path}: lies in {out}, which it protects; keep it outside.")
        try:
            secret = path.read_bytes().strip()
        except OSError as error:
            raise UsageError(f"--pseudonym-key {path}: cannot be read ({error.strerror}).") from None
        if len(secret) < LEAST_BYTES:
            raise UsageError(
                f"--pseudonym-key {path}: holds {len(secret)} bytes, expected at least {LEAST_BYTES} random ones; make "
                'it with: python -c "import secrets; print(secrets.token_hex(32))"'
            )
        return cls(secret, hmac.digest(secret, b"name of this key", "sha256").hex()[:16])

    def pseudonym(self, patient_id: str) -> str:
        """Return a name that is the same for the same Patient ID under this key."""
        return "patient-" + hmac.digest(self.secret, patient_id.encode(), "sha256").hex()[:16]

    def published(self, pseudonym_of: Mapping[str, str | None]) -> dict[str, str | None]:
        """Return what stands in a prepared folder for each image's pseudonym.

        Under a random key a patient is named after the first of their images, so that the same input gives the same
        bytes although the key is another one each time.

        Args:
            pseudonym_of: image → pseudonym; None where no patient is known.
        """
        if self.name is not None:
            return dict(pseudonym_of)
        first: dict[str, str] = {}
        for image in sorted(pseudonym_of):
            pseudonym = pseudonym_of[image]
            if pseudonym is not None:
                first.setdefault(pseudonym, f"patient-of-{image}")
        return {image: None if name is None else first[name] for image, name in pseudonym_of.items()}


def join_names(by_file: Mapping[str, str | None], by_source: Mapping[str, str]) -> dict[str, str | None]:
    """Return the patient of each image, one for images that either mapping gives one name; None where neither does.

    Args:
        by_file: image → patient by its file; None where that names none.
        by_source: image → patient by its annotations.
    """
    leader: dict[str, str] = {}

    def lead(name: str) -> str:
        while name in leader:
            name = leader[name]
        return name

    for image, name in by_file.items():
        other = by_source.get(image)
        if name and other and lead(name) != lead(other):
            first, second = sorted((lead(name), lead(other)))
            leader[second] = first
    found = {image: name or by_source.get(image) for image, name in by_file.items()}
    return {image: lead(name) if name else None for image, name in found.items()}
