"""Configuration of a DICOM node: a TOML file with options over it, checked as one schema."""

from __future__ import annotations

import difflib
import json
import ssl
from collections.abc import Mapping  # noqa: TC003 (pydantic reads the annotations)
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cxr_mmdet.errors import ConfigError, UsageError
from cxr_mmdet.files import read_toml
from cxr_mmdet.pacs.dicomweb import Archive, Poller
from cxr_mmdet.pacs.node import NodeOptions, parse_networks
from cxr_mmdet.pacs.reporting import ReportOptions
from cxr_mmdet.pacs.sender import Destination, DimseDestination, StowDestination, check_ae_title
from cxr_mmdet.structures.enums import DEFAULT_SCORE_THRESHOLD, DEFAULT_STREAMS
from cxr_mmdet.structures.scores import parse_class_thresholds


def _in_folder(path: Path, info: ValidationInfo) -> Path:
    """Return a path that the file gives relative to its own folder."""
    return Path((info.context or {}).get("folder", ".")) / path


def _endpoint(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 65536):
        raise ValueError("an address and a port, such as 127.0.0.1:9100")
    return text


def _url(text: str) -> str:
    if urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname:
        raise ValueError("the root of a DICOMweb service, such as https://pacs.example/dicom-web")
    return text


def _known(hosts: tuple[str, ...]) -> tuple[str, ...]:
    parse_networks(hosts)
    return hosts


FilePath = Annotated[Path, AfterValidator(_in_folder)]
AeTitle = Annotated[str, AfterValidator(check_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]
Score = Annotated[float, Field(ge=0, le=1)]
Url = Annotated[str, AfterValidator(_url)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LogFormat(str, Enum):
    """Format of the log."""

    text = "text"
    json = "json"


class Listen(_Table):
    """Address of the node and the peers that may send to it."""

    ae_title: AeTitle = "CXR"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 11112
    allow_ae: tuple[AeTitle, ...] = ()
    allow_host: Annotated[tuple[str, ...], AfterValidator(_known)] = ()


class Tls(_Table):
    """The node's certificate, by which it listens with TLS, and who must have signed those of its peers; all in PEM.

    Without ``ca`` senders need no certificate, and destinations' are checked against the system's authorities.
    """

    cert: FilePath | None = None
    key: FilePath | None = None
    ca: FilePath | None = None

    @model_validator(mode="after")
    def _needs_certificate(self) -> Tls:
        if self.cert is None and (self.key is not None or self.ca is not None):
            raise ValueError("cert, the node's own certificate, beside key and ca")
        return self

    def for_listening(self) -> ssl.SSLContext | None:
        """Return how to encrypt what comes in; None without a certificate.

        Raises:
            UsageError: a certificate without key, or files that are none.
        """
        if self.cert is None:
            return None
        context = self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.ca)
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def for_sending(self, ca: Path | None = None) -> ssl.SSLContext:
        """Return how to encrypt what goes out; the destination's name must be the one in its certificate.

        Args:
            ca: who must have signed it, where that is another one than for other peers.

        Raises:
            UsageError: files that are not certificates.
        """
        return self._load(ssl.create_default_context(), ca or self.ca)

    def _load(self, context: ssl.SSLContext, ca: Path | None) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
            if ca is not None:
                context.load_verify_locations(ca)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"the TLS files cannot be used ({error}); expected a certificate and its key in PEM."
            ) from None
        return context


class Report(_Table):
    """Findings to report and the objects that carry them."""

    score_threshold: Score = DEFAULT_SCORE_THRESHOLD
    class_thresholds: dict[str, Score] = Field(default_factory=dict)
    capture: bool = True
    overlay_size: Annotated[int, Field(ge=64)] = 2048
    capture_quality: Annotated[int, Field(ge=0, le=100)] = 95
    presentation: bool = False

    @field_validator("class_thresholds", mode="before")
    @classmethod
    def _read(cls, value: object, info: ValidationInfo) -> object:
        """Read a file of thresholds, which ``predict --class-threshold`` takes too."""
        return parse_class_thresholds([str(_in_folder(Path(value), info))]) if isinstance(value, str) else value


