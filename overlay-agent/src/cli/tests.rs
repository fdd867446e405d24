//! The commands from arguments to output, with a backend of fixed answers behind a real socket.

mod reference;

use std::{cell::RefCell, fs, io::Write, os::unix::fs::PermissionsExt as _, path::Path, rc::Rc};

use clap::Parser as _;

use super::{Arguments, Context, Failure, Outcome, Terminal, ask, command, sentence};
use crate::{
    api::{ApiError, Code, client::Client},
    daemon::api::testing::{Fake, Running, TOKEN, UNLOCK_KEY},
};

#[derive(Debug, Clone, Default)]
struct Buffer(Rc<RefCell<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).unwrap()
    }
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    /// As the process would exit.
    status: u8,
    out: String,
    err: String,
}

/// What somebody types, if somebody is there.
enum Typed {
    Nobody(&'static str),
    Somebody(&'static str),
}

async fn run_at(socket: &Path, line: &str, typed: Typed) -> Ended {
    let (out, err) = (Buffer::default(), Buffer::default());
    let words = std::iter::once("overlay").chain(line.split_whitespace());
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            return Ended {
                status: u8::try_from(error.exit_code()).unwrap(),
                out: String::new(),
                err: error.to_string(),
            };
        }
    };
    let (input, interactive) = match typed {
        Typed::Nobody(input) => (input, false),
        Typed::Somebody(input) => (input, true),
    };
    let context = Context {
        client: Client::new(socket),
        terminal: Terminal::scripted(out.clone(), err.clone(), input, interactive),
    };
    let (status, why) = match ask(context, arguments.command).await {
        Ok(Outcome::Good) => (0, String::new()),
        Ok(Outcome::Problem) => (1, String::new()),
        Err(Failure::Host(error)) => (1, sentence(&error)),
        Err(Failure::Input(error)) => (2, sentence(&error)),
    };
    Ended {
        status,
        out: out.text(),
        err: err.text() + &why,
    }
}

async fn run_with(running: &Running, line: &str, typed: Typed) -> Ended {
    run_at(&running.socket(), line, typed).await
}

/// Runs a command that succeeds without a question.
async fn good(running: &Running, line: &str) -> String {
    let ended = run_with(running, line, Typed::Nobody("")).await;
    assert_eq!((ended.status, ended.err.as_str()), (0, ""), "{line}");
    ended.out
}

#[test]
fn arguments_are_consistent() {
    command().debug_assert();
}

#[tokio::test]
async fn listings_look_like_those_of_docker() {
    let running = Running::start(Fake::default()).await;
    assert_eq!(
        good(&running, "network ls").await,
        "\
VNI       NAME      DRIVER    SCOPE     ENCRYPTED   ATTACHABLE   SUBNETS
4097      my-net    overlay   cluster   true        false        10.0.9.0/24
4098      lab       overlay   cluster   false       true         10.0.9.0/24
"
    );
    assert_eq!(
        good(&running, "node ls").await,
        "\
ID               NAME      STATUS    AVAILABILITY   MANAGER STATUS   ADDRESSES   VERSION
010101010101 *   n1        ready     active         leader           192.0.2.1   0.1.0
020202020202     n2        ready     active                          192.0.2.2   0.1.0
"
    );
    assert_eq!(
        good(&running, "endpoint ls --all").await,
        "\
NAME      NETWORK   ADDRESSES   MAC                 NODE      NAMESPACE   STATE
web-1     my-net    10.0.9.2    02:42:0a:00:09:02   n1        ns-web-1    open
web-2     my-net    10.0.9.2    02:42:0a:00:09:02   n2        –           open
"
    );
    assert_eq!(
        good(&running, "peers").await,
        "\
PEER      STATUS    ADDRESS     DEVICE    MTU       ENCRYPTION   EPOCH     SENT      RECEIVED
n2        ready     192.0.2.2   eth0      1500      4 SAs        12        12.3kB    67.9MB
n3        ready     192.0.2.3   eth0      1500      4 SAs        12        12.3kB    67.9MB
"
    );
    assert_eq!(good(&running, "network ls -q").await, "my-net\nlab\n");
    assert_eq!(good(&running, "node ls -q -f role=worker").await, "n2\n");
    assert_eq!(
        good(&running, "network ls -q --filter encrypted=true").await,
        "my-net\n"
    );
    assert_eq!(good(&running, "node ls -q -f label=zone=a").await, "n1\n");
    assert_eq!(
        good(&running, "node ls -q -f name=n1 -f name=n2").await,
        "n1\nn2\n"
    );
}

