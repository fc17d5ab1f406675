"""``gro serve``: a run behind its defence and behind the guard, over HTTP."""

from __future__ import annotations

import ipaddress
import json
import logging
import secrets
import socket
import ssl
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvicorn

from gro import artifacts
from gro.artifacts import Artifact
from gro.cli.settings import Output
from gro.config import ServeCommand
from gro.defenses.served import exposed_by, needs_secret, served
from gro.errors import ConfigError
from gro.runs import device_named, lists_of
from gro.service.guard import Guard
from gro.service.keyfile import derived, read_key
from gro.service.reference import About, create_app, fitting
from gro.service.settings import GuardSettings, read_guard
from gro.serving import RankingService, lists_of_ids

logger = logging.getLogger(__name__)
DRAIN: Final = 20
"""Seconds that questions in flight have when the service is asked to end; Kubernetes kills it after 30."""


def serve(settings: Mapping[str, Any], output: Output) -> int:
    """Serve a run until SIGINT or SIGTERM; questions in flight are answered, then the exit code is 0."""
    command = ServeCommand.make(settings)
    with suppress(KeyboardInterrupt):  # so the server hands the signal on, after it has drained
        _serve(command, output)
    return 0


def _serve(command: ServeCommand, output: Output) -> None:
    guarding = _guarding(command)
    _require_certificate(command)
    artifact = artifacts.load(command.run)
    service = _service(artifact, command, guarding)
    manifest = artifact.manifest
    about = About(dataset=manifest.dataset.name, model=manifest.model.model, n_items=service.model.n_items, k=service.k)
    guarding = guarding.model_copy(update={"wire": fitting(guarding.wire, about)})
    with bound(command.host, command.port) as listening:
        _warn_of(listening.getsockname()[0], command)
        app = create_app(partial(lists_of_ids, service), about, Guard(guarding))
        _Server(_config(app, command), command, output).run([listening])


class _Server(uvicorn.Server):
    """Says when it answers."""

    def __init__(self, config: uvicorn.Config, command: ServeCommand, output: Output) -> None:
        super().__init__(config)
        self._run, self._output = command.run, output

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            url = _url(listening, tls=self.config.is_ssl)
            if self._output.json_:
                sys.stdout.write(f"{json.dumps({'run': str(self._run), 'url': url})}\n")
                sys.stdout.flush()
            logger.info("serving %s on %s", self._run, url)


def _config(app: Any, command: ServeCommand) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        proxy_headers=False,  # the guard reads them, as far as [network] trusts them
        server_header=False,
        workers=1,
        timeout_graceful_shutdown=DRAIN,
        ssl_certfile=command.tls_certificate,
        ssl_keyfile=command.tls_key,
    )


def _guarding(command: ServeCommand) -> GuardSettings:
    if command.guard is None:
        hint = "gro guard init DIR writes DIR/guard.toml, which lets nobody in until you make a key"
        raise ConfigError(f"--guard must be given: nothing is served without a guard; {hint}")
    return read_guard(command.guard)


def _service(artifact: Artifact, command: ServeCommand, guarding: GuardSettings) -> RankingService:
    """The run behind its defence, with a secret and noise that nobody can tell who has read the artifact."""
    k, secret = lists_of(artifact), _secret(artifact, command, guarding)
    target = served(artifact, k, secrets.randbits(63), device_named(command.device), secret)
    return RankingService(target, exposed_by(target, k))


def _secret(artifact: Artifact, command: ServeCommand, guarding: GuardSettings) -> bytes | None:
    if not needs_secret(artifact):
        return None
    if guarding.privacy.key_file is None:
        defence = artifact.manifest.settings.get("defence")
        raise ConfigError(
            f"{command.guard}: the defence '{defence}' of {command.run} takes a secret; name a [privacy] key_file"
        )
    return derived(read_key(guarding.privacy.key_file), "defence")


def _require_certificate(command: ServeCommand) -> None:
    """Refuse a certificate that cannot be served, before anything is loaded.

    Raises:
        ConfigError: it is missing or malformed, its key is another's or encrypted, or one of the two is not given.
    """
    certificate, key = command.tls_certificate, command.tls_key
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise ConfigError("--tls-certificate and --tls-key must be given together")
    for path in (certificate, key):
        _require_readable(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError:
        raise ConfigError(
            f"{certificate} and {key} are not a certificate and its key, in PEM and not encrypted"
        ) from None


def _require_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens on an address.

    Raises:
        ConfigError: the address is not this machine's, or the port is taken or not for everybody.
    """
    with ExitStack() as failing:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listening = socket.socket(family, kind, protocol)  # asyncio sends at once only where the protocol is named
            failing.callback(listening.close)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen()
        except (socket.gaierror, UnicodeError):
            raise _unheard(host, port, "no such address") from None
        except OSError as error:
            raise _unheard(host, port, (error.strerror or "cannot be used").lower()) from None
        failing.pop_all()
    return listening


def _unheard(host: str, port: int, why: str) -> ConfigError:
    return ConfigError(f"cannot listen on {host} port {port}: {why}; choose another --host or --port")


def _warn_of(address: str, command: ServeCommand) -> None:
    if command.tls_certificate is None and not ipaddress.ip_address(address).is_loopback:
        logger.warning(
            "listening on %s without TLS: anybody on the way reads credentials and lists, unless a gateway in front of "
            "this machine ends TLS",
            address,
        )


def _url(listening: socket.socket, *, tls: bool) -> str:
    host, port = listening.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
