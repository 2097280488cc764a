//! The executor and its reactor, on every backend the host has.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::{pending, poll_fn};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread;

use super::yield_now;
use crate::event::eventfd;
use crate::reactor::{Operation, submit};
use crate::test_support::{join_all, real_backends};
use crate::{Backend, Buffers, EventReceiver, Executor, spawn};

/// Three tasks of two steps each, in the order in which the steps ran.
fn order_of_steps(backend: Backend) -> Vec<u32> {
    let executor = Executor::with_backend(backend).unwrap();
    let log = Rc::new(RefCell::new(Vec::new()));
    executor.run(async {
        for task in [10, 20, 30] {
            let log = Rc::clone(&log);
            spawn(async move {
                log.borrow_mut().push(task);
                yield_now().await;
                log.borrow_mut().push(task + 1);
            });
        }
        while log.borrow().len() < 6 {
            yield_now().await;
        }
    });
    log.take()
}

#[test]
fn tasks_run_first_in_first_out() {
    for backend in real_backends() {
        assert_eq!(order_of_steps(backend), [10, 20, 30, 11, 21, 31]);
    }
}

#[test]
fn operations_done_at_once_leave_others_their_turn() {
    for backend in real_backends() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let write = || {
            let (file, buffers) = (Arc::clone(&file), Buffers::zeroed(4096));
            submit(Operation::Write {
                file,
                offset: 0,
                buffers,
                cached: true,
            })
        };
        Executor::with_backend(backend).unwrap().run(async {
            let others = Rc::new(Cell::new(0));
            let counted = Rc::clone(&others);
            spawn(async move {
                loop {
                    counted.set(counted.get() + 1);
                    yield_now().await;
                }
            });
            for _ in 0..1000 {
                assert_eq!(write().await.unwrap(), 4096);
            }
            assert!(others.get() >= 20, "{} turns", others.get());
        });
    }
}

#[test]
fn simulation_repeats_its_order_and_varies_it() {
    let run = |seed| order_of_steps(Backend::Simulated { seed });
    assert_eq!(run(1), run(1));
    assert!(
        (2..20).any(|seed| run(seed) != run(1)),
        "the seed does not matter"
    );
}

#[test]
fn simulated_time_orders_delays() {
    let executor = Executor::with_backend(Backend::Simulated { seed: 3 }).unwrap();
    let log = RefCell::new(Vec::new());
    executor.run(join_all([30, 10, 20].map(|duration_ns| {
        let log = &log;
        async move {
            submit(Operation::Delay { duration_ns }).await.unwrap();
            log.borrow_mut().push(duration_ns);
        }
    })));
    assert_eq!(log.take(), [10, 20, 30]);
}

#[test]
#[should_panic(expected = "every task waits")]
fn simulation_that_hangs_panics() {
    Executor::with_backend(Backend::Simulated { seed: 0 })
        .unwrap()
        .run(pending::<()>());
}

#[test]
fn wakes_from_another_thread() {
    for backend in real_backends() {
        let executor = Executor::with_backend(backend).unwrap();
        let shared: Arc<Mutex<(bool, Option<Waker>)>> = Arc::default();
        let (ask, asked) = mpsc::channel();
        let other = Arc::clone(&shared);
        let waker_thread = thread::spawn(move || {
            for () in asked {
                let mut state = other.lock().unwrap();
                state.0 = true;
                if let Some(waker) = state.1.take() {
                    waker.wake();
                }
            }
        });
        executor.run(async {
            for _ in 0..200 {
                ask.send(()).unwrap();
                poll_fn(|context| {
                    let mut state = shared.lock().unwrap();
                    if std::mem::take(&mut state.0) {
                        return Poll::Ready(());
                    }
                    state.1 = Some(context.waker().clone());
                    Poll::Pending
                })
                .await;
            }
        });
        drop(ask);
        waker_thread.join().unwrap();
    }
}

#[test]
fn unfinished_tasks_go_on_in_the_next_run_and_end_with_the_executor() {
    for backend in real_backends() {
        let executor = Executor::with_backend(backend).unwrap();
        let steps = Rc::new(Cell::new(0));
        executor.run(async {
            let steps = Rc::clone(&steps);
            spawn(async move {
                loop {
                    steps.set(steps.get() + 1);
                    yield_now().await;
                }
            });
        });
        assert_eq!(steps.get(), 0);
        executor.run(yield_now());
        assert_ne!(steps.get(), 0);
        let queue = Arc::downgrade(&executor.core.ready);
        drop(executor);
        assert_eq!(Rc::strong_count(&steps), 1);
        assert!(queue.upgrade().is_none(), "the queue holds itself");
    }
}

#[test]
#[should_panic(expected = "already running")]
fn executors_do_not_nest() {
    let executor = Executor::with_backend(Backend::Threads).unwrap();
    executor.run(async { executor.run(async {}) });
}

#[test]
fn many_more_operations_than_the_rings_hold() {
    const COUNT: u64 = 10_000;
    for backend in real_backends() {
        let executor = Executor::with_backend(backend).unwrap();
        let file = Arc::new(tempfile::tempfile().unwrap());
        executor.run(join_all((0..COUNT).map(|n| {
            let (file, buffers) = (Arc::clone(&file), Buffers::from_vec(n.to_le_bytes()));
            let write = submit(Operation::Write {
                file,
                offset: n * 8,
                buffers,
                cached: false,
            });
            async move { assert_eq!(write.await.unwrap(), 8) }
        })));
        let mut content = Vec::new();
        (&*file).read_to_end(&mut content).unwrap();
        let expected: Vec<u8> = (0..COUNT).flat_map(u64::to_le_bytes).collect();
        assert!(content == expected);
    }
}

