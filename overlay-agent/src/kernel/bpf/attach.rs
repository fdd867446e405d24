//! Putting programs on devices and taking them off.
//!
//! XDP and TCX are links, pinned as `links/PROGRAM-IFINDEX`: they outlive the agent and change
//! their program atomically. TC programs stand **first** in their chain. Last would see what others
//! make of a packet, but not see it at all if one of them answers `TC_ACT_OK`, which ends the chain:
//! a barrier that other software switches off by an ordinary verdict is none.

use std::{collections::BTreeSet, io, os::fd::AsFd as _};

use overlay_ebpf::abi::program;

use super::{
    Bpf, clsact,
    error::BpfError,
    hook::{self, Hook, XdpMode},
    pin_root,
    pinned::{PinnedLink, foreign_program, in_chain, open_link},
    sys,
};
use crate::dataplane::objects::Attachment;

/// How TC programs are attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TcHook {
    /// TCX where the kernel has it (6.6), else clsact.
    #[default]
    Auto,
    Tcx,
    Clsact,
}

impl Bpf {
    /// Puts a program on a device of the current network namespace, or its current version in the
    /// place of an older one. Does nothing if it is there.
    ///
    /// # Errors
    ///
    /// [`BpfError::ForeignXdp`] if the device runs another's XDP program; it is left alone.
    pub fn attach(&mut self, attachment: &Attachment, ifindex: u32) -> Result<(), BpfError> {
        match hook::hook(attachment.program) {
            Hook::Xdp(mode) => self.attach_xdp(attachment, ifindex, mode),
            hook if self.tcx => self.attach_tcx(attachment, ifindex, hook),
            _ => clsact::attach(
                &mut self.netlink()?,
                attachment.program,
                ifindex,
                &attachment.device,
                self.fd(hook::name(attachment.program))?,
            ),
        }
    }

    fn attach_tcx(
        &self,
        attachment: &Attachment,
        ifindex: u32,
        hook: Hook,
    ) -> Result<(), BpfError> {
        if let Some(link) = self.link(attachment, ifindex)? {
            if !in_chain(&link, hook)? {
                return Err(BpfError::OtherNamespace { pin: link.path });
            }
            return self.update(&link);
        }
        self.create(attachment, ifindex, hook)
    }

    fn attach_xdp(
        &self,
        attachment: &Attachment,
        ifindex: u32,
        mode: XdpMode,
    ) -> Result<(), BpfError> {
        let running = self.running_xdp(ifindex)?;
        if let Some(link) = self.link(attachment, ifindex)? {
            match running.iter().find(|(_, id)| *id == link.info.program) {
                None => return Err(BpfError::OtherNamespace { pin: link.path }),
                Some((found, _)) if *found == mode => return self.update(&link),
                // The kernel runs one mode at a time.
                Some(_) => remove(&link)?,
            }
        } else if let Some((mode, id)) = running.first() {
            return Err(BpfError::ForeignXdp {
                device: attachment.device.clone(),
                program: foreign_program(*id),
                mode: match mode {
                    XdpMode::Native => "native",
                    XdpMode::Generic => "generic",
                },
            });
        }
        self.create(attachment, ifindex, Hook::Xdp(mode))
    }

