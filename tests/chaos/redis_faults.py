"""A Redis that ends and comes back, with all of its data or nearly all, or takes no writes."""

import signal
import time

import redis

from tests.chaos.crew import signal_process
from tests.chaos.fault import Fault, Injected, NotInjectedError
from tests.chaos.network_faults import NOBODY_COMMITS_SECONDS, hanging, unreachable
from tests.chaos.stage import Stage


def redis_stopped(stage: Stage) -> Injected:
    """In good order, with its append-only file; ``GuardedServer.stop`` would lose the folder."""
    old = stage.redis.pid
    at = time.monotonic()
    signal_process(stage.redis, signal.SIGTERM)
    while stage.redis.running and time.monotonic() < at + 30:
        time.sleep(0.02)
    time.sleep(stage.chance.uniform(0, 4))
    stage.redis.start()
    stage.configure_redis()
    over = time.monotonic()
    return Injected(at, over, f"pid {old} ended by SIGTERM, answers as {stage.redis.pid}")


def redis_killed(stage: Stage) -> Injected:
    old = stage.redis.pid
    if not stage.redis.running:
        raise NotInjectedError("it was not there")
    at = time.monotonic()
    stage.redis.kill()
    time.sleep(stage.chance.uniform(0, 2))
    stage.redis.start()
    stage.configure_redis()
    return Injected(at, time.monotonic(), f"pid {old} ended by SIGKILL, as {stage.redis.pid} again")


def redis_lost_second(stage: Stage) -> Injected:
    """As after a power cut under ``appendfsync everysec``: the file's last second is not there."""
    before = stage.watch.last()
    at = time.monotonic()
    stage.redis.kill()
    then = stage.watch.between(at - 3.0, at - 1.0)
    folder = stage.append_only_folder()
    cut = 0
    if then:
        for path, size in then[-1].file_sizes.items():
            if path.is_relative_to(folder) and (now := path.stat().st_size) > size:
                cut += now - size
                with path.open("r+b") as file:
                    file.truncate(size)
    stage.redis.start()
    stage.configure_redis()
    over = time.monotonic()
    while not (after := stage.watch.between(over, over + 10)) and time.monotonic() < over + 10:
        time.sleep(0.05)
    if not cut or before is None or not after:
        sizes = sorted(then[-1].file_sizes.values()) if then else "unknown"
        raise NotInjectedError(f"there was nothing to lose; sizes then: {sizes}, cut: {cut}")
    lost = sum(before.sequence) - sum(after[0].sequence)
    return Injected(at, over, f"{cut:,} bytes cut off; {lost} commits fewer than before")


def redis_full(stage: Stage) -> Injected:
    client = stage.redis_client()
    at = time.monotonic()
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1mb")
    try:
        client.set("chaos:probe", "x" * 100)
    except redis.exceptions.OutOfMemoryError:
        pass
    else:
        raise NotInjectedError("it took a write")
    finally:
        full = time.monotonic()
        time.sleep(stage.chance.uniform(1.5, 5.0))
        lifted = time.monotonic()
        client.config_set("maxmemory", "0")
    over = time.monotonic()
    # Both settings take a while on a busy machine, and do not hold before or after.
    commits = stage.watch.commits(full + NOBODY_COMMITS_SECONDS, lifted)
    if commits:
        raise NotInjectedError(f"{commits} commits were made in between")
    return Injected(at, over, f"refused writes for {over - at:.1f} s")


def redis_slow(stage: Stage) -> Injected:
    """It answers reads at once, and writes after a while, several times."""
    client = stage.redis_client()
    at = time.monotonic()
    for _ in range(3):
        client.client_pause(int(stage.chance.uniform(700, 1_500)), all=False)
        time.sleep(1.7)
    over = time.monotonic()
    still = stage.watch.standstill(at, over)
    if still < 0.6:
        raise NotInjectedError("nobody waited")
    return Injected(at, over, f"held writes three times, up to {still:.1f} s")


def redis_failover(stage: Stage) -> Injected:
    """A replica takes the place of a primary that is killed; what it had not got is lost."""
    old, new = stage.redis, stage.new_redis()
    new.start()
    try:
        client = redis.Redis("127.0.0.1", new.port, socket_timeout=30)
        client.replicaof("127.0.0.1", str(old.port))
        deadline = time.monotonic() + 40
        while client.info("replication").get("master_link_status") != "up":
            if time.monotonic() > deadline:
                raise NotInjectedError("the replica did not catch up")
            time.sleep(0.05)
        at = time.monotonic()
        pid = old.pid
        old.kill()
        client.replicaof("NO", "ONE")
    except BaseException:
        new.stop()
        if not old.running:
            old.start()
        raise
    stage.redis = new
    stage.redis_proxy.target = new.port
    stage.redis_proxy.cut()
    stage.configure_redis()
    over = time.monotonic()
    old.stop()
    return Injected(at, over, f"pid {pid} killed, its replica with pid {new.pid} is the primary")


REDIS_FAULTS = (
    Fault("unreachable for 2 to 8 s", "Redis", unreachable("Redis", 2, 8)),
    Fault("stopped and started in good order", "Redis", redis_stopped),
    Fault("killed and started", "Redis", redis_killed),
    Fault("killed, last second lost", "Redis", redis_lost_second),
    Fault("out of memory", "Redis", redis_full),
    Fault("slow to write", "Redis", redis_slow),
    Fault("hangs for 2 to 6 s", "Redis", hanging("Redis", 2, 6)),
    Fault("fails over to its replica", "Redis", redis_failover),
)
