use proptest::prelude::*;

use super::*;
use crate::dataplane::{testing, validate};

const EXAMPLE: &str = include_str!("../../../../docs/examples/node-1.toml");

#[test]
fn example_of_the_documentation_is_valid() {
    let file = File::parse(EXAMPLE, Format::Toml).unwrap();
    let keys: Vec<KeyEntry> = (0..2)
        .flat_map(|lane| {
            [(1, 2), (2, 1), (2, 3)].map(|(sender, receiver)| KeyEntry {
                sender: testing::index(sender),
                receiver: testing::index(receiver),
                epoch: overlay_ebpf::abi::Epoch::new(1),
                slot: overlay_ebpf::abi::Slot::new(1),
                lane: overlay_ebpf::abi::Lane::new(lane).unwrap(),
                key: testing::key(Direction::Out, sender, lane, receiver as u8, 0),
            })
        })
        .collect();
    let desired = file.desired(&keys).unwrap();
    validate::validate(&desired).unwrap();
    let peer = &desired.peers[&testing::index(2)];
    assert_eq!(peer.sas.len(), 4, "keys of other pairs are not this node's");
    assert_eq!(
        desired.local_endpoints[0].mac.to_string(),
        "02:42:0a:01:00:01"
    );
}

#[test]
fn default_route_is_of_the_family_of_its_next_hop() {
    let routes = |text: &str| -> Result<Vec<String>, FileError> {
        let text = EXAMPLE.replacen("routes = [", &format!("routes = [{text}, "), 1);
        let desired = File::parse(&text, Format::Toml)?.desired(&[])?;
        let routes = desired.local_endpoints[0].routes.iter();
        Ok(routes.map(Route::to_string).collect())
    };
    let first = |text: &str| routes(text).unwrap()[0].clone();
    let via = |to: &str, via: &str| format!("{{ to = \"{to}\", via = \"{via}\" }}");
    assert_eq!(
        first(&via("default", "10.1.0.254")),
        "0.0.0.0/0 via 10.1.0.254"
    );
    assert_eq!(first(&via("default", "fd00:1::fe")), "::/0 via fd00:1::fe");
    assert_eq!(first("{ to = \"fd00:9::/32\" }"), "fd00:9::/32");
    let refused = routes("{ to = \"default\" }").unwrap_err().to_string();
    assert!(refused.contains("write 0.0.0.0/0 or ::/0"), "{refused}");
    let refused = routes("{ to = \"10.9.0.0\" }").unwrap_err().to_string();
    assert!(refused.contains("`10.9.0.0`"), "{refused}");
}

#[test]
fn a_namespace_is_a_name_a_process_or_a_path() {
    use super::super::desired::NetnsRef;
    let parse = |text: &str| s::Netns::try_from(text.to_owned()).map(|netns| netns.0);
    assert_eq!(parse("web"), Ok(NetnsRef::Name("web".into())));
    assert_eq!(parse("pid:12"), Ok(NetnsRef::Pid(12)));
    assert_eq!(parse("/proc/12/ns/net"), Ok(NetnsRef::Pid(12)));
    for path in ["/run/netns/web", "/proc/self/ns/net", "/proc/12/fd/3"] {
        assert_eq!(parse(path), Ok(NetnsRef::Path(path.into())));
    }
    for refused in ["", "..", "a/b", "pid:0", "pid:x"] {
        assert!(parse(refused).is_err(), "{refused}");
    }
}

