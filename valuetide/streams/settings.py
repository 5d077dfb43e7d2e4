"""Settings: environment ``VALUETIDE_*``, or one TOML file; checked when the program starts.

The environment wins over the file. Nested settings take two underscores:
``VALUETIDE_VOCABULARY__BASE_CURRENCY=USD``.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from valuetide.schemas.errors import FaultError
from valuetide.schemas.score import DEFAULT_HORIZONS
from valuetide.schemas.topics import TopicNames
from valuetide.schemas.vocabulary import Vocabulary
from valuetide.streams.trend_settings import AlertSettings, SeriesSettings
from valuetide.streams.webhooks.hook import Webhook

LIKENESS = 0.9
"""Share of letters that a misspelt name has in common with the right one, at least."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


REDIS_URL_FORM = "redis://[user:password@]host:port[/database], rediss:// for TLS"
UNSAFE_REDIS_OPTIONS = ("ssl", "username", "password")
"""Parts of option names that an address may not have: TLS always verifies, and what is said of
credentials is said in one place."""


def _or_none(value: object) -> object:
    """Take empty text for not set, as compose files and shells write it."""
    return None if value == "" else value


def _listed(value: object) -> object:
    """Take 90,365 or [90, 365], as environment variables are text."""
    if isinstance(value, str):
        try:
            return [
                int(part) for part in value.strip().removeprefix("[").removesuffix("]").split(",")
            ]
        except ValueError:
            raise ValueError("must be whole days that rise, as 90,365") from None
    return value


OptionalText = Annotated[str | None, BeforeValidator(_or_none)]
OptionalSecret = Annotated[SecretStr | None, BeforeValidator(_or_none)]
OptionalFile = Annotated[Path | None, BeforeValidator(_or_none)]


