//! The paths of the API, as the server takes them and the client makes them.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub const VERSION: &str = "/v1/version";
pub const STATUS: &str = "/v1/status";
pub const PEERS: &str = "/v1/peers";
pub const EVENTS: &str = "/v1/events";

pub const INIT: &str = "/v1/cluster/init";
pub const JOIN: &str = "/v1/cluster/join";
pub const LEAVE: &str = "/v1/cluster/leave";
pub const UNLOCK: &str = "/v1/cluster/unlock";
pub const UNLOCK_KEY: &str = "/v1/cluster/unlock-key";
pub const UNLOCK_KEY_ROTATE: &str = "/v1/cluster/unlock-key/rotate";
pub const AUTOLOCK: &str = "/v1/cluster/autolock";
pub const TOKEN: &str = "/v1/cluster/tokens/{role}";
pub const TOKEN_ROTATE: &str = "/v1/cluster/tokens/{role}/rotate";
pub const CA_ROTATE: &str = "/v1/cluster/ca/rotate";
pub const BACKUP: &str = "/v1/cluster/backup";
pub const RESTORE: &str = "/v1/cluster/restore";

pub const NETWORKS: &str = "/v1/networks";
pub const NETWORKS_PRUNE: &str = "/v1/prune/networks";
pub const NETWORK: &str = "/v1/networks/{network}";

pub const ENDPOINTS: &str = "/v1/endpoints";
pub const ENDPOINT: &str = "/v1/endpoints/{network}/{name}";

pub const NODES: &str = "/v1/nodes";
pub const NODE: &str = "/v1/nodes/{node}";

pub const KEYS: &str = "/v1/keys";
pub const KEYS_ROTATE: &str = "/v1/keys/rotate";
pub const KEYS_POLICY: &str = "/v1/keys/policy";

/// Unreserved characters (RFC 3986 section 2.3) stay, except the dot: `.` and `..` are no names.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// A path with its parts in braces replaced, in their order.
pub fn fill(path: &str, parts: &[&str]) -> String {
    let mut text = String::with_capacity(path.len() + 32);
    let mut parts = parts.iter();
    for segment in path.split('/').skip(1) {
        text.push('/');
        match parts.as_slice().first() {
            Some(part) if segment.starts_with('{') => {
                parts.next();
                text.extend(utf8_percent_encode(part, SEGMENT));
            }
            _ => text.push_str(segment),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        assert_eq!(
            fill(ENDPOINT, &["my-net", "../x?y=1"]),
            "/v1/endpoints/my-net/%2E%2E%2Fx%3Fy%3D1"
        );
        assert_eq!(fill(NODE, &["self"]), "/v1/nodes/self");
        assert_eq!(fill(KEYS, &[]), KEYS);
        assert_eq!(
            fill(TOKEN_ROTATE, &["worker"]),
            "/v1/cluster/tokens/worker/rotate"
        );
    }
}
