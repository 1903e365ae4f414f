"""AWS Signature Version 4 for the one S3 request that an upload needs.

Written down in "Authenticating Requests (AWS Signature Version 4)" of Amazon's S3 API reference. Taking all of boto3
for a single PUT would weigh more than these lines.
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

ALGORITHM = "AWS4-HMAC-SHA256"


def sign_put(url: str, digest: str, region: str, key: str, secret: str, token: str | None) -> dict[str, str]:
    """Headers of a signed PUT.

    Args:
        url: Address of the object, percent-encoded.
        digest: SHA-256 of the body, hexadecimal.
        region: AWS region of the bucket.
        key: Access key id.
        secret: Secret access key.
        token: Session token of temporary credentials.
    """
    headers = {
        "host": urlsplit(url).netloc,
        "x-amz-content-sha256": digest,
        "x-amz-date": datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"),
        **({"x-amz-security-token": token} if token else {}),
    }
    signed = ";".join(sorted(headers))
    scope = f"{headers['x-amz-date'][:8]}/{region}/s3/aws4_request"
    found = signature("PUT", urlsplit(url).path, "", headers, signed, digest, scope, secret)
    authorization = f"{ALGORITHM} Credential={key}/{scope}, SignedHeaders={signed}, Signature={found}"
    return {**headers, "authorization": authorization}


def signature(
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    signed: str,
    digest: str,
    scope: str,
    secret: str,
) -> str:
    """The signature of a request: `path` percent-encoded, `query` canonical, `headers` with lower-case names."""
    names = signed.split(";")
    lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in names)
    canonical = "\n".join([method, path, query, lines, signed, digest])
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = "\n".join([ALGORITHM, headers["x-amz-date"], scope, hashed])
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()


def canonical_query(pairs: list[tuple[str, str]]) -> str:
    """The query as it is signed: encoded and sorted."""
    return "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(pairs))
