//! The reference pages under `docs/` say what the code says.
//!
//! `docs/drop-reasons.md` is written by this test: `UPDATE_DOCS=1 cargo test -p overlay-ebpf --test docs`.

use std::{fmt::Write as _, fs, path::PathBuf};

use overlay_ebpf::abi::{self, Direction, DropReason};

fn docs(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name)
}

fn drop_reasons() -> String {
    let mut page = String::from(
        "# Drop reasons\n\n\
         Every packet that the programs drop is counted in the map `drops` under a reason and the \
         place in its path. The numbers are shared by kernel and user space and never change \
         their meaning. `overlay dataplane show` and `bpftool map dump` print them by name. \
         (This page is written from the code by `overlay-ebpf/tests/docs.rs`.)\n\n\
         | number | reason | in a few words | what happened |\n|---|---|---|---|\n",
    );
    for reason in DropReason::ALL {
        writeln!(
            page,
            "| {} | `{}` | {} | {} |",
            *reason as u32,
            reason.name(),
            reason.text(),
            reason.explanation().trim()
        )
        .unwrap();
    }
    page.push_str("\n| number | direction |\n|---|---|\n");
    for direction in Direction::ALL {
        writeln!(page, "| {} | `{}` |", *direction as u32, direction.name()).unwrap();
    }
    page
}

#[test]
fn drop_reasons_page_is_current() {
    let path = docs("drop-reasons.md");
    let expected = drop_reasons();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found, expected,
        "run UPDATE_DOCS=1 cargo test -p overlay-ebpf --test docs"
    );
}

#[test]
fn abi_page_names_every_map_and_the_version() {
    let page = fs::read_to_string(docs("abi.md")).unwrap();
    for name in abi::map::ALL {
        assert!(
            page.contains(&format!("`{name}`")),
            "docs/abi.md does not name the map {name}"
        );
    }
    assert!(page.contains(&format!("ABI version {}", abi::ABI_VERSION)));
}

#[test]
fn abi_page_gives_the_sizes_of_keys_and_values() {
    let page = fs::read_to_string(docs("abi.md")).unwrap();
    for (map, key, value) in [
        ("config", 4, size_of::<abi::Config>()),
        (
            "local_ports",
            size_of::<abi::LocalPortKey>(),
            size_of::<abi::LocalPort>(),
        ),
        (
            "networks",
            size_of::<abi::NetworkKey>(),
            size_of::<abi::Network>(),
        ),
        (
            "addresses",
            size_of::<abi::AddressKey>(),
            size_of::<abi::Address>(),
        ),
        (
            "endpoints",
            size_of::<abi::EndpointKey>(),
            size_of::<abi::Endpoint>(),
        ),
        ("peers", size_of::<abi::PeerKey>(), size_of::<abi::Peer>()),
        (
            "flood_lists",
            size_of::<abi::FloodKey>(),
            size_of::<abi::FloodTarget>(),
        ),
        (
            "sas",
            size_of::<abi::SecurityAssociationKey>(),
            size_of::<abi::SecurityAssociation>(),
        ),
        ("vteps", size_of::<abi::VtepKey>(), size_of::<abi::Vtep>()),
        (
            "memberships",
            size_of::<abi::MembershipKey>(),
            size_of::<abi::Membership>(),
        ),
        (
            "drops",
            size_of::<abi::CounterKey>(),
            size_of::<abi::PacketCount>(),
        ),
        (
            "peer_stats",
            size_of::<abi::PeerKey>(),
            size_of::<abi::PeerStats>(),
        ),
    ] {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{map}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/abi.md has no row for {map}"));
        assert!(
            row.contains(&format!("| {key} → {value} |")),
            "{row}: sizes are {key} → {value}"
        );
    }
}
