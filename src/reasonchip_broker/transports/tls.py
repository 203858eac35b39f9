"""TLS over TCP: a server certificate, and, asked for, a certificate of each client. TLS 1.2 or later."""

import ssl

from reasonchip_broker.errors import EndpointError
from reasonchip_broker.transports.tcp import TcpClientTransport, TcpServerTransport


def server_context(certificate: str, key: str | None = None, client_ca: str | None = None) -> ssl.SSLContext:
    """A listener's TLS settings from PEM files; with `client_ca`, only clients with a certificate of that authority get in.

    Raises EndpointError, in one line, for files that can't be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise EndpointError(f"can't use the certificate files ({certificate}, {key}, {client_ca}): {error}") from error
    return context


def client_context(ca: str | None = None, certificate: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """A dialler's TLS settings: the authority to trust (the system's if None), and its own certificate if it has one.

    Raises EndpointError, in one line, for files that can't be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise EndpointError(f"can't use the certificate files ({ca}, {certificate}, {key}): {error}") from error
    return context


class TlsServerTransport(TcpServerTransport):
    """Listens for TLS on a host and port."""

    scheme = "tls"

    def __init__(self, host: str, port: int, context: ssl.SSLContext, *, json_queue: bool = False) -> None:
        super().__init__(host, port, json_queue=json_queue, tls=context)


class TlsClientTransport(TcpClientTransport):
    """Dials a host and port with TLS, and checks the name on the certificate."""

    scheme = "tls"

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__(host, port, tls=context)
