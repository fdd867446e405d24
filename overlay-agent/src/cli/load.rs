use super::{Failure, Outcome};
use crate::{
    dataplane::{
        desired::MapSizes,
        objects::{Attachment, Program},
    },
    kernel::{
        bpf::Bpf,
        host::Directories,
        links::{self, LinkLayer},
        rtnl,
    },
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Interface that carries the underlay
    #[arg(long, value_name = "IF")]
    iface: String,
    /// Where the XDP program runs: in the driver, in the generic path, or not at all
    #[arg(long, value_enum, default_value_t = Mode::Native)]
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Native,
    Generic,
    Off,
}

pub async fn run(directories: &Directories, arguments: &Arguments) -> Result<Outcome, Failure> {
    let rtnl = rtnl::Handle::open()?;
    let device = links::get(&rtnl, &arguments.iface)
        .await
        .map_err(Failure::input)?;
    let programs = match device.link_layer {
        LinkLayer::Ethernet => vec![
            Some(Program::UnderlayAudit),
            Some(Program::UnderlayRx),
            match arguments.mode {
                Mode::Native => Some(Program::UnderlayRxXdpNative),
                Mode::Generic => Some(Program::UnderlayRxXdpGeneric),
                Mode::Off => None,
            },
        ],
        // Encrypted networks alone can use it: nothing comes in but by IPsec.
        LinkLayer::None => vec![Some(Program::UnderlayAuditL3)],
        LinkLayer::Other(kind) => {
            return Err(Failure::input(anyhow::anyhow!(
                "{} has a link-layer header of kind {kind}, which the programs cannot read: use an Ethernet or IP device",
                device.name
            )));
        }
    };
    let mut bpf = Bpf::load(&directories.pins, &MapSizes::default())?;
    let before = bpf.observe_attachments()?;
    for program in programs.into_iter().flatten() {
        let attachment = Attachment {
            program,
            device: arguments.iface.clone(),
        };
        if let Err(error) = bpf.attach(&attachment, device.index) {
            // Half of a data plane is none. One that was there before is another's to remove.
            if before.is_empty() {
                bpf.clear()?;
            }
            return Err(error.into());
        }
        println!("{program} on {}", arguments.iface);
    }
    println!("pinned below {}", directories.pins.display());
    Ok(Outcome::Good)
}
