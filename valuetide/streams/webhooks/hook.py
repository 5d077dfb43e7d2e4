"""A webhook as it is set: where to, in which form, what, and for how long it is tried."""

import base64
import binascii
from typing import Annotated, Any, Final, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    SerializationInfo,
    model_validator,
)
from yarl import URL

from valuetide.schemas.alert import Rule

REVEAL: Final = {"reveal": True}
"""Context in which a hook's secrets are dumped in clear, for the settings file of a child."""

KEY_PREFIX: Final = "whsec_"
KEY_BYTES: Final = range(24, 65)
"""Size of a signing key by the Standard Webhooks specification."""

API: Final = "/api/v2/alerts"


def _dump(secret: SecretStr | None, info: SerializationInfo) -> Any:
    if secret is None:
        return None
    return secret.get_secret_value() if info.context == REVEAL else str(secret)


_Secret = Annotated[SecretStr, PlainSerializer(_dump)]
_OptionalSecret = Annotated[
    SecretStr | None,
    BeforeValidator(lambda value: None if value == "" else value),
    PlainSerializer(_dump),
]


class Webhook(BaseModel):
    """One webhook. Its address is a secret: whoever knows one of Slack's can post with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$",
            description="In metrics, logs and Redis; a hook under another name begins anew",
        ),
    ]
    url: Annotated[
        _Secret, Field(description="http:// or https://; of Alertmanager, its address will do")
    ]
    format: Literal["generic", "slack", "alertmanager"] = "generic"
    secret: Annotated[
        _OptionalSecret,
        Field(description="Signs each delivery: whsec_ and 24 to 64 bytes in base64"),
    ] = None
    rules: Annotated[
        tuple[Rule, ...], Field(min_length=1, description="Alerts of these rules alone")
    ] = get_args(Rule)
    least_stake: Annotated[
        float, Field(ge=0, description="Money a day at stake when the alert fired, at least")
    ] = 0.0
    steps: Annotated[
        Literal["notify", "all"],
        Field(description="Those people should hear of, or all; Alertmanager always gets all"),
    ] = "notify"
    customer_ids: Annotated[
        bool, Field(description="Whether the receiver may know of whom an alert is")
    ] = False
    timeout_seconds: Annotated[float, Field(gt=0, le=60, description="For one attempt")] = 10.0
    retry_seconds: Annotated[
        float, Field(ge=0, description="A step as old as that gets one more attempt and no other")
    ] = 86_400.0
    resend_seconds: Annotated[
        float, Field(ge=1, le=3_600, description="Alertmanager is told again of open alerts")
    ] = 60.0

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        # The messages tell nothing of the values, which are secret.
        try:
            parts = urlsplit(self.url.get_secret_value())
            sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
            URL(self.url.get_secret_value())
        except ValueError:
            sound = False
        if not sound:
            raise ValueError("url: must be http://host[:port]/path or https://…")
        if self.secret is not None:
            try:
                size = len(self.signing_key or b"")
            except binascii.Error:
                size = 0
            if size not in KEY_BYTES:
                raise ValueError(
                    f"secret: must be {KEY_PREFIX} and 24 to 64 bytes in base64, as "
                    f'"{KEY_PREFIX}$(openssl rand -base64 32)" makes it'
                )
        return self

    @property
    def target(self) -> URL:
        """Where to post to. Never log it."""
        url = URL(self.url.get_secret_value())
        if self.format == "alertmanager" and not url.path.endswith(API):
            return url.with_path(url.path.rstrip("/") + API)
        return url

    @property
    def signing_key(self) -> bytes | None:
        """The bytes that the secret stands for; ``None`` without one."""
        if self.secret is None:
            return None
        text = self.secret.get_secret_value()
        if not text.startswith(KEY_PREFIX):
            return b""
        return base64.b64decode(text.removeprefix(KEY_PREFIX), validate=True)
