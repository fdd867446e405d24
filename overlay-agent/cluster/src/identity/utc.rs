//! Times of certificates and tokens as people read them.

use x509_parser::time::ASN1Time;

use crate::time::Timestamp;

/// Last second that a certificate can name: 9999-12-31 23:59:59 (RFC 5280 section 4.1.2.5).
pub(super) const LAST_SECOND: u64 = 253_402_300_799;

/// Date and time in UTC, to the second, as RFC 2822 writes them.
pub(super) fn utc(time: Timestamp) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| ASN1Time::from_timestamp(seconds).ok())
        .and_then(|time| time.to_rfc2822().ok())
        .unwrap_or_else(|| "a time after the year 9999".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_dates_as_far_as_there_are_dates() {
        let text = utc(Timestamp::from_secs(1_780_000_000));
        assert_eq!(text, "Thu, 28 May 2026 20:26:40 +0000");
        assert!(utc(Timestamp::from_secs(LAST_SECOND)).contains("31 Dec 9999"));
        assert!(utc(Timestamp::from_millis(u64::MAX)).contains("after"));
    }
}
