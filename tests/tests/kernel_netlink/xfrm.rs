//! XFRM states and policies. A kernel without ESP takes policies and larval states only; what it
//! then cannot be asked is printed.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use overlay_agent::{
    dataplane::{
        desired::{Keying, Settings},
        objects::{Policy, PolicyAction, PolicyKey, State, StateKey, StateMode},
    },
    kernel::xfrm::{self, Error, Handle, Ownership, Severity},
    secret::KeyMaterial,
};
use overlay_ebpf::abi::Spi;

use crate::namespace::{attempt, command, inside};

const KEY: u8 = 0xa7;
const REQID: u32 = 0x6f766c;

fn ours() -> Ownership {
    Ownership::of(&Settings::default())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn families() -> [(IpAddr, IpAddr); 2] {
    [
        (ip("10.0.0.1"), ip("10.0.0.2")),
        (ip("2001:db8::1"), ip("2001:db8::2")),
    ]
}

fn state_key((source, destination): (IpAddr, IpAddr), spi: u32) -> StateKey {
    StateKey {
        source,
        destination,
        spi: Spi::new(spi).unwrap(),
    }
}

fn state(mode: StateMode) -> State {
    State {
        mode,
        reqid: REQID,
        replay_window: 1024,
        hard_byte_limit: Some(1 << 46),
        encap: None,
        keying: Keying::Keyed(KeyMaterial::new([KEY; KeyMaterial::LEN])),
    }
}

fn adopted(state: &State) -> State {
    State {
        keying: Keying::Adopted,
        ..state.clone()
    }
}

fn encrypt((source, destination): (IpAddr, IpAddr), spi: u32) -> (PolicyKey, Policy) {
    (
        PolicyKey {
            source,
            destination: Some(destination),
            udp_port: None,
            mark: 0x0100_0000 | spi & 0xfff,
            mark_mask: 0xff00_0fff,
        },
        Policy {
            priority: 1000,
            action: PolicyAction::Encrypt {
                spi: Spi::new(spi).unwrap(),
                reqid: REQID,
            },
        },
    )
}

fn block(source: IpAddr) -> (PolicyKey, Policy) {
    (
        PolicyKey {
            source,
            destination: None,
            udp_port: Some(4789),
            mark: 0,
            mark_mask: 0,
        },
        Policy {
            priority: ours().block_priority,
            action: PolicyAction::Block,
        },
    )
}

/// Whether this kernel takes ESP SAs; says so if not.
async fn esp(handle: &Handle) -> bool {
    let key = state_key((ip("192.0.2.1"), ip("192.0.2.2")), 0xfff);
    match handle.add_state(key, &state(StateMode::Transport)).await {
        Ok(()) => {
            handle.delete_state(key).await.unwrap();
            true
        }
        Err(error) => {
            let words = error.to_string();
            assert!(words.contains("the kernel lacks"), "{words}");
            assert!(!words.contains("a7a7"), "{words}");
            println!("no SAs on this kernel, so they are left to the VM: {words}");
            false
        }
    }
}

#[test]
fn policies_are_added_observed_and_deleted() {
    inside(|| async {
        let handle = Handle::open(ours()).unwrap();
        let mut wanted = BTreeMap::new();
        for pair in families() {
            wanted.extend([block(pair.0), encrypt(pair, 0x1001), encrypt(pair, 0x1002)]);
        }
        let list: Vec<_> = wanted.iter().map(|(key, policy)| (*key, *policy)).collect();
        for _ in 0..2 {
            for added in handle.add_policies(&list).await {
                added.unwrap();
            }
            assert_eq!(handle.observe_policies().await.unwrap(), wanted);
        }
        let shown = command("ip xfrm policy");
        assert_eq!(shown.matches("dir out action block").count(), 2, "{shown}");
        assert!(
            shown.contains("src 10.0.0.1/32 dst 0.0.0.0/0 proto udp dport 4789"),
            "{shown}"
        );
        assert!(
            shown.contains("src 2001:db8::1/128 dst ::/0 proto udp dport 4789"),
            "{shown}"
        );
        assert!(shown.contains("mark 0x1000001/0xff000fff"), "{shown}");
        assert!(
            shown.contains("proto esp spi 0x00001001 reqid 7304812 mode transport"),
            "{shown}"
        );
        assert!(handle.foreign(&[ip("10.0.0.1")]).await.unwrap().is_empty());

        let keys: Vec<_> = wanted.keys().copied().collect();
        for _ in 0..2 {
            for deleted in handle.delete_policies(&keys).await {
                deleted.unwrap();
            }
            assert!(handle.observe_policies().await.unwrap().is_empty());
        }
        assert_eq!(command("ip xfrm policy"), "");
    });
}

#[test]
fn policy_of_ours_is_replaced_and_one_of_others_refused() {
    inside(|| async {
        let handle = Handle::open(ours()).unwrap();
        let (key, old) = encrypt(families()[0], 0x1001);
        let (_, new) = encrypt(families()[0], 0x2001);
        handle.add_policy(key, old).await.unwrap();
        handle.add_policy(key, new).await.unwrap();
        assert_eq!(
            handle.observe_policies().await.unwrap(),
            [(key, new)].into()
        );
        handle.delete_policy(key).await.unwrap();

        command(
            "ip xfrm policy add src 10.0.0.1/32 dst 0.0.0.0/0 proto udp dport 4789 dir out priority 5 action block",
        );
        let (key, policy) = block(ip("10.0.0.1"));
        let refused = handle.add_policy(key, policy).await.unwrap_err();
        assert!(matches!(refused, Error::PolicyExists(_)), "{refused}");
        assert!(handle.observe_policies().await.unwrap().is_empty());
    });
}

#[test]
fn altered_policy_is_seen() {
    inside(|| async {
        let handle = Handle::open(ours()).unwrap();
        let (key, policy) = encrypt(families()[0], 0x1001);
        for template in [
            "tmpl src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1001 reqid 7304812 mode transport level use",
            "tmpl src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1001 reqid 7304812 mode tunnel",
            "tmpl src 10.0.0.1 dst 10.0.0.2 proto esp reqid 7304812 mode transport",
            "tmpl src 10.0.0.1 dst 10.0.0.3 proto esp spi 0x1001 reqid 7304812 mode transport",
        ] {
            handle.add_policy(key, policy).await.unwrap();
            command(&format!(
                "ip xfrm policy update src 10.0.0.1/32 dst 10.0.0.2/32 dir out mark 0x1000001 mask 0xff000fff priority 1000 {template}"
            ));
            let observed = handle.observe_policies().await.unwrap();
            assert_eq!(observed[&key].action, PolicyAction::Other, "{template}");
            handle.add_policy(key, policy).await.unwrap();
            assert_eq!(
                handle.observe_policies().await.unwrap()[&key],
                policy,
                "{template}"
            );
        }
    });
}

#[test]
fn foreign_policies_that_meet_our_traffic_are_named() {
    inside(|| async {
        let handle = Handle::open(ours()).unwrap();
        command(
            "ip xfrm policy add src 10.0.0.0/8 dst 0.0.0.0/0 dir out priority 100 action allow",
        );
        command(
            "ip xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir out priority 200 tmpl proto esp mode transport reqid 9",
        );
        command(
            "ip xfrm policy add src 172.16.0.0/12 dst 0.0.0.0/0 dir out priority 100 action allow",
        );
        command(
            "ip xfrm policy add src 10.0.0.0/8 dst 0.0.0.0/0 proto tcp dir out priority 100 action allow",
        );
        let found = handle.foreign(&[ip("10.0.0.1")]).await.unwrap();
        let severities: Vec<_> = found.iter().map(|foreign| foreign.severity).collect();
        assert_eq!(severities.len(), 2, "{found:?}");
        assert!(severities.contains(&Severity::Opens) && severities.contains(&Severity::Breaks));
        assert!(
            found
                .iter()
                .any(|foreign| foreign.to_string().contains("10.0.0.0/8"))
        );
        assert!(handle.observe_policies().await.unwrap().is_empty());
    });
}

#[test]
fn larval_state_is_not_observed_and_is_resolved_by_installing() {
    inside(|| async {
        let handle = Handle::open(ours()).unwrap();
        let key = state_key(families()[0], 0x1001);
        command(
            "ip xfrm state allocspi src 10.0.0.1 dst 10.0.0.2 proto esp reqid 7304812 mode transport min 0x1001 max 0x1001",
        );
        assert!(command("ip xfrm state").contains("0x00001001"));
        assert!(handle.observe_states().await.unwrap().is_empty());
        if !esp(&handle).await {
            return;
        }
        let wanted = state(StateMode::Transport);
        handle.add_state(key, &wanted).await.unwrap();
        assert_eq!(
            handle.observe_states().await.unwrap(),
            [(key, adopted(&wanted))].into()
        );
        assert_eq!(command("ip xfrm state").matches("proto esp spi").count(), 1);
    });
}

#[test]
fn states_are_added_observed_and_deleted() {
    inside(|| async {
        let handle = Handle::open(ours()).unwrap();
        if !esp(&handle).await {
            return;
        }
        let mut wanted = BTreeMap::new();
        for pair in families() {
            wanted.insert(state_key(pair, 0x1001), state(StateMode::Transport));
            let back = (pair.1, pair.0);
            let beet = StateMode::Beet { if_id: 0x6f766c };
            wanted.insert(state_key(back, 0x2001), state(beet));
            let mut unlimited = state(beet);
            unlimited.hard_byte_limit = None;
            unlimited.replay_window = 33;
            wanted.insert(state_key(back, 0x2002), unlimited);
        }
        let list: Vec<_> = wanted.iter().map(|(key, state)| (*key, state)).collect();
        let observed: BTreeMap<_, _> = wanted
            .iter()
            .map(|(key, state)| (*key, adopted(state)))
            .collect();
        for _ in 0..2 {
            for added in handle.add_states(&list).await {
                added.unwrap();
            }
            assert_eq!(handle.observe_states().await.unwrap(), observed);
        }
        let shown = command("ip -s xfrm state");
        assert!(shown.contains("aead rfc4106(gcm(aes)) 0xa7a7a7"), "{shown}");
        assert!(shown.contains("(288 bits) 128"), "{shown}");
        assert_eq!(shown.matches("replay_window 1024").count(), 4, "{shown}");
        assert_eq!(shown.matches("flag esn").count(), 6, "{shown}");
        assert!(
            shown.contains("sel src 10.0.0.2/32 dst 10.0.0.1/32"),
            "{shown}"
        );
        assert!(
            shown.contains("sel src 2001:db8::2/128 dst 2001:db8::1/128"),
            "{shown}"
        );
        assert_eq!(shown.matches("if_id 0x6f766c").count(), 4, "{shown}");
        assert!(
            shown.contains("limit: soft (INF)(bytes), hard 70368744177664(bytes)"),
            "{shown}"
        );

        let usage = handle.state_usage().await.unwrap();
        assert_eq!(usage.len(), 6);
        assert!(
            usage
                .values()
                .all(|usage| usage.packets == 0 && usage.installed_at > 0)
        );

        let keys: Vec<_> = wanted.keys().copied().collect();
        for _ in 0..2 {
            for deleted in handle.delete_states(&keys).await {
                deleted.unwrap();
            }
            assert!(handle.observe_states().await.unwrap().is_empty());
        }
        assert_eq!(command("ip xfrm state"), "");
    });
}

#[test]
fn existing_state_with_another_key_is_refused_without_telling_keys() {
    inside(|| async {
        let handle = Handle::open(ours()).unwrap();
        if !esp(&handle).await {
            return;
        }
        let key = state_key(families()[0], 0x1001);
        handle
            .add_state(key, &state(StateMode::Transport))
            .await
            .unwrap();
        let mut other = state(StateMode::Transport);
        other.keying = Keying::Keyed(KeyMaterial::new([0x5b; KeyMaterial::LEN]));
        let refused = handle.add_state(key, &other).await.unwrap_err();
        assert!(matches!(refused, Error::StateExists(_)));
        for words in [refused.to_string(), format!("{refused:?}")] {
            for secret in ["a7a7", "5b5b", "167", "91, 91"] {
                assert!(!words.contains(secret), "{words}");
            }
        }
        let unknown = handle.add_state(key, &adopted(&other)).await.unwrap_err();
        assert!(matches!(unknown, Error::KeyUnknown(_)));
        let shown = command("ip xfrm state");
        assert!(shown.contains("0xa7a7"), "the key was replaced");
    });
}

#[test]
fn altered_and_foreign_states_are_told_apart() {
    inside(|| async {
        let handle = Handle::open(ours()).unwrap();
        if !esp(&handle).await {
            return;
        }
        let key = "0x00000000000000000000000000000000000000000000000000000000000000000000000a";
        let aead = format!("aead rfc4106(gcm(aes)) {key} 128");
        for (spi, rest) in [
            // Without ESN, another mode, a mark, a 96-bit ICV.
            ("0x3001", format!("reqid 7304812 mode transport {aead}")),
            (
                "0x3002",
                format!("reqid 7304812 mode tunnel replay-window 1024 flag esn {aead}"),
            ),
            (
                "0x3003",
                format!("reqid 7304812 mode transport mark 1 replay-window 1024 flag esn {aead}"),
            ),
            (
                "0x3004",
                format!(
                    "reqid 7304812 mode transport replay-window 1024 flag esn aead rfc4106(gcm(aes)) {key} 96"
                ),
            ),
            (
                "0x3005",
                format!("reqid 5 mode transport if_id 0x6f766c {aead}"),
            ),
            ("0x3006", format!("reqid 5 mode transport {aead}")),
        ] {
            command(&format!(
                "ip xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi {spi} {rest}"
            ));
        }
        let observed = handle.observe_states().await.unwrap();
        assert_eq!(observed.len(), 4, "{observed:?}");
        assert!(
            observed
                .values()
                .all(|state| state.mode == StateMode::Other)
        );
        let foreign = handle.foreign(&[ip("10.0.0.1")]).await.unwrap();
        let severities: Vec<_> = foreign.iter().map(|foreign| foreign.severity).collect();
        assert_eq!(severities.len(), 2, "{foreign:?}");
        assert!(severities.contains(&Severity::Breaks));
    });
}

#[test]
fn thousands_of_states_are_installed_in_batches() {
    inside(|| async {
        let handle = Handle::open(ours()).unwrap();
        if !esp(&handle).await {
            return;
        }
        let wanted = state(StateMode::Transport);
        let keys: Vec<_> = (0..4000)
            .map(|n| state_key(families()[0], 0x10_0000 + n))
            .collect();
        let list: Vec<_> = keys.iter().map(|key| (*key, &wanted)).collect();
        let start = Instant::now();
        for added in handle.add_states(&list).await {
            added.unwrap();
        }
        let installed = start.elapsed();
        assert_eq!(handle.observe_states().await.unwrap().len(), keys.len());
        let observed = start.elapsed() - installed;
        for deleted in handle.delete_states(&keys).await {
            deleted.unwrap();
        }
        println!("4000 SAs: installed in {installed:?}, observed in {observed:?}");
        assert!(handle.observe_states().await.unwrap().is_empty());
    });
}

#[test]
fn one_refused_state_of_several_batches_is_named_and_leaves_the_others() {
    inside(|| async {
        let handle = Handle::open(ours()).unwrap();
        if !esp(&handle).await {
            return;
        }
        const REFUSED: usize = 100;
        const UNKNOWN: usize = 101;
        let wanted = state(StateMode::Transport);
        let keys: Vec<_> = (0..200)
            .map(|n| state_key(families()[0], 0x10_0000 + n))
            .collect();
        let mut other = wanted.clone();
        other.keying = Keying::Keyed(KeyMaterial::new([0x5b; KeyMaterial::LEN]));
        handle.add_state(keys[REFUSED], &other).await.unwrap();
        let mut list: Vec<_> = keys.iter().map(|key| (*key, &wanted)).collect();
        let unknown = adopted(&wanted);
        list[UNKNOWN].1 = &unknown;
        for (number, added) in handle.add_states(&list).await.into_iter().enumerate() {
            let key = keys[number];
            match (number, added) {
                (REFUSED, Err(Error::StateExists(named)))
                | (UNKNOWN, Err(Error::KeyUnknown(named))) => assert_eq!(named, key),
                (_, added) => added.unwrap(),
            }
        }
        assert_eq!(handle.observe_states().await.unwrap().len(), keys.len() - 1);
        for deleted in handle.delete_states(&keys).await {
            deleted.unwrap();
        }
        assert!(handle.observe_states().await.unwrap().is_empty());
    });
}

#[test]
fn one_refused_policy_of_a_batch_leaves_the_others() {
    inside(|| async {
        let handle = Handle::open(ours()).unwrap();
        let pair = families()[0];
        let good = encrypt(pair, 0x1001);
        let (mut bad_key, bad) = encrypt(pair, 0x1002);
        bad_key.destination = None;
        let results = handle
            .add_policies(&[good, (bad_key, bad), encrypt(pair, 0x1003)])
            .await;
        let succeeded: Vec<_> = results.iter().map(Result::is_ok).collect();
        assert_eq!(succeeded, [true, false, true]);
        assert_eq!(handle.observe_policies().await.unwrap().len(), 2);
    });
}

#[test]
fn error_counters_are_of_the_calling_threads_namespace() {
    inside(|| async {
        let counters = match xfrm::errors() {
            Ok(counters) => counters,
            Err(error) => {
                assert!(
                    !attempt("ls /proc/self/net/xfrm_stat").status.success(),
                    "{error}"
                );
                println!("this kernel has no XFRM statistics: {error}");
                return;
            }
        };
        assert_eq!(counters["XfrmOutPolBlock"], 0);
        let handle = Handle::open(ours()).unwrap();
        command("ip link set lo up");
        command("ip link add up0 type veth peer name up1");
        command("ip addr add 10.0.0.1/24 dev up0");
        command("ip link set up0 up");
        let (key, policy) = block(ip("10.0.0.1"));
        handle.add_policy(key, policy).await.unwrap();
        let socket = std::net::UdpSocket::bind("10.0.0.1:0").unwrap();
        assert!(socket.send_to(b"blocked", "10.0.0.2:4789").is_err());
        assert_eq!(xfrm::errors().unwrap()["XfrmOutPolBlock"], 1);
    });
}