#[tokio::test]
async fn every_listing_is_json_if_asked() {
    let running = Running::start(Fake::default()).await;
    for (line, pointer, expected) in [
        ("network ls --format json", "/0/name", "my-net"),
        (
            "network ls --format json",
            "/0/created",
            "2023-11-14T22:13:20Z",
        ),
        (
            "network inspect my-net",
            "/0/endpoints/0/netns/name",
            "ns-web-1",
        ),
        (
            "network inspect my-net",
            "/0/blocks/0/blocks/0",
            "10.0.9.0/28",
        ),
        ("node ls --format json", "/1/role", "worker"),
        ("node inspect", "/0/labels/zone", "a"),
        ("endpoint ls --format json", "/0/mac", "02:42:0a:00:09:02"),
        ("endpoint inspect my-net web-1", "/0/interface", "eth0"),
        ("peers --format json", "/0/vtep", "192.0.2.2"),
        (
            "status --format json",
            "/encryption/plain_networks/0",
            "lab",
        ),
        ("keys status --format json", "/cluster/phase", "stable"),
        ("token show worker --format json", "/token", TOKEN),
    ] {
        let out = good(&running, line).await;
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        let found = value.pointer(pointer).and_then(|value| value.as_str());
        assert_eq!(found, Some(expected), "{line}: {out}");
    }
}

#[tokio::test]
async fn the_status_says_at_once_whether_all_is_encrypted() {
    let running = Running::start(Fake::default()).await;
    let out = good(&running, "status").await;
    assert_eq!(
        out,
        format!(
            "\
Cluster:     {}
Node:        n1 (manager, index 1, active)
Encryption:  2 encrypted networks, all 2 peers are open; NOT ENCRYPTED by choice: lab
Epoch:       12, stable, 2 hours old; next rotation in less than a second
Managers:    3 of 3 reachable, leader n1
Nodes:       25 of 25 ready
Endpoints:   12 here, 300 on other nodes
Agent:       version 0.1.0

DROPPED   WHERE     PACKETS   BYTES     MEANING
NoSa      egress    7         9.8kB     the peer has no live outbound SA
",
            "c1".repeat(16)
        )
    );
    let fake = Fake::troubled();
    let running = Running::start(fake).await;
    let ended = run_with(&running, "status", Typed::Nobody("")).await;
    assert_eq!(ended.status, 1);
    for part in [
        "only 1 of 2 peers are open; the others get nothing",
        "1 of 3 reachable, no leader; NO QUORUM: traffic goes on",
        "23 of 25 ready, 2 down",
        "closed: n3: it has published no key for epoch 12",
        "alarm: node 3 published two keys\n  remedy: stop one of the two\n",
    ] {
        assert!(ended.out.contains(part), "{part}: {}", ended.out);
    }
    let ended = run_with(&running, "peers", Typed::Nobody("")).await;
    assert_eq!(ended.status, 1);
    assert!(ended.err.contains("n3 is closed"), "{}", ended.err);
    let ended = run_with(&running, "endpoint ls", Typed::Nobody("")).await;
    assert_eq!(ended.status, 1);
    assert!(ended.err.contains("no SA with n3 yet"), "{}", ended.err);
}

#[tokio::test]
async fn a_new_cluster_tells_how_to_join_it() {
    let running = Running::start(Fake::default()).await;
    let out = good(
        &running,
        "init --advertise 192.0.2.1,2001:db8::1 --autolock --label zone=a --key-rotation-interval 6h \
         --default-subnet-pool 10.20.0.0/16,size=26",
    )
    .await;
    assert_eq!(
        out,
        format!(
            "\
Cluster {} initialised: current node n1 ({}) is now a manager.

To add a worker to this cluster, run the following command on the new node and give it the token
on standard input:

    overlay join --token-file - 192.0.2.1:7790

    {TOKEN}

To add a manager, run `overlay token show manager` and follow the instructions.

To unlock a manager after it restarts, run `overlay unlock` and provide the following key:

    {UNLOCK_KEY}

Keep it in a password manager: without it a manager cannot be restarted.
",
            "c1".repeat(16),
            "0a".repeat(16)
        )
    );
    let asked = running.fake.asked().join("\n");
    for part in [
        "advertise: [192.0.2.1, 2001:db8::1]",
        "key_rotation_interval_seconds: Some(21600)",
        "prefix: 26",
        "\"zone\": \"a\"",
    ] {
        assert!(asked.contains(part), "{part}: {asked}");
    }
}

