"""Who may ask: the address that is bound, pages of this server, and whoever has the token. Nobody else.

A page on the web can make a browser send requests to 127.0.0.1, and a name that resolves there (DNS rebinding) makes
them look like its own. So every request must be addressed to a name that cannot be somebody else's, must not come from
another page, and carries the token where there is one.
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
PUBLIC_PATHS = ("/healthz",)  # says nothing but that the server runs

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
"""On every answer."""


class SecurityMiddleware:
    """Lets through to an ASGI application what may be served, and puts :data:`HEADERS` on what comes back."""

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        """
        Args:
            app: what is guarded.
            host: the address that is bound.
            token: that must be carried; None asks for none.
        """
        self._app, self._token = app, token
        self._names = {"localhost", host.lower()} | ({socket.gethostname().lower()} if _is_wildcard(host) else set())
        self._any_literal = not is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
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

        answer = self._refused(scope) or self._signed_in(scope)
        await (answer or self._app)(scope, receive, send_with_headers)

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        try:
            self._require_own_name(headers)
            _require_own_page(headers, scope)
        except ApiError as refusal:
            return refusal.response()
        return None

    def _require_own_name(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        name = _host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None or not (name in self._names or self._is_own_literal(name)):
            raise ApiError(
                403, "This server is asked under a name that is not its own: use the printed address.", "host"
            )

    def _is_own_literal(self, name: str) -> bool:
        """An address in digits is nobody else's name; where only this machine is served, it has to be its own."""
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._any_literal or address.is_loopback

    def _signed_in(self, scope: Scope) -> Response | None:
        """The answer to somebody without token, and to the visit that brings it; None lets the request through."""
        if self._token is None or scope["path"] in PUBLIC_PATHS:
            return None
        headers = Headers(scope=scope)
        if scope["path"] == "/" and scope["method"] == "GET":
            parameters = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            given = [value for key, value in parameters if key == "token"]
            if given and self._is_token(given[0]):
                return self._with_cookie(headers, [(key, value) for key, value in parameters if key != "token"])
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        bearer = bearer.strip().encode("latin-1").decode("utf-8", "replace")  # headers are read as Latin-1
        if (scheme.lower() == "bearer" and self._is_token(bearer)) or self._is_signed_in(headers):
            return None
        if scope["path"] == "/":
            return PlainTextResponse(
                "Open the address with its token: /?token=TOKEN, as vitrine serve printed it.\n", 401
            )
        sentence = "The token is missing or wrong: send Authorization: Bearer TOKEN, or open /?token=TOKEN first."
        return ApiError(401, sentence, "token").response()

    def _is_token(self, given: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token.encode("utf-8"))

    def _is_signed_in(self, headers: Headers) -> bool:
        given = cookie_parser(headers.get("cookie", "")).get(_cookie_name(headers), "")
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._sealed().encode())

    def _sealed(self) -> str:
        """What the cookie holds: made of the token, which it does not give away to other servers on this machine."""
        assert self._token is not None
        return hmac.new(self._token.encode("utf-8"), b"vitrine cookie", "sha256").hexdigest()

    def _with_cookie(self, headers: Headers, rest: list[tuple[str, str]]) -> Response:
        """Keep the visit in a cookie, and the token out of the address bar and of whatever is copied from there."""
        response = RedirectResponse(f"/?{urlencode(rest)}" if rest else "/", 303)
        response.set_cookie(_cookie_name(headers), self._sealed(), httponly=True, samesite="lax", path="/")
        return response


def _cookie_name(headers: Headers) -> str:
    """With the port: browsers send the cookies of all ports of a machine to each of them."""
    port = headers.get("host", "").rpartition(":")[2]
    return f"{COOKIE_PREFIX}-{port if port.isascii() and port.isdecimal() else 80}"


def _require_own_page(headers: Headers, scope: Scope) -> None:
    """Refuse what another page made the browser send; a link to the page itself may lie anywhere."""
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
    """The name or address in a Host header, without brackets and port; None where it is none."""
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
