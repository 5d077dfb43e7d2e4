"""Signatures of deliveries by the Standard Webhooks specification, symmetric scheme v1.

    webhook-id         of the message, the same however often it is delivered
    webhook-timestamp  seconds since 1970, of this attempt
    webhook-signature  v1, and the base64 of HMAC-SHA256(key, id . timestamp . body)

A receiver compares the signature in constant time, refuses a timestamp that is more than some
minutes off, and drops an id that it has seen.

References: Standard Webhooks 1.0, https://www.standardwebhooks.com
"""

import base64
import hashlib
import hmac


def delivery_headers(
    message_id: str, at_seconds: int, body: bytes, key: bytes | None
) -> dict[str, str]:
    """Give the headers of one attempt; without a key there is no signature.

    Parameters
    ----------
    message_id
        Without a dot.
    at_seconds
        Seconds since 1970.
    body
        As it is sent.
    key
        What is shared with the receiver.
    """
    headers = {"webhook-id": message_id, "webhook-timestamp": str(at_seconds)}
    if key is not None:
        signed = b".".join((message_id.encode(), str(at_seconds).encode(), body))
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers
