//! Quotas per customer, shared by all gateways through a store of counters that is never waited for.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use core::time::Duration;

use model::{Instant, Ratio, Span};
use serde::{Deserialize, Serialize};

use crate::customers::{CUSTOMERS_LIMIT, Customers};
pub use crate::rate_limit::Wait;

/// What holds while the shared store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum WhenUnreachable {
    /// Each replica grants the quota's rate divided by the replicas that were there last.
    #[default]
    LocalShare,
    /// Everything is granted, and nothing is counted.
    Open,
    /// What was taken from the store ahead of need is granted, and no more.
    Closed,
}

/// How much each customer may spend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct QuotaParams {
    /// Cost that a customer is granted in each `per`, in the long run.
    pub limit: f64,
    /// What `limit` is meant for.
    pub per: Span,
    /// Cost that may be saved up and spent at once.
    pub burst: f64,
    /// Whether a store divides the quota among replicas; otherwise this process grants all of it.
    pub shared: bool,
    /// The share of `burst` that a replica takes at a time, and no less than ten requests that cost 1: a larger one
    /// makes requests to the store rarer, and what waits unspent at other replicas more.
    pub slice: Ratio,
    /// What holds while the store does not answer.
    pub when_unreachable: WhenUnreachable,
    /// Customers told apart at a time; one that has not asked for a while is forgotten first.
    pub customers_max: u32,
}

impl Default for QuotaParams {
    fn default() -> Self {
        Self {
            limit: 1_000.0,
            per: Span::from_secs(60),
            burst: 1_000.0,
            shared: false,
            slice: Ratio::percent(5),
            when_unreachable: WhenUnreachable::LocalShare,
            customers_max: 16_384,
        }
    }
}

/// Costs are counted in thousandths.
const ATOMS: f64 = 1_000.0;
/// Largest cost that is counted: bytes of a petabyte.
const COST_MAX: f64 = 1e15;
/// Half a slice at the least, so that a few requests at once do not outrun the store: five that cost 1.
const HALF_MIN: i64 = 5_000;
/// How long an answer of the store is waited for, by nobody but the account that it is for, before it counts as gone.
const PATIENCE: Duration = Duration::from_millis(250);
/// Shortest wait before the store is asked again for a customer to whom it had nothing more to give.
const ASK_AGAIN: Duration = Duration::from_millis(50);

impl QuotaParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if !(self.limit > 0.0 && self.limit <= COST_MAX) {
            let why = alloc::format!("{} is no usable quota: more than 0, such as 10000", self.limit);
            wrong.push(("limit", why));
        }
        if self.per.is_zero() {
            wrong.push(("per", "must be longer than 0, such as 60s".into()));
        }
        if !(self.burst >= 1.0 && self.burst <= COST_MAX) {
            let why = alloc::format!("{} must be at least 1, or no request is ever granted", self.burst);
            wrong.push(("burst", why));
        }
        if self.slice == Ratio::ZERO {
            wrong.push(("slice", "must be more than 0, such as 0.05: with 0 nothing is ever fetched".into()));
        }
        if !(1..=CUSTOMERS_LIMIT).contains(&self.customers_max) {
            let why = alloc::format!("must be between 1 and {CUSTOMERS_LIMIT}, such as 16384");
            wrong.push(("customers_max", why));
        }
        wrong
    }

    /// Cost that a customer earns in a second.
    #[must_use]
    pub fn per_sec(&self) -> f64 {
        self.limit / self.per.get().as_secs_f64().max(1e-9)
    }
}

/// What one customer has here, in thousandths of a cost.
#[derive(Debug, Default)]
struct Account {
    /// What is left of the slices taken for it; below zero: owed.
    balance: AtomicI64,
    /// When the bucket of what is granted without a store will be full again, in nanoseconds: see
    /// [`RateLimiter`](crate::rate_limit::RateLimiter).
    full_at: AtomicU64,
    /// Until when the store is not asked, in nanoseconds, with [`DRY`] and [`MARKED`] in the two lowest bits.
    quiet: AtomicU64,
}

/// The store had nothing more to give when it answered last.
const DRY: u64 = 1;
/// The account waits for [`Quota::poll_refill`].
const MARKED: u64 = 2;

/// A piece of a customer's quota that the store is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The customer, as it was named to [`Quota::try_take`].
    pub customer: u64,
    /// How much, in thousandths of a cost.
    pub wanted: u64,
}

