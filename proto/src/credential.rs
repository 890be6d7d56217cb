//! Credentials: how a driver proves that it belongs to a pool, and what a server gives it for that.
//!
//! Both are JWTs by HS256 (RFC 7519), each with a key of its own, derived from the pool's secret by
//! HKDF-SHA256: neither is good for the other, and the secret crosses no wire.
//!
//! | | driver's credential | app token |
//! |---|---|---|
//! | made by | the driver, from the pool's secret | a server, for a driver that has proven itself |
//! | shown | at registration and renewal of the lease, to the servers | in every call of the app |
//! | lives for | [`CREDENTIAL`] | [`TOKEN`] |
//! | `use` | `forebay-driver` | `forebay-app` |
//! | `sub` | the app | the app |
//! | `own` | SHA-256 of the driver's own token, in hexadecimal digits | the same |
//! | `ten` | – | the tenant; empty if the proof names none |
//! | `iat`, `exp` | seconds since 1970 | the same |
//! | header `kid` | [`Keys::id`] | the same |
//!
//! `own` is what tells two drivers of one pool apart: a credential or token that was made for one
//! driver is worth nothing in the hands of another.
//!
//! Clocks may differ by [`SKEW`]. Only HS256 is understood, whatever a header says.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{digest, hkdf, hmac};
use serde::{Deserialize, Serialize};

use crate::ids::AppId;

/// How long a driver's credential is good: it is made for the call.
pub const CREDENTIAL: Duration = Duration::from_secs(300);
/// How long an app token is good by itself. A driver that is there gets a new one with each renewal.
pub const TOKEN: Duration = Duration::from_secs(24 * 3600);
/// How far clocks may differ.
pub const SKEW: Duration = Duration::from_secs(60);
/// Bytes of a credential that is looked at: tokens of a cluster are some 1 to 2 KiB.
pub const MAX_CREDENTIAL: usize = 16 << 10;

const DRIVER: &str = "forebay-driver";
const APP: &str = "forebay-app";
const SALT: &[u8] = b"forebay pool secret 1";

/// SHA-256 of a driver's own token.
pub type Own = [u8; 32];

/// Keys of one pool secret.
pub struct Keys {
    driver: hmac::Key,
    app: hmac::Key,
    id: String,
}

/// Why a credential or token is worth nothing. Does not hold it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// It is no JWT of ours.
    #[error("it is none of a pool's")]
    Malformed,
    /// No secret of the pool has this key id.
    #[error("it was signed with a pool secret that is not among those here (key id {0})")]
    Unknown(String),
    /// The signature is another's.
    #[error("its signature is wrong")]
    Forged,
    /// It is another app's.
    #[error("it was made for app {0}")]
    Another(String),
    /// It belongs to another driver.
    #[error("it was made for another driver of this app")]
    NotYours,
    /// It is too old.
    #[error("it expired {0} s ago")]
    Expired(u64),
}

/// What an app token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppClaims {
    /// Empty if none was proven.
    pub tenant: String,
    /// Whose it is.
    pub own: Own,
    /// Seconds since 1970.
    pub expires: u64,
}

#[derive(Deserialize, Serialize)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

#[derive(Deserialize, Serialize)]
struct Claims {
    r#use: String,
    sub: String,
    #[serde(default)]
    ten: String,
    own: String,
    iat: u64,
    exp: u64,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// SHA-256 of a driver's own token.
pub fn own(token: &str) -> Own {
    let mut own = [0; 32];
    own.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    own
}

impl Keys {
    /// Keys of this secret.
    pub fn of(secret: &str) -> Self {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(secret.as_bytes());
        let derive = |purpose: &'static str| {
            let mut key = [0; 32];
            let info = [purpose.as_bytes()];
            secret
                .expand(&info, hkdf::HKDF_SHA256)
                .and_then(|okm| okm.fill(&mut key))
                .expect("32 bytes are what the algorithm makes");
            key
        };
        let id = derive("id");
        Self {
            driver: hmac::Key::new(hmac::HMAC_SHA256, &derive(DRIVER)),
            app: hmac::Key::new(hmac::HMAC_SHA256, &derive(APP)),
            id: hex(&id[..6]),
        }
    }

