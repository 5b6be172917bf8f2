"""Being let in to a FHIR server: SMART Backend Services and client certificates, against a small server of the tests, over sockets.

The server checks the assertion with the public key by itself (RFC 7515, 7518), not with the library that signed it.
"""

import asyncio
import shutil
import socket
import ssl
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs

import httpx
import orjson
import pytest
import uvicorn
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.fhir.client import client
from connectors.fhir.handling import FhirMapper
from connectors.fhir.publishing import Publishing
from connectors.fhir.pull import ORDER, Puller
from connectors.fhir.server import FhirServer
from connectors.fhir.settings import FhirPeer, FhirSettings
from connectors.serving import QuietServer
from models.errors import Permanent
from streams.cli.connect import _credentials
from tests.edge import MemoryStore, RecordingPublisher, certificate, identities
from tests.fhir_resources import observation

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP384R1())


def part(text):
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def number(value, length=48):
    return urlsafe_b64encode(value.to_bytes(length)).rstrip(b"=").decode()


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


class Ehr:
    """A FHIR server with two observations, that lets in whom its token endpoint has let in."""

    def __init__(self, clock, public):
        self.clock, self.public = clock, public
        self.scope, self.lasts, self.kid = "system/*.rs", 300, "ours"
        self.busy = 0
        self.granted, self.used, self.asked = {}, set(), []
        self.algorithms = ["RS384", "ES384"]
        self.url = self.endpoint = ""
        self.forgets = False

    async def smart(self, request):
        self.asked.append("smart")
        assert "authorization" not in request.headers
        return JSONResponse(
            {"token_endpoint": self.endpoint, "token_endpoint_auth_signing_alg_values_supported": self.algorithms}
        )

    async def token(self, request):
        self.asked.append("token")
        if self.busy:
            self.busy -= 1
            return Response(status_code=503)
        form = {name: value for name, (value,) in parse_qs((await request.body()).decode()).items()}
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        assert form["grant_type"] == "client_credentials"
        assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        if form["scope"] != self.scope:
            return JSONResponse({"error": "invalid_scope", "error_description": "Jane Doe"}, status_code=400)
        if reason := self.wrong(form["client_assertion"]):
            return JSONResponse({"error": "invalid_client", "error_description": reason}, status_code=401)
        name = f"token-{len(self.granted)}"
        self.granted[name] = self.clock.now + timedelta(seconds=self.lasts or 300)
        return JSONResponse({"access_token": name, "token_type": "Bearer"} | ({"expires_in": self.lasts} if self.lasts else {}))

    def wrong(self, assertion):
        header, body, signature = assertion.split(".")
        head, said = orjson.loads(part(header)), orjson.loads(part(body))
        signed, mark = f"{header}.{body}".encode(), part(signature)
        assert (head["typ"], head["kid"]) == ("JWT", self.kid)
        assert head["alg"] == ("RS384" if isinstance(self.public, rsa.RSAPublicKey) else "ES384")
        assert (said["iss"], said["sub"], said["aud"]) == ("vigil", "vigil", self.endpoint)
        assert self.clock.now.timestamp() < said["exp"] <= (self.clock.now + timedelta(minutes=5)).timestamp()
        assert said["jti"] not in self.used
        self.used.add(said["jti"])
        try:
            if head["alg"] == "RS384":
                self.public.verify(mark, signed, padding.PKCS1v15(), hashes.SHA384())
            else:
                assert len(mark) == 96
                pair = encode_dss_signature(int.from_bytes(mark[:48]), int.from_bytes(mark[48:]))
                self.public.verify(pair, signed, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature:
            return "that is not this key's signature"
        return ""

    def let_in(self, request):
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if self.forgets:
            self.granted.clear()
            self.forgets = False
        return scheme == "Bearer" and self.granted.get(token, self.clock.now) > self.clock.now

    async def metadata(self, request):
        rest = [{"mode": "server", "resource": [{"type": kind} for kind in ORDER]}]
        return JSONResponse({"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1", "rest": rest})

    async def search(self, request):
        self.asked.append("search")
        if not self.let_in(request):
            return Response(status_code=401)
        found = [observation(id=f"o{n}", meta={"lastUpdated": NOW.isoformat()}) for n in range(2)]
        entries = [{"resource": one} for one in found if request.path_params["kind"] == "Observation"]
        return JSONResponse({"resourceType": "Bundle", "type": "searchset", "entry": entries})


@asynccontextmanager
async def running(ehr, **tls):
    routes = [
        Route("/fhir/.well-known/smart-configuration", ehr.smart),
        Route("/token", ehr.token, methods=["POST"]),
        Route("/fhir/metadata", ehr.metadata),
        Route("/fhir/{kind}", ehr.search),
    ]
    listening = socket.create_server(("127.0.0.1", 0))
    root = f"http{'s' if tls else ''}://127.0.0.1:{listening.getsockname()[1]}"
    ehr.url, ehr.endpoint = f"{root}/fhir", ehr.endpoint or f"{root}/token"
    server = QuietServer(uvicorn.Config(Starlette(routes=routes), lifespan="off", log_config=None, loop="none", **tls))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield ehr
    finally:
        server.should_exit = True
        await task


def peer(path, **more):
    return FhirPeer.model_validate({"fetch_smart": {"client_id": "vigil", "key_file": path, "key_id": "ours"} | more})


def pem(key, path, password=None):
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock))
    return path


