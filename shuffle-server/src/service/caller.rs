//! Who calls: the part of a message that opens every conversation.

use std::{net::SocketAddr, time::Duration};

use shuffle_proto::{
    PROTOCOL, credential,
    ids::AppId,
    kind::Kind,
    v1,
    wire::{self, Invalid, MAX_TOKEN},
};
use shuffle_remote::keys;

use crate::{
    auth::{By, drivers::Unproven},
    core::{Core, PROTOCOL_MIN},
    error::Refusal,
    registry::{Caller, Policy, TokenHash},
};

/// The client's address, for the log; an extension of every request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Checks what can be checked without the table of apps, and that the token may be this app's.
pub(super) fn check(core: &Core, message: Option<&v1::Caller>) -> Result<Caller, Refusal> {
    let (mut caller, token) = read(message)?;
    let opened = core.auth.drivers.whose(&caller.app, token);
    let opened = opened.map_err(|why| Refusal::new(Kind::Denied, why))?;
    caller.token = TokenHash(opened.hash);
    let Some(expires) = opened.expires else {
        return Ok(caller);
    };
    // A driver that goes on proving itself vouches for what its tasks have, however old that is.
    let now = credential::now();
    let until = expires.max(core.registry.vouched(&caller.app, caller.token));
    if until.saturating_add(credential::SKEW.as_secs()) < now {
        let app = &caller.app;
        let message = format!(
            "caller.token of app {app} expired {} s ago, and its driver has not renewed it here since: see that the driver reaches this \
             server, and that clocks are right",
            now - until
        );
        return Err(Refusal::new(Kind::Denied, message));
    }
    Ok(caller)
}

/// Checks a driver that registers an app or renews its lease; what it and its tasks call with from
/// now on, if that is another token, and until when it is good.
pub(super) async fn prove(
    core: &Core,
    request: &v1::RenewLeaseRequest,
) -> Result<(Caller, Option<(String, u64)>), Refusal> {
    let (mut caller, token) = read(request.caller.as_ref())?;
    let proven = core
        .auth
        .drivers
        .prove(&caller.app, token, &request.credential)
        .await
        .map_err(|no| match no {
            Unproven::Denied(why) => Refusal::new(Kind::Denied, why),
            Unproven::Unavailable(why) => Refusal::new(Kind::Unavailable, why),
        })?;
    caller.token = TokenHash(proven.hash);
    caller.by = By {
        who: proven.who.into(),
        tenant: proven.tenant.into(),
    };
    Ok((caller, proven.token))
}

/// The caller, but for whose its token is.
fn read(message: Option<&v1::Caller>) -> Result<(Caller, &str), Refusal> {
    let caller =
        message.ok_or_else(|| Invalid::new("caller", "absent", "send protocol, app and token"))?;
    version("caller.protocol", caller.protocol)?;
    let app = wire::app("caller.app", &caller.app)?;
    if is_no_app(&app) {
        let remedy = "send another: the object store has a file of this name";
        return Err(Invalid::new("caller.app", app, remedy).into());
    }
    if caller.token.is_empty() {
        let remedy = "send the token with which the app was, or is to be, registered";
        return Err(Refusal::new(
            Kind::Denied,
            format!("caller.token is empty: {remedy}"),
        ));
    }
    if caller.token.len() > MAX_TOKEN {
        let value = format!("{} bytes", caller.token.len());
        return Err(
            Invalid::new("caller.token", value, format!("send at most {MAX_TOKEN}")).into(),
        );
    }
    let lease = (caller.lease_ms != 0).then(|| Duration::from_millis(caller.lease_ms));
    let read = Caller {
        app,
        token: TokenHash::of(&caller.token),
        lease,
        write_back: policy(caller.write_back)?,
        peer: None,
        by: By::default(),
        task: false,
    };
    Ok((read, &caller.token))
}

/// Whether the app's directory in the store would be where the store's marker is.
fn is_no_app(app: &AppId) -> bool {
    keys::app(app) == keys::marker()
}

fn policy(value: i32) -> Result<Option<Policy>, Invalid> {
    match v1::WriteBack::try_from(value) {
        Ok(v1::WriteBack::Unspecified) => Ok(None),
        Ok(v1::WriteBack::Lazy) => Ok(Some(Policy::Lazy)),
        Ok(v1::WriteBack::Eager) => Ok(Some(Policy::Eager)),
        Ok(v1::WriteBack::Off) => Ok(Some(Policy::Off)),
        Err(_) => Err(Invalid::new(
            "caller.write_back",
            value,
            "send WRITE_BACK_LAZY, EAGER or OFF, or leave it out",
        )),
    }
}

/// The version in which to answer a caller whose highest is `theirs`. A newer caller speaks ours
/// too, or says that it does not.
pub(super) fn version(field: &'static str, theirs: u32) -> Result<u32, Refusal> {
    if theirs < PROTOCOL_MIN {
        let remedy = format!(
            "this server speaks {PROTOCOL_MIN} to {PROTOCOL}; send the highest version that you speak, or update"
        );
        return Err(Invalid::new(field, theirs, remedy).into());
    }
    Ok(theirs.min(PROTOCOL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_app_has_the_name_of_the_stores_marker() {
        let caller = |app: &str| v1::Caller {
            protocol: PROTOCOL,
            app: app.into(),
            token: "token".into(),
            ..v1::Caller::default()
        };
        let key = keys::marker();
        let marker = key.rsplit('/').next().expect("a name");
        let refused = read(Some(&caller(marker)))
            .err()
            .expect("it is a file there");
        assert!(
            refused.message.contains("caller.app is .forebay-marker"),
            "{refused:?}"
        );
        assert!(read(Some(&caller(&format!("{marker}2")))).is_ok());
    }
}