/// A token that the parser accepts.
fn token() -> String {
    use overlay_cluster::identity::{Role, token::JoinToken, trust::RootDigest};
    use rand::SeedableRng as _;
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    JoinToken::generate(Role::Worker, RootDigest::of(b"a root"), &mut rng)
        .to_text()
        .to_string()
}

#[tokio::test]
async fn a_node_joins_by_a_token_that_is_no_argument() {
    let running = Running::start(Fake::default()).await;
    let file = running.path().join("token");
    fs::write(&file, token()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let line = format!(
        "join --token-file {} 192.0.2.1 [2001:db8::1]:80",
        file.display()
    );
    assert_eq!(
        good(&running, &line).await,
        format!(
            "Node n1 ({}) joined cluster {} as a worker.\n",
            "0a".repeat(16),
            "c1".repeat(16)
        )
    );
    let asked = running.fake.asked().join("\n");
    assert!(
        asked.contains("managers: [192.0.2.1:7790, [2001:db8::1]:80]"),
        "{asked}"
    );
    assert!(asked.contains("SecretText(…)"), "{asked}");
    let typed = Typed::Nobody("OVL1-W-something-secret\n");
    let ended = run_with(&running, "join --token-file - 192.0.2.1", typed).await;
    assert_eq!(ended.status, 2);
    assert!(ended.err.contains("token"), "{}", ended.err);
    assert!(!ended.err.contains("secret"), "{}", ended.err);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let ended = run_with(&running, &line, Typed::Nobody("")).await;
    assert_eq!(ended.status, 2);
    assert!(ended.err.contains("chmod 600"), "{}", ended.err);
    let ended = run_with(&running, "join 192.0.2.1", Typed::Nobody("")).await;
    assert_eq!(ended.status, 2);
    assert!(ended.err.contains("--token-file"), "{}", ended.err);
}

#[tokio::test]
async fn what_destroys_asks_and_without_a_terminal_needs_yes() {
    let running = Running::start(Fake::default()).await;
    let backup = running.path().join("backup");
    fs::write(&backup, "sealed").unwrap();
    let restore = format!("restore {} --key-file -", backup.display());
    for (line, asked, input) in [
        ("network rm my-net", "remove_network my-net", ""),
        ("network prune", "prune_networks", ""),
        ("node rm n2", "remove_node n2 false", ""),
        ("node rm --force n2", "remove_node n2 true", ""),
        ("leave", "leave", ""),
        (restore.as_str(), "restore", "key\n"),
    ] {
        let ended = run_with(&running, line, Typed::Nobody(input)).await;
        assert_eq!(ended.status, 2, "{line}");
        assert!(ended.err.starts_with("nothing done: "), "{}", ended.err);
        assert!(ended.err.contains("--yes"), "{}", ended.err);
        let said_no = if input.is_empty() { "n\n" } else { "key\nn\n" };
        let ended = run_with(&running, line, Typed::Somebody(said_no)).await;
        assert_eq!(ended.status, 1, "{line}");
        assert!(ended.err.contains("[y/N]"), "{}", ended.err);
        assert_eq!(running.fake.asked(), [""; 0], "{line}");
        let said_yes = if input.is_empty() { "y\n" } else { "key\ny\n" };
        let ended = run_with(&running, line, Typed::Somebody(said_yes)).await;
        assert_eq!(ended.status, 0, "{line}: {}", ended.err);
        let ended = run_with(&running, &format!("{line} --yes"), Typed::Nobody(input)).await;
        assert_eq!((ended.status, ended.err.as_str()), (0, ""), "{line}");
        let all = running.fake.take_asked();
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all[0].starts_with(asked), "{all:?}");
    }
}

#[tokio::test]
async fn connect_and_disconnect_are_docker_s_words_for_endpoints() {
    let running = Running::start(Fake::default()).await;
    let out = good(&running, "network connect --ip 10.0.9.2 my-net web-1").await;
    assert_eq!(out, "web-1   10.0.9.2   02:42:0a:00:09:02\n");
    good(
        &running,
        "endpoint attach my-net --netns web-1 --ip 10.0.9.2",
    )
    .await;
    let asked = running.fake.take_asked();
    assert_eq!(asked[0], asked[1]);
    good(&running, "network disconnect my-net web-1").await;
    good(&running, "network disconnect my-net ns-web-1").await;
    good(&running, "network disconnect --force my-net other").await;
    let detached: Vec<_> = running
        .fake
        .take_asked()
        .into_iter()
        .filter(|asked| asked.starts_with("detach"))
        .collect();
    assert_eq!(detached, ["detach my-net web-1", "detach my-net web-1"]);
    let ended = run_with(
        &running,
        "network disconnect my-net other",
        Typed::Nobody(""),
    )
    .await;
    assert_eq!(ended.status, 1);
    assert!(ended.err.contains("endpoint ls my-net"), "{}", ended.err);
}

