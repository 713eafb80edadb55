//! The shop's users: requests at a steady rate, whatever becomes of those before (open loop), so that a slow answer delays
//! nobody else's question.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::figures::{Figures, Sample};
use crate::http::Connection;

/// Users give up after this.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Requests a second to each copy of the shop.
pub(super) const RATE: u32 = 120;
/// Idle connections that are kept.
const IDLE_MAX: usize = 256;

/// Sends users to `door` until it is cancelled, and writes down how they fare.
pub(super) async fn send(door: SocketAddr, figures: Arc<Mutex<Figures>>) {
    let users = Arc::new(Users { door, idle: Mutex::default(), figures });
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    for number in 0_u64.. {
        let due = ticks.tick().await;
        let users = Arc::clone(&users);
        tokio::spawn(async move { users.ask(number, due).await });
    }
}

struct Users {
    door: SocketAddr,
    idle: Mutex<Vec<Connection>>,
    figures: Arc<Mutex<Figures>>,
}

impl Users {
    /// One user's request, which was due at `due`: time lost before it was sent counts.
    async fn ask(&self, number: u64, due: Instant) {
        let phase = self.figures.lock().unwrap_or_else(PoisonError::into_inner).phase();
        let (method, target) = request(number);
        let answer = tokio::time::timeout_at(due + PATIENCE, self.exchange(method, target)).await;
        let succeeded = matches!(answer, Ok(Ok(200)));
        let latency = due.elapsed().min(PATIENCE);
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).record(Sample {
            phase,
            succeeded,
            latency,
        });
    }

    async fn exchange(&self, method: &str, target: &str) -> std::io::Result<u16> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(self.door, "shop.example").await?,
        };
        let answer = connection.send(method, target, "").await?;
        if answer.reusable {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE_MAX {
                idle.push(connection);
            }
        }
        Ok(answer.status)
    }
}

/// What the shop's users want: mostly to look at goods, sometimes to buy.
fn request(number: u64) -> (&'static str, &'static str) {
    match number % 20 {
        0 | 7 | 14 => ("POST", "/checkout/order"),
        3 | 10 => ("POST", "/cart/items"),
        5 | 12 | 17 => ("GET", "/cart/items"),
        _ => ("GET", "/catalog/items"),
    }
}
