//! The executor: one thread, tasks that belong to node incarnations, an order that is a function of the seed.
//!
//! Which of several ready tasks runs first is drawn, so that seeds differ in interleaving too; the draw is made
//! over task numbers and so does not depend on the order in which wakers were called.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::thread::ThreadId;

use futures::future::LocalBoxFuture;

/// Which task: its slot in the low half, how often the slot was used before in the high half.
pub(crate) type TaskId = u64;

/// Whose task it is: a node and how often it was started; `None` for the world's own.
pub(crate) type Owner = Option<(usize, u32)>;

#[derive(Debug)]
pub(crate) struct Ready {
    queue: Mutex<Vec<TaskId>>,
    home: ThreadId,
    /// A waker was called on another thread: somebody uses threads, and the run is not a function of the seed.
    foreign: AtomicBool,
}

struct TaskWaker {
    id: TaskId,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::Relaxed) {
            return;
        }
        if std::thread::current().id() != self.ready.home {
            self.ready.foreign.store(true, Ordering::Relaxed);
        }
        self.ready.queue.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
    }
}

struct Task {
    owner: Owner,
    future: LocalBoxFuture<'static, ()>,
    handle: Arc<TaskWaker>,
    waker: Waker,
}

#[derive(Default)]
struct Slot {
    uses: u32,
    task: Option<Task>,
}

/// A task that was handed in and did not run yet.
type Spawned = (Owner, LocalBoxFuture<'static, ()>);

/// Where tasks are handed in, from within other tasks too.
#[derive(Clone, Default)]
pub(crate) struct Spawner(Rc<RefCell<Vec<Spawned>>>);

impl Spawner {
    pub(crate) fn spawn(&self, owner: Owner, future: LocalBoxFuture<'static, ()>) {
        self.0.borrow_mut().push((owner, future));
    }
}

pub(crate) struct Executor {
    slots: Vec<Slot>,
    free: Vec<u32>,
    ready: Arc<Ready>,
    pub(crate) spawner: Spawner,
    /// Taken from the queue and not yet run: in the order of their numbers, unless `unsorted`.
    runnable: Vec<TaskId>,
    /// Tasks came, or ended, since `runnable` was last put in order.
    unsorted: bool,
}

impl Executor {
    pub(crate) fn new() -> Self {
        let ready = Ready {
            queue: Mutex::default(),
            home: std::thread::current().id(),
            foreign: AtomicBool::new(false),
        };
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            ready: Arc::new(ready),
            spawner: Spawner::default(),
            runnable: Vec::new(),
            unsorted: false,
        }
    }

    /// Whether a waker was called on another thread.
    pub(crate) fn saw_threads(&self) -> bool {
        self.ready.foreign.load(Ordering::Relaxed)
    }

    fn adopt(&mut self) {
        loop {
            let spawned = std::mem::take(&mut *self.spawner.0.borrow_mut());
            if spawned.is_empty() {
                return;
            }
            for (owner, future) in spawned {
                let at = self.free.pop().unwrap_or_else(|| {
                    self.slots.push(Slot::default());
                    (self.slots.len() - 1) as u32
                });
                let slot = &mut self.slots[at as usize];
                let id = u64::from(slot.uses) << 32 | u64::from(at);
                let handle =
                    Arc::new(TaskWaker { id, queued: AtomicBool::new(true), ready: Arc::clone(&self.ready) });
                let waker = Waker::from(Arc::clone(&handle));
                slot.task = Some(Task { owner, future, handle, waker });
                self.runnable.push(id);
                self.unsorted = true;
            }
        }
    }

    fn task(&mut self, id: TaskId) -> Option<&mut Task> {
        let slot = self.slots.get_mut((id & u64::from(u32::MAX)) as usize)?;
        if u64::from(slot.uses) != id >> 32 {
            return None;
        }
        slot.task.as_mut()
    }

    /// The next task to run, chosen by `draw(n)`, a number below n. Finished ones are skipped.
    pub(crate) fn next(&mut self, draw: impl FnOnce(usize) -> usize) -> Option<(TaskId, Owner)> {
        self.adopt();
        {
            let mut queue = self.ready.queue.lock().unwrap_or_else(PoisonError::into_inner);
            self.unsorted |= !queue.is_empty();
            self.runnable.append(&mut queue);
        }
        if std::mem::take(&mut self.unsorted) {
            let mut runnable = std::mem::take(&mut self.runnable);
            runnable.sort_unstable();
            runnable.dedup();
            runnable.retain(|id| self.task(*id).is_some());
            self.runnable = runnable;
        }
        let chosen = match self.runnable.len() {
            0 => return None,
            1 => self.runnable.pop()?,
            n => self.runnable.remove(draw(n).min(n - 1)),
        };
        let owner = self.task(chosen)?.owner;
        Some((chosen, owner))
    }

    /// Puts a task back: its node does not run now.
    pub(crate) fn put_back(&mut self, ids: impl IntoIterator<Item = TaskId>) {
        self.runnable.extend(ids);
        self.unsorted = true;
    }

    /// Runs a task once.
    pub(crate) fn poll(&mut self, id: TaskId) {
        let Some(task) = self.task(id) else { return };
        task.handle.queued.store(false, Ordering::Relaxed);
        let waker = task.waker.clone();
        // Out of its slot while it runs, so that its own effects may end it.
        let Task { owner, mut future, handle, .. } =
            match self.slots[(id & u64::from(u32::MAX)) as usize].task.take() {
                Some(task) => task,
                None => return,
            };
        let mut cx = std::task::Context::from_waker(&waker);
        let done = future.as_mut().poll(&mut cx).is_ready();
        if done {
            drop(future);
            self.release(id);
        } else {
            let slot = &mut self.slots[(id & u64::from(u32::MAX)) as usize];
            slot.task = Some(Task { owner, future, handle, waker });
        }
    }

    fn release(&mut self, id: TaskId) {
        let at = (id & u64::from(u32::MAX)) as u32;
        let slot = &mut self.slots[at as usize];
        slot.uses = slot.uses.wrapping_add(1);
        slot.task = None;
        self.free.push(at);
        self.unsorted = true;
    }

    /// Ends all tasks whose owner is `owner`, in the order of their numbers.
    pub(crate) fn end(&mut self, owner: Owner) {
        self.adopt();
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            if slot.task.as_ref().is_some_and(|task| task.owner == owner) {
                let id = u64::from(slot.uses) << 32 | at as u64;
                let task = slot.task.take();
                self.release(id);
                drop(task);
            }
        }
        // What the ended tasks spawned while they were dropped ends with them.
        self.spawner.0.borrow_mut().retain(|(spawned, _)| *spawned != owner);
    }
}