#[tokio::test]
async fn a_rotation_that_is_waited_for_tells_its_phases() {
    let running = Running::start(Fake::default()).await;
    assert_eq!(
        good(&running, "keys rotate --wait").await,
        "staging epoch 13: 3 of 3 live nodes ready\n\
         activated epoch 13: 3 of 3 live nodes ready\n\
         Epoch 13 is active and the old keys are gone.\n"
    );
    let out = good(&running, "keys rotate").await;
    assert!(out.contains("Rotation to epoch 13 has begun"), "{out}");
    assert_eq!(
        good(&running, "keys policy --interval 6h --grace 30s").await,
        "All keys change every 6h. A rotation waits up to 1m for slow nodes, and keeps the old keys for 30s.\n"
    );
    let asked = running.fake.asked();
    let request = asked.iter().find(|it| it.starts_with("set_key_policy"));
    let request = request.expect("it was asked");
    assert!(
        request.contains("interval_seconds: Some(21600)"),
        "{request}"
    );
    assert!(request.contains("deadline_seconds: None"), "{request}");
    assert!(request.contains("grace_seconds: Some(30)"), "{request}");
}

#[tokio::test]
async fn the_status_of_keys_names_who_lags_and_why() {
    let fake = Fake::troubled();
    let running = Running::start(fake).await;
    let ended = run_with(&running, "keys status", Typed::Nobody("")).await;
    assert_eq!(ended.status, 1);
    assert_eq!(
        ended.out,
        "\
Epoch:          12 (incarnation 0, 00112233aabbccdd)
Phase:          stable
Age:            2 hours
Next rotation:  in less than a second (2023-11-14T22:13:20Z), every 12h
Ready:          2 of 3 live nodes
  n3: has not fetched the secrets of the epoch (2 nodes wait for it)

PEER      STATE     EPOCH     SLOT      LANES     AGE       BYTES     SEQUENCE
n2        open      12        3         4         2 hours   12.3MB    0.012%
n3        closed    –         –         –         –         –         –
n3 has published no key for the epoch
"
    );
}

#[tokio::test]
async fn keys_and_tokens_are_printed_where_that_is_asked_for() {
    let running = Running::start(Fake::default()).await;
    assert_eq!(
        good(&running, "token show worker -q").await,
        format!("{TOKEN}\n")
    );
    let out = good(&running, "token rotate worker --expires 1h").await;
    assert!(out.starts_with("Rotated the worker token.\n\n"), "{out}");
    assert!(out.contains("It expires in"), "{out}");
    assert_eq!(
        good(&running, "unlock-key -q").await,
        format!("{UNLOCK_KEY}\n")
    );
    assert!(good(&running, "autolock on").await.contains(UNLOCK_KEY));
    assert_eq!(good(&running, "autolock off").await, "Autolock is off.\n");
    assert_eq!(
        running.fake.take_asked(),
        [
            "token worker",
            "rotate_token worker RotateToken { expires_in_seconds: Some(3600) }",
            "unlock_key",
            "set_autolock true",
            "set_autolock false"
        ]
    );
}

#[tokio::test]
async fn a_backup_and_its_key_are_two_private_files() {
    let running = Running::start(Fake::default()).await;
    let (out, key) = (running.path().join("state"), running.path().join("key"));
    let line = format!("backup --out {} --key-out {}", out.display(), key.display());
    good(&running, &line).await;
    assert_eq!(fs::read(&out).unwrap(), [0, 1, 2, 255]);
    assert_eq!(fs::read_to_string(&key).unwrap(), format!("{UNLOCK_KEY}\n"));
    for file in [&out, &key] {
        let mode = fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }
    let ended = run_with(&running, &line, Typed::Nobody("")).await;
    assert_eq!(ended.status, 2);
    assert!(ended.err.contains("not overwritten"), "{}", ended.err);
    assert_eq!(running.fake.asked(), ["backup"]);
    let fake = Fake::refusing(ApiError::not_manager());
    let running = Running::start(fake).await;
    let (out, key) = (running.path().join("state"), running.path().join("key"));
    let line = format!("backup --out {} --key-out {}", out.display(), key.display());
    let ended = run_with(&running, &line, Typed::Nobody("")).await;
    assert_eq!(ended.status, 1);
    assert!(!out.exists() && !key.exists());
}

