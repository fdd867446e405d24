//! A booted guest that runs one command after the other.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use super::Options;
use super::accel::Accel;
use super::fstab;
use super::initramfs;
use super::job::Job;
use super::kernel;
use super::machine::{Machine, Parts, Port, socket_pair};
use super::share::Share;
use super::stream::{Piece, Scanner};
use crate::command::quote;
use crate::workspace::Workspace;
use crate::{say, setup};

/// How long a boot may take; emulated on a busy machine, it is a tenth of this.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// Held while a guest is prepared and QEMU started: what is fetched and cached is made once, and no
/// child of another guest inherits the sockets of this one, which would hide its death.
static STARTING: Mutex<()> = Mutex::new(());

/// One of the two outputs of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

/// A running guest; dropping it kills it.
#[derive(Debug)]
pub struct Guest {
    // Dropped before the shares, which end with it.
    machine: Machine,
    shares: Vec<Share>,
    commands: UnixStream,
    events: Receiver<(Stream, Event)>,
    directory: PathBuf,
    timeout: Duration,
}

#[derive(Debug)]
enum Event {
    Piece(Piece),
    Closed,
}

/// An output handler that passes everything on at once.
pub fn to_our_output(stream: Stream, bytes: &[u8]) {
    // A closed pipe is noticed by whoever closed it.
    let _ignored = match stream {
        Stream::Out => {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
        Stream::Err => std::io::stderr().lock().write_all(bytes),
    };
}

impl Guest {
    /// Fetches what is missing, boots, and mounts the shares.
    ///
    /// The guest is killed when the calling thread ends, so call it from one
    /// that lives as long as the guest.
    pub fn boot(workspace: &Workspace, options: &Options) -> Result<Self> {
        Self::boot_with(workspace, options, false)
    }

    /// With `terminal`, our terminal is the guest's `/dev/hvc0`.
    pub(super) fn boot_with(
        workspace: &Workspace,
        options: &Options,
        terminal: bool,
    ) -> Result<Self> {
        let starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        setup::ensure(workspace, setup::VM)?;
        if !setup::is_root() {
            bail!(
                "the test VM shares this machine's files by virtiofsd, which needs root: run \
                 this as root"
            );
        }
        let image = kernel::fetch(workspace, options.kernel)?;
        let cache = workspace.cache().join("vm");
        let initramfs = initramfs::ensure(&image, &cache)?;
        let accel = Accel::choose(options, &image, &initramfs, &cache)?;

        let mut shares = vec![
            Share::start("root", Path::new("/"), true)?,
            Share::start("target", &workspace.target, false)?,
        ];
        for (number, path) in options.shares.iter().enumerate() {
            let path = path
                .canonicalize()
                .with_context(|| format!("share {}", path.display()))?;
            shares.push(Share::start(&format!("share{number}"), &path, false)?);
        }

        say::step(format_args!(
            "booting Linux {} ({}, {})",
            image.release,
            if options.icount {
                "1 CPU counting instructions".to_owned()
            } else {
                format!("{} CPUs", options.cpus)
            },
            match accel {
                Accel::Kvm => "KVM",
                Accel::Tcg => "emulated",
            }
        ));
        let started = Instant::now();
        let marker = marker();
        let (sender, events) = mpsc::channel();
        let (commands, commands_guest) = socket_pair()?;
        let (out, out_guest) = socket_pair()?;
        let (err, err_guest) = socket_pair()?;
        forward(Stream::Out, out, &marker, sender.clone());
        forward(Stream::Err, err, &marker, sender);
        let ports = [
            ("commands", commands_guest),
            ("out", out_guest),
            ("err", err_guest),
        ]
        .map(|(name, guest_end)| Port { name, guest_end });
        let machine = Machine::start(
            options,
            &Parts {
                image: &image,
                initramfs: &initramfs,
                accel,
                kernel_arguments: &format!("xtask.marker={marker}"),
                shares: &shares,
                ports: &ports,
                terminal,
            },
        )?;
        // Our copies of the guest's ends would hide its end from us.
        drop(ports);
        drop(starting);
        let mut guest = Self {
            machine,
            shares,
            commands,
            events,
            directory: "/".into(),
            timeout: options.timeout,
        };
        guest
            .finish(BOOT_LIMIT, BOOT_LIMIT, &mut to_our_output)
            .context("boot the test VM")?;
        guest.mount(workspace, &image)?;
        guest.directory = workspace.root.clone();
        say::note(format_args!(
            "Linux {} is up after {:.1} s",
            image.release,
            started.elapsed().as_secs_f32()
        ));
        Ok(guest)
    }

    /// Runs a command; `output` gets what it writes, as it comes. Returns its
    /// exit status as a shell has it (128 + signal).
    pub fn run(&mut self, job: &Job, output: &mut dyn FnMut(Stream, &[u8])) -> Result<i32> {
        let mut line = job.shell(&self.directory);
        line.push('\n');
        self.commands
            .write_all(line.as_bytes())
            .with_context(|| format!("send `{}` to the guest", job.line))?;
        let limit = job.timeout.unwrap_or(self.timeout);
        self.finish(limit, job.silence.unwrap_or(limit), output)
            .with_context(|| format!("run `{}` in the test VM", job.line))
    }

    /// Runs a command that must succeed, and returns its standard output.
    pub fn capture(&mut self, job: &Job) -> Result<String> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = self.run(job, &mut |stream, bytes| match stream {
            Stream::Out => out.extend_from_slice(bytes),
            Stream::Err => err.extend_from_slice(bytes),
        })?;
        if status != 0 {
            bail!(
                "`{}` ended with status {status} in the test VM: {}",
                job.line,
                String::from_utf8_lossy(&err).trim()
            );
        }
        String::from_utf8(out)
            .with_context(|| format!("read the output of `{}` as UTF-8", job.line))
    }

    /// Paths in the guest are as here: the sources read-only, the target
    /// directory and the shares writable.
    fn mount(&mut self, workspace: &Workspace, image: &kernel::Image) -> Result<()> {
        let bind = |from: &Path, to: &Path| {
            let from = Path::new("/run/host").join(from.strip_prefix("/").unwrap_or(from));
            let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
            let (from, to) = (fstab::field(&from), fstab::field(&to));
            format!("{from} {to} none bind,ro,X-mount.mkdir 0 0\n")
        };
        let modules = Path::new("/lib/modules").join(&image.release);
        let mut table = bind(&image.modules, &modules);
        table.push_str(&bind(&workspace.root, &workspace.root));
        for Share { tag, path, .. } in self.shares.iter().skip(1) {
            let path = fstab::field(&path.to_string_lossy());
            table.push_str(&format!("{tag} {path} virtiofs X-mount.mkdir 0 0\n"));
        }
        let line = format!(
            "ip link set lo up; printf %s {} > /run/shares && mount -a -T /run/shares",
            quote(&table)
        );
        self.capture(&Job::line(line))
            .map(drop)
            .context("mount the workspace in the test VM")
    }

    /// Waits for the marker in both outputs.
    fn finish(
        &mut self,
        limit: Duration,
        silence: Duration,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<i32> {
        let deadline = Instant::now() + limit;
        let mut open = 2;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left.min(silence)) {
                Ok((stream, Event::Piece(Piece::Data(bytes)))) => output(stream, &bytes),
                Ok((_, Event::Piece(Piece::End(status)))) => {
                    open -= 1;
                    if open == 0 {
                        return Ok(status);
                    }
                }
                Ok((_, Event::Closed)) | Err(RecvTimeoutError::Disconnected) => {
                    bail!("the guest died: {}", self.last_words())
                }
                Err(RecvTimeoutError::Timeout) if silence < left => bail!(
                    "silent for {} s, the guest was killed: {}",
                    silence.as_secs(),
                    self.last_words()
                ),
                Err(RecvTimeoutError::Timeout) => bail!(
                    "not done after {} s, the guest was killed: {}",
                    limit.as_secs(),
                    self.last_words()
                ),
            }
        }
    }

    fn last_words(&mut self) -> String {
        let console = self.machine.last_words();
        let mut words: Vec<String> = self.shares.iter_mut().filter_map(Share::failure).collect();
        if !console.is_empty() {
            words.push(format!("last lines of its console:\n{console}"));
        }
        if words.is_empty() {
            return "its console says nothing".to_owned();
        }
        words.join("\n")
    }
}

/// Passes what comes from one output of the guest on, taken apart.
fn forward(stream: Stream, mut from: UnixStream, marker: &str, to: Sender<(Stream, Event)>) {
    let mut scanner = Scanner::new(marker);
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        loop {
            match from.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    for piece in scanner.feed(&buffer[..length]) {
                        if to.send((stream, Event::Piece(piece))).is_err() {
                            return;
                        }
                    }
                }
            }
        }
        // The guest may have been dropped meanwhile.
        let _ignored = to.send((stream, Event::Closed));
    });
}

/// A word that no command's output contains by accident.
fn marker() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    format!("{now:x}{:x}", std::process::id())
}
