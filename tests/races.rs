//! What only more than one thread can bring about: each test holds one thread where another may overtake it.
//!
//! The simulator runs on one thread and never sees these. Nothing here proves anything by time: a thread is held until the other
//! did what it must not, or, where it rightly cannot, for a moment.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use anabranch::application::ports::{
    ChannelRepository, Completer, LinkId, MessagePort, NodeRepository, PeerAddr, PeerRepository, PortError,
    PortEvent, PortProfile, Priority, Receipt, SendError, SnapshotKey, SnapshotRepository, StoreUsage,
    WriteBatch, WriteOp,
};
use anabranch::infrastructure::memory_port::MemoryPort;
use anabranch::infrastructure::packed::{Backing, Changes, MapBacking, PackedStore};
use anabranch::infrastructure::threaded_store::ThreadedStore;
use anabranch::testing::ManualTimer;
use anabranch::{
    AppendError, AppendRefusal, Channel, ChannelId, Coordinator, Cursor, Durability, Event, Events,
    FoldError, LogEntry, MemoryNetwork, MemoryStore, NodeError, NodeId, Query, ReadError, StateMaterializer,
    Store, StoreError,
};
use async_trait::async_trait;
use bytes::Bytes;
use common::{Device, PATIENCE, all, eventually, quick, stream_of, texts};
use futures::executor::block_on;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};

/// How long a thread is held if nobody may overtake it: long enough for a loaded machine to do so, if it may.
const MOMENT: Duration = Duration::from_millis(300);

/// What a store does before it takes a batch, or instead: a receipt of its own.
type Before = Box<dyn Fn(&WriteBatch) -> Option<Receipt> + Send + Sync>;

/// A store that something happens to before it takes a batch, as when its caller's thread has to wait for a processor.
struct Watched(Box<dyn Store>, Before);

anabranch::forward_store!(Watched, |store, batch| {
    let Watched(inner, before) = store;
    before(&batch).unwrap_or_else(|| inner.submit(batch))
});

/// Holds one thread at one place until told to go on.
struct Hold {
    arrived: Sender<()>,
    go_on: Mutex<Receiver<()>>,
    is_spent: AtomicBool,
}

/// The other side of a [`Hold`].
struct Held {
    arrived: Receiver<()>,
    go_on: Sender<()>,
}

fn hold() -> (Hold, Held) {
    let ((arrived, at), (go, going)) = (channel(), channel());
    let hold = Hold { arrived, go_on: Mutex::new(going), is_spent: AtomicBool::new(false) };
    (hold, Held { arrived: at, go_on: go })
}

impl Hold {
    /// The first thread that comes here waits.
    fn here(&self) {
        if !self.is_spent.swap(true, Ordering::SeqCst) {
            self.arrived.send(()).unwrap();
            let _ = self.go_on.lock().unwrap().recv();
        }
    }
}