class Dimse(_Table):
    """Archive that takes results by C-STORE."""

    kind: Literal["dimse"]
    name: str = ""
    ae_title: AeTitle
    host: Annotated[str, Field(min_length=1)]
    port: Port
    tls: bool = False
    tls_ca: FilePath | None = None


class Web(_Table):
    """DICOMweb service."""

    url: Url
    credentials: str | None = None
    ca: FilePath | None = None

    @field_validator("credentials")
    @classmethod
    def _in_folder(cls, value: str | None, info: ValidationInfo) -> str | None:
        return value if value is None or value.startswith("env:") else str(_in_folder(Path(value), info))

    def archive(self) -> Archive:
        """Return the service.

        Raises:
            UsageError: credentials or certificates that cannot be read.
        """
        return Archive(self.url, credentials=self.credentials, ca=self.ca)


class Stow(Web):
    """Archive that takes results by STOW-RS."""

    kind: Literal["stow"]
    name: str = ""


class Poll(Web):
    """Archive whose new radiographs are fetched."""

    interval_s: Annotated[float, Field(gt=0)] = 30
    days: Annotated[int, Field(ge=0)] = 2


class NodeConfig(_Table):
    """Everything that a node is told."""

    model: str
    state: FilePath = Path("work_dirs/dicom_node")
    device: str = "cpu"
    threads: Annotated[int, Field(ge=1)] | None = None
    streams: Annotated[int, Field(ge=1)] = DEFAULT_STREAMS
    short_edge: Annotated[int, Field(ge=0)] | None = None
    trust_checkpoint: bool = False
    http: Annotated[str, AfterValidator(_endpoint)] | None = None
    log_format: LogFormat = LogFormat.text
    audit: FilePath | None = None
    listen: Listen = Listen()
    tls: Tls = Tls()
    report: Report = Report()
    destination: tuple[Annotated[Dimse | Stow, Field(discriminator="kind")], ...]
    poll: tuple[Poll, ...] = ()

    @field_validator("model")
    @classmethod
    def _beside(cls, value: str, info: ValidationInfo) -> str:
        return str(_in_folder(Path(value), info))

    @field_validator("destination")
    @classmethod
    def _are_distinct(cls, value: tuple[Dimse | Stow, ...]) -> tuple[Dimse | Stow, ...]:
        names = [_name_of(each) for each in value]
        if not names:
            raise ValueError("at least one destination")
        if len(set(names)) < len(names):
            raise ValueError("destinations of different names")
        return value

    def destinations(self) -> list[Destination]:
        """Return where results go.

        Raises:
            UsageError: credentials or certificates that cannot be used.
        """
        return [
            StowDestination(_name_of(each), each.archive())
            if isinstance(each, Stow)
            else DimseDestination(
                each.ae_title,
                each.host,
                each.port,
                self.tls.for_sending(each.tls_ca) if each.tls else None,
                self.listen.ae_title,
                _name_of(each),
            )
            for each in self.destination
        ]

    def pollers(self) -> list[Poller]:
        """Return the archives whose new radiographs are fetched.

        Raises:
            UsageError: credentials or certificates that cannot be used.
        """
        return [Poller(each.archive(), each.interval_s, each.days) for each in self.poll]

    def node_options(self) -> NodeOptions:
        """Return how to listen; host names that may connect are looked up.

        Raises:
            UsageError: certificates that cannot be used.
        """
        listen = self.listen
        return NodeOptions(
            ae_title=listen.ae_title,
            host=listen.host,
            port=listen.port,
            calling_ae_titles=listen.allow_ae,
            networks=parse_networks(listen.allow_host),
            tls=self.tls.for_listening(),
        )

    def report_options(self) -> ReportOptions:
        """Return what is reported."""
        report = self.report
        return ReportOptions(
            report.score_threshold,
            report.overlay_size,
            report.capture,
            report.capture_quality or None,
            presentation=report.presentation,
            class_thresholds=report.class_thresholds,
        )


