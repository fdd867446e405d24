//! What this kernel can do: found by trying, on what the host does not see.

use std::{future::Future, io, net::IpAddr, path::Path, process::Command, thread};

use overlay_ebpf::abi::{Lane, PeerIndex, Slot, Spi};
use tokio::sync::OnceCell;

use super::{bpf, links, redirect_peer, rtnl, xfrm};
use crate::{
    dataplane::{
        compile::REPLAY_WINDOW,
        desired::{Keying, Settings},
        objects::{Features, Link, State, StateKey, StateMode, XFRM},
    },
    secret::KeyMaterial,
};

/// Tries everything. What cannot be tried is taken for missing; logs say why.
pub async fn probe(settings: &Settings) -> Features {
    let tcx = bpf::supports_tcx().unwrap_or_else(|error| {
        tracing::debug!(%error, "TCX");
        false
    });
    let decap_l3 = bpf::supports_decap_l3().unwrap_or_else(|error| {
        tracing::debug!(%error, "BPF_F_ADJ_ROOM_DECAP_L3");
        false
    });
    // A property of the kernel's code: seen once, it holds for the life of the process. A watch looks
    // again and again.
    static SCRUBS: OnceCell<bool> = OnceCell::const_new();
    let scrubs = SCRUBS.get_or_try_init(redirect_peer::scrubs).await.copied();
    let redirect_peer = scrubs.unwrap_or_else(|error| {
        tracing::debug!(%error, "bpf_redirect_peer");
        false
    });
    let ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    let esp = probe_ipsec(settings, ipv6).await;
    Features {
        tcx,
        decap_l3,
        redirect_peer,
        ipsec: esp.is_ok(),
        ipv6,
        force_forwarding: Path::new("/proc/sys/net/ipv6/conf/default/force_forwarding").exists(),
        nft: nft(),
    }
}

/// Whether the `nft` command runs and reaches the kernel.
pub fn nft() -> bool {
    Command::new("nft")
        .args(["list", "tables"])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Why this kernel cannot do IPsec as the overlay does it.
#[derive(Debug, thiserror::Error)]
pub enum IpsecError {
    #[error("cannot make a network namespace to try IPsec in: {0}")]
    Namespace(io::Error),
    #[error("SA over {family}: {source}")]
    State {
        family: &'static str,
        source: Box<xfrm::Error>,
    },
    #[error("xfrm interface: {0}")]
    Interface(Box<links::Error>),
    #[error("{0}")]
    Netlink(#[from] rtnl::Error),
    #[error("random bytes: {0}")]
    Random(getrandom::Error),
}

/// Installs an inbound and an outbound SA for each family and an xfrm interface, in a network
/// namespace that ends with the attempt. Nothing less shows that ESP works: a kernel without it takes
/// every other request.
pub async fn probe_ipsec(settings: &Settings, ipv6: bool) -> Result<(), IpsecError> {
    let ownership = xfrm::Ownership::of(settings);
    let settings = settings.clone();
    on_thread(async move || {
        unshare_network().map_err(IpsecError::Namespace)?;
        try_ipsec(ownership, &settings, ipv6).await
    })
    .await
    .map_err(IpsecError::Namespace)?
}

/// Does something on a thread and a tokio runtime of its own, which end with it: it may leave the
/// thread in another network namespace.
pub(super) async fn on_thread<T, F>(work: impl FnOnce() -> F + Send + 'static) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let (sender, receiver) = tokio::sync::oneshot::channel();
    thread::Builder::new().name("probe".into()).spawn(move || {
        let result = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map(|runtime| runtime.block_on(work()));
        // The caller may have given up waiting.
        let _ = sender.send(result);
    })?;
    receiver
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the attempt ended without a result")))
}

/// Moves the calling thread into a network namespace of its own.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: the flag concerns the calling thread alone and shares no memory or descriptors anew.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

async fn try_ipsec(
    ownership: xfrm::Ownership,
    settings: &Settings,
    ipv6: bool,
) -> Result<(), IpsecError> {
    // Addresses for documentation (RFC 5737, RFC 3849): the namespace has no device to send on.
    let families: [(&str, IpAddr, IpAddr); 2] = [
        ("IPv4", [192, 0, 2, 1].into(), [192, 0, 2, 2].into()),
        (
            "IPv6",
            [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
            [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into(),
        ),
    ];
    let state_error = |family| {
        move |source| IpsecError::State {
            family,
            source: Box::new(source),
        }
    };
    for (family, a, b) in families.into_iter().take(if ipv6 { 2 } else { 1 }) {
        let xfrm = xfrm::Handle::open(ownership).map_err(state_error(family))?;
        for (source, destination, mode) in [
            (a, b, StateMode::Transport),
            (
                b,
                a,
                StateMode::Beet {
                    if_id: settings.if_id,
                },
            ),
        ] {
            let (Ok(peer), Ok(lane)) = (PeerIndex::new(1), Lane::new(0)) else {
                unreachable!("constants in range");
            };
            let key = StateKey {
                source,
                destination,
                spi: Spi::of(peer, Slot::new(0), lane),
            };
            let mut material = [0; KeyMaterial::LEN];
            getrandom::fill(&mut material).map_err(IpsecError::Random)?;
            let state = State {
                mode,
                reqid: settings.reqid,
                replay_window: REPLAY_WINDOW,
                hard_byte_limit: settings.hard_byte_limit,
                encap: None,
                keying: Keying::Keyed(KeyMaterial::new(material)),
            };
            xfrm.add_state(key, &state)
                .await
                .map_err(state_error(family))?;
            xfrm.delete_state(key).await.map_err(state_error(family))?;
        }
    }
    let rtnl = rtnl::Handle::open()?;
    let link = Link::Xfrm {
        if_id: settings.if_id,
        mtu: 1500,
    };
    links::create(&rtnl, XFRM, &link)
        .await
        .map_err(|error| IpsecError::Interface(Box::new(error)))
}
