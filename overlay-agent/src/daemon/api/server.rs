use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::Method,
    response::{IntoResponse as _, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tower_service::Service as _;

use super::{
    Access, Backend, Caller, Limits, Socket,
    routes::{self, Desk},
};
use crate::api::{ApiError, Code};

/// Callers without a place that are told so at the same time; more are cut without a word.
const REFUSED: usize = 32;

/// For a caller without a place to ask and to be told.
const REFUSAL: Duration = Duration::from_secs(2);

/// The server of the local API.
pub struct Server {
    router: Router,
    access: Access,
    limits: Limits,
    root: Arc<Semaphore>,
    others: Arc<Semaphore>,
    refused: Arc<Semaphore>,
}

/// What a request knows of its connection.
pub struct Connection {
    pub stop: watch::Receiver<bool>,
    stays: AtomicBool,
}

impl Connection {
    /// The answer has no end of its own: only the caller or the server ends it.
    pub fn stays(&self) {
        self.stays.store(true, Ordering::Relaxed);
    }
}

impl Server {
    pub fn new(backend: Arc<dyn Backend>, access: Access, limits: Limits) -> Arc<Self> {
        let events = Arc::new(Semaphore::new(limits.events));
        Arc::new(Self {
            router: routes::router(Desk {
                backend,
                limits,
                events,
            }),
            access,
            limits,
            root: Arc::new(Semaphore::new(limits.root)),
            others: Arc::new(Semaphore::new(limits.others)),
            refused: Arc::new(Semaphore::new(REFUSED)),
        })
    }

    /// Serves until `stop` is true or its sender gone; then no connection is accepted any more, and
    /// requests under way are answered within [`Limits::grace`]. The socket is removed at the end.
    pub async fn serve(self: Arc<Self>, socket: Socket, stop: watch::Receiver<bool>) {
        let mut connections = JoinSet::new();
        let mut stopping = pin!(stopped(stop.clone()));
        loop {
            tokio::select! {
                biased;
                () = &mut stopping => break,
                Some(_) = connections.join_next() => {}
                accepted = socket.listener.accept() => match accepted {
                    Ok((stream, _)) => self.clone().accept(&mut connections, stream, &stop),
                    Err(error) => {
                        // No more files: connections that end give some back.
                        tracing::warn!(%error, "a connection to the API cannot be accepted");
                        sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
        drop(socket);
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if timeout(self.limits.grace, all_ended).await.is_err() {
            tracing::warn!("requests to the API are cut under way");
        }
        connections.shutdown().await;
    }

    fn accept(
        self: Arc<Self>,
        connections: &mut JoinSet<()>,
        stream: UnixStream,
        stop: &watch::Receiver<bool>,
    ) {
        match self.place(&stream) {
            Ok((caller, place)) => {
                connections.spawn(self.talk(stream, caller, place, stop.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a caller of the API is refused");
                if let Ok(place) = self.refused.clone().try_acquire_owned() {
                    connections.spawn(refuse(stream, error, place));
                }
            }
        }
    }

    fn place(&self, stream: &UnixStream) -> Result<(Caller, OwnedSemaphorePermit), ApiError> {
        let caller = Caller::of(stream).map_err(|error| {
            ApiError::new(
                Code::Forbidden,
                format!("the kernel does not say who calls: {error}"),
                "",
            )
        })?;
        self.access.check(&caller)?;
        let places = if caller.uid == 0 {
            &self.root
        } else {
            &self.others
        };
        let place = places.clone().try_acquire_owned().map_err(|_| {
            ApiError::new(
                Code::Busy,
                "the agent has as many connections as it takes",
                "end some, or try again in a moment",
            )
        })?;
        Ok((caller, place))
    }

    async fn talk(
        self: Arc<Self>,
        stream: UnixStream,
        caller: Caller,
        place: OwnedSemaphorePermit,
        stop: watch::Receiver<bool>,
    ) {
        let connection = Arc::new(Connection {
            stop: stop.clone(),
            stays: AtomicBool::new(false),
        });
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let router = self.router.clone();
            let (connection, caller, limits) = (connection.clone(), caller.clone(), self.limits);
            async move {
                let mut request: Request = request.map(Body::new);
                request.extensions_mut().insert(connection);
                request.extensions_mut().insert(limits);
                Ok::<Response, Infallible>(route(router, request, &caller).await)
            }
        });
        let limits = &self.limits;
        let longest = limits.head + limits.body + limits.answer + limits.take;
        let talk = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .keep_alive(false)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(stream), service);
        let mut talk = pin!(talk);
        let mut stopping = pin!(stopped(stop));
        let (mut stops, mut late) = (false, false);
        let mut deadline = pin!(sleep(longest));
        loop {
            tokio::select! {
                ended = &mut talk => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, uid = caller.uid, "a connection to the API broke");
                    }
                    break;
                }
                () = &mut stopping, if !stops => {
                    stops = true;
                    talk.as_mut().graceful_shutdown();
                }
                () = &mut deadline, if !late => {
                    late = true;
                    if !connection.stays.load(Ordering::Relaxed) {
                        tracing::debug!(uid = caller.uid, "a connection to the API took too long");
                        break;
                    }
                }
            }
        }
        drop(place);
    }
}

/// Calls the route, and says in the log what was changed and by whom.
async fn route(mut router: Router, request: Request, caller: &Caller) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let status = response.status().as_u16();
    let (uid, pid) = (caller.uid, caller.pid);
    if method == Method::GET {
        tracing::debug!(%method, path, status, uid, pid, "asked");
    } else {
        tracing::info!(%method, path, status, uid, pid, "asked");
    }
    response
}

/// Tells a caller why it has no place.
async fn refuse(stream: UnixStream, error: ApiError, place: OwnedSemaphorePermit) {
    let service = service_fn(|_: hyper::Request<Incoming>| {
        let error = error.clone();
        async move { Ok::<Response, Infallible>(error.into_response()) }
    });
    let talk = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Whether it listens is its own affair.
    let _ = timeout(REFUSAL, talk).await;
    drop(place);
}

/// Returns when the server shall stop.
pub async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error is that nobody is left who could say so.
    let _ = stop.wait_for(|stop| *stop).await;
}
