//! Makes the kernel hold what the node wants, on a thread of its own: network namespaces belong to
//! threads, and steps are system calls that give a runtime no chance to look elsewhere.

pub mod held;
pub mod path;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use overlay_cluster::rotation::{AdoptedSa, SlotKey, Transmit, Usage};
use overlay_ebpf::abi::PeerIndex;
use tokio::sync::{Notify, oneshot, watch};

use crate::{dataplane::desired::DataPlane, kernel::keeper::Told, member::Held};

/// How long the thread may take for its last steps.
const END: Duration = Duration::from_secs(15);

/// What an earlier agent left in the kernel.
pub type Found = BTreeMap<PeerIndex, (Vec<AdoptedSa>, Option<Transmit>)>;

/// What the kernel holds after an attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The newest attempt that is in it; 0 before the first.
    pub attempt: u64,
    pub held: BTreeSet<Held>,
    pub local_endpoints: usize,
    pub remote_endpoints: usize,
    /// What is not as it is wanted, and why.
    pub problems: BTreeSet<String>,
    /// Why an endpoint does not stand, by its host-side device.
    pub refused: BTreeMap<String, String>,
}

/// What comes from the kernel's side.
#[derive(Debug)]
pub enum News {
    Outcome(Outcome),
    /// What others changed, what was repaired.
    Told(Told),
    /// Of outbound and inbound SAs, by slot.
    Usage(BTreeMap<(PeerIndex, SlotKey), Usage>),
}

/// The kernel of a node, as the applier drives it. All of it runs on the applier's thread.
pub trait DataPath {
    /// Takes the kernel over, and says what an earlier agent left. The error says what helps.
    fn take_over(&mut self) -> impl Future<Output = Result<Found, String>>;

    /// Makes the kernel equal to it. Between two steps it stops if `orders` are closed.
    fn apply(
        &mut self,
        desired: DataPlane,
        orders: &Orders,
        tell: &mut dyn FnMut(News),
    ) -> impl Future<Output = Outcome>;

    /// Returns when a look at the kernel is due. It may be dropped at any time.
    fn due(&mut self) -> impl Future<Output = ()>;

    /// Looks, and repairs. A look that a new order meets may be given up: `None`.
    fn check(
        &mut self,
        orders: &Orders,
        tell: &mut dyn FnMut(News),
    ) -> impl Future<Output = Option<Outcome>>;

    /// Takes everything of ours out of the kernel.
    fn clear(&mut self) -> impl Future<Output = Result<(), String>>;

    /// The last thing before the thread ends. What is in the kernel stays.
    fn end(&mut self) -> impl Future<Output = ()>;
}

/// What is wanted of the kernel: the newest alone.
#[derive(Default)]
pub struct Orders {
    state: Mutex<OrdersState>,
    new: Notify,
}

#[derive(Default)]
struct OrdersState {
    /// Keys are in it: it is taken, not copied.
    next: Option<(u64, Box<DataPlane>)>,
    newest: u64,
    clear: Option<oneshot::Sender<Result<(), String>>>,
    closed: bool,
}

enum Order {
    Apply(u64, Box<DataPlane>),
    Clear(oneshot::Sender<Result<(), String>>),
    End,
}

impl Orders {
    /// Wants this from now on. An older attempt than the newest is of no use any more.
    pub fn apply(&self, attempt: u64, data_plane: Box<DataPlane>) {
        let mut state = self.state();
        if attempt > state.newest && !state.closed {
            state.newest = attempt;
            state.next = Some((attempt, data_plane));
            self.new.notify_one();
        }
    }