    /// Names the secret without telling it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A driver's credential, good from now on.
    pub fn credential(&self, app: &AppId, own: &Own, now: u64) -> String {
        self.sign(&self.driver, DRIVER, app, "", own, now, CREDENTIAL)
    }

    /// An app token, good from now on.
    pub fn token(&self, app: &AppId, tenant: &str, own: &Own, now: u64) -> String {
        self.sign(&self.app, APP, app, tenant, own, now, TOKEN)
    }

    #[allow(clippy::too_many_arguments)]
    fn sign(
        &self,
        key: &hmac::Key,
        usage: &str,
        app: &AppId,
        tenant: &str,
        own: &Own,
        now: u64,
        lives: Duration,
    ) -> String {
        let header = Header {
            alg: "HS256".into(),
            typ: "JWT".into(),
            kid: self.id.clone(),
        };
        let claims = Claims {
            r#use: usage.into(),
            sub: app.as_str().into(),
            ten: tenant.into(),
            own: hex(own),
            iat: now,
            exp: now + lives.as_secs(),
        };
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let tag = hmac::sign(key, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }
}

/// Checks a driver's credential by the secrets of a pool.
pub fn check_credential(
    keys: &[Keys],
    credential: &str,
    app: &AppId,
    own: &Own,
    now: u64,
) -> Result<(), Bad> {
    let claims = open(keys, credential, DRIVER, app)?;
    if claims.own != *own {
        return Err(Bad::NotYours);
    }
    if claims.expires + SKEW.as_secs() < now {
        return Err(Bad::Expired(now - claims.expires));
    }
    Ok(())
}

/// Checks an app token by the secrets of a pool, but for its age.
pub fn check_token(keys: &[Keys], token: &str, app: &AppId) -> Result<AppClaims, Bad> {
    open(keys, token, APP, app)
}

/// Whether this looks like what is made here, whoever has made it.
pub fn is_signed(token: &str) -> bool {
    token.starts_with("eyJ") && token.bytes().filter(|byte| *byte == b'.').count() == 2
}

fn open(keys: &[Keys], token: &str, usage: &str, app: &AppId) -> Result<AppClaims, Bad> {
    if token.len() > MAX_CREDENTIAL {
        return Err(Bad::Malformed);
    }
    let (signed, tag) = token.rsplit_once('.').ok_or(Bad::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(Bad::Malformed)?;
    let header: Header = decode(header)?;
    if header.alg != "HS256" {
        return Err(Bad::Malformed);
    }
    let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| Bad::Malformed)?;
    let known = keys.iter().find(|keys| keys.id == header.kid);
    let Some(known) = known else {
        // It is shown, and may be anything.
        let id: String = header.kid.chars().take(16).collect();
        return Err(Bad::Unknown(id.escape_debug().to_string()));
    };
    let key = if usage == DRIVER {
        &known.driver
    } else {
        &known.app
    };
    // Constant time.
    hmac::verify(key, signed.as_bytes(), &tag).map_err(|_| Bad::Forged)?;
    let claims: Claims = decode(claims)?;
    if claims.r#use != usage {
        return Err(Bad::Forged);
    }
    if claims.sub != app.as_str() {
        return Err(Bad::Another(claims.sub));
    }
    Ok(AppClaims {
        own: unhex(&claims.own).ok_or(Bad::Malformed)?,
        tenant: claims.ten,
        expires: claims.exp,
    })
}

fn encode(part: &impl Serialize) -> String {
    let json = serde_json::to_vec(part).expect("words and numbers can be written");
    URL_SAFE_NO_PAD.encode(json)
}

