use super::*;
use crate::application::ports::WriteOp;
use crate::domain::log::Line;
use crate::infrastructure::packed::store_fixtures::{append, line_after, register, run_after};
use crate::infrastructure::packed::{Fault, MapBacking};
use bytes::Bytes;

struct Unpark(thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Any executor will do: the store brings its own threads.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Arc::new(Unpark(thread::current())).into();
    let (mut cx, mut future) = (std::task::Context::from_waker(&waker), std::pin::pin!(future));
    loop {
        match future.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(value) => return value,
            std::task::Poll::Pending => thread::park(),
        }
    }
}

fn open(disk: &MapBacking) -> ThreadedStore<MapBacking> {
    let disk = disk.clone();
    block_on(ThreadedStore::open("test", move || {
        let store = PackedStore::open(disk, [5; 32], &Bytes::from_static(b"here"))?;
        register(&store, 1);
        store.sync()?;
        Ok(store)
    }))
    .unwrap()
}

/// Appends one entry of `len` bytes per batch.
struct Appender {
    line: Option<Line>,
    last: Option<Run>,
}

impl Appender {
    fn next(&mut self, len: usize, durability: Durability) -> WriteBatch {
        let run = run_after(self.last.as_ref(), 1, len);
        let line = line_after(self.line.as_ref(), &run);
        let batch = WriteBatch { durability, ..WriteBatch::new([append(1, &line, &run)]) };
        (self.line, self.last) = (Some(line), Some(run));
        batch
    }
}

const NEW: Appender = Appender { line: None, last: None };
const LONG: Durability = Durability::Interval(Duration::from_secs(3600));

fn held(store: &ThreadedStore<MapBacking>) -> u64 {
    let run = block_on(store.read(LogNo(1), LineNo(0), 1..=u64::MAX, 100_000, false)).unwrap();
    run.map_or(0, |run| run.last())
}

#[test]
fn many_batches_become_durable_with_few_syncs_and_in_order() {
    let disk = MapBacking::new(4096);
    let (store, mut appender) = (open(&disk), NEW);
    let before = disk.syncs();
    let batches: Vec<_> = (0..500).map(|_| appender.next(10, Durability::Immediate)).collect();
    let receipts: Vec<_> = batches.into_iter().map(|batch| store.submit(batch)).collect();
    block_on(receipts[499].durable()).unwrap();
    assert!(receipts.iter().all(|receipt| matches!(receipt.settled(), Some(Ok(())))));
    assert!(disk.syncs() - before < 250, "{} syncs", disk.syncs());
    assert_eq!(held(&store), 500);
}

#[test]
fn a_batch_with_an_interval_is_visible_at_once_and_durable_when_hastened() {
    let disk = MapBacking::new(4096);
    let (store, mut appender) = (open(&disk), NEW);
    let lazy = store.submit(appender.next(10, LONG));
    block_on(lazy.visible()).unwrap();
    assert_eq!(held(&store), 1);
    // It may be durable already: a sync for something else, as the merging of chunks, takes it along. What is
    // promised is the latest moment, here in an hour, and that haste brings it forward.
    store.hasten();
    block_on(lazy.durable()).unwrap();
    assert_eq!(held(&open(&disk.crashed())), 1);
    // The smallest interval waiting counts.
    let lazy = store.submit(appender.next(10, LONG));
    let brisk = store.submit(appender.next(10, Durability::Interval(Duration::from_millis(5))));
    block_on(brisk.durable()).unwrap();
    assert!(matches!(lazy.settled(), Some(Ok(()))));
}