#[tokio::test]
async fn events_are_lines() {
    let running = Running::start(Fake::default()).await;
    let ended = run_with(&running, "events", Typed::Nobody("")).await;
    assert_eq!(
        ended.out,
        "2023-11-14T22:13:20Z network create my-net (vni=4097)\n\
         2023-11-14T22:13:20Z keys stage 13 (vni=4097)\n"
    );
    assert_eq!(
        ended.err,
        "overlay: 1 events came too fast and are left out\n"
    );
    let ended = run_with(
        &running,
        "events --filter type=keys --format json",
        Typed::Nobody(""),
    )
    .await;
    let event: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(event["sequence"], 9);
}

#[tokio::test]
async fn arguments_that_make_no_sense_end_with_2_and_ask_nobody() {
    let running = Running::start(Fake::default()).await;
    for (line, why) in [
        ("", "Usage"),
        ("fly", "fly"),
        ("init", "--advertise"),
        ("init --advertise 192.0.2", "write one such as"),
        ("init --advertise 127.0.0.1", "loopback"),
        (
            "init --advertise 192.0.2.1,192.0.2.2",
            "two addresses of one family",
        ),
        (
            "init --advertise 192.0.2.1 --name A_B",
            "cannot name a node",
        ),
        (
            "init --advertise 192.0.2.1 --key-rotation-interval 1m",
            "10 minutes",
        ),
        (
            "init --advertise 192.0.2.1 --default-subnet-pool 10.0.0.1/8",
            "10.0.0.1/8",
        ),
        ("init --advertise 192.0.2.1 --listen x", "ADDRESS:PORT"),
        ("network ls --filter size=big", "`size` is not known"),
        ("network ls --filter big", "KEY=VALUE"),
        ("network ls --format xml", "xml"),
        ("network ls -q --format json", "--quiet"),
        ("network create --opt secure x", "`secure` is not known"),
        ("network connect --alias x my-net a", "--name"),
        ("network prune --filter until=soon --yes", "until"),
        ("endpoint attach my-net", "--netns"),
        ("endpoint attach my-net --netns a --pid 3", "--pid"),
        ("endpoint attach my-net --pid 0", "--pid"),
        ("endpoint attach my-net --pid 3", "--name"),
        ("endpoint attach my-net --netns a_b", "--name"),
        ("endpoint attach my-net --netns a --ip x", "IP address"),
        ("endpoint attach my-net --netns a --mac x", "02:42"),
        ("node update n2", "--label-add"),
        ("node update --availability pause n2", "schedules nothing"),
        (
            "node update --label-add a=1 --label-rm a n2",
            "added and removed",
        ),
        ("token show king", "king"),
        ("keys policy --interval 8d", "7 days"),
        ("keys policy", "--interval"),
        ("autolock maybe", "maybe"),
        ("unlock --key-file /nonexistent", "/nonexistent"),
    ] {
        let ended = run_with(&running, line, Typed::Nobody("")).await;
        assert_eq!(ended.status, 2, "{line}: {ended:?}");
        assert!(ended.err.contains(why), "{line}: {}", ended.err);
    }
    assert_eq!(running.fake.asked(), [""; 0]);
}

#[tokio::test]
async fn refusals_are_said_with_their_remedy() {
    for (code, status) in [
        (Code::Conflict, 1),
        (Code::NoQuorum, 1),
        (Code::BadRequest, 2),
    ] {
        let fake = Fake::refusing(ApiError::new(code, "it cannot be", "do something else"));
        let running = Running::start(fake).await;
        let ended = run_with(&running, "network ls", Typed::Nobody("")).await;
        assert_eq!(ended.status, status);
        assert_eq!(ended.err, "it cannot be: do something else");
    }
    let fake = Fake::refusing(crate::daemon::api::testing::no_network());
    let running = Running::start(fake).await;
    let forced = run_with(&running, "network rm -f -y x", Typed::Nobody("")).await;
    assert_eq!((forced.status, forced.out.as_str()), (0, ""));
    let ended = run_with(&running, "network rm -y x", Typed::Nobody("")).await;
    assert_eq!(ended.status, 1);
}

#[tokio::test]
async fn without_an_agent_the_command_says_how_to_start_it() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let ended = run_at(&socket, "status", Typed::Nobody("")).await;
    assert_eq!(ended.status, 1);
    assert!(
        ended.err.contains("the agent is not running"),
        "{}",
        ended.err
    );
    assert!(
        ended.err.contains("systemctl start overlay-agent"),
        "{}",
        ended.err
    );
    assert!(
        ended.err.contains(&socket.display().to_string()),
        "{}",
        ended.err
    );
}
