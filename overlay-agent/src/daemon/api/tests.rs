use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    time::{Instant, timeout},
};

use super::{
    Access, Limits, Socket, SocketError,
    testing::{Fake, Running, TOKEN, endpoint, network, no_network},
};
use crate::api::{
    ApiError, Code,
    client::{Client, ClientError},
    cluster::RotateToken,
    endpoint::EndpointQuery,
    event::EventQuery,
    keys::PolicyRequest,
    node::NodeUpdate,
};

fn alone() -> Access {
    Access {
        owner: rustix::process::geteuid().as_raw(),
        group: None,
    }
}

fn refused(error: ClientError) -> ApiError {
    match error {
        ClientError::Refused(error) => error,
        other => panic!("{other}"),
    }
}

/// Sends bytes as they are and returns what comes back.
async fn raw(running: &Running, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(running.socket()).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn each_operation_comes_to_its_own_method_of_the_backend() {
    let running = Running::start(Fake::default()).await;
    let client = running.client();
    client.status().await.unwrap();
    client.peers().await.unwrap();
    let networks = client.networks().await.unwrap();
    assert_eq!(networks[0], network("my-net", 4097, true));
    client.network("prune").await.unwrap();
    client.remove_network("a/b?c").await.unwrap();
    let query = EndpointQuery {
        network: Some("a&all=false".into()),
        all: true,
    };
    assert_eq!(client.endpoints(&query).await.unwrap().len(), 2);
    let found = client.endpoint("my-net", "web-1").await.unwrap();
    assert_eq!(found, endpoint("web-1", true));
    client.detach("my-net", "web-1").await.unwrap();
    client.node("self").await.unwrap();
    let update = NodeUpdate::default();
    client.update_node("n2", &update).await.unwrap();
    assert!(client.remove_node("n2", true).await.unwrap().evicted);
    let role = overlay_cluster::identity::Role::Worker;
    assert_eq!(client.token(role).await.unwrap().token.expose(), TOKEN);
    let never = RotateToken::default();
    client.rotate_token(role, never).await.unwrap();
    let hourly = PolicyRequest {
        interval_seconds: Some(3600),
        ..PolicyRequest::default()
    };
    let policy = client.set_key_policy(&hourly).await.unwrap();
    assert_eq!((policy.interval_seconds, policy.grace_seconds), (3600, 60));
    assert_eq!(
        running.fake.asked(),
        [
            "status",
            "peers",
            "networks",
            "network prune",
            "remove_network a/b?c",
            "endpoints EndpointQuery { network: Some(\"a&all=false\"), all: true }",
            "endpoint my-net web-1",
            "detach my-net web-1",
            "node self",
            "update_node n2 NodeUpdate { name: None, role: None, availability: None, labels_add: Labels({}), labels_remove: [] }",
            "remove_node n2 true",
            "token worker",
            "rotate_token worker RotateToken { expires_in_seconds: None }",
            "set_key_policy PolicyRequest { interval_seconds: Some(3600), deadline_seconds: None, grace_seconds: None }",
        ]
    );
    assert_eq!(client.version().await.unwrap().pid, std::process::id());
}

#[tokio::test]
async fn a_refusal_arrives_as_it_was_said() {
    let fake = Fake::refusing(no_network());
    let running = Running::start(fake).await;
    let error = running.client().network("x").await.unwrap_err();
    assert!(!error.is_input());
    assert_eq!(refused(error), no_network());
    let answer = raw(&running, b"GET /v1/networks/x HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(
        answer.ends_with(r#"{"code":"not_found","message":"no network x","remedy":"`overlay network ls` lists them"}"#),
        "{answer}"
    );
}

#[tokio::test]
async fn every_wrong_request_is_refused_in_the_one_form() {
    let running = Running::start(Fake::default()).await;
    for (request, status, code) in [
        (
            "GET /v2/status HTTP/1.1\r\nHost: x\r\n\r\n",
            404,
            "not_found",
        ),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404, "not_found"),
        (
            "DELETE /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
            405,
            "method_not_allowed",
        ),
        (
            "GET /v1/cluster/tokens/king HTTP/1.1\r\nHost: x\r\n\r\n",
            400,
            "bad_request",
        ),
        (
            "GET /v1/endpoints?al=true HTTP/1.1\r\nHost: x\r\n\r\n",
            400,
            "bad_request",
        ),
        (
            "POST /v1/networks HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
            400,
            "bad_request",
        ),
        (
            "POST /v1/networks HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{\"name\":x",
            400,
            "bad_request",
        ),
        (
            "POST /v1/networks HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n",
            413,
            "too_large",
        ),
    ] {
        let answer = raw(&running, request.as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
        assert!(
            answer.contains(&format!(r#""code":"{code}""#)),
            "{request}: {answer}"
        );
    }
    assert_eq!(running.fake.asked(), [""; 0]);
}

#[tokio::test]
async fn a_body_that_grows_too_long_is_cut() {
    let limits = Limits {
        body_bytes: 1000,
        ..Limits::default()
    };
    let running = Running::with(Fake::default(), limits).await;
    let mut request =
        b"POST /v1/networks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..20 {
        request.extend(b"64\r\n");
        request.extend([b' '; 100]);
        request.extend(b"\r\n");
    }
    let answer = raw(&running, &request).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn who_is_slow_or_silent_is_cut_off() {
    let short = Duration::from_millis(100);
    let limits = Limits {
        head: short,
        body: short,
        answer: short,
        take: short,
        ..Limits::default()
    };
    let fake = Fake::hanging();
    let running = Running::with(fake, limits).await;
    let begun = Instant::now();
    assert_eq!(raw(&running, b"GET /v1/sta").await, "");
    let answer = raw(
        &running,
        b"POST /v1/networks HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let error = refused(running.client().status().await.unwrap_err());
    assert_eq!(error.code, Code::Timeout);
    assert!(error.remedy.contains("overlay status"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_silent_agent_is_given_up() {
    let fake = Fake::hanging();
    let running = Running::start(fake).await;
    let client = running.client().within(Duration::from_millis(50));
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Silent(_)), "{error}");
}

#[tokio::test]
async fn connections_have_a_number_and_the_next_is_told_so() {
    let limits = Limits {
        root: 1,
        others: 1,
        ..Limits::default()
    };
    let running = Running::with(Fake::default(), limits).await;
    let held = UnixStream::connect(running.socket()).await.unwrap();
    // Accepted in their order.
    let error = refused(running.client().status().await.unwrap_err());
    assert_eq!(error.code, Code::Busy);
    drop(held);
    let again = async {
        while running.client().status().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), again).await.unwrap();
}

#[tokio::test]
async fn a_caller_without_the_right_is_told_who_has_it() {
    // As if this user were another than the agent's, and not root.
    if rustix::process::geteuid().is_root() {
        let stranger = super::Caller {
            uid: 1000,
            gid: 1000,
            groups: vec![],
            pid: None,
        };
        let error = alone().check(&stranger).unwrap_err();
        assert_eq!(error.code.status(), 403);
        return;
    }
    let access = Access {
        owner: u32::MAX - 1,
        group: None,
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let socket = Socket::bind(&path, &access).await.unwrap();
    let (_stop, stopping) = tokio::sync::watch::channel(false);
    let server = super::Server::new(
        std::sync::Arc::new(Fake::default()),
        access,
        Limits::default(),
    );
    tokio::spawn(server.serve(socket, stopping));
    let error = refused(Client::new(&path).status().await.unwrap_err());
    assert_eq!(error.code, Code::Forbidden);
}

#[tokio::test]
async fn events_come_one_by_one_until_there_are_no_more() {
    let running = Running::start(Fake::default()).await;
    let mut events = running
        .client()
        .events(EventQuery::default())
        .await
        .unwrap();
    let mut sequences = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        sequences.push(event.sequence);
    }
    assert_eq!(sequences, [7, 9]);
}

#[tokio::test]
async fn a_stop_ends_event_streams_and_removes_the_socket() {
    let running = Running::start(Fake::default()).await;
    let follow = EventQuery {
        follow: true,
        after: Some(3),
    };
    let mut events = running.client().events(follow).await.unwrap();
    events.next().await.unwrap().unwrap();
    events.next().await.unwrap().unwrap();
    running.stop.send(true).unwrap();
    let end = timeout(Duration::from_secs(2), events.next())
        .await
        .unwrap();
    assert_eq!(end.unwrap(), None);
    timeout(Duration::from_secs(2), running.served)
        .await
        .unwrap()
        .unwrap();
    assert!(!running.directory.path().join("agent.sock").exists());
    let error = Client::new(running.directory.path().join("agent.sock"))
        .status()
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::NotRunning(_)), "{error}");
    assert!(error.to_string().contains("systemctl start"), "{error}");
}

#[tokio::test]
async fn readers_of_events_have_a_number() {
    let limits = Limits {
        events: 1,
        ..Limits::default()
    };
    let running = Running::with(Fake::default(), limits).await;
    let follow = EventQuery {
        follow: true,
        after: None,
    };
    let mut first = running.client().events(follow).await.unwrap();
    first.next().await.unwrap().unwrap();
    let second = running.client().events(follow).await;
    assert_eq!(refused(second.err().unwrap()).code, Code::Busy);
}

#[tokio::test]
async fn the_socket_has_its_mode_and_a_stale_one_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/agent.sock");
    fs::create_dir(path.parent().unwrap()).unwrap();
    // Left by an agent that was killed.
    drop(UnixListener::bind(&path).unwrap());
    let socket = Socket::bind(&path, &alone()).await.unwrap();
    let found = fs::metadata(&path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.mode() & 0o7777, 0o600);
    drop(socket);
    assert!(!path.exists());
    let gid = rustix::process::getegid().as_raw();
    let parent = path.parent().unwrap();
    fs::set_permissions(parent, fs::Permissions::from_mode(0o700)).unwrap();
    let access = Access {
        group: Some(gid),
        ..alone()
    };
    let _socket = Socket::bind(&path, &access).await.unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.mode() & 0o7777, found.gid()), (0o660, gid));
    let parent = fs::metadata(parent).unwrap();
    assert_eq!((parent.mode() & 0o7777, parent.gid()), (0o710, gid));
}

#[tokio::test]
async fn a_live_socket_and_other_files_stay() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let first = Socket::bind(&path, &alone()).await.unwrap();
    let second = Socket::bind(&path, &alone()).await;
    assert!(matches!(second, Err(SocketError::InUse(_))), "{second:?}");
    drop(first);
    // One that has no lock.
    let _foreign = UnixListener::bind(&path).unwrap();
    let second = Socket::bind(&path, &alone()).await;
    assert!(matches!(second, Err(SocketError::InUse(_))), "{second:?}");
    let file = directory.path().join("file");
    fs::write(&file, "content").unwrap();
    let refused = Socket::bind(&file, &alone()).await;
    assert!(
        matches!(refused, Err(SocketError::NoSocket(_))),
        "{refused:?}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "content");
}