/// What a request was charged when it was let in, and where that was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    atoms: i64,
    from: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Lease,
    Local,
    Nowhere,
}

/// Bounds what each customer spends, over all replicas together, without waiting for the store that they share.
///
/// A replica takes *slices* of a customer's quota ahead of need and spends them by itself; it may be ahead of the
/// store's answer by half a slice. So over any span all replicas together grant at most
/// `burst + limit × span ÷ per + replicas × (slice + cost)`, where `burst` and `limit` are what the store keeps and
/// `cost` is that of the dearest request: one that costs more than half a slice may be let in on half of one.
///
/// The store is never waited for. While it does not answer within a quarter of a second, [`WhenUnreachable`] holds:
/// a replica goes on with what it has in hand, and then with the rate divided by the replicas seen last (over any
/// span at most `slice + cost + limit × span ÷ per ÷ replicas` each, on top), with nothing, or with everything.
///
/// A cost that is known only afterwards is charged at the end ([`Quota::charge`]); until then the mean of what such
/// requests cost is set aside, so that many slow requests at once do not slip through. What exceeds the balance is
/// owed and paid by the next slices; no more than one `burst` is ever owed.
///
/// Customers are told apart in bounded memory. One that is forgotten loses what it had in hand to the newcomer, or
/// leaves it its debt: made-up names gain nothing at the store, which counts each name by itself.
///
/// Shared by all workers of the process, without a lock.
#[derive(Debug)]
pub struct Quota {
    accounts: Customers<Account>,
    /// Sets of the table in which an account waits for a slice, a bit each.
    marks: Box<[AtomicU64]>,
    /// Where the next batch of slices begins.
    cursor: AtomicUsize,
    shared: bool,
    when_unreachable: WhenUnreachable,
    nanos_per_atom: f64,
    burst: i64,
    /// Half a slice: what is fetched up to, and how far a replica may be ahead of an answer.
    half: i64,
    replicas: AtomicU32,
    /// From when on the store counts as gone, in nanoseconds.
    lost_at: AtomicU64,
    /// What a request costs whose cost is known only afterwards.
    mean: AtomicI64,
}