async def no_wait(seconds):
    await asyncio.sleep(0)


@asynccontextmanager
async def pulling(ehr, settings, clock):
    mapper = FhirMapper(FhirSettings(), identities())
    publishing = Publishing(mapper, RecordingPublisher(), MemoryStore(), now=clock, seconds=5)
    async with client(ehr.url, settings, clock) as http:
        yield Puller(ehr.url, "fhir", http, publishing, now=clock, sleep=no_wait)


@pytest.mark.parametrize("key", [RSA, EC])
async def test_a_token_by_a_signed_assertion_renewed_before_it_ends(tmp_path, key):
    clock = Clock()
    async with running(Ehr(clock, key.public_key())) as ehr, pulling(ehr, peer(pem(key, tmp_path / "key")), clock) as puller:
        assert (await puller.pull()).events == 2
        assert [one for one in ehr.asked if one != "search"] == ["smart", "token"]  # one for all pages
        clock.now += timedelta(seconds=260)
        await puller.pull()
        assert ehr.asked.count("token") == 1
        clock.now += timedelta(seconds=15)  # it still holds, but not for long
        await puller.pull()
        assert (ehr.asked.count("token"), ehr.asked.count("smart")) == (2, 1)
        ehr.forgets = True  # the server took its tokens back
        assert (await puller.pull()).events == 8
        assert ehr.asked.count("token") == 3


async def test_a_jwk_names_itself(tmp_path):
    numbers = EC.private_numbers()
    x, y = numbers.public_numbers.x, numbers.public_numbers.y
    jwk = {"kty": "EC", "crv": "P-384", "kid": "its own", "d": number(numbers.private_value), "x": number(x), "y": number(y)}
    (tmp_path / "key").write_bytes(orjson.dumps(jwk))
    clock = Clock()
    async with running(Ehr(clock, EC.public_key())) as ehr:
        ehr.kid, ehr.lasts = "its own", None
        async with pulling(ehr, peer(tmp_path / "key", key_id=""), clock) as puller:
            assert (await puller.pull()).events == 2


