"""The connection layer of all requests: one deadline per request, and a restriction to public addresses.

httpx limits only single waits, so a server that occasionally sends a byte, or a slow name server, could block a request
forever. Here all waits of a request end at one deadline, including those for a proxy. A web page may also link or
redirect to a machine of the local network. Therefore the connection uses exactly the address that was checked, so that
a name cannot change its address in between.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import httpx

from empg.errors import UserError

_LONGEST_WAIT = 86_400.0  # seconds; Python refuses a time limit of a socket above 2^31 milliseconds


class PrivateAddressError(Exception):
    """A host is, or resolves to, an address that is not on the public internet."""


def resolve(host: str, port: int, timeout: float | None = None) -> list[str]:
    """Return the addresses of a host.

    The system's resolver has no timeout, so it runs in a thread that is abandoned after `timeout` seconds.

    Raises:
        TimeoutError: the name was not resolved within `timeout` seconds.
        OSError: the name does not resolve.
        UnicodeError: the name is invalid.
    """
    found: list[str] = []
    problems: list[BaseException] = []

    def ask() -> None:
        try:
            found.extend(str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except BaseException as problem:
            problems.append(problem)

    try:
        return [str(ipaddress.ip_address(host))]  # an IP address is not resolved
    except ValueError:
        asking = threading.Thread(target=ask, daemon=True, name="resolver")
    asking.start()
    asking.join(timeout)
    if asking.is_alive():
        raise TimeoutError(f"{host} was not resolved in time")
    if problems:
        raise problems[0]
    return found


def public_addresses(host: str, port: int, timeout: float | None = None) -> list[str]:
    """Return the addresses of a host, all of them public.

    Raises:
        PrivateAddressError: one of them is not public.
        TimeoutError, OSError, UnicodeError: see `resolve`.
    """
    addresses = resolve(host, port, timeout)
    for address in addresses:
        if not is_public(address):
            raise PrivateAddressError(f"{host} is not on the public internet")
    return addresses


def is_public(address: str) -> bool:
    """Return whether an IP address is public. An IPv6 address that embeds an IPv4 address is checked by the latter."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        hidden = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if hidden is not None:
            return is_public(str(hidden))
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        return ip in _GLOBAL and ip.is_global
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NOT_PUBLIC)


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL = ipaddress.IPv6Network("2000::/3")  # allocated by IANA; all others are local, translated or obsolete
_NOT_PUBLIC = (
    ipaddress.IPv4Network("192.0.0.0/24"),  # protocol assignments; Python treats parts of it as global
    ipaddress.IPv4Network("168.63.129.16/32"),  # an internal address of a cloud provider in a public range
)


class Deadline(threading.local):
    """The deadline of the current request of each thread, in seconds of `time.monotonic`."""

    at = float("inf")

    def cut(self, timeout: float | None) -> float:
        """Return the remaining seconds, at most `timeout` and a day.

        Raises:
            httpcore.TimeoutException: the deadline has passed.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("out of time")
        return min(left, _LONGEST_WAIT if timeout is None else timeout, _LONGEST_WAIT)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner, self._deadline = inner, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.cut(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.cut(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        inner = self._inner.start_tls(ssl_context, server_hostname, self._deadline.cut(timeout))
        return _Stream(inner, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, deadline: Deadline, allow_private: bool) -> None:
        self._deadline, self._allow_private = deadline, allow_private
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        find = resolve if self._allow_private else public_addresses
        try:
            addresses = find(host, port, self._deadline.cut(timeout))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        for place, address in enumerate(addresses, 1):
            try:
                stream = self._sockets.connect_tcp(
                    address, port, self._deadline.cut(timeout), local_address, socket_options
                )
                return _Stream(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if place == len(addresses):
                    raise
        raise httpcore.ConnectError(f"{host} has no address")


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


class Transport(httpx.BaseTransport):
    """Sends requests over its own connections, which end at `deadline`.

    Args:
        deadline: deadline of the current request of each thread.
        allow_private: whether servers may have a private address.
        proxy: URL of a proxy, which may have a private address; None connects directly.

    Raises:
        UserError: the type of the proxy is not supported, or requires a package that is not installed.
    """

    def __init__(self, deadline: Deadline, allow_private: bool, proxy: str | None = None) -> None:
        secured = httpx.create_ssl_context()
        self._pool: httpcore.ConnectionPool
        if proxy is None:
            self._pool = httpcore.ConnectionPool(ssl_context=secured, network_backend=_Backend(deadline, allow_private))
            return
        kinds = {"http": httpcore.HTTPProxy, "https": httpcore.HTTPProxy, "socks5": httpcore.SOCKSProxy}
        try:
            parsed = httpx.Proxy(proxy if "://" in proxy else f"http://{proxy}")
            url = httpcore.URL(scheme=parsed.url.raw_scheme, host=parsed.url.raw_host, port=parsed.url.port, target="/")
            self._pool = kinds[parsed.url.scheme](
                proxy_url=url, proxy_auth=parsed.raw_auth, ssl_context=secured, network_backend=_Backend(deadline, True)
            )
        except (httpx.InvalidURL, KeyError, ValueError):  # their messages may contain a password
            raise UserError("unsupported proxy in the environment variables: expected http, https or socks5") from None
        except RuntimeError:
            raise UserError(
                "the socks5 proxy in the environment variables requires a package. Run pip install 'httpx[socks]'"
            ) from None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. Exceptions are those of httpcore."""
        url = request.url
        answer = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer))

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()
