"""Encryption of DICOM associations: certificates in, contexts out."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxr_mmdet.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """Files in PEM.

    Attributes:
        certificate: the node's own.
        key: its private key.
        authority: who must have signed the peer's; None: peers need none, and a destination's is checked against the
            system's authorities.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    def for_listening(self) -> ssl.SSLContext | None:
        """Return how to encrypt what comes in; None without a certificate.

        Raises:
            UsageError: a certificate without key, or files that are none.
        """
        if self.certificate is None:
            if self.key is not None or self.authority is not None:
                raise UsageError("--tls-key and --tls-ca need --tls-cert, the node's own certificate.")
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load(context)
        if self.authority is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def for_sending(self) -> ssl.SSLContext:
        """Return how to encrypt what goes out; the destination's name must be the one in its certificate.

        Raises:
            UsageError: files that are not certificates.
        """
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
            if self.authority is not None:
                context.load_verify_locations(self.authority)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"the TLS files cannot be used ({error}); expected a certificate and its key in PEM."
            ) from None
