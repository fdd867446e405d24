//! Nameless network namespaces, and the commands that look into them.

use std::{
    fs::File,
    future::Future,
    io,
    os::fd::AsRawFd as _,
    process::{Command, Output},
    thread,
};

use overlay_agent::dataplane::desired::NetnsRef;
use serde_json::Value;

/// A network namespace that ends with this.
pub struct Namespace(File);

impl Namespace {
    pub fn new() -> Self {
        let opened = thread::spawn(|| {
            unshare_network();
            File::open("/proc/thread-self/ns/net").expect("open the new namespace")
        });
        Self(opened.join().expect("make a network namespace"))
    }

    pub fn reference(&self) -> NetnsRef {
        NetnsRef::Path(self.path().into())
    }

    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs a command inside; panics if it fails.
    pub fn command(&self, line: &str) -> String {
        command(&format!("nsenter --net={} {line}", self.path()))
    }

    pub fn json(&self, line: &str) -> Value {
        parse(&self.command(line))
    }
}

/// Runs a test in a namespace of its own, in which only a loopback device is, down.
pub fn inside<F, Fut>(test: F)
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let done = thread::spawn(|| {
        unshare_network();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("build a runtime")
            .block_on(test());
    });
    if let Err(panic) = done.join() {
        std::panic::resume_unwind(panic);
    }
}

fn unshare_network() {
    // SAFETY: it changes the namespace of this thread alone and touches no memory.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(
        done,
        0,
        "these tests need root: unshare: {}",
        io::Error::last_os_error()
    );
}

/// Runs a command, words separated by blanks, in the calling thread's namespace; panics if it fails.
pub fn command(line: &str) -> String {
    let output = attempt(line);
    assert!(
        output.status.success(),
        "`{line}` ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

pub fn attempt(line: &str) -> Output {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("cannot run `{line}`: {error}"))
}

pub fn json(line: &str) -> Value {
    parse(&command(line))
}

/// Whether a device of `ip -j link` is up and has a carrier. Its `operstate` follows later, from a work
/// queue (net/core/link_watch.c).
pub fn is_up(device: &Value) -> bool {
    let flags = device["flags"].as_array().expect("flags");
    flags.iter().any(|flag| flag == "UP") && flags.iter().any(|flag| flag == "LOWER_UP")
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}
