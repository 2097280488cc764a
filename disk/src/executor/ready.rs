//! The queue of tasks that can go on.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use super::Alarm;
use crate::rng::Rng;

/// The number of the future given to `run`, which is not in the table.
pub(super) const MAIN: usize = usize::MAX;

/// First in, first out; or, for a simulation, in an order drawn from a seed.
pub(super) struct ReadyQueue {
    state: Mutex<State>,
    alarm: Arc<Alarm>,
}

struct State {
    tasks: VecDeque<Arc<TaskWaker>>,
    order: Option<Rng>,
}

impl ReadyQueue {
    pub(super) fn new(alarm: Arc<Alarm>, seed: Option<u64>) -> Self {
        let state = State {
            tasks: VecDeque::new(),
            order: seed.map(Rng::new),
        };
        Self {
            state: Mutex::new(state),
            alarm,
        }
    }

    /// Queues a task for its first poll.
    pub(super) fn start(self: &Arc<Self>, task: usize) {
        let queued = AtomicBool::new(true);
        self.push(Arc::new(TaskWaker {
            task,
            queued,
            queue: Arc::clone(self),
        }));
    }

    pub(super) fn len(&self) -> usize {
        self.state().tasks.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state().tasks.is_empty()
    }

    /// The next task to poll, and the waker to poll it with.
    pub(super) fn pop(&self) -> Option<(usize, Waker)> {
        let mut state = self.state();
        let State { tasks, order } = &mut *state;
        let waker = match order {
            Some(rng) if !tasks.is_empty() => tasks.swap_remove_front(rng.index(tasks.len())),
            _ => tasks.pop_front(),
        }?;
        // Cleared before the poll: what happens during it asks for another one.
        waker.queued.store(false, Ordering::SeqCst);
        Some((waker.task, Waker::from(waker)))
    }

    /// Lets go of all tasks; they hold the queue, which holds them.
    pub(super) fn clear(&self) {
        let tasks = std::mem::take(&mut self.state().tasks);
        drop(tasks);
    }

    fn push(&self, waker: Arc<TaskWaker>) {
        self.state().tasks.push_back(waker);
        self.alarm.ring();
    }

    /// The queue is whole at every instant, so a panic elsewhere does not spoil it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Queues its task, once however often it is woken.
struct TaskWaker {
    task: usize,
    queued: AtomicBool,
    queue: Arc<ReadyQueue>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            let queue = Arc::clone(&self.queue);
            queue.push(self);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        Arc::clone(self).wake();
    }
}