impl Quota {
    /// A quota of which nobody has spent anything yet. `seed` keeps customers from choosing whom they share memory with.
    #[must_use]
    pub fn new(params: &QuotaParams, seed: u64) -> Self {
        let burst = atoms(params.burst);
        let half = (burst as f64 * params.slice.get() / 2.0) as i64;
        let half = half.max(HALF_MIN.min(burst / 2)).max(1);
        let accounts = Customers::new(params.customers_max, seed);
        Self {
            marks: (0..accounts.sets().div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            accounts,
            cursor: AtomicUsize::new(0),
            shared: params.shared,
            when_unreachable: params.when_unreachable,
            nanos_per_atom: 1e9 / (params.per_sec() * ATOMS),
            burst,
            half,
            replicas: AtomicU32::new(1),
            lost_at: AtomicU64::new(Instant::NEVER.as_nanos()),
            mean: AtomicI64::new(0),
        }
    }

    /// Lets a request of `customer`, a hash of its name that is the same in every replica, in. `cost` is what it says
    /// that it costs; `None` when that will be known at its end.
    ///
    /// # Errors
    /// [`Wait`] when the quota is used up, as far as this replica knows; nothing is charged then.
    pub fn try_take(&self, now: Instant, customer: u64, cost: Option<f64>) -> Result<Spent, Wait> {
        let atoms = cost.map_or_else(|| self.mean.load(Relaxed).clamp(1, self.burst.max(1)), atoms);
        if atoms > self.burst {
            return Err(Wait(Duration::MAX));
        }
        let account = self.account(customer, now);
        let spent = |from| Spent { atoms, from };
        if !self.shared {
            return self.take_local(account, atoms, self.burst, 1.0, now).map(|()| spent(Source::Local));
        }
        let lost = now.as_nanos() >= self.lost_at.load(Relaxed);
        let leased = self.take_lease(account, customer, atoms, lost, now).map(|()| spent(Source::Lease));
        if !lost || leased.is_ok() {
            return leased;
        }
        match self.when_unreachable {
            WhenUnreachable::LocalShare => {
                let replicas = f64::from(self.replicas());
                self.take_local(account, atoms, 2 * self.half, replicas, now).map(|()| spent(Source::Local))
            }
            WhenUnreachable::Open => Ok(spent(Source::Nowhere)),
            WhenUnreachable::Closed => leased,
        }
    }

    /// A request of unknown cost, let in with `spent`, has ended: it cost `cost`.
    pub fn charge(&self, now: Instant, customer: u64, spent: Spent, cost: f64) {
        let atoms = atoms(cost);
        let mean = self.mean.load(Relaxed);
        // Racing threads lose a step of this mean, which matters to nobody.
        self.mean.store(if mean == 0 { atoms } else { mean + (atoms - mean) / 16 }, Relaxed);
        self.correct(now, customer, spent, atoms.saturating_sub(spent.atoms));
    }

    /// A request that was let in with `spent` was refused further on: it cost nothing.
    pub fn give_back(&self, now: Instant, customer: u64, spent: Spent) {
        self.correct(now, customer, spent, spent.atoms.saturating_neg());
    }

    /// Slices to ask the store for now, at most `max`, whose turn it is in fairness. Each is answered with
    /// [`Quota::on_slice`], or all of them by [`Quota::on_unreachable`].
    #[must_use]
    pub fn poll_refill(&self, now: Instant, max: usize) -> Vec<Slice> {
        let mut slices = Vec::new();
        let words = self.marks.len();
        let first = self.cursor.load(Relaxed);
        for step in 0..words {
            let index = (first + step) % words;
            let mut bits =
                if self.marks[index].load(Relaxed) == 0 { 0 } else { self.marks[index].swap(0, Relaxed) };
            while bits != 0 {
                if slices.len() >= max {
                    self.marks[index].fetch_or(bits, Relaxed);
                    self.cursor.store(index, Relaxed);
                    self.expect_answer(now);
                    return slices;
                }
                let set = index * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                for (customer, account) in self.accounts.in_set(set) {
                    if account.quiet.load(Relaxed) & MARKED != 0 {
                        account.quiet.fetch_and(!MARKED, Relaxed);
                        // Nothing lacks when costs were given back meanwhile; an answer is expected all the same.
                        let lacking = self.half.saturating_sub(account.balance.load(Relaxed)).max(0);
                        slices.push(Slice { customer, wanted: lacking.unsigned_abs() });
                    }
                }
            }
        }
        if !slices.is_empty() {
            self.expect_answer(now);
        }
        slices
    }

    /// The store gave `granted` thousandths of what `slice` asked for.
    pub fn on_slice(&self, now: Instant, slice: Slice, granted: u64) {
        // A customer that was forgotten meanwhile loses its slice.
        let Some(account) = self.accounts.find(slice.customer) else { return };
        let granted = i64::try_from(granted.min(slice.wanted)).unwrap_or(i64::MAX);
        let balance = account.balance.fetch_add(granted, Relaxed).saturating_add(granted);
        let quiet = if granted.unsigned_abs() < slice.wanted {
            let least = self.mean.load(Relaxed).clamp(ATOMS as i64, self.burst.max(ATOMS as i64));
            let wait = self.span(least.saturating_sub(balance), 1.0).max(ASK_AGAIN.as_nanos() as u64);
            (now.as_nanos().saturating_add(wait) & !MARKED) | DRY
        } else {
            0
        };
        account.quiet.store(quiet, Relaxed);
    }

    /// The store has answered, and knows of so many replicas.
    pub fn on_answer(&self, replicas: u32) {
        self.replicas.store(replicas.max(1), Relaxed);
        self.lost_at.store(Instant::NEVER.as_nanos(), Relaxed);
    }

    /// The store does not answer.
    pub fn on_unreachable(&self, now: Instant) {
        self.lost_at.fetch_min(now.as_nanos(), Relaxed);
    }

    /// Whether the store has answered when it was asked last. Without one there is nobody to ask, and it is.
    #[must_use]
    pub fn reachable(&self, now: Instant) -> bool {
        now.as_nanos() < self.lost_at.load(Relaxed)
    }

    /// Replicas that share the quota, as the store said last.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.replicas.load(Relaxed)
    }

    fn account(&self, customer: u64, now: Instant) -> &Account {
        let now = now.as_nanos();
        self.accounts.find_or_take_over(customer, |account| {
            let dry = account.quiet.load(Relaxed) & DRY;
            let owed = account.balance.load(Relaxed).saturating_neg();
            (account.full_at.load(Relaxed).max(now), dry, owed)
        })
    }

