"""Reads the entries of Envoy's gRPC access log service (envoy.service.accesslog.v3): messages as they were streamed.

A file holds `StreamAccessLogsMessage`s, each behind its length as a varint, or one as JSON a line (the mapping of
protobuf, either spelling). A rate that entries are sampled by goes into the account; entries of exchanges that go on
are left out. Serving the gRPC method is not its business.
"""

from __future__ import annotations

import datetime as dt
import json
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from learner.sources import fields
from learner.sources.envoy import INTERMEDIATE, is_denied
from learner.sources.ledger import Ledger
from learner.sources.proxied import Exchange, Socket, flows_of, host_of
from learner.sources.rows import Input, Outcome, json_object
from mesh.flow import Flow
from mesh.problems import Diagnostic

if TYPE_CHECKING:
    from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

MAX_MESSAGE_BYTES = 16 << 20
_LOGS = ("httpLogs", "http_logs", "tcpLogs", "tcp_logs")
# values of any type: Envoy's own filters have types that no reader knows, and nothing here asks for them
_OPAQUE = frozenset({"filterStateObjects", "filter_state_objects", "metadata"})
_FLAGS = {
    "no_healthy_upstream": "UH",
    "upstream_connection_failure": "UF",
    "no_route_found": "NR",
    "no_cluster_found": "NC",
    "no_filter_config_found": "NFCF",
    "upstream_overflow": "UO",
}


def read_flows(path: pathlib.Path, findings: list[Diagnostic], ledger: Ledger) -> Iterator[Flow]:
    """The flows of a file of messages.

    Raises Invalid LM4001 when the file cannot be read.
    """
    source = Input(path, findings, ledger)
    with source.opened() as file:
        is_text = file.peek(1)[:1] == b"{"
    if is_text:
        for number, line in source.lines(MAX_MESSAGE_BYTES):
            yield from source.each(number, lambda line=line: _entries(_from_json(line), ledger))  # type: ignore[misc]  # mypy has no type for a lambda's default
        return
    for number, data in _messages(source):
        yield from source.each(number, lambda data=data: _entries(_from_bytes(data), ledger))  # type: ignore[misc]  # mypy has no type for a lambda's default


def recognises(head: bytes) -> bool:
    """Whether the first line is a message as JSON, or the first bytes a message behind its length."""
    if head.lstrip()[:1] == b"{":
        first = head.lstrip().partition(b"\n")[0]
        try:
            row = json_object(first)
        except (ValueError, RecursionError):
            # a line longer than what was looked at: its first key tells
            return first.startswith(tuple(f'{{"{name}"'.encode() for name in _LOGS))
        return any(isinstance(row.get(name), dict) for name in _LOGS)
    size, begin = _varint(head)
    if not 2 <= size <= len(head) - begin:
        return False
    try:
        message = _from_bytes(head[begin : begin + size])
    except ValueError:
        return False
    return message.WhichOneof("log_entries") is not None and _is_plausible(message)


def _is_plausible(message: StreamAccessLogsMessage) -> bool:
    entries = message.http_logs.log_entry or message.tcp_logs.log_entry
    return bool(entries) and entries[0].common_properties.HasField("start_time")


def _messages(source: Input) -> Iterator[tuple[int, bytes]]:
    """The messages of a file, numbered from 1; a length that cannot be true ends the reading."""
    number = 0
    with source.opened() as file:
        while head := file.peek(10)[:10]:
            number += 1
            size, begin = _varint(head)
            if not begin or size > MAX_MESSAGE_BYTES:
                source.ledger.seen += 1
                source.broken(number, f"a message claims {size} bytes: nothing was read from here on")
                return
            file.read(begin)
            data = file.read(size)
            if len(data) < size:
                source.ledger.seen += 1
                source.broken(number, "the last message breaks off")
                return
            yield number, data


def _varint(data: bytes) -> tuple[int, int]:
    """A number of base 128 and the bytes that it takes; 0 bytes when it is none."""
    value = 0
    for index, byte in enumerate(data[:10]):
        value |= (byte & 0x7F) << (7 * index)
        if not byte & 0x80:
            return value, index + 1
    return value, 0


def _from_bytes(data: bytes) -> StreamAccessLogsMessage:
    from envoy.service.accesslog.v3 import als_pb2  # noqa: PLC0415  only where such a file is read
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    try:
        return als_pb2.StreamAccessLogsMessage.FromString(data)
    except DecodeError as err:
        raise ValueError("it is no StreamAccessLogsMessage") from err


