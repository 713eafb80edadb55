use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use policy::backoff::{BackoffParams, delay};
use policy::quota::Slice;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, Script};
use tokio::time::{self, Instant};

use super::Quota;
use crate::service::Clock;

/// Slices asked for in one request.
const BATCH: usize = 256;
/// How often accounts that want slices are looked for.
const TICK: Duration = Duration::from_millis(5);
/// How often the store is asked although nobody wants anything: so it is known who shares, and whether it answers.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a replica that has fallen silent is counted.
const REPLICA_LIFETIME_MS: u64 = 10_000;
/// Longest wait for an answer; a slower one comes too late for those who would use it.
const ANSWER_MAX: Duration = Duration::from_millis(100);
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// Reads the address of a store; connects to nothing.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn address(text: &str) -> Result<Client, RedisError> {
    Client::open(text)
}

/// Fetches slices for `quotas` from the store at `address`, for ever.
pub(super) async fn fetch(address: String, quotas: Vec<Arc<Quota>>, clock: Clock, seed: u64) {
    // The check of the configuration has read it before.
    let Ok(client) = self::address(&address) else { return };
    let host = client.get_connection_info().addr().to_string();
    let mut rng = policy::Rng::with_seed(policy::seed(seed, &host));
    let mut replica = String::new();
    let _ = write!(replica, "{:016x}", rng.u64(..));
    let script = Script::new(include_str!("slices.lua"));
    let backoff = BackoffParams {
        delay_base: model::Span::from_millis(100),
        delay_max: model::Span::from_millis(2_000),
    };
    let mut failures = 0;
    loop {
        let error = match connect(&client).await {
            Ok(mut connection) => {
                let on_answer = || {
                    if std::mem::take(&mut failures) > 0 {
                        tracing::info!(store = %host, "the store of quotas answers again");
                    }
                };
                serve(&mut connection, &quotas, &script, &replica, clock, on_answer).await
            }
            Err(error) => error,
        };
        let now = clock.now();
        for quota in &quotas {
            quota.policy.on_unreachable(now);
        }
        if failures == 0 {
            tracing::warn!(store = %host, %error, "the store of quotas does not answer; gateways go on by themselves");
        }
        time::sleep(delay(&backoff, failures, &mut rng)).await;
        failures = failures.saturating_add(1);
    }
}

async fn connect(client: &Client) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_MAX))
        .set_response_timeout(Some(ANSWER_MAX));
    // Also what is said while connecting takes its time.
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    time::timeout(CONNECT_MAX, connecting)
        .await
        .unwrap_or_else(|_| Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))))
}

/// Fetches what is wanted until the store fails; answers how. Calls `on_answer` at each answer.
async fn serve(
    connection: &mut MultiplexedConnection,
    quotas: &[Arc<Quota>],
    script: &Script,
    replica: &str,
    clock: Clock,
    mut on_answer: impl FnMut(),
) -> RedisError {
    let mut beat = Instant::now();
    loop {
        let beats = Instant::now() >= beat;
        if beats {
            beat = Instant::now() + HEARTBEAT;
        }
        let mut more = false;
        for quota in quotas {
            let slices = quota.policy.poll_refill(clock.now(), BATCH);
            if slices.is_empty() && !beats {
                continue;
            }
            more |= slices.len() >= BATCH;
            quota.asked.fetch_add(slices.len() as u64, Relaxed);
            match ask(connection, quota, &slices, script, replica).await {
                Ok(answer) => take_in(quota, &slices, &answer, clock),
                Err(error) => {
                    quota.failed.fetch_add(slices.len() as u64, Relaxed);
                    return error;
                }
            }
            on_answer();
        }
        if !more {
            time::sleep(TICK).await;
        }
    }
}

async fn ask(
    connection: &mut MultiplexedConnection,
    quota: &Quota,
    slices: &[Slice],
    script: &Script,
    replica: &str,
) -> Result<Vec<u64>, RedisError> {
    let params = quota.params.params();
    // One hash tag, because in a cluster the keys of a script must lie together.
    let mut call = script.key(format!("seawall:{{quota:{}}}:replicas", quota.name));
    for slice in slices {
        call.key(format!("seawall:{{quota:{}}}:{:016x}", quota.name, slice.customer));
    }
    call.arg(replica).arg(REPLICA_LIFETIME_MS);
    // Thousandths in a millisecond are ones in a second.
    call.arg(params.per_sec()).arg((params.burst * 1e3).floor());
    for slice in slices {
        call.arg(slice.wanted);
    }
    time::timeout(ANSWER_MAX, call.invoke_async(connection))
        .await
        .unwrap_or_else(|_| Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))))
}

/// Hands out what the store has granted: how many share the quota, then a number for each slice.
fn take_in(quota: &Quota, slices: &[Slice], answer: &[u64], clock: Clock) {
    let [replicas, granted @ ..] = answer else { return };
    let now = clock.now();
    for (slice, granted) in slices.iter().zip(granted) {
        let figure = if *granted < slice.wanted { &quota.short } else { &quota.granted };
        figure.fetch_add(1, Relaxed);
        quota.policy.on_slice(now, *slice, *granted);
    }
    quota.policy.on_answer(u32::try_from(*replicas).unwrap_or(u32::MAX));
}