#[test]
fn an_error_names_its_place_and_shows_no_key() {
    let key = "ab".repeat(36);
    for (text, format, line) in [
        (
            format!("[[key]]\nsender = 1\nkey = \"{key}\n"),
            Format::Toml,
            1,
        ),
        (format!("{EXAMPLE}\nkey = {key}\n"), Format::Toml, 0),
        (
            EXAMPLE.replacen("index = 1", &format!("index = \"{key}\""), 1),
            Format::Toml,
            0,
        ),
        (format!("{{\"node\":\n\"{key}\"}}"), Format::Json, 2),
        (format!("{{\"node\":\n{key}}}"), Format::Json, 2),
    ] {
        let error = File::parse(&text, format).unwrap_err();
        assert!(!format!("{error}").contains("abab"), "{error}");
        let FileError::Syntax { line: found, .. } = error else {
            panic!("{error}");
        };
        assert!(line == 0 || found >= line, "{error}");
    }
    let unknown = File::parse("[node]\nindx = 1\n", Format::Toml).unwrap_err();
    let unknown = unknown.to_string();
    assert!(
        unknown.starts_with("line 2, column 1: ") && unknown.contains("`indx`"),
        "{unknown}"
    );
}

#[test]
fn json_says_the_same_as_toml() {
    let file = File::parse(EXAMPLE, Format::Toml).unwrap();
    let json = serde_json::to_string(&file).unwrap();
    assert_eq!(File::parse(&json, Format::Json).unwrap(), file);
    assert_eq!(Format::of("x".as_ref(), &json), Format::Json);
    assert_eq!(Format::of("x.conf".as_ref(), EXAMPLE), Format::Toml);
}

fn error(text: &str) -> String {
    let base = "[node]\nindex = 1\nname = \"a\"\nvteps = []\n";
    match File::parse(&format!("{base}{text}"), Format::Toml) {
        Ok(file) => file.desired(&[]).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn errors_name_line_and_remedy() {
    assert!(error("colour = 1\n").contains("line 5"));
    assert!(error("colour = 1\n").contains("unknown field `colour`"));
    let vni = error("[[networks]]\nname = \"blue\"\nvni = 7\n");
    assert!(
        vni.contains("line 7") && vni.contains("use 4096 to 16777215"),
        "{vni}"
    );
    let unknown = error(
        "[[endpoints]]\nnetwork = \"blue\"\nname = \"c\"\nnetns = \"c\"\naddresses = [\"10.0.0.1/24\"]\n",
    );
    assert_eq!(
        unknown,
        "endpoint c: there is no network `blue`: add it to networks"
    );
    let address = error(
        "[[endpoints]]\nnetwork = \"b\"\nname = \"c\"\nnetns = \"c\"\naddresses = [\"10.0.0.1\"]\n",
    );
    assert!(address.contains("10.0.0.1/24"), "{address}");
    let twice =
        error("[[networks]]\nname = \"a\"\nvni = 5000\n[[networks]]\nname = \"b\"\nvni = 5000\n");
    assert_eq!(twice, "networks `a` and `b` both have VNI 5000: change one");
    let names =
        error("[[networks]]\nname = \"a\"\nvni = 5000\n[[networks]]\nname = \"a\"\nvni = 5001\n");
    assert!(names.contains("rename one"));
}

#[test]
fn network_is_encrypted_unless_said_otherwise() {
    let text =
        "[node]\nindex = 1\nname = \"a\"\nvteps = []\n[[networks]]\nname = \"a\"\nvni = 5000\n";
    let file = File::parse(text, Format::Toml).unwrap();
    assert!(file.networks[0].encrypted);
}

proptest! {
    #[test]
    fn noise_never_panics(text in "\\PC*") {
        let _ = File::parse(&text, Format::Toml);
        let _ = File::parse(&text, Format::Json);
    }

    #[test]
    fn damaged_example_never_panics(at in 0_usize..4000, noise in "\\PC{0,4}", cut in 0_usize..8) {
        let chars: Vec<char> = EXAMPLE.chars().collect();
        let at = at.min(chars.len());
        let text: String = chars[..at]
            .iter()
            .copied()
            .chain(noise.chars())
            .chain(chars[(at + cut).min(chars.len())..].iter().copied())
            .collect();
        if let Ok(file) = File::parse(&text, Format::Toml)
            && let Ok(desired) = file.desired(&[])
        {
            let _ = validate::validate(&desired);
        }
    }
}
