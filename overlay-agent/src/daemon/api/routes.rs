//! Which path calls what.

use std::sync::{Arc, LazyLock};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
    routing::{delete, get, post, put},
};
use futures_util::StreamExt as _;
use overlay_cluster::identity::Role;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    Answer, Backend, Limits,
    body::{Json, LongJson, Names, Parameters, answer},
    server::{Connection, stopped},
};
use crate::api::{
    ApiError, Code, Empty,
    cluster::{AutolockRequest, RotateToken},
    endpoint::EndpointQuery,
    event::EventQuery,
    node::RemoveQuery,
    path,
    status::Version,
};

/// Of this API.
const API_VERSION: u32 = 1;

/// What every request needs.
#[derive(Clone)]
pub struct Desk {
    pub backend: Arc<dyn Backend>,
    pub limits: Limits,
    pub events: Arc<Semaphore>,
}

impl Desk {
    async fn answer<'a, T: serde::Serialize>(&self, found: Answer<'a, T>) -> Response {
        match self.wait(found).await {
            Ok(value) => answer(&value),
            Err(error) => error.into_response(),
        }
    }

    async fn done(&self, found: Answer<'_, ()>) -> Response {
        match self.wait(found).await {
            Ok(()) => answer(&Empty {}),
            Err(error) => error.into_response(),
        }
    }

    async fn wait<T>(&self, found: Answer<'_, T>) -> Result<T, ApiError> {
        let time = self.limits.answer;
        timeout(time, found).await.unwrap_or_else(|_| {
            Err(ApiError::new(
                Code::Timeout,
                format!("no answer was found within {} seconds", time.as_secs()),
                "it may still happen: look at `overlay status` before trying again",
            ))
        })
    }
}

type At = State<Desk>;

/// The routes of the API.
pub fn router(desk: Desk) -> Router {
    Router::new()
        .route(path::VERSION, get(async || answer(&*VERSION)))
        .route(
            path::STATUS,
            get(async |State(desk): At| desk.answer(desk.backend.status()).await),
        )
        .route(
            path::PEERS,
            get(async |State(desk): At| desk.answer(desk.backend.peers()).await),
        )
        .route(path::EVENTS, get(events))
        .merge(cluster())
        .merge(networks())
        .merge(endpoints())
        .merge(nodes())
        .merge(keys())
        .fallback(async || {
            ApiError::new(
                Code::NotFound,
                "the agent knows no such path",
                "use an `overlay` command of the agent's own release",
            )
        })
        .method_not_allowed_fallback(async || {
            ApiError::new(
                Code::MethodNotAllowed,
                "the path takes another method",
                "use an `overlay` command of the agent's own release",
            )
        })
        .with_state(desk)
}

static VERSION: LazyLock<Version> = LazyLock::new(|| Version {
    version: env!("CARGO_PKG_VERSION").into(),
    api: API_VERSION,
    pid: std::process::id(),
});

fn cluster() -> Router<Desk> {
    Router::new()
        .route(
            path::INIT,
            post(async |State(desk): At, Json(request)| {
                desk.answer(desk.backend.init(request)).await
            }),
        )
        .route(
            path::JOIN,
            post(async |State(desk): At, Json(request)| {
                desk.answer(desk.backend.join(request)).await
            }),
        )
        .route(
            path::LEAVE,
            post(async |State(desk): At, Json(request)| {
                desk.done(desk.backend.leave(request)).await
            }),
        )
        .route(
            path::UNLOCK,
            post(async |State(desk): At, Json(request)| {
                desk.done(desk.backend.unlock(request)).await
            }),
        )
        .route(
            path::UNLOCK_KEY,
            get(async |State(desk): At| desk.answer(desk.backend.unlock_key()).await),
        )
        .route(
            path::UNLOCK_KEY_ROTATE,
            post(async |State(desk): At, Json(Empty {})| {
                desk.answer(desk.backend.rotate_unlock_key()).await
            }),
        )
        .route(
            path::AUTOLOCK,
            put(
                async |State(desk): At, Json(request): Json<AutolockRequest>| {
                    desk.answer(desk.backend.set_autolock(request.enabled))
                        .await
                },
            ),
        )
        .route(
            path::TOKEN,
            get(async |State(desk): At, Names(role): Names<Role>| {
                desk.answer(desk.backend.token(role)).await
            }),
        )
        .route(
            path::TOKEN_ROTATE,
            post(
                async |State(desk): At,
                       Names(role): Names<Role>,
                       Json(request): Json<RotateToken>| {
                    desk.answer(desk.backend.rotate_token(role, request)).await
                },
            ),
        )
        .route(
            path::CA_ROTATE,
            post(async |State(desk): At, Json(Empty {})| {
                desk.answer(desk.backend.rotate_ca()).await
            }),
        )
        .route(
            path::BACKUP,
            post(async |State(desk): At, Json(Empty {})| desk.answer(desk.backend.backup()).await),
        )
        .route(
            path::RESTORE,
            post(async |State(desk): At, LongJson(request)| {
                desk.answer(desk.backend.restore(request)).await
            }),
        )
}