class CustomerAlerts(BaseModel):
    """Alerts about single customers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: Annotated[
        tuple[Literal["at_risk", "growth", "won_back"], ...],
        Field(description="Which; none: []"),
    ] = ("at_risk", "growth", "won_back")
    least_percentile: Annotated[
        float, Field(ge=0, le=100, description="Rank by clv of whom is told, before a fall")
    ] = 90.0
    least_clv: Annotated[
        float, Field(ge=0, description="And their clv, base currency, longest horizon")
    ] = 0.0
    least_stake: Annotated[
        float, Field(ge=0, description="Money a day by which clv differs, at least")
    ] = 0.0
    fall_share: Annotated[
        float, Field(gt=0, lt=1, description="at_risk: share by which p_alive or clv fell")
    ] = 0.5
    growth_factor: Annotated[float, Field(gt=1, description="growth: clv rose by")] = 3.0
    won_back_p_alive: Annotated[
        float, Field(ge=0, le=1, description="won_back: p_alive before the order was below")
    ] = 0.2
    per_day: Annotated[
        int, Field(ge=1, le=10_000, description="Of all shards, each at least one; twice if bigger")
    ] = 20
    accept_days: Annotated[
        float, Field(gt=0, description="An alert that lasts so long ends: it is the new normal")
    ] = 28.0


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
    broker_security: Annotated[
        Literal["plaintext", "tls", "sasl_plaintext", "sasl_tls"],
        Field(description="How Kafka's listener wants to be spoken to"),
    ] = "plaintext"
    broker_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    broker_username: Annotated[OptionalText, Field(description="For sasl_…")] = None
    broker_password: Annotated[OptionalSecret, Field(description="For sasl_…")] = None
    broker_ca_file: Annotated[
        OptionalFile, Field(description="PEM: who signs brokers' certificates; else the system's")
    ] = None
    broker_cert_file: Annotated[OptionalFile, Field(description="PEM: our certificate")] = None
    broker_key_file: Annotated[
        OptionalFile, Field(description="PEM, no passphrase; may be in broker_cert_file")
    ] = None
    redis_url: Annotated[SecretStr, Field(description=REDIS_URL_FORM)] = SecretStr(
        "redis://127.0.0.1:6379/0"
    )
    redis_username: Annotated[OptionalText, Field(description="Where not in redis_url")] = None
    redis_password: Annotated[OptionalSecret, Field(description="Where not in redis_url")] = None
    redis_ca_file: Annotated[
        OptionalFile, Field(description="PEM: who signs Redis's certificate; else the system's")
    ] = None
    redis_cert_file: Annotated[OptionalFile, Field(description="PEM: our certificate")] = None
    redis_key_file: Annotated[
        OptionalFile, Field(description="PEM, no passphrase; may be in redis_cert_file")
    ] = None
    key_prefix: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$", description="First part of every Redis key")
    ] = "cv"
    group: Annotated[str, Field(min_length=1, description="Kafka consumer group")] = "valuetide"
    topics: TopicNames = TopicNames()
    layout: Annotated[
        Literal["readable", "compact"],
        Field(description="Of customers in Redis; compact: packed states, scored when read"),
    ] = "readable"
    partitions: Annotated[
        int, Field(ge=1, le=10_000, description="Of each topic; fixed for ever")
    ] = 4
    replication: Annotated[int, Field(ge=1, le=9, description="Copies of each topic")] = 1
    vocabulary: Vocabulary = Vocabulary()
    series: SeriesSettings = SeriesSettings()
    alerts: AlertSettings = AlertSettings()
    customer_alerts: CustomerAlerts = CustomerAlerts()

    half_life_days: Annotated[
        float, Field(ge=30, le=36_500, description="Of decayed_value; fixed for a given state")
    ] = 90.0
    horizons_days: Annotated[
        tuple[Annotated[int, Field(ge=1, le=3_650)], ...],
        NoDecode,
        BeforeValidator(_listed),
        Field(min_length=1, max_length=4, description="How far clv looks, rising; names fields"),
    ] = DEFAULT_HORIZONS
    yearly_discount: Annotated[
        float, Field(ge=0, le=1, description="Of clv; .1: a dollar in a year is worth 1/1.1 now")
    ] = 0.1
    refresh_seconds: Annotated[
        float, Field(ge=0, description="No customer's score is older; 0: it may be")
    ] = 86_400.0
    sweep_rate: Annotated[
        float, Field(gt=0, description="Customers a worker looks at a second, to score again")
    ] = 2_000.0
    ratio_correction: Annotated[
        Literal["auto", "off"],
        Field(description="auto: what is expected is raised or lowered while that proves better"),
    ] = "auto"
    evidence: Annotated[
        Literal["off", "auto"],
        Field(description="Interactions and feedback count for p_alive: auto: while that helped"),
    ] = "off"
    model_refresh_seconds: Annotated[
        float, Field(gt=0, description="What shards of other workers learned is read this often")
    ] = 10.0
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
    dead_letter_run: Annotated[
        int, Field(ge=0, description="Rejected events of a topic in a row pause a shard; 0: never")
    ] = 10_000
    dead_letter_ratio: Annotated[
        float, Field(ge=0, le=1, description="Share of rejected events pauses a shard; 0: never")
    ] = 0.5
    dead_letter_window: Annotated[
        int, Field(ge=1, le=1_000_000, description="Last events of a shard that are looked at")
    ] = 10_000
    dead_letter_pause_seconds: Annotated[
        float, Field(ge=0, description="A paused shard goes on by itself; 0: after a restart only")
    ] = 0.0
    max_batch_events: Annotated[
        int, Field(ge=1, le=100_000, description="Events of one micro-batch, at most")
    ] = 10_000
    max_batches_in_flight: Annotated[
        int, Field(ge=1, le=64, description="Per shard: batches that wait for the network")
    ] = 4
    max_customers_in_memory: Annotated[
        int, Field(ge=1_000, description="Per worker; beyond it shards are read again on demand")
    ] = 2_000_000
    lost_positions: Annotated[
        Literal["stop", "earliest"],
        Field(description="An offset that the topic no longer has: stop, or go on from the oldest"),
    ] = "stop"
    fetch_max_wait_ms: Annotated[int, Field(ge=1, le=10_000)] = 50
    session_timeout_seconds: Annotated[float, Field(ge=1, le=600)] = 10.0
    heartbeat_seconds: Annotated[float, Field(gt=0, le=200)] = 1.0
    rebalance_timeout_seconds: Annotated[float, Field(ge=1, le=600)] = 10.0
    retry_seconds: Annotated[
        float, Field(ge=0, description="A server may be away this long before the worker stops")
    ] = 120.0
    top_size: Annotated[int, Field(ge=1, le=10_000, description="Best customers kept")] = 100

    webhooks: Annotated[
        tuple[Webhook, ...], Field(description="Who is told of alerts: [[webhooks]] in TOML")
    ] = ()

    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65_535, description="0: any free port")] = 8_088
    http_token: Annotated[
        OptionalSecret, Field(description="Bearer token; needed when not on loopback")
    ] = None
    http_rate_per_second: Annotated[
        float, Field(gt=0, le=100_000, description="Requests of one client address, sustained")
    ] = 50.0
    http_burst: Annotated[
        int, Field(ge=1, le=100_000, description="Requests of one client address, at once")
    ] = 100
    http_timeout_seconds: Annotated[
        float, Field(gt=0, le=600, description="For a request to arrive, and between two of them")
    ] = 15.0
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"

    @model_validator(mode="after")
    def _token_beyond_loopback(self) -> Self:
        if self.http_host not in LOOPBACK and self.http_token is None:
            raise ValueError("http_token: needed when http_host is not the loopback address")
        if self.heartbeat_seconds * 2 > self.session_timeout_seconds:
            raise ValueError("heartbeat_seconds: at most half of session_timeout_seconds")
        return self

    @model_validator(mode="after")
    def _horizons_rise(self) -> Self:
        if list(self.horizons_days) != sorted(set(self.horizons_days)):
            raise ValueError("horizons_days: must rise, as 90, 365")
        return self

    @model_validator(mode="after")
    def _webhooks_differ(self) -> Self:
        if len({hook.name for hook in self.webhooks}) < len(self.webhooks):
            raise ValueError("webhooks: each needs a name of its own")
        return self

    @model_validator(mode="after")
    def _broker_door_fits(self) -> Self:
        security = self.broker_security
        credentials = {
            "broker_username": self.broker_username,
            "broker_password": self.broker_password,
        }
        for name, value in credentials.items():
            if security.startswith("sasl") and value is None:
                raise ValueError(f"{name}: needed when broker_security is {security}")
            if not security.startswith("sasl") and value is not None:
                raise ValueError(
                    f"{name}: of no use when broker_security is {security}; set that to sasl_tls"
                )
        self._files_fit(
            "broker",
            security.endswith("tls"),
            f"of no use when broker_security is {security}; set that to tls or sasl_tls",
        )
        return self

    @model_validator(mode="after")
    def _redis_door_fits(self) -> Self:
        try:
            url = urlsplit(self.redis_url.get_secret_value())
            port_fits = url.port != 0
        except ValueError:
            port_fits = False
        if not port_fits or url.scheme not in {"redis", "rediss", "unix"}:
            raise ValueError(f"redis_url: must be {REDIS_URL_FORM}")
        for name, _ in parse_qsl(url.query, keep_blank_values=True):
            if any(part in name.lower() for part in UNSAFE_REDIS_OPTIONS):
                raise ValueError(
                    "redis_url: no options about TLS or credentials in it; TLS always verifies, "
                    "see redis_ca_file, redis_username and redis_password"
                )
        if self.redis_username is not None and self.redis_password is None:
            raise ValueError("redis_password: needed when redis_username is set")
        if self.redis_password is not None and (url.username or url.password):
            raise ValueError("redis_password: given twice, redis_url has one too")
        self._files_fit(
            "redis", url.scheme == "rediss", "of no use unless redis_url begins with rediss://"
        )
        return self

    def _files_fit(self, door: str, with_tls: bool, why_not: str) -> None:
        names = [f"{door}_{kind}_file" for kind in ("ca", "cert", "key")]
        for name in names:
            if getattr(self, name) is not None and not with_tls:
                raise ValueError(f"{name}: {why_not}")
        if getattr(self, names[2]) is not None and getattr(self, names[1]) is None:
            raise ValueError(f"{names[1]}: needed when {names[2]} is set")

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
            ": ".join(
                filter(None, (".".join(map(str, e["loc"])), _said(e["type"], e["loc"], e["msg"])))
            )
            for e in error.errors(include_url=False, include_input=False)
        )
        raise SettingsError(f"settings: {wrong}") from None
    except ValueError as error:  # a TOML file that cannot be read
        raise SettingsError(f"settings: {error}") from None


def _said(kind: str, place: Sequence[str | int], text: str) -> str:
    """Say what is wrong, of a name that is none which one it is near to."""
    if kind != "extra_forbidden":
        return text
    model: Any = Settings
    for name in place[:-1]:
        if isinstance(name, str):
            kinds = [model.model_fields[name].annotation] if name in model.model_fields else []
            kinds += [part for one in kinds for part in get_args(one)]
            models = [one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)]
            if not models:
                return "there is no such setting"
            model = models[0]
    near = difflib.get_close_matches(str(place[-1]), list(model.model_fields), n=1)
    return f"there is no such setting{f', is it {near[0]}?' if near else ''}"


def misspelt_variables(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give environment variables that are nearly a setting, each with the setting it is near to.

    Those that are like none are left alone: Kubernetes, for one, sets variables that begin with
    the name of each service, and one may be called valuetide.

    Parameters
    ----------
    environment
        Instead of the process's own.
    """
    prefix = "VALUETIDE_"
    known = {f"{prefix}{name.upper()}" for name in Settings.model_fields} | {f"{prefix}CONFIG"}
    groups = {
        f"{prefix}{name.upper()}": set(field.annotation.model_fields)
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    misspelt: dict[str, str] = {}
    for variable in environment if environment is not None else os.environ:
        name = variable.partition("__")[0]
        if not variable.startswith(prefix) or name in known:
            continue
        group = next((k for k in groups if variable.startswith(f"{k}_")), "")
        inner = variable.removeprefix(f"{group}_")
        if group and inner.lower() in groups[group]:
            misspelt[variable] = f"{group}__{inner.upper()}"
        elif near := difflib.get_close_matches(name, known, n=1, cutoff=LIKENESS):
            misspelt[variable] = near[0]
    return misspelt
