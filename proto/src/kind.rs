//! The kinds of failure that cross the network, each saying what the caller should do.

use std::{fmt, time::Duration};

use tonic::{Code, Status, metadata::MetadataValue};

/// Trailer that holds [`Kind::name`].
pub const KIND_TRAILER: &str = "forebay-kind";
/// Trailer that says, with [`Kind::Busy`], how long to wait.
pub const RETRY_AFTER_TRAILER: &str = "forebay-retry-after-ms";

/// What a caller should do about a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Nothing: the call itself is wrong, a bug.
    Invalid,
    /// Stop: this is no longer the caller's (attempt closed, lease over, shuffle deleted).
    Fenced,
    /// Back off, then the same server.
    Busy,
    /// Retry, on another server if there is one.
    Unavailable,
    /// Give up on this data: it is not here. Never an empty answer
    /// (invariant: unknown-is-never-empty).
    Lost,
    /// The bytes fail their checksum: ask once for another copy, then as `Lost`.
    Corrupt,
    /// Report it.
    Internal,
    /// The token does not open this app.
    Denied,
}

impl Kind {
    /// All kinds, for tables and tests.
    pub const ALL: [Kind; 8] = [
        Kind::Invalid,
        Kind::Fenced,
        Kind::Busy,
        Kind::Unavailable,
        Kind::Lost,
        Kind::Corrupt,
        Kind::Internal,
        Kind::Denied,
    ];

    /// The kind's name in the trailer.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Invalid => "invalid",
            Kind::Fenced => "fenced",
            Kind::Busy => "busy",
            Kind::Unavailable => "unavailable",
            Kind::Lost => "lost",
            Kind::Corrupt => "corrupt",
            Kind::Internal => "internal",
            Kind::Denied => "denied",
        }
    }

    /// The gRPC status that carries this kind.
    pub fn code(self) -> Code {
        match self {
            Kind::Invalid => Code::InvalidArgument,
            Kind::Fenced => Code::FailedPrecondition,
            Kind::Busy => Code::ResourceExhausted,
            Kind::Unavailable => Code::Unavailable,
            Kind::Lost => Code::NotFound,
            Kind::Corrupt => Code::DataLoss,
            Kind::Internal => Code::Internal,
            Kind::Denied => Code::PermissionDenied,
        }
    }

    /// Whether the same call may succeed later or elsewhere.
    pub fn retryable(self) -> bool {
        match self {
            Kind::Busy | Kind::Unavailable => true,
            Kind::Invalid
            | Kind::Fenced
            | Kind::Lost
            | Kind::Corrupt
            | Kind::Internal
            | Kind::Denied => false,
        }
    }

    /// The kind of a status: from the trailer, or else, from a proxy or a broken connection, from
    /// its code.
    pub fn of(status: &Status) -> Kind {
        let named = status
            .metadata()
            .get(KIND_TRAILER)
            .and_then(|value| value.to_str().ok());
        if let Some(kind) = Kind::ALL
            .into_iter()
            .find(|kind| Some(kind.name()) == named)
        {
            return kind;
        }
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Kind::Invalid,
            Code::FailedPrecondition | Code::AlreadyExists => Kind::Fenced,
            Code::ResourceExhausted => Kind::Busy,
            Code::NotFound => Kind::Lost,
            Code::DataLoss => Kind::Corrupt,
            Code::PermissionDenied | Code::Unauthenticated => Kind::Denied,
            Code::Internal => Kind::Internal,
            Code::Ok
            | Code::Unavailable
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Aborted => Kind::Unavailable,
        }
    }

    /// A status of this kind. `message` is for a person; nobody branches on it.
    pub fn status(self, message: impl fmt::Display, retry_after: Option<Duration>) -> Status {
        let mut status = Status::new(self.code(), message.to_string());
        status
            .metadata_mut()
            .insert(KIND_TRAILER, MetadataValue::from_static(self.name()));
        if let Some(delay) = retry_after {
            let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            status
                .metadata_mut()
                .insert(RETRY_AFTER_TRAILER, MetadataValue::from(millis));
        }
        status
    }

    /// How long a busy server asked to wait.
    pub fn retry_after(status: &Status) -> Option<Duration> {
        let millis = status
            .metadata()
            .get(RETRY_AFTER_TRAILER)?
            .to_str()
            .ok()?
            .parse()
            .ok()?;
        Some(Duration::from_millis(millis))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of kinds: other languages and the JVM side rely on it.
    #[test]
    fn every_kind_keeps_its_name_and_code() {
        let table = [
            (Kind::Invalid, "invalid", Code::InvalidArgument, false),
            (Kind::Fenced, "fenced", Code::FailedPrecondition, false),
            (Kind::Busy, "busy", Code::ResourceExhausted, true),
            (Kind::Unavailable, "unavailable", Code::Unavailable, true),
            (Kind::Lost, "lost", Code::NotFound, false),
            (Kind::Corrupt, "corrupt", Code::DataLoss, false),
            (Kind::Internal, "internal", Code::Internal, false),
            (Kind::Denied, "denied", Code::PermissionDenied, false),
        ];
        assert_eq!(table.map(|row| row.0), Kind::ALL);
        for (kind, name, code, retryable) in table {
            assert_eq!(
                (kind.name(), kind.code(), kind.retryable()),
                (name, code, retryable)
            );
            assert!(
                crate::v1::Kind::from_str_name(&format!("KIND_{}", name.to_uppercase())).is_some()
            );
        }
    }

    #[test]
    fn a_kind_survives_a_status_with_and_without_its_trailer() {
        for kind in Kind::ALL {
            let status = kind.status("why", Some(Duration::from_millis(1500)));
            assert_eq!(Kind::of(&status), kind);
            assert_eq!(status.message(), "why");
            assert_eq!(
                Kind::retry_after(&status),
                Some(Duration::from_millis(1500))
            );
            assert_eq!(Kind::of(&Status::new(kind.code(), "from a proxy")), kind);
        }
    }

    #[test]
    fn a_trailer_says_more_than_a_code() {
        let mut status = Status::new(Code::Unknown, "");
        status
            .metadata_mut()
            .insert(KIND_TRAILER, MetadataValue::from_static("lost"));
        assert_eq!(Kind::of(&status), Kind::Lost);
        status.metadata_mut().insert(
            KIND_TRAILER,
            MetadataValue::from_static("of a later version"),
        );
        assert_eq!(Kind::of(&status), Kind::Unavailable);
    }

    #[test]
    fn no_delay_is_read_where_none_was_sent() {
        assert_eq!(Kind::retry_after(&Kind::Busy.status("", None)), None);
    }
}