/// A pipe with nothing in it: a read stays in flight until the test writes.
fn pipe() -> (Arc<File>, File) {
    let (reader, writer) = std::io::pipe().unwrap();
    (
        Arc::new(File::from(OwnedFd::from(reader))),
        File::from(OwnedFd::from(writer)),
    )
}

/// Memory whose end can be observed.
fn observed_buffers() -> (Buffers, Arc<Buffers>) {
    let memory = Arc::new(Buffers::zeroed(8));
    // SAFETY: the segments belong to the owner.
    let buffers = unsafe { Buffers::from_raw(memory.segments(), Arc::clone(&memory) as _) };
    (buffers, memory)
}

/// On `io_uring` only: threads cannot read a pipe at an offset.
#[test]
fn memory_of_a_dropped_read_stays_until_the_read_ends() {
    let Ok(executor) = Executor::with_backend(Backend::IoUring) else {
        println!("no io_uring here");
        return;
    };
    let ((file, mut writer), (buffers, memory)) = (pipe(), observed_buffers());
    executor.run(async {
        {
            let mut read = pin!(submit(Operation::Read {
                file,
                offset: 0,
                buffers,
                cached: false,
            }));
            // Polled once, so that it is in flight when it is dropped.
            poll_fn(|context| {
                assert!(read.as_mut().poll(context).is_pending());
                Poll::Ready(())
            })
            .await;
        }
        yield_now().await;
        yield_now().await;
        assert_eq!(Arc::strong_count(&memory), 2, "freed in flight");
        writer.write_all(b"landed..").unwrap();
        while Arc::strong_count(&memory) == 2 {
            yield_now().await;
        }
    });
    assert_eq!(memory.to_vec(), b"landed..");
}

#[test]
fn executor_that_ends_waits_for_what_is_in_flight() {
    let Ok(executor) = Executor::with_backend(Backend::IoUring) else {
        println!("no io_uring here");
        return;
    };
    let ((file, mut writer), (buffers, memory)) = (pipe(), observed_buffers());
    executor.run(async {
        drop(submit(Operation::Read {
            file,
            offset: 0,
            buffers,
            cached: false,
        }));
        yield_now().await;
        yield_now().await;
    });
    let dropping = thread::spawn(move || writer.write_all(b"landed..").unwrap());
    drop(executor);
    dropping.join().unwrap();
    assert_eq!(memory.to_vec(), b"landed..");
    assert_eq!(Arc::strong_count(&memory), 1);
}

#[test]
fn dropped_writes_still_land() {
    for backend in real_backends() {
        let executor = Executor::with_backend(backend).unwrap();
        let file = Arc::new(tempfile::tempfile().unwrap());
        executor.run(async {
            let (file, buffers) = (Arc::clone(&file), Buffers::from_vec(b"landed"));
            drop(submit(Operation::Write {
                file,
                offset: 0,
                buffers,
                cached: false,
            }));
        });
        drop(executor);
        let mut content = String::new();
        (&*file).read_to_string(&mut content).unwrap();
        assert_eq!(content, "landed");
    }
}

fn signal(event: &File) {
    (&*event).write_all(&1_u64.to_ne_bytes()).unwrap();
}

#[test]
fn events_are_received_one_after_the_other() {
    for backend in real_backends() {
        let executor = Executor::with_backend(backend).unwrap();
        let (event, reply) = (Arc::new(eventfd().unwrap()), mpsc::channel());
        let sender = Arc::clone(&event);
        // Each signal waits for the answer to the one before: a lost one hangs the test.
        let signaller = thread::spawn(move || {
            for () in reply.1 {
                signal(&sender);
            }
        });
        executor.run(async {
            let receiver = EventReceiver::new(event);
            for _ in 0..500 {
                reply.0.send(()).unwrap();
                receiver.recv().await.unwrap();
            }
        });
        drop(reply.0);
        signaller.join().unwrap();
    }
}

#[test]
fn event_before_and_between_waits_is_not_lost() {
    for backend in real_backends() {
        let executor = Executor::with_backend(backend).unwrap();
        let events = [0; 40].map(|_| Arc::new(eventfd().unwrap()));
        executor.run(async {
            signal(&events[7]);
            let receivers = events
                .each_ref()
                .map(|event| EventReceiver::new(Arc::clone(event)));
            receivers[7].recv().await.unwrap();
            signal(&events[8]);
            receivers[8].recv().await.unwrap();
            // Two signals that nobody waited for count as one, not as none.
            signal(&events[9]);
            signal(&events[9]);
            receivers[9].recv().await.unwrap();
            drop(receivers);
            // The event can be watched again.
            signal(&events[9]);
            EventReceiver::new(Arc::clone(&events[9]))
                .recv()
                .await
                .unwrap();
        });
        drop(executor);
        assert!(events.iter().all(|event| Arc::strong_count(event) == 1));
    }
}

/// More signals at once than the completion ring holds, at which the kernel may end some of the polls.
#[test]
fn flood_of_events_reaches_all_again_and_again() {
    let Ok(executor) = Executor::with_backend(Backend::IoUring) else {
        println!("no io_uring here");
        return;
    };
    let event = Arc::new(eventfd().unwrap());
    executor.run(async {
        let watch = |_| EventReceiver::new(Arc::clone(&event));
        let receivers: Vec<_> = (0..3000).map(watch).collect();
        for _ in 0..3 {
            yield_now().await;
            signal(&event);
            for receiver in &receivers {
                receiver.recv().await.unwrap();
            }
        }
    });
}
