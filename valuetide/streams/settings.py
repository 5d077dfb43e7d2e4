"""Settings: environment ``VALUETIDE_*``, or one TOML file; checked when the program starts.

The environment wins over the file. Nested settings take two underscores:
``VALUETIDE_VOCABULARY__BASE_CURRENCY=USD``.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from valuetide.schemas.errors import FaultError
from valuetide.schemas.topics import TopicNames
from valuetide.schemas.vocabulary import Vocabulary

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class SettingsError(FaultError):
    """A setting is wrong; the text names it and what is allowed."""


class Settings(BaseSettings):
    """Everything that can be set, with its default and its unit."""

    model_config = SettingsConfigDict(
        env_prefix="VALUETIDE_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    broker: Annotated[str, Field(description="Kafka: host:port, several with commas")] = (
        "127.0.0.1:9092"
    )
    redis_url: Annotated[
        SecretStr, Field(description="Redis: redis://[user:password@]host:port")
    ] = SecretStr("redis://127.0.0.1:6379/0")
    key_prefix: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$", description="First part of every Redis key")
    ] = "cv"
    group: Annotated[str, Field(min_length=1, description="Kafka consumer group")] = "valuetide"
    topics: TopicNames = TopicNames()
    partitions: Annotated[
        int, Field(ge=1, le=10_000, description="Of each topic; fixed for ever")
    ] = 4
    replication: Annotated[int, Field(ge=1, le=9, description="Copies of each topic")] = 1
    vocabulary: Vocabulary = Vocabulary()

    half_life_days: Annotated[
        float, Field(ge=30, le=36_500, description="Of decayed_value; fixed for a given state")
    ] = 90.0
    clock: Annotated[
        Literal["auto", "wall", "event"],
        Field(description="What now is: wall clock, event time, or whichever fits"),
    ] = "auto"
    live_within_seconds: Annotated[
        float, Field(gt=0, description="auto: a shard this close to the wall clock is live")
    ] = 3_600.0

    max_event_bytes: Annotated[int, Field(ge=256, description="A larger event is rejected")] = (
        262_144
    )
    max_batch_events: Annotated[
        int, Field(ge=1, le=100_000, description="Events of one micro-batch, at most")
    ] = 4_000
    max_batches_in_flight: Annotated[
        int, Field(ge=1, le=64, description="Per shard: batches that wait for the network")
    ] = 4
    max_customers_in_memory: Annotated[
        int, Field(ge=1_000, description="Per worker; beyond it shards are read again on demand")
    ] = 2_000_000
    fetch_max_wait_ms: Annotated[int, Field(ge=1, le=10_000)] = 50
    session_timeout_seconds: Annotated[float, Field(ge=1, le=600)] = 10.0
    heartbeat_seconds: Annotated[float, Field(gt=0, le=200)] = 1.0
    rebalance_timeout_seconds: Annotated[float, Field(ge=1, le=600)] = 10.0
    retry_seconds: Annotated[
        float, Field(ge=0, description="A server may be away this long before the worker stops")
    ] = 120.0
    top_size: Annotated[int, Field(ge=1, le=10_000, description="Best customers kept")] = 100

    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65_535, description="0: any free port")] = 8_088
    http_token: Annotated[
        SecretStr | None, Field(description="Bearer token; needed when not on loopback")
    ] = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"

    @model_validator(mode="after")
    def _token_beyond_loopback(self) -> Self:
        if self.http_host not in LOOPBACK and self.http_token is None:
            raise ValueError("http_token: needed when http_host is not the loopback address")
        if self.heartbeat_seconds * 2 > self.session_timeout_seconds:
            raise ValueError("heartbeat_seconds: at most half of session_timeout_seconds")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put what the caller gives before the environment, and that before the file."""
        file = os.environ.get("VALUETIDE_CONFIG")
        sources: list[PydanticBaseSettingsSource] = [init_settings, env_settings]
        if file:
            sources.append(TomlConfigSettingsSource(settings_cls, Path(file)))
        return tuple(sources)


def load_settings(**overrides: Any) -> Settings:
    """Read the settings and check them.

    Parameters
    ----------
    overrides
        Values that win over environment and file, by field name; ``None`` means not given.

    Raises
    ------
    SettingsError
        Where a value is wrong or unknown: one line that names each setting and what is allowed,
        without the value, since it may be a secret.
    """
    file = os.environ.get("VALUETIDE_CONFIG")
    if file and not Path(file).is_file():
        raise SettingsError(f"VALUETIDE_CONFIG: there is no file {file}")
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        wrong = "; ".join(
            ": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"])))
            for e in error.errors(include_url=False, include_input=False)
        )
        raise SettingsError(f"settings: {wrong}") from None
    except ValueError as error:  # a TOML file that cannot be read
        raise SettingsError(f"settings: {error}") from None
