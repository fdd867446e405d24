//! Test binaries in VMs, several guests at a time: each is emulated by one processor.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::binaries::Binary;
use super::outcome::{Log, Outcome};
use super::places::counts;
use super::{PREVIOUS, Run};
use crate::say;
use crate::vm::{self, Guest, Job, Kernel, Stream};

/// How long nothing may be printed while tests run.
const SILENCE: Duration = Duration::from_secs(20);

/// How long a guest may print nothing: no single test takes as long.
const QUIET: Duration = Duration::from_secs(900);

/// A binary and the kernel that it runs on.
pub type Task<'a> = (Kernel, &'a Binary);

/// Runs all of them; the outcomes are in the order of `tasks`, whichever is done first.
///
/// The output of a single guest is shown as it comes; that of several is shown when a binary is
/// done, with a line about those still running in between.
pub fn run(run: &Run<'_>, tasks: &[Task<'_>]) -> Vec<Outcome> {
    let kernels: Vec<Kernel> = tasks
        .iter()
        .map(|(kernel, _)| *kernel)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let guests = kernels
        .len()
        .min(thread::available_parallelism().map_or(1, usize::from));
    let left = Mutex::new((0..tasks.len()).collect::<Vec<_>>());
    let (sender, events) = mpsc::channel();
    thread::scope(|scope| {
        for &kernel in kernels.iter().take(guests) {
            let (sender, left) = (sender.clone(), &left);
            scope.spawn(move || work(run, tasks, kernel, left, &sender));
        }
        drop(sender);
        let mut board = Board {
            tasks,
            live: guests <= 1,
            running: Vec::new(),
            outcomes: tasks.iter().map(|_| None).collect(),
        };
        loop {
            match events.recv_timeout(SILENCE) {
                Ok((task, event)) => board.take(task, event),
                Err(RecvTimeoutError::Timeout) => board.progress(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        board.outcomes.into_iter().flatten().collect()
    })
}

/// What a worker tells of a task.
enum Event {
    Begun,
    Output(Stream, Vec<u8>),
    /// The guest failed, and a new one begins it anew.
    Again(String),
    Ended(Result<i32>),
}

/// Runs tasks until none is left, those of its guest's kernel first. After a guest died the next
/// task gets a new one.
fn work(
    run: &Run<'_>,
    tasks: &[Task<'_>],
    mut kernel: Kernel,
    left: &Mutex<Vec<usize>>,
    events: &Sender<(usize, Event)>,
) {
    // Whoever receives outlives the workers.
    let tell = |task, event| drop(events.send((task, event)));
    let mut guest: Option<Guest> = None;
    let mut counting = false;
    loop {
        let next = take(
            &mut left.lock().unwrap_or_else(PoisonError::into_inner),
            tasks,
            kernel,
        );
        let Some(task) = next else { return };
        let (wanted, binary) = tasks[task];
        let icount = counts(&binary.name);
        if (wanted, icount) != (kernel, counting) {
            guest = None;
            (kernel, counting) = (wanted, icount);
        }
        tell(task, Event::Begun);
        let mut attempt = || {
            let running = match &mut guest {
                Some(guest) => guest,
                None => {
                    let options = vm::Options {
                        icount,
                        ..vm::Options::new(kernel)
                    };
                    guest.insert(Guest::boot(run.workspace, &options)?)
                }
            };
            let result = running.run(&job(run, binary), &mut |stream, bytes| {
                tell(task, Event::Output(stream, bytes.to_vec()));
            });
            if result.is_err() {
                guest = None;
            }
            result
        };
        // Emulated guests die or hang now and then, whatever runs in them; a test that fails does neither.
        let result = attempt().or_else(|error| {
            tell(task, Event::Again(format!("{error:#}")));
            attempt()
        });
        tell(task, Event::Ended(result));
    }
}

/// The next task for a worker whose guest runs this kernel: of the same kernel the first, else the
/// last one, which would be waited for longest.
fn take(left: &mut Vec<usize>, tasks: &[Task<'_>], kernel: Kernel) -> Option<usize> {
    match left.iter().position(|&task| tasks[task].0 == kernel) {
        Some(at) => Some(left.remove(at)),
        None => left.pop(),
    }
}

fn job(run: &Run<'_>, binary: &Binary) -> Job {
    let words = std::iter::once(binary.path.to_string_lossy().into_owned())
        .chain(run.arguments.iter().cloned());
    let job = Job::new(words);
    let job = if counts(&binary.name) {
        job.env("OVERLAY_COUNTED", "1")
    } else {
        job
    };
    let job = match run.previous {
        Some(previous) => job.env(PREVIOUS, previous),
        None => job,
    };
    job.directory(&binary.directory)
        .env("CARGO_MANIFEST_DIR", &binary.directory)
        .env("OVERLAY_BIN", run.overlay)
        .env("OVERLAY_LOG_OBJECT", run.workspace.log_object())
        .env("RUST_BACKTRACE", "1")
        .timeout(run.timeout)
        .silence(QUIET)
}

/// What all guests do, as the user sees it.
struct Board<'a> {
    tasks: &'a [Task<'a>],
    /// Whether output is shown as it comes.
    live: bool,
    running: Vec<Running>,
    outcomes: Vec<Option<Outcome>>,
}

struct Running {
    task: usize,
    since: Instant,
    output: Vec<(Stream, Vec<u8>)>,
}

impl Running {
    /// Its standard output so far.
    fn text(&self) -> String {
        let out = self.output.iter().filter(|(s, _)| *s == Stream::Out);
        let bytes: Vec<u8> = out.flat_map(|(_, bytes)| bytes).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Board<'_> {
    fn take(&mut self, task: usize, event: Event) {
        let at = self.running.iter().position(|r| r.task == task);
        match (event, at) {
            (Event::Begun, _) => {
                if self.live {
                    self.header(task);
                }
                self.running.push(Running {
                    task,
                    since: Instant::now(),
                    output: Vec::new(),
                });
            }
            (Event::Output(stream, bytes), Some(at)) => {
                if self.live {
                    vm::to_our_output(stream, &bytes);
                }
                self.running[at].output.push((stream, bytes));
            }
            (Event::Again(why), Some(at)) => {
                let (kernel, binary) = self.tasks[task];
                say::warn(format_args!(
                    "{} in the VM (Linux {kernel}): {why}\nOnce more, in a new guest",
                    binary.name
                ));
                self.running[at].output.clear();
            }
            (Event::Ended(result), Some(at)) => {
                let ended = self.running.remove(at);
                if !self.live {
                    self.show(&ended, &result);
                }
                let (kernel, binary) = self.tasks[task];
                self.outcomes[task] = Some(Outcome::of(
                    &binary.name,
                    &format!("VM, Linux {kernel}"),
                    &ended.text(),
                    result,
                    ended.since.elapsed(),
                ));
            }
            (Event::Output(..) | Event::Again(_) | Event::Ended(_), None) => {
                unreachable!("every task begins")
            }
        }
    }

    fn header(&self, task: usize) {
        let (kernel, binary) = self.tasks[task];
        say::step(format_args!("{} in the VM (Linux {kernel})", binary.name));
    }

    /// A whole binary's output in one piece.
    fn show(&self, ended: &Running, result: &Result<i32>) {
        // Guests that boot meanwhile speak of it on standard error.
        let _whole = std::io::stderr().lock();
        self.header(ended.task);
        for (stream, bytes) in &ended.output {
            vm::to_our_output(*stream, bytes);
        }
        if !ended.text().ends_with('\n') {
            vm::to_our_output(Stream::Out, b"\n");
        }
        if let Err(error) = result {
            say::warn(format_args!("{error:#}"));
        }
    }

    fn progress(&self) {
        if self.live {
            return;
        }
        let lines: Vec<String> = self
            .running
            .iter()
            .map(|running| {
                let (kernel, binary) = self.tasks[running.task];
                format!(
                    "[{kernel}] {} {}, {} s",
                    binary.name,
                    Log::parse(&running.text()).progress(),
                    running.since.elapsed().as_secs()
                )
            })
            .collect();
        let done = self.outcomes.iter().flatten().count();
        say::note(format_args!(
            "{done} of {} done; running {}",
            self.tasks.len(),
            lines.join("; ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::Kernel::{V6_1, V6_12};
    use super::*;

    fn binary(name: &str) -> Binary {
        Binary {
            name: name.to_owned(),
            path: name.into(),
            directory: "/".into(),
            unit_tests: false,
        }
    }

    #[test]
    fn a_worker_stays_with_its_kernel_and_then_helps_from_the_end() {
        let [a, b] = [binary("a"), binary("b")];
        let tasks = [(V6_1, &a), (V6_12, &a), (V6_12, &b)];
        let mut left = vec![0, 1, 2];
        let order: Vec<usize> = std::iter::from_fn(|| take(&mut left, &tasks, V6_1)).collect();
        assert_eq!(order, [0, 2, 1]);
    }

    #[test]
    fn outcomes_are_in_the_order_of_the_plan_and_name_what_was_running() {
        let [a, b] = [binary("a"), binary("b")];
        let tasks = [(V6_1, &a), (V6_12, &b)];
        let mut board = Board {
            tasks: &tasks,
            live: false,
            running: Vec::new(),
            outcomes: vec![None, None],
        };
        board.take(0, Event::Begun);
        board.take(1, Event::Begun);
        let out = |text: &str| Event::Output(Stream::Out, text.into());
        board.take(0, out("running 2 tests\ntest slow ... "));
        board.take(1, out("test result: ok. 1 passed; 0 failed; 0 ignored\n"));
        board.take(1, Event::Ended(Ok(0)));
        board.take(0, Event::Ended(Err(anyhow::anyhow!("the guest died"))));
        let outcomes: Vec<Outcome> = board.outcomes.into_iter().flatten().collect();
        assert_eq!((&*outcomes[0].name, &*outcomes[1].name), ("a", "b"));
        assert!(outcomes[0].failures[0].contains("slow"), "{outcomes:?}");
        assert_eq!(outcomes[1].counts.passed, 1);
    }

    #[test]
    fn what_a_failed_guest_printed_does_not_count() {
        let a = binary("a");
        let tasks = [(V6_1, &a)];
        let mut board = Board {
            tasks: &tasks,
            live: false,
            running: Vec::new(),
            outcomes: vec![None],
        };
        let out = |text: &str| Event::Output(Stream::Out, text.into());
        board.take(0, Event::Begun);
        board.take(0, out("running 2 tests\ntest one ... ok\ntest slow ... "));
        board.take(0, Event::Again("the guest died".to_owned()));
        board.take(
            0,
            out("running 2 tests\ntest one ... ok\ntest slow ... ok\n"),
        );
        board.take(0, out("test result: ok. 2 passed; 0 failed; 0 ignored\n"));
        board.take(0, Event::Ended(Ok(0)));
        let outcome = board.outcomes[0].take().unwrap();
        assert_eq!((outcome.counts.passed, outcome.counts.failed), (2, 0));
        assert!(outcome.failures.is_empty(), "{outcome:?}");
    }
}