#[test]
fn close_makes_everything_durable_and_frees_the_backing_while_the_handle_lives() {
    let disk = MapBacking::new(4096);
    let (store, mut appender) = (open(&disk), NEW);
    let receipts: Vec<_> = (0..50).map(|_| store.submit(appender.next(10, LONG))).collect();
    block_on(async { futures::join!(store.close(), store.close()) }).0.unwrap();
    assert!(receipts.iter().all(|receipt| matches!(receipt.settled(), Some(Ok(())))));
    assert_eq!(disk.handles(), 1, "only the test's own handle is left");
    assert!(matches!(block_on(store.logs()), Err(StoreError::Closed)));
    assert!(matches!(block_on(store.submit(appender.next(1, LONG)).visible()), Err(StoreError::Closed)));
    block_on(store.close()).unwrap();
    assert_eq!(held(&open(&disk.crashed())), 50);
}

#[test]
fn dropping_the_store_makes_everything_durable_and_frees_the_backing() {
    let disk = MapBacking::new(4096);
    let (store, mut appender) = (open(&disk), NEW);
    let receipt = store.submit(appender.next(10, LONG));
    drop(store);
    assert!(matches!(receipt.settled(), Some(Ok(()))));
    assert_eq!(disk.handles(), 1);
}

#[test]
fn after_a_failed_write_or_sync_every_later_write_fails_and_reads_go_on() {
    for fault in [Fault::Apply, Fault::Sync] {
        let disk = MapBacking::new(4096);
        let (store, mut appender) = (open(&disk), NEW);
        block_on(store.submit(appender.next(10, Durability::Immediate)).durable()).unwrap();
        disk.set_fault(fault);
        let failed = block_on(store.submit(appender.next(10, Durability::Immediate)).durable());
        assert!(matches!(failed, Err(StoreError::Io(_))), "{failed:?}");
        disk.set_fault(Fault::None);
        let later = block_on(store.submit(appender.next(10, Durability::Immediate)).durable());
        assert!(matches!(later, Err(StoreError::Poisoned(_))), "{later:?}");
        assert!(held(&store) >= 1);
        assert!(matches!(block_on(store.close()), Err(StoreError::Poisoned(_))));
        assert_eq!(held(&open(&disk.crashed())), 1);
    }
}

#[test]
fn i2_a_full_device_refuses_the_batch_and_what_builds_on_it_and_then_goes_on() {
    let disk = MapBacking::new(4096);
    let (store, mut appender) = (open(&disk), NEW);
    block_on(store.submit(appender.next(10, Durability::Immediate)).durable()).unwrap();
    disk.set_fault(Fault::FullAbove(1000));
    let big = appender.next(2000, Durability::Immediate);
    let (lost, next) = (store.submit(big.clone()), store.submit(appender.next(10, Durability::Immediate)));
    assert!(matches!(block_on(lost.durable()), Err(StoreError::Full)));
    assert!(matches!(block_on(next.durable()), Err(StoreError::Full)));
    let other = store.submit(WriteBatch::new([WriteOp::PutNode(NodeRecord { incarnation: 1 })]));
    block_on(other.durable()).unwrap();
    disk.set_fault(Fault::None);
    block_on(store.submit(big).durable()).unwrap();
    assert_eq!(held(&store), 2);
}

#[test]
fn a_panic_while_opening_is_an_error_and_not_a_hang() {
    let opened = block_on(ThreadedStore::<MapBacking>::open("test", || panic!("no such luck")));
    assert!(matches!(opened, Err(StoreError::Io(why)) if why.contains("no such luck")));
}

#[test]
fn small_chunks_are_merged_when_nothing_else_is_to_do() {
    let disk = MapBacking::new(4096);
    let (store, mut appender) = (open(&disk), NEW);
    let receipts: Vec<_> = (0..400).map(|_| store.submit(appender.next(30, Durability::Immediate))).collect();
    block_on(receipts[399].durable()).unwrap();
    let keys = || disk.contents().len();
    for _ in 0..500 {
        if keys() < 60 {
            break;
        }
        #[allow(clippy::disallowed_methods, reason = "waits for a thread of the store")]
        thread::sleep(Duration::from_millis(10));
    }
    assert!(keys() < 60, "{} keys", keys());
    assert_eq!(held(&store), 400);
}
