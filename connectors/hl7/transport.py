"""TLS for MLLP (IHE ATNA): contexts for server and sender, and the names in a peer's certificate."""

import asyncio
import socket
import ssl

from connectors.hl7.settings import Hl7Tls
from models.errors import Permanent


def server_context(tls: Hl7Tls) -> ssl.SSLContext:
    """Return the server's context: TLS 1.2 or newer, senders' certificates required where authorities are given.

    Raises `Permanent` when a file is missing or not what it should be.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.ca_file)
        context.load_cert_chain(tls.certificate_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        raise Permanent(
            f"TLS of the HL7 server cannot be set up: {error}", hint="check the PEM files in the settings"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.ca_file:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def keep_alive(writer: asyncio.StreamWriter) -> None:
    """Have the kernel find out within two minutes that a silent peer is gone: an unplugged monitor says no goodbye."""
    endpoint = writer.get_extra_info("socket")
    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            endpoint.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def certificate_names(writer: asyncio.StreamWriter) -> tuple[str, ...]:
    """Return the common name and DNS names of the peer's verified certificate; empty without one."""
    certificate = writer.get_extra_info("peercert") or {}
    common = [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
    return (*common, *(value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"))