async def test_a_token_endpoint_that_is_busy_is_waited_for_and_a_token_that_never_lasts_ends_the_pull(tmp_path):
    clock, settings = Clock(), peer(pem(RSA, tmp_path / "key"))
    async with running(Ehr(clock, RSA.public_key())) as ehr, pulling(ehr, settings, clock) as puller:
        ehr.busy = 3
        assert (await puller.pull(kinds=("Observation",))).events == 2
        assert ehr.asked == ["smart", *["token"] * 4, "search"]
    async with running(Ehr(clock, RSA.public_key())) as ehr, pulling(ehr, settings, clock) as puller:
        ehr.lasts = -5
        with pytest.raises(Permanent, match="answered 401"):
            await puller.pull()
        assert ehr.asked == ["smart", "token", "search", "token", "search"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scope": "system/*.cruds"}, "refuses us with 400: invalid_scope"),
        ({"key_id": ""}, "the server tells by its `kid`"),
        ({"token_endpoint": "http://elsewhere.example/token"}, "no https URL"),
    ],
)
async def test_what_the_server_does_not_grant_ends_the_pull_with_the_reason(tmp_path, change, reason):
    clock = Clock()
    async with running(Ehr(clock, RSA.public_key())) as ehr:
        with pytest.raises(Permanent, match=reason) as failed:
            async with pulling(ehr, peer(pem(RSA, tmp_path / "key"), **change), clock) as puller:
                await puller.pull()
        assert "Jane" not in failed.value.advice
        assert "search" not in ehr.asked


async def test_another_key_and_what_is_no_key(tmp_path):
    clock, other = Clock(), ec.generate_private_key(ec.SECP256R1())
    public = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public").write_bytes(public)
    (tmp_path / "jwk").write_text('{"kty": "oct", "k": "c2VjcmV0", "kid": "ours"}')
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    async with running(Ehr(clock, RSA.public_key())) as ehr:
        for path, reason in [
            (pem(stranger, tmp_path / "stranger"), "401: invalid_client"),
            (pem(other, tmp_path / "short"), "no private key that SMART signs with"),
            (pem(RSA, tmp_path / "locked", b"secret"), "locked cannot be read"),
            (tmp_path / "public", "public cannot be read"),
            (tmp_path / "jwk", "jwk cannot be read"),
            (tmp_path / "nothing", "nothing cannot be read"),
        ]:
            async with pulling(ehr, peer(path), clock) as puller:
                with pytest.raises(Permanent, match=reason):
                    await puller.pull()
        ehr.algorithms = ["ES384"]
        async with pulling(ehr, peer(pem(RSA, tmp_path / "key")), clock) as puller:
            with pytest.raises(Permanent, match="takes no assertion signed with RS384"):
                await puller.pull()


async def test_a_server_without_smart(tmp_path):
    clock = Clock()
    async with running(Ehr(clock, RSA.public_key())) as ehr:
        ehr.url = ehr.url.replace("/fhir", "/other")
        async with pulling(ehr, peer(pem(RSA, tmp_path / "key")), clock) as puller:
            with pytest.raises(Permanent, match="does not say where its token endpoint is"):
                await puller.pull()


async def test_notifications_are_fetched_with_it_too(tmp_path):
    clock, publisher = Clock(), RecordingPublisher()
    async with running(Ehr(clock, EC.public_key())) as ehr:
        sender = peer(pem(EC, tmp_path / "key")).model_copy(update={"base": ehr.url, "fetch": True})
        settings = FhirSettings(port=0, confirm_timeout=5, peers={"fhir": sender})
        server = FhirServer(settings, publisher=publisher, store=MemoryStore(), identities=identities(), now=clock)
        async with server, httpx.AsyncClient() as http:
            assert (await http.post(f"http://127.0.0.1:{server.port}/hook")).status_code == 200
    assert len(publisher.events) == 2


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
async def test_a_client_certificate(tmp_path):
    clock = Clock()
    served, ours, others = (certificate(tmp_path, name) for name in ("localhost", "ours", "others"))
    tls = {"ssl_certfile": served[0], "ssl_keyfile": served[1], "ssl_ca_certs": ours[0], "ssl_cert_reqs": ssl.CERT_REQUIRED}
    (tmp_path / "both").write_bytes(ours[0].read_bytes() + ours[1].read_bytes())
    async with running(Ehr(clock, RSA.public_key()), **tls) as ehr:
        smart = peer(pem(RSA, tmp_path / "key")).model_copy(update={"fetch_ca_file": served[0]})
        for files in (
            {"fetch_certificate_file": ours[0], "fetch_key_file": ours[1]},
            {"fetch_certificate_file": tmp_path / "both"},
        ):
            async with pulling(ehr, smart.model_copy(update=files), clock) as puller:
                assert (await puller.pull()).events == 2  # shown to the token endpoint too
        for files in ({}, {"fetch_certificate_file": others[0], "fetch_key_file": others[1]}):
            async with pulling(ehr, smart.model_copy(update=files), clock) as puller:
                with pytest.raises(Permanent, match="nothing answers"):
                    await puller.check()
    locked = pem(EC, tmp_path / "locked", b"secret")
    for files in ((ours[0], others[1]), (ours[0], locked), (tmp_path / "nothing", None), (locked, None)):
        with pytest.raises(Permanent, match="no PEM certificate with its key"):
            client(ehr.url, FhirPeer(fetch_certificate_file=files[0], fetch_key_file=files[1]), clock)


@pytest.mark.parametrize(
    "given",
    [
        {"fetch_key_file": "key"},
        {"fetch_token_file": "token", "fetch_smart": {"client_id": "vigil", "key_file": "key"}},
        {"fetch_smart": {"client_id": "", "key_file": "key"}},
    ],
)
def test_settings_that_do_not_go_together(given):
    with pytest.raises(ValueError, match=r"fetch_|client_id"):
        FhirPeer.model_validate(given)


def test_what_the_command_line_says_comes_before_the_peers_settings(tmp_path):
    own = peer(tmp_path / "key").model_copy(update={"fetch_ca_file": tmp_path / "ca", "fetch_key_file": tmp_path / "old"})
    assert _credentials(own, None, None, None, None) == own
    said = _credentials(own, tmp_path / "token", tmp_path / "other", tmp_path / "certificate", None)
    assert (said.fetch_token_file, said.fetch_smart) == (tmp_path / "token", None)
    assert (said.fetch_ca_file, said.fetch_certificate_file, said.fetch_key_file) == (
        tmp_path / "other",
        tmp_path / "certificate",
        None,
    )
    with pytest.raises(Permanent, match="--key-file"):
        _credentials(own, None, None, None, tmp_path / "key")