    /// Takes from what was fetched ahead, or from half a slice that is on its way.
    fn take_lease(
        &self,
        account: &Account,
        customer: u64,
        atoms: i64,
        lost: bool,
        now: Instant,
    ) -> Result<(), Wait> {
        let quiet = account.quiet.load(Relaxed);
        let dry = quiet & DRY != 0 && now.as_nanos() < quiet;
        let ahead = if dry || lost { 0 } else { self.half };
        let least = atoms.clamp(1, self.half) - ahead;
        let take = |balance: i64| (balance >= least).then(|| balance.saturating_sub(atoms));
        let taken = account.balance.fetch_update(Relaxed, Relaxed, take);
        let left = taken.map_or_else(|balance| balance, |before| before - atoms);
        if left < self.half / 2 {
            self.want(account, customer, now);
        }
        match taken {
            Ok(_) => Ok(()),
            Err(balance) if dry => {
                let earned = self.span(least.saturating_sub(balance), 1.0);
                Err(Wait(Duration::from_nanos(earned.max(quiet.saturating_sub(now.as_nanos())))))
            }
            Err(_) => Err(Wait(PATIENCE)),
        }
    }

    /// Takes from the bucket that fills by itself at one in `replicas` of the rate.
    fn take_local(
        &self,
        account: &Account,
        atoms: i64,
        burst: i64,
        replicas: f64,
        now: Instant,
    ) -> Result<(), Wait> {
        let now = now.as_nanos();
        let latest = now.saturating_add(self.span(burst, replicas));
        let least = self.span(atoms.clamp(1, burst), replicas);
        let span = self.span(atoms, replicas);
        let take = |full_at: u64| {
            let full_at = full_at.max(now);
            (full_at.saturating_add(least) <= latest).then(|| full_at.saturating_add(span))
        };
        match account.full_at.fetch_update(Relaxed, Relaxed, take) {
            Ok(_) => Ok(()),
            Err(full_at) => Err(Wait(Duration::from_nanos(full_at.saturating_add(least) - latest))),
        }
    }

    /// A request cost `more` than it was charged, or less.
    fn correct(&self, now: Instant, customer: u64, spent: Spent, more: i64) {
        if more == 0 || spent.from == Source::Nowhere {
            return;
        }
        let account = self.account(customer, now);
        // Updates that are always wanted always succeed.
        if spent.from == Source::Lease {
            let floor = self.burst.saturating_neg();
            let owe = |balance: i64| Some(balance.saturating_sub(more).max(balance.min(floor)));
            let _ = account.balance.fetch_update(Relaxed, Relaxed, owe);
        } else {
            let now = now.as_nanos();
            let replicas = if self.shared { f64::from(self.replicas()) } else { 1.0 };
            let span = self.span(more.saturating_abs(), replicas);
            // A burst is spent, and another one owed.
            let latest = now.saturating_add(self.span(self.burst, replicas).saturating_mul(2));
            let owe = |full_at: u64| {
                let full_at = full_at.max(now);
                Some(if more < 0 {
                    full_at.saturating_sub(span).max(now)
                } else {
                    full_at.saturating_add(span).min(latest.max(full_at))
                })
            };
            let _ = account.full_at.fetch_update(Relaxed, Relaxed, owe);
        }
    }

    /// Has the store asked for this account, unless it was just now.
    fn want(&self, account: &Account, customer: u64, now: Instant) {
        let quiet = account.quiet.load(Relaxed);
        let next = now.after(PATIENCE).as_nanos() & !DRY | MARKED;
        if now.as_nanos() < quiet || account.quiet.compare_exchange(quiet, next, Relaxed, Relaxed).is_err() {
            return;
        }
        let set = self.accounts.set_of(customer);
        self.marks[set / 64].fetch_or(1 << (set % 64), Relaxed);
        self.expect_answer(now);
    }

    /// Whoever is asked has to answer in time: also when nobody is left to say that it did not.
    fn expect_answer(&self, now: Instant) {
        self.lost_at.fetch_min(now.after(PATIENCE).as_nanos(), Relaxed);
    }

    /// The time in which one in `replicas` earns so much, in nanoseconds, rounded up.
    fn span(&self, atoms: i64, replicas: f64) -> u64 {
        let nanos = atoms.max(0) as f64 * self.nanos_per_atom * replicas;
        let whole = nanos as u64;
        if (whole as f64) < nanos { whole.saturating_add(1) } else { whole }
    }
}

fn atoms(cost: f64) -> i64 {
    // Not a number counts as free.
    (cost.clamp(0.0, COST_MAX) * ATOMS) as i64
}

#[cfg(test)]
mod tests;