    /// The attachment's link, if there is one and its device still exists.
    fn link(&self, attachment: &Attachment, ifindex: u32) -> Result<Option<PinnedLink>, BpfError> {
        let name = hook::name(attachment.program);
        let path = self.pins.link(name, ifindex);
        match open_link(path, name)? {
            Some(link) if link.info.ifindex == ifindex => Ok(Some(link)),
            Some(link) => {
                remove(&link)?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn create(&self, attachment: &Attachment, ifindex: u32, hook: Hook) -> Result<(), BpfError> {
        let name = hook::name(attachment.program);
        let link =
            sys::link_create(self.fd(name)?, ifindex, hook).map_err(|source| BpfError::Attach {
                attempt: "attach",
                program: name,
                device: attachment.device.clone(),
                ifindex,
                hook: hook.name(),
                hint: hint(hook, &source),
                source,
            })?;
        // Until it is pinned the link ends with its descriptor: a failure here leaves nothing.
        let path = self.pins.link(name, ifindex);
        sys::object_pin(link.as_fd(), &path).map_err(BpfError::pin("pin the link at", path))
    }

    /// Gives a link the current version of its program.
    fn update(&self, link: &PinnedLink) -> Result<(), BpfError> {
        if link.info.program == self.id(link.program)? {
            return Ok(());
        }
        sys::link_update(link.fd.as_fd(), self.fd(link.program)?).map_err(BpfError::pin(
            "replace the program of the link at",
            &link.path,
        ))
    }

    /// Modes and ids of the XDP programs on a device.
    fn running_xdp(&self, ifindex: u32) -> Result<Vec<(XdpMode, u32)>, BpfError> {
        let device = self
            .netlink()?
            .device(ifindex)
            .map_err(BpfError::netlink(format!(
                "look at the device with ifindex {ifindex}"
            )))?;
        Ok(device.map(|device| device.xdp).unwrap_or_default())
    }

    /// Takes a program off a device; it may be off already, and the device gone.
    pub fn detach(&mut self, attachment: &Attachment, ifindex: u32) -> Result<(), BpfError> {
        let link = self.link(attachment, ifindex)?;
        match hook::hook(attachment.program) {
            Hook::Xdp(mode) => match link {
                // Attaching in another mode took this one off.
                Some(link)
                    if self
                        .running_xdp(ifindex)?
                        .contains(&(mode, link.info.program)) =>
                {
                    remove(&link)
                }
                _ => Ok(()),
            },
            _ => {
                if let Some(link) = link {
                    remove(&link)?;
                }
                clsact::detach(
                    &mut self.netlink()?,
                    attachment.program,
                    ifindex,
                    &attachment.device,
                )
            }
        }
    }

    /// As [`super::Pinned::observe_attachments`]; and removes the pins of links whose devices are
    /// gone.
    pub fn observe_attachments(&mut self) -> Result<BTreeSet<Attachment>, BpfError> {
        self.remove_vanished()?;
        self.pinned.observe_attachments()
    }

    /// Removes the pins of links whose devices are gone.
    fn remove_vanished(&self) -> Result<(), BpfError> {
        for link in self.links()? {
            if link.info.ifindex == 0 {
                pin_root::unpin(&link.path)?;
            }
        }
        Ok(())
    }

    /// Gives everything that an earlier agent attached the current programs. Each change is atomic:
    /// a packet meets the old version or the new one.
    pub(super) fn take_over(&self) -> Result<(), BpfError> {
        for link in self.links()? {
            match self.update(&link) {
                _ if link.info.ifindex == 0 => pin_root::unpin(&link.path)?,
                Err(BpfError::Pin { source, .. })
                    if source.raw_os_error() == Some(libc::ENOLINK) =>
                {
                    pin_root::unpin(&link.path)?;
                }
                result => result?,
            }
        }
        let mut netlink = self.netlink()?;
        for attached in clsact::list(&mut netlink)? {
            let name = hook::name(attached.program);
            if attached.filter.program != self.id(name)? {
                let device = format!("ifindex {}", attached.ifindex);
                clsact::attach(
                    &mut netlink,
                    attached.program,
                    attached.ifindex,
                    &device,
                    self.fd(name)?,
                )?;
            }
        }
        Ok(())
    }
}

/// Detaches a link, even if another process holds it, and removes its pin.
pub(super) fn remove(link: &PinnedLink) -> Result<(), BpfError> {
    match sys::link_detach(link.fd.as_fd()) {
        // Its device is gone.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
        result => result.map_err(BpfError::pin("detach the link at", &link.path))?,
    }
    pin_root::unpin(&link.path)
}

/// The order in which links go: what sends first, the last barrier last.
pub(super) fn removal_order(name: &str) -> usize {
    if [program::UNDERLAY_AUDIT, program::UNDERLAY_AUDIT_L3].contains(&name) {
        return hook::PROGRAMS.len();
    }
    hook::PROGRAMS
        .iter()
        .position(|known| *known == name)
        .unwrap_or(0)
}

fn hint(hook: Hook, error: &io::Error) -> Option<&'static str> {
    match (hook, error.raw_os_error()?) {
        (Hook::Xdp(XdpMode::Native), libc::EOPNOTSUPP | libc::EINVAL) => Some(
            "the driver refuses native XDP here (it may depend on MTU and channels): use the mode \
             `generic` or `off` (`xdp` in settings, `--mode` of load)",
        ),
        (_, libc::ENODEV) => Some("the device is gone"),
        _ => None,
    }
}
