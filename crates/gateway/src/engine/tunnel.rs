//! A client's connection and an endpoint's that have switched to a protocol of their own.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::attempt::Flight;
use super::conn::Conn;
use super::download::Download;
use super::relay::{End, Relay, part};
use super::stream::Stream;
use super::worker::{Phase, Worker};

/// Delivers the head that switched protocols, then passes bytes both ways until both sides have closed, one fails, nothing
/// moves for `idle`, or the process ends. Answers how many bytes went up and down.
///
/// The endpoint and its breaker have heard of the switch by now; the `flight` counts as active until the end.
pub(crate) async fn run(
    worker: &Rc<Worker>,
    conn: &Conn,
    mut upstream: Stream,
    mut head: Download,
    mut flight: Flight,
    idle: Duration,
) -> (u64, u64) {
    flight.settle(worker.now());
    let mut relay = Relay::new(conn.carry.borrow_mut().take());
    let mut head_delivered = false;
    worker.wheel.set(&conn.alarm, worker.tell_time().after(idle));
    let end = poll_fn(|cx| {
        conn.alarm.wake_me(cx.waker());
        if !head_delivered {
            match head.poll(cx, worker, conn, &mut upstream) {
                Poll::Ready(Ok(())) => head_delivered = true,
                Poll::Ready(Err(_)) => return Poll::Ready(End::ClientGone),
                Poll::Pending => {}
            }
        }
        let client = &mut conn.stream.borrow_mut();
        let moved = match head_delivered {
            true => relay.poll(cx, worker, client, &mut upstream),
            false => relay.poll_up(cx, worker, client, &mut upstream),
        };
        if let Poll::Ready(end) = moved {
            return Poll::Ready(end);
        }
        if worker.shared.phase() == Phase::Ending {
            return Poll::Ready(End::Cut);
        }
        if std::mem::take(&mut relay.progress) {
            worker.wheel.set(&conn.alarm, worker.tell_time().after(idle));
        } else if conn.alarm.rung() {
            return Poll::Ready(End::Idle);
        }
        Poll::Pending
    })
    .await;
    conn.alarm.off();
    part(end, &mut conn.stream.borrow_mut(), &mut upstream);
    (relay.up.moved, relay.down.moved)
}