impl Held {
    /// Lets `overtake` run on a thread of its own while the held thread waits: until it is through, or for a moment if it has to
    /// wait for the held one.
    fn while_held<T: Send + 'static>(self, overtake: impl FnOnce() -> T + Send + 'static) -> T {
        self.arrived.recv().unwrap();
        let (done, result) = channel();
        std::thread::spawn(move || done.send(overtake()));
        let first = result.recv_timeout(MOMENT);
        self.go_on.send(()).unwrap();
        match first {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => result.recv().unwrap(),
            Err(RecvTimeoutError::Disconnected) => panic!("the thread that overtakes panicked"),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the test is the one who runs the driver")]
fn spawn(driver: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
    tokio::spawn(driver)
}

async fn node_on(store: impl Store) -> Coordinator {
    Coordinator::builder(store).config(quick()).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_what_is_appended_to_a_channel_made_again_is_kept_while_the_old_one_is_still_being_removed() {
    let store = MemoryStore::ephemeral().unwrap();
    let (hold, held) = hold();
    let before: Before = Box::new(move |batch| {
        if batch.ops.iter().any(|op| matches!(op, WriteOp::RemoveChannel(_))) {
            hold.here();
        }
        None
    });
    let node = node_on(Watched(Box::new(store.clone()), before)).await;
    stream_of(&node).await.append("old").await.unwrap();
    let remover = {
        let node = node.clone();
        std::thread::spawn(move || block_on(node.remove_channel(&ChannelId::well_known("notes").unwrap())))
    };
    let again = node.clone();
    let appended = tokio::task::spawn_blocking(move || {
        held.while_held(move || block_on(async { stream_of(&again).await.append("new").await }))
    });
    appended.await.unwrap().unwrap();
    assert!(remover.join().unwrap().unwrap());
    node.close().await.unwrap();
    let node = node_on(store.reopen().unwrap()).await;
    assert_eq!(texts(&all(&stream_of(&node).await).await), ["new"]);
}

#[tokio::test]
async fn i1_a_channel_whose_creation_failed_is_not_used_beside_the_one_that_is_made_next() {
    let store = MemoryStore::ephemeral().unwrap();
    let kept: Arc<Mutex<Option<Completer>>> = Arc::default();
    let creation = Arc::clone(&kept);
    let first = AtomicBool::new(true);
    let before: Before = Box::new(move |batch| {
        let is_creation = batch.ops.iter().any(|op| matches!(op, WriteOp::PutChannel(_)));
        (is_creation && first.swap(false, Ordering::SeqCst)).then(|| {
            let (receipt, completer) = Receipt::pending();
            *creation.lock().unwrap() = Some(completer);
            receipt
        })
    });
    let node = node_on(Watched(Box::new(store.clone()), before)).await;
    let mut ana = node.channel("notes").boxed();
    assert!(ana.as_mut().now_or_never().is_none(), "the store has not answered");
    // Another task asks for the same channel meanwhile.
    let mut ben = Box::pin(node.channel("notes"));
    let early = (&mut ben).now_or_never();
    kept.lock().unwrap().take().unwrap().done(Err(StoreError::Full));
    assert!(matches!(ana.await, Err(NodeError::Store(StoreError::Full))));
    let ben = match early {
        Some(ben) => ben,
        None => ben.await,
    };
    // There is room again.
    stream_of(&node).await.append("ana").await.unwrap();
    let mut acknowledged = vec!["ana".to_owned()];
    if let Ok(ben) = ben
        && let Ok(stream) = ben.stream("today").await
        && stream.append("ben").await.is_ok()
    {
        acknowledged.push("ben".to_owned());
    }
    node.close().await.unwrap();
    let node = node_on(store.reopen().unwrap()).await;
    let mut found = texts(&all(&stream_of(&node).await).await);
    found.sort_unstable();
    assert_eq!(found, acknowledged);
}

#[tokio::test]
async fn i1_what_was_appended_before_the_driver_first_ran_leaves_only_when_it_is_durable() {
    let network = MemoryNetwork::new();
    let disk = MapBacking::new(4096);
    let open = |disk: &MapBacking| {
        let disk = disk.clone();
        ThreadedStore::open("disk", move || PackedStore::open(disk, [5; 32], &Bytes::from_static(b"here")))
    };
    let ben = Device::new(&network, "ben").await;
    // A first life, in which they come to know one another.
    let node = {
        let builder = Coordinator::builder(open(&disk).await.unwrap()).config(quick());
        builder.port(network.port("ana")).start().await.unwrap()
    };
    let own = node.channel("notes").await.unwrap();
    own.add_member(ben.node()).await.unwrap();
    own.stream("today").await.unwrap().append("first").await.unwrap();
    let theirs = ben.today([node.node()]).await;
    node.meet("ben").await.unwrap();
    eventually("ben has the first", async || theirs.len() == 1).await;
    let ana = node.node();
    node.close().await.unwrap();
    drop((own, node));

    let builder = Coordinator::builder(open(&disk).await.unwrap()).config(quick());
    let builder = builder.durability(Durability::Interval(Duration::from_secs(3600)));
    let (node, driver) = builder.port(network.port("ana")).build().await.unwrap();
    stream_of(&node).await.append("second").await.unwrap();
    let driver = spawn(driver);
    // Once they are connected, a further append asks for a sync.
    eventually("they meet", async || node.peer(&ben.node()).is_some_and(|peer| peer.reachable)).await;
    let durable = |disk: &MapBacking| {
        let store = PackedStore::open(disk.crashed(), [5; 32], &Bytes::from_static(b"here")).unwrap();
        let logs = store.logs().unwrap();
        let own = logs.iter().find(|log| log.name.author == ana).unwrap();
        own.lines.iter().map(|line| line.tip.sequence).max().unwrap_or(0)
    };
    let mut asked = false;
    for _ in 0..200 {
        let seen = theirs.len();
        assert!(seen <= durable(&disk), "ben holds {seen} entries, of which a crash would lose some");
        if seen == 3 {
            break;
        }
        common::nap().await;
        if !asked && seen == 2 {
            asked = true;
            stream_of(&node).await.append("third").await.unwrap();
        }
    }
    node.close().await.unwrap();
    driver.await.unwrap();
}

#[tokio::test]
async fn what_a_node_holds_is_counted_right_when_a_channel_goes_with_an_append_under_way() {
    let open = || PackedStore::open(MapBacking::new(4096), [5; 32], &Bytes::from_static(b"here"));
    let node = node_on(ThreadedStore::open("memory", open).await.unwrap()).await;
    let stream = stream_of(&node).await;
    stream.append("before").await.unwrap();
    let notes = stream.channel_id();
    let (appended, removed) = futures::join!(stream.append("under way"), node.remove_channel(&notes));
    appended.unwrap();
    assert!(removed.unwrap());
    let usage = node.resource_usage();
    assert_eq!((usage.entries, usage.logs, usage.streams, usage.channels), (0, 0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_holds_is_never_counted_below_nothing() {
    let node = node_on(MemoryStore::ephemeral().unwrap()).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (node, is_over) = (node.clone(), Arc::clone(&is_over));
        std::thread::spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                let usage = node.resource_usage();
                assert!(usage.entries < 1 << 40 && usage.logs < 1 << 40 && usage.streams < 1 << 40);
            }
        })
    };
    let work = |node: Coordinator| {
        std::thread::spawn(move || {
            block_on(async {
                for n in 0..2000 {
                    let Ok(channel) = node.channel("notes").await else { continue };
                    if let Ok(stream) = channel.stream("today").await {
                        let _ = stream.append("x").await;
                    }
                    if n % 3 == 0 {
                        let _ = node.remove_channel(&channel.id()).await;
                    }
                }
            });
        })
    };
    let workers = [work(node.clone()), work(node.clone())];
    let joined = tokio::task::spawn_blocking(move || workers.map(|worker| worker.join().is_ok()));
    assert_eq!(joined.await.unwrap(), [true, true]);
    is_over.store(true, Ordering::SeqCst);
    assert!(watcher.join().is_ok(), "a counter went below zero");
    let notes = ChannelId::well_known("notes").unwrap();
    node.remove_channel(&notes).await.unwrap();
    let usage = node.resource_usage();
    assert_eq!((usage.entries, usage.logs, usage.streams, usage.channels), (0, 0, 0, 0));
}

#[tokio::test]
async fn to_destroy_a_node_that_is_being_closed_wipes_it_or_says_that_it_did_not() {
    let store = MemoryStore::ephemeral().unwrap();
    let node = node_on(store.clone()).await;
    let before = node.node();
    let (closed, destroyed) = futures::join!(node.close(), node.destroy());
    closed.unwrap();
    let after = node_on(store.reopen().unwrap()).await.node();
    assert_eq!(destroyed.is_ok(), before != after, "{destroyed:?}");
}

#[tokio::test]
async fn to_destroy_a_node_without_a_driver_wipes_it_or_says_that_it_did_not() {
    let store = MemoryStore::ephemeral().unwrap();
    let (node, driver) = Coordinator::builder(store.clone()).build().await.unwrap();
    let before = node.node();
    drop(driver);
    let destroyed = node.destroy().await;
    let after = node_on(store.reopen().unwrap()).await.node();
    assert_eq!(destroyed.is_ok(), before != after, "{destroyed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_address_of_a_peer_is_kept_though_it_is_named_while_it_is_met() {
    let network = MemoryNetwork::new();
    let ben = Device::new(&network, "ben").await;
    let store = MemoryStore::ephemeral().unwrap();
    let (hold, held) = hold();
    let before: Before = Box::new(move |batch| {
        let mut peers = batch.ops.iter().filter_map(|op| match op {
            WriteOp::PutPeer(peer) => Some(peer),
            _ => None,
        });
        if peers.any(|peer| peer.label == "Ben" && peer.addresses.is_empty()) {
            hold.here();
        }
        None
    });
    let builder = Coordinator::builder(Watched(Box::new(store.clone()), before)).config(quick());
    let ana = builder.port(network.port("ana")).start().await.unwrap();
    let naming = {
        let (ana, ben) = (ana.clone(), ben.node());
        std::thread::spawn(move || block_on(ana.add_peer(ben, "Ben")))
    };
    let meeting = ana.clone();
    let met = tokio::task::spawn_blocking(move || held.while_held(move || block_on(meeting.meet("ben"))));
    assert_eq!(met.await.unwrap().unwrap(), ben.node());
    naming.join().unwrap().unwrap();
    ana.close().await.unwrap();
    let kept = store.reopen().unwrap().peers().await.unwrap();
    let kept = kept.iter().find(|peer| peer.node == ben.node()).unwrap();
    assert_eq!((kept.label.as_str(), kept.addresses.len()), ("Ben", 1));
}

/// Counts entries; whoever saves is held.
struct HeldSave(Hold);

impl StateMaterializer for HeldSave {
    const NAME: &'static str = "held";
    const VERSION: u32 = 1;
    type State = u64;

    fn initial(&self) -> u64 {
        0
    }

    fn fold(&self, state: &mut u64, _: &LogEntry) -> Result<(), FoldError> {
        *state += 1;
        Ok(())
    }

    fn save(&self, state: &u64) -> Option<Bytes> {
        self.0.here();
        Some(Bytes::copy_from_slice(&state.to_le_bytes()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_channel_is_left_though_a_state_is_saved_while_it_is_removed() {
    let store = MemoryStore::ephemeral().unwrap();
    let node = node_on(store.clone()).await;
    let stream = stream_of(&node).await;
    stream.append("entry").await.unwrap();
    let (hold, held) = hold();
    let state = stream.materialize(HeldSave(hold)).await.unwrap();
    assert_eq!(*state.get().await.unwrap(), 1);
    let saving = std::thread::spawn(move || block_on(state.save()));
    let (remover, notes) = (node.clone(), stream.channel_id());
    let removing = move || held.while_held(move || block_on(remover.remove_channel(&notes)));
    assert!(tokio::task::spawn_blocking(removing).await.unwrap().unwrap());
    let _ = saving.join().unwrap();
    let key = SnapshotKey {
        channel: notes,
        stream: stream.id().clone(),
        name: HeldSave::NAME.to_owned(),
        version: HeldSave::VERSION,
    };
    assert_eq!(store.snapshot(&key).await.unwrap(), None);
}

/// A disk whose reads wait while it is held, and that is full when told so.
struct Disk {
    map: MapBacking,
    is_held: Arc<(Mutex<bool>, Condvar)>,
    is_full: Arc<AtomicBool>,
}

impl Backing for Disk {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let (is_held, changed) = &*self.is_held;
        drop(changed.wait_while(is_held.lock().unwrap(), |is_held| *is_held).unwrap());
        self.map.get(key)
    }

    fn scan(
        &self,
        range: Range<&[u8]>,
        backward: bool,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.map.scan(range, backward, visit)
    }

    fn apply(&self, changes: &Changes) -> Result<(), StoreError> {
        if self.is_full.swap(false, Ordering::SeqCst) {
            return Err(StoreError::Full);
        }
        self.map.apply(changes)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.map.sync()
    }

    fn usage(&self) -> StoreUsage {
        self.map.usage()
    }
}

/// A task that runs where it is woken, as some executors have it.
struct RunsWhereWoken {
    task: Mutex<Option<BoxFuture<'static, ()>>>,
    is_woken: AtomicBool,
}

/// Lets `task` run, here at first.
fn run_where_woken(task: impl Future<Output = ()> + Send + 'static) {
    Arc::new(RunsWhereWoken { task: Mutex::new(Some(task.boxed())), is_woken: AtomicBool::new(false) })
        .wake();
}

impl Wake for RunsWhereWoken {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::SeqCst);
        while self.is_woken.load(Ordering::SeqCst) {
            let task = self.task.lock().unwrap().take();
            // Who runs it now looks again.
            let Some(mut task) = task else { return };
            self.is_woken.store(false, Ordering::SeqCst);
            if task.poll_unpin(&mut Context::from_waker(&Arc::clone(&self).into())).is_ready() {
                return;
            }
            *self.task.lock().unwrap() = Some(task);
        }
    }
}

#[tokio::test]
async fn a_store_is_released_though_its_last_handle_is_dropped_on_its_reading_thread() {
    let map = MapBacking::new(4096);
    let is_held = Arc::new((Mutex::new(false), Condvar::new()));
    let disk = Disk { map: map.clone(), is_held: Arc::clone(&is_held), is_full: Arc::default() };
    let open = move || PackedStore::open(disk, [5; 32], &Bytes::from_static(b"here"));
    let store = ThreadedStore::open("memory", open).await.unwrap();
    *is_held.0.lock().unwrap() = true;
    let ask = async move {
        let _record = store.node().await.unwrap();
    };
    run_where_woken(ask);
    *is_held.0.lock().unwrap() = false;
    is_held.1.notify_all();
    eventually("the store is released", async || map.handles() == 1).await;
}

#[tokio::test]
async fn an_append_after_a_full_disk_works_when_there_is_room_though_what_came_before_is_not_synced() {
    let is_full = Arc::new(AtomicBool::new(false));
    let disk = Disk { map: MapBacking::new(4096), is_held: Arc::default(), is_full: Arc::clone(&is_full) };
    let open = move || PackedStore::open(disk, [5; 32], &Bytes::from_static(b"here"));
    let store = ThreadedStore::open("memory", open).await.unwrap();
    let hour = Durability::Interval(Duration::from_secs(3600));
    let node = Coordinator::builder(store).durability(hour).start().await.unwrap();
    let stream = stream_of(&node).await;
    stream.append("fits").await.unwrap();
    is_full.store(true, Ordering::SeqCst);
    let refused = stream.append("does not fit").await;
    assert!(matches!(refused, Err(AppendError::Unchanged(AppendRefusal::Store(StoreError::Full)))));
    stream.append("fits again").await.unwrap();
    assert_eq!(stream.len(), 2);
}

#[tokio::test]
async fn an_append_to_a_stream_of_others_says_that_the_channel_was_removed() {
    let network = MemoryNetwork::new();
    let [ana, ben] = common::devices(&network, ["ana", "ben"]).await;
    let notes = ana.channel("notes").await.unwrap();
    notes.add_member(ben.node()).await.unwrap();
    ben.today([ana.node()]).await.append("from ben").await.unwrap();
    ana.meet_device(&ben).await;
    eventually("the stream", async || !notes.streams().is_empty()).await;
    let stream = notes.streams().remove(0);
    ana.remove_channel(&notes.id()).await.unwrap();
    let refused = stream.append("too late").await;
    assert!(matches!(refused, Err(AppendError::Unchanged(AppendRefusal::ChannelRemoved))), "{refused:?}");
}

#[tokio::test]
async fn i7_what_is_appended_to_a_channel_whose_first_opening_was_given_up_reaches_others() {
    let network = MemoryNetwork::new();
    let ben = Device::new(&network, "ben").await;
    let store = MemoryStore::ephemeral().unwrap();
    let kept: Arc<Mutex<Option<Completer>>> = Arc::default();
    let (inner, creation, first) = (store.clone(), Arc::clone(&kept), AtomicBool::new(true));
    let before: Before = Box::new(move |batch| {
        let is_creation = batch.ops.iter().any(|op| matches!(op, WriteOp::PutChannel(_)));
        (is_creation && first.swap(false, Ordering::SeqCst)).then(|| {
            // Written, but it takes time.
            assert!(matches!(inner.submit(batch.clone()).settled(), Some(Ok(()))));
            let (receipt, completer) = Receipt::pending();
            *creation.lock().unwrap() = Some(completer);
            receipt
        })
    });
    let builder = Coordinator::builder(Watched(Box::new(store), before)).config(quick());
    let ana = builder.port(network.port("ana")).start().await.unwrap();
    // The driver runs, and has loaded what there was.
    ana.sync_status().await.unwrap();
    assert!(ana.channel("notes").now_or_never().is_none(), "given up before the store answered");
    kept.lock().unwrap().take().unwrap().done(Ok(()));
    let notes = ana.channel("notes").await.unwrap();
    notes.stream("today").await.unwrap().append("entry").await.unwrap();
    eventually("the driver has looked", async || ana.metrics().entries_appended == 1).await;
    notes.add_member(ben.node()).await.unwrap();
    let theirs = ben.today([ana.node()]).await;
    ana.meet("ben").await.unwrap();
    eventually("ben has it", async || theirs.len() == 1).await;
}

#[tokio::test]
async fn i1_what_is_appended_to_a_channel_made_again_is_kept_though_a_full_disk_kept_the_old_one() {
    for is_removed_again in [false, true] {
        let (map, is_full) = (MapBacking::new(4096), Arc::new(AtomicBool::new(false)));
        let open = || {
            let disk = Disk { map: map.clone(), is_held: Arc::default(), is_full: Arc::clone(&is_full) };
            let open = move || PackedStore::open(disk, [5; 32], &Bytes::from_static(b"here"));
            ThreadedStore::open("memory", open)
        };
        let node = node_on(open().await.unwrap()).await;
        let stream = stream_of(&node).await;
        stream.append("old").await.unwrap();
        let notes = stream.channel_id();
        is_full.store(true, Ordering::SeqCst);
        let refused = node.remove_channel(&notes).await;
        assert!(matches!(refused, Err(NodeError::Store(StoreError::Full))), "{refused:?}");
        if is_removed_again {
            assert!(node.remove_channel(&notes).await.unwrap());
            assert!(!node.remove_channel(&notes).await.unwrap());
        } else {
            stream_of(&node).await.append("new").await.unwrap();
        }
        node.close().await.unwrap();
        let node = node_on(open().await.unwrap()).await;
        let expected: &[&str] = if is_removed_again { &[] } else { &["new"] };
        assert_eq!(node.get_channel(&notes).is_some(), !is_removed_again);
        assert_eq!(texts(&all(&stream_of(&node).await).await), expected);
        assert_eq!(node.resource_usage().logs, 1);
    }
}

#[tokio::test]
async fn i7_a_channel_made_again_syncs_though_the_old_one_had_a_write_under_way_when_it_was_removed() {
    /// What is under way.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Write {
        Stream,
        Entry,
    }
    for write in [Write::Stream, Write::Entry] {
        let network = MemoryNetwork::new();
        let ben = Device::new(&network, "ben").await;
        let store = MemoryStore::ephemeral().unwrap();
        let kept: Arc<Mutex<Option<Completer>>> = Arc::default();
        let (inner, slow, first) = (store.clone(), Arc::clone(&kept), AtomicBool::new(true));
        let before: Before = Box::new(move |batch| {
            let is_slow = batch.ops.iter().any(|op| match op {
                WriteOp::PutLog(..) => write == Write::Stream,
                WriteOp::Append { .. } => write == Write::Entry,
                _ => false,
            });
            (is_slow && first.swap(false, Ordering::SeqCst)).then(|| {
                // Written, but it takes time.
                assert!(matches!(inner.submit(batch.clone()).settled(), Some(Ok(()))));
                let (receipt, completer) = Receipt::pending();
                *slow.lock().unwrap() = Some(completer);
                receipt
            })
        });
        let builder = Coordinator::builder(Watched(Box::new(store), before)).config(quick());
        let ana = builder.port(network.port("ana")).start().await.unwrap();
        let old = ana.clone();
        let mut under_way = async move { stream_of(&old).await.append("old").await }.boxed();
        assert!((&mut under_way).now_or_never().is_none(), "the store has not answered");
        // The driver has looked, as it has after each of these.
        ana.sync_status().await.unwrap();
        assert!(ana.remove_channel(&ChannelId::well_known("notes").unwrap()).await.unwrap());
        let notes = ana.channel("notes").await.unwrap();
        ana.sync_status().await.unwrap();
        kept.lock().unwrap().take().unwrap().done(Ok(()));
        let _ = under_way.await;
        ana.sync_status().await.unwrap();
        notes.stream("today").await.unwrap().append("new").await.unwrap();
        notes.add_member(ben.node()).await.unwrap();
        let theirs = ben.today([ana.node()]).await;
        ana.meet("ben").await.unwrap();
        eventually("ben has it", async || theirs.len() == 1).await;
        assert_eq!(texts(&all(&theirs).await), ["new"], "{write:?}");
    }
}

/// Runs something once, where it is woken.
struct WhenWoken(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Wake for WhenWoken {
    fn wake(self: Arc<Self>) {
        let then = self.0.lock().unwrap().take();
        if let Some(then) = then {
            then();
        }
    }
}

/// Lets `then` run on another thread at the next event of `node`, while the thread that tells of it is held.
fn at_next_event(node: &Coordinator, then: impl FnOnce() + Send + 'static) -> Events {
    let mut events = node.events();
    let on_thread = move || std::thread::spawn(then).join().unwrap();
    let waker = Waker::from(Arc::new(WhenWoken(Mutex::new(Some(Box::new(on_thread))))));
    assert!(events.next().poll_unpin(&mut Context::from_waker(&waker)).is_pending());
    events
}

#[tokio::test]
async fn a_stream_is_opened_though_another_thread_appended_to_it_while_it_was_made() {
    let node = node_on(MemoryStore::ephemeral().unwrap()).await;
    let notes = node.channel("notes").await.unwrap();
    let other = node.clone();
    let _events = at_next_event(&node, move || {
        block_on(async { stream_of(&other).await.append("first").await }).unwrap();
    });
    notes.stream("today").await.unwrap().append("second").await.unwrap();
    assert_eq!(texts(&all(&stream_of(&node).await).await), ["first", "second"]);
}

#[tokio::test]
async fn what_a_node_holds_is_counted_right_when_a_channel_goes_while_a_stream_is_made_in_it() {
    let node = node_on(MemoryStore::ephemeral().unwrap()).await;
    let notes = node.channel("notes").await.unwrap();
    let (remover, id, seen) = (node.clone(), notes.id(), Arc::new(Mutex::new(None)));
    let counted = Arc::clone(&seen);
    let _events = at_next_event(&node, move || {
        block_on(remover.remove_channel(&id)).unwrap();
        *counted.lock().unwrap() = Some(remover.resource_usage());
    });
    let _ = notes.stream("today").await;
    let usage = seen.lock().unwrap().take().unwrap();
    assert_eq!((usage.logs, usage.streams, usage.channels), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_node_is_left_though_a_channel_is_made_or_a_peer_named_while_it_is_destroyed() {
    for names_a_peer in [false, true] {
        let store = MemoryStore::ephemeral().unwrap();
        let ((arrived, at_work), (go_on, going), (done, through)) = (channel(), channel(), channel());
        let (inner, going, through) = (store.clone(), Mutex::new(going), Mutex::new(through));
        let before: Before = Box::new(move |batch| match &batch.ops[..] {
            [WriteOp::PutChannel(_) | WriteOp::PutPeer(_)] => {
                arrived.send(()).unwrap();
                let _in_vain: Result<(), _> = going.lock().unwrap().recv_timeout(MOMENT);
                None
            }
            [WriteOp::Wipe] => {
                let wiped = inner.submit(batch.clone());
                let _ = go_on.send(());
                let _in_vain: Result<(), _> = through.lock().unwrap().recv_timeout(MOMENT);
                Some(wiped)
            }
            _ => None,
        });
        let node = node_on(Watched(Box::new(store.clone()), before)).await;
        let maker = {
            let node = node.clone();
            std::thread::spawn(move || {
                let _ = block_on(async {
                    match names_a_peer {
                        true => node.add_peer(NodeId::from_bytes([7; 32]), "Ben").await,
                        false => node.channel("notes").await.map(drop),
                    }
                });
                let _ = done.send(());
            })
        };
        at_work.recv().unwrap();
        node.destroy().await.unwrap();
        maker.join().unwrap();
        let store = store.reopen().unwrap();
        assert!(store.channels().await.unwrap().is_empty() && store.peers().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn who_reads_a_stream_whose_channel_is_removed_hears_that_and_not_of_damage() {
    let node = node_on(MemoryStore::ephemeral().unwrap()).await;
    let stream = stream_of(&node).await;
    stream.append("entry").await.unwrap();
    let mut reads = [stream.entries(Query::all()), stream.entries(Query::all().newest(1))];
    assert!(node.remove_channel(&stream.channel_id()).await.unwrap());
    for read in &mut reads {
        let read = read.next().await;
        assert!(matches!(read, Some(Err(ReadError::ChannelRemoved))), "{read:?}");
    }
}

#[tokio::test]
async fn a_subscriber_that_runs_where_it_is_woken_may_ask_for_channels_when_its_own_was_removed() {
    let node = node_on(MemoryStore::ephemeral().unwrap()).await;
    let stream = stream_of(&node).await;
    let (mut arrivals, asker, (told, answer)) = (stream.subscribe(Cursor::START), node.clone(), channel());
    let subscriber = async move {
        while arrivals.next().await.is_some() {}
        told.send(asker.channels().len()).unwrap();
    };
    run_where_woken(subscriber);
    let (remover, notes) = (node.clone(), stream.channel_id());
    std::thread::spawn(move || block_on(remover.remove_channel(&notes)));
    assert_eq!(answer.recv_timeout(PATIENCE), Ok(0));
}

#[tokio::test]
async fn a_subscriber_that_runs_where_it_is_woken_may_read_what_woke_it() {
    let node = node_on(MemoryStore::ephemeral().unwrap()).await;
    let stream = stream_of(&node).await;
    let (mut arrivals, (told, answer)) = (stream.subscribe(Cursor::START), channel());
    run_where_woken(async move {
        told.send(arrivals.next().await.is_some()).unwrap();
    });
    std::thread::spawn(move || block_on(stream.append("entry")));
    assert_eq!(answer.recv_timeout(PATIENCE), Ok(true));
}

#[tokio::test]
async fn a_driver_that_runs_where_it_is_woken_may_look_at_what_woke_it() {
    let builder = Coordinator::builder(MemoryStore::ephemeral().unwrap());
    let (node, driver) = builder.timer(ManualTimer::new()).build().await.unwrap();
    run_where_woken(driver);
    let (told, answer) = channel();
    std::thread::spawn(move || {
        block_on(async {
            let stream = stream_of(&node).await;
            stream.append("entry").await.unwrap();
            told.send(node.metrics().entries_appended).unwrap();
            let notes = node.get_channel(&stream.channel_id()).unwrap();
            notes.add_member(NodeId::from_bytes([7; 32])).await.unwrap();
            told.send(u64::from(node.remove_channel(&notes.id()).await.unwrap())).unwrap();
        });
    });
    assert_eq!([answer.recv_timeout(PATIENCE), answer.recv_timeout(PATIENCE)], [Ok(1), Ok(1)]);
}

#[tokio::test]
async fn a_channel_is_made_when_there_is_room_though_its_first_opening_was_given_up_and_refused() {
    let kept: Arc<Mutex<Option<Completer>>> = Arc::default();
    let (creation, first) = (Arc::clone(&kept), AtomicBool::new(true));
    let before: Before = Box::new(move |batch| {
        let is_creation = batch.ops.iter().any(|op| matches!(op, WriteOp::PutChannel(_)));
        (is_creation && first.swap(false, Ordering::SeqCst)).then(|| {
            let (receipt, completer) = Receipt::pending();
            *creation.lock().unwrap() = Some(completer);
            receipt
        })
    });
    let node = node_on(Watched(Box::new(MemoryStore::ephemeral().unwrap()), before)).await;
    assert!(node.channel("notes").now_or_never().is_none(), "given up before the store answered");
    kept.lock().unwrap().take().unwrap().done(Err(StoreError::Full));
    stream_of(&node).await.append("entry").await.unwrap();
}

/// A store that takes its time with the first stream; then it says `answer`, and has written it if that is no error.
fn slow_stream(store: &MemoryStore) -> (Watched, impl FnOnce(Result<(), StoreError>) + use<>) {
    let kept: Arc<Mutex<Option<(Completer, WriteBatch)>>> = Arc::default();
    let (inner, slow, first) = (store.clone(), Arc::clone(&kept), AtomicBool::new(true));
    let before: Before = Box::new(move |batch| {
        let is_slow = matches!(batch.ops[..], [WriteOp::PutLog(..)]) && first.swap(false, Ordering::SeqCst);
        is_slow.then(|| {
            let (receipt, completer) = Receipt::pending();
            *slow.lock().unwrap() = Some((completer, batch.clone()));
            receipt
        })
    });
    let answer = move |result: Result<(), StoreError>| {
        let (completer, batch) = kept.lock().unwrap().take().unwrap();
        completer.done(result.and_then(|()| inner.submit(batch).settled().unwrap()));
    };
    (Watched(Box::new(store.clone()), before), answer)
}

#[tokio::test]
async fn an_append_works_when_there_is_room_though_the_opening_of_its_stream_was_given_up_and_refused() {
    let store = MemoryStore::ephemeral().unwrap();
    let (slow, answer) = slow_stream(&store);
    let node = node_on(slow).await;
    let notes = node.channel("notes").await.unwrap();
    assert!(notes.stream("today").now_or_never().is_none(), "given up before the store answered");
    answer(Err(StoreError::Full));
    stream_of(&node).await.append("entry").await.unwrap();
    node.close().await.unwrap();
    let node = node_on(store.reopen().unwrap()).await;
    assert_eq!(texts(&all(&stream_of(&node).await).await), ["entry"]);
}

#[tokio::test]
async fn a_stream_whose_opening_was_given_up_is_taken_from_others_where_no_other_streams_are() {
    let network = MemoryNetwork::new();
    let ben = Device::new(&network, "ben").await;
    let (slow, answer) = slow_stream(&MemoryStore::ephemeral().unwrap());
    let mut config = quick();
    config.learn_streams = false;
    let ana = Coordinator::builder(slow).config(config).port(network.port("ana")).start().await.unwrap();
    let notes = ana.channel("notes").await.unwrap();
    notes.add_member(ben.node()).await.unwrap();
    // The driver runs, and has loaded what there was.
    ana.sync_status().await.unwrap();
    assert!(notes.stream("today").now_or_never().is_none(), "given up before the store answered");
    answer(Ok(()));
    ben.today([ana.node()]).await.append("entry").await.unwrap();
    ana.meet("ben").await.unwrap();
    let stream = notes.stream("today").await.unwrap();
    eventually("ana has it", async || stream.len() == 1).await;
}

#[tokio::test]
async fn an_append_works_after_a_full_disk_though_the_stream_it_goes_to_is_not_synced() {
    let store = MemoryStore::ephemeral().unwrap();
    let kept: Arc<Mutex<Option<Completer>>> = Arc::default();
    let (inner, unsynced, first) = (store.clone(), Arc::clone(&kept), AtomicBool::new(true));
    let before: Before = Box::new(move |batch| match &batch.ops[..] {
        [WriteOp::PutLog(..)] => {
            assert!(matches!(inner.submit(batch.clone()).settled(), Some(Ok(()))));
            let (receipt, completer) = Receipt::pending();
            completer.visible();
            *unsynced.lock().unwrap() = Some(completer);
            Some(receipt)
        }
        [WriteOp::Append { .. }] if first.swap(false, Ordering::SeqCst) => {
            Some(Receipt::ready(Err(StoreError::Full)))
        }
        _ => None,
    });
    let node = node_on(Watched(Box::new(store), before)).await;
    let notes = node.channel("notes").await.unwrap();
    let mut opening = notes.stream("today").boxed();
    assert!((&mut opening).now_or_never().is_none(), "the store has not answered");
    let stream = notes.streams().remove(0);
    let refused = stream.append("does not fit").await;
    assert!(matches!(refused, Err(AppendError::Unchanged(AppendRefusal::Store(StoreError::Full)))));
    stream.append("fits").await.unwrap();
    kept.lock().unwrap().take().unwrap().done(Ok(()));
    opening.await.unwrap().append("as well").await.unwrap();
    assert_eq!(texts(&all(&stream).await), ["fits", "as well"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_last_of_a_channel_is_what_became_of_it() {
    let id = ChannelId::well_known("notes").unwrap();
    for is_made_last in [false, true] {
        let builder = Coordinator::builder(MemoryStore::ephemeral().unwrap());
        let (node, mut driver) = builder.timer(ManualTimer::new()).build().await.unwrap();
        let work = move |node: Coordinator, makes: bool| match makes {
            true => drop(block_on(node.channel("notes")).unwrap()),
            false => assert!(block_on(node.remove_channel(&id)).unwrap()),
        };
        if is_made_last {
            work(node.clone(), true);
        }
        let (mut events, (hold, held)) = (node.events(), hold());
        // Whoever is first is held where it wakes the driver.
        let waker = Waker::from(Arc::new(WhenWoken(Mutex::new(Some(Box::new(move || hold.here()))))));
        assert!(driver.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
        let (first, second) = (node.clone(), node.clone());
        let first = std::thread::spawn(move || work(first, !is_made_last));
        let overtake = move || held.while_held(move || work(second, is_made_last));
        tokio::task::spawn_blocking(overtake).await.unwrap();
        first.join().unwrap();
        let (created, removed) = (Event::ChannelCreated(id), Event::ChannelRemoved(id));
        let expected = if is_made_last { [removed, created] } else { [created, removed] };
        assert_eq!([events.next().await.unwrap(), events.next().await.unwrap()], expected);
    }
}

/// A port that something happens to before it hands over a frame: its driver is in the midst of a turn.
struct Tapped(MemoryPort, Box<dyn Fn(&Bytes) + Send + Sync>);

#[async_trait]
impl MessagePort for Tapped {
    fn profile(&self) -> PortProfile {
        self.0.profile()
    }
    fn try_send(&self, to: LinkId, frame: Bytes, priority: Priority) -> Result<(), SendError> {
        self.0.try_send(to, frame, priority)
    }
    async fn connect(&self, address: &PeerAddr) -> Result<LinkId, PortError> {
        self.0.connect(address).await
    }
    async fn recv(&self) -> Result<PortEvent, PortError> {
        let event = self.0.recv().await;
        if let Ok(PortEvent::Frame { frame, .. }) = &event {
            (self.1)(frame);
        }
        event
    }
    fn disconnect(&self, link: LinkId) {
        self.0.disconnect(link);
    }
    async fn close(&self) {
        self.0.close().await;
    }
}

#[tokio::test]
async fn i7_what_arrives_in_the_moment_in_which_its_channel_is_made_again_reaches_others() {
    /// Larger than any frame that brings no entry.
    const PAYLOAD: usize = 4000;
    let network = MemoryNetwork::new();
    let [ana, cat] = common::devices(&network, ["ana", "cat"]).await;
    let again: Arc<Mutex<Option<Coordinator>>> = Arc::default();
    let (taken, members) = (Arc::clone(&again), [ana.node(), cat.node()]);
    let admit = async move |notes: &Channel| {
        for member in members {
            notes.add_member(member).await.unwrap();
        }
    };
    let tap = move |frame: &Bytes| {
        let node = if frame.len() < PAYLOAD { None } else { taken.lock().unwrap().take() };
        if let Some(node) = node {
            let made = async {
                assert!(node.remove_channel(&ChannelId::well_known("notes").unwrap()).await.unwrap());
                admit(&node.channel("notes").await.unwrap()).await;
            };
            made.now_or_never().unwrap();
        }
    };
    let port = Tapped(network.port("ben"), Box::new(tap));
    let builder = Coordinator::builder(MemoryStore::ephemeral().unwrap()).config(quick());
    let ben = builder.port(port).start().await.unwrap();
    admit(&ben.channel("notes").await.unwrap()).await;
    *again.lock().unwrap() = Some(ben.clone());
    ana.today([ben.node()]).await.append(vec![7; PAYLOAD]).await.unwrap();
    ana.meet("ben").await.unwrap();
    let holds = async || ben.channel("notes").await.unwrap().streams().iter().any(|today| !today.is_empty());
    eventually("ben has it", holds).await;
    assert!(again.lock().unwrap().is_none(), "the channel was made again");
    let theirs = cat.today([ana.node(), ben.node()]).await;
    cat.meet("ben").await.unwrap();
    eventually("cat has it", async || theirs.len() == 1).await;
}
