"""The parts of an Envoy configuration around a matcher: listener, HTTP connection manager, TLS, clusters.

Everything is plain JSON of the v3 API. Settings that make a difference to security stand here with their reason; what
decides comes from `policyengine.compile.envoymatch`. The same parts serve the exported files and the Envoy that
`limen policy eval --engine envoy` asks.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.request import Protocol
from policyengine.compile.envoymatch import PATH_KEY, TYPE, Json

_FILTERS = "envoy.extensions.filters"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_BUFFER = 32_768
AGENT = "limen-agent"


def address(host: str, port: int) -> Json:
    """A TCP address."""
    return {"socket_address": {"address": host, "port_value": port}}


def listener(name: str, where: Json, filters: Sequence[Json], transport: Json, **more: object) -> Json:
    """A listener with one chain of filters behind mutual TLS."""
    return {
        "name": name,
        "address": where,
        "per_connection_buffer_limit_bytes": _BUFFER,
        "filter_chains": [{"filters": list(filters), "transport_socket": transport}],
        **more,
    }


def mutual_tls(protocol: Protocol, common: Json) -> Json:
    """TLS that takes nobody without a certificate; ``common`` says whose own, and who is trusted."""
    known = {"tcp": [], "http": ["http/1.1"], "grpc": ["h2"]}[protocol]
    context = {
        "@type": f"{TYPE}envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            **({"alpn_protocols": known} if known else {}),
            **common,
        },
    }
    return {"name": "tls", "typed_config": context}


def from_agent(own: str) -> Json:
    """Certificate and trust from the agent, by SDS: an SVID by its name, and the bundles of all trusted domains."""
    source = {
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": AGENT}}],
        },
    }
    return {
        "tls_certificate_sds_secret_configs": [{"name": own, "sds_config": source}],
        "validation_context_sds_secret_config": {"name": "ALL", "sds_config": source},
    }


# ---------------------------------------------------------------------- filters


def http_chain(
    name: str, protocol: Protocol, matcher: Json, route: Json, *, websocket: bool = False, **more: object
) -> list[Json]:
    """The filters of a port that reads requests.

    1. Of a target, slashes are merged, and nothing else is rewritten: see `policyengine.compile.envoyedge`. Of a host,
       port and final dot are cut off (RFC 9110 §7.2, RFC 3986 §3.2.2). That is decided and forwarded.
    2. Names that some applications read as others, HTTP/1.0, absolute targets and upgrades are refused, but for a
       WebSocket where the port is declared so: the request that asks for it is decided.
    3. Who calls is the certificate, so what a caller says of itself is replaced.
    4. The path without its query is kept where the matcher finds it; then the matcher decides.
    """
    manager: Json = {
        "@type": f"{TYPE}{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "HTTP2" if protocol == "grpc" else "HTTP1",
        # (1)
        "normalize_path": False,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "strip_any_host_port": True,
        "strip_trailing_host_dot": True,
        # (2)
        "common_http_protocol_options": {
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_headers_count": 100,
            "idle_timeout": "300s",
            "max_connection_duration": "3600s",
        },
        "http_protocol_options": {"allow_absolute_url": False, "accept_http_10": False},
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65_536,
            "initial_connection_window_size": 1_048_576,
            "allow_connect": False,
        },
        **({"upgrade_configs": [{"upgrade_type": "websocket"}]} if websocket else {}),
        "request_headers_timeout": "10s",
        "stream_idle_timeout": "300s",
        # (3)
        "use_remote_address": True,
        "xff_num_trusted_hops": 0,
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True},
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "http_filters": [
            # (4)
            {"name": "path", "typed_config": _path_filter()},
            {"name": "limen", "typed_config": {"@type": f"{TYPE}{_FILTERS}.http.rbac.v3.RBAC", "matcher": matcher}},
            {
                "name": "router",
                "typed_config": {"@type": f"{TYPE}{_FILTERS}.http.router.v3.Router", "suppress_envoy_headers": True},
            },
        ],
        "route_config": {
            "name": name,
            "virtual_hosts": [{"name": name, "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **route}]}],
        },
        **more,
    }
    return [{"name": "http", "typed_config": manager}]


def _path_filter() -> Json:
    value = {
        "object_key": PATH_KEY,
        "factory_key": "envoy.string",
        "format_string": {"text_format_source": {"inline_string": "%PATH(NQ)%"}},
    }
    return {
        "@type": f"{TYPE}{_FILTERS}.http.set_filter_state.v3.Config",
        "on_request_headers": [value],
    }


def tcp_chain(name: str, matcher: Json, last: Json, **more: object) -> list[Json]:
    """The filters of a port that reads connections alone."""
    body = {"@type": f"{TYPE}{_FILTERS}.network.rbac.v3.RBAC", "stat_prefix": name, "matcher": matcher, **more}
    return [{"name": "limen", "typed_config": body}, last]


def tcp_proxy(name: str, cluster: str) -> Json:
    """The way to the application. It is called once the caller has said something.

    Envoy decides about a connection when its first bytes come; a proxy that calls before lets an application that
    speaks first be heard by whoever connects (envoyproxy/envoy#9023).
    """
    body = {
        "@type": f"{TYPE}{_FILTERS}.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": name,
        "cluster": cluster,
        "upstream_connect_mode": "ON_DOWNSTREAM_DATA",
        "max_early_data_bytes": _BUFFER,
        "idle_timeout": "3600s",
    }
    return {"name": "app", "typed_config": body}


def runtime() -> Json:
    """Switches of a whole Envoy.

    Over HTTP/2 it drops a `host` that stands beside `:authority` before anybody can see that they differ; without that
    it joins them by a comma, which is refused.
    """
    layer = {"name": "limen", "static_layer": {"envoy.reloadable_features.http2_discard_host_header": False}}
    return {"layers": [layer]}


# ---------------------------------------------------------------------- clusters


def cluster(name: str, where: Json, *, http2: bool = False) -> Json:
    """A cluster of one address."""
    found: Json = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "per_connection_buffer_limit_bytes": _BUFFER,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": where}}]}],
        },
    }
    if http2:
        options = {"@type": TYPE + _HTTP_OPTIONS, "explicit_http_config": {"http2_protocol_options": {}}}
        found["typed_extension_protocol_options"] = {_HTTP_OPTIONS: options}
    return found
