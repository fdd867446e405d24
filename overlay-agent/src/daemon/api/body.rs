//! From the bytes of a request to what it asks for.

use std::time::Duration;

use axum::{
    body::{Body, HttpBody as _},
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt as _;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Limits;
use crate::api::{ApiError, Code};

/// The body of a request. No bytes at all are an empty object.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(bytes).map_err(|error| {
        // Where and what, as far as serde names it: `invalid type: string "…"` would quote a secret that
        // stands in the wrong place.
        let message = match error.classify() {
            serde_json::error::Category::Data => format!(
                "the request does not fit: {}",
                without_quotes(&error.to_string())
            ),
            _ => format!(
                "the request is no JSON (line {}, column {})",
                error.line(),
                error.column()
            ),
        };
        ApiError::new(
            Code::BadRequest,
            message,
            "use an `overlay` command of the agent's own release",
        )
    })
}

/// The text without what stands in double quotes.
fn without_quotes(text: &str) -> String {
    let Some((before, rest)) = text.split_once('"') else {
        return text.to_owned();
    };
    match rest.rsplit_once('"') {
        Some((_, after)) => format!("{before}…{after}"),
        None => format!("{before}…"),
    }
}

/// A JSON body of ordinary length.
pub struct Json<T>(pub T);

/// A JSON body that holds a backup.
pub struct LongJson<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let limits = limits(&request);
        let bytes = collect(request.into_body(), limits.body_bytes, limits.body).await?;
        parse(&bytes).map(Self)
    }
}

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for LongJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let limits = limits(&request);
        let bytes = collect(request.into_body(), limits.backup_bytes, limits.body).await?;
        parse(&bytes).map(Self)
    }
}

fn limits(request: &Request) -> Limits {
    request.extensions().get().copied().unwrap_or_default()
}

/// Bodies may hold tokens and keys: what they are collected in is zeroized.
async fn collect(
    mut body: Body,
    most: usize,
    time: Duration,
) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let too_large = || {
        ApiError::new(
            Code::TooLarge,
            format!("the request has more than {most} bytes"),
            "",
        )
    };
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let collecting = async {
        let mut bytes = Zeroizing::new(Vec::with_capacity(
            usize::try_from(body.size_hint().lower()).unwrap_or(0),
        ));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                ApiError::new(
                    Code::BadRequest,
                    format!("the request broke off: {error}"),
                    "",
                )
            })?;
            if let Ok(data) = frame.into_data() {
                if bytes.len() + data.len() > most {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&data);
            }
        }
        Ok(bytes)
    };
    timeout(time, collecting).await.unwrap_or_else(|_| {
        Err(ApiError::new(
            Code::RequestTimeout,
            format!("the request did not come within {time:?}"),
            "",
        ))
    })
}

/// The parts of a path that are named in braces.
pub struct Names<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Names<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(names)) => Ok(Self(names)),
            Err(error) => Err(ApiError::new(Code::BadRequest, error.body_text(), "")),
        }
    }
}

/// The query of a request.
pub struct Parameters<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(error) => Err(ApiError::new(Code::BadRequest, error.body_text(), "")),
        }
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer as JSON.
pub fn answer<T: Serialize>(value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => ([(header::CONTENT_TYPE, JSON)], bytes).into_response(),
        Err(error) => ApiError::new(
            Code::Internal,
            format!("the answer cannot be written: {error}"),
            "",
        )
        .into_response(),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let bytes = serde_json::to_vec(&self).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, JSON)], bytes).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Empty, cluster::UnlockRequest};

    #[test]
    fn an_error_quotes_nothing_of_the_body() {
        for body in [
            r#"{"key":"OVLKEY-secret","extra":"OVLKEY-secret"}"#,
            r#"{"key":["OVLKEY-secret"]}"#,
            r#""OVLKEY-secret""#,
            r#"{"key":"OVLKEY-secret"#,
            r#"[["OVLKEY-secret"]]"#,
        ] {
            let error = parse::<UnlockRequest>(body.as_bytes()).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{body}: {error}");
            assert_eq!(error.code, Code::BadRequest);
        }
    }

    #[test]
    fn unknown_fields_are_named_and_nothing_is_an_empty_object() {
        assert_eq!(parse::<Empty>(b""), Ok(Empty {}));
        let error = parse::<Empty>(br#"{"wait":true}"#).unwrap_err();
        assert!(error.message.contains("wait"), "{error}");
    }
}