fn networks() -> Router<Desk> {
    Router::new()
        .route(
            path::NETWORKS,
            get(async |State(desk): At| desk.answer(desk.backend.networks()).await).post(
                async |State(desk): At, Json(request)| {
                    desk.answer(desk.backend.create_network(request)).await
                },
            ),
        )
        .route(
            path::NETWORK,
            get(async |State(desk): At, Names(network)| {
                desk.answer(desk.backend.network(network)).await
            })
            .delete(async |State(desk): At, Names(network)| {
                desk.done(desk.backend.remove_network(network)).await
            }),
        )
        .route(
            path::NETWORKS_PRUNE,
            post(async |State(desk): At, Json(request)| {
                desk.answer(desk.backend.prune_networks(request)).await
            }),
        )
}

fn endpoints() -> Router<Desk> {
    Router::new()
        .route(
            path::ENDPOINTS,
            get(
                async |State(desk): At, Parameters(query): Parameters<EndpointQuery>| {
                    desk.answer(desk.backend.endpoints(query)).await
                },
            )
            .post(async |State(desk): At, Json(request)| {
                desk.answer(desk.backend.attach(request)).await
            }),
        )
        .route(
            path::ENDPOINT,
            get(async |State(desk): At, Names((network, name))| {
                desk.answer(desk.backend.endpoint(network, name)).await
            })
            .delete(async |State(desk): At, Names((network, name))| {
                desk.done(desk.backend.detach(network, name)).await
            }),
        )
}

fn nodes() -> Router<Desk> {
    Router::new()
        .route(
            path::NODES,
            get(async |State(desk): At| desk.answer(desk.backend.nodes()).await),
        )
        .route(
            path::NODE,
            get(async |State(desk): At, Names(node)| desk.answer(desk.backend.node(node)).await)
                .patch(async |State(desk): At, Names(node), Json(update)| {
                    desk.answer(desk.backend.update_node(node, update)).await
                })
                .merge(delete(
                    async |State(desk): At,
                           Names(node),
                           Parameters(query): Parameters<RemoveQuery>| {
                        desk.answer(desk.backend.remove_node(node, query.force))
                            .await
                    },
                )),
        )
}

fn keys() -> Router<Desk> {
    Router::new()
        .route(
            path::KEYS,
            get(async |State(desk): At| desk.answer(desk.backend.keys()).await),
        )
        .route(
            path::KEYS_ROTATE,
            post(async |State(desk): At, Json(Empty {})| {
                desk.answer(desk.backend.rotate_keys()).await
            }),
        )
        .route(
            path::KEYS_POLICY,
            put(async |State(desk): At, Json(request)| {
                desk.answer(desk.backend.set_key_policy(request)).await
            }),
        )
}

/// One event a line, until there are no more, the caller goes, or the server stops.
async fn events(
    State(desk): At,
    Extension(connection): Extension<Arc<Connection>>,
    Parameters(query): Parameters<EventQuery>,
) -> Response {
    let Ok(place) = desk.events.clone().try_acquire_owned() else {
        return ApiError::new(
            Code::Busy,
            format!("{} readers of events are there already", desk.limits.events),
            "end one of them",
        )
        .into_response();
    };
    let events = match desk.wait(desk.backend.events(query)).await {
        Ok(events) => events,
        Err(error) => return error.into_response(),
    };
    connection.stays();
    let lines = events
        .take_until(stopped(connection.stop.clone()))
        .map(move |event| {
            let _place = &place;
            let mut line = serde_json::to_vec(&event)?;
            line.push(b'\n');
            Ok::<_, serde_json::Error>(Bytes::from(line))
        });
    let kind = HeaderValue::from_static("application/x-ndjson");
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response()
}
