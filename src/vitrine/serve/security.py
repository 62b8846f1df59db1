"""Which requests are admitted: those to the server's own names, from its own pages, and with the token if it has one.

A page on the web can make a browser send requests to 127.0.0.1, and a name that resolves there (DNS rebinding) makes
them look like requests from the server's own page. So every request must be addressed to a name that no other server
can have, must not come from another page, and must carry the token if the server has one.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitrine.serve.errors import ApiError
from vitrine.serve.settings import is_loopback

COOKIE_PREFIX = "vitrine"
PUBLIC_PATHS = ("/healthz",)  # needs no token: it says only that the server runs

CSP_HEADER = "Content-Security-Policy"

SECURITY_HEADERS = {
    CSP_HEADER: (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Headers of every answer."""


class SecurityMiddleware:
    """Passes admitted requests on to an ASGI application, and adds :data:`SECURITY_HEADERS` to every answer."""

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        """
        Args:
            app: that answers admitted requests.
            host: address that the server is bound to.
            token: secret that requests must carry; None asks for none.
        """
        self._app, self._token = app, token
        self._names = {"localhost", host.lower()} | ({socket.gethostname().lower()} if _is_wildcard(host) else set())
        self._any_literal = not is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} connections are not served.")  # the server closes them

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    if name != CSP_HEADER or name not in headers:  # a report's page carries its own code, by its hash
                        headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._check_origin(scope) or self._check_token(scope)
        await (answer or self._app)(scope, receive, send_with_headers)

    def _check_origin(self, scope: Scope) -> Response | None:
        """The answer to a request under a foreign name or from another page; None for an admitted one."""
        headers = Headers(scope=scope)
        try:
            self._require_own_host(headers)
            _require_own_page(headers, scope)
        except ApiError as error:
            return error.response()
        return None

    def _require_own_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        name = _host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None or not (name in self._names or self._is_own_literal(name)):
            raise ApiError(
                403, "This server is asked under a name that is not its own: use the printed address.", "host"
            )

    def _is_own_literal(self, name: str) -> bool:
        """Whether a name is an address in digits, which is nobody else's; a private server takes only its own."""
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._any_literal or address.is_loopback

    def _check_token(self, scope: Scope) -> Response | None:
        """The answer to a request without the token, or to the visit that brings it; None for an admitted one."""
        if self._token is None or scope["path"] in PUBLIC_PATHS:
            return None
        headers = Headers(scope=scope)
        if scope["path"] == "/" and scope["method"] == "GET":
            query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            tokens = [value for key, value in query if key == "token"]
            if tokens and self._is_token(tokens[0]):
                return self._with_cookie(headers, [(key, value) for key, value in query if key != "token"])
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        bearer = bearer.strip().encode("latin-1").decode("utf-8", "replace")  # headers are read as Latin-1
        if (scheme.lower() == "bearer" and self._is_token(bearer)) or self._has_cookie(headers):
            return None
        if scope["path"] == "/":
            return PlainTextResponse(
                "Open the address with its token: /?token=TOKEN, as vitrine serve printed it.\n", 401
            )
        sentence = "The token is missing or wrong: send Authorization: Bearer TOKEN, or open /?token=TOKEN first."
        return ApiError(401, sentence, "token").response()

    def _is_token(self, candidate: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(candidate.encode("utf-8", "surrogateescape"), self._token.encode("utf-8"))

    def _has_cookie(self, headers: Headers) -> bool:
        cookie = cookie_parser(headers.get("cookie", "")).get(_cookie_name(headers), "")
        return hmac.compare_digest(cookie.encode("utf-8", "surrogateescape"), self._cookie_value().encode())

    def _cookie_value(self) -> str:
        """A hash of the token, so that other servers on this machine, which see the cookie, do not learn the token."""
        assert self._token is not None
        return hmac.new(self._token.encode("utf-8"), b"vitrine cookie", "sha256").hexdigest()

    def _with_cookie(self, headers: Headers, query: list[tuple[str, str]]) -> Response:
        """Redirect to the address without the token, which a cookie replaces, so that copied links lack the token."""
        response = RedirectResponse(f"/?{urlencode(query)}" if query else "/", 303)
        response.set_cookie(_cookie_name(headers), self._cookie_value(), httponly=True, samesite="lax", path="/")
        return response


def _cookie_name(headers: Headers) -> str:
    """The cookie's name, with the port: browsers send the cookies of all ports of a machine to each of them."""
    port = headers.get("host", "").rpartition(":")[2]
    return f"{COOKIE_PREFIX}-{port if port.isascii() and port.isdecimal() else 80}"


def _require_own_page(headers: Headers, scope: Scope) -> None:
    """Refuse requests that another page made the browser send; links to the explorer may lie anywhere."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None:
        host = headers.get("host", "").lower()
        if origin.lower() not in (f"http://{host}", f"https://{host}"):
            raise ApiError(403, "Another page may not ask this server.", "origin")
    follows_link = (
        scope["path"] == "/" and scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
    ) and headers.get("sec-fetch-dest") == "document"
    if site not in (None, "same-origin", "none") and not follows_link:
        raise ApiError(403, "Another page may not ask this server.", "origin")


def _host_name(host: str) -> str | None:
    """The name or address in a Host header, without brackets and port; None if the header is malformed."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        port = port.removeprefix(":") if port.startswith(":") else ("" if not port else "x")
        name = name if bracket else ""
    else:
        name, _, port = host.partition(":")
    return name.lower() if name and (not port or (port.isascii() and port.isdecimal())) else None


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