def destination_table(text: str, **options: Any) -> dict[str, Any]:
    """Return the table of a destination that is given as ``AE@HOST:PORT`` or as the URL of a DICOMweb service.

    Args:
        text: the destination.
        options: ``tls`` of the one, ``credentials`` and ``ca`` of the other.

    Raises:
        UsageError: it is of neither form.
    """
    if text.startswith(("http://", "https://")):
        return {"kind": "stow", "url": text, "credentials": options["credentials"], "ca": options["ca"]}
    parsed = DimseDestination.parse(text)
    address = {"ae_title": parsed.ae_title, "host": parsed.host, "port": parsed.port}
    return {"kind": "dimse", **address, "tls": options["tls"]}


def read_config(path: Path | None, options: Mapping[str, tuple[str, Any]] | None = None) -> NodeConfig:
    """Return the configuration in a file with options over it.

    Args:
        path: the TOML file; None: options alone. Relative paths in it begin at its folder.
        options: by key, as in ``listen.port``: the option and its value, with absolute paths.

    Raises:
        ConfigError: the message names file or option and key, what it has, and what is expected.
    """
    content = read_toml(path) if path else {}
    for key, (_, value) in (options or {}).items():
        *tables, last = key.split(".")
        table = content
        for name in tables:
            # What the file has instead of a table is the schema's to refuse.
            table = table.setdefault(name, {}) if isinstance(table.get(name, {}), dict) else {}
        table[last] = value
    context = {"folder": path.resolve().parent if path else Path.cwd()}
    try:
        # As JSON, so that nothing is converted but paths and lists, which TOML does not have as types.
        return NodeConfig.model_validate_json(json.dumps(content, default=str), context=context)
    except ValidationError as error:
        problems = [_describe(dict(problem), path, options or {}) for problem in error.errors()]
        raise ConfigError("\n".join(problems)) from None


def _describe(problem: dict[str, Any], path: Path | None, options: Mapping[str, tuple[str, Any]]) -> str:
    """Return a sentence on one thing that the schema refuses."""
    tag = {"dimse", "stow"}
    loc = [part for number, part in enumerate(problem["loc"]) if not (number == 2 and part in tag)]
    key = ".".join(str(part) if isinstance(part, str) else f"#{part + 1}" for part in loc).replace(".#", " #")
    option = next((name for stem, (name, _) in options.items() if f"{key} ".startswith((f"{stem} ", f"{stem}."))), None)
    where = option or ": ".join(part for part in (str(path or ""), key) if part)
    kind = problem["type"]
    if kind == "missing":
        return f"{where} is missing; {_HOW_TO_GIVE.get(key, 'expected a value')}."
    if kind == "extra_forbidden":
        known = sorted(_keys_beside(problem["loc"]))
        near = difflib.get_close_matches(str(loc[-1]), known, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}."
        return f"{where}: nothing reads this key; {remedy}"
    expected = problem.get("ctx", {}).get("error") or problem["msg"].removeprefix("Input should be ")
    if kind == "tuple_type":
        expected = f"tables [[{key}]]" if key in ("destination", "poll") else "a list"
    if kind in ("model_type", "model_attributes_type"):
        expected = "a table"
    if kind.startswith("union_tag"):
        expected = "the key kind to be dimse or stow"
    for long, short in (("less than or equal to", "at most"), ("greater than or equal to", "at least")):
        expected = str(expected).replace(long, short)
    return f"{where}: got {problem['input']!r}, expected {expected}."


_HOW_TO_GIVE = {
    "model": "name a checkpoint, a run's folder or an exported bundle",
    "destination": "give --destination AE@HOST:PORT, or a table [[destination]] in the file",
}


def _keys_beside(loc: tuple[Any, ...]) -> set[str]:
    """Return the keys of the table that holds an unknown one."""
    table: Any = NodeConfig
    for part in loc[:-1]:
        if isinstance(part, str) and part in ("dimse", "stow"):
            table = Dimse if part == "dimse" else Stow
        elif isinstance(part, str):
            annotation = table.model_fields[part].annotation
            table = next((each for each in (annotation, *get_args(annotation)) if hasattr(each, "model_fields")), Dimse)
    return set(table.model_fields)


def _name_of(destination: Dimse | Stow) -> str:
    if isinstance(destination, Stow):
        return destination.name or destination.url
    return destination.name or str(DimseDestination(destination.ae_title, destination.host, destination.port))