fn decode<T: for<'a> Deserialize<'a>>(part: &str) -> Result<T, Bad> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| Bad::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| Bad::Malformed)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Own> {
    let mut own = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in own.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn app(id: &str) -> AppId {
        AppId::try_new(id).expect("an id")
    }

    #[test]
    fn a_credential_is_good_for_one_driver_of_one_app_for_a_while() {
        let (keys, a) = (Keys::of("0123456789abcdef"), app("app-a"));
        let mine = own("mine");
        let credential = keys.credential(&a, &mine, NOW);
        let pool = [
            Keys::of("another-secret-of-it"),
            Keys::of("0123456789abcdef"),
        ];
        let check = |credential: &str, app: &AppId, own: &Own, now| {
            check_credential(&pool, credential, app, own, now)
        };
        assert_eq!(check(&credential, &a, &mine, NOW), Ok(()));
        assert_eq!(check(&credential, &a, &mine, NOW + 300), Ok(()));
        assert_eq!(
            check(&credential, &a, &mine, NOW + 361),
            Err(Bad::Expired(61))
        );
        assert_eq!(
            check(&credential, &app("b"), &mine, NOW),
            Err(Bad::Another("app-a".into()))
        );
        assert_eq!(check(&credential, &a, &own("b"), NOW), Err(Bad::NotYours));
        let stranger = Keys::of("a-secret-of-nobodys");
        let forged = stranger.credential(&a, &mine, NOW);
        let id = stranger.id().to_owned();
        assert_eq!(
            check(&forged, &a, &mine, NOW),
            Err(Bad::Unknown(id.clone()))
        );
        // By another key under the name of a known one.
        let stolen = Keys {
            id: keys.id.clone(),
            ..stranger
        };
        let forged = stolen.credential(&a, &mine, NOW);
        assert_eq!(check(&forged, &a, &mine, NOW), Err(Bad::Forged));
        assert!(!credential.contains("0123456789abcdef"));
    }

    #[test]
    fn an_app_token_is_no_credential_and_a_credential_no_token() {
        let (keys, a, mine) = (Keys::of("0123456789abcdef"), app("app-a"), own("mine"));
        let token = keys.token(&a, "team", &mine, NOW);
        let credential = keys.credential(&a, &mine, NOW);
        let keys = [keys];
        let claims = check_token(&keys, &token, &a).expect("a token");
        let expected = AppClaims {
            tenant: "team".into(),
            own: mine,
            expires: NOW + 86_400,
        };
        assert_eq!(claims, expected);
        assert_eq!(check_token(&keys, &credential, &a), Err(Bad::Forged));
        assert_eq!(
            check_credential(&keys, &token, &a, &mine, NOW),
            Err(Bad::Forged)
        );
    }

    #[test]
    fn whatever_is_changed_in_a_token_it_opens_nothing() {
        let (keys, a) = (Keys::of("0123456789abcdef"), app("app-a"));
        let token = keys.token(&a, "", &own("mine"), NOW);
        assert!(is_signed(&token));
        let keys = [keys];
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("text");
            let opened = check_token(&keys, &changed, &a);
            // The last digit has bits that are no part of the tag; a decoder that took them would
            // open for the same tag.
            assert!(opened.is_err(), "{at}: {changed}");
        }
        // A header may not choose how it is checked.
        let (_, rest) = token.split_once('.').expect("three parts");
        let header = Header {
            alg: "none".into(),
            typ: "JWT".into(),
            kid: keys[0].id.clone(),
        };
        let unsigned = format!("{}.{rest}", encode(&header));
        assert_eq!(check_token(&keys, &unsigned, &a), Err(Bad::Malformed));
        for text in [
            "",
            ".",
            "..",
            "a.b.c",
            "eyJ.eyJ.eyJ",
            "\u{e4}.\u{e4}.\u{e4}",
        ] {
            assert_eq!(
                check_token(&keys, text, &a),
                Err(Bad::Malformed),
                "{text:?}"
            );
        }
    }
}