def _from_json(line: bytes) -> StreamAccessLogsMessage:
    from envoy.service.accesslog.v3 import als_pb2  # noqa: PLC0415  only where such a file is read
    from google.protobuf import json_format  # noqa: PLC0415

    row = _without_opaque(json_object(line))
    try:
        return json_format.Parse(json.dumps(row), als_pb2.StreamAccessLogsMessage(), ignore_unknown_fields=True)
    except json_format.ParseError as err:
        raise ValueError(str(err)) from err


def _without_opaque(value: Any) -> Any:  # noqa: ANN401  JSON of any shape
    if isinstance(value, dict):
        return {name: _without_opaque(item) for name, item in value.items() if name not in _OPAQUE}
    return [_without_opaque(item) for item in value] if isinstance(value, list) else value


def _entries(message: StreamAccessLogsMessage, ledger: Ledger) -> Iterator[list[Outcome]]:
    """What each entry of a message says."""
    for entry in message.http_logs.log_entry:
        yield _flows(entry, ledger, is_http=True)
    for entry in message.tcp_logs.log_entry:
        yield _flows(entry, ledger, is_http=False)


def _flows(entry: Any, ledger: Ledger, *, is_http: bool) -> list[Outcome]:  # noqa: ANN401  either kind of entry
    common = entry.common_properties
    kind = common.DESCRIPTOR.fields_by_name["access_log_type"].enum_type.values_by_number.get(common.access_log_type)
    is_end = common.access_log_type == 0 or (kind is not None and kind.name.endswith("End"))
    if common.intermediate_log_entry or not is_end:
        return [INTERMEDIATE]
    if 0 < common.sample_rate < 1:
        ledger.mark_sampled(round(1 / common.sample_rate))
    start = _moment(common.start_time)
    duration = common.time_to_last_downstream_tx_byte if is_http else common.duration
    found = Exchange(
        start=start,
        end=start + dt.timedelta(seconds=duration.seconds, microseconds=duration.nanos // 1000),
        downstream=_socket(common.downstream_direct_remote_address) or _socket(common.downstream_remote_address),
        local=_socket(common.downstream_local_address),
        upstream=_socket(common.upstream_remote_address),
        upstream_local=_socket(common.upstream_local_address),
        cluster=common.upstream_cluster or None,
        peer_id=_identity(common.tls_properties.peer_certificate_properties),
        local_id=_identity(common.tls_properties.local_certificate_properties),
        host=host_of(common.tls_properties.tls_sni_hostname, entry.request.authority if is_http else None),
        flags=frozenset(short for name, short in _FLAGS.items() if getattr(common.response_flags, name)),
        **(_http(entry) if is_http else {"is_denied": common.response_flags.HasField("unauthorized_details")}),
    )
    if is_http and not found.method:
        return ["without a request"]
    return list(flows_of(found, "envoy"))


def _http(entry: Any) -> dict[str, Any]:  # noqa: ANN401  an HTTPAccessLogEntry
    from envoy.config.core.v3 import base_pb2  # noqa: PLC0415  only where such a file is read

    request, response = entry.request, entry.response
    grpc_status = response.response_trailers.get("grpc-status") or response.response_headers.get("grpc-status")
    kind = request.request_headers.get("content-type", "")
    return {
        "method": base_pb2.RequestMethod.Name(request.request_method) if request.request_method else None,
        "path": request.original_path or request.path or None,
        "status": response.response_code.value or None,
        "grpc_status": int(grpc_status) if grpc_status and grpc_status.isdigit() and len(grpc_status) < 4 else None,
        "is_grpc": kind.startswith("application/grpc") or grpc_status is not None,
        "is_denied": is_denied(response.response_code_details),
    }


def _moment(value: Any) -> dt.datetime:  # noqa: ANN401  a Timestamp
    return fields.nanoseconds("start_time", value.seconds * 1_000_000_000 + value.nanos)


def _socket(address: Any) -> Socket | None:  # noqa: ANN401  an Address
    if not address.HasField("socket_address"):
        return None
    found = address.socket_address
    try:
        return fields.ip("address", found.address), found.port_value or None
    except ValueError:
        return None


def _identity(certificate: Any) -> str | None:  # noqa: ANN401  CertificateProperties
    """The one SPIFFE ID of a certificate: a peer has exactly one URI SAN (design D3)."""
    names = [item.uri for item in certificate.subject_alt_name if item.uri]
    return fields.spiffe_id(names[0]) if len(names) == 1 else None
