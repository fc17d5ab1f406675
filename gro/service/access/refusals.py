"""What a caller hears who is not let in: the same words whatever was wrong; the code in the log tells the cases apart.

The challenges are those of RFC 6750, section 3, and RFC 9110, section 11.6.1. Keys and sessions have no scheme of their
own and are challenged for as bearer tokens, which they may be sent as.
"""

from __future__ import annotations

from types import MappingProxyType

from gro.service.core import Refused, Role

REALM = 'Bearer realm="gro"'


def missing(code: str = "credential_missing") -> Refused:
    """401 for a request without a credential that the service takes."""
    return _refused(401, code, "a credential is required", REALM)


def invalid(code: str) -> Refused:
    """401 for a credential that is malformed, unknown, wrong, expired or revoked: ``code`` says which, to the log."""
    return _refused(401, code, "the credential is not valid", f'{REALM}, error="invalid_token"')


def ambiguous(code: str) -> Refused:
    """400 for a request that shows more than one credential."""
    return _refused(400, code, "one credential is expected, in one header", f'{REALM}, error="invalid_request"')


def forbidden(role: Role) -> Refused:
    """403 for a principal without ``role``."""
    detail = f"the role '{role}' is required"
    return _refused(403, "role_missing", detail, f'{REALM}, error="insufficient_scope", scope="{role}"')


def _refused(status: int, code: str, detail: str, challenge: str) -> Refused:
    return Refused(status, code, detail, MappingProxyType({"WWW-Authenticate": challenge}))