    /// Wants nothing of ours in the kernel.
    pub fn clear(&self) -> oneshot::Receiver<Result<(), String>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        if !state.closed {
            state.next = None;
            // Nothing comes after it.
            state.newest = u64::MAX;
            state.clear = Some(sender);
            self.new.notify_one();
        }
        receiver
    }

    pub fn close(&self) {
        self.state().closed = true;
        self.new.notify_one();
    }

    pub fn closed(&self) -> bool {
        self.state().closed
    }

    /// Returns when something else is wanted than what was taken last.
    pub async fn superseded(&self) {
        loop {
            let new = self.new.notified();
            {
                let state = self.state();
                if state.closed || state.next.is_some() || state.clear.is_some() {
                    return;
                }
            }
            new.await;
        }
    }

    fn take(&self) -> Option<Order> {
        let mut state = self.state();
        if state.closed {
            return Some(Order::End);
        }
        if let Some(done) = state.clear.take() {
            return Some(Order::Clear(done));
        }
        let (attempt, data_plane) = state.next.take()?;
        Some(Order::Apply(attempt, data_plane))
    }

    fn state(&self) -> MutexGuard<'_, OrdersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread.
pub struct Applier {
    pub orders: Arc<Orders>,
    ended: watch::Receiver<bool>,
}

impl Applier {
    /// Starts it, and waits until it has taken the kernel over. `news` runs on the thread.
    pub async fn start<P: DataPath>(
        path: impl FnOnce() -> P + Send + 'static,
    ) -> Result<(Self, Found, Begin), String> {
        let orders = Arc::new(Orders::default());
        let (found, finding) = oneshot::channel();
        let (begin, begun) = oneshot::channel();
        let (end, ended) = watch::channel(false);
        let own = orders.clone();
        thread::Builder::new()
            .name("data-path".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                match runtime {
                    Ok(runtime) => runtime.block_on(run(path(), &own, found, begun)),
                    Err(error) => {
                        let _gone = found.send(Err(error.to_string()));
                    }
                }
                // Nobody may wait for it.
                let _gone = end.send(true);
            })
            .map_err(|error| format!("cannot start the data path's thread: {error}"))?;
        let found = finding
            .await
            .map_err(|_| "the data path's thread ended: see the log".to_owned())??;
        Ok((Self { orders, ended }, found, Begin(begin)))
    }

    /// Lets it end; what is in the kernel stays.
    pub async fn stop(&self) {
        self.orders.close();
        let mut ended = self.ended.clone();
        let waited = tokio::time::timeout(END, ended.wait_for(|ended| *ended)).await;
        if waited.is_err() {
            tracing::warn!("the data path is still busy with its last step");
        }
    }
}

type Tell = Box<dyn FnMut(News) + Send>;

/// Lets a started applier take orders, and says whom to tell what comes of them.
pub struct Begin(oneshot::Sender<Tell>);

impl Begin {
    pub fn tell(self, tell: impl FnMut(News) + Send + 'static) {
        let _ended = self.0.send(Box::new(tell));
    }
}

async fn run(
    mut path: impl DataPath,
    orders: &Orders,
    found: oneshot::Sender<Result<Found, String>>,
    begun: oneshot::Receiver<Tell>,
) {
    let taken = path.take_over().await;
    let failed = taken.is_err();
    if found.send(taken).is_err() || failed {
        return;
    }
    let Ok(mut tell) = begun.await else {
        return;
    };
    let mut attempt = 0;
    loop {
        match orders.take() {
            Some(Order::End) => break,
            Some(Order::Clear(done)) => {
                let _gone = done.send(path.clear().await);
                attempt = 0;
            }
            Some(Order::Apply(number, data_plane)) => {
                attempt = number;
                let outcome = path.apply(*data_plane, orders, &mut tell).await;
                tell(News::Outcome(Outcome { attempt, ..outcome }));
            }
            None => tokio::select! {
                biased;
                () = orders.superseded() => {}
                // Before the first order nothing is ours to look after.
                () = path.due(), if attempt > 0 => {
                    if let Some(outcome) = path.check(orders, &mut tell).await {
                        tell(News::Outcome(Outcome { attempt, ..outcome }));
                    }
                }
            },
        }
    }
    path.end().await;
}
