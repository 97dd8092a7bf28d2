"""Connections that keep to their time, and to public addresses: what lies under every request.

httpx bounds one wait; a server that sends a byte now and then can hold a request for ever, and so can a name server.
Here every wait of a request ends at one deadline, through a proxy, too. And a page of the web may name, or redirect to,
a machine of this network: the address that is connected to is the very one that was checked, so a name cannot change
its address in between.
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


class PrivateAddressError(Exception):
    """A host is, or resolves to, an address that is not on the public internet."""


def resolve(host: str, port: int, timeout: float | None = None) -> list[str]:
    """The addresses of a host.

    The system's resolver knows no deadline: it works in a thread that is left behind when the time is over.

    Raises:
        TimeoutError: there was no answer within `timeout` seconds.
        OSError: the name does not resolve.
        UnicodeError: it cannot be a name.
    """
    found: list[str] = []
    problems: list[BaseException] = []

    def ask() -> None:
        try:
            found.extend(str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except BaseException as problem:
            problems.append(problem)

    try:
        return [str(ipaddress.ip_address(host))]  # needs no asking
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
    """The addresses of a host, none of them private.

    Raises:
        PrivateAddressError: one of them is not public.
        OSError: see `resolve`, and for what else.
    """
    addresses = resolve(host, port, timeout)
    for address in addresses:
        if not is_public(address):
            raise PrivateAddressError(f"{host} is not on the public internet")
    return addresses


def is_public(address: str) -> bool:
    """Whether an IP address may be reached for an agent; one that hides an IPv4 address is judged by that."""
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
_GLOBAL = ipaddress.IPv6Network("2000::/3")  # what IANA gives out; the rest is local, translated or long gone
_NOT_PUBLIC = (
    ipaddress.IPv4Network("192.0.0.0/24"),  # of protocols; Python calls parts of it global
    ipaddress.IPv4Network("168.63.129.16/32"),  # a cloud's own machine, though the address looks public
)


class Deadline(threading.local):
    """When the request that this thread is making must be over; seconds of `time.monotonic`."""

    at = float("inf")

    def cut(self, timeout: float | None) -> float:
        """The wait that is left, at most `timeout`.

        Raises:
            httpcore.TimeoutException: none is left.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("out of time")
        return left if timeout is None else min(left, timeout)


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
    """Requests over connections of their own, that end at `deadline`.

    Args:
        deadline: of the request that a thread is making.
        allow_private: whether the machine that is connected to may have an address that is not public.
        proxy: the address of one that the requests go through, which may be of this network; None connects directly.

    Raises:
        UserError: the proxy's kind is not known, or needs a package that is not there.
    """

    def __init__(self, deadline: Deadline, allow_private: bool, proxy: str | None = None) -> None:
        secured = httpx.create_ssl_context()
        self._pool: httpcore.ConnectionPool
        if proxy is None:
            self._pool = httpcore.ConnectionPool(ssl_context=secured, network_backend=_Backend(deadline, allow_private))
            return
        kinds = {"http": httpcore.HTTPProxy, "https": httpcore.HTTPProxy, "socks5": httpcore.SOCKSProxy}
        try:
            known = httpx.Proxy(proxy if "://" in proxy else f"http://{proxy}")
            url = httpcore.URL(scheme=known.url.raw_scheme, host=known.url.raw_host, port=known.url.port, target="/")
            self._pool = kinds[known.url.scheme](
                proxy_url=url, proxy_auth=known.raw_auth, ssl_context=secured, network_backend=_Backend(deadline, True)
            )
        except (httpx.InvalidURL, KeyError, ValueError):  # whose message may hold a password
            raise UserError("the proxy that this environment names is none of http, https and socks5") from None
        except RuntimeError:
            raise UserError("the proxy that this environment names needs pip install 'httpx[socks]'") from None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send it; the exceptions are httpcore's."""
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
        """Close its connections."""
        self._pool.close()
