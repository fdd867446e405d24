//! The QEMU process: its command line, its channels, its end.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::io::{FdFlags, fcntl_setfd};

use super::Options;
use super::accel::Accel;
use super::kernel::Image;
use super::share::Share;

/// Lines of the console kept for the message of a guest's death.
const KEPT_LINES: usize = 60;

/// A running QEMU; dropping it kills the guest.
#[derive(Debug)]
pub struct Machine {
    qemu: Child,
    console: Console,
    readers: Vec<JoinHandle<()>>,
}

/// The last lines of the guest's console and of QEMU's own messages.
#[derive(Debug, Clone, Default)]
pub struct Console(Arc<Mutex<VecDeque<String>>>);

/// A virtio port of the guest, by name, and our end of it.
pub struct Port<'a> {
    pub name: &'a str,
    pub guest_end: UnixStream,
}

/// What QEMU is started with, besides the options.
pub struct Parts<'a> {
    pub image: &'a Image,
    pub initramfs: &'a Path,
    pub accel: Accel,
    /// Added to the kernel's command line.
    pub kernel_arguments: &'a str,
    pub shares: &'a [Share],
    pub ports: &'a [Port<'a>],
    /// Whether the guest gets our terminal as `hvc0`.
    pub terminal: bool,
}

impl Machine {
    /// Starts QEMU.
    pub fn start(options: &Options, parts: &Parts<'_>) -> Result<Self> {
        let (console_ours, console_guest) = socket_pair()?;
        let mut qemu = ends_with_us("qemu-system-x86_64");
        arguments(&mut qemu, options, parts, &console_guest);
        inherit(&console_guest)?;
        for port in parts.ports {
            inherit(&port.guest_end)?;
        }
        let terminal = |stdio: fn() -> Stdio| {
            if parts.terminal {
                Stdio::inherit()
            } else {
                stdio()
            }
        };
        let mut qemu = qemu
            .stdin(terminal(Stdio::null))
            .stdout(terminal(Stdio::null))
            .stderr(Stdio::piped())
            .spawn()
            .context("start qemu-system-x86_64")?;
        let console = Console::default();
        let mut readers = vec![console.follow(console_ours, options.console)];
        if let Some(stderr) = qemu.stderr.take() {
            readers.push(console.follow(stderr, options.console));
        }
        Ok(Self {
            qemu,
            console,
            readers,
        })
    }

    /// Waits for QEMU to end by itself.
    pub fn wait(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if matches!(self.qemu.try_wait(), Ok(Some(_))) {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// Ends QEMU and returns the last lines of the console.
    pub fn last_words(&mut self) -> String {
        self.end();
        self.console.text()
    }

    fn end(&mut self) {
        // It may have ended already.
        let _ignored = self.qemu.kill();
        let _ignored = self.qemu.wait();
        for reader in self.readers.drain(..) {
            let _ignored = reader.join();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

impl Console {
    /// All that is kept.
    pub fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect::<Vec<_>>().join("\n")
    }

    fn follow(&self, from: impl Read + Send + 'static, show: bool) -> JoinHandle<()> {
        let lines = Arc::clone(&self.0);
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = printable(&line);
                line.clear();
                if text.is_empty() {
                    continue;
                }
                if show {
                    eprintln!("[console] {text}");
                }
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == KEPT_LINES {
                    lines.pop_front();
                }
                lines.push_back(text);
            }
        })
    }
}

/// A console line without the firmware's escape sequences.
fn printable(line: &[u8]) -> String {
    let mut text = String::new();
    let line = String::from_utf8_lossy(line);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            // ESC c, or ESC [ … letter.
            if chars.next() == Some('[') {
                chars.by_ref().find(char::is_ascii_alphabetic);
            }
        } else if !c.is_control() || c == '\t' {
            text.push(c);
        }
    }
    text.trim_end().to_owned()
}

fn arguments(qemu: &mut Command, options: &Options, parts: &Parts<'_>, console: &UnixStream) {
    let memory = options.memory;
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-no-reboot", "-machine", "q35,memory-backend=ram"])
        // virtiofsd maps the guest's memory.
        .arg("-object")
        .arg(format!(
            "memory-backend-memfd,id=ram,size={memory}M,share=on"
        ))
        .args(["-m", &format!("{memory}M")])
        .args(parts.accel.arguments(options));
    qemu.arg("-kernel")
        .arg(&parts.image.vmlinuz)
        .arg("-initrd")
        .arg(parts.initramfs)
        .arg("-append")
        .arg(format!(
            // A kernel that is broken must not go on testing.
            "console=ttyS0 quiet panic=-1 oops=panic mitigations=off {}",
            parts.kernel_arguments
        ));
    qemu.arg("-chardev")
        .arg(format!("socket,id=console,fd={}", console.as_raw_fd()))
        .args(["-serial", "chardev:console", "-device", "virtio-serial-pci"]);
    for port in parts.ports {
        let (name, fd) = (port.name, port.guest_end.as_raw_fd());
        qemu.arg("-chardev")
            .arg(format!("socket,id={name},fd={fd}"))
            .arg("-device")
            .arg(format!("virtserialport,chardev={name},name=xtask.{name}"));
    }
    if parts.terminal {
        qemu.args(["-chardev", "stdio,id=terminal,signal=off"])
            .args(["-device", "virtconsole,chardev=terminal"]);
    }
    for Share { tag, socket, .. } in parts.shares {
        qemu.arg("-chardev")
            .arg(format!("socket,id={tag},path={socket},abstract=on"))
            .arg("-device")
            .arg(format!("vhost-user-fs-pci,chardev={tag},tag={tag}"));
    }
}

/// A command whose process is killed when xtask ends, in whatever way.
pub fn ends_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

/// Lets children have this descriptor, under the same number.
pub fn inherit(fd: &impl AsFd) -> Result<()> {
    fcntl_setfd(fd, FdFlags::empty()).context("clear close-on-exec of a socket for QEMU")
}

/// Two connected sockets.
pub fn socket_pair() -> Result<(UnixStream, UnixStream)> {
    UnixStream::pair().context("make a pair of sockets for QEMU")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmwares_escape_sequences_do_not_reach_the_user() {
        assert_eq!(
            printable(b"\x1bc\x1b[?7l\x1b[2JSeaBIOS (version 1)\r\n"),
            "SeaBIOS (version 1)"
        );
    }
}
